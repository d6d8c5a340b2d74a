"""A worker's commands: all of them take effect, or none."""

from typing import Any

import pytest
from temporalio.api.command.v1 import message_pb2 as command
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.update.v1 import message_pb2 as update_messages

from durably.config import Config
from durably.engine.refusals import BadCommand
from tests.engine.lives import (
    WorkflowLife,
    about_update,
    acceptance,
    application_failure,
    as_command,
    assert_bad,
    complete_workflow,
    continue_as_new,
    fail_workflow,
    payloads,
    protocol_command,
    start_child,
    start_timer,
)

NULL = common.Payload(metadata={"encoding": b"binary/null"})
UNKNOWN = common.SearchAttributes(indexed_fields={"Unknown": common.Payload(data=b"1")})


def upsert(**fields: common.Payload) -> command.Command:
    found = common.SearchAttributes(indexed_fields=fields)
    return as_command(
        command.UpsertWorkflowSearchAttributesCommandAttributes(search_attributes=found)
    )


def modify(**fields: common.Payload) -> command.Command:
    return as_command(
        command.ModifyWorkflowPropertiesCommandAttributes(upserted_memo=common.Memo(fields=fields))
    )


def marker(name: str = "m", **options: Any) -> command.Command:
    return as_command(command.RecordMarkerCommandAttributes(marker_name=name, **options))


# --- One or all -------------------------------------------------------------------------------


def test_a_bad_command_in_the_middle_leaves_nothing_of_its_completion() -> None:
    life = WorkflowLife()
    life.start_task()
    with pytest.raises(BadCommand):
        life.complete(start_timer("t"), start_timer(""), start_timer("u"))
    assert life.kinds[-1] == "WORKFLOW_TASK_STARTED"
    assert not life.state.timers
    life.complete(start_timer("t"))


def test_a_worker_that_has_not_seen_everything_may_not_close() -> None:
    for late in ("signal", "update"):
        life = WorkflowLife()
        life.start_task()
        if late == "signal":
            life.signal()
        else:
            life.admit("u")
        for closing in (complete_workflow(), fail_workflow(), continue_as_new()):
            assert_bad(life, closing, "UNHANDLED_COMMAND", "UnhandledCommand")
        life.complete(start_timer())
        assert life.state.workflow_task is not None
        life.work(complete_workflow())
        assert life.state.closed


def test_a_completion_larger_than_allowed_names_what_is_too_large() -> None:
    life = WorkflowLife(config=Config(payload_bytes_max=1000))
    life.admit("u")
    life.start_task()
    large = marker(details={"d": payloads(b"x" * 2000)})
    assert_bad(life, large, "PAYLOADS_TOO_LARGE", "COMMAND_TYPE_RECORD_MARKER of")
    outcome = update_messages.Outcome(success=payloads(b"x" * 2000))
    answer = about_update("u", update_messages.Response(outcome=outcome), "m1")
    with pytest.raises(BadCommand, match="message m1 of"):
        life.complete(messages=[answer])
    many = [start_timer(f"{i}" * 30) for i in range(9)] * 3
    with pytest.raises(BadCommand, match="Timer already started"):
        life.complete(*many)  # Together they are over the limit, none of them is by itself.


