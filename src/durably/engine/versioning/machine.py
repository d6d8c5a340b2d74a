"""How a workflow comes to the version that it runs on.

    input                                   what happens
    -------------------------------------   ---------------------------------------------------
    a worker of another version takes a     pinned: refused, the task is not for it;
    workflow task                           else: a move to that version begins
    the task is completed by that version   the move is done; waiting activities are put on
                                            their queues again, now for the new version
    a task is completed by another version  the move goes on: there is another task at once
    an override is set, changed or unset    a waiting task and waiting activities go where the
                                            override says; what a worker has goes on

Rule 1: while a workflow moves, no activity of it starts: it might not be known to the new version.
Rule 2: a run that follows another, or is started by one, takes over its version if it is pinned, and
        the version to start from if it upgrades, as long as its task queue has workers of that version.

Facts: temporal/api/deployment/v1/message.proto and the comments of VersioningBehavior and
ContinueAsNewVersioningBehavior in temporal/api/enums/v1/workflow.proto.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.deployment.v1 import message_pb2 as deployments
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.workflow.v1 import message_pb2 as workflows

from durably.engine import records as r
from durably.engine.state import Activity, HistoryState, WorkflowState
from durably.engine.transition import Transition
from durably.engine.versioning.state import Notice
from durably.engine.versioning.version import (
    ANY,
    AUTO_UPGRADE,
    FRESH,
    PINNED,
    UNSPECIFIED,
    Route,
    Version,
    Worker,
    override_target,
)

USE_RAMPING = workflow_enums.CONTINUE_AS_NEW_VERSIONING_BEHAVIOR_USE_RAMPING_VERSION

Standing = tuple[bool, int, Version | None]
"""Whether a workflow moves, its effective behavior, and its effective version."""


# --- Questions ----------------------------------------------------------------------------------


def route(state: WorkflowState) -> Route:
    """For which workers the workflow tasks are."""
    found = state.versioning
    if found is not None and found.effective_behavior != UNSPECIFIED:
        ramping = found.initial_behavior == USE_RAMPING and not state.last_completed_event_id
        return Route(
            found.effective_behavior, found.effective_version, found.revision, ramping=ramping
        )
    build_id = compatible_build(state.worker_version)
    if build_id:
        return Route(build_id=build_id)
    return ANY if state.last_completed_event_id else FRESH


def activity_route(state: HistoryState, activity: Activity) -> Route:
    """For which workers an activity is: those of its workflow's version, or the newest of its queue."""
    if not isinstance(state, WorkflowState):
        return FRESH
    found = route(state)
    if found.behavior == UNSPECIFIED and not activity.scheduled.use_workflow_build_id:
        return FRESH
    return found


@lru_cache(maxsize=1024)
def compatible_build(stamp: bytes) -> str:
    """The build of a worker that asks for compatible workers, without deployments; else empty."""
    if not stamp:
        return ""
    found = common.WorkerVersionStamp.FromString(stamp)
    return found.build_id if found.use_versioning else ""


def standing(state: WorkflowState) -> Standing:
    found = state.versioning
    if found is None:
        return False, UNSPECIFIED, None
    return found.moving, found.effective_behavior, found.effective_version


def is_for(state: WorkflowState, worker: Worker) -> bool:
    """Whether a worker may take a task: one of a pinned workflow only if it has its version."""
    _, behavior, version = standing(state)
    return behavior != PINNED or version == worker.version


# --- Workflow tasks -----------------------------------------------------------------------------


def task_starts(t: Transition, target: Notice | None) -> bool:
    """Note what a pinned workflow would have if it upgraded; whether its worker is to be told.

    `target` None: nobody has looked.
    """
    state = t.state
    found = state.versioning
    if found is None or found.effective_behavior == UNSPECIFIED:
        return False
    notified, declined = state.notified, state.declined
    if found.override is not None:
        notified = declined = None
    elif target is not None and found.effective_behavior == PINNED:
        notified, declined = _noticed(found.effective_version, target, notified, declined)
    if (notified, declined) != (state.notified, state.declined):
        t.note(r.TargetNoticed(notified, declined))
    return found.effective_behavior == PINNED and notified is not None


def _noticed(
    version: Version | None, target: Notice, notified: Notice | None, declined: Notice | None
) -> tuple[Notice | None, Notice | None]:
    newest = max(each.revision if each is not None else 0 for each in (notified, declined))
    if version == target.version and target.revision >= newest:
        return None, None
    if declined is not None and target.revision <= declined.revision:
        return notified, declined
    if target.revision < newest:
        return notified, declined
    return target, None


def task_started(t: Transition, worker: Worker, target: Notice | None) -> None:
    """A worker has a task; if it is of another version, a move begins."""
    _, _, version = standing(t.state)
    if version != worker.version:
        t.note(r.MoveStarted(worker.version, target.revision if target is not None else 0))


def moving(state: WorkflowState) -> bool:
    return state.versioning is not None and state.versioning.moving


def moved(before: Standing, after: Standing) -> bool:
    """Whether what waits for a worker waits for another one now."""
    return (before[0] and not after[0]) or before[1:] != after[1:]


def activity_moves(t: Transition[HistoryState], worker: Worker, target: Notice | None) -> bool:
    """A worker comes for an activity; whether its workflow moves to the worker's version first.

    `target`: where the workflow's own tasks go now.
    """
    state = t.state
    if not isinstance(state, WorkflowState) or target is None:
        return False
    _, behavior, version = standing(state)
    if behavior == PINNED or worker.version == version:
        return False
    if worker.version != target.version:
        return False  # The activity has versions of its own.
    t.note(r.MoveStarted(worker.version, target.revision))
    return True


# --- Options ------------------------------------------------------------------------------------


# --- What other runs take over ------------------------------------------------------------------

