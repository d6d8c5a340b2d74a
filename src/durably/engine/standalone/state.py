"""The state of one standalone activity; read-only questions.

Rule 1: only `apply.py` beside this file, and what all activities share in `engine/apply/activity.py`, write.
Rule 2: its one activity stays in `activities` after the end: a description shows its last attempt.

Times are nanoseconds since the epoch; 0 means "not set".
"""

from msgspec import field
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import activity_pb2 as activity_enums
from temporalio.api.failure.v1 import message_pb2 as failures

from durably.engine.state import Activity, HistoryState, Kind
from durably.engine.stored import StoredValue

SCHEDULED_EVENT_ID = 1
"""The first event of the private journal schedules the activity."""


class Attachment(StoredValue, frozen=True):
    """What one start request brought along: serialized Callback and Link messages."""

    request_id: str
    at_ns: int
    callbacks: tuple[bytes, ...] = ()
    links: tuple[bytes, ...] = ()


class CancelRequest(StoredValue, frozen=True):
    """Who wants the activity canceled, and why."""

    identity: str
    reason: str
    request_id: str


class StandaloneActivityState(HistoryState, tag="activity"):
    """`workflow_id` is the activity id; `status` is an ActivityExecutionStatus. A paused activity is
    running, too: `shown_status` tells the two apart."""

    KIND = Kind.ACTIVITY

    start_delay_ns: int = 0
    attachments: list[Attachment] = field(default_factory=list)
    cancel: CancelRequest | None = None
    terminate_request_id: str = ""
    requests_seen: dict[str, str] = field(default_factory=dict)
    """Operator's command -> its latest request id."""

    # How it ended: one of the two
    result: common.Payloads | None = None
    failure: failures.Failure | None = None
    retry_state: int = 0
    """Why no other attempt followed a failure or timeout: a RetryState."""

    @property
    def activity(self) -> Activity:
        return self.activities[SCHEDULED_EVENT_ID]

    @property
    def first_dispatch_ns(self) -> int:
        return self.start_ns + self.start_delay_ns

    @property
    def shown_status(self) -> activity_enums.ActivityExecutionStatus.ValueType:
        if self.running and self.activity.pause is not None and not self.activity.started:
            return activity_enums.ACTIVITY_EXECUTION_STATUS_PAUSED
        return self.status  # type: ignore[return-value]

    @property
    def stage(self) -> str:
        """Where it stands, in the words of the API's refusals."""
        if not self.running:
            name = activity_enums.ActivityExecutionStatus.Name(self.shown_status)
            name = name.removeprefix("ACTIVITY_EXECUTION_STATUS_")
            return name.title().replace("_", "")
        activity = self.activity
        if self.cancel is not None:
            return "CancelRequested"
        if not activity.started:
            return "Scheduled" if activity.pause is None else "Paused"
        if activity.reset_pending:
            return "ResetRequested"
        return "Started" if activity.pause is None else "PauseRequested"

    def attached_by(self, request_id: str) -> bool:
        return any(each.request_id == request_id for each in self.attachments)
