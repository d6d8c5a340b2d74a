"""Random lives of a workflow: whatever happens to it, in any order, the rules of its engine hold.

A random plan drives everything that a run can meet: a worker that completes tasks with random
commands, or fails; activities and children that end in every way, late or twice; time; signals, updates,
cancels, pauses; operators; resets; and the runs that follow. What `lives.Life` checks of every step holds
for each of these; an input is taken, or refused by a refusal that callers know.

A plan is a list of (what happens, a seed for its details), which hypothesis makes shorter until only what
breaks the rule is left. (Its state machines hardly ever choose a step that needs many details.)
"""

from collections.abc import Callable
from random import Random
from typing import Any

import hypothesis.strategies as st
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from temporalio.api.activity.v1 import message_pb2 as activities
from temporalio.api.command.v1 import message_pb2 as command
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.update.v1 import message_pb2 as update_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine import (
    activity,
    activity_control,
    commands,
    deadlines,
    external_workflow,
    nexus_operation,
    nexus_outcome,
    reset,
    update,
    workflow,
    workflow_options,
    workflow_pause,
    workflow_rule,
    workflow_task,
)
from durably.engine.nexus_outcome import Refused, Started, Succeeded, Unsuccessful
from durably.engine.state import Activity, ScheduledBy, WorkflowState
from durably.engine.transition import PausingRule, Transition, outstanding
from durably.engine.versioning.state import Notice
from durably.engine.versioning.version import AUTO_UPGRADE, PINNED, VERSIONED, Version, Worker
from durably.errors import InvalidArgument
from tests.engine import lives
from tests.engine.lives import CONFIG, SECOND_NS, WorkflowLife, as_command

PARENT = workflow.Parent("default", "ns", "p", "p-run", 5, "root", "root-run")
RULE = PausingRule("rule", "me", "why")
EXISTS = causes.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS
NO_SIGNAL = (
    causes.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND
)
NO_CANCEL = (
    causes.CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND
)
NULL = common.Payload(metadata={"encoding": b"binary/null"})
STICKY = {"worker_task_queue": {"name": "sticky"}, "schedule_to_start_timeout": {"seconds": 5}}

COMMANDS = (
    "timer", "timer", "timer again", "cancel timer", "activity", "activity", "eager activity",
    "cancel activity", "child", "signal", "cancel", "marker", "upsert", "modify", "operation",
    "operation", "cancel operation", "wrong",
)  # fmt: skip
ANSWERS = ("accept", "accept", "reject", "ignore", "nonsense")
"""What a worker says of the updates that its task carries."""
ENDS = ("complete", "fail", "cancel", "continue")
EXCLUDED: list[list[Any]] = [[], [1], [2], [1, 2]]
OPERATION_TIMEOUTS = ("", "schedule_to_close", "schedule_to_start", "start_to_close")
OPERATION_ANSWERS = {
    "done": Succeeded(common.Payload(data=b"1")),
    "started": Started("token"),
    "failed": Unsuccessful(lives.application_failure()),
    "canceled": Unsuccessful(failure.Failure(message="no", canceled_failure_info={})),
    "refused for now": nexus_outcome.refused("UNAVAILABLE", "later"),
    "refused for good": nexus_outcome.refused("NOT_FOUND", "never"),
}
CHILD_ENDS = ("COMPLETED", "FAILED", "CANCELED", "TIMED_OUT", "TERMINATED")


BUILDS = ("", "", "1", "2")
"""The versions of the workers that come for tasks; without any: workers without versioning."""
OPTIONS = ("pin", "once", "upgrade", "unset", "priority")


def version_of(build: str) -> Version | None:
    return Version("shop", build) if build else None


def options_of_kind(kind: str) -> workflow_options.Options:
    asked = workflow_options.Options()
    match kind:
        case "pin":
            asked.versioning_override.pinned.behavior = 1  # type: ignore[assignment]
            asked.versioning_override.pinned.version.CopyFrom(Version("shop", "1").message)
        case "once":
            target = asked.versioning_override.one_time.target_deployment_version
            target.CopyFrom(Version("shop", "2").message)
        case "upgrade":
            asked.versioning_override.auto_upgrade = True
        case "priority":
            asked.priority.priority_key = 2
    return asked


def every_third(state: WorkflowState, pending: Activity, now_ns: int) -> PausingRule | None:
    return RULE if pending.scheduled_event_id % 3 == 0 else None


def longest(jitter_ns: int) -> int:
    return jitter_ns


