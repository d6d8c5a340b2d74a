"""Calendars and cron strings, as people write them, into the structured form that is stored.

Facts: CalendarSpec, StructuredCalendarSpec and ScheduleSpec.cron_string in
temporal/api/schedule/v1/message.proto. What cannot be understood raises InvalidNotation, whose text
names the field.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from temporalio.api.schedule.v1 import message_pb2 as schedules

YEAR_MIN = 2000
YEAR_MAX = 2100
SUNDAY_AGAIN = 7
"""Day of week 7 is Sunday too, on input."""


class InvalidNotation(ValueError):
    """What is wrong with a spec, in words for its author."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a calendar: its name in messages, its range, and its words."""

    name: str
    low: int
    high: int
    default: str
    words: tuple[str, ...] = ()
    first_word: int = 0
    prefix_chars_min: int = 3


MONTHS = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
)
DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")

FIELDS: dict[str, Field] = {
    "second": Field("Second", 0, 59, "0"),
    "minute": Field("Minute", 0, 59, "0"),
    "hour": Field("Hour", 0, 23, "0"),
    "day_of_week": Field("DayOfWeek", 0, SUNDAY_AGAIN, "*", DAYS, 0, 2),
    "day_of_month": Field("DayOfMonth", 1, 31, "*"),
    "month": Field("Month", 1, 12, "*", MONTHS, 1),
    "year": Field("Year", YEAR_MIN, YEAR_MAX, "*"),
}

SHORTHANDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

CRON_FIELDS: dict[int, tuple[str, ...]] = {
    5: ("minute", "hour", "day_of_month", "month", "day_of_week"),
    6: ("minute", "hour", "day_of_month", "month", "day_of_week", "year"),
    7: ("second", "minute", "hour", "day_of_month", "month", "day_of_week", "year"),
}


@dataclass(frozen=True, slots=True)
class Cron:
    """What a cron string says: a calendar or an interval, and perhaps a time zone."""

    calendar: schedules.StructuredCalendarSpec | None
    interval: schedules.IntervalSpec | None
    timezone_name: str


def parse_calendar(calendar: schedules.CalendarSpec) -> schedules.StructuredCalendarSpec:
    """The structured form of a calendar; a field that is empty has its default."""
    structured = schedules.StructuredCalendarSpec(comment=calendar.comment)
    problems: list[str] = []
    for key, field in FIELDS.items():
        try:
            ranges = list(_ranges(getattr(calendar, key), field))
        except InvalidNotation as problem:
            problems.append(str(problem))
        else:
            getattr(structured, key).extend(ranges)
    if problems:
        raise InvalidNotation(", ".join(problems))
    return structured


def parse_cron(text: str) -> Cron:
    """Five to seven fields, a shorthand, or `@every`; with `TZ=` before and a comment behind."""
    text = text.strip()
    timezone_name = ""
    if text.startswith(("TZ=", "CRON_TZ=")):
        zone, found, text = text.partition(" ")
        if not found:
            raise InvalidNotation("CronString has time zone but missing fields")
        timezone_name = zone.partition("=")[2]
    text, _, comment = text.partition("#")
    text = text.strip()
    if text.startswith("@every"):
        return Cron(None, _parse_every(text), "")
    parts = SHORTHANDS.get(text, text).split()
    names = CRON_FIELDS.get(len(parts))
    if names is None:
        raise InvalidNotation("CronString does not have 5-7 fields")
    calendar = schedules.CalendarSpec(comment=comment.strip())
    for name, part in zip(names, parts, strict=True):
        setattr(calendar, name, part)
    return Cron(parse_calendar(calendar), None, timezone_name)


def _parse_every(text: str) -> schedules.IntervalSpec:
    _, found, rest = text.partition(" ")
    if not found:
        raise InvalidNotation("CronString does not have interval after @every")
    interval, _, phase = rest.partition("/")
    spec = schedules.IntervalSpec(interval=_duration(interval))
    if phase:
        spec.phase.CopyFrom(_duration(phase))
    return spec


_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
_AMOUNT = r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h|d)"


def _duration(text: str) -> Duration:
    if not re.fullmatch(rf"-?({_AMOUNT})+", text):
        raise InvalidNotation(f'invalid duration "{text}"')
    total_ns = sum(
        round(float(amount) * _UNITS_NS[unit]) for amount, unit in re.findall(_AMOUNT, text)
    )
    duration = Duration()
    duration.FromNanoseconds(-total_ns if text.startswith("-") else total_ns)
    return duration


# --- One field --------------------------------------------------------------------------------


def _ranges(text: str, field: Field) -> Iterator[schedules.Range]:
    """`*`, `a`, `a-b`, each with `/step`, separated by commas. Single values leave `end` unset."""
    text = text.strip() or field.default
    if field.name == "Year" and text == "*":
        return  # No range at all: every year.
    for part in text.split(","):
        body, step, stepped = _step(part, field)
        start, end = _bounds(body, field, stepped)
        if field.high == SUNDAY_AGAIN and end == SUNDAY_AGAIN:
            # 7 becomes 0. A range that steps, or does not begin at 0 or 1, cannot simply be cut.
            if (end - start) % step == 0 and (step > 1 or start > 1):
                yield schedules.Range(start=0)
                if start == SUNDAY_AGAIN:
                    continue
            end = SUNDAY_AGAIN - 1
        yield schedules.Range(
            start=start, end=end if end != start else 0, step=step if step != 1 else 0
        )


def _step(part: str, field: Field) -> tuple[str, int, bool]:
    body, slash, step = part.partition("/")
    if not slash:
        return body, 1, False
    if "/" in step:
        raise InvalidNotation(f"{field.name} has too many slashes")
    if not step:
        raise InvalidNotation(f"{field.name} missing step value")
    number = _integer(step)
    if number is None or number < 1:
        raise InvalidNotation(f"{field.name} has invalid Step")
    return body, number, True


def _bounds(body: str, field: Field, stepped: bool) -> tuple[int, int]:
    if body == "*":
        return field.low, field.high
    limits = f"[{field.low}-{field.high}]"
    first, dash, last = body.partition("-")
    if not dash:
        value = _value(body, field, field.low)
        if value is None:
            raise InvalidNotation(f"{field.name} is not in range {limits}")
        return value, field.high if stepped else value
    if "-" in last:
        raise InvalidNotation(f"{field.name} has too many dashes")
    start = _value(first, field, field.low)
    if start is None:
        raise InvalidNotation(f"{field.name} Start is not in range {limits}")
    end = _value(last, field, start)
    if end is None:
        raise InvalidNotation(f"{field.name} End is before Start or not in range {limits}")
    return start, end


def _value(text: str, field: Field, low: int) -> int | None:
    """A number or the beginning of a word, within `low` and the field's end; None otherwise."""
    value = _word(text, field)
    if value is None:
        value = _integer(text)
    return value if value is not None and low <= value <= field.high else None


def _word(text: str, field: Field) -> int | None:
    if len(text) < field.prefix_chars_min:
        return None
    prefix = text.lower()
    for index, word in enumerate(field.words):
        if word.startswith(prefix):
            return index + field.first_word
    return None


def _integer(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,9}", text) else None
