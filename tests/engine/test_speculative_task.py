"""The workflow task of an update: in history only if something came of it."""

import itertools

import pytest
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import command_type_pb2 as command_types
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.update.v1 import message_pb2 as update_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.config import Config
from durably.engine import commands, deadlines, update, workflow, workflow_pause, workflow_task
from durably.engine.refusals import BadCommand
from durably.engine.snapshot import decode_state, encode_state
from durably.engine.state import WorkflowState, WorkflowTask
from durably.engine.transition import Transition
from durably.engine.workflow_task import TaskReference, WorkflowTaskGrant
from durably.errors import WorkflowNotReady

CONFIG = Config()
SECOND = 1_000_000_000
START_NS = 1_700_000_000 * SECOND
BEGINNING = [
    "WORKFLOW_EXECUTION_STARTED",
    "WORKFLOW_TASK_SCHEDULED",
    "WORKFLOW_TASK_STARTED",
    "WORKFLOW_TASK_COMPLETED",
]
CONTEXT = commands.CommandContext(CONFIG, lambda _: "ns", lambda _, __: None, lambda _, __: "e")


class Life:
    """One workflow that has done its first task; each call is one transition."""

    def __init__(self, sticky: bool = False) -> None:
        self.state = WorkflowState(
            namespace_id="ns", namespace="default", workflow_id="w", run_id="run"
        )
        self.now_ns = START_NS
        self.kinds: list[str] = []
        self.last: Transition
        self._ids = itertools.count()
        request = ws.StartWorkflowExecutionRequest(
            workflow_id="w", task_queue={"name": "q"}, workflow_type={"name": "t"}
        )
        attributes = workflow.started_attributes(request, "run", self.now_ns, CONFIG)
        with self as t:
            workflow.start(t, attributes, namespace="default", request_id="r")
        self.take()
        first = ws.RespondWorkflowTaskCompletedRequest()
        if sticky:
            first.sticky_attributes.worker_task_queue.name = "sticky"
            first.sticky_attributes.schedule_to_start_timeout.seconds = 5
        self.complete(first)
        assert self.kinds == BEGINNING

    def __enter__(self) -> Transition:
        self.last = Transition(self.state, self.now_ns, lambda: f"id{next(self._ids)}")
        return self.last

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            names = [event_types.EventType.Name(e.event_type) for e in self.last.events]
            self.kinds += [name.removeprefix("EVENT_TYPE_") for name in names]
            # A snapshot of any moment is as good as the state.
            self.state = decode_state(encode_state(self.state))  # type: ignore[assignment]

    @property
    def task(self) -> WorkflowTask:
        assert self.state.workflow_task is not None
        return self.state.workflow_task

    @property
    def reference(self) -> TaskReference:
        task = self.task
        return TaskReference(task.scheduled_event_id, task.started_event_id, task.attempt)

    def admit(self, update_id: str = "u") -> None:
        request = update_messages.Request(meta={"update_id": update_id}, input={"name": "change"})
        with self as t:
            update.admit(t, request, CONFIG)

    def take(self) -> WorkflowTaskGrant:
        with self as t:
            return workflow_task.start(
                t, self.task.scheduled_event_id, self.task.attempt, "worker", "request", CONFIG
            )

    def complete(self, request: ws.RespondWorkflowTaskCompletedRequest) -> commands.CompletedTask:
        with self as t:
            return commands.complete_workflow_task(t, self.reference, request, CONTEXT)

    def signal(self) -> None:
        with self as t:
            attributes = history.WorkflowExecutionSignaledEventAttributes(signal_name="s")
            workflow.signal(t, attributes, CONFIG)

    def since_the_beginning(self) -> list[str]:
        return [kind.removeprefix("WORKFLOW_") for kind in self.kinds[len(BEGINNING) :]]


def answer(
    body: object, update_id: str = "u", **options: bool
) -> ws.RespondWorkflowTaskCompletedRequest:
    request = ws.RespondWorkflowTaskCompletedRequest(**options)
    message = request.messages.add(id=f"{update_id}/1", protocol_instance_id=update_id)
    message.body.Pack(body)  # type: ignore[arg-type]
    return request


def rejection() -> update_messages.Rejection:
    return update_messages.Rejection(failure=failure.Failure(message="no"))


def acceptance() -> update_messages.Acceptance:
    return update_messages.Acceptance(
        accepted_request_message_id="u/request", accepted_request_sequencing_event_id=4
    )


