"""Nexus: the endpoints of this server, and standalone operations."""

from typing import Any

from starlette.requests import Request
from starlette.routing import Route
from temporalio.api.enums.v1 import nexus_pb2 as nexus_enums
from temporalio.api.operatorservice.v1 import request_response_pb2 as os
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.edge.console.rows import words
from durably.edge.console.site import Site
from durably.edge.console.units import nanoseconds
from durably.edge.console.workflow_list import page_of, token_of
from durably.errors import Unimplemented

PAGE_SIZE = 50
ENDPOINTS_MAX = 200


class Nexus:
    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> list[Route]:
        page = self._site.page("nexus.html", "nexus", self._load, ("nexus",))
        return [Route("/ui/{namespace:segment}/nexus", page)]

    async def _load(self, request: Request) -> dict[str, Any]:
        namespace = request.path_params["namespace"]
        page = request.query_params.get("page", "")
        return (
            {"namespace": namespace}
            | await self._endpoints()
            | await self._operations(namespace, page)
        )

    async def _endpoints(self) -> dict[str, Any]:
        try:
            answer = await self._site.ask(
                "ListNexusEndpoints", os.ListNexusEndpointsRequest(page_size=ENDPOINTS_MAX)
            )
        except Unimplemented as refusal:
            return {"endpoints": [], "endpoints_missing": refusal.message}
        endpoints = [
            {
                "name": each.spec.name,
                "url": each.spec.target.external.url,
                "namespace": each.spec.target.worker.namespace,
                "task_queue": each.spec.target.worker.task_queue,
                "version": each.version,
                "created_ns": nanoseconds(each.created_time),
            }
            for each in answer.endpoints
        ]
        return {"endpoints": endpoints, "endpoints_missing": ""}

    async def _operations(self, namespace: str, page: str) -> dict[str, Any]:
        try:
            answer = await self._site.ask(
                "ListNexusOperationExecutions",
                ws.ListNexusOperationExecutionsRequest(
                    namespace=namespace, page_size=PAGE_SIZE, next_page_token=token_of(page)
                ),
            )
        except Unimplemented as refusal:
            return {"operations": [], "operations_missing": refusal.message, "next_page": ""}
        operations = [
            {
                "id": each.operation_id,
                "run_id": each.run_id,
                "endpoint": each.endpoint,
                "operation": f"{each.service}.{each.operation}",
                "status": words(
                    nexus_enums.NexusOperationExecutionStatus,
                    each.status,
                    "NEXUS_OPERATION_EXECUTION_STATUS_",
                ),
                "start_ns": nanoseconds(each.schedule_time),
                "close_ns": nanoseconds(each.close_time),
            }
            for each in answer.operations
        ]
        return {
            "operations": operations,
            "operations_missing": "",
            "next_page": page_of(answer.next_page_token),
        }
