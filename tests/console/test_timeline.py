"""Events become spans, and spans a picture."""

import pytest
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflow.v1 import PendingActivityInfo

from durably.edge.console import drawing, units
from durably.edge.console.timeline import Kind, Outcome, Span, Timeline, under_way

SECOND_NS = units.SECOND_NS


class Told:
    """A history that is told event by event, each some seconds after the last."""

    def __init__(self) -> None:
        self.events: list[HistoryEvent] = []
        self.now_s = 1000.0

    def __call__(self, name: str, after_s: float = 1.0, **attributes: object) -> int:
        self.now_s += after_s
        event = HistoryEvent(
            event_id=len(self.events) + 1, event_type=EventType.Value(f"EVENT_TYPE_{name}")
        )
        event.event_time.FromNanoseconds(int(self.now_s * SECOND_NS))
        inside = getattr(event, f"{name.lower()}_event_attributes")
        inside.SetInParent()
        for path, value in attributes.items():
            *outer, last = path.split("__")
            place = inside
            for part in outer:
                place = getattr(place, part)
            if isinstance(value, Payloads):
                getattr(place, last).CopyFrom(value)
            else:
                setattr(place, last, value)
        self.events.append(event)
        return event.event_id

    def timeline(self) -> Timeline:
        found = Timeline()
        found.add(self.events)
        return found


def values(*data: bytes) -> Payloads:
    return Payloads(payloads=[Payload(metadata={"encoding": b"json/plain"}, data=d) for d in data])


def test_an_activity_is_one_span_with_its_attempts_and_its_input() -> None:
    told = Told()
    told("WORKFLOW_EXECUTION_STARTED")
    scheduled = told(
        "ACTIVITY_TASK_SCHEDULED",
        activity_type__name="search",
        activity_id="7",
        input=values(b'"otters"', b"2"),
    )
    told(
        "ACTIVITY_TASK_STARTED",
        scheduled_event_id=scheduled,
        attempt=3,
        identity="worker",
        last_failure__message="overloaded",
    )
    told("ACTIVITY_TASK_COMPLETED", scheduled_event_id=scheduled)
    (span,) = told.timeline().spans
    assert (span.kind, span.name, span.outcome) == (Kind.ACTIVITY, "search", Outcome.DONE)
    assert (span.attempt, span.note, span.given) == (3, "overloaded", '"otters", 2')
    assert span.event_ids == [2, 3, 4]
    assert (span.started_ns - span.begin_ns, span.end_ns - span.started_ns) == (
        SECOND_NS,
        SECOND_NS,
    )
    assert told.timeline().identities == {"worker": 1}


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        ("FAILED", Outcome.FAILED),
        ("TIMED_OUT", Outcome.TIMED_OUT),
        ("CANCELED", Outcome.CANCELED),
    ],
)
def test_how_activities_end(end: str, outcome: Outcome) -> None:
    told = Told()
    scheduled = told("ACTIVITY_TASK_SCHEDULED", activity_type__name="a")
    told(f"ACTIVITY_TASK_{end}", scheduled_event_id=scheduled)
    (span,) = told.timeline().spans
    assert span.outcome is outcome
    assert span.is_bad is (outcome is not Outcome.CANCELED)


def test_timers_children_signals_updates_and_nexus_operations_are_spans() -> None:
    told = Told()
    timer = told("TIMER_STARTED", timer_id="1", start_to_fire_timeout__seconds=90)
    told("TIMER_FIRED", started_event_id=timer)
    other = told("TIMER_STARTED", timer_id="2")
    told("TIMER_CANCELED", started_event_id=other)
    child = told(
        "START_CHILD_WORKFLOW_EXECUTION_INITIATED", workflow_type__name="C", workflow_id="c-1"
    )
    told(
        "CHILD_WORKFLOW_EXECUTION_STARTED",
        initiated_event_id=child,
        workflow_execution__run_id="r-1",
    )
    told("CHILD_WORKFLOW_EXECUTION_TERMINATED", initiated_event_id=child)
    told("WORKFLOW_EXECUTION_SIGNALED", signal_name="approve")
    update = told("WORKFLOW_EXECUTION_UPDATE_ACCEPTED", accepted_request__input__name="note")
    told(
        "WORKFLOW_EXECUTION_UPDATE_COMPLETED",
        accepted_event_id=update,
        outcome__failure__message="no",
    )
    nexus = told("NEXUS_OPERATION_SCHEDULED", endpoint="e", service="s", operation="o")
    told("NEXUS_OPERATION_STARTED", scheduled_event_id=nexus)
    told("NEXUS_OPERATION_COMPLETED", scheduled_event_id=nexus)
    signal = told("SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED", signal_name="go")
    told("EXTERNAL_WORKFLOW_EXECUTION_SIGNALED", initiated_event_id=signal)
    cancel = told("REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED")
    told("REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED", initiated_event_id=cancel)
    told("WORKFLOW_EXECUTION_PAUSED", reason="lunch")
    told("WORKFLOW_EXECUTION_UNPAUSED")
    told("WORKFLOW_EXECUTION_CANCEL_REQUESTED", cause="enough")
    told("MARKER_RECORDED", marker_name="core_patch")
    timeline = told.timeline()
    assert [(s.kind, s.name, s.outcome, s.note) for s in timeline.spans] == [
        (Kind.TIMER, "Timer 1", Outcome.DONE, ""),
        (Kind.TIMER, "Timer 2", Outcome.CANCELED, ""),
        (Kind.CHILD, "C", Outcome.TERMINATED, ""),
        (Kind.SIGNAL, "approve", Outcome.DONE, ""),
        (Kind.UPDATE, "note", Outcome.FAILED, "no"),
        (Kind.NEXUS, "e s.o", Outcome.DONE, ""),
        (Kind.EXTERNAL, "Signal go", Outcome.DONE, ""),
        (Kind.EXTERNAL, "Cancel", Outcome.FAILED, ""),
        (Kind.PAUSE, "Paused", Outcome.DONE, "lunch"),
        (Kind.CANCEL, "Cancel requested", Outcome.DONE, "enough"),
        (Kind.MARKER, "core_patch", Outcome.DONE, ""),
    ]
    assert timeline.spans[0].given == "1 min 30 s"
    assert (timeline.spans[2].workflow_id, timeline.spans[2].run_id) == ("c-1", "r-1")
    assert timeline.counts()[Kind.TIMER] == 2
    assert timeline.find(child) is timeline.spans[2]
    assert timeline.find(2) is None


