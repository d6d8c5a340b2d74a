"""A worker deployment and its versions as those who ask see them."""

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.deployment.v1 import message_pb2 as deployments
from temporalio.api.enums.v1 import deployment_pb2 as deployment_enums
from temporalio.api.enums.v1 import task_queue_pb2 as task_queue_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine.deployment.state import DRAINED, DRAINING, DeploymentState, DeploymentVersion
from durably.engine.versioning.version import UNVERSIONED_TEXT, Version, old_text

Summary = deployments.WorkerDeploymentInfo.WorkerDeploymentVersionSummary
ListSummary = ws.ListWorkerDeploymentsResponse.WorkerDeploymentSummary
DRAINAGE: dict[int, deployment_enums.VersionDrainageStatus.ValueType] = {
    DRAINING: deployment_enums.VERSION_DRAINAGE_STATUS_DRAINING,
    DRAINED: deployment_enums.VERSION_DRAINAGE_STATUS_DRAINED,
}


UNSPECIFIED_DRAINAGE = deployment_enums.VERSION_DRAINAGE_STATUS_UNSPECIFIED


def _set(message: Timestamp, at_ns: int) -> None:
    if at_ns:
        message.FromNanoseconds(at_ns)


def routing_config(state: DeploymentState) -> deployments.RoutingConfig:
    current, ramping = state.version(state.current), state.version(state.ramping)
    config = deployments.RoutingConfig(
        current_version=old_text(current),
        ramping_version=_ramping_text(state),
        ramping_version_percentage=state.percentage,
        revision_number=state.revision,
    )
    if current is not None:
        config.current_deployment_version.CopyFrom(current.message)
    if ramping is not None:
        config.ramping_deployment_version.CopyFrom(ramping.message)
    _set(config.current_version_changed_time, state.current_changed_ns)
    _set(config.ramping_version_changed_time, state.ramping_changed_ns)
    _set(config.ramping_version_percentage_changed_time, state.percentage_changed_ns)
    return config


def _ramping_text(state: DeploymentState) -> str:
    if state.ramping:
        return old_text(state.version(state.ramping))
    return UNVERSIONED_TEXT if state.unversioned_ramp else ""


def _drainage(version: DeploymentVersion) -> deployments.VersionDrainageInfo | None:
    status = DRAINAGE.get(version.status)
    if status is None:
        return None
    info = deployments.VersionDrainageInfo(status=status)
    _set(info.last_changed_time, version.drainage_changed_ns)
    _set(info.last_checked_time, version.drainage_checked_ns)
    return info


def _name(state: DeploymentState, version: DeploymentVersion) -> Version:
    return Version(state.workflow_id, version.build_id)


def summary(state: DeploymentState, version: DeploymentVersion) -> Summary:
    name = _name(state, version)
    shown = Summary(
        version=name.old_text,
        deployment_version=name.message,
        status=version.status,  # type: ignore[arg-type]
        drainage_status=DRAINAGE.get(version.status, UNSPECIFIED_DRAINAGE),
        drainage_info=_drainage(version),
    )
    _set(shown.create_time, version.created_ns)
    _set(shown.current_since_time, version.current_since_ns)
    _set(shown.ramping_since_time, version.ramping_since_ns)
    _set(shown.routing_update_time, version.routing_changed_ns)
    _set(shown.first_activation_time, version.first_activated_ns)
    _set(shown.last_current_time, version.last_current_ns)
    _set(shown.last_deactivation_time, version.last_deactivated_ns)
    return shown


def deployment_info(state: DeploymentState) -> deployments.WorkerDeploymentInfo:
    """What DescribeWorkerDeployment shows: the newest version first."""
    info = deployments.WorkerDeploymentInfo(
        name=state.workflow_id,
        version_summaries=[summary(state, each) for each in reversed(state.versions.values())],
        routing_config=routing_config(state),
        last_modifier_identity=state.modified_by,
        manager_identity=state.manager,
        # A change has effect on all task queues when it is acknowledged.
        routing_config_update_state=task_queue_enums.ROUTING_CONFIG_UPDATE_STATE_COMPLETED,
    )
    _set(info.create_time, state.start_ns)
    return info


def version_info(
    state: DeploymentState, version: DeploymentVersion
) -> deployments.WorkerDeploymentVersionInfo:
    """What DescribeWorkerDeploymentVersion shows."""
    name = _name(state, version)
    info = deployments.WorkerDeploymentVersionInfo(
        version=name.old_text,
        status=version.status,  # type: ignore[arg-type]
        deployment_version=name.message,
        ramp_percentage=version.percentage,
        drainage_info=_drainage(version),
        metadata=version.metadata if version.metadata.entries else None,
        last_modifier_identity=version.modified_by,
    )
    for queue in version.queues:
        info.task_queue_infos.add(name=queue.name, type=queue.kind)
    _set(info.create_time, version.created_ns)
    _set(info.routing_changed_time, version.routing_changed_ns)
    _set(info.current_since_time, version.current_since_ns)
    _set(info.ramping_since_time, version.ramping_since_ns)
    _set(info.first_activation_time, version.first_activated_ns)
    _set(info.last_current_time, version.last_current_ns)
    _set(info.last_deactivation_time, version.last_deactivated_ns)
    return info


def list_summary(state: DeploymentState) -> ListSummary:
    """One row of ListWorkerDeployments."""
    shown = ListSummary(name=state.workflow_id, routing_config=routing_config(state))
    _set(shown.create_time, state.start_ns)
    latest = next(reversed(state.versions.values()), None)
    if latest is not None:
        shown.latest_version_summary.CopyFrom(summary(state, latest))
    for build_id, field in (
        (state.current, shown.current_version_summary),
        (state.ramping, shown.ramping_version_summary),
    ):
        if build_id:
            field.CopyFrom(summary(state, state.versions[build_id]))
    return shown
