"""The programs: each a small use of the API, run in the same way against two servers.

Rule 1: a program waits for what it has begun before it goes on, so that both servers see the same order.
Rule 2: what it returns is compared, and so is the history of each workflow that it has named.
"""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from google.protobuf.json_format import MessageToDict
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import reset_pb2 as reset_enums
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import (
    Client,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryRejectedError,
    WorkflowUpdateFailedError,
)
from temporalio.common import (
    QueryRejectCondition,
    RetryPolicy,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from tests.conftest import eventually
from tests.differential.worker import COLOUR, QUEUE, Do, Step
from tests.receivers import Receiver

Handle = WorkflowHandle[Any, Any]
TASK_DONE = event_types.EVENT_TYPE_WORKFLOW_TASK_COMPLETED


@dataclass
class Stage:
    """One server, as a program sees it."""

    client: Client
    names: dict[str, str] = field(default_factory=dict)
    """Ids -> what the program calls them."""

    def id(self, name: str = "w") -> str:
        for known, label in self.names.items():
            if label == f"<{name}>":
                return known
        made = f"{name}-{uuid.uuid4().hex[:12]}"
        self.names[made] = f"<{name}>"
        return made

    async def start(self, *steps: Step, name: str = "w", **options: Any) -> Handle:
        options.setdefault("task_queue", QUEUE)
        return await self.client.start_workflow(Do.run, list(steps), id=self.id(name), **options)

    async def run(self, *steps: Step, **options: Any) -> Any:
        return await result(await self.start(*steps, **options))

    async def idle(self, handle: Handle, tasks: int = 1) -> None:
        """Until the worker has done so many workflow tasks, and none is under way."""

        async def done() -> bool:
            events = (await handle.fetch_history()).events
            count = sum(event.event_type == TASK_DONE for event in events)
            return count >= tasks and events[-1].event_type not in (
                event_types.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
                event_types.EVENT_TYPE_WORKFLOW_TASK_STARTED,
            )

        await eventually(done)

    @property
    def service(self) -> Any:
        return self.client.workflow_service


async def result(handle: Handle) -> Any:
    """The result, or how it failed."""
    try:
        return await handle.result()
    except WorkflowFailureError as error:
        return failure(error)


def failure(error: BaseException) -> list[Any]:
    """An error and its causes."""
    told: list[Any] = []
    cause: BaseException | None = error
    while cause is not None:
        told.append([type(cause).__name__, str(cause)])
        cause = cause.__cause__
    return told


async def refusal(call: Awaitable[Any]) -> Any:
    """The status and message of a call that is refused, or what it gave."""
    try:
        given = await call
    except WorkflowAlreadyStartedError as error:
        return ["ALREADY_STARTED", str(error)]
    except RPCError as error:
        return [error.status.name, error.message]
    return ["OK", type(given).__name__]


Program = Callable[[Stage], Awaitable[Any]]
PROGRAMS: dict[str, Program] = {}


def program(run: Program) -> Program:
    PROGRAMS[run.__name__] = run
    return run


def script(name: str, *steps: Step, **options: Any) -> None:
    """A program that is one workflow, which does these steps."""

    async def run(stage: Stage) -> Any:
        return await stage.run(*steps, **options)

    run.__name__ = name
    program(run)


CAUGHT = {"caught": True}

# --- One workflow ---------------------------------------------------------------------------

script("nothing")
script("one_activity", ["activity", "echo", [{"a": [1, None]}], {"summary": "an echo"}])
script("three_activities", *(["activity", "echo", [n], {}] for n in range(3)))
script(
    "activity_with_options",
    [
        "activity",
        "echo",
        [1],
        {"id": "x", "close": 9000, "start": 8000, "heartbeat": 3000, "attempts": 4},
    ],
)
script("activity_succeeds_at_last", ["activity", "fails", ["Soon", 3], {"attempts": 5}])
script("activity_fails_at_last", ["activity", "fails", ["Soon", 9], {"attempts": 2}])
script("activity_failure_is_caught", ["activity", "fails", ["Soon", 9], {"attempts": 2, **CAUGHT}])
script("activity_is_not_retried", ["activity", "fails", ["Final", 9], {"attempts": 5, **CAUGHT}])
script(
    "activity_type_is_not_retried", ["activity", "fails", ["Never", 9], {"attempts": 5, **CAUGHT}]
)
script(
    "activity_takes_too_long",
    ["activity", "stops", [], {"start_to_close": 200, "attempts": 1, **CAUGHT}],
)
script(
    "activity_takes_too_long_in_all",
    ["activity", "stops", [], {"start_to_close": 100, "close": 400, **CAUGHT}],
)
script(
    "activity_is_never_started",
    ["activity", "echo", [1], {"queue": "nobody", "start": 200, **CAUGHT}],
)
script(
    "activity_stops_beating", ["activity", "stops", [], {"heartbeat": 200, "attempts": 1, **CAUGHT}]
)
script("activity_has_no_function", ["activity", "no-such", [], {"attempts": 1, **CAUGHT}])
script(
    "activity_cancel_is_awaited",
    [
        "activity",
        "beats",
        [],
        {"heartbeat": 2000, "cancel": "WAIT_CANCELLATION_COMPLETED", **CAUGHT},
    ],
)
script(
    "activity_is_abandoned",
    ["activity", "beats", [], {"heartbeat": 2000, "cancel": "ABANDON", **CAUGHT}],
)
script("local_activity", ["local", "echo", [5], {}])
script("local_activity_is_retried", ["local", "fails", ["Soon", 2], {"attempts": 3}])
script("local_activity_fails", ["local", "fails", ["Final", 9], {"attempts": 3, **CAUGHT}])
script("timer", ["sleep", 20])
script("timer_of_no_time", ["sleep", 0])
script("timer_is_cancelled", ["sleep_and_cancel"])
script("patch", ["patch", "new"], ["sleep", 10], ["patch", "new"])
script("memo_is_changed", ["memo", {"a": 1, "b": None}], memo={"a": 0, "c": "kept"})
script("attribute_is_set_and_removed", ["attribute", "red"], ["sleep", 10], ["attribute", None])
script("workflow_fails", ["fail", "Any"])
script("workflow_fails_after_work", ["activity", "echo", [1], {}], ["fail", "Final"])
script(
    "workflow_is_retried",
    ["fail_until", 3],
    retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=20), maximum_attempts=4),
)
script(
    "workflow_retries_end",
    ["fail", "Any"],
    retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=20), maximum_attempts=2),
)
script(
    "workflow_failure_is_final",
    ["fail", "Final"],
    retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=20), maximum_attempts=5),
)
script("run_times_out", ["forever"], run_timeout=timedelta(milliseconds=500))
script("execution_times_out", ["forever"], execution_timeout=timedelta(milliseconds=500))
script("start_is_delayed", ["sleep", 10], start_delay=timedelta(milliseconds=300))
script(
    "started_with_everything",
    ["sleep", 1],
    memo={"a": 1},
    search_attributes=TypedSearchAttributes([SearchAttributePair(COLOUR, "blue")]),
    run_timeout=timedelta(minutes=5),
    execution_timeout=timedelta(minutes=9),
    task_timeout=timedelta(seconds=7),
    static_summary="in short",
    static_details="at length",
    retry_policy=RetryPolicy(maximum_attempts=2, non_retryable_error_types=["X"]),
)
script("together", ["together", [["sleep", 30], ["local", "echo", [1], {}]]])