def closed(name: str) -> history.HistoryEvent:
    field = f"workflow_execution_{name.lower()}_event_attributes"
    kind = event_types.EventType.Value(f"EVENT_TYPE_WORKFLOW_EXECUTION_{name}")
    return history.HistoryEvent(event_type=kind, **{field: {}})  # type: ignore[arg-type]


class LifeOfAWorkflow:
    """A run and those that follow it. What happens is named; its details are chance."""

    def __init__(self, seed: int) -> None:
        self.random = chance = Random(seed)
        self.names = 0
        self.build = ""
        retried, child, cron = chance.random() < 0.5, chance.random() < 0.5, chance.random() < 0.2
        options: dict[str, Any] = {"retry_policy": {"maximum_attempts": 3}} if retried else {}
        self.life = WorkflowLife(
            parent=PARENT if child else None,
            scheduled_by=None if child else ScheduledBy("s", "s-run", 1),
            workflow_run_timeout=Duration(seconds=chance.choice([0, 0, 60])),
            workflow_execution_timeout=Duration(seconds=chance.choice([0, 0, 300])),
            workflow_start_delay=Duration(seconds=0 if cron else chance.choice([0, 0, 0, 3])),
            cron_schedule="* * * * *" if cron else "",
            **options,
        )

    def happen(self, name: str, seed: int) -> None:
        self.random = Random(seed)
        if self.state.closed and self.random.random() < 0.3:
            name = "go_on" if self.life.successor else "reset"
        getattr(self, name)()
        self.check()

    def maybe(self) -> bool:
        return self.random.random() < 0.5

    def which(self) -> int:
        """One of what is pending; where there is less, or nothing, perhaps an id that never was."""
        return self.random.randrange(10)

    @property
    def state(self) -> WorkflowState:
        return self.life.state

    def attempt(self, decide: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return self.life.attempt(decide, *arguments, **named)

    def new_name(self) -> str:
        self.names += 1
        return f"n{self.names}"

    @staticmethod
    def one_of(pending: Any, which: int) -> int:
        """The id of something pending, or now and then of what is not."""
        ids = [*pending] * 3 + [3]
        return int(ids[which % len(ids)])

    # --- The worker's workflow tasks ----------------------------------------------------------

    def start_task(self) -> None:
        task = self.state.workflow_task
        if task is None:
            return
        request_id = self.random.choice(["rq", "rq", "rq", "other"])
        stale = self.random.choice([0, 0, 0, 1])
        which = task.scheduled_event_id, task.attempt + stale
        self.take(self.random.choice(BUILDS), *which, request_id)

    def take(self, build: str, scheduled_event_id: int, attempt: int, request_id: str) -> bool:
        """Whether a worker of that build gets the task."""
        granted = self.attempt(
            workflow_task.start,
            scheduled_event_id,
            attempt,
            "worker",
            request_id,
            CONFIG,
            worker=Worker("worker", version_of(build)),
            target=Notice(Version("shop", "2"), len(self.life.events)),
        )
        if granted is not None:
            self.build = build
        return granted is not None

    def work(self) -> None:
        """A worker takes the task, if none has it; something happens; the worker completes it."""
        if self.take_task():
            happens = [None, None, self.signal, self.admit_update, self.pause, self.let_time_pass]
            meanwhile = self.random.choice(happens)
            if meanwhile is not None:
                meanwhile()
            self.complete([self.commanded() for _ in range(self.random.randrange(5))])

    def close(self) -> None:
        if self.state.next_event_id > 12 and self.take_task():
            made = [self.commanded()] if self.maybe() else []
            self.complete([*made, self.closing(self.random.choice(ENDS))])

    def take_task(self) -> bool:
        """Whether a worker has it then."""
        task = self.state.workflow_task
        if task is not None and not task.started:
            which = task.scheduled_event_id, task.attempt, "rq"
            taken = any(self.take(build, *which) for build in self.random.sample(BUILDS[1:], 3))
            assert taken, "it is for workers of some version"
        return task is not None

    def complete(self, made: list[command.Command]) -> None:
        if self.state.workflow_task is None:
            return  # Time took it from the worker.
        again = self.random.random() < 0.2
        request = ws.RespondWorkflowTaskCompletedRequest(
            identity="worker",
            commands=made,
            return_new_workflow_task=again,
            force_create_new_workflow_task=again,
            sticky_attributes=STICKY if self.maybe() else None,
            worker_version_stamp={"build_id": f"b{self.which()}"},
        )
        self.add_version(request)
        request.capabilities.discard_speculative_workflow_task_with_events = self.maybe()
        self.add_answers(request, self.random.choice(ANSWERS))
        request.commands.sort(key=lambda each: each.command_type in commands.CLOSING)
        context = commands.CommandContext(
            CONFIG, lives.namespace_id, lives.check_search_attributes, lives.nexus_endpoint_id
        )
        self.attempt(commands.complete_workflow_task, self.life.reference, request, context)

    def add_version(self, request: ws.RespondWorkflowTaskCompletedRequest) -> None:
        if not self.build:
            return
        request.ClearField("worker_version_stamp")
        request.deployment_options.deployment_name = "shop"
        request.deployment_options.build_id = self.build
        request.deployment_options.worker_versioning_mode = VERSIONED
        request.versioning_behavior = self.random.choice([PINNED, AUTO_UPGRADE])

    def commanded(self) -> command.Command:
        which = self.which()
        made: dict[str, Callable[[], command.Command]] = {
            "timer": lambda: lives.start_timer(self.new_name(), 5),
            "timer again": lambda: lives.start_timer("again", 3),
            "cancel timer": lambda: lives.cancel_timer(next(iter(self.state.timers), "again")),
            "activity": lambda: self.activity_command(),
            "eager activity": lambda: self.activity_command(request_eager_execution=True),
            "cancel activity": lambda: lives.cancel_activity(
                self.one_of(self.state.activities, which)
            ),
            "child": lambda: lives.start_child(
                self.new_name(),
                parent_close_policy=1 + which % 3,
                namespace="nowhere" if which == 9 else "",
            ),
            "signal": lambda: as_command(
                command.SignalExternalWorkflowExecutionCommandAttributes(
                    execution=common.WorkflowExecution(workflow_id="other"), signal_name="s"
                )
            ),
            "cancel": lambda: as_command(
                command.RequestCancelExternalWorkflowExecutionCommandAttributes(
                    workflow_id=f"n{self.names}"
                )
            ),
            "marker": lambda: as_command(command.RecordMarkerCommandAttributes(marker_name="m")),
            "upsert": lambda: as_command(
                command.UpsertWorkflowSearchAttributesCommandAttributes(
                    search_attributes=self.search_attributes(which)
                )
            ),
            "modify": lambda: as_command(
                command.ModifyWorkflowPropertiesCommandAttributes(
                    upserted_memo=common.Memo(fields={f"m{which % 3}": self.value(which)})
                )
            ),
            "operation": lambda: self.operation_command(OPERATION_TIMEOUTS[which % 4]),
            "cancel operation": lambda: lives.cancel_nexus(
                self.one_of([*self.state.nexus_operations, *self.ended_operations()], which)
            ),
            "wrong": lambda: lives.start_timer("") if which == 0 else lives.start_timer("again"),
        }
        return made[self.random.choice(COMMANDS)]()

    def activity_command(self, **options: Any) -> command.Command:
        attempts = self.random.randrange(4)
        return lives.schedule_activity(
            self.new_name(),
            heartbeat_timeout={"seconds": 5},
            schedule_to_start_timeout={"seconds": 20 * (attempts % 2)},
            schedule_to_close_timeout={"seconds": 40 * (attempts % 3)},
            retry_policy={"maximum_attempts": attempts},
            **options,
        )

    @staticmethod
    def operation_command(timeout: str) -> command.Command:
        options = {f"{timeout}_timeout": Duration(seconds=7)} if timeout else {}
        return lives.schedule_nexus(**options)

    def ended_operations(self) -> list[int]:
        """Of which the worker has not heard yet: it may still ask for their cancellation."""
        ends = [e for e in self.state.buffered if e.event_type in nexus_operation.ENDS]
        return [getattr(e, e.WhichOneof("attributes") or "").scheduled_event_id for e in ends]

    @staticmethod
    def value(which: int) -> common.Payload:
        return NULL if which % 2 else common.Payload(data=b"1")

    def search_attributes(self, which: int) -> common.SearchAttributes:
        name = "Unknown" if which == 9 else f"k{which % 3}"
        return common.SearchAttributes(indexed_fields={name: self.value(which)})

    @staticmethod
    def closing(end: str) -> command.Command:
        return {
            "complete": lives.complete_workflow,
            "fail": lives.fail_workflow,
            "cancel": lives.cancel_workflow,
            "continue": lives.continue_as_new,
        }[end]()

    def add_answers(self, request: ws.RespondWorkflowTaskCompletedRequest, answer: str) -> None:
        """What the worker says of the updates that its task carries, and of those it accepted."""
        for pending in self.state.updates.values():
            update_id, name = pending.update_id, self.new_name()
            if pending.accepted_event_id and answer != "nonsense":
                message = lives.completion(update_id, name)
            elif not pending.sent or answer == "ignore":
                continue
            elif answer == "reject":
                message = lives.rejection(update_id, name)
            elif answer == "nonsense":
                message = lives.about_update(update_id, update_messages.Acceptance(), name)
            else:
                message = lives.acceptance(update_id, name)
            request.messages.append(message)
            if answer == "accept":
                request.commands.append(lives.protocol_command(message.id))

    def fail_task(self) -> None:
        if not self.take_task():
            return
        cause = causes.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR
        completion = workflow_task.Completion("worker")
        self.attempt(workflow_task.fail, self.life.reference, cause, None, completion)

    def leave_the_sticky_queue(self) -> None:
        """As the server does for a task whose sticky worker is gone, and for a worker that says so."""
        task = self.state.workflow_task
        if self.maybe():
            self.attempt(workflow_task.reset_sticky)
        elif task is not None and task.sticky and not task.started:
            self.life.dispatched.add(self.life.step(workflow_task.move_to_normal_queue))

    # --- Callers ------------------------------------------------------------------------------

    def signal(self) -> None:
        request_id = self.random.choice(["", "s1", "s2", "s3"])
        attributes = history.WorkflowExecutionSignaledEventAttributes(
            signal_name="s", request_id=request_id
        )
        self.attempt(workflow.signal, attributes, CONFIG)

    def request_cancel(self) -> None:
        request_id = self.random.choice(["", "c1"])
        attributes = history.WorkflowExecutionCancelRequestedEventAttributes()
        self.attempt(workflow.request_cancel, attributes, request_id)

    def admit_update(self) -> None:
        request = lives.update_request(self.random.choice(["u1", "u2", "u3", "u4"]))
        self.attempt(update.admit, request, CONFIG)

    def terminate(self) -> None:
        if self.state.next_event_id > 25:
            self.attempt(workflow.terminate, "enough", None, "operator")

    # --- Operators ----------------------------------------------------------------------------

    def pause(self) -> None:
        request_id = self.random.choice(["", "p1"])
        self.attempt(workflow_pause.pause, "operator", "why", request_id)

    def unpause(self) -> None:
        if not self.state.held:
            return
        self.life.step(workflow_pause.unpause, "operator", "go on", "")
        waits = self.state.workflow_task is not None or self.state.backoff_pending
        assert waits, "a worker hears of what happened meanwhile"

    def change_rules(self) -> None:
        self.life.rule_for = every_third if self.maybe() else None
        if self.maybe() and self.state.running:
            self.attempt(workflow_rule.trigger, lambda pending: pending.attempt > 1, RULE)

    def change_options(self) -> None:
        kind = self.random.choice(OPTIONS)
        path = "priority" if kind == "priority" else "versioning_override"
        self.attempt(workflow_options.update, options_of_kind(kind), [path], "operator")

    def control_activity(self) -> None:
        if not self.state.activities:
            self.work()
            return
        event_id = self.random.choice(list(self.state.activities))
        what = self.random.choice(["pause", "unpause", "reset", "options", "restore"])
        flag, jitter_s = self.maybe(), self.random.choice([0, 3])
        jitter: Any = {"jitter": longest, "jitter_ns": jitter_s * SECOND_NS}
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

        self.attempt(decide)

    # --- Those who work for it ----------------------------------------------------------------

    def touch_activity(self) -> None:
        what = self.random.choice(
            ["take", "take", "take", "complete", "fail", "break", "cancel", "beat"]
        )
        if not self.state.activities and self.maybe():
            self.work()
            return
        late, by_id = self.random.choice([0, 0, 0, 1]), self.random.random() < 0.2
        event_id = self.one_of(self.state.activities, self.which())
        pending = self.state.activities.get(event_id)
        attempt = 0 if by_id else (pending.attempt if pending else 1) + late
        stamp = (pending.stamp if pending else 1) - late
        said = event_id, attempt
        calls: dict[str, tuple[Any, ...]] = {
            "take": (activity.take, event_id, stamp, "worker", "r"),
            "complete": (activity.complete, *said, None, "worker"),
            "fail": (activity.fail, *said, lives.application_failure(), "worker"),
            "break": (activity.fail, *said, lives.application_failure(retryable=False), "worker"),
            "cancel": (activity.confirm_cancel, *said, None, "worker"),
            "beat": (activity.heartbeat, *said, lives.payloads(b"half")),
        }
        self.attempt(*calls[what])

    def hear_of_a_child(self) -> None:
        if not self.state.children and self.maybe():
            self.work()
            return
        initiated = self.one_of(self.state.children, self.which())
        news = self.random.choice(["started", "started", "failed", *CHILD_ENDS])
        match news:
            case "started":
                self.attempt(external_workflow.child_started, initiated, "c-run")
            case "failed":
                self.attempt(external_workflow.child_start_failed, initiated, EXISTS)
            case _:
                ended = initiated, "c-run", "c-last", closed(news)
                self.attempt(external_workflow.child_closed, *ended)

    def hear_of_an_operation(self) -> None:
        if not self.state.nexus_operations and self.maybe():
            self.work()
            return
        event_id = self.one_of(self.state.nexus_operations, self.which())
        operation = self.state.nexus_operations.get(event_id)
        answer: Any = self.random.choice(list(OPERATION_ANSWERS.values()))
        late = self.random.choice([0, 0, 0, 1])
        match self.random.choice(["start", "start", "cancel", "complete"]):
            case "start":
                sent = event_id, (operation.attempt if operation else 1) + late
                self.attempt(nexus_operation.start_answered, *sent, answer, CONFIG)
            case "cancel":
                canceled = operation.cancel if operation else None
                sent = event_id, (canceled.attempt if canceled else 0) + late
                refused = answer if isinstance(answer, Refused) else None
                self.attempt(nexus_operation.cancel_answered, *sent, refused, CONFIG)
            case _ if isinstance(answer, Succeeded | Unsuccessful):
                request_id = "other" if late or operation is None else operation.request_id
                said = event_id, request_id, answer
                self.attempt(nexus_operation.complete, *said, token="t")

    def hear_of_others(self) -> None:
        signaled = self.one_of(self.state.external_signals, self.which())
        canceled = self.one_of(self.state.external_cancels, self.which())
        if self.maybe():
            self.attempt(external_workflow.signal_delivered, signaled)
            self.attempt(external_workflow.cancel_delivered, canceled)
        else:
            self.attempt(external_workflow.signal_failed, signaled, NO_SIGNAL)
            self.attempt(external_workflow.cancel_failed, canceled, NO_CANCEL)

    def settle_debts(self) -> None:
        """What the outbox says when it has told the parent, the schedule, a child."""
        self.attempt(workflow.parent_reported)
        self.attempt(workflow.schedule_reported)
        self.attempt(
            external_workflow.policy_applied, self.one_of(self.state.policies_due, self.which())
        )
        if self.state.closed and not self.state.policies_due:
            assert outstanding(self.state) == []

    # --- Time, and what comes after -----------------------------------------------------------

    def let_time_pass(self) -> None:
        self.life.wait(self.random.randint(1, 12))
        if self.state.running:
            upcoming = deadlines.next_deadline(self.state)
            assert upcoming == 0 or upcoming > self.life.now_ns, "what was due has happened"

    def go_on(self) -> None:
        if self.life.successor is None:
            return
        following = self.life.follow()
        following.now_ns, following.rule_for = self.life.now_ns, self.life.rule_for
        self.life = following

    def reset(self) -> None:
        ends = self.finished()
        if not ends:
            return
        at, exclude = self.random.choice(ends), self.random.choice(EXCLUDED)
        run_id = f"reset-{self.new_name()}"
        t = Transition(lives.fresh(run_id), self.life.now_ns, self.life.new_id)
        taken, rest = self.life.events[: at - 1], self.life.events[at - 1 :]
        try:
            reset.begin(t, self.state, taken, reason="why", request_id="reset")
        except InvalidArgument:
            return
        reset.reapply(t, rest, exclude)
        reset.go_on(t)
        self.attempt(reset.leave, run_id, "reset")
        self.life.check()
        self.life = WorkflowLife.of(t)

    def finished(self) -> list[int]:
        """The events that ended a workflow task: points at which a worker can decide again."""
        ends = ("WORKFLOW_TASK_COMPLETED", "WORKFLOW_TASK_FAILED", "WORKFLOW_TASK_TIMED_OUT")
        return [i for i, kind in enumerate(self.life.kinds, 1) if kind in ends]

    # --- What holds always --------------------------------------------------------------------

    def check(self) -> None:
        self.life.check()
        self.check_what_is_pending()
        self.check_what_has_an_identity()
        self.check_operations()
        self.check_pauses()
        self.check_updates()

    def check_updates(self) -> None:
        task = self.state.workflow_task
        if task is not None and task.speculative:
            assert task.scheduled_event_id == self.state.next_event_id, "nothing came before it"
        waiting = [u for u in self.state.updates.values() if not u.accepted_event_id]
        if waiting and not self.state.held and not self.state.backoff_pending:
            assert task is not None, "a worker hears of an update"
        for pending in waiting:
            assert not pending.sent or (task is not None and task.started)

    def check_what_is_pending(self) -> None:
        kinds = self.life.kinds
        for scheduled in self.state.activities:
            assert kinds[scheduled - 1] == "ACTIVITY_TASK_SCHEDULED"
        for initiated in self.state.children:
            assert kinds[initiated - 1] == "START_CHILD_WORKFLOW_EXECUTION_INITIATED"
        for scheduled in self.state.nexus_operations:
            assert kinds[scheduled - 1] == "NEXUS_OPERATION_SCHEDULED"
        for timer in self.state.timers.values():
            assert kinds[timer.started_event_id - 1] == "TIMER_STARTED"
        if self.state.closed:
            assert not self.state.activities
            assert not self.state.timers
            assert not self.state.nexus_operations
            assert self.state.workflow_task is None

    def check_what_has_an_identity(self) -> None:
        """It happens once."""
        signals, accepted, completed, ends = [], [], [], []
        for event in self.life.events:
            attributes = getattr(event, event.WhichOneof("attributes") or "")
            match event.event_type:
                case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED if attributes.request_id:
                    signals.append(attributes.request_id)
                case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
                    accepted.append(attributes.protocol_instance_id)
                case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED:
                    completed.append(attributes.meta.update_id)
                case _ if hasattr(attributes, "started_event_id") and attributes.started_event_id:
                    ends.append(attributes.started_event_id)
        for once in (signals, accepted, completed, ends):
            assert len(once) == len(set(once))

    def check_operations(self) -> None:
        """An operation starts once and ends once; what is pending has not ended."""
        started: set[int] = set()
        ended: set[int] = set()
        for event in self.life.events:
            if event.event_type == event_types.EVENT_TYPE_NEXUS_OPERATION_STARTED:
                opened = event.nexus_operation_started_event_attributes.scheduled_event_id
                assert opened not in started | ended
                started.add(opened)
            elif event.event_type in nexus_operation.ENDS:
                opened = getattr(event, event.WhichOneof("attributes") or "").scheduled_event_id
                assert opened not in ended
                ended.add(opened)
        assert not ended & set(self.state.nexus_operations)

    def check_pauses(self) -> None:
        paused = False
        for kind in self.life.kinds:
            match kind:
                case "WORKFLOW_EXECUTION_PAUSED":
                    assert not paused
                    paused = True
                case "WORKFLOW_EXECUTION_UNPAUSED":
                    assert paused
                    paused = False
                case "WORKFLOW_TASK_SCHEDULED":
                    assert not paused, "no worker gets a new task of a paused workflow"
        if self.state.held:
            assert self.state.workflow_task is None or self.state.workflow_task.started


WEIGHTS = {
    "let_time_pass": 3,
    "signal": 2,
    "work": 8,
    "touch_activity": 8,
    "control_activity": 3,
    "hear_of_a_child": 2,
    "hear_of_an_operation": 4,
    "go_on": 2,
    "settle_debts": 2,
    "start_task": 2,
}
ONCE = (
    "fail_task", "close", "leave_the_sticky_queue", "request_cancel", "admit_update", "terminate",
    "pause", "unpause", "unpause", "change_rules", "change_options", "change_options",
    "hear_of_others", "reset",
)  # fmt: skip
HAPPENINGS = [name for name, weight in WEIGHTS.items() for _ in range(weight)] + list(ONCE)
SEED = st.integers(0, 2**16)


@given(
    seed=SEED, plan=st.lists(st.tuples(st.sampled_from(HAPPENINGS), SEED), min_size=40, max_size=80)
)
def test_life_of_a_workflow(seed: int, plan: list[tuple[str, int]]) -> None:
    life = LifeOfAWorkflow(seed)
    for name, details in plan:
        life.happen(name, details)
