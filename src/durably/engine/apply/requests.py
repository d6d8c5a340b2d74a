"""What workflows remember of the requests that reached them. Rules: see `entries.py`."""

from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.history.v1 import message_pb2 as history

from durably.engine.state import RequestEvent, WorkflowState

REQUESTS_SEEN_MAX = 10_000
REQUESTS_MAX = 10_000


def note_request(state: WorkflowState, request_id: str, event: history.HistoryEvent) -> None:
    """Remember which event a request has made. Of too many the oldest is forgotten, but for the one
    that started the run."""
    if not request_id:
        return
    state.requests[request_id] = RequestEvent(event.event_type, event.event_id)
    if len(state.requests) > REQUESTS_MAX:
        started = event_types.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
        oldest = (i for i, made in state.requests.items() if made.event_type != started)
        del state.requests[next(oldest)]


def see_request(state: WorkflowState, request_id: str, event_id: int = 0) -> None:
    """Remember a request id; the oldest is forgotten, for a retry comes within minutes."""
    state.requests_seen[request_id] = event_id
    if len(state.requests_seen) > REQUESTS_SEEN_MAX:
        del state.requests_seen[next(iter(state.requests_seen))]
