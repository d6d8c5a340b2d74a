"""The workflow task machine (being written): the signatures others build on."""

from dataclasses import dataclass, field

from temporalio.api.history.v1 import message_pb2 as history


@dataclass(slots=True)
class WorkflowTaskGrant:
    """What a poller is told of the workflow task it has started."""

    scheduled_event_id: int
    started_event_id: int
    attempt: int
    previous_started_event_id: int
    scheduled_ns: int
    started_ns: int
    sticky: bool
    """Polled from the sticky queue: history from previous_started_event_id + 1 on is enough."""
    last_event_id: int
    """History in the reply ends here; newer events belong to the next task."""
    transient_events: list[history.HistoryEvent] = field(default_factory=list)
    """Scheduled and started events of a transient task: shown, but not in history."""
