"""A compiled schedule spec: the next time after a given one.

Facts: ScheduleSpec in temporal/api/schedule/v1/message.proto.

Rule 1: a spec means the union of its calendars and intervals, less what is excluded.
Rule 2: calendars match the clock on the wall. A time that a change of the clock skips does not match;
        one that it repeats matches twice.
Rule 3: jitter is a function of the time and the schedule's name, never chance, so that every server
        and every restart agrees; it is shorter than the gap to the following time.

Times are whole seconds since the epoch, except those with jitter, in nanoseconds.
"""

import hashlib
import io
import math
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import islice
from zoneinfo import ZoneInfo

from temporalio.api.schedule.v1 import message_pb2 as schedules

from durably.engine.schedule.notation import (
    FIELDS,
    YEAR_MAX,
    InvalidNotation,
    parse_calendar,
    parse_cron,
)
from durably.engine.times import SECOND_NS, nanoseconds

DAY_S = 86_400
EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
COMMENT_CHARS_MAX = 200
EXCLUDED_IN_A_ROW_MAX = 100_000
"""After this many excluded times in a row the search ends as if there were no more."""
JITTER_MS_MAX = 2**32 - 1


# --- Canonical form ---------------------------------------------------------------------------


def canonical(spec: schedules.ScheduleSpec) -> schedules.ScheduleSpec:
    """The same spec with calendars and cron strings as structured calendars and intervals.

    Raises InvalidNotation for what makes no sense, an unknown time zone included.
    """
    result = schedules.ScheduleSpec()
    result.CopyFrom(spec)
    result.ClearField("calendar")
    result.ClearField("exclude_calendar")
    result.ClearField("cron_string")
    result.structured_calendar.extend(parse_calendar(each) for each in spec.calendar)
    result.exclude_structured_calendar.extend(
        parse_calendar(each) for each in spec.exclude_calendar
    )
    _add_crons(result, spec.cron_string)
    for calendar in result.structured_calendar:
        _check_calendar(calendar)
    for calendar in result.exclude_structured_calendar:
        _check_calendar(calendar)
    for interval in result.interval:
        _check_interval(interval)
    _zone(result.timezone_name, result.timezone_data)
    return result


def _add_crons(result: schedules.ScheduleSpec, texts: Iterable[str]) -> None:
    crons = [parse_cron(text) for text in texts]
    for cron in crons:
        if cron.calendar is not None:
            result.structured_calendar.append(cron.calendar)
        if cron.interval is not None:
            result.interval.append(cron.interval)
    zones = {cron.timezone_name for cron in crons}
    if len(zones) > 1:
        raise InvalidNotation("conflicting timezone names")
    zone = "".join(zones)
    if zone:
        if result.timezone_name not in ("", zone) or result.timezone_data:
            raise InvalidNotation("conflicting timezone names")
        result.timezone_name = zone


def _check_calendar(calendar: schedules.StructuredCalendarSpec) -> None:
    problems: list[str] = []
    for key, field in FIELDS.items():
        high = 6 if key == "day_of_week" else field.high
        limits = f"[{field.low}-{high}]"
        for each in getattr(calendar, key):
            if not field.low <= each.start <= high:
                problems.append(f"{field.name} Start is not in range {limits}")
            if each.end and not each.start <= each.end <= high:
                problems.append(f"{field.name} End is before Start or not in range {limits}")
            if each.step < 0:
                problems.append(f"{field.name} has invalid Step")
    if len(calendar.comment) > COMMENT_CHARS_MAX:
        problems.append("comment is too long")
    if problems:
        raise InvalidNotation("invalid calendar spec: " + ", ".join(problems))


def _check_interval(interval: schedules.IntervalSpec) -> None:
    every_ns, phase_ns = nanoseconds(interval.interval), nanoseconds(interval.phase)
    if every_ns < SECOND_NS:
        raise InvalidNotation("interval is too small")
    if phase_ns < 0:
        raise InvalidNotation("phase is negative")
    if phase_ns >= every_ns:
        raise InvalidNotation("phase cannot be greater than Interval")


def with_defaults(spec: schedules.ScheduleSpec) -> schedules.ScheduleSpec:
    """As it is shown: `end` and `step` of every range filled in."""
    shown = schedules.ScheduleSpec()
    shown.CopyFrom(spec)
    for calendar in (*shown.structured_calendar, *shown.exclude_structured_calendar):
        for key in FIELDS:
            for each in getattr(calendar, key):
                each.end = max(each.start, each.end)
                each.step = each.step or 1
    return shown


# --- Time zones -------------------------------------------------------------------------------