@program
async def continue_as_new(stage: Stage) -> Any:
    handle = await stage.start(["continue", [["activity", "echo", [1], {}]]], memo={"old": 0})
    given = await result(handle)
    first = await stage.client.get_workflow_handle(
        handle.id, run_id=handle.first_execution_run_id
    ).fetch_history()
    return given, [event.WhichOneof("attributes") for event in first.events]


# --- Signals, queries, updates --------------------------------------------------------------


@program
async def signals_in_order(stage: Stage) -> Any:
    handle = await stage.start(["wait", 3])
    await stage.idle(handle)
    for number in range(3):
        await handle.signal("put", number)
        await stage.idle(handle, number + 2)
    return await result(handle), await handle.query("look")


@program
async def signal_with_start(stage: Stage) -> Any:
    await stage.start(["wait", 2], start_signal="put", start_signal_args=["first"])
    handle = stage.client.get_workflow_handle(stage.id())
    await stage.idle(handle)
    again = await stage.start(["wait", 9], start_signal="put", start_signal_args=["second"])
    return await result(handle), again.id == handle.id


@program
async def signal_to_a_closed_workflow(stage: Stage) -> Any:
    handle = await stage.start()
    await result(handle)
    return await refusal(handle.signal("put", 1))


@program
async def queries(stage: Stage) -> Any:
    handle = await stage.start(["wait", 1])
    await stage.idle(handle)
    before = await handle.query("look")
    unknown = await refused_query(handle, "no-such-query")
    await handle.signal("put", 1)
    await result(handle)
    after = await handle.query("look")
    try:
        await handle.query("look", reject_condition=QueryRejectCondition.NOT_OPEN)
    except WorkflowQueryRejectedError as error:
        rejected = error.status.name if error.status else "?"
    return before, unknown, after, rejected


