"""What can be changed of a workflow while it runs, by WorkflowExecutionOptionsUpdated: its override and
its priority; and callbacks that later requests attach to it, or to one of its updates.

Rule 1: options are recorded only if one is different afterwards; the event says all of them, whole.
        What a request attaches is recorded once.
Rule 2: what waits for a worker is put on its queue again, if it belongs somewhere else now.
Rule 3: the worker need not know: no workflow task is scheduled for it.
"""

from collections.abc import Iterable, Sequence

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.workflow.v1 import message_pb2 as workflows

from durably.config import Config
from durably.engine import activity, priority, workflow_task
from durably.engine.callback import machine as callback
from durably.engine.state import WorkflowState
from durably.engine.transition import Transition
from durably.engine.versioning import machine as versioning
from durably.engine.versioning.version import AUTO_UPGRADE, PINNED, present_form
from durably.engine.workflow import ensure_running
from durably.errors import FailedPrecondition

Options = workflows.WorkflowExecutionOptions
OptionsUpdated = history.WorkflowExecutionOptionsUpdatedEventAttributes
OptionsOfUpdate = OptionsUpdated.WorkflowUpdateOptionsUpdate
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
    event = OptionsUpdated(identity=identity)
    if after.HasField("versioning_override"):
        event.versioning_override.CopyFrom(after.versioning_override)
    else:
        event.unset_versioning_override = True
    if after.HasField("priority"):
        event.priority.CopyFrom(after.priority)
    standing, urgency = versioning.standing(state), priority.of_workflow(state)
    _record(t, event)
    t.visible = True
    moved = versioning.moved(standing, versioning.standing(state))
    if moved or priority.of_workflow(state) != urgency:
        _put_elsewhere(t, standing)
    return after


def _record(t: Transition, event: OptionsUpdated, links: Iterable[common.Link] = ()) -> None:
    t.record(event, links=links, worker_may_ignore=True)


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


# --- What requests attach -----------------------------------------------------------------------


def attach(
    t: Transition,
    request_id: str,
    callbacks: Sequence[common.Callback],
    links: Sequence[common.Link],
    config: Config,
) -> None:
    """What a start that met this run brings to it (OnConflictOptions)."""
    state = t.state
    if request_id and request_id in state.requests:
        return
    ensure_running(state)
    callback.check_room(state, len(callbacks), config.callbacks_max)
    event = OptionsUpdated(attached_request_id=request_id, attached_completion_callbacks=callbacks)
    _record(t, event, links)


def attach_to_update(t: Transition, options: OptionsOfUpdate) -> None:
    """What a later request for an update brings to it."""
    _record(t, OptionsUpdated(workflow_update_options=[options]))


# --- After a reset ------------------------------------------------------------------------------


def apply_again(t: Transition, event: history.HistoryEvent) -> None:
    """Options of the run before hold for this one too. What one request attached is not attached
    again; callbacks go with the update they belong to."""
    attributes = event.workflow_execution_options_updated_event_attributes
    options = attributes.workflow_update_options
    asked = {attributes.attached_request_id, *(each.attached_request_id for each in options)}
    if asked & t.state.requests.keys():
        return
    if any(each.update_id not in t.state.updates for each in options):
        return
    _record(t, attributes, event.links)
