"""RPCs about the server itself: what it can do, its cluster, its task queues."""

from collections.abc import Callable

from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.operatorservice.v1 import request_response_pb2 as ops
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from durably.matching import PollerSeen
from durably.service.admission import Call
from durably.service.describe import set_time
from durably.service.namespaces import CLUSTER, Namespaces
from durably.service.transact import Executions
from durably.store.store import QueueKey, TaskKind, TaskRow
from durably.version import API_SERVER_VERSION


class System:
    """Answers RPCs about the server itself."""

    def __init__(
        self,
        executions: Executions,
        namespaces: Namespaces,
        cluster_id: str,
        store_name: str,
        address: Callable[[], str],
    ) -> None:
        self._executions = executions
        self._matching = executions.matching
        self._namespaces = namespaces
        self._cluster_id = cluster_id
        self._store_name = store_name
        self._address = address

    async def get_system_info(
        self, request: ws.GetSystemInfoRequest, call: Call
    ) -> ws.GetSystemInfoResponse:
        return ws.GetSystemInfoResponse(
            server_version=API_SERVER_VERSION,
            capabilities=ws.GetSystemInfoResponse.Capabilities(
                signal_and_query_header=True,
                internal_error_differentiation=True,
                activity_failure_include_heartbeat=True,
                supports_schedules=True,
                encoded_failure_attributes=True,
                build_id_based_versioning=False,
                upsert_memo=True,
                eager_workflow_start=True,
                sdk_metadata=True,
                count_group_by_execution_status=True,
                nexus=False,
            ),
        )

    async def get_cluster_info(
        self, request: ws.GetClusterInfoRequest, call: Call
    ) -> ws.GetClusterInfoResponse:
        return ws.GetClusterInfoResponse(
            supported_clients={
                "temporal-cli": "<2.0.0",
                "temporal-go": "<2.0.0",
                "temporal-java": "<2.0.0",
                "temporal-php": "<3.0.0",
                "temporal-server": "<2.0.0",
                "temporal-typescript": "<2.0.0",
                "temporal-ui": "<3.0.0",
            },
            server_version=API_SERVER_VERSION,
            cluster_id=self._cluster_id,
            cluster_name=CLUSTER,
            history_shard_count=1,
            persistence_store=self._store_name,
            visibility_store=self._store_name,
            failover_version_increment=10,
            initial_failover_version=1,
        )

    async def list_clusters(
        self, request: ops.ListClustersRequest, call: Call
    ) -> ops.ListClustersResponse:
        return ops.ListClustersResponse(
            clusters=[
                ops.ClusterMetadata(
                    cluster_name=CLUSTER,
                    cluster_id=self._cluster_id,
                    initial_failover_version=1,
                    history_shard_count=1,
                    is_connection_enabled=True,
                )
            ]
        )

    async def add_or_update_remote_cluster(
        self, request: ops.AddOrUpdateRemoteClusterRequest, call: Call
    ) -> ops.AddOrUpdateRemoteClusterResponse:
        """There is one cluster, and it replicates to no other."""
        if request.frontend_address == self._address():
            raise InvalidArgument(
                "Unable connect to remote cluster with invalid config:"
                " Cannot update current cluster metadata from rpc calls."
            )
        raise Unavailable(
            f"Unable connect to remote cluster {request.frontend_address} with error:"
            " this server does not replicate to other clusters."
        )

    async def remove_remote_cluster(
        self, request: ops.RemoveRemoteClusterRequest, call: Call
    ) -> ops.RemoveRemoteClusterResponse:
        if request.cluster_name == CLUSTER:
            raise FailedPrecondition(
                "Unable to delete cluster info with error: Cannot delete current cluster metadata."
            )
        raise NotFound("The cluster to be deleted cannot be found in clusters cache.")

    async def list_task_queue_partitions(
        self, request: ws.ListTaskQueuePartitionsRequest, call: Call
    ) -> ws.ListTaskQueuePartitionsResponse:
        """A queue has one partition, which is called like the queue."""
        self._namespaces.id_of(request.namespace)
        name = request.task_queue.name
        if not name:
            raise InvalidArgument("TaskQueue is not set on request.")
        if len(name) > self._executions.config.identifier_chars_max:
            raise InvalidArgument("TaskQueue length exceeds limit.")
        if name.startswith("/_sys/"):
            raise InvalidArgument("task queue name cannot start with reserved prefix /_sys/")
        partition = taskqueue.TaskQueuePartitionMetadata(key=name, owner_host_name=self._address())
        return ws.ListTaskQueuePartitionsResponse(
            activity_task_queue_partitions=[partition], workflow_task_queue_partitions=[partition]
        )

    async def describe_task_queue(
        self, request: ws.DescribeTaskQueueRequest, call: Call
    ) -> ws.DescribeTaskQueueResponse:
        namespace_id = self._namespaces.id_of(request.namespace)
        name = request.task_queue.name
        if not name:
            raise InvalidArgument("TaskQueue is not set on request.")
        if request.api_mode == queue_enums.DESCRIBE_TASK_QUEUE_MODE_ENHANCED:
            return self._enhanced(namespace_id, name, request)
        activity = request.task_queue_type == queue_enums.TASK_QUEUE_TYPE_ACTIVITY
        kind = TaskKind.ACTIVITY if activity else TaskKind.WORKFLOW
        key = QueueKey(namespace_id, kind, name)
        response = ws.DescribeTaskQueueResponse(pollers=self._pollers(key))
        if request.include_task_queue_status or request.report_stats:
            stats = self._stats(key)
            response.stats.CopyFrom(stats)
            response.task_queue_status.backlog_count_hint = stats.approximate_backlog_count
        return response

    def _enhanced(
        self, namespace_id: str, name: str, request: ws.DescribeTaskQueueRequest
    ) -> ws.DescribeTaskQueueResponse:
        kinds = list(request.task_queue_types) or [
            queue_enums.TASK_QUEUE_TYPE_WORKFLOW,
            queue_enums.TASK_QUEUE_TYPE_ACTIVITY,
        ]
        infos: dict[int, taskqueue.TaskQueueTypeInfo] = {}
        for kind in kinds:
            if kind not in (1, 2):
                continue
            key = QueueKey(namespace_id, TaskKind(kind), name)
            infos[kind] = taskqueue.TaskQueueTypeInfo(
                pollers=self._pollers(key) if request.report_pollers else [],
                stats=self._stats(key) if request.report_stats else None,
            )
        version = taskqueue.TaskQueueVersionInfo(types_info=infos)
        return ws.DescribeTaskQueueResponse(versions_info={"": version})

    def _pollers(self, key: QueueKey) -> list[taskqueue.PollerInfo]:
        return [_poller_info(seen) for seen in self._matching.pollers(key)]

    def _stats(self, key: QueueKey) -> taskqueue.TaskQueueStats:
        backlog = [item for item in self._matching.queue(key).backlog if isinstance(item, TaskRow)]
        stats = taskqueue.TaskQueueStats(approximate_backlog_count=len(backlog))
        if backlog:
            oldest_ns = self._executions.clock() - backlog[0].created_ns
            stats.approximate_backlog_age.FromNanoseconds(max(0, oldest_ns))
        return stats


def _poller_info(seen: PollerSeen) -> taskqueue.PollerInfo:
    request = seen.attributes
    rate = getattr(request, "task_queue_metadata", None)
    info = taskqueue.PollerInfo(identity=seen.identity)
    set_time(info.last_access_time, seen.at_ns)
    if rate is not None and rate.HasField("max_tasks_per_second"):
        info.rate_per_second = rate.max_tasks_per_second.value
    else:
        info.rate_per_second = 100_000.0
    if request.HasField("worker_version_capabilities"):
        info.worker_version_capabilities.CopyFrom(request.worker_version_capabilities)
    if request.HasField("deployment_options"):
        info.deployment_options.CopyFrom(request.deployment_options)
    return info
