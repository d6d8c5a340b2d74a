"""Options of a workflow that can be changed while it runs: its override, its priority.

Rule 1: an event is recorded only if something is different afterwards; it says all options, whole.
Rule 2: what waits for a worker is put on its queue again, if it belongs somewhere else now.
"""

from collections.abc import Iterable

from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.workflow.v1 import message_pb2 as workflows

from durably.engine import activity, priority, workflow_task
from durably.engine.state import WorkflowState
from durably.engine.transition import Transition
from durably.engine.versioning import machine as versioning
from durably.engine.versioning.version import AUTO_UPGRADE, PINNED, present_form
from durably.engine.workflow import ensure_running
from durably.errors import FailedPrecondition

Options = workflows.WorkflowExecutionOptions
BEHAVIORS: dict[int, str] = {PINNED: "Pinned", AUTO_UPGRADE: "AutoUpgrade"}
PRIORITY_FIELDS = ("priority_key", "fairness_key", "fairness_weight")


def options(state: WorkflowState) -> Options:
    """What the workflow has now."""
    found = Options()
    own = priority.of_workflow(state)
    if state.started.HasField("priority") or state.priority is not None:
        found.priority.CopyFrom(own)
    if state.versioning is not None and state.versioning.override is not None:
        found.versioning_override.CopyFrom(state.versioning.override)
    return found


def completed(state: WorkflowState, asked: Options) -> Options:
    """A pin that names no version means the version that the workflow is pinned to now."""
    pinned = asked.versioning_override.pinned
    if not pinned.behavior or pinned.HasField("version"):
        return asked
    _, behavior, version = versioning.standing(state)
    if behavior != PINNED or version is None:
        raise FailedPrecondition(
            "must specify a specific pinned override version because workflow with id"
            f" {state.workflow_id} has behavior {BEHAVIORS.get(behavior, 'Unspecified')} and is not yet pinned to any version"
        )
    found = Options()
    found.CopyFrom(asked)
    found.versioning_override.pinned.version.CopyFrom(version.message)
    return found


def update(t: Transition, asked: Options, paths: Iterable[str], identity: str) -> Options:
    """UpdateWorkflowExecutionOptions: the options that the workflow has afterwards."""
    state = t.state
    ensure_running(state)
    before = options(state)
    after = _merged(before, asked, paths)
    if after == before:
        return after
    event = history.WorkflowExecutionOptionsUpdatedEventAttributes(identity=identity)
    if after.HasField("versioning_override"):
        event.versioning_override.CopyFrom(after.versioning_override)
    else:
        event.unset_versioning_override = True
    if after.HasField("priority"):
        event.priority.CopyFrom(after.priority)
    standing = versioning.standing(state)
    if versioning.record_options(t, event):
        _put_elsewhere(t, standing)
    return after


def _put_elsewhere(t: Transition, before: versioning.Standing) -> None:
    task = t.state.workflow_task
    if task is not None and not task.started:
        workflow_task.redispatch(t)
    if versioning.moved(before, versioning.standing(t.state)):
        activity.reroute(t)


def _merged(before: Options, asked: Options, paths: Iterable[str]) -> Options:
    after = Options()
    after.CopyFrom(before)
    for path in paths:
        head, _, rest = path.partition(".")
        if head == "versioning_override":
            after.ClearField("versioning_override")
            if asked.HasField("versioning_override"):
                after.versioning_override.CopyFrom(present_form(asked.versioning_override))
        elif rest in PRIORITY_FIELDS:
            setattr(after.priority, rest, getattr(asked.priority, rest))
        else:
            after.ClearField("priority")
            if asked.HasField("priority"):
                after.priority.CopyFrom(asked.priority)
    return after
