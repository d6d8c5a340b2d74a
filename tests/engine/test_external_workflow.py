"""Children, and signals and cancels to other workflows."""

from typing import Any

import pytest
from temporalio.api.command.v1 import message_pb2 as command
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.enums.v1 import workflow_pb2 as e
from temporalio.api.history.v1 import message_pb2 as history

from durably.config import Config
from durably.engine import external_workflow
from durably.engine.refusals import BadCommand
from durably.engine.transition import (
    ApplyParentClosePolicy,
    CancelExternal,
    SignalExternal,
    StartChild,
    outstanding,
)
from tests.engine.lives import (
    WorkflowLife,
    application_failure,
    as_command,
    assert_bad,
    complete_workflow,
    payloads,
    start_child,
)

FIRST = 5
"""Id of the event that initiates the first child, signal or cancel of a workflow."""
EXISTS = causes.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS
NO_TARGET = (
    causes.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND
)
NOT_CANCELED = (
    causes.CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND
)
TARGET = common.WorkflowExecution(workflow_id="other", run_id="r")


def closed(name: str, **attributes: Any) -> history.HistoryEvent:
    """The closing event of a child."""
    field = f"workflow_execution_{name.lower()}_event_attributes"
    kind = event_types.EventType.Value(f"EVENT_TYPE_WORKFLOW_EXECUTION_{name}")
    return history.HistoryEvent(event_type=kind, **{field: attributes})  # type: ignore[arg-type]


def parent() -> WorkflowLife:
    """A workflow whose child is to be started."""
    life = WorkflowLife()
    life.work(start_child())
    return life


def signal(**options: Any) -> command.Command:
    asked = {"execution": TARGET, "signal_name": "s", **options}
    return as_command(command.SignalExternalWorkflowExecutionCommandAttributes(**asked))


def cancel(**options: Any) -> command.Command:
    asked = {"workflow_id": "other", **options}
    return as_command(command.RequestCancelExternalWorkflowExecutionCommandAttributes(**asked))


# --- Children ---------------------------------------------------------------------------------


def test_a_child_is_owed_its_start_until_that_is_recorded() -> None:
    life = parent()
    assert outstanding(life.state) == [StartChild(FIRST)]
    assert external_workflow.delivery_request_id(life.state, FIRST) == "run:5"
    life.step(external_workflow.child_started, FIRST, "child-run")
    assert life.last("CHILD_WORKFLOW_EXECUTION_STARTED").workflow_execution.run_id == "child-run"
    assert outstanding(life.state) == []
    life.step(external_workflow.child_started, FIRST, "child-run")
    life.step(external_workflow.child_start_failed, FIRST, EXISTS)
    assert life.kinds.count("CHILD_WORKFLOW_EXECUTION_STARTED") == 1
    assert "START_CHILD_WORKFLOW_EXECUTION_FAILED" not in life.kinds


def test_history_shows_what_was_asked_for_and_every_default() -> None:
    life = WorkflowLife()
    life.work(
        start_child(
            namespace="elsewhere",
            workflow_execution_timeout={"seconds": 50},
            workflow_run_timeout={"seconds": 90},
            workflow_task_timeout={"seconds": 3},
            input=payloads(b"in"),
            header={"fields": {"h": common.Payload(data=b"1")}},
            memo={"fields": {"m": common.Payload(data=b"1")}},
            retry_policy={"maximum_attempts": 3},
            priority={"priority_key": 2},
            cron_schedule="@daily",
        ),
        start_child("plain", workflow_task_timeout={"seconds": 1}),
    )
    full, plain = (
        event.start_child_workflow_execution_initiated_event_attributes
        for event in life.events[-2:]
    )
    assert (full.namespace, full.namespace_id) == ("elsewhere", "id-of-elsewhere")
    assert full.workflow_run_timeout.seconds == 50, "no longer than the execution"
    assert (full.input, full.header.fields["h"].data) == (payloads(b"in"), b"1")
    assert (full.retry_policy.maximum_attempts, full.priority.priority_key) == (3, 2)
    assert (plain.namespace, plain.namespace_id, plain.task_queue.name) == ("default", "ns", "q")
    assert not plain.HasField("workflow_execution_timeout")
    assert plain.parent_close_policy == e.PARENT_CLOSE_POLICY_TERMINATE
    assert plain.workflow_id_reuse_policy == e.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workflow_id": ""}, "Required field WorkflowId is not set"),
        ({"workflow_type": {}}, "Required field WorkflowType is not set"),
        ({"workflow_id": "x" * 1001}, "WorkflowId on StartChildWorkflowExecutionCommand exceeds"),
        ({"workflow_execution_timeout": {"seconds": -1}}, "Invalid WorkflowExecutionTimeout"),
        ({"workflow_run_timeout": {"seconds": -1}}, "Invalid WorkflowRunTimeout"),
        ({"workflow_task_timeout": {"seconds": -1}}, "Invalid WorkflowTaskTimeout"),
        ({"priority": {"priority_key": -1}}, "priority key can't be negative"),
        ({"retry_policy": {"maximum_attempts": -1}}, "invalid WorkflowRetryPolicy"),
    ],
)
def test_a_bad_command_fails_the_task(options: dict[str, Any], message: str) -> None:
    life = WorkflowLife()
    life.start_task()
    assert_bad(life, start_child(**options), "BAD_START_CHILD_EXECUTION_ATTRIBUTES", message)


