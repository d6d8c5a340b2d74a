"""Task queues: those that open workflows and workers name, each with its backlog and who polls it."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.edge.console import payloads
from durably.edge.console.site import Site, at
from durably.edge.console.units import nanoseconds
from durably.errors import Refusal

QUEUES_SHOWN_MAX = 100
WORKERS_READ_MAX = 1000
TYPES = (
    (queue_enums.TASK_QUEUE_TYPE_WORKFLOW, "Workflow tasks"),
    (queue_enums.TASK_QUEUE_TYPE_ACTIVITY, "Activity tasks"),
    (queue_enums.TASK_QUEUE_TYPE_NEXUS, "Nexus tasks"),
)


class TaskQueues:
    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> list[Route]:
        base = "/ui/{namespace:segment}/task-queues"
        listed = self._site.page(
            "task_queues.html", "task-queues", self._load_list, ("queue_rows",)
        )
        shown = self._site.page("task_queue.html", "task-queues", self._load, ("queue",))
        return [
            Route(base, listed),
            Route(base + "/{queue:segment}", shown),
            Route("/ui/{namespace:segment}/task-queue", self._find),
        ]

    async def _find(self, request: Request) -> Response:
        """A queue by the name that somebody wrote."""
        name = request.query_params.get("name", "").strip()
        more = (name,) if name else ()
        return RedirectResponse(at(request.path_params["namespace"], "task-queues", *more), 303)

    async def _load_list(self, request: Request) -> dict[str, Any]:
        namespace = request.path_params["namespace"]
        answer = await self._site.ask(
            "CountWorkflowExecutions",
            ws.CountWorkflowExecutionsRequest(
                namespace=namespace, query="ExecutionStatus = 'Running' GROUP BY TaskQueue"
            ),
        )
        open_workflows: dict[str, int] = {}
        for group in answer.groups:
            name = payloads.decoded(group.group_values[0])
            if isinstance(name, str) and name:
                open_workflows[name] = group.count
        for name in await self._of_workers(namespace):
            open_workflows.setdefault(name, 0)
        names = sorted(open_workflows, key=lambda name: (-open_workflows[name], name))
        shown = names[:QUEUES_SHOWN_MAX]
        rows = await asyncio.gather(*(self._summary(namespace, name) for name in shown))
        for row in rows:
            row["open_workflows"] = open_workflows[row["name"]]
        return {"namespace": namespace, "rows": rows, "left_out": len(names) - len(shown)}

    async def _of_workers(self, namespace: str) -> set[str]:
        answer = await self._site.ask(
            "ListWorkers", ws.ListWorkersRequest(namespace=namespace, page_size=WORKERS_READ_MAX)
        )
        return {each.task_queue for each in answer.workers if each.task_queue}

    async def _summary(self, namespace: str, name: str) -> dict[str, Any]:
        workflow, activity = await asyncio.gather(
            self._describe(namespace, name, TYPES[0][0]),
            self._describe(namespace, name, TYPES[1][0]),
        )
        both = (workflow, activity)
        return {
            "name": name,
            "backlog": sum(each["backlog"] for each in both),
            "oldest_ns": max(each["oldest_ns"] for each in both),
            "workflow_pollers": len(workflow["pollers"]),
            "activity_pollers": len(activity["pollers"]),
        }

    async def _describe(self, namespace: str, name: str, kind: int) -> dict[str, Any]:
        request = ws.DescribeTaskQueueRequest(
            namespace=namespace,
            task_queue_type=kind,  # type: ignore[arg-type]
            report_stats=True,
            report_config=True,
        )
        request.task_queue.name = name
        found = await self._site.ask("DescribeTaskQueue", request)
        stats = found.stats
        return {
            "backlog": stats.approximate_backlog_count,
            "oldest_ns": nanoseconds(stats.approximate_backlog_age),
            "added_per_s": stats.tasks_add_rate,
            "taken_per_s": stats.tasks_dispatch_rate,
            "limited": stats.rate_limiting_active,
            "by_priority": sorted(found.stats_by_priority_key.items()),
            "rate_limit": found.effective_rate_limit.requests_per_second
            if found.HasField("effective_rate_limit")
            else 0,
            "pollers": [
                {
                    "identity": each.identity,
                    "last_ns": nanoseconds(each.last_access_time),
                    "build": each.deployment_options.build_id
                    or each.worker_version_capabilities.build_id,
                    "deployment": each.deployment_options.deployment_name,
                }
                for each in found.pollers
            ],
        }

    async def _load(self, request: Request) -> dict[str, Any]:
        namespace, name = (request.path_params[n] for n in ("namespace", "queue"))
        kinds = []
        for kind, title in TYPES:
            try:
                kinds.append((title, await self._describe(namespace, name, kind)))
            except Refusal:
                if kind != queue_enums.TASK_QUEUE_TYPE_NEXUS:  # Not every server has these.
                    raise
        return {"namespace": namespace, "queue": name, "kinds": kinds}
