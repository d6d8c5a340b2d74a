"""What events and records change of the versions of a workflow: the only writer of them."""

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.history.v1 import message_pb2 as history

from durably.engine import records as r
from durably.engine.journal import Changes
from durably.engine.state import WorkflowState
from durably.engine.versioning.state import Notice, Versioning
from durably.engine.versioning.version import (
    AUTO_UPGRADE,
    PINNED,
    UNSPECIFIED,
    Version,
    of_message,
    of_text,
    override_target,
    present_form,
)

UNVERSIONED, VERSIONED, PINNED_TO = "unversioned", "versioned", "pinned"
BUILD_IDS_MAX = 50
"""So many of the builds that have worked on a run are shown, the last ones; of versions as many."""


def workflow_started(
    state: WorkflowState, attributes: history.WorkflowExecutionStartedEventAttributes
) -> None:
    """What a run begins with: an override, or what it has from its parent or the run before."""
    if attributes.HasField("versioning_override"):
        _versioning(state).override = present_form(attributes.versioning_override)
    if attributes.HasField("inherited_pinned_version"):
        found = _versioning(state)
        found.version = of_message(attributes.inherited_pinned_version)
        found.behavior = PINNED
        if attributes.HasField("declined_target_version_upgrade"):
            state.declined = _notice(attributes.declined_target_version_upgrade)
    if attributes.HasField("inherited_auto_upgrade_info"):
        inherited = attributes.inherited_auto_upgrade_info
        found = _versioning(state)
        found.version = of_message(inherited.source_deployment_version)
        found.revision = inherited.source_deployment_revision_number
        found.behavior = AUTO_UPGRADE
        found.initial_behavior = inherited.continue_as_new_initial_versioning_behavior
    if attributes.source_version_stamp.build_id:
        state.worker_version = attributes.source_version_stamp.SerializeToString()
        note_builds(state, attributes.source_version_stamp)
    if state.versioning is not None:
        version = state.versioning.effective_version
        state.deployment = version.deployment if version is not None else ""
        note_builds(state, None)


def _versioning(state: WorkflowState) -> Versioning:
    if state.versioning is None:
        state.versioning = Versioning()
    return state.versioning


def _notice(
    found: history.DeclinedTargetVersionUpgrade,
) -> Notice:
    version = of_message(found.deployment_version) if found.HasField("deployment_version") else None
    return Notice(version, found.revision_number)


def task_completed(
    state: WorkflowState, attributes: history.WorkflowTaskCompletedEventAttributes
) -> None:
    """The worker's version, and what it says of its workflow type, are the workflow's from now on."""
    state.deployment = attributes.worker_deployment_name
    version = _completing_version(attributes)
    found = state.versioning
    if found is not None and found.moving and found.moving_to == version:
        found.moving, found.moving_to = False, None
    if attributes.versioning_behavior != UNSPECIFIED:
        found = _versioning(state)
        found.behavior, found.version = attributes.versioning_behavior, version
    elif found is not None:
        found.behavior, found.version = UNSPECIFIED, None
    if found is not None and found.override is not None:
        once = found.override.WhichOneof("override") == "one_time"
        if once and version is not None and override_target(found.override) == version:
            found.override = None
    if version is not None and str(version) not in state.used_versions:
        state.used_versions = [*state.used_versions, str(version)][-BUILD_IDS_MAX:]
    note_builds(state, attributes.worker_version)


def _completing_version(
    attributes: history.WorkflowTaskCompletedEventAttributes,
) -> Version | None:
    if attributes.HasField("deployment_version"):
        return of_message(attributes.deployment_version)
    if attributes.worker_deployment_version:
        return of_text(attributes.worker_deployment_version)
    return None


def note_builds(state: WorkflowState, stamp: common.WorkerVersionStamp | None) -> None:
    """What BuildIds shows: how the workflow stands now, then every build that has worked on it.

    `stamp`: of a worker that has just done so; None: the workflow stands differently, that is all.
    """
    found = state.versioning
    behavior = found.shown_behavior if found is not None else UNSPECIFIED
    versioned = stamp is not None and stamp.use_versioning
    stands: list[str] = []
    if behavior == UNSPECIFIED and not versioned:
        stands = [UNVERSIONED]
    elif behavior == PINNED and found is not None:
        stands = [f"{PINNED_TO}:{found.shown_version}"]
    builds = [
        each
        for each in state.build_ids
        if each != UNVERSIONED and not each.startswith(f"{PINNED_TO}:")
    ]
    if stamp is not None and stamp.build_id:
        name = f"{VERSIONED if stamp.use_versioning else UNVERSIONED}:{stamp.build_id}"
        builds += [name] if name not in builds else []
    state.build_ids = stands + builds[-BUILD_IDS_MAX + len(stands) :]


def options_updated(
    state: WorkflowState, attributes: history.WorkflowExecutionOptionsUpdatedEventAttributes
) -> None:
    """An override ends a move that is under way, if it changes where the workflow belongs."""
    if attributes.HasField("priority"):
        state.priority = attributes.priority
    if attributes.HasField("versioning_override"):
        found = _versioning(state)
    elif attributes.unset_versioning_override and state.versioning is not None:
        found = state.versioning
    else:
        return
    before = (found.effective_behavior, found.effective_version)
    if attributes.HasField("versioning_override"):
        found.override = present_form(attributes.versioning_override)
        target = override_target(found.override)
        state.deployment = target.deployment if target is not None else state.deployment
    else:
        found.override = None
        state.deployment = found.version.deployment if found.version is not None else ""
    if (found.effective_behavior, found.effective_version) != before or (
        found.moving and found.shown_behavior == PINNED
    ):
        found.moving, found.moving_to = False, None
        state.sticky_queue = ""
        note_builds(state, None)


def _apply_move(state: WorkflowState, record: r.MoveStarted) -> None:
    found = _versioning(state)
    found.moving, found.moving_to = True, record.version
    found.revision = record.revision
    state.sticky_queue = ""


def _apply_notice(state: WorkflowState, record: r.TargetNoticed) -> None:
    state.notified, state.declined = record.notified, record.declined


RECORDS: Changes = {
    r.MoveStarted: _apply_move,
    r.TargetNoticed: _apply_notice,
}
