"""RPCs about the server itself: what it can do, and its cluster."""

from collections.abc import Callable

from temporalio.api.operatorservice.v1 import request_response_pb2 as ops
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from durably.service.admission import Call
from durably.service.namespaces import CLUSTER
from durably.version import API_SERVER_VERSION


class System:
    """Answers RPCs about the server itself."""

    def __init__(
        self,
        cluster_id: str,
        store_name: str,
        address: Callable[[], str],
    ) -> None:
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
                build_id_based_versioning=True,
                upsert_memo=True,
                eager_workflow_start=True,
                sdk_metadata=True,
                count_group_by_execution_status=True,
                nexus=True,
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
