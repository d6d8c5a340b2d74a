"""Cron schedules of workflows: which times they have, and when the next run begins."""

from datetime import UTC, datetime

import hypothesis.strategies as st
import pytest
from hypothesis import given

from durably.engine import cron
from durably.errors import InvalidArgument

SECOND_NS = 1_000_000_000


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND_NS


@pytest.mark.parametrize(
    ("schedule", "begun", "now", "begins"),
    [
        ("* * * * *", "2026-03-01T10:00:00", "2026-03-01T10:00:01", "2026-03-01T10:01:00"),
        ("*/15 * * * *", "2026-03-01T10:00:00", "2026-03-01T10:20:00", "2026-03-01T10:30:00"),
        # A time that is exactly now counts; those that passed while the run was busy do not.
        ("*/15 * * * *", "2026-03-01T10:00:00", "2026-03-01T10:15:00", "2026-03-01T10:15:00"),
        ("0 9 * * 1-5", "2026-02-27T09:00:00", "2026-02-27T09:00:05", "2026-03-02T09:00:00"),
        ("0 0 13 * 5", "2026-03-01T00:00:00", "2026-03-01T00:00:00", "2026-03-06T00:00:00"),
        ("0 0 13 * ?", "2026-03-01T00:00:00", "2026-03-01T00:00:00", "2026-03-13T00:00:00"),
        ("@daily", "2026-03-01T00:00:00", "2026-03-01T11:00:00", "2026-03-02T00:00:00"),
        ("@every 1h", "2026-03-01T10:10:00", "2026-03-01T10:20:00", "2026-03-01T11:10:00"),
        ("@every 1h", "2026-03-01T10:10:00", "2026-03-01T13:20:00", "2026-03-01T14:10:00"),
        (
            "TZ=Asia/Tokyo 0 9 * * *",
            "2026-03-01T00:00:00",
            "2026-03-01T01:00:00",
            "2026-03-02T00:00:00",
        ),
        # A run that is still delayed begins when it was going to.
        ("0 9 * * *", "2026-03-01T09:00:00", "2026-03-01T08:00:00", "2026-03-01T09:00:00"),
    ],
)
def test_the_next_run_begins(schedule: str, begun: str, now: str, begins: str) -> None:
    assert cron.delay_ns(schedule, ns(begun), ns(now)) == ns(begins) - ns(now)


def test_a_delay_is_in_whole_seconds_and_never_too_short() -> None:
    now = ns("2026-03-01T10:00:30") + 1
    delay = cron.delay_ns("* * * * *", now, now)
    assert delay == 30 * SECOND_NS
    assert now + delay >= ns("2026-03-01T10:01:00")


def test_no_schedule_and_no_more_times() -> None:
    assert cron.delay_ns("", 0, 0) is None
    assert cron.delay_ns("0 0 30 2 *", 0, 0) is None


@pytest.mark.parametrize(
    "schedule",
    [
        "x",
        "* * * *",
        "* * * * * *",
        "61 * * * *",
        "@never",
        "@every x",
        "TZ=No/Where * * * * *",
        "TZ=UTC",
    ],
)
def test_what_cannot_be_read_is_refused(schedule: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid CronSchedule\."):
        cron.check(schedule, 0)


def test_what_has_no_time_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no time can be found"):
        cron.check("0 0 30 2 *", ns("2026-03-01T00:00:00"))
    cron.check("0 0 29 2 *", ns("2026-03-01T00:00:00"))
    cron.check("", 0)


NUMBER = st.integers(0, 70).map(str)
FIELD = st.one_of(
    st.just("*"),
    NUMBER,
    st.tuples(NUMBER, NUMBER).map("-".join),
    st.tuples(st.just("*"), NUMBER).map("/".join),
    st.sampled_from(["?", "mon", "L", ""]),
)
SCHEDULE = st.one_of(
    st.lists(FIELD, min_size=4, max_size=6).map(" ".join),
    st.sampled_from(["@daily", "@hourly", "@every 90s", "@every 0s", "@never"]),
    st.text(max_size=20),
)
MOMENT = st.integers(ns("2024-01-01T00:00:00"), ns("2030-01-01T00:00:00"))


@given(
    schedule=SCHEDULE,
    zone=st.sampled_from(["", "TZ=America/Havana ", "CRON_TZ=Asia/Tokyo "]),
    begun=MOMENT,
    took_ns=st.integers(0, 10**15),
)
def test_any_schedule_is_refused_or_says_when_the_next_run_begins(
    schedule: str, zone: str, begun: int, took_ns: int
) -> None:
    text, now = zone + schedule, begun + took_ns
    try:
        cron.check(text, now)
    except InvalidArgument:
        return
    delay = cron.delay_ns(text, begun, now)
    if not text:
        assert delay is None
        return
    assert delay is not None
    assert delay >= 0
    assert delay % SECOND_NS == 0
    begins = (now + delay) // SECOND_NS * SECOND_NS
    assert begins > begun or delay == 0, "a run begins after the one before it"
    assert cron.delay_ns(text, begun, begins) == 0, "and at a time of its schedule"
