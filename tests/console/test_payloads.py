"""How payloads are shown."""

import html
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent

from durably.edge.console import failures, payloads
from durably.edge.console.values import encoded, written


def made(encoding: str, data: bytes) -> Payload:
    return Payload(metadata={"encoding": encoding.encode()}, data=data)


def test_json_is_indented() -> None:
    shown = payloads.shown(made("json/plain", b'{"a":[1,true]}'))
    assert (shown.kind, shown.text) == ("json", '{\n  "a": [\n    1,\n    true\n  ]\n}')
    assert shown.markup.count("<span") == 3


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (Payload(), "nothing"),
        (made("binary/null", b""), "nothing"),
        (made("binary/encrypted", b"x"), "encrypted"),
        (made("my/encrypted-v2", b"x"), "encrypted"),
        (made("json/plain", b"not json"), "text"),
        (made("json/plain", b"\xff"), "bytes"),
        (made("json/plain", b"1" * 5000), "text"),
        (made("binary/plain", b"text"), "bytes"),
        (made("binary/protobuf", b"\x08\x01"), "bytes"),
        (made("text/plain", "Grüße".encode()), "text"),
        (made("", b"words"), "text"),
        (made("text/plain", b"\xffx"), "bytes"),
        (Payload(external_payloads=[Payload.ExternalPayloadDetails(size_bytes=7)]), "external"),
    ],
)
def test_what_a_payload_is(payload: Payload, kind: str) -> None:
    assert payloads.shown(payload).kind == kind


def test_a_large_payload_is_cut_and_not_parsed() -> None:
    large = payloads.shown(made("json/plain", b'["' + "é".encode() * 300_000 + b'"]'))
    assert large.kind == "json"
    assert large.is_cut
    assert len(large.text) == payloads.SHOWN_CHARS_MAX
    assert large.size_bytes == 600_004
    text = payloads.shown(made("text/plain", "é".encode() * 100_000), chars_max=11)
    assert (text.text, text.is_cut) == ("é" * 11, True)


def test_what_cannot_be_seen_is_written_out() -> None:
    assert payloads.visible("a\u202eb\x00c\x7f\u0085\ud800\n\tä\u200d") == (
        "a⟨U+202E⟩b␀c␡⟨U+0085⟩⟨U+D800⟩\n\tä\u200d"
    )


def test_bytes_are_shown_as_hex_with_their_letters() -> None:
    text = payloads.shown(made("binary/plain", b"ab\x00" + b"z" * 14)).text
    assert text.split("\n") == [
        "000000  61 62 00 7a 7a 7a 7a 7a 7a 7a 7a 7a 7a 7a 7a 7a  ab·zzzzzzzzzzzzz",
        f"000010  {'7a':<47}  z",
    ]


@given(st.binary(max_size=400), st.sampled_from(["json/plain", "", "binary/plain", "text/plain"]))
def test_any_bytes_can_be_shown(data: bytes, encoding: str) -> None:
    payload = made(encoding, data)
    shown = payloads.shown(payload)
    shown.text.encode()
    str(shown.markup).encode()
    payloads.brief(payload).encode()
    payloads.plain(payload).encode()
    assert payloads.visible(shown.text) == shown.text


@given(st.text(max_size=200))
def test_marked_json_is_the_same_text_escaped(text: str) -> None:
    marked = str(payloads.highlighted(text))
    without_marks = re.sub(r'<span class="j-\w+">|</span>', "", marked)
    assert without_marks == html.escape(text, quote=False)


def test_a_line_is_short_and_says_what_is_there() -> None:
    assert payloads.brief(made("json/plain", b'{"a":\n  1}')) == '{"a": 1}'
    assert len(payloads.brief(made("json/plain", b'"' + b"x" * 1000 + b'"'))) == 120
    assert payloads.brief(made("binary/encrypted", b"x")).startswith("encrypted")
    assert payloads.briefs(Payloads(payloads=[made("json/plain", b"1")] * 2)) == "1, 1"
    assert payloads.plain(made("json/plain", b'"text"')) == "text"
    assert payloads.plain(made("json/plain", b'["a", "b"]')) == "a, b"
    assert payloads.plain(made("json/plain", b"12")) == "12"


def test_every_payload_of_a_message_is_found_with_its_place() -> None:
    event = HistoryEvent()
    started = event.workflow_execution_started_event_attributes
    started.input.payloads.extend([made("json/plain", b"1"), made("json/plain", b"2")])
    started.memo.fields["b"].CopyFrom(made("json/plain", b"3"))
    started.memo.fields["a"].CopyFrom(made("json/plain", b"4"))
    found = [(place, each.data) for place, each in payloads.all_payloads(event)]
    inside = "workflow_execution_started_event_attributes"
    assert found == [
        (f"{inside}.input.payloads[0]", b"1"),
        (f"{inside}.input.payloads[1]", b"2"),
        (f"{inside}.memo.fields[a]", b"4"),
        (f"{inside}.memo.fields[b]", b"3"),
    ]


def test_arguments_are_written_as_they_are_read() -> None:
    values = [1, "zwei", {"drei": [None, True]}]
    text = written(encoded(values), 1000)
    assert text is not None
    assert json.loads(text) == values
    assert written(Payloads(payloads=[made("binary/null", b"")]), 100) == "[null]"
    assert written(Payloads(payloads=[made("binary/plain", b"x")]), 100) is None
    assert written(encoded(["x" * 200]), 100) is None


def test_a_failure_is_a_chain_of_causes_that_ends() -> None:
    failure = Failure(message="outer")
    inner = failure
    for _ in range(50):
        inner = inner.cause
        inner.message = "deeper"
    assert len(failures.chain(failure)) == failures.DEPTH_MAX
    encoded_failure = Failure(message="Encoded failure")
    encoded_failure.encoded_attributes.CopyFrom(made("binary/encrypted", b"x"))
    (shown,) = failures.chain(encoded_failure)
    assert shown["encoded"].kind == "encrypted"