@pytest.mark.parametrize(
    "asked",
    [
        command.Command(),
        command.Command(command_type=1),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_command_is_refused_by_name(asked: command.Command) -> None:
    life = WorkflowLife()
    life.start_task()
    assert_bad(life, asked, "UNHANDLED_COMMAND", "is not supported by this server")


# --- Markers, search attributes, memo ---------------------------------------------------------


def test_a_marker_is_recorded_as_it_is() -> None:
    life = WorkflowLife()
    life.work(
        marker(
            details={"d": payloads(b"1")},
            header={"fields": {"h": common.Payload(data=b"2")}},
            failure=application_failure(),
        ),
        marker("bare"),
    )
    first, second = (event.marker_recorded_event_attributes for event in life.events[-2:])
    assert first.details["d"] == payloads(b"1")
    assert (first.header.fields["h"].data, first.failure.message) == (b"2", "broken")
    assert (second.HasField("header"), second.HasField("failure")) == (False, False)


def test_search_attributes_and_memo_change_key_by_key() -> None:
    life = WorkflowLife(
        memo=common.Memo(fields={"a": common.Payload(data=b"1"), "b": common.Payload(data=b"2")}),
    )
    life.work(upsert(K=common.Payload(data=b"1"), L=common.Payload(data=b"2")))
    assert life.visible
    life.signal()
    life.work(
        upsert(K=NULL, M=common.Payload(data=b"3")),
        modify(
            a=common.Payload(metadata={"encoding": b"json/plain"}, data=b"null"),
            c=common.Payload(metadata={"encoding": b"json/plain"}, data=b"3"),
        ),
    )
    assert life.visible
    assert sorted(life.state.search_attributes.indexed_fields) == ["L", "M"]
    assert sorted(life.state.memo.fields) == ["b", "c"]


@pytest.mark.parametrize(
    ("asked", "cause", "message"),
    [
        (marker(""), "BAD_RECORD_MARKER_ATTRIBUTES", "MarkerName is not set"),
        (upsert(), "BAD_SEARCH_ATTRIBUTES", "IndexedFields is not set"),
        (upsert(Unknown=common.Payload()), "BAD_SEARCH_ATTRIBUTES", "Unknown is no search"),
        (
            as_command(command.ModifyWorkflowPropertiesCommandAttributes()),
            "BAD_MODIFY_WORKFLOW_PROPERTIES_ATTRIBUTES",
            "UpsertedMemo is not set",
        ),
        (
            modify(m=common.Payload(data=b"x" * 3000)),
            "BAD_MODIFY_WORKFLOW_PROPERTIES_ATTRIBUTES",
            "exceeds the limit of 2000 bytes",
        ),
        (continue_as_new(search_attributes=UNKNOWN), "BAD_SEARCH_ATTRIBUTES", "Unknown is no"),
        (
            continue_as_new(cron_schedule="never"),
            "BAD_CONTINUE_AS_NEW_ATTRIBUTES",
            "invalid CronSchedule",
        ),
        (start_child(search_attributes=UNKNOWN), "BAD_SEARCH_ATTRIBUTES", "Unknown is no"),
        (
            start_child(cron_schedule="never"),
            "BAD_START_CHILD_EXECUTION_ATTRIBUTES",
            "invalid CronSchedule",
        ),
        (
            start_child(namespace="nowhere"),
            "BAD_START_CHILD_EXECUTION_ATTRIBUTES",
            "Namespace nowhere is not found.",
        ),
    ],
)
def test_a_bad_command_fails_the_task(asked: command.Command, cause: str, message: str) -> None:
    life = WorkflowLife(config=Config(memo_bytes_max=2000))
    life.start_task()
    assert_bad(life, asked, cause, message)


# --- Messages ---------------------------------------------------------------------------------


def test_a_message_takes_effect_where_its_command_stands() -> None:
    life = WorkflowLife()
    life.admit("u")
    life.start_task()
    accepted = acceptance("u", "m1")
    life.complete(start_timer("a"), protocol_command("m1"), start_timer("b"), messages=[accepted])
    assert life.kinds[-3:] == [
        "TIMER_STARTED",
        "WORKFLOW_EXECUTION_UPDATE_ACCEPTED",
        "TIMER_STARTED",
    ]


def test_a_message_without_a_command_takes_effect_after_all_commands() -> None:
    life = WorkflowLife()
    life.admit("u")
    life.work(start_timer(), messages=[acceptance()])
    assert life.kinds[-1] == "WORKFLOW_EXECUTION_UPDATE_ACCEPTED"


def test_a_command_for_a_message_that_is_not_there_fails_the_task() -> None:
    life = WorkflowLife()
    life.start_task()
    asked = protocol_command("m1")
    assert_bad(life, asked, "BAD_UPDATE_WORKFLOW_EXECUTION_MESSAGE", "not in the request: m1")