def test_a_rejected_update_leaves_no_trace() -> None:
    life = Life()
    life.admit()
    grant = life.take()
    assert [e.event_id for e in grant.transient_events] == [5, 6]
    completed = life.complete(answer(rejection()))
    assert completed.reset_event_id == 3
    assert life.last.rejected["u"].message == "no"
    assert life.since_the_beginning() == []
    assert life.state.workflow_task is None
    assert not life.state.updates


def test_an_accepted_update_has_its_task_in_history() -> None:
    life = Life()
    life.admit()
    life.take()
    assert life.complete(answer(acceptance())).reset_event_id == 0
    assert life.since_the_beginning() == [
        "TASK_SCHEDULED",
        "TASK_STARTED",
        "TASK_COMPLETED",
        "EXECUTION_UPDATE_ACCEPTED",
    ]


def test_it_waits_on_the_sticky_queue_and_stays_with_its_worker() -> None:
    life = Life(sticky=True)
    life.admit()
    assert (life.task.queue, life.task.sticky) == ("sticky", True)
    life.take()
    request = answer(rejection())
    request.sticky_attributes.worker_task_queue.name = "sticky"
    request.sticky_attributes.schedule_to_start_timeout.seconds = 5
    life.complete(request)
    assert life.state.sticky_queue == "sticky"


def test_a_sticky_worker_that_does_not_come_is_told_of_in_history() -> None:
    life = Life(sticky=True)
    life.admit()
    life.now_ns += 6 * SECOND
    with life as t:
        deadlines.fire_due(t)
    assert life.since_the_beginning() == ["TASK_SCHEDULED", "TASK_TIMED_OUT", "TASK_SCHEDULED"]
    assert life.task.queue == "q"


def test_what_comes_before_it_starts_comes_after_it_in_history() -> None:
    life = Life()
    life.admit()
    life.signal()
    assert life.since_the_beginning() == ["TASK_SCHEDULED", "EXECUTION_SIGNALED"]
    life.take()
    assert life.complete(answer(rejection())).reset_event_id == 0
    assert life.since_the_beginning()[2:] == ["TASK_STARTED", "TASK_COMPLETED"]


def test_what_comes_while_it_is_in_flight_keeps_it() -> None:
    life = Life()
    life.admit()
    life.take()
    life.signal()
    assert life.complete(answer(rejection())).reset_event_id == 0
    assert life.since_the_beginning() == [
        "TASK_SCHEDULED",
        "TASK_STARTED",
        "TASK_COMPLETED",
        "EXECUTION_SIGNALED",
        "TASK_SCHEDULED",
    ]


@pytest.mark.parametrize("forgets", [False, True])
def test_a_worker_that_cannot_forget_keeps_the_events_it_was_sent(forgets: bool) -> None:
    life = Life()
    with life as t:
        # An event of which a worker need not hear at once.
        t.record(history.WorkflowPropertiesModifiedEventAttributes())
    life.admit()
    life.take()
    request = answer(rejection())
    request.capabilities.discard_speculative_workflow_task_with_events = forgets
    completed = life.complete(request)
    assert bool(completed.reset_event_id) == forgets


def test_a_heartbeat_keeps_it() -> None:
    life = Life()
    life.admit()
    life.take()
    life.complete(answer(rejection(), force_create_new_workflow_task=True))
    assert life.since_the_beginning()[-1] == "TASK_SCHEDULED"


def test_an_update_that_came_meanwhile_has_the_next_one() -> None:
    life = Life()
    life.admit("u")
    life.take()
    life.admit("v")
    completed = life.complete(answer(rejection(), return_new_workflow_task=True))
    assert completed.new_task is not None
    assert completed.new_task.sticky
    assert [m.protocol_instance_id for m in update.messages(life.state)] == ["v"]
    assert life.since_the_beginning() == []


def test_a_failure_is_in_history_and_the_update_is_sent_again() -> None:
    life = Life()
    life.admit()
    life.take()
    cause = causes.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR
    with life as t:
        completion = workflow_task.Completion("worker")
        workflow_task.fail(t, life.reference, cause, None, completion)
    assert life.since_the_beginning() == ["TASK_SCHEDULED", "TASK_STARTED", "TASK_FAILED"]
    assert (life.task.attempt, life.task.speculative) == (2, False)
    life.take()
    assert [m.protocol_instance_id for m in update.messages(life.state)] == ["u"]


def test_an_update_that_comes_during_a_second_attempt_is_not_lost() -> None:
    life = Life()
    life.signal()
    life.take()
    with life as t:
        cause = causes.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR
        workflow_task.fail(t, life.reference, cause, None, workflow_task.Completion("worker"))
    life.take()
    life.admit()
    life.complete(ws.RespondWorkflowTaskCompletedRequest())
    life.take()
    assert [m.protocol_instance_id for m in update.messages(life.state)] == ["u"]


