"""Batch operations: the list, one with its progress, and its stop. They are started from the list of workflows."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.api.enums.v1 import batch_operation_pb2 as batch_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.edge.console.rows import words
from durably.edge.console.site import IDENTITY, Site, at, form_of
from durably.edge.console.units import nanoseconds
from durably.edge.console.workflow_list import page_of, token_of

PAGE_SIZE = 50
STATE = "BATCH_OPERATION_STATE_"
TYPE = "BATCH_OPERATION_TYPE_"


class Batches:
    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> list[Route]:
        base = "/ui/{namespace:segment}/batches"
        listed = self._site.page("batches.html", "batches", self._load_list, ("batch_rows",))
        shown = self._site.page("batch.html", "batches", self._load, ("batch",))
        return [
            Route(base, listed, methods=["GET"]),
            Route(base + "/{job_id:segment}", shown),
            Route(base + "/{job_id:segment}/actions/stop", self._stop, methods=["POST"]),
        ]

    async def _load_list(self, request: Request) -> dict[str, Any]:
        namespace = request.path_params["namespace"]
        answer = await self._site.ask(
            "ListBatchOperations",
            ws.ListBatchOperationsRequest(
                namespace=namespace,
                page_size=PAGE_SIZE,
                next_page_token=token_of(request.query_params.get("page", "")),
            ),
        )
        rows = [
            {
                "job_id": each.job_id,
                "state": words(batch_enums.BatchOperationState, each.state, STATE),
                "type": words(batch_enums.BatchOperationType, each.operation_type, TYPE),
                "start_ns": nanoseconds(each.start_time),
                "close_ns": nanoseconds(each.close_time),
            }
            for each in answer.operation_info
        ]
        return {
            "namespace": namespace,
            "rows": rows,
            "next_page": page_of(answer.next_page_token),
        }

    async def _load(self, request: Request) -> dict[str, Any]:
        namespace, job_id = (request.path_params[n] for n in ("namespace", "job_id"))
        found = await self._site.ask(
            "DescribeBatchOperation",
            ws.DescribeBatchOperationRequest(namespace=namespace, job_id=job_id),
        )
        running = found.state == batch_enums.BATCH_OPERATION_STATE_RUNNING
        finished = found.complete_operation_count + found.failure_operation_count
        return {
            "namespace": namespace,
            "job_id": job_id,
            "batch": found,
            "state": words(batch_enums.BatchOperationState, found.state, STATE),
            "type": words(batch_enums.BatchOperationType, found.operation_type, TYPE),
            "running": running,
            "is_final": not running,
            "share": round(100 * finished / max(1, found.total_operation_count), 1),
            "start_ns": nanoseconds(found.start_time),
            "close_ns": nanoseconds(found.close_time),
        }

    async def _stop(self, request: Request) -> Response:
        namespace, job_id = (request.path_params[n] for n in ("namespace", "job_id"))
        form = await form_of(request)
        await self._site.ask(
            "StopBatchOperation",
            ws.StopBatchOperationRequest(
                namespace=namespace,
                job_id=job_id,
                reason=form.get("reason", "") or "stopped from the console",
                identity=IDENTITY,
            ),
        )
        return self._site.done(request, at(namespace, "batches", job_id), "The batch was stopped.")
