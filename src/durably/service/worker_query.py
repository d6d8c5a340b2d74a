"""Which workers: text of the List Filter language as a condition on their heartbeats.

Fields and operators: the comments of `ListWorkersRequest` in the API, and `conditions.py`.
"""

from collections.abc import Callable

from temporalio.api.enums.v1 import common_pb2 as enums
from temporalio.api.worker.v1 import message_pb2 as worker

from durably.engine.times import nanoseconds
from durably.service.conditions import Language

Heartbeat = worker.WorkerHeartbeat
Holds = Callable[[Heartbeat], bool]


def _status(heartbeat: Heartbeat) -> str:
    """`WORKER_STATUS_SHUTTING_DOWN` -> `ShuttingDown`."""
    name = enums.WorkerStatus.Name(heartbeat.status) if heartbeat.status else "Unspecified"
    return name.removeprefix("WORKER_STATUS_").title().replace("_", "")


TEXTS: dict[str, Callable[[Heartbeat], str]] = {
    "WorkerInstanceKey": lambda h: h.worker_instance_key,
    "WorkerIdentity": lambda h: h.worker_identity,
    "HostName": lambda h: h.host_info.host_name,
    "TaskQueue": lambda h: h.task_queue,
    "DeploymentName": lambda h: h.deployment_version.deployment_name,
    "BuildId": lambda h: h.deployment_version.build_id,
    "SdkName": lambda h: h.sdk_name,
    "SdkVersion": lambda h: h.sdk_version,
    "Status": _status,
    "WorkerStatus": _status,
}

TIMES: dict[str, Callable[[Heartbeat], int]] = {
    "StartTime": lambda h: nanoseconds(h.start_time),
    "HeartbeatTime": lambda h: nanoseconds(h.heartbeat_time),
}
"""Nanoseconds since the epoch; 0: not given."""

LANGUAGE = Language("worker heartbeat search", TEXTS, TIMES)


def parse(text: str) -> Holds:
    """Text to a condition; no text holds for all. Raises InvalidArgument, naming what is wrong."""
    return LANGUAGE.parse(text)