def test_a_timeout_is_in_history() -> None:
    life = Life()
    life.admit()
    life.take()
    life.now_ns += 60 * SECOND
    with life as t:
        deadlines.fire_due(t)
    assert life.since_the_beginning() == ["TASK_SCHEDULED", "TASK_STARTED", "TASK_TIMED_OUT"]


@pytest.mark.parametrize("started", [False, True])
def test_a_workflow_that_is_terminated_meanwhile(started: bool) -> None:
    life = Life()
    life.admit()
    if started:
        life.take()
    with life as t:
        workflow.terminate(t, "enough", None, "operator")
    before = ["TASK_SCHEDULED", "TASK_STARTED", "TASK_FAILED"] if started else []
    assert life.since_the_beginning() == [*before, "EXECUTION_TERMINATED"]


def test_a_workflow_that_is_paused_meanwhile_hears_of_the_update_later() -> None:
    life = Life()
    life.admit()
    with life as t:
        workflow_pause.pause(t, "operator", "why", "")
    assert life.state.workflow_task is None
    with life as t:
        workflow_pause.unpause(t, "operator", "go on", "")
    life.take()
    assert [m.protocol_instance_id for m in update.messages(life.state)] == ["u"]


def test_the_first_task_of_a_workflow_is_in_history() -> None:
    state = WorkflowState(namespace_id="ns", namespace="default", workflow_id="w", run_id="run")
    request = ws.StartWorkflowExecutionRequest(workflow_id="w", task_queue={"name": "q"})
    request.workflow_start_delay.seconds = 5
    t = Transition(state, START_NS, lambda: "id")
    attributes = workflow.started_attributes(request, "run", START_NS, CONFIG)
    workflow.start(t, attributes, namespace="default", request_id="r")
    asked = update_messages.Request(meta={"update_id": "u"}, input={"name": "change"})
    update.admit(t, asked, CONFIG)
    assert state.workflow_task is None
    later = Transition(state, START_NS + 5 * SECOND, lambda: "id")
    deadlines.fire_due(later)
    assert state.workflow_task is not None
    assert not state.workflow_task.speculative


def test_a_workflow_whose_tasks_fail_takes_no_updates() -> None:
    life = Life()
    life.signal()
    for _ in range(2):
        life.take()
        with life as t:
            cause = causes.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR
            workflow_task.fail(t, life.reference, cause, None, workflow_task.Completion("worker"))
    with pytest.raises(WorkflowNotReady):
        life.admit()


def test_updates_whose_worker_answers_nonsense_are_given_up() -> None:
    life = Life()
    life.admit("u")
    life.take()
    life.admit("v")
    with life as t:
        update.abandon_sent(t)
    assert life.last.abandoned == ["u"]
    assert list(life.state.updates) == ["v"]


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (update_messages.Acceptance(), "accepted_request_sequencing_event_id is not set"),
        (
            update_messages.Acceptance(accepted_request_sequencing_event_id=4),
            "accepted_request_message_id is not set",
        ),
        (update_messages.Response(), "was not accepted"),
        (common.Payload(), "unknown message"),
    ],
)
def test_an_answer_that_makes_no_sense_fails_the_task(body: object, wrong: str) -> None:
    life = Life()
    life.admit()
    life.take()
    with pytest.raises(BadCommand, match=wrong):
        life.complete(answer(body))


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (update_messages.Response(meta={"update_id": "u"}), "outcome is not set"),
        (
            update_messages.Response(meta={"update_id": "v"}, outcome={"success": {}}),
            "meta.update_id != u",
        ),
        (acceptance(), "was not waiting to be accepted"),
        (rejection(), "was not waiting to be rejected"),
    ],
)
def test_what_an_accepted_update_cannot_be_told(body: object, wrong: str) -> None:
    life = Life()
    life.admit()
    life.take()
    life.complete(answer(acceptance()))
    life.signal()
    life.take()
    with pytest.raises(BadCommand, match=wrong):
        life.complete(answer(body))


def test_a_workflow_does_not_end_before_its_worker_has_seen_an_update() -> None:
    life = Life()
    life.admit("u")
    life.take()
    life.admit("v")
    request = answer(rejection())
    closing = request.commands.add(
        command_type=command_types.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION
    )
    closing.complete_workflow_execution_command_attributes.SetInParent()
    with pytest.raises(BadCommand, match="UnhandledCommand"):
        life.complete(request)
