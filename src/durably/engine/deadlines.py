"""Everything in an execution that time can do, in one place.

Rule 1: a deadline that comes too early finds nothing due, and changes nothing but the next deadline.
Rule 2: timers fire in the order of their times.
"""

from typing import Any

from durably.engine import activity, nexus_operation, timer, workflow, workflow_task
from durably.engine.callback import machine as callback
from durably.engine.deployment import machine as deployment
from durably.engine.deployment.state import DeploymentState
from durably.engine.schedule import machine as schedule
from durably.engine.schedule.state import ScheduleState
from durably.engine.standalone.state import StandaloneActivityState
from durably.engine.standalone_nexus.state import StandaloneNexusState
from durably.engine.state import AwaitedState, ExecutionState, WorkflowState
from durably.engine.transition import Transition


def next_deadline(state: ExecutionState) -> int:
    """The earliest moment at which this execution wants attention; 0: never. One that has closed only
    has callbacks."""
    moments = (callback.next_deadline(state), _while_open(state) if state.running else 0)
    return min((m for m in moments if m), default=0)


def _while_open(state: ExecutionState) -> int:
    match state:
        case WorkflowState():
            return _workflow_deadline(state)
        case ScheduleState():
            return schedule.next_deadline(state)
        case StandaloneActivityState():
            return activity.next_deadline(state.activity)
        case DeploymentState():
            return deployment.next_deadline(state)
        case StandaloneNexusState():
            return nexus_operation.next_deadline(state.operation)
        case _:
            return 0


def _workflow_deadline(state: WorkflowState) -> int:
    moments = [workflow.next_deadline(state), workflow_task.next_deadline(state)]
    moments += [pending.fire_at_ns for pending in state.timers.values()]
    held = state.held
    moments += [activity.next_deadline(a, held=held) for a in state.activities.values()]
    moments += [nexus_operation.next_deadline(o) for o in state.nexus_operations.values()]
    return min((m for m in moments if m), default=0)


def fire_due(t: Transition[Any]) -> None:
    """Let everything happen whose time has come, then say when to look again."""
    match t.state:
        case WorkflowState():
            _fire_workflow(t)
        case ScheduleState():
            schedule.fire_due(t)
        case StandaloneActivityState() if t.state.running:
            activity.fire_due(t)
        case DeploymentState() if t.state.running:
            deployment.fire_due(t)
        case StandaloneNexusState() if t.state.running:
            nexus_operation.fire_due(t)
    if isinstance(t.state, AwaitedState):
        callback.fire_due(t)
    t.deadline_ns = next_deadline(t.state)
    t.reschedule = True


def _fire_workflow(t: Transition) -> None:
    if t.state.running:
        workflow.fire_due(t)
    if t.state.running:
        activity.fire_due(t)
    if t.state.running:
        nexus_operation.fire_due(t)
    if t.state.running:
        timer.fire_due(t)
    if t.state.running:
        workflow_task.fire_due(t)
