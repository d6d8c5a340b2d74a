"""What becomes of due actions while earlier ones still run.

Facts: ScheduleOverlapPolicy in temporal/api/enums/v1/schedule.proto.

    policy            nothing runs   something runs
    ---------------   ------------   -----------------------------------------------
    SKIP              start          skip
    BUFFER_ONE        start          wait, if none waits yet; else skip
    BUFFER_ALL        start          wait
    CANCEL_OTHER      start          cancel what runs, wait for its end
    TERMINATE_OTHER   start          terminate what runs, wait for its end
    ALLOW_ALL         start          start

Rule 1: the first due action that finds nothing running is started whatever its policy; those due with
        it find it running, except that CANCEL_OTHER and TERMINATE_OTHER take its place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from temporalio.api.enums.v1 import schedule_pb2 as schedule_enums

from durably.engine.schedule.state import Buffered, End

SKIP = schedule_enums.SCHEDULE_OVERLAP_POLICY_SKIP
BUFFER_ONE = schedule_enums.SCHEDULE_OVERLAP_POLICY_BUFFER_ONE
BUFFER_ALL = schedule_enums.SCHEDULE_OVERLAP_POLICY_BUFFER_ALL
CANCEL_OTHER = schedule_enums.SCHEDULE_OVERLAP_POLICY_CANCEL_OTHER
TERMINATE_OTHER = schedule_enums.SCHEDULE_OVERLAP_POLICY_TERMINATE_OTHER
ALLOW_ALL = schedule_enums.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL


@dataclass(slots=True)
class Decision:
    """Positions in the buffer: what starts beside others, what starts alone, what waits."""

    overlapping: list[int] = field(default_factory=list)
    alone: int | None = None
    kept: list[int] = field(default_factory=list)
    skipped: int = 0
    end: End = End.NONE
    """How what runs is to make way."""


def decide(buffer: Sequence[Buffered], running: bool, policy_of: Callable[[int], int]) -> Decision:
    """What to do with the buffer now. `policy_of`: the policy for what an action asked for."""
    decision = Decision()
    for position, due in enumerate(buffer):
        policy = policy_of(due.overlap)
        if policy == ALLOW_ALL:
            decision.overlapping.append(position)
        elif not running and decision.alone is None:
            decision.alone = position
        else:
            _overlap(decision, position, policy, running)
    return decision


def _overlap(decision: Decision, position: int, policy: int, running: bool) -> None:
    if policy in (CANCEL_OTHER, TERMINATE_OTHER):
        if not running:
            decision.alone = position
            return
        wanted = End.TERMINATE if policy == TERMINATE_OTHER else End.CANCEL
        decision.end = max(decision.end, wanted)
        decision.kept.append(position)
    elif policy == BUFFER_ALL or (policy == BUFFER_ONE and not decision.kept):
        decision.kept.append(position)
    else:
        decision.skipped += 1