def test_workflow_tasks_show_only_when_they_fail() -> None:
    told = Told()
    told("WORKFLOW_TASK_SCHEDULED")
    told("WORKFLOW_TASK_STARTED")
    told("WORKFLOW_TASK_COMPLETED", identity="w")
    told("WORKFLOW_TASK_FAILED", failure__message="bug")
    told("WORKFLOW_TASK_TIMED_OUT")
    told("WORKFLOW_TASK_COMPLETED", identity="w")
    timeline = told.timeline()
    assert [(s.outcome, s.note) for s in timeline.spans] == [
        (Outcome.FAILED, "bug"),
        (Outcome.TIMED_OUT, ""),
    ]
    assert (timeline.first_task_completed_id, timeline.last_task_completed_id) == (3, 6)
    assert timeline.identities == {"w": 2}


def test_local_activities_are_named() -> None:
    told = Told()
    told("MARKER_RECORDED", marker_name="core_local_activity")
    told.events[0].marker_recorded_event_attributes.details["data"].CopyFrom(
        values(b'{"activity_type": "fast"}')
    )
    told("MARKER_RECORDED", marker_name="core_local_activity")
    assert [(s.kind, s.name) for s in told.timeline().spans] == [
        (Kind.LOCAL_ACTIVITY, "fast"),
        (Kind.LOCAL_ACTIVITY, "local activity"),
    ]


def test_what_is_open_when_the_run_ends_ends_with_it() -> None:
    told = Told()
    told("TIMER_STARTED", timer_id="1")
    told("WORKFLOW_EXECUTION_COMPLETED")
    timeline = told.timeline()
    assert timeline.spans[0].end_ns == timeline.end_ns
    assert timeline.spans[0].outcome is Outcome.OPEN
    assert timeline.spans[0].note


def test_a_timeline_grows_page_by_page_to_the_same() -> None:
    told = Told()
    for number in range(20):
        told("TIMER_STARTED", timer_id=str(number))
    for number in range(20):
        told("TIMER_FIRED", started_event_id=number + 1)
    grown = Timeline()
    for at in range(0, 40, 7):
        grown.add(told.events[at : at + 7])
    assert grown == told.timeline()
    with pytest.raises(ValueError, match="event 3 where 41 was expected"):
        grown.add(told.events[2:3])


