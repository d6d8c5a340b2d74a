"""What a newer version has stored: read if it says nothing new, refused whole if it does."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from durably.engine import records as r
from durably.engine.snapshot import decode_state, encode_state, new_state
from durably.engine.state import Kind
from durably.engine.stored import Stored, StoredValue, reading
from durably.errors import WrittenByNewer
from tests.engine.lives import fresh

STARTED = r.ActivityStarted(5, 1, 7, "worker", "q")
KNOWN = len(STARTED.__struct_fields__)
NOT_EMPTY = {
    ("Activity", "attempt"),
    ("Activity", "stamp"),
    ("BatchState", "request"),
    ("Callback", "state"),
    ("DeploymentVersion", "metadata"),
    ("ExecutionState", "memo"),
    ("ExecutionState", "search_attributes"),
    ("HistoryState", "next_event_id"),
    ("ScheduleState", "schedule"),
    ("WorkflowState", "started"),
    ("WorkflowState", "workflow_task_attempt"),
}
"""Fields from before the rule."""


def structs(base: type) -> Iterator[type]:
    for each in base.__subclasses__():
        yield each
        yield from structs(each)


def test_defaults_are_empty() -> None:
    """So that what does not use a new field can be read by a version that does not know it."""
    found = set()
    for each in (*structs(Stored), *structs(StoredValue)):
        for field in msgspec.structs.fields(each):
            if field.name not in each.__annotations__ or field.required:
                continue
            made = field.default_factory
            default = field.default if made is msgspec.NODEFAULT else made()
            if default not in (0, "", b"", (), None, {}, []):
                found.add((each.__name__, field.name))
    assert found == NOT_EMPTY


def test_a_snapshot_does_not_hold_what_is_empty() -> None:
    kept = msgspec.msgpack.decode(encode_state(fresh()))
    assert "activities" not in kept
    assert kept["run_id"]


def record(*parts: Any) -> bytes:
    return msgspec.msgpack.encode([(0, STARTED), (2, parts)])


@pytest.mark.parametrize("more", [(0,), (b"", None, (), False, "", 0, {})])
def test_a_record_with_empty_fields_that_are_not_known_is_read(more: tuple[Any, ...]) -> None:
    known = msgspec.msgpack.decode(msgspec.msgpack.encode(STARTED))
    assert r.decode_records(record(*known, *more)) == [(0, STARTED), (2, STARTED)]


def test_a_record_from_before_a_field_is_read() -> None:
    known = msgspec.msgpack.decode(msgspec.msgpack.encode(STARTED))
    assert r.decode_records(record(*known[:-2])) == [(0, STARTED), (2, STARTED)]
    assert r.decode_records(b"") == []


@pytest.mark.parametrize("more", [(1,), (0, "x"), (b"x", 0)])
def test_a_record_that_says_something_new_is_refused(more: tuple[Any, ...]) -> None:
    known = msgspec.msgpack.decode(msgspec.msgpack.encode(STARTED))
    with pytest.raises(WrittenByNewer, match="a record of this execution"):
        r.decode_records(record(*known, *more))


def test_a_record_of_a_kind_that_is_not_known_is_refused() -> None:
    with pytest.raises(WrittenByNewer, match="'zz'"):
        r.decode_records(record("zz", 1))


@pytest.mark.parametrize("new", [{"tier": 1}, {"type": "Later"}])
def test_a_state_that_says_something_new_is_refused(new: dict[str, Any]) -> None:
    state = msgspec.msgpack.decode(encode_state(fresh()))
    with pytest.raises(WrittenByNewer, match="the state of this execution"):
        decode_state(msgspec.msgpack.encode({**state, **new}))


def test_an_execution_of_a_kind_that_is_not_known_is_refused() -> None:
    assert new_state(Kind.WORKFLOW, "n", "w", "r").run_id == "r"
    with pytest.raises(WrittenByNewer, match="kind 99"):
        new_state(99, "n", "w", "r")


class Kept(Stored):
    name: str = ""


class NewerKept(Kept, forbid_unknown_fields=False):
    pass


def test_what_may_be_served_in_part_says_so() -> None:
    read = reading(Kept, NewerKept)
    assert type(read(msgspec.msgpack.encode(Kept("known")))) is Kept
    newer = read(msgspec.msgpack.encode({"name": "newer", "more": 1}))
    assert (type(newer), newer.name) == (NewerKept, "newer")
