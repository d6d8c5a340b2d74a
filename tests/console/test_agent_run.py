"""What agents did, read off histories that their frameworks made.

The histories were recorded with a scripted endpoint: it asked for `search` twice, then answered; its
calls took 100, 101 and 102 tokens, 40 of each cached, and gave 10 each.
"""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.history.v1 import History, HistoryEvent
from temporalio.client import WorkflowHistory

from durably.edge.console import agent, agent_frameworks, prices
from durably.edge.console.agent_frameworks import FRAMEWORKS, Said, Usage, Wanted
from durably.edge.console.agent_run import AgentRun
from durably.edge.console.timeline import Outcome
from tests.console.test_timeline import Told

HISTORIES = Path(__file__).parent / "histories"


def recorded(name: str) -> list[HistoryEvent]:
    text = (HISTORIES / f"{name}.json").read_text()
    return list(WorkflowHistory.from_json("run", text).events)


def read(events: list[HistoryEvent]) -> AgentRun:
    run = AgentRun()
    run.add(events)
    return run


@pytest.mark.parametrize(
    ("name", "agent_name"), [("pydantic_ai", "researcher"), ("openai_agents", "")]
)
def test_calls_tools_and_tokens_are_those_that_the_endpoint_served(
    name: str, agent_name: str
) -> None:
    run = read(recorded(name))
    assert [(c.model, c.usage, c.agent) for c in run.calls] == [
        ("gpt-4.1-mini", Usage(taken, 10, 40), agent_name) for taken in (100, 101, 102)
    ]
    assert [[(t.name, json.loads(t.arguments), t.result) for t in c.tools] for c in run.calls] == [
        [("search", {"query": "otters"}, "3 passages about otters")],
        [("search", {"query": "kelp"}, "3 passages about kelp")],
        [],
    ]
    assert [[(s.role, s.text) for s in c.new] for c in run.calls] == [
        [("instructions", "Answer from what you find."), ("user", "What do otters eat?")],
        [],
        [],
    ]
    assert run.calls[2].text == "Otters eat urchins."
    assert all(c.outcome is Outcome.DONE and c.lasted_ns > 0 for c in run.calls)


@pytest.mark.parametrize("name", ["pydantic_ai", "openai_agents"])
def test_a_run_read_event_by_event_is_the_same(name: str) -> None:
    events = recorded(name)
    bit_by_bit = AgentRun()
    for event in events:
        bit_by_bit.add([event])
    assert bit_by_bit == read(events)


def test_the_sums_and_the_cost() -> None:
    calls = read(recorded("pydantic_ai")).calls
    begin_ns, end_ns = calls[0].begin_ns - 5, calls[2].end_ns + 5
    sums = agent.sums(calls, begin_ns, end_ns)
    assert (sums["calls"], sums["tools"], sums["usage"]) == (3, 2, Usage(303, 30, 120))
    assert sums["outside_ns"] >= 10
    assert sums["model_ns"] + sums["tool_ns"] + sums["outside_ns"] <= end_ns - begin_ns
    assert not sums["unpriced"]
    # $0.40 a million in, $0.10 of it cached, $1.60 out.
    dollars = Decimal("183") * Decimal("0.4") + Decimal("120") * Decimal("0.1") + Decimal(30 * 1.6)
    assert prices.cost(Usage(303, 30, 120), "gpt-4.1-mini", "openai") == pytest.approx(
        dollars / 1_000_000
    )
    assert prices.cost(Usage(1, 1), "no-such-model", "") is None
    assert prices.cost(Usage(303, 30), "gpt-4.1-mini", "some-proxy") is not None
    (row,) = agent.by_model(calls)
    assert (row["model"], row["calls"]) == ("gpt-4.1-mini", 3)


def test_money_in_words() -> None:
    shown = [prices.money_text(Decimal(d)) for d in ("3.4", "1234.5", "0.0123", "0.00004")]
    assert shown == ["$3.40", "$1,234.50", "$0.012", "$0.00004"]
    assert prices.money_text(None) == ""


# --- Activities of no framework -----------------------------------------------------------------


def values(*data: Any) -> Payloads:
    return Payloads(
        payloads=[
            Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(d).encode()) for d in data
        ]
    )


def called(told: Told, name: str, given: Payloads, result: Any, attempt: int = 1) -> None:
    scheduled = told("ACTIVITY_TASK_SCHEDULED", activity_type__name=name, input=given)
    told("ACTIVITY_TASK_STARTED", scheduled_event_id=scheduled, attempt=attempt)
    told("ACTIVITY_TASK_COMPLETED", scheduled_event_id=scheduled, result=values(result))


