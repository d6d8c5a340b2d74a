"""Priorities of tasks: which go first, and between whom turns are taken.

Facts: the comments of `temporal.api.common.v1.Priority`. A task has a level, 1 to 5, where 1 goes
first and 3 is the default; within a level, tasks take turns between fairness keys, by weight.
"""

from temporalio.api.common.v1 import message_pb2 as common

from durably.engine.state import HistoryState, WorkflowState
from durably.errors import InvalidArgument

DEFAULT_LEVEL = 3
LEVEL_MAX = 5
FAIRNESS_KEY_BYTES_MAX = 64
WEIGHT_MIN, WEIGHT_MAX = 0.001, 1000.0


def check(priority: common.Priority) -> None:
    """Raises InvalidArgument, naming what is wrong."""
    if priority.priority_key < 0:
        raise InvalidArgument("priority key can't be negative")
    check_fairness_key(priority.fairness_key)
    if priority.fairness_weight < 0:
        raise InvalidArgument("must be greater than zero")


def check_fairness_key(key: str) -> None:
    if len(key.encode()) > FAIRNESS_KEY_BYTES_MAX:
        raise InvalidArgument("fairness key length exceeds limit")


def merge(base: common.Priority, override: common.Priority) -> common.Priority:
    """What the override does not say is as in the base."""
    return common.Priority(
        priority_key=override.priority_key or base.priority_key,
        fairness_key=override.fairness_key or base.fairness_key,
        fairness_weight=override.fairness_weight or base.fairness_weight,
    )


def of_workflow(state: WorkflowState) -> common.Priority:
    """Of the tasks of a workflow; what nobody asked for is not set."""
    return state.priority if state.priority is not None else state.started.priority


def of_activity(state: HistoryState, scheduled_event_id: int) -> common.Priority:
    """Of an activity; what it does not say is as in its workflow."""
    own = state.activities[scheduled_event_id].scheduled.priority
    if isinstance(state, WorkflowState):
        of_all = of_workflow(state)
        return merge(of_all, own) if of_all.ByteSize() else own
    return own


def level(priority: common.Priority) -> int:
    return min(priority.priority_key, LEVEL_MAX) or DEFAULT_LEVEL


def weight(asked: float) -> float:
    """A weight within its bounds; none, or one that is no number, is 1."""
    return min(max(asked, WEIGHT_MIN), WEIGHT_MAX) if asked > 0 else 1.0
