"""Records of worker deployments. Rules: see `engine/journal.py`."""

from durably.engine.journal import Record


class DeploymentOpened(Record, frozen=True, tag="do"):
    """A deployment exists: made by its first poller (`request_id` empty), or by a client."""

    at_ns: int
    identity: str = ""
    request_id: str = ""


class VersionAdded(Record, frozen=True, tag="dv"):
    build_id: str
    at_ns: int
    status: int
    identity: str = ""
    request_id: str = ""


class VersionPolled(Record, frozen=True, tag="dp"):
    """A worker of this version polls a task queue for the first time."""

    build_id: str
    queue: str
    kind: int


class RoutingSet(Record, frozen=True, tag="dr"):
    """How traffic is divided from now on, whole. `ramping` and `unversioned_ramp` exclude each other."""

    at_ns: int
    identity: str
    current: str
    """A build id; empty: workers without versioning."""
    ramping: str
    unversioned_ramp: bool
    percentage: float
    current_changed: bool
    ramping_changed: bool
    check_at_ns: int = 0
    """When versions that drain from now on are to be looked at."""


class DeploymentTouched(Record, frozen=True, tag="dt"):
    """Somebody else set what was set already."""

    at_ns: int
    identity: str


class ManagerSet(Record, frozen=True, tag="dm"):
    at_ns: int
    identity: str
    manager: str


class VersionMetadataSet(Record, frozen=True, tag="de"):
    """`metadata`: a serialized VersionMetadata, whole."""

    build_id: str
    metadata: bytes
    identity: str


class VersionReactivated(Record, frozen=True, tag="da"):
    """A workflow was pinned to a version that gets no new ones: it drains again."""

    build_id: str
    at_ns: int
    check_at_ns: int = 0


class DrainageDue(Record, frozen=True, tag="dd"):
    """It is time to count the workflows that are pinned to a version."""

    build_id: str


class DrainageChecked(Record, frozen=True, tag="dk"):
    build_id: str
    drained: bool
    at_ns: int
    check_at_ns: int = 0
    """When to look again, if it is not drained."""


class VersionRemoved(Record, frozen=True, tag="dx"):
    build_id: str
    at_ns: int
    identity: str = ""
    """Empty: the server removed it, to make room."""


class DeploymentRemoved(Record, frozen=True, tag="dz"):
    at_ns: int


DeploymentRecord = (
    DeploymentOpened
    | VersionAdded
    | VersionPolled
    | RoutingSet
    | DeploymentTouched
    | ManagerSet
    | VersionMetadataSet
    | VersionReactivated
    | DrainageDue
    | DrainageChecked
    | VersionRemoved
    | DeploymentRemoved
)
