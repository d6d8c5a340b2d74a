"""Executions in memory, as tests drive them.

Rule 1: a life is the live state, and beside it one that only ever sees the journal. After every step
        they are equal, and so is what a snapshot of the state gives back.
Rule 2: what a step makes the execution owe to others is among the step's effects, and no other
        delivery is; a task that is to be worked on was dispatched or started.
Rule 3: the deadline that the server would have stored is never later than the one of the state.
Rule 4: a refusal changes nothing.
"""

import re
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, Generic, TypeVar

import pytest
from google.protobuf.message import Message
from temporalio.api.command.v1 import message_pb2 as command
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import command_type_pb2 as command_types
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.protocol.v1 import message_pb2 as protocol
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.update.v1 import message_pb2 as update_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.config import Config
from durably.engine import activity, commands, deadlines, update, workflow, workflow_task
from durably.engine.apply.entries import apply_event, apply_record
from durably.engine.refusals import BadCommand
from durably.engine.snapshot import AnyState, decode_state, encode_state
from durably.engine.state import BUFFERED_EVENT_ID, Activity, HistoryState, WorkflowState
from durably.engine.transition import (
    Delivery,
    DispatchActivity,
    DispatchWorkflowTask,
    RuleFor,
    Transition,
    outstanding,
)
from durably.errors import InvalidArgument, NamespaceNotFound, NotFound, Refusal

CONFIG = Config()
SECOND_NS = 1_000_000_000
START_NS = 1_700_000_040 * SECOND_NS
"""A full minute."""
ERRORS = (Refusal, BadCommand)

S = TypeVar("S", bound=AnyState)


def payloads(*data: bytes) -> common.Payloads:
    return common.Payloads(payloads=[common.Payload(data=each) for each in data])


def application_failure(
    message: str = "broken", *, retryable: bool = True, kind: str = ""
) -> failure.Failure:
    return failure.Failure(
        message=message,
        application_failure_info=failure.ApplicationFailureInfo(
            type=kind, non_retryable=not retryable
        ),
    )


def fresh(run_id: str = "run") -> WorkflowState:
    return WorkflowState(namespace_id="ns", namespace="default", workflow_id="w", run_id=run_id)


def replay(state: AnyState, t: Transition[Any]) -> None:
    """Apply a transition's journal entries to another state, in their order."""
    position = 0
    for before, record in t.records:
        while position < before:
            _replay_event(state, t.encoded[position])
            position += 1
        apply_record(state, record)
    for encoded in t.encoded[position:]:
        _replay_event(state, encoded)


def _replay_event(state: AnyState, encoded: bytes) -> None:
    assert isinstance(state, HistoryState)
    apply_event(state, history.HistoryEvent.FromString(encoded), len(encoded))