CHAT = {
    "model": "gpt-4o",
    "choices": [
        {
            "message": {
                "content": "Yes.",
                "tool_calls": [{"id": "c1", "function": {"name": "find", "arguments": "{}"}}],
            }
        }
    ],
    "usage": {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 2},
    },
}
ANTHROPIC = {
    "model": "claude-opus-4-1",
    "content": [
        {"type": "thinking", "thinking": "Hm."},
        {"type": "text", "text": "Yes."},
        {"type": "tool_use", "id": "c1", "name": "find", "input": {"a": 1}},
    ],
    "usage": {"input_tokens": 7, "output_tokens": 3, "cache_read_input_tokens": 2},
}
RESPONSES = {
    "model": "gpt-5",
    "output": [
        {"type": "message", "content": [{"type": "output_text", "text": "Yes."}]},
        {"type": "function_call", "call_id": "c1", "name": "find", "arguments": "{}"},
    ],
    "usage": {
        "input_tokens": 7,
        "output_tokens": 3,
        "input_tokens_details": {"cached_tokens": 2},
    },
}


@pytest.mark.parametrize("answer", [CHAT, ANTHROPIC, RESPONSES])
def test_an_activity_that_gives_a_models_answer_is_a_call_of_it(answer: dict[str, Any]) -> None:
    told = Told()
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Is it?"}, {"type": "image_url"}]},
    ]
    called(told, "call_model", values({"messages": messages}), answer, attempt=3)
    called(told, "find", values("x"), {"hits": 2})
    called(told, "other", values("x"), "not a model's answer")
    said = {"role": "tool", "tool_call_id": "c1", "content": "2 hits"}
    called(told, "call_model", values([*messages, said]), answer)
    first, second = read(told.events).calls
    assert (first.text, first.usage, first.model) == ("Yes.", Usage(7, 3, 2), answer["model"])
    assert [(s.role, s.text) for s in first.new] == [
        ("instructions", "Be brief."),
        ("user", "Is it?\n[image_url]"),
    ]
    assert [(t.name, t.result) for t in first.tools] == [("find", '{"hits": 2}')]
    assert first.lost_ns > 0
    assert second.new == []


def test_results_of_tools_that_were_no_activities_are_shown_with_the_next_call() -> None:
    told = Told()
    called(told, "m", values([{"role": "user", "content": "a"}]), CHAT)
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None},
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
    ]
    called(told, "m", values(messages), CHAT)
    first, second = read(told.events).calls
    assert first.wanted == [Wanted("find", "{}", "c1")]
    assert second.new == [Said("tool", "found", "c1")]


def test_what_cannot_be_read_is_said_so() -> None:
    told = Told()
    secret = Payloads(payloads=[Payload(metadata={"encoding": b"binary/encrypted"}, data=b"x")])
    scheduled = told(
        "ACTIVITY_TASK_SCHEDULED", activity_type__name="invoke_model_activity", input=secret
    )
    told("ACTIVITY_TASK_STARTED", scheduled_event_id=scheduled, attempt=1)
    told("ACTIVITY_TASK_COMPLETED", scheduled_event_id=scheduled, result=secret)
    (call,) = read(told.events).calls
    assert "encrypted" in call.unreadable


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
    told("ACTIVITY_TASK_FAILED", scheduled_event_id=scheduled, failure__message="refused")
    told("ACTIVITY_TASK_SCHEDULED", activity_type__name=name, input=values({}))
    failed, under_way = read(told.events).calls
    assert (failed.outcome, failed.failure, failed.attempt) == (Outcome.FAILED, "refused", 2)
    assert (under_way.outcome, under_way.lasted_ns) == (Outcome.OPEN, 0)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "messages",
                    "parts",
                    "kind",
                    "part_kind",
                    "content",
                    "usage",
                    "input_tokens",
                    "input",
                    "output",
                    "role",
                    "type",
                    "choices",
                    "message",
                    "tool_calls",
                    "function",
                    "name",
                    "arguments",
                    "model",
                    "tool_args",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@given(ANYTHING)
def test_whatever_payloads_hold_is_read_without_an_error(value: Any) -> None:
    for framework in FRAMEWORKS:
        framework.asked(value)
        framework.answered(value)
        if framework.used is not None:
            framework.used(value)
    agent_frameworks.plain_answered(value)
    agent_frameworks.plain_asked([value])
    agent_frameworks.text_of(value).encode()


def test_the_recorded_histories_are_whole() -> None:
    for path in HISTORIES.glob("*.json"):
        events = json_format.Parse(path.read_text(), History(), ignore_unknown_fields=True).events
        assert [event.event_id for event in events] == list(range(1, len(events) + 1))
