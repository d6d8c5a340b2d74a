"""What is read from recorded histories of real agents equals what the model's endpoint served."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.client import WorkflowHistory

from durably.agents.calls import ModelCall, Part, Tokens, ToolCall
from durably.agents.decoders import decode
from durably.agents.payloads import Opaque, count, read
from durably.agents.prices import cost_usd
from durably.agents.steps import Step, StepReader, steps
from tests.agents.endpoint import ANSWER, ARGUMENTS, MODEL

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))
SAY_NO_PROVIDER = ("strands",)
SAY_NO_ID = ("strands", "google_adk")
"""Frameworks whose payloads name no provider, or no response."""
TRY_AGAIN_THEMSELVES = ("google_adk",)
"""LiteLLM, behind it, repeats the request that was refused: the activity knows nothing of it."""
QUESTION = "What is the weather in Oslo?"


def recorded(path: Path) -> tuple[list[dict[str, Any]], list[history.HistoryEvent]]:
    found = json.loads(path.read_text())
    events = WorkflowHistory.from_json("any", found["history"]).events
    return found["served"], list(events)


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_calls_and_tokens_are_those_that_were_served(path: Path) -> None:
    served, events = recorded(path)
    found = steps(events)
    calls = [call for step in found for call in step.model_calls]
    assert [call.framework for call in calls] == [path.stem] * 2
    assert [call.tokens for call in calls] == [
        Tokens(each["input_tokens"], each["output_tokens"], each["cached_tokens"])
        for each in served
    ]
    assert {call.model for call in calls} == {MODEL}
    says_provider = path.stem not in SAY_NO_PROVIDER
    assert {call.provider for call in calls} == {"openai" if says_provider else ""}
    assert all(bool(call.response_id) == (path.stem not in SAY_NO_ID) for call in calls)
    first, last = calls
    assert [(part.name, part.value) for part in first.tools_asked] == [("get_weather", ARGUMENTS)]
    assert last.reply is not None
    assert [part.text for part in last.reply.parts] == [ANSWER]
    assert any(part.text == QUESTION for m in first.prompt for part in m.parts if m.role == "user")

    tools = [call for step in found for call in step.tool_calls]
    assert [(tool.name, tool.arguments, tool.result) for tool in tools] == [
        ("get_weather", ARGUMENTS, "rain in Oslo")
    ]
    assert tools[0].id == first.tools_asked[0].id
    # The second prompt has the answer of the tool in it.
    responses = [part for m in last.prompt for part in m.parts if part.kind == "tool_call_response"]
    assert [(part.id, part.value) for part in responses] == [(tools[0].id, "rain in Oslo")]


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_steps_have_times_and_attempts(path: Path) -> None:
    _, events = recorded(path)
    found = steps(events)
    assert [step.status for step in found] == ["completed"] * 3
    first = 1 if path.stem in TRY_AGAIN_THEMSELVES else 2  # The first call was refused once.
    assert [step.attempt for step in found] == [first, 1, 1]
    for step in found:
        assert 0 < step.scheduled_ns <= step.started_ns <= step.ended_ns


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_a_call_is_seen_before_its_reply(path: Path) -> None:
    """Whatever part of a history there is, nothing is said twice, and nothing raises."""
    _, events = recorded(path)
    for length in range(len(events)):
        found = steps(events[:length])
        scheduled = [
            e for e in events[:length] if e.HasField("activity_task_scheduled_event_attributes")
        ]
        assert [step.scheduled_event_id for step in found] == [e.event_id for e in scheduled]
        tools = [call for step in found for call in step.tool_calls]
        assert len(tools) <= 1
        pending = [step for step in found if step.status == "pending"]
        assert all(call.tokens is None for step in pending for call in step.model_calls)


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_what_is_encrypted_is_no_call_with_content(path: Path) -> None:
    _, events = recorded(path)
    for event in events:
        for name in ("scheduled", "completed"):
            attributes = f"activity_task_{name}_event_attributes"
            if event.HasField(attributes):
                payloads = getattr(event, attributes)
                for payload in (
                    payloads.input if name == "scheduled" else payloads.result
                ).payloads:
                    payload.metadata["encoding"] = b"binary/encrypted"
                    payload.data = b"\x00\x01"
    for call in (call for step in steps(events) for call in step.calls):
        if isinstance(call, ModelCall):
            assert call.tokens is None
            assert not call.prompt
            assert call.reply is None


def test_prices_are_those_of_the_model() -> None:
    call = ModelCall("plain", provider="openai", response_model=MODEL, tokens=Tokens(1_000_000, 0))
    assert cost_usd(call, 1_750_000_000 * 10**9) == Decimal("0.4")
    free = ModelCall("plain", response_model="nobody-knows-this-model", tokens=Tokens(10, 10))
    assert cost_usd(free, 1_750_000_000 * 10**9) is None
    assert cost_usd(ModelCall("plain", response_model=MODEL), 0) is None


COMPLETION = {
    "object": "chat.completion",
    "id": "c1",
    "model": "m",
    "choices": [
        {
            "message": {
                "content": "hi",
                "tool_calls": [{"id": "t1", "function": {"name": "f", "arguments": '{"a": 1}'}}],
            },
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3},
}
ANTHROPIC = {
    "type": "message",
    "role": "assistant",
    "id": "m1",
    "model": "m",
    "content": [
        {"type": "text", "text": "hi"},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
    ],
    "stop_reason": "tool_use",
    "usage": {
        "input_tokens": 4,
        "output_tokens": 3,
        "cache_read_input_tokens": 2,
        "cache_creation_input_tokens": 1,
    },
}


@pytest.mark.parametrize("output", [COMPLETION, ANTHROPIC], ids=["openai", "anthropic"])
def test_a_plain_activity_that_returns_a_reply_is_a_model_call(output: dict[str, Any]) -> None:
    (call,) = decode("anything", ["question"], output)
    assert isinstance(call, ModelCall)
    assert call.tokens is not None
    assert (call.tokens.input, call.tokens.output) == (7, 3)
    assert call.model == "m"
    assert call.tools_asked == (Part("tool_call", "", "t1", "f", {"a": 1}),)


def test_strands() -> None:
    asked = {"model_name": "m", "messages": [{"role": "user", "content": [{"text": "q"}]}]}
    events = [
        {"messageStart": {"role": "assistant"}},
        {"contentBlockDelta": {"delta": {"text": "It "}}},
        {"contentBlockDelta": {"delta": {"text": "rains"}}},
        {"contentBlockStop": {}},
        {"contentBlockStart": {"start": {"toolUse": {"toolUseId": "t1", "name": "f"}}}},
        {"contentBlockDelta": {"delta": {"toolUse": {"input": '{"a":'}}}},
        {"contentBlockDelta": {"delta": {"toolUse": {"input": " 1}"}}}},
        {"contentBlockStop": {}},
        {"messageStop": {"stopReason": "tool_use"}},
        {"metadata": {"usage": {"inputTokens": 5, "outputTokens": 6, "cacheReadInputTokens": 2}}},
    ]
    (call,) = decode("invoke_model", [asked], events)
    assert isinstance(call, ModelCall)
    assert (call.framework, call.tokens) == ("strands", Tokens(5, 6, 2))
    assert call.reply is not None
    assert call.reply.parts == (
        Part("text", "It rains"),
        Part("tool_call", "", "t1", "f", {"a": 1}),
    )


@pytest.mark.parametrize("name", ["prompt_token_count", "promptTokenCount"])
def test_google_adk_in_snake_case_and_in_camel_case(name: str) -> None:
    camel = name[0:7] == "promptT"
    asked = {
        "model": "gemini-2.5-flash",
        "contents": [{"role": "user", "parts": [{"text": "q"}]}],
        "config": {"systemInstruction" if camel else "system_instruction": "be brief"},
    }
    usage = {name: 9, "candidatesTokenCount" if camel else "candidates_token_count": 4}
    call_part = {"name": "f", "args": {"a": 1}, "id": "t1"}
    replies = [
        {
            "content": {
                "role": "model",
                "parts": [{"functionCall" if camel else "function_call": call_part}],
            },
            "usageMetadata" if camel else "usage_metadata": usage,
        }
    ]
    (call,) = decode("invoke_model", [asked], replies)
    assert isinstance(call, ModelCall)
    assert (call.framework, call.model, call.tokens) == (
        "google_adk",
        "gemini-2.5-flash",
        Tokens(9, 4),
    )
    assert call.tools_asked == (Part("tool_call", "", "t1", "f", {"a": 1}),)
    assert [m.role for m in call.prompt] == ["system", "user"]


def test_deepagents() -> None:
    reply = {
        "lc": 1,
        "type": "constructor",
        "id": ["langchain", "schema", "messages", "AIMessage"],
        "kwargs": {
            "content": "hi",
            "usage_metadata": {"input_tokens": 3, "output_tokens": 2},
            "response_metadata": {"model_name": "m"},
        },
    }
    asked = {"model_name": "m", "messages": [{"type": "human", "content": "q"}]}
    (call,) = decode("deepagents.invoke_model", [asked], {"message": reply})
    assert isinstance(call, ModelCall)
    assert (call.framework, call.tokens, call.model) == ("deepagents", Tokens(3, 2), "m")


HOSTILE: list[Any] = [None, True, 1, -1.5, float("nan"), "", "x", [], [[]], {}, {"usage": 1}]
HOSTILE += [
    {"usage": {"input_tokens": "9"}, "output": 3, "parts": [1]},
    [{"content": {"parts": 1}}],
]
HOSTILE += [{"messages": [1, {"parts": [None]}], "model_name": 1}, {"contents": [1], "model": 1}]
TYPES = ["agent__a__model_request", "agent__a__toolset__t__call_tool", "invoke_model_activity"]
TYPES += ["deepagents.invoke_model", "deepagents.invoke_tool", "invoke_model", "s-call-tool", "x"]


@pytest.mark.parametrize("activity_type", TYPES)
def test_payloads_of_any_shape_raise_nothing(activity_type: str) -> None:
    for given in HOSTILE:
        for output in HOSTILE:
            decode(activity_type, [given, given], output)
            decode(activity_type, [given], {"result": output, "langgraph_command": given})
    decode(activity_type, [], Opaque("binary/encrypted", 3))


def test_counts_of_tokens_are_numbers() -> None:
    values = (True, -1, "9", None, float("inf"), 3.0)
    assert [count(value) for value in values] == [0, 0, 0, 0, 0, 3]


def test_a_payload_that_is_no_json_says_what_it_is() -> None:
    deep = common.Payload(metadata={"encoding": b"json/plain"}, data=b"[" * 100_000)
    assert read(deep) == Opaque("json/plain", 100_000)
    assert read(common.Payload(metadata={"encoding": b"\xff"}, data=b"1")) == Opaque("\ufffd", 1)
    assert read(common.Payload(metadata={"encoding": b"binary/null"})) is None


def test_a_failed_activity_says_how() -> None:
    def event(number: int, **attributes: Any) -> history.HistoryEvent:
        return json_format.ParseDict({"eventId": str(number), **attributes}, history.HistoryEvent())

    scheduled = {"activityType": {"name": "a"}, "taskQueue": {"name": "q"}}
    failed = {
        "scheduledEventId": "5",
        "failure": {"applicationFailureInfo": {"type": "RateLimited"}},
    }
    reader = StepReader()
    assert reader.take(event(5, activityTaskScheduledEventAttributes=scheduled)) is None
    step = reader.take(event(7, activityTaskFailedEventAttributes=failed))
    assert isinstance(step, Step)
    assert (step.status, step.failure_type, step.calls) == ("failed", "RateLimited", [])
    timeout = {"scheduledEventId": "8", "failure": {"timeoutFailureInfo": {}}}
    reader.take(event(8, activityTaskScheduledEventAttributes=scheduled))
    step = reader.take(event(9, activityTaskTimedOutEventAttributes=timeout))
    assert step is not None
    assert (step.status, step.failure_type) == ("timed out", "timeout_failure")
    assert (
        reader.take(event(10, activityTaskCompletedEventAttributes={"scheduledEventId": "1"}))
        is None
    )


def scheduled(reader: StepReader, number: int, name: str, *given: Any) -> None:
    about = history.HistoryEvent(event_id=number)
    about.activity_task_scheduled_event_attributes.activity_type.name = name
    for each in given:
        about.activity_task_scheduled_event_attributes.input.payloads.add(
            metadata={"encoding": b"json/plain"}, data=json.dumps(each).encode()
        )
    assert reader.take(about) is None


def completed(reader: StepReader, number: int, result: Any) -> Step:
    about = history.HistoryEvent(event_id=number + 100)
    attributes = about.activity_task_completed_event_attributes
    attributes.scheduled_event_id = number
    attributes.result.payloads.add(
        metadata={"encoding": b"json/plain"}, data=json.dumps(result).encode()
    )
    step = reader.take(about)
    assert step is not None
    return step


def asks_twice_for(name: str) -> dict[str, Any]:
    calls = [
        {"id": f"t{n}", "function": {"name": name, "arguments": json.dumps({"city": city})}}
        for n, city in enumerate(("Oslo", "Bergen"))
    ]
    choice = {"message": {"tool_calls": calls}}
    return {**COMPLETION, "choices": [choice]}


def test_calls_of_one_tool_at_once_keep_their_arguments_whichever_ends_first() -> None:
    reader = StepReader()
    scheduled(reader, 1, "m", "question")
    completed(reader, 1, asks_twice_for("look"))
    scheduled(reader, 2, "look", "Bergen")
    scheduled(reader, 3, "look", "Oslo")
    pending = [(c.id, c.arguments) for step in reader.pending() for c in step.tool_calls]
    assert pending == [("t1", {"city": "Bergen"}), ("t0", {"city": "Oslo"})]
    (last,) = completed(reader, 3, "snow").tool_calls
    (first,) = completed(reader, 2, "rain").tool_calls
    assert (last.id, last.arguments, last.result) == ("t0", {"city": "Oslo"}, "snow")
    assert (first.id, first.arguments, first.result) == ("t1", {"city": "Bergen"}, "rain")


def test_a_tool_with_another_id_than_the_model_gave_has_that_of_the_model() -> None:
    reader = StepReader()
    scheduled(reader, 1, "m", "question")
    completed(reader, 1, asks_twice_for("look"))
    asked = {"tool_name": "look", "tool_call_id": "made-up", "args": {"city": "Bergen"}}
    scheduled(reader, 2, "deepagents.invoke_tool", asked)
    (tool,) = completed(reader, 2, {"message": {"type": "tool", "content": "rain"}}).tool_calls
    assert (tool.id, tool.arguments, tool.result) == ("t1", {"city": "Bergen"}, "rain")


def test_a_node_of_langgraph_that_was_sent_one_call_shows_its_arguments() -> None:
    sent = {"type": "tool_call", "id": "t0", "name": "look", "args": {"city": "Oslo"}}
    message = {"type": "tool", "content": "snow", "tool_call_id": "t0", "name": "look"}
    output = {"result": {"messages": [message]}, "langgraph_command": None}
    (tool,) = decode("guide.tool", [{"args": [sent], "kwargs": {}}], output)
    assert tool == ToolCall("langgraph", "guide", "look", "t0", {"city": "Oslo"}, "snow")