async def refused_query(handle: Handle, name: str) -> Any:
    try:
        return await handle.query(name)
    except Exception as error:
        return type(error).__name__


@program
async def updates(stage: Stage) -> Any:
    handle = await stage.start(["wait", 9])
    await stage.idle(handle)
    given = [await handle.execute_update("change", "one", id="u1")]
    given.append(await handle.execute_update("change", "one", id="u1"))
    try:
        await handle.execute_update("change", "fail")
    except WorkflowUpdateFailedError as error:
        given.append(failure(error))
    given.append(await handle.execute_update("change", "slow", id="u2"))
    return given, await result(handle)


@program
async def an_update_is_rejected(stage: Stage) -> Any:
    handle = await stage.start(["wait", 1])
    await stage.idle(handle)
    told = None
    try:
        await handle.execute_update("change", "refuse")
    except WorkflowUpdateFailedError as error:
        told = failure(error)
    await handle.signal("put", 1)
    return told, await result(handle)


@program
async def an_update_to_nobody(stage: Stage) -> Any:
    handle = stage.client.get_workflow_handle(stage.id("nobody"))
    return await refusal(handle.execute_update("change", 1))


@program
async def an_update_to_a_closed_workflow(stage: Stage) -> Any:
    handle = await stage.start()
    await result(handle)
    return await refusal(handle.execute_update("change", 1))


# --- Ends from outside ------------------------------------------------------------------------


@program
async def cancelled_while_it_waits(stage: Stage) -> Any:
    handle = await stage.start(["forever"])
    await stage.idle(handle)
    await handle.cancel()
    return await result(handle)


@program
async def cancelled_during_an_activity(stage: Stage) -> Any:
    handle = await stage.start(["activity", "beats", [], {"heartbeat": 2000}])
    await stage.idle(handle)
    await handle.cancel()
    return await result(handle)


@program
async def cancelled_twice_and_too_late(stage: Stage) -> Any:
    handle = await stage.start(["forever"])
    await stage.idle(handle)
    told = [await refusal(handle.cancel())]
    await result(handle)
    return told, await refusal(handle.cancel()), await refusal(handle.terminate())


@program
async def terminated(stage: Stage) -> Any:
    handle = await stage.start(["forever"])
    await stage.idle(handle)
    await handle.terminate("details", reason="enough")
    return await result(handle), await refusal(handle.signal("put", 1))


@program
async def terminated_before_its_first_task(stage: Stage) -> Any:
    handle = await stage.start(task_queue="nobody")
    await handle.terminate(reason="enough")
    return await result(handle)


# --- Ids --------------------------------------------------------------------------------------


@program
async def a_running_id_is_refused(stage: Stage) -> Any:
    handle = await stage.start(["forever"])
    again = await refusal(stage.start(["forever"]))
    await stage.idle(handle)
    await handle.terminate()
    return again


@program
async def a_running_id_is_used(stage: Stage) -> Any:
    handle = await stage.start(["wait", 1])
    await stage.idle(handle)
    other = await stage.start(["forever"], id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING)
    await handle.signal("put", 1)
    await result(handle)
    return other.result_run_id == handle.result_run_id


@program
async def a_running_id_is_taken_over(stage: Stage) -> Any:
    handle = await stage.start(["forever"])
    await stage.idle(handle)
    policy = WorkflowIDConflictPolicy.TERMINATE_EXISTING
    other = await stage.start(["sleep", 1], id_conflict_policy=policy)
    return await result(other), failure_of(await first_run(stage, handle))


async def first_run(stage: Stage, handle: Handle) -> Any:
    run = stage.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
    return (await run.fetch_history()).events[-1]


def failure_of(event: Any) -> Any:
    attributes = event.workflow_execution_terminated_event_attributes
    return [attributes.reason, attributes.identity]


