"""Cron schedules of workflows: when the next run of a chain begins.

Facts: `cron_schedule` of StartWorkflowExecutionRequest in the API. Five fields, a shorthand, or
`@every`, with `TZ=` or `CRON_TZ=` before; where both days are restricted, either of them will do.

Rule 1: a run begins at the first time of its schedule after the one before it began, and never in the
        past: times that passed while a run was under way are left out.
"""

from functools import lru_cache

from temporalio.api.schedule.v1 import message_pb2 as schedules

from durably.engine.schedule.notation import InvalidNotation, parse_cron
from durably.engine.schedule.spec import CompiledSpec, canonical
from durably.engine.times import SECOND_NS
from durably.errors import InvalidArgument

FIELDS = 5
DAY_OF_MONTH, DAY_OF_WEEK = 2, 4


class Cron:
    """A schedule that can be asked for times."""

    def __init__(self, text: str) -> None:
        zone, fields = _split(text)
        self.every_ns = 0
        """`@every`: counted from whenever the run before began; 0: by the calendar."""
        if fields[0].startswith("@"):
            parsed = parse_cron(" ".join(fields))
            if parsed.interval is not None:
                self.every_ns = max(parsed.interval.interval.seconds, 1) * SECOND_NS
                return
        elif len(fields) != FIELDS:
            raise InvalidNotation("a cron schedule has five fields")
        texts = [f"{zone} {' '.join(each)}".strip() for each in _either_day(fields)]
        spec = schedules.ScheduleSpec(cron_string=texts)
        self._spec = CompiledSpec(canonical(spec), seed="")

    def next_ns(self, after_ns: int) -> int | None:
        """The first time after this one, in nanoseconds since the epoch; None: there is none."""
        if self.every_ns:
            return (after_ns // SECOND_NS) * SECOND_NS + self.every_ns
        found = self._spec.next(after_ns)
        return found.nominal_ns if found is not None else None


def _split(text: str) -> tuple[str, list[str]]:
    """The time zone's prefix, if there is one, and the fields."""
    fields = text.split()
    zone = ""
    if fields and fields[0].startswith(("TZ=", "CRON_TZ=")):
        zone, *fields = fields
    if not fields:
        raise InvalidNotation("a cron schedule has five fields")
    return zone, fields


def _either_day(fields: list[str]) -> list[list[str]]:
    """The calendars that together are the schedule: two if both days are restricted."""
    fields = [field.replace("?", "*") for field in fields]
    if len(fields) != FIELDS or "*" in (fields[DAY_OF_MONTH], fields[DAY_OF_WEEK]):
        return [fields]
    by_month, by_week = list(fields), list(fields)
    by_month[DAY_OF_WEEK] = by_week[DAY_OF_MONTH] = "*"
    return [by_month, by_week]


@lru_cache(maxsize=2048)
def _parsed(text: str) -> Cron:
    return Cron(text)


def check(text: str, now_ns: int) -> None:
    """Raises InvalidArgument for a schedule that cannot be read, or that has no time."""
    if not text:
        return
    try:
        following = _parsed(text).next_ns(now_ns)
    except (InvalidNotation, InvalidArgument) as problem:
        raise InvalidArgument(f"invalid CronSchedule. {problem}") from problem
    if following is None:
        raise InvalidArgument("invalid CronSchedule, no time can be found to satisfy the schedule")


def delay_ns(text: str, begun_ns: int, now_ns: int) -> int | None:
    """How long until the next run, in whole seconds (as nanoseconds); None: there is none.

    `begun_ns`: when the present run began to be executed, after its own delay.
    """
    if not text:
        return None
    cron = _parsed(text)
    following: int | None = begun_ns
    if now_ns >= begun_ns:
        following = cron.next_ns(begun_ns)
        if following is not None and following < now_ns:
            following = _not_before(cron, following, now_ns)
    if following is None:
        return None
    return -(-(following - now_ns) // SECOND_NS) * SECOND_NS


def _not_before(cron: Cron, passed_ns: int, now_ns: int) -> int | None:
    """The first time that is not before `now_ns`; `passed_ns` is a time of the schedule."""
    if cron.every_ns:
        missed = -(-(now_ns - passed_ns) // cron.every_ns)
        return passed_ns + missed * cron.every_ns
    return cron.next_ns(now_ns - 1)
