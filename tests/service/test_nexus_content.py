"""Payloads, links, times and failures as Nexus carries them over HTTP, there and back."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import nexus_pb2 as nexus_enums
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.nexus.v1 import message_pb2 as nexus

from durably.service import nexus_content, nexus_json
from durably.service.nexus_failures import from_nexus

# --- Payloads ---------------------------------------------------------------------------------

MESSAGE_TYPE = {"messageType": b"a.b.C"}


@pytest.mark.parametrize(
    ("metadata", "content_type"),
    [
        ({"encoding": b"json/plain"}, "application/json"),
        ({"encoding": b"binary/plain"}, "application/octet-stream"),
        (
            {"encoding": b"json/protobuf", **MESSAGE_TYPE},
            'application/json; format=protobuf; message-type="a.b.C"',
        ),
        (
            {"encoding": b"binary/protobuf", **MESSAGE_TYPE},
            'application/x-protobuf; message-type="a.b.C"',
        ),
        ({"encoding": b"mine"}, "application/x-temporal-payload"),
        ({"encoding": b"json/plain", "more": b"m"}, "application/x-temporal-payload"),
        ({"encoding": b"json/protobuf"}, "application/x-temporal-payload"),
        ({}, "application/x-temporal-payload"),
    ],
)
def test_each_encoding_has_its_content_type(metadata: dict[str, bytes], content_type: str) -> None:
    payload = common.Payload(metadata=metadata, data=b"data")
    headers, body = nexus_content.to_content(payload)
    assert headers == {"type": content_type}
    assert nexus_content.from_content(headers, body) == payload


def test_nothing_is_no_content() -> None:
    assert nexus_content.to_content(None) == ({}, b"")
    null = common.Payload(metadata={"encoding": b"binary/null"})
    assert nexus_content.to_content(null) == ({}, b"")
    assert nexus_content.from_content({}, b"") == null


@pytest.mark.parametrize(
    "headers",
    [
        {"type": "text/plain"},
        {"type": "application/json; charset=utf-8"},
        {"type": "application/json; format=protobuf"},
        {"type": "application/x-protobuf"},
        {"type": "application/octet-stream; a=b"},
        {"type": "application/json", "language": "de"},
        {"language": "de"},
    ],
)
def test_what_others_send_is_kept_as_it_was(headers: dict[str, str]) -> None:
    payload = nexus_content.from_content(headers | {"length": "4", "encoding": "gzip"}, b"data")
    assert payload.metadata["encoding"] == nexus_content.FOREIGN
    assert nexus_content.to_content(payload) == (headers, b"data")


def test_a_payload_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match="Payload"):
        nexus_content.from_content({"type": nexus_content.API_PAYLOAD}, b"\xff\xff")


@given(st.dictionaries(st.text(max_size=5), st.binary(max_size=5), max_size=3), st.binary())
def test_every_payload_comes_back(metadata: dict[str, bytes], data: bytes) -> None:
    payload = common.Payload(metadata=metadata, data=data)
    headers, body = nexus_content.to_content(payload)
    back = nexus_content.from_content(headers, body)
    assert back == payload or metadata.get("encoding") in (nexus_content.FOREIGN, b"binary/null")


def test_content_that_is_json() -> None:
    assert nexus_content.is_json("application/json; charset=utf-8")
    assert not nexus_content.is_json("")
    assert not nexus_content.is_json("text/json")


# --- Links and times --------------------------------------------------------------------------


def test_links_come_back_from_one_header_and_from_many() -> None:
    links = [
        nexus.Link(url="temporal:///a/b?c=d", type="a.b.C"),
        nexus.Link(url="https://a.example/", type="x/y"),
    ]
    header = nexus_content.links_header(links)
    assert nexus_content.links_of_headers([header]) == links
    parts = [nexus_content.links_header([link]) for link in links]
    assert nexus_content.links_of_headers(parts) == links
    assert nexus_content.links_of_headers([]) == []
    assert nexus_content.links_of_headers(["<a:b>; x=1;type=t"])[0].type == "t"


@pytest.mark.parametrize(
    "text", ["", "a", "<a>", "<a>; type", '<a>; x="1"', '<a>; type="%"', '<a>; type="t" b']
)
def test_what_is_no_link_is_refused(text: str) -> None:
    if text:
        with pytest.raises(ValueError, match="link"):
            nexus_content.links_of_headers([text])


def test_times() -> None:
    assert nexus_content.http_date(1_700_000_000_999_999_999) == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert nexus_content.rfc3339(1_700_000_000_000_000_005) == "2023-11-14T22:13:20.000000005Z"


# --- Failures ---------------------------------------------------------------------------------


def some_failure() -> failure.Failure:
    made = failure.Failure(message="m", stack_trace="s", source="here")
    made.application_failure_info.type = "T"
    made.application_failure_info.details.payloads.add(data=b"d")
    made.cause.message = "cause"
    made.cause.timeout_failure_info.timeout_type = 1  # type: ignore[assignment]
    return made


def test_a_failure_comes_back_as_it_was() -> None:
    made = some_failure()
    told = json.loads(nexus_json.encoded(made))
    assert (told["message"], told["stackTrace"]) == ("m", "s")
    assert "message" not in told["details"]
    assert from_nexus(nexus_json.from_json(told)) == made


@pytest.mark.parametrize("behavior", nexus_enums.NexusHandlerErrorRetryBehavior.values())
def test_a_handler_error_comes_back_as_it_was(behavior: int) -> None:
    made = failure.Failure(message="m")
    made.nexus_handler_failure_info.type = "NOT_FOUND"
    made.nexus_handler_failure_info.retry_behavior = behavior  # type: ignore[assignment]
    made.encoded_attributes.data = b"secret"
    told = json.loads(nexus_json.encoded(made))
    assert told["metadata"] == {"type": "nexus.HandlerError"}
    assert told["details"]["type"] == "NOT_FOUND"
    assert from_nexus(nexus_json.from_json(told)) == made


@pytest.mark.parametrize(
    "told",
    [None, [], {"message": 1}, {"metadata": [1]}, {"metadata": {"a": 1}}, {"stackTrace": {"a": 1}}],
)
def test_what_is_no_failure_is_refused(told: object) -> None:
    with pytest.raises(ValueError, match="failure"):
        nexus_json.from_json(told)


def test_an_error_that_only_carries_its_cause_is_unwrapped() -> None:
    cause = nexus.Failure(message="c")
    marked = nexus.Failure(message="m", metadata={"unwrap-error": "true"}, cause=cause)
    assert nexus_json.unwrapped(marked) == cause
    for other in (nexus.Failure(message="m", cause=cause), nexus.Failure(metadata=marked.metadata)):
        assert nexus_json.unwrapped(other) == other