@program
async def a_closed_id_is_refused(stage: Stage) -> Any:
    await stage.run()
    rejected = await refusal(stage.start(id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE))
    failed = WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY
    return rejected, await refusal(stage.start(id_reuse_policy=failed))


@program
async def a_failed_id_is_used_again(stage: Stage) -> Any:
    await stage.run(["fail", "Any"])
    policy = WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY
    return await stage.run(id_reuse_policy=policy)


# --- Others -----------------------------------------------------------------------------------


def family(name: str, steps: list[Step], options: dict[str, Any]) -> None:
    """A program with a parent and a child; both histories are compared."""

    async def run(stage: Stage) -> Any:
        child = stage.id("child")
        given = await stage.run(["child", child, steps, options])
        handle = stage.client.get_workflow_handle(child)

        async def closed() -> bool:
            return (await handle.describe()).close_time is not None

        if options.get("policy") != "ABANDON":
            await eventually(closed)
        else:
            await stage.idle(handle)
        return given

    run.__name__ = name
    program(run)


family("child_completes", [["activity", "echo", [7], {}]], {})
family("child_fails", [["fail", "Final"]], CAUGHT)
family("child_is_retried", [["fail_until", 2]], {"attempts": 3})
family("child_times_out", [["forever"]], {"run": 400, **CAUGHT})
family("child_is_signalled", [["wait", 1]], {"signal": True})
family("child_is_terminated_with_its_parent", [["forever"]], {"leave": True})
family(
    "child_is_cancelled_with_its_parent", [["forever"]], {"leave": True, "policy": "REQUEST_CANCEL"}
)
family("child_is_abandoned", [["forever"]], {"leave": True, "policy": "ABANDON"})
family("child_continues_as_new", [["continue", [["sleep", 1]]]], {})


@program
async def a_child_whose_id_is_taken(stage: Stage) -> Any:
    taken = await stage.start(["forever"], name="child")
    await stage.idle(taken)
    given = await stage.run(["child", taken.id, [], CAUGHT])
    await taken.terminate()
    return given


@program
async def another_workflow_is_signalled_and_cancelled(stage: Stage) -> Any:
    other = await stage.start(["forever"], name="other")
    await stage.idle(other)
    given = await stage.run(
        ["signal", other.id, "hello", {}], ["sleep", 200], ["cancel", other.id, {}]
    )
    return given, await result(other)


@program
async def nobody_is_signalled_and_cancelled(stage: Stage) -> Any:
    nobody = stage.id("nobody")
    return await stage.run(["signal", nobody, 1, CAUGHT], ["cancel", nobody, CAUGHT])


# --- Activities from outside ------------------------------------------------------------------


@program
async def an_activity_is_completed_from_elsewhere(stage: Stage) -> Any:
    handle = await stage.start(["activity", "later", [], {"id": "a"}])
    await started(handle)
    outside = stage.client.get_async_activity_handle(
        workflow_id=handle.id, run_id=None, activity_id="a"
    )
    await outside.heartbeat("on my way")
    await outside.complete("done elsewhere")
    return await result(handle), await refusal(outside.complete("again"))


@program
async def an_activity_is_failed_from_elsewhere(stage: Stage) -> Any:
    handle = await stage.start(["activity", "later", [], {"id": "a", "attempts": 1, **CAUGHT}])
    await started(handle)
    outside = stage.client.get_async_activity_handle(
        workflow_id=handle.id, run_id=None, activity_id="a"
    )
    await outside.fail(ValueError("from elsewhere"))
    return await result(handle)


async def started(handle: Handle) -> None:
    """Until a worker has the activity."""

    async def has() -> bool:
        pending = (await handle.describe()).raw_description.pending_activities
        return bool(pending) and pending[0].state == 2

    await eventually(has)


@program
async def what_is_pending_is_described(stage: Stage) -> Any:
    handle = await stage.start(
        [
            "together",
            [
                ["activity", "later", [], {"id": "a"}],
                ["child", stage.id("child"), [["forever"]], {}],
            ],
        ],
        memo={"a": 1},
    )
    await started(handle)
    await stage.idle(handle, 2)
    described = (await handle.describe()).raw_description
    child = stage.client.get_workflow_handle(stage.id("child"))
    await stage.idle(child)
    await handle.terminate()

    async def closed() -> bool:
        return (await child.describe()).close_time is not None

    await eventually(closed)
    return described