def _zone(name: str, data: bytes) -> ZoneInfo | None:
    """None: UTC."""
    try:
        if data:
            return ZoneInfo.from_file(io.BytesIO(data), key=name or None)
        if name in ("", "UTC"):
            return None
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError, EOFError, struct.error) as error:
        problem = "malformed time zone information" if data else f"unknown time zone {name}"
        raise InvalidNotation(problem) from error


class Clock:
    """The clock on the wall of one time zone."""

    def __init__(self, zone: ZoneInfo | None) -> None:
        self._zone = zone
        self._changes: dict[int, list[int]] = {}

    def offset(self, at: int) -> int:
        """Seconds east of UTC at a moment."""
        if self._zone is None:
            return 0
        there = datetime.fromtimestamp(at, self._zone).utcoffset()
        return 0 if there is None else int(there.total_seconds())

    def next_change(self, after: int, until: int) -> int | None:
        """The first moment in (after, until] from which another offset holds."""
        if self._zone is None:
            return None
        year = datetime.fromtimestamp(after, UTC).year
        last = datetime.fromtimestamp(until, UTC).year
        while year <= last:
            for change in self._changes_of(year):
                if change > until:
                    return None
                if change > after:
                    return change
            year += 1
        return None

    def _changes_of(self, year: int) -> list[int]:
        if year not in self._changes:
            start = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
            end = int(datetime(year + 1, 1, 1, tzinfo=UTC).timestamp())
            self._changes[year] = list(self._search(start, end))
        return self._changes[year]

    def _search(self, start: int, end: int) -> Iterator[int]:
        """The changes in (start, end]; no zone changes twice within five days."""
        low = start
        while low < end:
            high = min(low + 5 * DAY_S, end)
            before = self.offset(low)
            if self.offset(high) != before:
                unchanged, changed = low, high
                while changed - unchanged > 1:
                    middle = (unchanged + changed) // 2
                    if self.offset(middle) == before:
                        unchanged = middle
                    else:
                        changed = middle
                yield changed
            low = high


@lru_cache(maxsize=256)
def _clock(name: str, data: bytes) -> Clock:
    return Clock(_zone(name, data))


# --- Calendars --------------------------------------------------------------------------------