InVersion = Callable[[str, Version], bool]
"""(task queue, version) -> whether workers of that version have polled that queue for workflows."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a run has from its parent."""

    override: workflows.VersioningOverride | None = None
    pinned: Version | None = None
    upgrade: deployments.InheritedAutoUpgradeInfo | None = None
    stamp: bytes = b""

    def set(self, into: history.WorkflowExecutionStartedEventAttributes) -> None:
        """An override that the start itself asks for goes before all that could be inherited."""
        if into.HasField("versioning_override"):
            return
        if self.override is not None:
            into.versioning_override.CopyFrom(self.override)
        if self.pinned is not None:
            into.inherited_pinned_version.CopyFrom(self.pinned.message)
        elif self.upgrade is not None:
            into.inherited_auto_upgrade_info.CopyFrom(self.upgrade)
        if self.stamp:
            into.source_version_stamp.ParseFromString(self.stamp)


NOTHING_INHERITED = Inherited()


def for_child(
    parent: WorkflowState,
    initiated: history.StartChildWorkflowExecutionInitiatedEventAttributes,
    in_version: InVersion,
) -> Inherited:
    """What a child has from its parent: nothing in another namespace."""
    queue = initiated.task_queue.name
    _, behavior, version = standing(parent)
    if behavior == UNSPECIFIED:
        inherits = initiated.inherit_build_id and compatible_build(parent.worker_version)
        return Inherited(stamp=parent.worker_version if inherits else b"")
    if initiated.namespace_id != parent.namespace_id:
        return Inherited()
    found = parent.versioning
    assert found is not None
    override = found.override if override_target(found.override) is not None else None
    there = queue == parent.task_queue or (version is not None and in_version(queue, version))
    if not there:
        return Inherited()
    if behavior == PINNED:
        return Inherited(override, version)
    return Inherited(override, upgrade=_upgrade(version, found.revision, 0))


def _upgrade(
    version: Version | None, revision: int, initial_behavior: int
) -> deployments.InheritedAutoUpgradeInfo | None:
    if version is None or not revision:
        return None
    return deployments.InheritedAutoUpgradeInfo(
        source_deployment_version=version.message,
        source_deployment_revision_number=revision,
        continue_as_new_initial_versioning_behavior=initial_behavior,  # type: ignore[arg-type]
    )


INHERITED_FIELDS = (
    "versioning_override",
    "inherited_pinned_version",
    "inherited_auto_upgrade_info",
    "declined_target_version_upgrade",
    "source_version_stamp",
)


def continue_from(
    state: WorkflowState,
    following: history.WorkflowExecutionStartedEventAttributes,
    initial_behavior: int,
    inherit_build_id: bool,
    in_version: InVersion,
) -> None:
    """The next run, continued as new. `initial_behavior`: not 0: it begins like one that upgrades."""
    _clear(following)
    found = state.versioning
    _, behavior, version = standing(state)
    if behavior == UNSPECIFIED or found is None:
        if inherit_build_id and compatible_build(state.worker_version):
            following.source_version_stamp.ParseFromString(state.worker_version)
        return
    queue = following.task_queue.name
    stays = queue == state.task_queue or (version is not None and in_version(queue, version))
    if not stays:
        return
    override = found.override
    if override is not None and override.WhichOneof("override") == "pinned":
        following.versioning_override.CopyFrom(override)
    if behavior == PINNED and not initial_behavior:
        assert version is not None
        following.inherited_pinned_version.CopyFrom(version.message)
        _decline(state, following)
        return
    upgrade = _upgrade(version, found.revision, initial_behavior)
    if upgrade is not None:
        following.inherited_auto_upgrade_info.CopyFrom(upgrade)


def _decline(
    state: WorkflowState, following: history.WorkflowExecutionStartedEventAttributes
) -> None:
    """A pinned run that goes on in its version was told of the other one, and did not want it."""
    notice = state.notified or state.declined
    if notice is None:
        return
    declined = following.declined_target_version_upgrade
    declined.revision_number = notice.revision
    if notice.version is not None:
        declined.deployment_version.CopyFrom(notice.version.message)


def retry_from(
    state: WorkflowState, following: history.WorkflowExecutionStartedEventAttributes
) -> None:
    """The next run, because this one failed: it begins as this one began."""
    began = state.started
    _follow(state, following)
    found = state.versioning
    _, behavior, version = standing(state)
    if behavior == PINNED and began.HasField("inherited_pinned_version") and version is not None:
        following.inherited_pinned_version.CopyFrom(version.message)
        if began.HasField("declined_target_version_upgrade"):
            following.declined_target_version_upgrade.CopyFrom(
                began.declined_target_version_upgrade
            )
    elif behavior == AUTO_UPGRADE and found is not None:
        upgrade = _upgrade(version, found.revision, found.initial_behavior)
        if upgrade is not None:
            following.inherited_auto_upgrade_info.CopyFrom(upgrade)
    elif behavior == UNSPECIFIED and compatible_build(state.worker_version):
        following.source_version_stamp.ParseFromString(state.worker_version)


def cron_from(
    state: WorkflowState, following: history.WorkflowExecutionStartedEventAttributes
) -> None:
    """The next run, by a cron schedule: it begins on the newest version, unless an override pins it."""
    _follow(state, following)


def _follow(
    state: WorkflowState, following: history.WorkflowExecutionStartedEventAttributes
) -> None:
    _clear(following)
    override = state.versioning.override if state.versioning is not None else None
    if override is not None and override.WhichOneof("override") == "pinned":
        following.versioning_override.CopyFrom(override)


def _clear(following: history.WorkflowExecutionStartedEventAttributes) -> None:
    for field in INHERITED_FIELDS:
        following.ClearField(field)  # type: ignore[arg-type]