# --- Reset ------------------------------------------------------------------------------------


def resets(name: str, finish: int, **options: Any) -> None:
    async def run(stage: Stage) -> Any:
        handle = await stage.start(["wait", 1], ["activity", "echo", [1], {}])
        await stage.idle(handle)
        await handle.signal("put", "kept?")
        await result(handle)
        request = ws.ResetWorkflowExecutionRequest(
            namespace="default",
            reason="once more",
            workflow_task_finish_event_id=finish,
            request_id=str(uuid.uuid4()),
            **options,
        )
        request.workflow_execution.workflow_id = handle.id
        told = await refusal(stage.service.reset_workflow_execution(request))
        if told[0] != "OK":
            return told[0]
        again = stage.client.get_workflow_handle(handle.id)
        if options:
            await stage.idle(again)
            await again.terminate()
        return told, await result(again)

    run.__name__ = name
    program(run)


resets("reset_to_the_first_task", 4)
resets(
    "reset_without_signals",
    4,
    reset_reapply_exclude_types=[reset_enums.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL],
)
resets("reset_to_a_point_beyond", 99)
resets("reset_to_no_task", 2)


# --- Refusals ---------------------------------------------------------------------------------


def raw_start(stage: Stage, **fields: Any) -> ws.StartWorkflowExecutionRequest:
    request = ws.StartWorkflowExecutionRequest(
        namespace="default",
        workflow_id=stage.id(),
        workflow_type=common.WorkflowType(name="Do"),
        task_queue=taskqueue.TaskQueue(name=QUEUE),
        request_id=str(uuid.uuid4()),
    )
    request.MergeFrom(ws.StartWorkflowExecutionRequest(**fields))
    return request


@program
async def bad_starts(stage: Stage) -> Any:
    start = stage.service.start_workflow_execution
    told = []
    for clear in ("workflow_id", "workflow_type", "task_queue", "namespace"):
        request = raw_start(stage)
        request.ClearField(clear)
        told.append([clear, await refusal(start(request))])
    for fields in (
        {"cron_schedule": "x"},
        {"namespace": "nowhere"},
        {"workflow_id": "x" * 2000},
        {"workflow_id_reuse_policy": 4, "workflow_id_conflict_policy": 1},
    ):
        told.append(await refusal(start(raw_start(stage, **fields))))
    return [
        [name, status]
        for name, (status, _) in zip(
            "abcdefgh", [t[-1] if isinstance(t[-1], list) else t for t in told], strict=True
        )
    ]


@program
async def nobody_is_asked(stage: Stage) -> Any:
    handle = stage.client.get_workflow_handle(stage.id("nobody"))
    return [
        await refusal(handle.describe()),
        await refusal(handle.signal("put", 1)),
        await refusal(handle.cancel()),
        await refusal(handle.terminate()),
        await refusal(handle.query("look")),
        await refusal(handle.fetch_history()),
    ]


@program
async def a_query_to_nobodys_queue(stage: Stage) -> Any:
    handle = await stage.start(task_queue="nobody")
    told = await refusal(handle.query("look", rpc_timeout=timedelta(seconds=1)))
    await handle.terminate()
    # Whether the client or the server notices first is a matter of chance.
    return told[0] in ("DEADLINE_EXCEEDED", "CANCELLED")


@program
async def bad_lists(stage: Stage) -> Any:
    told = []
    for query in (
        "NoSuch = 1",
        "WorkflowId ==",
        "WorkflowId = 'x' ORDER BY StartTime",
        "ExecutionStatus = 'No'",
    ):
        request = ws.ListWorkflowExecutionsRequest(namespace="default", query=query)
        told.append((await refusal(stage.service.list_workflow_executions(request)))[0])
    return told


@program
async def lists_and_counts(stage: Stage) -> Any:
    for name, colour in (("one", "red"), ("two", "red"), ("three", "blue")):
        attributes = TypedSearchAttributes([SearchAttributePair(COLOUR, colour + stage.id("run"))])
        await stage.run(name=name, search_attributes=attributes)
    told = []
    for query in (
        f"Colour = 'red{stage.id('run')}'",
        f"Colour IN ('red{stage.id('run')}', 'blue{stage.id('run')}')",
        f"Colour STARTS_WITH 'b' AND Colour = 'blue{stage.id('run')}'",
        f"Colour != 'red{stage.id('run')}' AND Colour = 'blue{stage.id('run')}'",
        f"Colour = 'red{stage.id('run')}' AND ExecutionStatus = 'Running'",
        f"Colour = 'red{stage.id('run')}' AND CloseTime IS NOT NULL AND WorkflowType = 'Do'",
    ):
        wanted = len(await found(stage, query))
        # The peer's lists are behind for a moment.
        told.append([query, wanted])
    return told


