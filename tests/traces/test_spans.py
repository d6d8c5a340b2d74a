"""Spans from journals, without a server."""

import json
from pathlib import Path

import pytest
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.client import WorkflowHistory

from durably.engine import records as r
from durably.traces.spans import (
    BEGINNINGS,
    ENDS,
    RUN_ENDS,
    SUFFIX,
    TRACER_DATA,
    Parent,
    RunSpans,
    Span,
    caller,
    span_id,
    trace_id,
)

HISTORIES = sorted((Path(__file__).parent.parent / "agents/histories").glob("*.json"))
FIELDS = history.HistoryEvent.DESCRIPTOR.fields_by_name


def test_every_event_that_is_named_exists_and_names_its_beginning() -> None:
    for name in (*BEGINNINGS, *(each + SUFFIX for each in RUN_ENDS)):
        assert name in FIELDS, name
    for name, (field, _) in ENDS.items():
        message = FIELDS[name + SUFFIX].message_type
        assert message is not None
        assert field in message.fields_by_name, name


def recorded(path: Path) -> list[history.HistoryEvent]:
    found = json.loads(path.read_text())
    return list(WorkflowHistory.from_json("any", found["history"]).events)


def spans_of(events: list[history.HistoryEvent]) -> list[Span]:
    made = RunSpans("run", "default", content=True)
    for event in events:
        made.take(event)
    return made.finished(Parent(7), 2**62)


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_spans_of_an_agent_are_one_tree_and_the_same_each_time(path: Path) -> None:
    found = spans_of(recorded(path))
    assert found == spans_of(recorded(path))
    ids = [span.span_id for span in found]
    assert len(set(ids)) == len(ids)
    assert [span.name for span in found if span.parent_id not in ids] == [found[0].name]
    assert found[0].name.startswith("invoke_agent")
    chats = [span for span in found if span.attributes.get("gen_ai.operation.name") == "chat"]
    tools = [span for span in found if span.name == "execute_tool get_weather"]
    assert [span.name for span in chats] == ["chat gpt-4.1-mini"] * 2
    assert len(tools) == 1
    assert tools[0].attributes["gen_ai.tool.call.arguments"] == '{"city": "Oslo"}'
    total = sum(int(span.attributes["gen_ai.usage.input_tokens"]) for span in chats)
    assert found[0].attributes["gen_ai.usage.input_tokens"] == total
    for span in found:
        assert span.start_ns <= span.end_ns


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_a_run_that_ends_in_the_middle_leaves_nothing_open(path: Path) -> None:
    events = recorded(path)
    for length in range(1, len(events)):
        found = spans_of(events[:length])
        ids = {span.span_id for span in found}
        assert len(ids) == len(found)
        assert all(span.parent_id in ids for span in found[1:])


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_what_ended_while_the_run_went_on_and_the_rest_are_all_spans(path: Path) -> None:
    events = recorded(path)
    whole = spans_of(events)
    for length in range(len(events)):
        made = RunSpans("run", "default", content=True)
        for event in events[:length]:
            made.take(event)
        before = made.ended()
        assert made.ended() == []
        for event in events[length:]:
            made.take(event)
        rest = made.finished(Parent(7), 2**62)
        assert rest[0] == whole[0]
        assert before + rest[1:] == whole[1:]


def test_a_run_that_was_reset_begins_where_it_was_reset() -> None:
    events = recorded(HISTORIES[0])
    made = RunSpans("run", "default", content=False)
    for event in events[:10]:
        made.take(event)
    made.take(r.ResetFrom(base_run_id="before", at_ns=5))
    found = made.finished(Parent(7), 9)
    assert (found[0].start_ns, found[0].end_ns) == (5, 9)
    assert "gen_ai.usage.input_tokens" not in found[0].attributes or (
        found[0].attributes["gen_ai.usage.input_tokens"] == 0
    )


def header(data: bytes, encoding: bytes = b"json/plain") -> common.Header:
    payload = common.Payload(metadata={"encoding": encoding}, data=data)
    return common.Header(fields={TRACER_DATA: payload})


TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(("flags", "sampled"), [("01", True), ("00", False), ("03", True)])
def test_the_caller_is_read_from_the_header(flags: str, sampled: bool) -> None:
    carrier = json.dumps({"traceparent": f"00-{TRACE}-{SPAN}-{flags}"})
    assert caller(header(carrier.encode())) == Parent(int(TRACE, 16), int(SPAN, 16), sampled)


@pytest.mark.parametrize(
    "found",
    [
        common.Header(),
        header(b"{}"),
        header(b"[1]"),
        header(b"not json"),
        header(b"[" * 100_000),
        header(b"\x00\x01", b"binary/encrypted"),
        header(b'{"traceparent": 5}'),
        header(f'{{"traceparent": "00-{TRACE}-{"0" * 16}-01"}}'.encode()),
        header(f'{{"traceparent": "00-{"0" * 32}-{SPAN}-01"}}'.encode()),
        header(b'{"traceparent": "00-x-y-01"}'),
    ],
)
def test_a_header_that_says_nothing_is_no_caller(found: common.Header) -> None:
    assert caller(found) is None


def test_ids_differ_where_what_they_name_differs() -> None:
    ids = {span_id("r", 1), span_id("r", 1, 1), span_id("r", 11), span_id("r1", 1)}
    ids |= {span_id("r", 1, 1, 1), span_id("r", 1, 11)}
    assert len(ids) == 6
    assert all(0 < each < 2**64 for each in ids)
    assert trace_id("n", "w", "r") != trace_id("n", "wr", "")
    assert 0 < trace_id("n", "w", "r") < 2**128
