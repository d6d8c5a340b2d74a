"""Random lives of a workflow: after every step the journal gives the state back.

One hypothesis machine drives the whole engine: a worker that completes tasks with random commands,
activities that end in every way, time that passes, signals and cancels from outside.
"""

import uuid
from typing import Any

import hypothesis.strategies as st
from google.protobuf.duration_pb2 import Duration
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from temporalio.api.activity.v1 import message_pb2 as activities
from temporalio.api.command.v1 import message_pb2 as command
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import command_type_pb2 as command_types
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.update.v1 import message_pb2 as update_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.config import Config
from durably.engine import (
    activity,
    activity_control,
    commands,
    deadlines,
    external_workflow,
    nexus_operation,
    nexus_outcome,
    update,
    workflow,
    workflow_pause,
    workflow_task,
)
from durably.engine.apply import apply_event, apply_record
from durably.engine.nexus_outcome import Refused, Started, Succeeded, Unsuccessful
from durably.engine.refusals import BadCommand
from durably.engine.snapshot import decode_state, encode_state
from durably.engine.state import BUFFERED_EVENT_ID, Activity, WorkflowState
from durably.engine.transition import PausingRule, Transition, outstanding
from durably.errors import Refusal

CONFIG = Config()
SECOND = 1_000_000_000
START_NS = 1_700_000_000 * SECOND


def fresh(run_id: str = "run") -> WorkflowState:
    return WorkflowState(namespace_id="ns", namespace="default", workflow_id="w", run_id=run_id)


def replay(state: WorkflowState, t: Transition) -> None:
    """Apply a transition's journal entries to another state, in their order."""
    position = 0
    for before, record in t.records:
        while position < before:
            event = history.HistoryEvent.FromString(t.encoded[position])
            apply_event(state, event, len(t.encoded[position]))
            position += 1
        apply_record(state, record)
    for encoded in t.encoded[position:]:
        apply_event(state, history.HistoryEvent.FromString(encoded), len(encoded))


def timer_command(timer_id: str, seconds: int) -> command.Command:
    return command.Command(
        command_type=command_types.COMMAND_TYPE_START_TIMER,
        start_timer_command_attributes=command.StartTimerCommandAttributes(
            timer_id=timer_id, start_to_fire_timeout=Duration(seconds=seconds)
        ),
    )


def activity_command(activity_id: str, attempts: int) -> command.Command:
    return command.Command(
        command_type=command_types.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK,
        schedule_activity_task_command_attributes=command.ScheduleActivityTaskCommandAttributes(
            activity_id=activity_id,
            activity_type=common.ActivityType(name="a"),
            start_to_close_timeout=Duration(seconds=10),
            heartbeat_timeout=Duration(seconds=5),
            retry_policy=common.RetryPolicy(maximum_attempts=attempts),
        ),
    )


def child_command(workflow_id: str) -> command.Command:
    return command.Command(
        command_type=command_types.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION,
        start_child_workflow_execution_command_attributes=(
            command.StartChildWorkflowExecutionCommandAttributes(
                workflow_id=workflow_id, workflow_type=common.WorkflowType(name="c")
            )
        ),
    )


NEXUS_TIMEOUTS = ("", "schedule_to_close", "schedule_to_start", "start_to_close")


def nexus_command(timeout: str) -> command.Command:
    attributes = command.ScheduleNexusOperationCommandAttributes(
        endpoint="e", service="s", operation="o"
    )
    if timeout:
        getattr(attributes, f"{timeout}_timeout").seconds = 7
    return command.Command(
        command_type=command_types.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION,
        schedule_nexus_operation_command_attributes=attributes,
    )


NEXUS_OUTCOMES = {
    "done": Succeeded(common.Payload(data=b"1")),
    "started": Started("token"),
    "failed": Unsuccessful(failure.Failure(message="no", application_failure_info={})),
    "canceled": Unsuccessful(failure.Failure(message="no", canceled_failure_info={})),
    "refused for now": nexus_outcome.refused("UNAVAILABLE", "later"),
    "refused for good": nexus_outcome.refused("NOT_FOUND", "never"),
}