async def found(stage: Stage, query: str) -> list[str]:
    before: list[str] = []
    for _ in range(8):
        before = sorted([row.id async for row in stage.client.list_workflows(query)])
        await asyncio.sleep(0.1)
    return before


@program
async def deleted(stage: Stage) -> Any:
    handle = await stage.start()
    await result(handle)
    request = ws.DeleteWorkflowExecutionRequest(namespace="default")
    request.workflow_execution.workflow_id = handle.id
    await stage.service.delete_workflow_execution(request)

    async def gone() -> bool:
        return (await refusal(handle.describe()))[0] == "NOT_FOUND"

    await eventually(gone, 120)
    return await refusal(stage.service.delete_workflow_execution(request))


@program
async def history_backwards(stage: Stage) -> Any:
    handle = await stage.start(["activity", "echo", [1], {}])
    await result(handle)
    request = ws.GetWorkflowExecutionHistoryReverseRequest(namespace="default")
    request.execution.workflow_id = handle.id
    page = await stage.service.get_workflow_execution_history_reverse(request)
    return page.history, bool(page.next_page_token)


@program
async def a_cron_chain(stage: Stage) -> Any:
    handle = await stage.start(["sleep", 1], cron_schedule="@every 1s")

    async def twice() -> bool:
        described = await stage.client.get_workflow_handle(handle.id).describe()
        return described.run_id != handle.first_execution_run_id

    await eventually(twice)
    await stage.client.get_workflow_handle(handle.id).terminate()
    first = stage.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
    return (await first.fetch_history()).events[-1]


# --- Callbacks and links ----------------------------------------------------------------------

TOLD = ("content-type", "nexus-operation-state", "nexus-link", "mine")


async def called_back(stage: Stage, receiver: Receiver, *, ended: int) -> Any:
    """What arrived, and how the workflow is described once so many callbacks are done."""
    stage.names[f"127.0.0.1:{receiver.port}"] = "<receiver>"
    which = common.WorkflowExecution(workflow_id=stage.id())
    shown: Any = None

    async def done() -> bool:
        nonlocal shown
        request = ws.DescribeWorkflowExecutionRequest(namespace="default", execution=which)
        shown = await stage.service.describe_workflow_execution(request)
        return sum(each.HasField("last_attempt_complete_time") for each in shown.callbacks) == ended

    await eventually(done)
    calls = sorted(receiver.calls, key=lambda call: call.path)
    return [
        [
            [call.path, call.body.decode(), [call.headers.get(each) for each in TOLD]]
            for call in calls
        ],
        sorted(
            ([without_times(each) for each in shown.callbacks]),
            key=lambda each: each["callback"]["nexus"]["url"],
        ),
        shown.workflow_extended_info,
    ]


def without_times(shown: Any) -> Any:
    told = MessageToDict(shown)
    for name in ("registrationTime", "lastAttemptCompleteTime", "nextAttemptScheduleTime"):
        told.pop(name, None)
    return told


def a_link(job: str) -> common.Link:
    return common.Link(batch_job=common.Link.BatchJob(job_id=job))


async def with_callbacks(stage: Stage, *steps: Step, **fields: Any) -> Any:
    request = raw_start(stage, **fields)
    request.input.payloads.extend(await stage.client.data_converter.encode([list(steps)]))
    return await stage.service.start_workflow_execution(request)


@program
async def a_callback_of_a_result(stage: Stage) -> Any:
    async with Receiver() as receiver:
        callback = receiver.callback(Mine="yes")
        callback.links.append(a_link("both"))
        links = [a_link("both"), a_link("own")]
        request = {"completion_callbacks": [callback], "links": links, "request_id": "rq"}
        reply = await with_callbacks(stage, ["activity", "echo", [{"a": 1}], {}], **request)
        return [reply, await called_back(stage, receiver, ended=1)]


