"""Timers, as events change them. Rules: see `entries.py`."""

from collections.abc import Callable

from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.history.v1 import message_pb2 as history

from durably.engine.state import Timer, WorkflowState
from durably.engine.times import nanoseconds


def _started(state: WorkflowState, event: history.HistoryEvent) -> None:
    attributes = event.timer_started_event_attributes
    fire_at_ns = nanoseconds(event.event_time) + nanoseconds(attributes.start_to_fire_timeout)
    state.timers[attributes.timer_id] = Timer(attributes.timer_id, event.event_id, fire_at_ns)


def _fired(state: WorkflowState, event: history.HistoryEvent) -> None:
    state.timers.pop(event.timer_fired_event_attributes.timer_id, None)


def _canceled(state: WorkflowState, event: history.HistoryEvent) -> None:
    state.timers.pop(event.timer_canceled_event_attributes.timer_id, None)


EVENTS: dict[int, Callable[[WorkflowState, history.HistoryEvent], None]] = {
    event_types.EVENT_TYPE_TIMER_STARTED: _started,
    event_types.EVENT_TYPE_TIMER_FIRED: _fired,
    event_types.EVENT_TYPE_TIMER_CANCELED: _canceled,
}