def test_open_activities_show_what_only_the_description_knows() -> None:
    told = Told()
    for number in ("1", "2", "3"):
        told("ACTIVITY_TASK_SCHEDULED", activity_type__name="a", activity_id=number)
    spans = told.timeline().spans
    retried = PendingActivityInfo(activity_id="1", attempt=4, state=1)
    retried.last_failure.message = "refused"
    running = PendingActivityInfo(activity_id="2", attempt=1, state=2)
    running.last_started_time.FromSeconds(1002)
    waiting = PendingActivityInfo(activity_id="3", attempt=1, state=1, paused=True)
    shown = under_way(spans, [running, waiting, retried])
    assert [(s.attempt, s.started_ns // SECOND_NS, s.note) for s in shown] == [
        (4, 0, "refused"),
        (1, 1002, ""),
        (1, 0, "paused. waits for a worker"),
    ]
    assert all(span.attempt == 0 for span in spans)


# --- The picture ------------------------------------------------------------------------------


EPOCH_S = 1_000_000


def span(kind: Kind, begin_s: float, end_s: float, **facts: object) -> Span:
    begin, end = int((EPOCH_S + begin_s) * SECOND_NS), int((EPOCH_S + end_s) * SECOND_NS)
    return Span(kind, "x", [1], begin, begin, end, Outcome.DONE, **facts)  # type: ignore[arg-type]


def test_an_idle_gap_is_drawn_short_and_labelled() -> None:
    spans = [span(Kind.ACTIVITY, 0, 1), span(Kind.ACTIVITY, 3601, 3602)]
    picture = drawing.draw(spans, 0, 0)
    (gap,) = picture.gaps
    assert (gap.label, gap.width) == ("1 h", drawing.GAP_WIDTH)
    (first,), (second,) = picture.rows[0].bars, picture.rows[1].bars
    assert first.x == 0
    assert first.width == pytest.approx(second.width, abs=0.1)
    assert second.x + second.width == pytest.approx(100, abs=0.1)


def test_a_gap_in_which_something_works_is_drawn_as_long_as_it_is() -> None:
    spans = [span(Kind.ACTIVITY, 0, 3600), span(Kind.ACTIVITY, 0, 1), span(Kind.TIMER, 1, 3600)]
    assert drawing.draw(spans, 0, 0).gaps == ()


def test_attempts_that_failed_are_no_idle_gap() -> None:
    retried = span(Kind.ACTIVITY, 0, 3600, attempt=4)
    retried.started_ns = retried.end_ns - SECOND_NS
    assert drawing.draw([retried], 0, 0).gaps == ()


def test_a_run_that_only_sleeps_is_drawn_as_long_as_it_sleeps() -> None:
    picture = drawing.draw([span(Kind.TIMER, 0, 3600), span(Kind.SIGNAL, 1800, 1800)], 0, 0)
    assert picture.gaps == ()
    assert picture.rows[0].bars[0].width == 100
    assert picture.rows[1].mark == 50


def test_positions_keep_their_order_and_stay_in_the_picture() -> None:
    spans = [span(Kind.ACTIVITY, at * at, at * at + 1) for at in range(40)]
    picture = drawing.draw(spans, 0, 0)
    places = [row.bars[0].x for row in picture.rows]
    assert places == sorted(places)
    assert all(bar.x >= 0 and bar.x + bar.width <= 100.01 for r in picture.rows for bar in r.bars)
    assert len(picture.gaps) > 20
    assert sum(gap.width for gap in picture.gaps) <= drawing.GAPS_WIDTH_MAX + 0.01
    assert picture.left_out == "24 min 36 s"
    assert len({tick.label for tick in picture.ticks}) == len(picture.ticks)


def test_waiting_and_retries_are_drawn_thin_before_the_last_attempt() -> None:
    waited = span(Kind.ACTIVITY, 0, 10, attempt=1)
    waited.started_ns = waited.begin_ns + 4 * SECOND_NS
    retried = span(Kind.ACTIVITY, 0, 10, attempt=3)
    retried.started_ns = retried.begin_ns + 4 * SECOND_NS
    never = span(Kind.ACTIVITY, 0, 0)
    never.started_ns = never.end_ns = 0
    now_ns = (EPOCH_S + 10) * SECOND_NS
    rows = drawing.draw([waited, retried, never], 0, now_ns).rows
    assert [[bar.look for bar in row.bars] for row in rows] == [
        ["waits", "works"],
        ["retries", "works"],
        ["waits"],
    ]
    assert rows[0].bars[0].width == 40
    assert rows[2].duration == "10 s"


def test_a_moment_is_a_mark() -> None:
    rows = drawing.draw([span(Kind.SIGNAL, 5, 5), span(Kind.TIMER, 0, 10)], 0, 0).rows
    assert rows[0].mark is not None
    assert rows[0].bars == ()
    assert drawing.draw([], 0, 0).rows == ()
    assert drawing.draw([span(Kind.SIGNAL, 5, 5)], 0, 0).rows[0].mark is not None


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 s"),
        (12_345, "0.012 ms"),
        (340_000_000, "340 ms"),
        (1_254_000_000, "1.25 s"),
        (59_990_000_000, "60 s"),
        (192 * SECOND_NS, "3 min 12 s"),
        (7500 * SECOND_NS, "2 h 5 min"),
        (86_400 * SECOND_NS, "1 d"),
        (-SECOND_NS, "-1 s"),
    ],
)
def test_durations_in_words(ns: int, text: str) -> None:
    assert units.duration_text(ns) == text


def test_sizes_and_times_in_words() -> None:
    assert [units.bytes_text(n) for n in (0, 999, 1234, 5_242_880, 3 * 10**9)] == [
        "0 B",
        "999 B",
        "1.23 kB",
        "5.24 MB",
        "3 GB",
    ]
    assert units.iso_text(1_500_000_000) == "1970-01-01T00:00:01.500Z"
    assert units.clock_text(1_500_000_000) == "1970-01-01 00:00:01"
    assert units.iso_text(10**30) == f"{10**21} s"
    assert units.enum_words("STATE_TIMED_OUT", "STATE_") == "Timed out"
