"""The state of one schedule; read-only questions.

Rule 1: only `apply.py` beside this file writes to it.
Rule 2: an action is in `buffer` until it is taken, then in `actions` until its workflow has ended:
        first without a run id (the outbox starts it), then with one.

Times are nanoseconds since the epoch; 0 means "not set".
"""

from enum import IntEnum

from msgspec import field
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import schedule_pb2 as schedule_enums
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.schedule.v1 import message_pb2 as schedules

from durably.engine.state import ExecutionState, Kind
from durably.engine.stored import Stored
from durably.engine.times import SECOND_NS, nanoseconds

CATCHUP_WINDOW_DEFAULT_NS = 365 * 86_400 * SECOND_NS
CATCHUP_WINDOW_MIN_NS = 10 * SECOND_NS


class End(IntEnum):
    """How a running workflow is to make way for the next; the stronger has the higher number."""

    NONE = 0
    CANCEL = 1
    TERMINATE = 2


class Buffered(Stored):
    """A due action that waits for the decision whether it is taken."""

    nominal_ns: int
    actual_ns: int
    overlap: int
    """A ScheduleOverlapPolicy; 0: the schedule's own when the decision is made."""
    manual: bool


class Action(Stored):
    """An action that was taken, until its workflow has ended."""

    number: int
    workflow_id: str
    nominal_ns: int
    actual_ns: int
    taken_ns: int
    overlapping: bool
    """Started beside others: no later action waits for it."""
    manual: bool
    run_id: str = ""
    """The first run; empty while the start is under way."""
    end: int = End.NONE
    end_sent: bool = False


class ActionResult(Stored):
    """One of the latest actions, for those who ask."""

    number: int
    actual_ns: int
    started_ns: int
    workflow_id: str
    run_id: str
    status: int


class Backfill(Stored):
    """The rest of a range of time that is to be treated as if it passed now."""

    after_ns: int
    end_ns: int
    overlap: int


class ScheduleState(ExecutionState, tag="schedule"):
    """Everything that the next decision about a schedule may depend on."""

    KIND = Kind.SCHEDULE

    schedule: schedules.Schedule = field(default_factory=schedules.Schedule)
    """In canonical form, with defaults."""
    conflict_token: int = 0
    update_ns: int = 0
    processed_ns: int = 0
    """Times of the spec up to this one have been dealt with."""
    next_ns: int = 0
    """The first time of the spec after `processed_ns`, with jitter."""

    buffer: list[Buffered] = field(default_factory=list)
    backfills: list[Backfill] = field(default_factory=list)
    actions: dict[int, Action] = field(default_factory=dict)
    actions_taken: int = 0

    action_count: int = 0
    missed_catchup_window: int = 0
    overlap_skipped: int = 0
    buffer_dropped: int = 0
    recent: list[ActionResult] = field(default_factory=list)

    last_completion_result: common.Payloads | None = None
    continued_failure: failure.Failure | None = None
    requests_seen: dict[str, int] = field(default_factory=dict)

    @property
    def paused(self) -> bool:
        return self.schedule.state.paused

    @property
    def seed(self) -> str:
        """What tells the jitter of this schedule from that of others."""
        return f"{self.namespace_id}-{self.workflow_id}"

    @property
    def identity(self) -> str:
        """Who starts, cancels and terminates workflows in the name of the schedule."""
        return f"temporal-scheduler-{self.namespace}-{self.workflow_id}"

    @property
    def may_act(self) -> bool:
        """Whether actions are taken when their time comes; those asked for by hand always are."""
        asked = self.schedule.state
        return not asked.paused and (not asked.limited_actions or asked.remaining_actions > 0)

    @property
    def waited_for(self) -> list[Action]:
        """Actions that a later one would overlap with."""
        return [action for action in self.actions.values() if not action.overlapping]

    @property
    def starts_under_way(self) -> int:
        return sum(not action.run_id for action in self.actions.values())

    @property
    def catchup_window_ns(self) -> int:
        asked = self.schedule.policies.catchup_window
        return nanoseconds(asked)

    def overlap_policy(self, asked: int) -> int:
        """The policy for one action that asked for `asked` (0: for none)."""
        own = self.schedule.policies.overlap_policy
        return asked or own or schedule_enums.SCHEDULE_OVERLAP_POLICY_SKIP
