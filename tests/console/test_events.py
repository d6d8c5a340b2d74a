"""Events as lines and as fields."""

import json

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from durably.edge.console import events
from tests.console.test_timeline import Told, values


def told(name: str, **attributes: object) -> HistoryEvent:
    telling = Told()
    telling(name, **attributes)
    return telling.events[0]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            told("WORKFLOW_EXECUTION_STARTED", workflow_type__name="W", input=values(b'{"a": 1}')),
            'W({"a": 1})',
        ),
        (told("ACTIVITY_TASK_SCHEDULED", activity_type__name="a"), "a()"),
        (
            told("ACTIVITY_TASK_STARTED", attempt=2, identity="w", last_failure__message="no"),
            "attempt 2 on w after no",
        ),
        (told("ACTIVITY_TASK_COMPLETED", result=values(b"7")), "7"),
        (told("ACTIVITY_TASK_FAILED", failure__message="no"), "no"),
        (told("TIMER_STARTED", timer_id="1", start_to_fire_timeout__seconds=3), "timer 1, 3 s"),
        (told("WORKFLOW_EXECUTION_SIGNALED", signal_name="s\u202e"), "s⟨U+202E⟩()"),
        (told("WORKFLOW_EXECUTION_TERMINATED", reason="r", identity="i"), "r by i"),
        (told("WORKFLOW_TASK_TIMED_OUT"), ""),
    ],
)
def test_a_line_tells_an_event_from_its_neighbours(event: HistoryEvent, line: str) -> None:
    assert events.line(event) == line


def test_every_event_has_a_name_a_group_and_a_line() -> None:
    for name in EventType.keys()[1:]:
        event = told(name.removeprefix("EVENT_TYPE_"))
        row = events.row_of(event)
        assert row["name"].upper() == name.removeprefix("EVENT_TYPE_").replace("_", "")
        assert row["group"]
        assert isinstance(events.fields_of(events.attributes_of(event)), list)
    assert events.name_of(HistoryEvent(event_type=9999)) == "Event of type 9999"  # type: ignore[arg-type]
    assert events.line(HistoryEvent()) == ""


def test_fields_put_what_people_look_for_first() -> None:
    event = told(
        "ACTIVITY_TASK_SCHEDULED",
        activity_id="7",
        activity_type__name="search",
        task_queue__name="q",
        start_to_close_timeout__seconds=60,
        heartbeat_timeout__seconds=0,
        retry_policy__maximum_attempts=3,
        input=values(b"1"),
    )
    found = events.fields_of(events.attributes_of(event))
    assert found[0]["name"] == "input"
    shown = {each["name"]: each.get("text", each.get("fields")) for each in found[1:]}
    assert shown == {
        "activity id": "7",
        "activity type": "search",
        "task queue": "q",
        "start to close timeout": "1 min",
        "retry policy": [{"name": "maximum attempts", "text": "3"}],
    }


def test_a_page_of_json_leaves_large_events_out() -> None:
    small = told("TIMER_FIRED", timer_id="1")
    large = told("WORKFLOW_EXECUTION_SIGNALED", input=values(b'"' + b"x" * 10_000 + b'"'))
    first, second = json.loads(events.document([small, large]))
    assert first["eventType"] == "EVENT_TYPE_TIMER_FIRED"
    assert "download" in second["leftOut"]