def callback_of(name: str, *steps: Step, end: str = "") -> None:
    async def run(stage: Stage) -> Any:
        async with Receiver() as receiver:
            await with_callbacks(
                stage, *steps, completion_callbacks=[receiver.callback()], request_id="rq"
            )
            handle = stage.client.get_workflow_handle(stage.id())
            await stage.idle(handle)
            if end:
                await getattr(handle, end)()
            told = await called_back(stage, receiver, ended=1)
            for call in told[0]:
                call[1] = readable(call[1])
            return told

    run.__name__ = name
    program(run)


def readable(body: str) -> Any:
    """The JSON of a failure, without the lines of code in it."""
    told = json.loads(body)
    told.pop("stackTrace", None)
    return told


callback_of("a_callback_of_a_failure", ["fail", "Final"])
callback_of("a_callback_of_a_termination", ["forever"], end="terminate")
callback_of("a_callback_of_a_cancel", ["forever"], end="cancel")


@program
async def callbacks_of_a_chain(stage: Stage) -> Any:
    async with Receiver() as receiver:
        await with_callbacks(
            stage,
            ["wait", 1],
            ["continue", [["wait", 1]]],
            request_id="one",
        )
        handle = stage.client.get_workflow_handle(stage.id())
        await stage.idle(handle)
        replies = [
            await with_callbacks(
                stage,
                completion_callbacks=[receiver.callback("second")],
                request_id="two",
                workflow_id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                on_conflict_options={
                    "attach_request_id": True,
                    "attach_completion_callbacks": True,
                    "attach_links": True,
                },
                links=[a_link("j")],
            )
            for _ in range(2)
        ]
        first = (await handle.describe()).run_id
        await handle.signal("put", 1)

        async def goes_on() -> bool:
            return (await handle.describe()).run_id != first

        await eventually(goes_on)
        await stage.idle(handle)
        await handle.signal("put", 1)
        told = await called_back(stage, receiver, ended=1)
        return [replies, told[:2], len(receiver.calls)]


def refused_with(status: int) -> None:
    async def run(stage: Stage) -> Any:
        async with Receiver() as receiver:
            receiver.answers["x"] = [status] * 9
            await with_callbacks(stage, completion_callbacks=[receiver.callback()], request_id="rq")
            return (await called_back(stage, receiver, ended=1))[1:]

    run.__name__ = f"a_callback_answered_with_{status}"
    program(run)


for _status in (204, 400, 404, 409, 501):
    refused_with(_status)


@program
async def callbacks_that_cannot_be_called(stage: Stage) -> Any:
    told = []
    for url in ("", "ftp://a/b", "http:///x", "temporal://system/x", "http://x/" + "y" * 2000):
        callback = common.Callback(nexus=common.Callback.Nexus(url=url))
        status, message = await refusal(with_callbacks(stage, completion_callbacks=[callback]))
        told.append([status, message.strip()])
    big = common.Callback(nexus=common.Callback.Nexus(url="http://a", header={"a": "x" * 9000}))
    many = [common.Callback(nexus=common.Callback.Nexus(url="http://a"))] * 2001
    for callbacks in ([big], many):
        told.append(await refusal(with_callbacks(stage, completion_callbacks=callbacks)))
    for links in ([common.Link()], [a_link("")], [a_link("j")] * 11, [a_link("j" * 5000)]):
        told.append(await refusal(with_callbacks(stage, links=links)))
    return told


@program
async def links_of_replies(stage: Stage) -> Any:
    handle = await stage.start(["wait", 9])
    await stage.idle(handle)
    which = common.WorkflowExecution(workflow_id=handle.id)
    payload = await stage.client.data_converter.encode([1])
    signal = ws.SignalWorkflowExecutionRequest(
        namespace="default", workflow_execution=which, signal_name="put", request_id="s"
    )
    signal.input.payloads.extend(payload)
    told = [await stage.service.signal_workflow_execution(signal)]
    await stage.idle(handle, tasks=2)
    for value in ("a", "fail"):
        asked = ws.UpdateWorkflowExecutionRequest(namespace="default", workflow_execution=which)
        asked.wait_policy.lifecycle_stage = 3  # type: ignore[assignment]
        asked.request.meta.update_id = asked.request.request_id = value
        asked.request.input.name = "change"
        arguments = await stage.client.data_converter.encode([value])
        asked.request.input.args.payloads.extend(arguments)
        told.append((await stage.service.update_workflow_execution(asked)).link)
    return told
