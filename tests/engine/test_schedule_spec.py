"""When a schedule acts: a table of facts, the clock on the wall, canonical forms, refusals.

`schedule_times.json` holds what Temporal's own server answered to ListScheduleMatchingTimes. Rows with
`clock_repeats` are what the API documents instead: a time that the clock shows twice is acted on
twice. (That server does so west of Greenwich only.)
"""

import json
import zoneinfo
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import hypothesis.strategies as st
import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from temporalio.api.schedule.v1 import message_pb2 as schedules

from durably.engine.schedule import spec
from durably.engine.schedule.notation import InvalidNotation

SECOND_NS = 1_000_000_000
TABLE: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "schedule_times.json").read_text()
)


def ns(text: str) -> int:
    moment = Timestamp()
    moment.FromJsonString(text)
    return moment.ToNanoseconds()


def text(at_ns: int) -> str:
    moment = Timestamp()
    moment.FromNanoseconds(at_ns)
    return moment.ToJsonString()


def compiled(given_spec: schedules.ScheduleSpec, seed: str = "") -> spec.CompiledSpec:
    return spec.CompiledSpec(spec.canonical(given_spec), seed)


def between(times: spec.CompiledSpec, after_ns: int, until_ns: int) -> list[int]:
    found = []
    for time in times.times(after_ns):
        if time.actual_ns > until_ns:
            break
        found.append(time.actual_ns)
    return found


@pytest.mark.parametrize("row", TABLE, ids=lambda row: json.dumps(row["spec"])[:60])
def test_the_table(row: dict[str, Any]) -> None:
    wanted = json_format.ParseDict(row["spec"], schedules.ScheduleSpec())
    found = between(compiled(wanted), ns(row["from"]), ns(row["to"]))
    assert [text(each) for each in found] == row["times"]


ZONES = [
    "Africa/Casablanca",
    "America/Havana",
    "America/New_York",
    "America/Sao_Paulo",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Europe/Dublin",
    "Pacific/Apia",
    "UTC",
]
FEW_HOURS = st.sets(st.integers(0, 23), min_size=1, max_size=4)
FEW_MINUTES = st.sets(st.integers(0, 59), min_size=1, max_size=4)
DAYS_OF_WEEK = st.sets(st.integers(0, 6), min_size=3)


@given(
    zone=st.sampled_from(ZONES),
    start=st.datetimes(datetime(2009, 1, 1), datetime(2030, 1, 1)),
    hours=FEW_HOURS,
    minutes=FEW_MINUTES,
    weekdays=DAYS_OF_WEEK,
)
def test_calendars_follow_the_clock_on_the_wall(
    zone: str, start: datetime, hours: set[int], minutes: set[int], weekdays: set[int]
) -> None:
    """Against a walk through every minute of ten days."""
    calendar = schedules.CalendarSpec(
        minute=",".join(map(str, minutes)),
        hour=",".join(map(str, hours)),
        day_of_week=",".join(map(str, weekdays)),
    )
    wanted = schedules.ScheduleSpec(calendar=[calendar], timezone_name=zone)
    first = int(start.replace(tzinfo=UTC).timestamp())
    last = first + 10 * 86_400
    found = between(compiled(wanted), first * SECOND_NS, last * SECOND_NS)
    expected = []
    for at in range(first // 60 * 60 + 60, last + 1, 60):
        wall = datetime.fromtimestamp(at, ZoneInfo(zone))
        if wall.hour in hours and wall.minute in minutes and wall.isoweekday() % 7 in weekdays:
            expected.append(at * SECOND_NS)
    assert found == expected


def test_jitter_is_no_chance_and_keeps_the_order() -> None:
    wanted = schedules.ScheduleSpec(cron_string=["* * * * *"], jitter=Duration(seconds=600))
    start, end = ns("2026-01-01T00:00:00Z"), ns("2026-01-01T02:00:00Z")
    one, again, other = (between(compiled(wanted, seed), start, end) for seed in "aab")
    assert one == again
    assert one != other
    assert one == sorted(set(one))
    assert len(one) in (119, 120)
    assert {each // (60 * SECOND_NS) for each in one} <= {
        start // (60 * SECOND_NS) + minute for minute in range(1, 121)
    }


def test_the_last_time_has_its_jitter_too() -> None:
    """There is no following time that it would have to come before."""
    last = schedules.CalendarSpec(year="2030", month="1", day_of_month="1", hour="0")
    wanted = schedules.ScheduleSpec(calendar=[last], jitter=Duration(seconds=600))
    (only,) = compiled(wanted, "s").times(ns("2026-01-01T00:00:00Z"))
    assert only.nominal_ns == ns("2030-01-01T00:00:00Z")
    assert 0 < only.actual_ns - only.nominal_ns < 600 * SECOND_NS


def test_a_time_zone_of_ones_own() -> None:
    found = next(Path(path) for path in zoneinfo.TZPATH if (Path(path) / "Europe/Paris").exists())
    data = (found / "Europe/Paris").read_bytes()
    wanted = schedules.ScheduleSpec(cron_string=["0 12 * * *"], timezone_data=data)
    start = ns("2026-07-01T00:00:00Z")
    assert text(compiled(wanted).upcoming(start, 1)[0]) == "2026-07-01T10:00:00Z"


def test_everything_excluded_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "EXCLUDED_IN_A_ROW_MAX", 1_000)
    never = schedules.CalendarSpec(second="*", minute="*", hour="*")
    wanted = schedules.ScheduleSpec(cron_string=["@hourly"], exclude_calendar=[never])
    assert compiled(wanted).next(ns("2026-01-01T00:00:00Z")) is None


