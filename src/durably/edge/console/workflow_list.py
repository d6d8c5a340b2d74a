"""Workflows: the list with its List Filter, counts by status, and batch operations on what is found."""

import asyncio
import base64
import binascii
import re
import uuid
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.api.batch.v1 import message_pb2 as batch
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import reset_pb2 as reset_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.edge.console import payloads
from durably.edge.console.rows import STATUSES, workflow_row
from durably.edge.console.site import IDENTITY, Site, arguments, at, fields_of
from durably.edge.console.values import encoded
from durably.errors import InvalidArgument

PAGE_SIZE = 50
COLUMNS = (
    ("status", "Status"),
    ("workflow_id", "Workflow id"),
    ("run_id", "Run"),
    ("type", "Type"),
    ("start", "Started"),
    ("close", "Closed"),
    ("duration", "Duration"),
    ("task_queue", "Task queue"),
    ("history_length", "Events"),
    ("history_bytes", "History size"),
)
COLUMNS_DEFAULT = ("status", "workflow_id", "type", "start", "duration", "task_queue")
STATUS_CONDITION = re.compile(r"\s*(?:AND\s+)?ExecutionStatus\s*=\s*['\"](\w+)['\"]", re.IGNORECASE)
BATCHES = ("cancel", "terminate", "signal", "reset")


class WorkflowList:
    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> list[Route]:
        page = self._site.page(
            "workflow_list.html", "workflows", self._load, ("counts", "workflow_rows")
        )
        return [
            Route("/ui/{namespace:segment}/workflows", page),
            Route("/ui/{namespace:segment}/batches", self._start_batch, methods=["POST"]),
        ]

    async def _load(self, request: Request) -> dict[str, Any]:
        namespace = request.path_params["namespace"]
        asked = request.query_params
        query = asked.get("query", "").strip()
        columns = [c for c in asked.get("columns", "").split(",") if c] or list(COLUMNS_DEFAULT)
        values = {
            "namespace": namespace,
            "query": query,
            "columns": columns,
            "all_columns": COLUMNS,
            "page": asked.get("page", ""),
            "statuses": STATUSES,
            "chosen_status": _chosen_status(query),
            "query_of_status": lambda status: with_status(query, status),
            "problem": "",
            "rows": [],
            "next_page": "",
            "counts": {},
            "total": 0,
            "attribute_names": [],
        }
        listed, counted = await asyncio.gather(
            self._ask_list(namespace, query, asked.get("page", "")),
            self._ask_counts(namespace, query),
        )
        return values | listed | counted

    async def _ask_list(self, namespace: str, query: str, page: str) -> dict[str, Any]:
        """A page of the list; what is wrong with the query is shown beside it."""
        request = ws.ListWorkflowExecutionsRequest(
            namespace=namespace, query=query, page_size=PAGE_SIZE, next_page_token=token_of(page)
        )
        try:
            answer = await self._site.ask("ListWorkflowExecutions", request)
        except InvalidArgument as refusal:
            return {"problem": refusal.message}
        rows = [workflow_row(each) for each in answer.executions]
        names = sorted({name for row in rows for name in row["attributes"]})
        return {
            "rows": rows,
            "next_page": page_of(answer.next_page_token),
            "attribute_names": names,
        }

    async def _ask_counts(self, namespace: str, query: str) -> dict[str, Any]:
        """How many there are of each status, whatever status the query asks for."""
        asked = with_status(query, "")
        grouped = f"{asked} GROUP BY ExecutionStatus" if asked else "GROUP BY ExecutionStatus"
        request = ws.CountWorkflowExecutionsRequest(namespace=namespace, query=grouped)
        try:
            answer = await self._site.ask("CountWorkflowExecutions", request)
        except InvalidArgument:
            return {}  # The list says what is wrong.
        counts = {
            str(payloads.decoded(group.group_values[0])): group.count for group in answer.groups
        }
        return {"counts": counts, "total": answer.count}

    async def _start_batch(self, request: Request) -> Response:
        namespace = request.path_params["namespace"]
        fields = await fields_of(request)
        form = dict(fields)
        asked = ws.StartBatchOperationRequest(
            namespace=namespace,
            job_id=str(uuid.uuid4()),
            reason=form.get("reason") or "from the console",
        )
        _set_operation(asked, form)
        if form.get("which") == "query":
            asked.visibility_query = form.get("query", "") or "WorkflowId IS NOT NULL"
        else:
            for name, value in fields:
                if name == "execution":
                    workflow_id, _, run_id = value.rpartition("/")
                    asked.executions.add(workflow_id=workflow_id, run_id=run_id)
            if not asked.executions:
                raise InvalidArgument("no workflow is selected")
        await self._site.ask("StartBatchOperation", asked)
        return self._site.done(
            request, at(namespace, "batches", asked.job_id), "The batch has started."
        )


def _set_operation(asked: ws.StartBatchOperationRequest, form: dict[str, str]) -> None:
    match form.get("operation"):
        case "cancel":
            asked.cancellation_operation.identity = IDENTITY
        case "terminate":
            asked.termination_operation.identity = IDENTITY
        case "signal":
            inputs = encoded(arguments(form.get("arguments", "")))
            signal = batch.BatchOperationSignal(
                signal=form.get("signal", ""), input=inputs, identity=IDENTITY
            )
            asked.signal_operation.CopyFrom(signal)
        case "reset":
            asked.reset_operation.identity = IDENTITY
            options = common.ResetOptions(
                reset_reapply_type=reset_enums.RESET_REAPPLY_TYPE_ALL_ELIGIBLE
            )
            target = (
                options.first_workflow_task
                if form.get("target") == "first"
                else options.last_workflow_task
            )
            target.SetInParent()
            asked.reset_operation.options.CopyFrom(options)
        case other:
            raise InvalidArgument(f"there is no batch operation {other!r}: {', '.join(BATCHES)}")


def _chosen_status(query: str) -> str:
    found = STATUS_CONDITION.search(query)
    return found[1] if found else ""


def with_status(query: str, status: str) -> str:
    """The query with this status in place of the one that it asks for; no status: without any.

    Only a condition that the page's own links write is recognised; others are left alone.
    """
    rest = STATUS_CONDITION.sub("", query, count=1).strip()
    rest = re.sub(r"^AND\s+", "", rest, flags=re.IGNORECASE)
    if not status:
        return rest
    condition = f"ExecutionStatus = '{status}'"
    if not rest:
        return condition
    needs_parentheses = re.search(r"\bOR\b", rest, re.IGNORECASE) and not rest.startswith("(")
    return f"({rest}) AND {condition}" if needs_parentheses else f"{rest} AND {condition}"


# --- Pages of lists ---------------------------------------------------------------------------


def page_of(token: bytes) -> str:
    """A page token as part of an address."""
    return base64.urlsafe_b64encode(token).decode()


def token_of(page: str) -> bytes:
    try:
        return base64.b64decode(page.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgument("there is no such page") from error
