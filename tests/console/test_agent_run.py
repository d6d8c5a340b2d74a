"""What agents did, as a conversation, read off histories that their frameworks made."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHistory

from durably.agents.calls import Tokens
from durably.edge.console import agent
from durably.edge.console.agent_run import ENCRYPTED, UNREADABLE, AgentRun, ChildRun, Said, Turn
from tests.agents.endpoint import ANSWER, ARGUMENTS, MODEL
from tests.console.test_timeline import Told

HISTORIES = sorted((Path(__file__).parent.parent / "agents" / "histories").glob("*.json"))
QUESTION = "What is the weather in Oslo?"


def recorded(path: Path) -> tuple[list[dict[str, Any]], list[HistoryEvent]]:
    found = json.loads(path.read_text())
    return found["served"], list(WorkflowHistory.from_json("any", found["history"]).events)


def read(events: list[HistoryEvent]) -> list[Turn]:
    run = AgentRun()
    run.add(events)
    return run.turns()


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_a_conversation_has_each_thing_once(path: Path) -> None:
    served, events = recorded(path)
    first, last = read(events)
    assert (first.model, last.model) == (MODEL, MODEL)
    assert [turn.tokens.input for turn in (first, last)] == [s["input_tokens"] for s in served]
    assert Said("user", QUESTION) in first.new
    assert [said for said in last.new if said.role in ("user", "system")] == []
    assert last.new == []
    assert last.text == ANSWER
    (tool,) = first.tools
    assert (tool.name, json.loads(tool.arguments), tool.result) == (
        "get_weather",
        ARGUMENTS,
        "rain in Oslo",
    )
    assert last.tools == []
    assert not first.unreadable


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_a_run_read_event_by_event_is_the_same(path: Path) -> None:
    _, events = recorded(path)
    bit_by_bit = AgentRun()
    for event in events:
        bit_by_bit.add([event])
        bit_by_bit.turns()
    assert bit_by_bit.turns() == read(events)


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_the_sums_are_those_of_the_calls(path: Path) -> None:
    served, events = recorded(path)
    turns = read(events)
    begin_ns, end_ns = turns[0].step.scheduled_ns - 5, turns[-1].step.ended_ns + 5
    sums = agent.sums(turns, begin_ns, end_ns)
    assert (sums["calls"], sums["tools"]) == (2, 1)
    assert sums["tokens"].output == sum(each["output_tokens"] for each in served)
    assert sums["outside_ns"] >= 10
    assert sums["model_ns"] + sums["tool_ns"] + sums["outside_ns"] <= end_ns - begin_ns
    assert sums["failed_attempts"] == sum(turn.step.attempt - 1 for turn in turns)
    assert sums["cost"].startswith("$")
    (row,) = agent.by_model(turns)
    assert (row["model"], row["calls"]) == (MODEL, 2)


def test_money_in_words() -> None:
    shown = [agent.money_text(Decimal(d)) for d in ("3.4", "1234.5", "0.0123", "0.00004")]
    assert shown == ["$3.40", "$1,234.50", "$0.012", "$0.00004"]
    assert agent.money_text(None) == ""


def values(*data: Any) -> Payloads:
    return Payloads(
        payloads=[
            Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(d).encode()) for d in data
        ]
    )


def called(told: Told, name: str, given: Payloads, result: Any) -> None:
    scheduled = told("ACTIVITY_TASK_SCHEDULED", activity_type__name=name, input=given)
    told("ACTIVITY_TASK_STARTED", scheduled_event_id=scheduled, attempt=1)
    told("ACTIVITY_TASK_COMPLETED", scheduled_event_id=scheduled, result=values(result))


CHAT = {
    "object": "chat.completion",
    "model": "gpt-4o",
    "choices": [
        {
            "message": {
                "content": "Yes.",
                "tool_calls": [{"id": "c1", "function": {"name": "find", "arguments": "{}"}}],
            }
        }
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3},
}


def test_results_of_tools_that_were_no_activities_are_shown_with_the_next_call() -> None:
    told = Told()
    asked = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]
    called(told, "m", values({"messages": asked}), CHAT)
    found = {"role": "tool", "tool_call_id": "c1", "content": "found"}
    called(told, "m", values([*asked, {"role": "assistant", "content": "Yes."}, found]), CHAT)
    first, second = read(told.events)
    assert first.new == [Said("user", "a"), Said("user", "[image_url]")]
    assert [(wanted.name, wanted.id) for wanted in first.wanted] == [("find", "c1")]
    assert (first.text, first.tokens) == ("Yes.", Tokens(7, 3))
    assert second.new == [Said("tool", "found")]


def test_an_earlier_conversation_is_shown_once_with_its_answers() -> None:
    told = Told()
    before = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c\u202e"},
    ]
    called(told, "m", values(before), CHAT)
    (turn,) = read(told.events)
    assert [(said.role, said.text) for said in turn.new] == [
        ("system", "Be brief."),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c⟨U+202E⟩"),
    ]


def test_what_cannot_be_read_is_said_so() -> None:
    told = Told()
    secret = Payloads(payloads=[Payload(metadata={"encoding": b"binary/encrypted"}, data=b"x")])
    scheduled = told(
        "ACTIVITY_TASK_SCHEDULED", activity_type__name="invoke_model_activity", input=secret
    )
    told("ACTIVITY_TASK_STARTED", scheduled_event_id=scheduled, attempt=1)
    (under_way,) = read(told.events)
    assert under_way.unreadable == ""
    told("ACTIVITY_TASK_COMPLETED", scheduled_event_id=scheduled, result=secret)
    (turn,) = read(told.events)
    assert turn.unreadable == ENCRYPTED
    called(told, "invoke_model_activity", values(), "of no known shape")
    assert read(told.events)[-1].unreadable == UNREADABLE


def test_a_call_that_fails_and_one_under_way() -> None:
    told = Told()
    name = "agent__a__model_request"
    scheduled = told("ACTIVITY_TASK_SCHEDULED", activity_type__name=name, input=values({}))
    told(
        "ACTIVITY_TASK_STARTED",
        scheduled_event_id=scheduled,
        attempt=2,
        last_failure__message="overloaded",
    )
    (trying,) = read(told.events)
    assert (trying.note, trying.step.status) == ("overloaded", "pending")
    told("ACTIVITY_TASK_FAILED", scheduled_event_id=scheduled, failure__message="refused")
    told("ACTIVITY_TASK_SCHEDULED", activity_type__name=name, input=values({}))
    failed, under_way = read(told.events)
    assert (failed.step.status, failed.note, failed.step.attempt) == ("failed", "refused", 2)
    assert (under_way.step.status, agent.lasted_ns(under_way.step)) == ("pending", 0)
    sums = agent.sums([failed, under_way], 0, failed.step.ended_ns)
    assert (sums["failed_attempts"], sums["cost"]) == (1, "")
    assert sums["lost_ns"] > 0


def test_children_are_known_when_they_have_started() -> None:
    told = Told()
    told(
        "CHILD_WORKFLOW_EXECUTION_STARTED",
        workflow_execution__workflow_id="c",
        workflow_execution__run_id="r",
        workflow_type__name="C",
    )
    run = AgentRun()
    run.add(told.events)
    assert run.children == [ChildRun("c", "r", "C")]
