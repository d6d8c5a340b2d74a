"""The state of one worker deployment, with all its versions.

Times are nanoseconds since the epoch; 0 means none.
"""

from msgspec import field
from temporalio.api.deployment.v1 import message_pb2 as deployments
from temporalio.api.enums.v1 import deployment_pb2 as deployment_enums

from durably.engine.state import ExecutionState, Kind
from durably.engine.stored import Stored, StoredValue
from durably.engine.versioning.version import Version

CREATED = deployment_enums.WORKER_DEPLOYMENT_VERSION_STATUS_CREATED
INACTIVE = deployment_enums.WORKER_DEPLOYMENT_VERSION_STATUS_INACTIVE
CURRENT = deployment_enums.WORKER_DEPLOYMENT_VERSION_STATUS_CURRENT
RAMPING = deployment_enums.WORKER_DEPLOYMENT_VERSION_STATUS_RAMPING
DRAINING = deployment_enums.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINING
DRAINED = deployment_enums.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINED

ACTIVE = (CURRENT, RAMPING)
"""Statuses of a version that gets new workflows."""


class PolledQueue(StoredValue, frozen=True, array_like=True):
    """A task queue that workers of a version have polled; `kind` is a TaskQueueType."""

    name: str
    kind: int


class DeploymentVersion(Stored):
    build_id: str
    created_ns: int
    status: int
    queues: tuple[PolledQueue, ...] = ()
    routing_changed_ns: int = 0
    current_since_ns: int = 0
    ramping_since_ns: int = 0
    percentage: float = 0.0
    first_activated_ns: int = 0
    last_current_ns: int = 0
    last_deactivated_ns: int = 0
    drainage_changed_ns: int = 0
    """When it last began to drain, or was found drained; 0: it does neither."""
    drainage_checked_ns: int = 0
    check_at_ns: int = 0
    """When it is to be looked at, while it drains."""
    checking: bool = False
    """It is time to count its workflows."""
    metadata: deployments.VersionMetadata = field(default_factory=deployments.VersionMetadata)
    modified_by: str = ""
    create_request_id: str = ""

    @property
    def active(self) -> bool:
        return self.status in ACTIVE


class DeploymentState(ExecutionState, tag="deployment"):
    """`workflow_id` is the name of the deployment; statuses are those of workflows."""

    KIND = Kind.DEPLOYMENT

    versions: dict[str, DeploymentVersion] = field(default_factory=dict)
    """By build id, in the order in which they were made."""
    current: str = ""
    """A build id; empty: workers without versioning."""
    ramping: str = ""
    unversioned_ramp: bool = False
    percentage: float = 0.0
    current_changed_ns: int = 0
    ramping_changed_ns: int = 0
    percentage_changed_ns: int = 0
    revision: int = 0
    """Grows with every change of the routing."""
    modified_by: str = ""
    manager: str = ""
    token_ns: int = 0
    """When the deployment was last changed by a client: the conflict token. Grows always."""
    by_poller: bool = False
    """It was made by its first poller."""

    def version(self, build_id: str) -> Version | None:
        return Version(self.workflow_id, build_id) if build_id else None
