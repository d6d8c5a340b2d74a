"""apply(state, record) for worker deployments: the only writer of their state."""

from typing import assert_never, get_args

from temporalio.api.deployment.v1 import message_pb2 as deployments
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums

from durably.engine.deployment import records as r
from durably.engine.deployment.state import (
    CREATED,
    CURRENT,
    DRAINED,
    DRAINING,
    INACTIVE,
    RAMPING,
    DeploymentState,
    DeploymentVersion,
    PolledQueue,
)
from durably.engine.journal import Changes
from durably.engine.state import RUNNING


def _apply(state: DeploymentState, record: r.DeploymentRecord) -> None:
    match record:
        case r.DeploymentOpened():
            state.status = RUNNING
            state.start_ns = state.token_ns = record.at_ns
            state.modified_by = record.identity
            state.by_poller = not record.request_id
        case r.RoutingSet():
            _set_routing(state, record)
        case r.DeploymentTouched():
            _touched(state, record.at_ns, record.identity)
        case r.ManagerSet():
            state.manager = record.manager
            _touched(state, record.at_ns, record.identity)
        case r.VersionRemoved():
            del state.versions[record.build_id]
            state.modified_by = record.identity or state.modified_by
        case r.DeploymentRemoved():
            state.status = workflow_enums.WORKFLOW_EXECUTION_STATUS_COMPLETED
            state.close_ns = record.at_ns
        case r.VersionAdded():
            _add(state, record)
        case _:
            _change(state.versions[record.build_id], record)


def _touched(state: DeploymentState, at_ns: int, identity: str) -> None:
    state.token_ns = max(at_ns, state.token_ns + 1)
    state.modified_by = identity


def _add(state: DeploymentState, record: r.VersionAdded) -> None:
    added = DeploymentVersion(record.build_id, record.at_ns, record.status)
    added.create_request_id = record.request_id
    added.modified_by = record.identity
    state.versions[record.build_id] = added


def _change(
    version: DeploymentVersion,
    record: r.VersionPolled
    | r.VersionMetadataSet
    | r.VersionReactivated
    | r.DrainageDue
    | r.DrainageChecked,
) -> None:
    """What happens to one version, and not to its deployment."""
    match record:
        case r.VersionPolled():
            version.queues = (*version.queues, PolledQueue(record.queue, record.kind))
            if version.status == CREATED:
                version.status = INACTIVE
        case r.VersionMetadataSet():
            version.metadata = deployments.VersionMetadata.FromString(record.metadata)
            version.modified_by = record.identity
        case r.VersionReactivated():
            _drain(version, record.at_ns, record.check_at_ns)
        case r.DrainageDue():
            version.checking = True
        case r.DrainageChecked():
            version.checking = False
            version.drainage_checked_ns = record.at_ns
            version.check_at_ns = record.check_at_ns
            if record.drained:
                version.status = DRAINED
                version.drainage_changed_ns = record.at_ns
        case _:
            assert_never(record)


def _set_routing(state: DeploymentState, record: r.RoutingSet) -> None:
    at_ns = record.at_ns
    if record.current_changed:
        state.current_changed_ns = at_ns
    if record.ramping_changed:
        state.ramping_changed_ns = at_ns
    if record.ramping_changed or record.percentage != state.percentage:
        state.percentage_changed_ns = at_ns
    state.current, state.ramping = record.current, record.ramping
    state.unversioned_ramp, state.percentage = record.unversioned_ramp, record.percentage
    state.revision += 1
    _touched(state, at_ns, record.identity)
    for version in state.versions.values():
        _set_status(state, version, at_ns, record.check_at_ns)


def _set_status(
    state: DeploymentState, version: DeploymentVersion, at_ns: int, check_at_ns: int
) -> None:
    """What the new routing means for one version."""
    if version.build_id == state.current:
        if version.status != CURRENT:
            _activate(version, CURRENT, at_ns)
            version.current_since_ns = version.last_current_ns = at_ns
    elif version.build_id == state.ramping:
        if version.status != RAMPING:
            _activate(version, RAMPING, at_ns)
            version.ramping_since_ns = at_ns
        if version.percentage != state.percentage:
            version.percentage = state.percentage
            version.routing_changed_ns = at_ns
    elif version.active:
        version.current_since_ns = version.ramping_since_ns = 0
        version.percentage = 0.0
        version.routing_changed_ns = version.last_deactivated_ns = at_ns
        _drain(version, at_ns, check_at_ns)


def _activate(version: DeploymentVersion, status: int, at_ns: int) -> None:
    version.status = status
    version.current_since_ns = version.ramping_since_ns = 0
    version.percentage = 0.0
    version.routing_changed_ns = at_ns
    version.first_activated_ns = version.first_activated_ns or at_ns
    version.last_deactivated_ns = 0
    version.drainage_changed_ns = version.drainage_checked_ns = 0
    version.checking = False


def _drain(version: DeploymentVersion, at_ns: int, check_at_ns: int) -> None:
    version.status = DRAINING
    version.check_at_ns = check_at_ns
    version.checking = False
    version.drainage_changed_ns = version.drainage_checked_ns = at_ns


RECORDS: Changes = dict.fromkeys(get_args(r.DeploymentRecord), _apply)