class Life(Generic[S]):
    """One execution of any kind and its clock."""

    def __init__(self, state: S, copy: S, now_ns: int = START_NS) -> None:
        self.state, self.copy, self.now_ns = state, copy, now_ns
        self.deadline_ns = 0
        """As the server would have stored it."""
        self.events: list[history.HistoryEvent] = []
        self.dispatched: set[object] = set()
        """Every dispatch there was: of workflow tasks and of activities."""
        self.effects: list[object] = []
        """Of the last step."""
        self.visible = False
        """Whether the last step changed what lists show."""
        self.successor: Transition[WorkflowState] | None = None
        self.rule_for: RuleFor | None = None
        self._ids = count(1)

    def new_id(self) -> str:
        return f"id-{next(self._ids)}"

    def step(self, decide: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Decide, and check the rules above; what `decide` returns, or the refusal that it raises."""
        before, owed = encode_state(self.state), set(outstanding(self.state))
        t: Transition[Any] = Transition(self.state, self.now_ns, self.new_id)
        t.rule_for = self.rule_for
        try:
            result = decide(t, *arguments, **named)
        except ERRORS:
            self._check_refused(t, before)
            raise
        self._keep(t)
        self._check_journal(t)
        self._check_effects(t, owed)
        self._check_deadline(t)
        return result

    def attempt(self, decide: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """The same where a refusal is an answer like any other: None."""
        try:
            return self.step(decide, *arguments, **named)
        except ERRORS:
            return None

    def _check_refused(self, t: Transition[Any], before: bytes) -> None:
        if t.changed:  # As the server does: it drops the state and loads it again.
            self.state = decode_state(before)  # type: ignore[assignment]
        assert self.state == self.copy, "a refusal changes nothing"

    def _keep(self, t: Transition[Any]) -> None:
        self.events += t.events
        self.effects = list(t.effects)
        self.dispatched.update(e for e in t.effects if not isinstance(e, Delivery))
        self.visible = t.visible
        self.successor = t.successor or self.successor

    def _check_journal(self, t: Transition[Any]) -> None:
        replay(self.copy, t)
        if isinstance(self.state, HistoryState):
            self._copy_heartbeats(t)
        assert self.copy == self.state, "the journal gives the state back"
        self.copy = decode_state(encode_state(self.copy))  # type: ignore[assignment]
        assert self.copy == self.state, "a snapshot gives the state back"
        if t.successor is not None:
            following = fresh(t.successor.state.run_id)
            replay(following, t.successor)
            assert following == t.successor.state

    def _copy_heartbeats(self, t: Transition[Any]) -> None:
        """Heartbeats are rows that are overwritten, not entries of the journal."""
        for event_id in t.heartbeats:
            written, copied = (each.activities.get(event_id) for each in (self.state, self.copy))  # type: ignore[union-attr]
            if written is not None:
                copied.heartbeat_ns, copied.heartbeats = written.heartbeat_ns, written.heartbeats
                copied.heartbeat_details = written.heartbeat_details

    def _check_effects(self, t: Transition[Any], owed: set[Delivery]) -> None:
        deliveries = {effect for effect in t.effects if isinstance(effect, Delivery)}
        now_owed = set(outstanding(self.state))
        assert deliveries <= now_owed, "what is delivered is owed"
        assert now_owed - owed <= deliveries, "what comes to be owed is delivered"
        for effect in t.effects:
            self._check_dispatch(effect)

    def _check_dispatch(self, effect: object) -> None:
        """What is dispatched is there for a worker to take."""
        match effect:
            case DispatchWorkflowTask():
                assert isinstance(self.state, WorkflowState)
                task = self.state.workflow_task
                assert task is not None
                assert not task.started
                assert (task.scheduled_event_id, task.attempt) == (
                    effect.scheduled_event_id,
                    effect.attempt,
                )
            case DispatchActivity():
                assert isinstance(self.state, HistoryState)
                pending = self.state.activities[effect.scheduled_event_id]
                assert (pending.stamp, pending.started) == (effect.stamp, False)
                assert self.state.running

    def _check_deadline(self, t: Transition[Any]) -> None:
        """As `service/transact.py` stores it."""
        if self.state.closed:
            self.deadline_ns = deadlines.next_deadline(self.state)
        elif t.reschedule or not self.deadline_ns:
            self.deadline_ns = t.deadline_ns
        elif self.deadline_ns <= t.now_ns:
            self.deadline_ns = deadlines.next_deadline(self.state)
        else:
            self.deadline_ns = min(self.deadline_ns, t.deadline_ns or self.deadline_ns)
        wanted_ns = deadlines.next_deadline(self.state)
        assert not wanted_ns or 0 < self.deadline_ns <= wanted_ns, "nobody would wake it in time"

    def wait(self, seconds: float) -> None:
        """Let time pass; the execution is woken at the end of it, if its deadline has come."""
        self.now_ns += int(seconds * SECOND_NS)
        while 0 < self.deadline_ns <= self.now_ns:
            self.step(deadlines.fire_due)


# --- Commands ---------------------------------------------------------------------------------


def _command_fields() -> dict[str, str]:
    fields = command.Command.DESCRIPTOR.oneofs_by_name["attributes"].fields
    return {field.message_type.name: field.name for field in fields if field.message_type}


COMMAND_FIELDS = _command_fields()


def as_command(attributes: Message, **extra: Any) -> command.Command:
    """The command that these attributes belong to."""
    field = COMMAND_FIELDS[attributes.DESCRIPTOR.name]
    name = field.removesuffix("_command_attributes").upper()
    kind = command_types.CommandType.Value(f"COMMAND_TYPE_{name}")
    return command.Command(command_type=kind, **{field: attributes}, **extra)  # type: ignore[arg-type]


def start_timer(timer_id: str = "t", seconds: float = 5, **extra: Any) -> command.Command:
    made = command.StartTimerCommandAttributes(timer_id=timer_id)
    made.start_to_fire_timeout.FromNanoseconds(int(seconds * SECOND_NS))
    return as_command(made, **extra)


def cancel_timer(timer_id: str) -> command.Command:
    return as_command(command.CancelTimerCommandAttributes(timer_id=timer_id))


def activity_attributes(
    activity_id: str = "a", **options: Any
) -> command.ScheduleActivityTaskCommandAttributes:
    options.setdefault("activity_type", common.ActivityType(name="work"))
    options.setdefault("start_to_close_timeout", {"seconds": 10})
    return command.ScheduleActivityTaskCommandAttributes(activity_id=activity_id, **options)


def schedule_activity(activity_id: str = "a", **options: Any) -> command.Command:
    return as_command(activity_attributes(activity_id, **options))


def cancel_activity(scheduled_event_id: int) -> command.Command:
    return as_command(
        command.RequestCancelActivityTaskCommandAttributes(scheduled_event_id=scheduled_event_id)
    )


def schedule_nexus(endpoint: str = "e", seconds: float = 0, **options: Any) -> command.Command:
    """`seconds`: the schedule-to-close timeout."""
    options.setdefault("service", "s")
    options.setdefault("operation", "o")
    made = command.ScheduleNexusOperationCommandAttributes(endpoint=endpoint, **options)
    if seconds:
        made.schedule_to_close_timeout.FromNanoseconds(int(seconds * SECOND_NS))
    return as_command(made)


def cancel_nexus(scheduled_event_id: int) -> command.Command:
    return as_command(
        command.RequestCancelNexusOperationCommandAttributes(scheduled_event_id=scheduled_event_id)
    )


def start_child(workflow_id: str = "child", **options: Any) -> command.Command:
    options.setdefault("workflow_type", common.WorkflowType(name="c"))
    return as_command(
        command.StartChildWorkflowExecutionCommandAttributes(workflow_id=workflow_id, **options)
    )


def complete_workflow(**options: Any) -> command.Command:
    return as_command(command.CompleteWorkflowExecutionCommandAttributes(**options))


def fail_workflow(reason: failure.Failure | None = None) -> command.Command:
    return as_command(
        command.FailWorkflowExecutionCommandAttributes(failure=reason or application_failure())
    )


def cancel_workflow(**options: Any) -> command.Command:
    return as_command(command.CancelWorkflowExecutionCommandAttributes(**options))


def continue_as_new(**options: Any) -> command.Command:
    return as_command(command.ContinueAsNewWorkflowExecutionCommandAttributes(**options))


def protocol_command(message_id: str) -> command.Command:
    return as_command(command.ProtocolMessageCommandAttributes(message_id=message_id))


def about_update(update_id: str, body: Message, message_id: str = "") -> protocol.Message:
    """What a worker says of an update."""
    message = protocol.Message(id=message_id or f"{update_id}/m", protocol_instance_id=update_id)
    message.body.Pack(body)
    return message


def acceptance(update_id: str = "u", message_id: str = "") -> protocol.Message:
    body = update_messages.Acceptance(
        accepted_request_message_id=f"{update_id}/request", accepted_request_sequencing_event_id=1
    )
    return about_update(update_id, body, message_id)


def rejection(update_id: str = "u", message_id: str = "") -> protocol.Message:
    body = update_messages.Rejection(failure=failure.Failure(message="no"))
    return about_update(update_id, body, message_id)


def completion(update_id: str = "u", message_id: str = "") -> protocol.Message:
    body = update_messages.Response(
        meta=update_messages.Meta(update_id=update_id),
        outcome=update_messages.Outcome(success=payloads(b"done")),
    )
    return about_update(update_id, body, message_id or f"{update_id}/c")


# --- Workflows --------------------------------------------------------------------------------


def start_request(**options: Any) -> ws.StartWorkflowExecutionRequest:
    return ws.StartWorkflowExecutionRequest(
        namespace="default",
        workflow_id="w",
        workflow_type=common.WorkflowType(name="t"),
        task_queue=taskqueue.TaskQueue(name="q"),
        **options,
    )


def namespace_id(name: str) -> str:
    if name == "nowhere":
        raise NamespaceNotFound(name)
    return f"id-of-{name}"


def check_search_attributes(namespace: str, found: common.SearchAttributes) -> None:
    if "Unknown" in found.indexed_fields:
        raise InvalidArgument(f"Unknown is no search attribute of {namespace}")


def nexus_endpoint_id(namespace: str, asked: commands.NexusCommand) -> str:
    if asked.endpoint == "nowhere":
        raise NotFound(f'endpoint "{asked.endpoint}" not found')
    if asked.endpoint == "wrong":
        raise InvalidArgument("wrong input")
    return f"id-of-{asked.endpoint}"


class WorkflowLife(Life[WorkflowState]):
    """A run of a workflow, whose worker does what a test says."""

    def __init__(
        self, *, config: Config = CONFIG, parent: workflow.Parent | None = None, **options: Any
    ) -> None:
        """`options`: fields of the start request, and what `workflow.start` takes beside."""
        super().__init__(fresh(), fresh())
        self.config = config
        beside = {
            name: options.pop(name)
            for name in ("schedule", "scheduled_by", "links")
            if name in options
        }
        request = start_request(**options)
        attributes = workflow.started_attributes(request, "run", self.now_ns, config, parent)
        self.step(
            workflow.start,
            attributes,
            namespace="default",
            request_id="request",
            user_metadata=request.user_metadata,
            **beside,
        )

    @classmethod
    def of(cls, t: Transition[WorkflowState], config: Config = CONFIG) -> "WorkflowLife":
        """The life of a run from its first transition on: one that follows another, a reset one."""
        life = cls.__new__(cls)
        Life.__init__(life, t.state, fresh(t.state.run_id), t.now_ns)
        life.config = config
        life._keep(t)
        life._check_journal(t)
        life._check_effects(t, set())
        life._check_deadline(t)
        return life

    def follow(self) -> "WorkflowLife":
        """The run that follows this one."""
        assert self.successor is not None
        return WorkflowLife.of(self.successor, self.config)

    # Its events

    @property
    def kinds(self) -> list[str]:
        return [
            event_types.EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")
            for event in self.events
        ]

    def last(self, kind: str) -> Any:
        """The attributes of the latest event of a kind."""
        index = len(self.kinds) - 1 - self.kinds[::-1].index(kind)
        event = self.events[index]
        return getattr(event, event.WhichOneof("attributes") or "")

    # What a worker does about workflow tasks

    @property
    def reference(self) -> workflow_task.TaskReference:
        task = self.state.workflow_task
        assert task is not None
        return workflow_task.TaskReference(
            task.scheduled_event_id, task.started_event_id, task.attempt
        )

    def start_task(self, request_id: str = "rq", **said: Any) -> workflow_task.WorkflowTaskGrant:
        """A worker takes the workflow task that waits."""
        task = self.state.workflow_task
        assert task is not None
        granted = self.step(
            workflow_task.start,
            task.scheduled_event_id,
            task.attempt,
            "worker",
            request_id,
            self.config,
            **said,
        )
        assert isinstance(granted, workflow_task.WorkflowTaskGrant)
        return granted

    def complete(
        self,
        *asked: command.Command,
        messages: Iterable[protocol.Message] = (),
        **options: Any,
    ) -> commands.CompletedTask:
        """The worker completes the task that it has."""
        request = ws.RespondWorkflowTaskCompletedRequest(
            identity="worker", commands=asked, messages=messages, **options
        )
        context = commands.CommandContext(
            self.config,
            namespace_id,
            check_search_attributes,
            nexus_endpoint_id,
        )
        completed = self.step(commands.complete_workflow_task, self.reference, request, context)
        assert isinstance(completed, commands.CompletedTask)
        return completed

    def work(self, *asked: command.Command, **options: Any) -> commands.CompletedTask:
        """A worker takes the task, and completes it."""
        self.start_task()
        return self.complete(*asked, **options)

    def fail_task(self, reason: failure.Failure | None = None, **said: Any) -> None:
        cause = causes.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR
        completion = workflow_task.Completion("worker", **said)
        self.step(workflow_task.fail, self.reference, cause, reason, completion)

    # What happens to it from outside

    def signal(self, name: str = "s", request_id: str = "", **extra: Any) -> None:
        attributes = history.WorkflowExecutionSignaledEventAttributes(
            signal_name=name, request_id=request_id
        )
        self.step(workflow.signal, attributes, self.config, **extra)

    def request_cancel(self, request_id: str = "") -> None:
        attributes = history.WorkflowExecutionCancelRequestedEventAttributes()
        self.step(workflow.request_cancel, attributes, request_id)

    def terminate(self) -> None:
        self.step(workflow.terminate, "enough", payloads(b"why"), "operator")

    def admit(self, update_id: str) -> None:
        self.step(update.admit, update_request(update_id), self.config)

    # What workers do about activities

    def pending(self, activity_id: str = "a") -> Activity:
        return self.state.activities[self.state.activity_ids[activity_id]]

    def take(
        self, activity_id: str = "a", request_id: str = "rq", **said: Any
    ) -> activity.ActivityGrant | None:
        """A worker takes the attempt that waits; None if something holds it back."""
        pending = self.pending(activity_id)
        granted: activity.ActivityGrant | None = self.step(
            activity.take, pending.scheduled_event_id, pending.stamp, "worker", request_id, **said
        )
        return granted

    def respond(self, decide: Callable[..., Any], *said: Any, activity_id: str = "a") -> Any:
        """What a worker says of its attempt: `activity.complete` and the like."""
        pending = self.pending(activity_id)
        return self.step(decide, pending.scheduled_event_id, pending.attempt, *said)

    def fail_attempt(self, reason: failure.Failure | None = None, activity_id: str = "a") -> None:
        said = reason or application_failure()
        self.respond(activity.fail, said, "worker", activity_id=activity_id)

    def with_activity(self, **options: Any) -> "WorkflowLife":
        """The worker schedules the activity `a`."""
        self.work(schedule_activity(**options))
        return self

    # Rules that hold always

    def check(self) -> None:
        """Ids are contiguous; nothing comes after the close; what waits is on its way to somebody."""
        ids = [event.event_id for event in self.events]
        assert ids == list(range(1, len(ids) + 1))
        assert BUFFERED_EVENT_ID not in ids
        closing = [i for i, kind in enumerate(self.kinds) if kind in CLOSING]
        assert closing in ([], [len(ids) - 1])
        assert self.state.closed == bool(closing)
        if self.state.running:
            self._check_tasks()

    def _check_tasks(self) -> None:
        task = self.state.workflow_task
        if task is not None and not task.started:
            waits = DispatchWorkflowTask(
                task.queue, task.sticky, task.scheduled_event_id, task.attempt
            )
            assert waits in self.dispatched
        held = self.state.held
        for pending in self.state.activities.values():
            if pending.started or pending.pause or pending.retry_at_ns or held:
                continue
            queue = pending.scheduled.task_queue.name
            on_queue = DispatchActivity(queue, pending.scheduled_event_id, pending.stamp)
            assert on_queue in self.dispatched


def assert_bad(life: WorkflowLife, asked: command.Command, cause: str, message: str) -> None:
    """The worker asks for something wrong: nothing of its completion takes effect."""
    with pytest.raises(BadCommand, match=re.escape(message)) as refused:
        life.complete(asked)
    name = causes.WorkflowTaskFailedCause.Name(refused.value.cause)
    assert name == f"WORKFLOW_TASK_FAILED_CAUSE_{cause}"


CLOSING = frozenset(
    f"WORKFLOW_EXECUTION_{end}"
    for end in ("COMPLETED", "FAILED", "TIMED_OUT", "TERMINATED", "CANCELED", "CONTINUED_AS_NEW")
)


def update_request(update_id: str) -> update_messages.Request:
    return update_messages.Request(
        meta=update_messages.Meta(update_id=update_id), input={"name": "change"}
    )