def closing_command(kind: str) -> command.Command:
    if kind == "complete":
        return command.Command(
            command_type=command_types.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION,
            complete_workflow_execution_command_attributes=(
                command.CompleteWorkflowExecutionCommandAttributes()
            ),
        )
    return command.Command(
        command_type=command_types.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION,
        continue_as_new_workflow_execution_command_attributes=(
            command.ContinueAsNewWorkflowExecutionCommandAttributes()
        ),
    )


def every_third(state: WorkflowState, pending: Activity, now_ns: int) -> PausingRule | None:
    return PausingRule("rule", "me", "why") if pending.scheduled_event_id % 3 == 0 else None


class LifeOfAWorkflow(RuleBasedStateMachine):
    """The live state, and beside it one that only ever sees the journal."""

    @initialize(run_timeout=st.sampled_from([0, 60]), retried=st.booleans())
    def start(self, run_timeout: int, retried: bool) -> None:
        self.now = START_NS
        self.state, self.copy = fresh(), fresh()
        self.events: list[history.HistoryEvent] = []
        self.names = 0
        self.ruled = False
        request = ws.StartWorkflowExecutionRequest(
            workflow_id="w",
            workflow_type=common.WorkflowType(name="t"),
            task_queue={"name": "q"},  # type: ignore[arg-type]
            workflow_run_timeout=Duration(seconds=run_timeout),
        )
        if retried:
            request.retry_policy.maximum_attempts = 3
        attributes = workflow.started_attributes(request, "run", self.now, CONFIG)
        self.step(
            lambda t: workflow.start(t, attributes, namespace="default", request_id="request")
        )

    def step(self, decide: Any) -> Any:
        """Decide, then check that the journal alone leads to the same state."""
        before = encode_state(self.state)
        t = Transition(self.state, self.now, lambda: str(uuid.uuid4()))
        t.rule_for = every_third if self.ruled else None
        try:
            result = decide(t)
        except (Refusal, BadCommand):
            if t.changed:
                self.state = decode_state(before)
            assert encode_state(self.state) == before
            return None
        replay(self.copy, t)
        self.events += t.events
        assert encode_state(self.copy) == encode_state(self.state)
        self.copy = decode_state(encode_state(self.copy))
        for delivery in t.effects:
            self.last_effect = delivery
        return result

    @rule(ruled=st.booleans())
    def change_rules(self, ruled: bool) -> None:
        self.ruled = ruled

    def new_name(self) -> str:
        self.names += 1
        return f"n{self.names}"

    def reference(self) -> workflow_task.TaskReference:
        task = self.state.workflow_task
        assert task is not None
        return workflow_task.TaskReference(
            task.scheduled_event_id, task.started_event_id, task.attempt
        )

    def has_started_task(self) -> bool:
        return self.state.workflow_task is not None and self.state.workflow_task.started

    @precondition(lambda self: self.state.workflow_task and not self.state.workflow_task.started)
    @rule()
    def start_task(self) -> None:
        task = self.state.workflow_task
        assert task is not None
        scheduled, attempt = task.scheduled_event_id, task.attempt
        self.step(lambda t: workflow_task.start(t, scheduled, attempt, "worker", "rq", CONFIG))

    @precondition(has_started_task)
    @rule(
        timers=st.integers(0, 2),
        scheduled=st.integers(0, 2),
        children=st.integers(0, 1),
        attempts=st.integers(0, 3),
        sticky=st.booleans(),
        close=st.sampled_from(["", "", "", "complete", "continue"]),
        cancel=st.booleans(),
        again=st.booleans(),
        answer=st.sampled_from(["accept", "reject", "ignore", "nonsense"]),
        forgets=st.booleans(),
        operations=st.lists(st.sampled_from(NEXUS_TIMEOUTS), max_size=2),
    )
    def complete_task(
        self,
        timers: int,
        scheduled: int,
        children: int,
        attempts: int,
        sticky: bool,
        close: str,
        cancel: bool,
        again: bool,
        answer: str,
        operations: list[str],
        forgets: bool,
    ) -> None:
        request = ws.RespondWorkflowTaskCompletedRequest(
            identity="worker", return_new_workflow_task=again, force_create_new_workflow_task=again
        )
        if sticky:
            request.sticky_attributes.worker_task_queue.name = "sticky"
            request.sticky_attributes.schedule_to_start_timeout.seconds = 5
        request.commands.extend(timer_command(self.new_name(), 5) for _ in range(timers))
        request.commands.extend(
            activity_command(self.new_name(), attempts) for _ in range(scheduled)
        )
        request.commands.extend(child_command(self.new_name()) for _ in range(children))
        self.add_update_messages(request, answer)
        request.capabilities.discard_speculative_workflow_task_with_events = forgets
        if cancel:
            self.add_cancels(request)
        if close:
            request.commands.append(closing_command(close))
        request.commands.extend(nexus_command(kind) for kind in operations)
        context = commands.CommandContext(
            CONFIG, lambda _: "ns", lambda _, __: None, lambda _, __: "endpoint"
        )
        reference = self.reference()
        self.step(lambda t: commands.complete_workflow_task(t, reference, request, context))

    def add_cancels(self, request: ws.RespondWorkflowTaskCompletedRequest) -> None:
        for event_id in list(self.state.activities)[:1]:
            request.commands.add(
                command_type=command_types.COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK
            ).request_cancel_activity_task_command_attributes.scheduled_event_id = event_id
        for timer_id in list(self.state.timers)[:1]:
            request.commands.add(
                command_type=command_types.COMMAND_TYPE_CANCEL_TIMER
            ).cancel_timer_command_attributes.timer_id = timer_id
        ended = [
            getattr(e, e.WhichOneof("attributes") or "").scheduled_event_id
            for e in self.state.buffered
            if e.event_type in nexus_operation.ENDS
        ]
        for event_id in [*self.state.nexus_operations, *ended][:2]:
            request.commands.add(
                command_type=command_types.COMMAND_TYPE_REQUEST_CANCEL_NEXUS_OPERATION
            ).request_cancel_nexus_operation_command_attributes.scheduled_event_id = event_id

    @precondition(lambda self: self.state.nexus_operations)
    @rule(
        which=st.integers(0, 3),
        how=st.sampled_from(["start", "cancel", "complete"]),
        outcome=st.sampled_from(list(NEXUS_OUTCOMES)),
        stale=st.booleans(),
    )
    def answer_operation(self, which: int, how: str, outcome: str, stale: bool) -> None:
        ids = list(self.state.nexus_operations)
        event_id = ids[which % len(ids)]
        operation = self.state.nexus_operations[event_id]
        answer: Any = NEXUS_OUTCOMES[outcome]
        match how:
            case "start":
                attempt = operation.attempt + stale
                self.step(
                    lambda t: nexus_operation.start_answered(t, event_id, attempt, answer, CONFIG)
                )
            case "cancel":
                sent = (operation.cancel.attempt if operation.cancel else 0) + stale
                refused = answer if isinstance(answer, Refused) else None
                self.step(
                    lambda t: nexus_operation.cancel_answered(t, event_id, sent, refused, CONFIG)
                )
            case _ if isinstance(answer, Succeeded | Unsuccessful):
                request_id = "another" if stale else operation.request_id
                self.step(
                    lambda t: nexus_operation.complete(t, event_id, request_id, answer, token="t")
                )

    @precondition(has_started_task)
    @rule()
    def fail_task(self) -> None:
        cause = causes.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR
        reference = self.reference()
        completion = workflow_task.Completion("worker")
        self.step(lambda t: workflow_task.fail(t, reference, cause, None, completion))

    @rule(request_id=st.sampled_from(["", "s1", "s2", "s3"]))
    def signal(self, request_id: str) -> None:
        attributes = history.WorkflowExecutionSignaledEventAttributes(
            signal_name="s", request_id=request_id
        )
        self.step(lambda t: workflow.signal(t, attributes, CONFIG))

    @rule()
    def request_cancel(self) -> None:
        attributes = history.WorkflowExecutionCancelRequestedEventAttributes()
        self.step(lambda t: workflow.request_cancel(t, attributes))

    @rule(request_id=st.sampled_from(["", "p1"]))
    def pause(self, request_id: str) -> None:
        self.step(lambda t: workflow_pause.pause(t, "operator", "why", request_id))

    @precondition(lambda self: self.state.held)
    @rule()
    def unpause(self) -> None:
        self.step(lambda t: workflow_pause.unpause(t, "operator", "go on", ""))
        task = self.state.workflow_task
        assert task is not None, "a worker hears of what happened meanwhile"

    @precondition(lambda self: self.state.next_event_id > 25)
    @rule()
    def terminate(self) -> None:
        self.step(lambda t: workflow.terminate(t, "enough", None, "operator"))

    @precondition(lambda self: self.state.activities)
    @rule(which=st.integers(0, 5), end=st.sampled_from(["start", "complete", "fail", "beat", "ok"]))
    def touch_activity(self, which: int, end: str) -> None:
        ids = list(self.state.activities)
        event_id = ids[which % len(ids)]
        attempt = self.state.activities[event_id].attempt
        reason = failure.Failure(
            message="x", application_failure_info=failure.ApplicationFailureInfo(type="E")
        )
        match end:
            case "start":
                stamp = self.state.activities[event_id].stamp
                self.step(lambda t: activity.take(t, event_id, stamp, "worker", "r"))
            case "complete":
                self.step(lambda t: activity.complete(t, event_id, attempt, None, "worker"))
            case "fail":
                self.step(lambda t: activity.fail(t, event_id, attempt, reason, "worker"))
            case "ok":
                self.step(lambda t: activity.confirm_cancel(t, event_id, attempt, None, "worker"))
            case _:
                self.beat(event_id, attempt)

    @precondition(lambda self: self.state.activities)
    @rule(
        which=st.integers(0, 5),
        what=st.sampled_from(["pause", "unpause", "reset", "options", "restore"]),
        flag=st.booleans(),
        jitter_ns=st.sampled_from([0, 3 * SECOND]),
    )
    def control_activity(self, which: int, what: str, flag: bool, jitter_ns: int) -> None:
        ids = list(self.state.activities)
        event_id = ids[which % len(ids)]
        jitter: Any = {"jitter": lambda longest_ns: longest_ns, "jitter_ns": jitter_ns}
        options = activities.ActivityOptions(
            heartbeat_timeout=Duration(seconds=2), retry_policy={"maximum_attempts": 4}
        )
        paths = ["heartbeat_timeout", "retry_policy.maximum_attempts"]

        def decide(t: Transition) -> None:
            chosen = [t.state.activities[event_id]]
            match what:
                case "pause":
                    activity_control.pause(t, chosen, "operator", "why", "p1" if flag else "")
                case "unpause":
                    activity_control.unpause(
                        t, chosen, reset_attempts=flag, reset_heartbeat=flag, **jitter
                    )
                case "reset":
                    activity_control.reset(
                        t,
                        chosen,
                        reset_heartbeat=flag,
                        keep_paused=not flag,
                        restore_options=flag,
                        **jitter,
                    )
                case "options":
                    activity_control.update_options(t, chosen, options, paths, 0)
                case _:
                    activity_control.restore_options(t, chosen)

        self.step(decide)

    @rule(update_id=st.sampled_from(["u1", "u2", "u3", "u4"]))
    def admit_update(self, update_id: str) -> None:
        request = update_messages.Request(
            meta=update_messages.Meta(update_id=update_id), input={"name": "change"}
        )
        self.step(lambda t: update.admit(t, request, CONFIG))

    def add_update_messages(
        self, request: ws.RespondWorkflowTaskCompletedRequest, answer: str
    ) -> None:
        """What the worker says of the updates that its task carries, and of those it accepted."""
        for pending in self.state.updates.values():
            if pending.accepted_event_id:
                body: Any = update_messages.Response(
                    meta=update_messages.Meta(update_id=pending.update_id),
                    outcome={"success": {}},
                )
            elif not pending.sent or answer == "ignore":
                continue
            elif answer == "reject":
                body = update_messages.Rejection(failure=failure.Failure(message="no"))
            else:
                body = update_messages.Acceptance(
                    accepted_request_message_id=f"{pending.update_id}/request",
                    accepted_request_sequencing_event_id=int(answer == "accept"),
                )
            message = request.messages.add(
                id=self.new_name(), protocol_instance_id=pending.update_id
            )
            message.body.Pack(body)

    def beat(self, event_id: int, attempt: int) -> None:
        """Heartbeats are a row that is overwritten, not entries: copy what the store would."""
        t = Transition(self.state, self.now, lambda: "id")
        try:
            activity.heartbeat(t, event_id, attempt, None)
        except Refusal:
            return
        self.copy.activities[event_id].heartbeat_ns = self.now

    @precondition(lambda self: self.state.children)
    @rule(ending=st.booleans())
    def touch_child(self, ending: bool) -> None:
        initiated = next(iter(self.state.children))
        closed = history.HistoryEvent(
            event_type=event_types.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
            workflow_execution_completed_event_attributes={},  # type: ignore[arg-type]
        )
        if ending:
            self.step(
                lambda t: external_workflow.child_closed(t, initiated, "child", "child", closed)
            )
        else:
            self.step(lambda t: external_workflow.child_started(t, initiated, "child"))

    @rule(seconds=st.integers(1, 12))
    def let_time_pass(self, seconds: int) -> None:
        self.now += seconds * SECOND
        if self.state.running:
            self.step(deadlines.fire_due)
            if self.state.running:
                upcoming = deadlines.next_deadline(self.state)
                assert upcoming == 0 or upcoming > self.now

    @invariant()
    def rules_hold(self) -> None:
        ids = [event.event_id for event in self.events]
        assert ids == list(range(1, len(ids) + 1))
        assert BUFFERED_EVENT_ID not in ids
        closing = [i for i, e in enumerate(self.events) if self.is_closing(e)]
        assert closing in ([], [len(ids) - 1])
        assert self.state.closed == bool(closing)
        kinds = {event.event_id: event.event_type for event in self.events}
        for pending in self.state.activities:
            assert kinds[pending] == event_types.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
        self.check_operations(kinds)
        seen = [
            e.workflow_execution_signaled_event_attributes.request_id
            for e in self.events
            if e.event_type == event_types.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
        ]
        named = [request_id for request_id in seen if request_id]
        assert len(named) == len(set(named))
        accepted = [
            e.workflow_execution_update_accepted_event_attributes.protocol_instance_id
            for e in self.events
            if e.event_type == event_types.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED
        ]
        assert len(accepted) == len(set(accepted))
        if self.state.held:
            assert self.state.workflow_task is None or self.state.workflow_task.started
        self.check_updates()
        self.check_pauses()
        if self.state.closed:
            assert not self.state.activities
            assert not self.state.timers
            assert not self.state.nexus_operations
            assert all(policy is not None for policy in outstanding(self.state))

    def check_operations(self, kinds: dict[int, int]) -> None:
        """An operation starts once and ends once; what is pending has not ended."""
        started: set[int] = set()
        ended: set[int] = set()
        for event in self.events:
            if event.event_type == event_types.EVENT_TYPE_NEXUS_OPERATION_STARTED:
                opened = event.nexus_operation_started_event_attributes.scheduled_event_id
                assert opened not in started | ended
                started.add(opened)
            elif event.event_type in nexus_operation.ENDS:
                opened = getattr(event, event.WhichOneof("attributes") or "").scheduled_event_id
                assert opened not in ended
                ended.add(opened)
        for pending in self.state.nexus_operations:
            assert kinds[pending] == event_types.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED
            assert pending not in ended

    def check_updates(self) -> None:
        task = self.state.workflow_task
        if task is not None and task.speculative:
            assert task.scheduled_event_id == self.state.next_event_id, "nothing came before it"
        waiting = [u for u in self.state.updates.values() if not u.accepted_event_id]
        if waiting and not self.state.held:
            assert task is not None, "a worker hears of an update"
        for pending in waiting:
            assert not pending.sent or (task is not None and task.started)

    def check_pauses(self) -> None:
        paused = False
        for event in self.events:
            match event.event_type:
                case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_PAUSED:
                    assert not paused
                    paused = True
                case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_UNPAUSED:
                    assert paused
                    paused = False
                case event_types.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED:
                    assert not paused, "no workflow task is scheduled while the workflow is paused"

    @staticmethod
    def is_closing(event: history.HistoryEvent) -> bool:
        name = event_types.EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")
        return name in {
            "WORKFLOW_EXECUTION_COMPLETED",
            "WORKFLOW_EXECUTION_FAILED",
            "WORKFLOW_EXECUTION_TIMED_OUT",
            "WORKFLOW_EXECUTION_TERMINATED",
            "WORKFLOW_EXECUTION_CANCELED",
            "WORKFLOW_EXECUTION_CONTINUED_AS_NEW",
        }


LifeOfAWorkflow.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None
)
TestLifeOfAWorkflow = LifeOfAWorkflow.TestCase
