"""RPCs about workers: what they say of themselves, in memory only.

Rule 1: a worker is known by the key of its instance; its last heartbeat is all that is kept of it.
Rule 2: it is forgotten when it says that it has shut down, when it was silent for long, or, the
        longest silent first, when there are too many.
"""

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.worker.v1 import message_pb2 as worker
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.config import Config
from durably.errors import InvalidArgument, NotFound, Unimplemented
from durably.service import worker_query
from durably.service.admission import Call
from durably.service.namespaces import Namespaces

SYSTEM_QUEUES = "temporal-sys-"
"""How the names of task queues begin whose workers a server makes for itself."""


@dataclass(slots=True)
class Known:
    heartbeat: worker.WorkerHeartbeat
    at_ns: int


class Workers:
    """The workers of this node, and the RPCs about them."""

    def __init__(self, namespaces: Namespaces, clock: Callable[[], int], config: Config) -> None:
        self._namespaces = namespaces
        self._clock = clock
        self._workers_max = config.workers_max
        self._remembered_ns = int(config.worker_remembered_s * 1e9)
        self._known: OrderedDict[tuple[str, str], Known] = OrderedDict()
        """(namespace id, key of the instance) -> its last heartbeat; the longest silent is first."""

    def record(self, namespace_id: str, heartbeat: worker.WorkerHeartbeat) -> None:
        key = (namespace_id, heartbeat.worker_instance_key)
        self._known.pop(key, None)
        if heartbeat.status != common_enums.WORKER_STATUS_SHUTDOWN:
            self._known[key] = Known(heartbeat, self._clock())
        self._forget_silent()
        while len(self._known) > self._workers_max:
            self._known.popitem(last=False)

    def _forget_silent(self) -> None:
        since = self._clock() - self._remembered_ns
        while self._known and next(iter(self._known.values())).at_ns < since:
            self._known.popitem(last=False)

    # --- RPCs ---------------------------------------------------------------------------------

    async def record_worker_heartbeat(
        self, request: ws.RecordWorkerHeartbeatRequest, call: Call
    ) -> ws.RecordWorkerHeartbeatResponse:
        namespace_id = self._namespaces.id_of(request.namespace)
        for heartbeat in request.worker_heartbeat:
            self.record(namespace_id, heartbeat)
        return ws.RecordWorkerHeartbeatResponse()

    async def list_workers(
        self, request: ws.ListWorkersRequest, call: Call
    ) -> ws.ListWorkersResponse:
        found = self._found(request)
        found.sort(key=lambda heartbeat: heartbeat.worker_instance_key)
        if request.next_page_token:
            after = _decode_page_token(request.next_page_token)
            found = [heartbeat for heartbeat in found if heartbeat.worker_instance_key > after]
        size = request.page_size if request.page_size > 0 else len(found)
        page = found[:size]
        return ws.ListWorkersResponse(
            workers_info=[worker.WorkerInfo(worker_heartbeat=heartbeat) for heartbeat in page],
            workers=[_listed(heartbeat) for heartbeat in page],
            next_page_token=_page_token(page[-1]) if len(found) > size else b"",
        )

    async def count_workers(
        self, request: ws.CountWorkersRequest, call: Call
    ) -> ws.CountWorkersResponse:
        return ws.CountWorkersResponse(count=len(self._found(request)))

    async def describe_worker(
        self, request: ws.DescribeWorkerRequest, call: Call
    ) -> ws.DescribeWorkerResponse:
        namespace_id = self._namespaces.id_of(request.namespace)
        self._forget_silent()
        known = self._known.get((namespace_id, request.worker_instance_key))
        if known is None:
            raise NotFound(f"Worker {request.worker_instance_key} not found")
        return ws.DescribeWorkerResponse(
            worker_info=worker.WorkerInfo(worker_heartbeat=known.heartbeat)
        )

    async def fetch_worker_config(
        self, request: ws.FetchWorkerConfigRequest, call: Call
    ) -> ws.FetchWorkerConfigResponse:
        """No server of this API offers commands to workers yet: the answer is theirs."""
        self._namespaces.id_of(request.namespace)
        raise Unimplemented("FetchWorkerConfig command is not enabled.")

    async def update_worker_config(
        self, request: ws.UpdateWorkerConfigRequest, call: Call
    ) -> ws.UpdateWorkerConfigResponse:
        self._namespaces.id_of(request.namespace)
        raise Unimplemented("UpdateWorkerConfig command is not enabled.")

    # --- Inside -------------------------------------------------------------------------------

    def _found(
        self, request: ws.ListWorkersRequest | ws.CountWorkersRequest
    ) -> list[worker.WorkerHeartbeat]:
        namespace_id = self._namespaces.id_of(request.namespace)
        holds = worker_query.parse(request.query)
        self._forget_silent()
        return [
            known.heartbeat
            for (where, _), known in self._known.items()
            if where == namespace_id
            and (request.include_system_workers or not _of_system(known.heartbeat))
            and holds(known.heartbeat)
        ]


def _of_system(heartbeat: worker.WorkerHeartbeat) -> bool:
    return heartbeat.task_queue.startswith(SYSTEM_QUEUES)


def _listed(heartbeat: worker.WorkerHeartbeat) -> worker.WorkerListInfo:
    host = heartbeat.host_info
    return worker.WorkerListInfo(
        worker_instance_key=heartbeat.worker_instance_key,
        worker_identity=heartbeat.worker_identity,
        task_queue=heartbeat.task_queue,
        deployment_version=(
            heartbeat.deployment_version if heartbeat.HasField("deployment_version") else None
        ),
        sdk_name=heartbeat.sdk_name,
        sdk_version=heartbeat.sdk_version,
        status=heartbeat.status,
        start_time=heartbeat.start_time if heartbeat.HasField("start_time") else None,
        host_name=host.host_name,
        worker_grouping_key=host.worker_grouping_key,
        process_id=host.process_id,
        plugins=heartbeat.plugins,
        drivers=heartbeat.drivers,
    )


def _page_token(last: worker.WorkerHeartbeat) -> bytes:
    return json.dumps({"l": last.worker_instance_key}).encode()


def _decode_page_token(token: bytes) -> str:
    try:
        return str(json.loads(token)["l"])
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidArgument("invalid next_page_token") from error