def test_so_many_may_be_pending() -> None:
    one = Config(pending_children_max=1, pending_signals_max=1, pending_cancels_max=1)
    for asked, cause in (
        (start_child("x"), "PENDING_CHILD_WORKFLOWS_LIMIT_EXCEEDED"),
        (signal(), "PENDING_SIGNALS_LIMIT_EXCEEDED"),
        (cancel(), "PENDING_REQUEST_CANCEL_LIMIT_EXCEEDED"),
    ):
        life = WorkflowLife(config=one)
        life.work(asked)
        life.signal()
        life.start_task()
        assert_bad(life, asked, cause, "limit of 1")


def test_a_child_that_cannot_start_is_gone() -> None:
    life = parent()
    life.step(external_workflow.child_start_failed, FIRST, EXISTS)
    assert life.last("START_CHILD_WORKFLOW_EXECUTION_FAILED").cause == EXISTS
    assert (life.state.children, outstanding(life.state)) == ({}, [])
    life.step(external_workflow.child_started, FIRST, "child-run")
    assert life.kinds[-2] == "START_CHILD_WORKFLOW_EXECUTION_FAILED"
    life.check()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("COMPLETED", {"result": payloads(b"out")}),
        ("COMPLETED", {}),
        ("FAILED", {"failure": application_failure(), "retry_state": 5}),
        ("CANCELED", {"details": payloads(b"why")}),
        ("CANCELED", {}),
        ("TIMED_OUT", {"retry_state": 3}),
        ("TERMINATED", {}),
    ],
)
def test_a_childs_end_reaches_its_parent_once(name: str, said: dict[str, Any]) -> None:
    life = parent()
    life.step(external_workflow.child_started, FIRST, "child-run")
    for _ in range(2):
        life.step(
            external_workflow.child_closed, FIRST, "child-run", "last-run", closed(name, **said)
        )
    kind = f"CHILD_WORKFLOW_EXECUTION_{name}"
    assert life.kinds.count(kind) == 1
    ended = life.last(kind)
    for field, value in said.items():
        assert getattr(ended, field) == value
    assert (ended.initiated_event_id, ended.started_event_id) == (FIRST, 6)
    assert ended.workflow_execution.run_id == "last-run"
    life.check()


def test_an_end_that_comes_before_the_start_is_known_says_both() -> None:
    life = parent()
    life.signal()
    life.start_task()
    life.step(external_workflow.child_closed, FIRST, "run-1", "run-1", closed("COMPLETED"))
    life.signal()
    life.complete()
    assert life.kinds[-4:] == [
        "CHILD_WORKFLOW_EXECUTION_STARTED",
        "WORKFLOW_EXECUTION_SIGNALED",
        "CHILD_WORKFLOW_EXECUTION_COMPLETED",
        "WORKFLOW_TASK_SCHEDULED",
    ]
    ended = life.last("CHILD_WORKFLOW_EXECUTION_COMPLETED")
    assert ended.started_event_id == life.events[-4].event_id
    life.check()


def test_a_child_that_started_while_a_worker_decided_has_its_id_afterwards() -> None:
    life = parent()
    life.signal()
    life.start_task()
    life.step(external_workflow.child_started, FIRST, "child-run")
    life.complete()
    assert life.state.children[FIRST].started_event_id == 10
    assert life.kinds[9] == "CHILD_WORKFLOW_EXECUTION_STARTED"


