"""Worker deployments: which versions there are, and which gets new work."""

from typing import Any

from starlette.requests import Request
from starlette.routing import Route
from temporalio.api.deployment.v1 import message_pb2 as deployments
from temporalio.api.enums.v1 import deployment_pb2 as deployment_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.edge.console import events
from durably.edge.console.rows import words
from durably.edge.console.site import Site
from durably.edge.console.units import nanoseconds
from durably.edge.console.workflow_list import page_of, token_of
from durably.errors import Unimplemented

PAGE_SIZE = 50
STATUS = "WORKER_DEPLOYMENT_VERSION_STATUS_"


class Deployments:
    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> list[Route]:
        base = "/ui/{namespace:segment}/deployments"
        listed = self._site.page("deployments.html", "deployments", self._load_list)
        shown = self._site.page("deployment.html", "deployments", self._load, ("deployment",))
        return [Route(base, listed), Route(base + "/{name:segment}", shown)]

    async def _load_list(self, request: Request) -> dict[str, Any]:
        namespace = request.path_params["namespace"]
        values = {"namespace": namespace, "missing": "", "rows": [], "next_page": ""}
        try:
            answer = await self._site.ask(
                "ListWorkerDeployments",
                ws.ListWorkerDeploymentsRequest(
                    namespace=namespace,
                    page_size=PAGE_SIZE,
                    next_page_token=token_of(request.query_params.get("page", "")),
                ),
            )
        except Unimplemented as refusal:
            return values | {"missing": refusal.message}
        rows = [
            {
                "name": each.name,
                "created_ns": nanoseconds(each.create_time),
                "current": _build(each.routing_config.current_deployment_version),
                "ramping": _build(each.routing_config.ramping_deployment_version),
                "percentage": each.routing_config.ramping_version_percentage,
            }
            for each in answer.worker_deployments
        ]
        return values | {"rows": rows, "next_page": page_of(answer.next_page_token)}

    async def _load(self, request: Request) -> dict[str, Any]:
        namespace, name = (request.path_params[n] for n in ("namespace", "name"))
        answer = await self._site.ask(
            "DescribeWorkerDeployment",
            ws.DescribeWorkerDeploymentRequest(namespace=namespace, deployment_name=name),
        )
        info = answer.worker_deployment_info
        return {
            "namespace": namespace,
            "name": name,
            "info": info,
            "created_ns": nanoseconds(info.create_time),
            "current": _build(info.routing_config.current_deployment_version),
            "ramping": _build(info.routing_config.ramping_deployment_version),
            "percentage": info.routing_config.ramping_version_percentage,
            "versions": [
                {
                    "build": _build(each.deployment_version),
                    "status": words(
                        deployment_enums.WorkerDeploymentVersionStatus, each.status, STATUS
                    ),
                    "created_ns": nanoseconds(each.create_time),
                    "current_ns": nanoseconds(each.current_since_time),
                    "ramping_ns": nanoseconds(each.ramping_since_time),
                    "drainage": words(
                        deployment_enums.VersionDrainageStatus,
                        each.drainage_info.status,
                        "VERSION_DRAINAGE_STATUS_",
                    )
                    if each.HasField("drainage_info")
                    else "",
                }
                for each in info.version_summaries
            ],
            "fields": events.fields_of(info.routing_config),
        }


def _build(version: deployments.WorkerDeploymentVersion) -> str:
    return version.build_id
