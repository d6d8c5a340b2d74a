"""Journals and snapshots: what is written is what is read, whatever it is."""

from types import ModuleType
from typing import Any, get_args

import msgspec
import pytest
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.history.v1 import message_pb2 as history

from durably.engine import activity, deadlines
from durably.engine import records as r
from durably.engine.apply import entries
from durably.engine.apply.entries import RECORDS, apply_event, apply_record
from durably.engine.batch.state import BatchState
from durably.engine.journal import Created
from durably.engine.snapshot import STATES, decode_state, encode_state
from durably.engine.state import Kind, ScheduledBy
from durably.engine.transition import EVENT_FIELDS, Transition, outstanding
from tests.engine.lives import START_NS, WorkflowLife, fresh, payloads

IDENTITY: dict[str, Any] = {
    "namespace_id": "ns",
    "namespace": "default",
    "workflow_id": "w",
    "run_id": "r",
}


@pytest.mark.parametrize("kind", STATES)
def test_a_fresh_state_of_every_kind_comes_back_from_its_snapshot(kind: Kind) -> None:
    state = STATES[kind](**IDENTITY)
    assert decode_state(encode_state(state)) == state
    assert (state.running, state.closed, outstanding(state)) == (False, False, [])
    assert kind == state.KIND


def test_what_no_snapshot_can_hold_is_refused() -> None:
    state = fresh()
    state.sdk_name = object()  # type: ignore[assignment]
    with pytest.raises(NotImplementedError, match="cannot store a object"):
        encode_state(state)


def test_a_snapshot_of_a_message_is_a_message() -> None:
    state = fresh()
    state.memo.fields["m"].data = b"1"
    assert decode_state(encode_state(state)).memo == state.memo


def test_every_record_changes_a_state() -> None:
    assert set(get_args(r.AnyRecord)) == set(RECORDS)


def test_a_type_of_event_is_applied_in_one_place() -> None:
    nouns = [noun for noun in vars(entries).values() if isinstance(noun, ModuleType)]
    tables = [noun.EVENTS for noun in nouns if hasattr(noun, "EVENTS")]
    assert len(tables) > 5
    assert sum(map(len, tables)) == len(entries.EVENTS)


def test_every_record_comes_back_from_the_journal() -> None:
    record = Created("default", "q", scheduled_by=ScheduledBy("s", "r", 3))
    encoded = msgspec.msgpack.encode([(0, record)])
    assert msgspec.msgpack.decode(encoded, type=list[tuple[int, r.AnyRecord]]) == [(0, record)]


def test_an_event_of_a_type_that_changes_nothing_only_takes_its_place() -> None:
    """Newer servers and other machines write types that this state does not depend on."""
    life = WorkflowLife()
    before = encode_state(life.state)

    def record(t: Transition) -> None:
        t.record(history.MarkerRecordedEventAttributes(marker_name="m"))

    life.step(record)
    life.state.next_event_id -= 1
    after = decode_state(encode_state(life.state))
    after.history_size_bytes = decode_state(before).history_size_bytes  # type: ignore[union-attr]
    assert after == decode_state(before)


def test_every_type_of_event_has_its_field() -> None:
    types = {event_type for event_type, _ in EVENT_FIELDS.values()}
    known = set(event_types.EventType.values()) - {event_types.EVENT_TYPE_UNSPECIFIED}
    assert types == known


def event(event_id: int, **attributes: Any) -> history.HistoryEvent:
    (field,) = attributes
    name = field.removesuffix("_event_attributes").upper()
    kind = event_types.EventType.Value(f"EVENT_TYPE_{name}")
    return history.HistoryEvent(event_id=event_id, event_type=kind, **attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {"activity_task_cancel_requested_event_attributes": {"scheduled_event_id": 9}},
        {"activity_task_completed_event_attributes": {"scheduled_event_id": 9}},
        {"timer_fired_event_attributes": {"timer_id": "x"}},
        {"child_workflow_execution_started_event_attributes": {"initiated_event_id": 9}},
        {"child_workflow_execution_completed_event_attributes": {"initiated_event_id": 9}},
        {"external_workflow_execution_signaled_event_attributes": {"initiated_event_id": 9}},
        {"workflow_properties_modified_event_attributes": {}},
    ],
)
def test_news_of_what_is_not_pending_is_taken(attributes: dict[str, Any]) -> None:
    """Histories of other servers, and the events that a reset takes over, hold such events."""
    state = fresh()
    apply_event(state, event(1, **attributes), 10)
    assert (state.next_event_id, state.history_size_bytes) == (2, 10)
    assert not state.activities


def test_an_update_that_was_accepted_without_being_admitted_is_taken() -> None:
    """In a history that a reset takes over, the admission was a record, and stayed behind."""
    state = fresh()
    accepted = {
        "workflow_execution_update_accepted_event_attributes": {"protocol_instance_id": "u"}
    }
    apply_event(state, event(1, **accepted), 10)
    assert state.updates["u"].accepted_event_id == 1


def test_an_event_out_of_the_buffer_changes_nothing_again() -> None:
    state = fresh()
    apply_record(state, r.BufferFlushed(2))
    apply_event(state, event(1, timer_fired_event_attributes={"timer_id": "t"}), 10)
    gone = {"child_workflow_execution_started_event_attributes": {"initiated_event_id": 9}}
    apply_event(state, event(2, **gone), 10)
    assert (state.next_event_id, state.flushing, state.children) == (3, 0, {})


def test_only_the_latest_builds_and_reset_points_are_kept() -> None:
    state = fresh()
    for number in range(150):
        completed = {
            "workflow_task_completed_event_attributes": {
                "worker_version": {"build_id": f"b{number}"}
            }
        }
        apply_event(state, event(number + 1, **completed), 10)
    assert len(state.build_ids) == 50
    assert (state.build_ids[0], state.build_ids[-1]) == ("unversioned", "unversioned:b149")
    assert [point.build_id for point in state.reset_points] == [f"b{i}" for i in range(50, 150)]


def test_a_heartbeat_without_details_keeps_the_last_ones() -> None:
    life = WorkflowLife().with_activity()
    life.take()
    life.respond(activity.heartbeat, payloads(b"1"))
    life.respond(activity.heartbeat, None)
    life.respond(activity.heartbeat, common.Payloads())
    assert life.pending().heartbeat_details == payloads(b"1")


def test_what_has_no_deadline_is_left_alone_by_time() -> None:
    state = BatchState(**IDENTITY)
    assert deadlines.next_deadline(state) == 0
    t: Transition[BatchState] = Transition(state, START_NS, lambda: "id")
    deadlines.fire_due(t)
    assert (t.records, t.deadline_ns, t.reschedule) == ([], 0, True)


def test_a_deadline_that_comes_too_early_only_says_when_to_look_again() -> None:
    life = WorkflowLife(workflow_run_timeout={"seconds": 60})
    life.step(deadlines.fire_due)
    assert life.kinds == ["WORKFLOW_EXECUTION_STARTED", "WORKFLOW_TASK_SCHEDULED"]
    assert life.deadline_ns == START_NS + 60_000_000_000
    life.terminate()
    life.step(deadlines.fire_due)
    assert life.kinds[-1] == "WORKFLOW_EXECUTION_TERMINATED"


def test_a_batch_says_what_it_does() -> None:
    state = BatchState(**IDENTITY)
    assert state.operation == ""
    state.request.signal_operation.signal = "s"
    assert state.operation == "signal_operation"