def test_a_closed_parent_records_nothing_of_its_child() -> None:
    life = parent()
    life.signal()
    life.work(complete_workflow())
    events = len(life.events)
    life.step(external_workflow.child_started, FIRST, "child-run")
    life.step(external_workflow.child_start_failed, FIRST, EXISTS)
    life.step(external_workflow.child_closed, FIRST, "r", "r", closed("COMPLETED"))
    assert len(life.events) == events


def test_a_close_policy_is_carried_out_once() -> None:
    life = parent()
    life.signal()
    life.work(complete_workflow())
    assert outstanding(life.state) == [ApplyParentClosePolicy(FIRST)]
    life.step(external_workflow.policy_applied, FIRST)
    life.step(external_workflow.policy_applied, FIRST)
    assert (outstanding(life.state), life.state.children) == ([], {})


# --- Signals and cancels ----------------------------------------------------------------------


def test_a_signal_is_owed_until_it_is_delivered() -> None:
    life = WorkflowLife()
    header = common.Header(fields={"h": common.Payload(data=b"1")})
    life.work(signal(input=payloads(b"in"), header=header, namespace="elsewhere"))
    assert outstanding(life.state) == [SignalExternal(FIRST)]
    initiated = life.last("SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED")
    assert (initiated.input, initiated.header) == (payloads(b"in"), header)
    assert initiated.namespace_id == "id-of-elsewhere"
    for _ in range(2):
        life.step(external_workflow.signal_delivered, FIRST)
    life.step(external_workflow.signal_failed, FIRST, NO_TARGET)
    assert life.kinds[-2:] == ["EXTERNAL_WORKFLOW_EXECUTION_SIGNALED", "WORKFLOW_TASK_SCHEDULED"]
    assert outstanding(life.state) == []


def test_a_signal_to_nobody_fails() -> None:
    life = WorkflowLife()
    life.work(signal())
    life.step(external_workflow.signal_failed, FIRST, NO_TARGET)
    assert life.last("SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED").cause == NO_TARGET
    assert outstanding(life.state) == []
    life.check()


def test_a_cancel_is_owed_until_it_is_delivered() -> None:
    life = WorkflowLife()
    life.work(cancel(reason="why"))
    assert outstanding(life.state) == [CancelExternal(FIRST)]
    for _ in range(2):
        life.step(external_workflow.cancel_delivered, FIRST)
    life.step(external_workflow.cancel_failed, FIRST, NOT_CANCELED)
    assert life.kinds[-2] == "EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED"
    assert outstanding(life.state) == []


def test_a_cancel_of_nobody_fails() -> None:
    life = WorkflowLife()
    life.work(cancel())
    life.step(external_workflow.cancel_failed, FIRST, NOT_CANCELED)
    failed = life.last("REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED")
    assert failed.cause == NOT_CANCELED
    assert outstanding(life.state) == []


@pytest.mark.parametrize(
    ("asked", "cause", "message"),
    [
        (
            as_command(command.SignalExternalWorkflowExecutionCommandAttributes()),
            "BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES",
            "Execution is not set",
        ),
        (
            signal(execution=common.WorkflowExecution(run_id="r")),
            "BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES",
            "WorkflowId is not set",
        ),
        (
            signal(signal_name=""),
            "BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES",
            "SignalName is not set",
        ),
        (
            signal(namespace="nowhere"),
            "BAD_SIGNAL_WORKFLOW_EXECUTION_ATTRIBUTES",
            "Namespace nowhere is not found.",
        ),
        (
            cancel(workflow_id=""),
            "BAD_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_ATTRIBUTES",
            "WorkflowId is not set",
        ),
        (
            cancel(namespace="nowhere"),
            "BAD_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_ATTRIBUTES",
            "Namespace nowhere is not found.",
        ),
    ],
)
def test_a_bad_message_to_another_fails_the_task(
    asked: command.Command, cause: str, message: str
) -> None:
    life = WorkflowLife()
    life.start_task()
    assert_bad(life, asked, cause, message)


def test_a_child_is_not_started_and_canceled_in_one_task() -> None:
    life = parent()
    life.signal()
    life.start_task()
    # The other child was initiated by an earlier task.
    life.complete(cancel(workflow_id="child"))
    life.signal()
    life.start_task()
    both = [start_child("new"), cancel(workflow_id="new")]
    with pytest.raises(BadCommand, match="not allowed in same workflow task"):
        life.complete(*both)
