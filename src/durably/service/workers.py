"""RPCs about workers: what they say of themselves.

Rule 1: a worker is known by the key of its instance; its last heartbeat is all that is kept of it.
Rule 2: it is forgotten when it says that it has shut down, when it was silent for long, or, the
        longest silent first, when there are too many.
Rule 3: heartbeats are in memory only; where servers share the store they are there, for all of them.
"""

import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.worker.v1 import message_pb2 as worker
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.config import Config
from durably.errors import InvalidArgument, NotFound, Unimplemented
from durably.service import worker_query
from durably.service.admission import Call
from durably.service.namespaces import Namespaces

if TYPE_CHECKING:
    from durably.store.postgres_workers import PostgresWorkers

PAGE = 1000
SYSTEM_QUEUES = "temporal-sys-"
"""How the names of task queues begin whose workers a server makes for itself."""


@dataclass(slots=True)
class Known:
    heartbeat: worker.WorkerHeartbeat
    at_ns: int


class Heartbeats(Protocol):
    """The last heartbeats of workers."""

    async def record(
        self, namespace_id: str, heartbeats: Iterable[worker.WorkerHeartbeat]
    ) -> None: ...

    def all(self, namespace_id: str, after: str) -> AsyncIterator[worker.WorkerHeartbeat]:
        """By the keys of their instances, those after this one."""

    async def of(self, namespace_id: str, key: str) -> worker.WorkerHeartbeat | None: ...


class OwnHeartbeats:
    """Those of a server whose store is its own."""

    def __init__(self, clock: Callable[[], int], config: Config) -> None:
        self._clock = clock
        self._workers_max = config.workers_max
        self._remembered_ns = int(config.worker_remembered_s * 1e9)
        self._known: OrderedDict[tuple[str, str], Known] = OrderedDict()
        """(namespace id, key of the instance) -> its last heartbeat; the longest silent is first."""

    async def record(self, namespace_id: str, heartbeats: Iterable[worker.WorkerHeartbeat]) -> None:
        for heartbeat in heartbeats:
            key = (namespace_id, heartbeat.worker_instance_key)
            self._known.pop(key, None)
            if not _has_shut_down(heartbeat):
                self._known[key] = Known(heartbeat, self._clock())
        self._forget_silent()
        while len(self._known) > self._workers_max:
            self._known.popitem(last=False)

    def _forget_silent(self) -> None:
        since = self._clock() - self._remembered_ns
        while self._known and next(iter(self._known.values())).at_ns < since:
            self._known.popitem(last=False)

    async def all(self, namespace_id: str, after: str) -> AsyncIterator[worker.WorkerHeartbeat]:
        self._forget_silent()
        keys = sorted(key for where, key in self._known if where == namespace_id and key > after)
        for key in keys:
            yield self._known[namespace_id, key].heartbeat

    async def of(self, namespace_id: str, key: str) -> worker.WorkerHeartbeat | None:
        self._forget_silent()
        known = self._known.get((namespace_id, key))
        return known.heartbeat if known is not None else None


class SharedHeartbeats:
    """Those of all servers that share a store."""

    def __init__(self, workers: "PostgresWorkers", config: Config) -> None:
        self._workers = workers
        self._remembered_s = config.worker_remembered_s

    async def record(self, namespace_id: str, heartbeats: Iterable[worker.WorkerHeartbeat]) -> None:
        last = {each.worker_instance_key: each for each in heartbeats}
        gone = [key for key, each in last.items() if _has_shut_down(each)]
        here = {key: each.SerializeToString() for key, each in last.items() if key not in gone}
        if here:
            await self._workers.put_heartbeats(namespace_id, here)
        if gone:
            await self._workers.forget_heartbeats(namespace_id, gone)

    async def all(self, namespace_id: str, after: str) -> AsyncIterator[worker.WorkerHeartbeat]:
        page = await self._page(namespace_id, after)
        while page:
            for _, body in page:
                yield worker.WorkerHeartbeat.FromString(body)
            page = await self._page(namespace_id, page[-1][0]) if len(page) == PAGE else []

    async def _page(self, namespace_id: str, after: str) -> list[tuple[str, bytes]]:
        return await self._workers.heartbeats(namespace_id, after, self._remembered_s, PAGE)

    async def of(self, namespace_id: str, key: str) -> worker.WorkerHeartbeat | None:
        found = await self._workers.heartbeat(namespace_id, key, self._remembered_s)
        return worker.WorkerHeartbeat.FromString(found) if found is not None else None


class Workers:
    """The RPCs about workers."""

    def __init__(self, namespaces: Namespaces, heartbeats: Heartbeats) -> None:
        self._namespaces = namespaces
        self._heartbeats = heartbeats

    async def record(self, namespace_id: str, heartbeat: worker.WorkerHeartbeat) -> None:
        await self._heartbeats.record(namespace_id, (heartbeat,))

    # --- RPCs ---------------------------------------------------------------------------------

    async def record_worker_heartbeat(
        self, request: ws.RecordWorkerHeartbeatRequest, call: Call
    ) -> ws.RecordWorkerHeartbeatResponse:
        namespace_id = self._namespaces.id_of(request.namespace)
        await self._heartbeats.record(namespace_id, request.worker_heartbeat)
        return ws.RecordWorkerHeartbeatResponse()

    async def list_workers(
        self, request: ws.ListWorkersRequest, call: Call
    ) -> ws.ListWorkersResponse:
        token = request.next_page_token
        size = max(request.page_size, 0)
        found = await self._found(request, _decode_page_token(token) if token else "", size)
        page = found[:size] if size else found
        return ws.ListWorkersResponse(
            workers_info=[worker.WorkerInfo(worker_heartbeat=heartbeat) for heartbeat in page],
            workers=[_listed(heartbeat) for heartbeat in page],
            next_page_token=_page_token(page[-1]) if len(found) > len(page) else b"",
        )

    async def count_workers(
        self, request: ws.CountWorkersRequest, call: Call
    ) -> ws.CountWorkersResponse:
        return ws.CountWorkersResponse(count=len(await self._found(request)))

    async def describe_worker(
        self, request: ws.DescribeWorkerRequest, call: Call
    ) -> ws.DescribeWorkerResponse:
        namespace_id = self._namespaces.id_of(request.namespace)
        found = await self._heartbeats.of(namespace_id, request.worker_instance_key)
        if found is None:
            raise NotFound(f"Worker {request.worker_instance_key} not found")
        return ws.DescribeWorkerResponse(worker_info=worker.WorkerInfo(worker_heartbeat=found))

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

    async def _found(
        self,
        request: ws.ListWorkersRequest | ws.CountWorkersRequest,
        after: str = "",
        wanted: int = 0,
    ) -> list[worker.WorkerHeartbeat]:
        """Those after this key: one more than are wanted, if there are so many; 0: all."""
        namespace_id = self._namespaces.id_of(request.namespace)
        holds = worker_query.parse(request.query)
        found: list[worker.WorkerHeartbeat] = []
        async for heartbeat in self._heartbeats.all(namespace_id, after):
            listed = request.include_system_workers or not _of_system(heartbeat)
            if listed and holds(heartbeat):
                found.append(heartbeat)
            if wanted and len(found) > wanted:
                break
        return found


def _has_shut_down(heartbeat: worker.WorkerHeartbeat) -> bool:
    return heartbeat.status == common_enums.WORKER_STATUS_SHUTDOWN


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