def test_canonical_form() -> None:
    wanted = schedules.ScheduleSpec(
        calendar=[schedules.CalendarSpec(hour="8-10/2", comment="mornings")],
        cron_string=["CRON_TZ=Europe/Berlin 0 12 * * MON # lunch", "CRON_TZ=Europe/Berlin @daily"],
    )
    canonical = spec.canonical(wanted)
    assert spec.canonical(canonical) == canonical
    assert (len(canonical.calendar), len(canonical.cron_string)) == (0, 0)
    assert canonical.timezone_name == "Europe/Berlin"
    assert [each.comment for each in canonical.structured_calendar] == ["mornings", "lunch", ""]
    shown = spec.with_defaults(canonical).structured_calendar[0]
    assert shown.hour == [schedules.Range(start=8, end=10, step=2)]
    assert shown.minute == [schedules.Range(start=0, end=0, step=1)]
    assert not shown.year


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"cronString": ["* * * *"]}, "CronString does not have 5-7 fields"),
        ({"cronString": ["TZ=UTC"]}, "CronString has time zone but missing fields"),
        ({"cronString": ["@every"]}, "CronString does not have interval after @every"),
        ({"cronString": ["@every soon"]}, 'invalid duration "soon"'),
        ({"cronString": ["@every 1ms"]}, "interval is too small"),
        ({"cronString": ["61 * * * *"]}, "Minute is not in range [0-59]"),
        ({"cronString": ["5-1 * * * *"]}, "Minute End is before Start or not in range [0-59]"),
        ({"cronString": ["x-1 * * * *"]}, "Minute Start is not in range [0-59]"),
        ({"cronString": ["1-2-3 * * * *"]}, "Minute has too many dashes"),
        ({"cronString": ["1/2/3 * * * *"]}, "Minute has too many slashes"),
        ({"cronString": ["1/ * * * *"]}, "Minute missing step value"),
        ({"cronString": ["*/0 * * * *"]}, "Minute has invalid Step"),
        ({"cronString": ["* * * * mo", "* * * * m"]}, "DayOfWeek is not in range [0-7]"),
        (
            {"cronString": ["TZ=Asia/Tokyo * * * * *", "* * * * *"]},
            "conflicting timezone names",
        ),
        (
            {"cronString": ["TZ=Asia/Tokyo * * * * *"], "timezoneName": "UTC"},
            "conflicting timezone names",
        ),
        ({"timezoneName": "Mars/Olympus"}, "unknown time zone Mars/Olympus"),
        ({"timezoneData": "bm9uc2Vuc2U="}, "malformed time zone information"),
        ({"timezoneData": "AAAA"}, "malformed time zone information"),
        (
            {"calendar": [{"second": "60", "hour": "24"}]},
            "Second is not in range [0-59], Hour is not in range [0-23]",
        ),
        (
            {"structuredCalendar": [{"hour": [{"start": 24}], "month": [{"step": -1}]}]},
            "invalid calendar spec: Hour Start is not in range [0-23],"
            " Month Start is not in range [1-12], Month has invalid Step",
        ),
        (
            {"structuredCalendar": [{"hour": [{"start": 5, "end": 4}]}]},
            "invalid calendar spec: Hour End is before Start or not in range [0-23]",
        ),
        (
            {"structuredCalendar": [{"comment": "x" * 201}]},
            "invalid calendar spec: comment is too long",
        ),
        ({"interval": [{"interval": "0.5s"}]}, "interval is too small"),
        ({"interval": [{"interval": "5s", "phase": "-1s"}]}, "phase is negative"),
        (
            {"interval": [{"interval": "5s", "phase": "5s"}]},
            "phase cannot be greater than Interval",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidNotation) as refused:
        spec.canonical(json_format.ParseDict(wanted, schedules.ScheduleSpec()))
    assert str(refused.value) == message
