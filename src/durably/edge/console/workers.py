"""Workers: those that send heartbeats, with their slots and pollers."""

from typing import Any

from starlette.requests import Request
from starlette.routing import Route
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.worker.v1 import message_pb2 as workers
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.edge.console import events
from durably.edge.console.rows import words
from durably.edge.console.site import Site
from durably.edge.console.units import nanoseconds
from durably.edge.console.workflow_list import page_of, token_of

PAGE_SIZE = 100
SLOTS = (
    ("workflow_task_slots_info", "workflow_poller_info", "Workflow tasks"),
    ("activity_task_slots_info", "activity_poller_info", "Activity tasks"),
    ("local_activity_slots_info", "", "Local activities"),
    ("nexus_task_slots_info", "nexus_poller_info", "Nexus tasks"),
)


class Workers:
    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> list[Route]:
        base = "/ui/{namespace:segment}/workers"
        listed = self._site.page("workers.html", "workers", self._load_list, ("worker_rows",))
        shown = self._site.page("worker.html", "workers", self._load, ("worker",))
        return [Route(base, listed), Route(base + "/{key:segment}", shown)]

    async def _load_list(self, request: Request) -> dict[str, Any]:
        namespace = request.path_params["namespace"]
        answer = await self._site.ask(
            "ListWorkers",
            ws.ListWorkersRequest(
                namespace=namespace,
                page_size=PAGE_SIZE,
                next_page_token=token_of(request.query_params.get("page", "")),
            ),
        )
        rows = [
            {
                "key": each.worker_instance_key,
                "identity": each.worker_identity,
                "task_queue": each.task_queue,
                "status": _status(each.status),
                "sdk": f"{each.sdk_name} {each.sdk_version}".strip(),
                "host": each.host_name,
                "process": each.process_id,
                "start_ns": nanoseconds(each.start_time),
                "build": each.deployment_version.build_id,
                "deployment": each.deployment_version.deployment_name,
            }
            for each in answer.workers
        ]
        return {
            "namespace": namespace,
            "rows": rows,
            "next_page": page_of(answer.next_page_token),
        }

    async def _load(self, request: Request) -> dict[str, Any]:
        namespace, key = (request.path_params[n] for n in ("namespace", "key"))
        answer = await self._site.ask(
            "DescribeWorker", ws.DescribeWorkerRequest(namespace=namespace, worker_instance_key=key)
        )
        beat = answer.worker_info.worker_heartbeat
        return {
            "namespace": namespace,
            "key": key,
            "beat": beat,
            "status": _status(beat.status),
            "heartbeat_ns": nanoseconds(beat.heartbeat_time),
            "start_ns": nanoseconds(beat.start_time),
            "slots": [_slots(beat, *names) for names in SLOTS],
            "fields": events.fields_of(beat),
        }


def _status(status: int) -> str:
    return words(common_enums.WorkerStatus, status, "WORKER_STATUS_")


def _slots(beat: workers.WorkerHeartbeat, slots: str, pollers: str, title: str) -> dict[str, Any]:
    info = getattr(beat, slots)
    return {
        "title": title,
        "free": info.current_available_slots,
        "used": info.current_used_slots,
        "done": info.total_processed_tasks,
        "failed": info.total_failed_tasks,
        "pollers": getattr(beat, pollers).current_pollers if pollers else None,
    }