class Calendar:
    """One structured calendar; wall times are seconds since the epoch as if it were UTC."""

    def __init__(self, calendar: schedules.StructuredCalendarSpec, clock: Clock) -> None:
        self._clock = clock
        self._seconds = _values(calendar.second)
        self._minutes = _values(calendar.minute)
        self._hours = _values(calendar.hour)
        self._days = frozenset(_values(calendar.day_of_month))
        self._weekdays = frozenset(_values(calendar.day_of_week))
        self._months = frozenset(_values(calendar.month))
        self._years = frozenset(_values(calendar.year))
        self._never = not (
            self._seconds
            and self._minutes
            and self._hours
            and self._days
            and self._weekdays
            and self._months
        )

    def matches(self, at: int) -> bool:
        wall = at + self._clock.offset(at)
        days, second = divmod(wall, DAY_S)
        return self._on(_date(days)) and self._time_from(second) == second

    def next(self, after: int) -> int | None:
        """The first matching moment after this one; None: there is none up to the last year."""
        if self._never:
            return None
        at = after + 1
        while True:
            offset = self._clock.offset(at)
            wall = self._next_wall(at + offset)
            found = _LAST_SECOND if wall is None else wall - offset
            # Nothing matches before `found`, except on another offset: beside a change of the clock
            # that is near the start, or near the end.
            change = self._clock.next_change(at, min(found, at + DAY_S))
            if change is None and wall is None:
                return None
            if change is None and found - at > 3 * DAY_S:
                change = found - 2 * DAY_S
            if change is None:
                change = self._clock.next_change(at, found)
            if change is None:
                return found
            at = change

    def _next_wall(self, wall: int) -> int | None:
        days, second = divmod(wall, DAY_S)
        day: date | None = _date(days)
        while day is not None and day.year <= YEAR_MAX:
            if self._on(day):
                found = self._time_from(second)
                if found is not None:
                    return (day.toordinal() - EPOCH_ORDINAL) * DAY_S + found
            second = 0
            day = self._following(day)
        return None

    def _following(self, day: date) -> date | None:
        """The next date worth looking at: whole years and months that do not match are skipped."""
        if self._years and day.year not in self._years:
            year = min((y for y in self._years if y > day.year), default=None)
            return None if year is None else date(year, 1, 1)
        if day.month not in self._months:
            return (day.replace(day=1) + timedelta(days=32)).replace(day=1)
        return day + timedelta(days=1)

    def _on(self, day: date) -> bool:
        return (
            day.day in self._days
            and day.month in self._months
            and day.isoweekday() % 7 in self._weekdays
            and (not self._years or day.year in self._years)
        )

    def _time_from(self, second: int) -> int | None:
        """The first matching second of the day from this one on."""
        for hour in self._hours[bisect_left(self._hours, second // 3600) :]:
            begins = hour * 3600
            left = max(0, second - begins)
            for minute in self._minutes[bisect_left(self._minutes, left // 60) :]:
                within = max(0, left - minute * 60)
                index = bisect_left(self._seconds, within)
                if index < len(self._seconds):
                    return begins + minute * 60 + self._seconds[index]
        return None


_LAST_SECOND = int(datetime(YEAR_MAX, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())


def _date(days: int) -> date:
    return date.fromordinal(EPOCH_ORDINAL + days)


def _values(ranges: Iterable[schedules.Range]) -> tuple[int, ...]:
    found: set[int] = set()
    for each in ranges:
        found.update(range(each.start, max(each.start, each.end) + 1, each.step or 1))
    return tuple(sorted(found))


# --- The whole spec ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ActionTime:
    """A time of the spec: `nominal_ns` as written, `actual_ns` with jitter."""

    nominal_ns: int
    actual_ns: int


class CompiledSpec:
    """A canonical spec, ready to be asked for times. `seed` tells schedules' jitter apart."""

    def __init__(self, spec: schedules.ScheduleSpec, seed: str) -> None:
        clock = _clock(spec.timezone_name, spec.timezone_data)
        self._calendars = [Calendar(each, clock) for each in spec.structured_calendar]
        self._excluded = [Calendar(each, clock) for each in spec.exclude_structured_calendar]
        self._intervals = [
            (max(each.interval.seconds, 1), each.phase.seconds) for each in spec.interval
        ]
        self._start_ns = nanoseconds(spec.start_time)
        self._end_ns = nanoseconds(spec.end_time) if spec.HasField("end_time") else math.inf
        self._jitter_ns = nanoseconds(spec.jitter)
        self._seed = seed.encode()

    def next(self, after_ns: int) -> ActionTime | None:
        """The first time whose nominal moment is after this one; None: there is none."""
        at = max(after_ns, self._start_ns - SECOND_NS, -SECOND_NS) // SECOND_NS
        for _ in range(EXCLUDED_IN_A_ROW_MAX):
            found = self._raw_next(at)
            if found is None or found * SECOND_NS > self._end_ns:
                return None
            if not any(calendar.matches(found) for calendar in self._excluded):
                return ActionTime(found * SECOND_NS, self._with_jitter(found))
            at = found
        return None

    def times(self, after_ns: int) -> Iterator[ActionTime]:
        """All times after this one, in order."""
        found = self.next(after_ns)
        while found is not None:
            yield found
            found = self.next(found.actual_ns)

    def upcoming(self, after_ns: int, count: int, not_before_ns: int = 0) -> list[int]:
        """The next action times, in nanoseconds."""
        wanted = (t.actual_ns for t in self.times(after_ns) if t.actual_ns >= not_before_ns)
        return list(islice(wanted, count))

    def _raw_next(self, after: int) -> int | None:
        found = [calendar.next(after) for calendar in self._calendars]
        found += [
            ((after - phase) // every + 1) * every + phase for every, phase in self._intervals
        ]
        earliest = min((each for each in found if each is not None), default=None)
        return None if earliest is None or earliest > _LAST_SECOND else earliest

    def _with_jitter(self, nominal: int) -> int:
        if not self._jitter_ns:
            return nominal * SECOND_NS
        following = self._raw_next(nominal)
        longest_ns = self._jitter_ns
        if following is not None:
            longest_ns = min(longest_ns, (following - nominal) * SECOND_NS)
        longest_ms = min(longest_ns // 1_000_000, JITTER_MS_MAX)
        digest = hashlib.blake2b(b"%d-%s" % (nominal, self._seed), digest_size=4).digest()
        jitter_ms = (int.from_bytes(digest, "big") * longest_ms) >> 32
        return nominal * SECOND_NS + jitter_ms * 1_000_000


@lru_cache(maxsize=2048)
def _compiled(spec: bytes, seed: str) -> CompiledSpec:
    return CompiledSpec(schedules.ScheduleSpec.FromString(spec), seed)


def compiled(spec: schedules.ScheduleSpec, seed: str) -> CompiledSpec:
    """Compile a canonical spec, or find it compiled."""
    return _compiled(spec.SerializeToString(deterministic=True), seed)


def time_text(at_ns: int) -> str:
    """RFC 3339, UTC, in whole seconds: what is put behind a workflow id."""
    return datetime.fromtimestamp(at_ns // SECOND_NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
