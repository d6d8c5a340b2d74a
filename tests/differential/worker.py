"""One workflow that does what it is told, step by step, and the activities that it calls."""

import asyncio
from datetime import timedelta
from typing import Any

import nexusrpc
from nexusrpc.handler import StartOperationContext, service_handler, sync_operation
from temporalio import activity, nexus, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy, SearchAttributeKey
from temporalio.exceptions import ApplicationError
from temporalio.nexus import WorkflowRunOperationContext, workflow_run_operation
from temporalio.worker import UnsandboxedWorkflowRunner, Worker
from temporalio.workflow import (
    ActivityCancellationType,
    ContinueAsNewVersioningBehavior,
    ParentClosePolicy,
)

QUEUE = "differential"
Step = list[Any]
COLOUR = SearchAttributeKey.for_keyword("Colour")


@activity.defn
async def echo(value: Any) -> Any:
    return value


@activity.defn
async def fails(kind: str, until: int) -> int:
    attempt = activity.info().attempt
    if attempt < until:
        raise ApplicationError(
            "no", "detail", type=kind, non_retryable=kind == "Final", next_retry_delay=None
        )
    return attempt


@activity.defn
async def beats() -> str:
    """Beats until it is cancelled."""
    while True:
        activity.heartbeat("beat")
        await asyncio.sleep(0.02)


@activity.defn
async def stops() -> None:
    """Says nothing any more."""
    await asyncio.sleep(30)


@activity.defn
async def later() -> None:
    activity.raise_complete_async()


def ms(value: float) -> timedelta:
    return timedelta(milliseconds=value)


def retry(options: dict[str, Any]) -> RetryPolicy | None:
    attempts = options.get("attempts")
    if attempts is None:
        return None
    return RetryPolicy(
        initial_interval=ms(10), maximum_attempts=attempts, non_retryable_error_types=["Never"]
    )


@nexusrpc.service
class Desk:
    """What the handler does is said by the operation's name; its input is what it works with."""

    echo: nexusrpc.Operation[Any, Any]
    slow: nexusrpc.Operation[float, None]
    refuse: nexusrpc.Operation[str, None]
    fail: nexusrpc.Operation[str, None]
    do: nexusrpc.Operation[list[Any], list[Any]]


@service_handler(service=Desk)
class DeskHandler:
    @sync_operation
    async def echo(self, _ctx: StartOperationContext, value: Any) -> Any:
        return value

    @sync_operation
    async def slow(self, _ctx: StartOperationContext, milliseconds: float) -> None:
        await asyncio.sleep(milliseconds / 1000)

    @sync_operation
    async def refuse(self, _ctx: StartOperationContext, kind: str) -> None:
        if kind == "application":
            raise ApplicationError("no", "detail", type="No", non_retryable=True)
        raise nexusrpc.HandlerError(
            "refused", type=nexusrpc.HandlerErrorType[kind], retryable_override=False
        )

    @sync_operation
    async def fail(self, _ctx: StartOperationContext, state: str) -> None:
        raise nexusrpc.OperationError("no", state=nexusrpc.OperationErrorState[state])

    @workflow_run_operation
    async def do(
        self, ctx: WorkflowRunOperationContext, asked: list[Any]
    ) -> nexus.WorkflowHandle[list[Any]]:
        """A workflow with this id takes these steps."""
        workflow_id, steps = asked
        return await ctx.start_workflow(Do.run, steps, id=workflow_id)


ENDPOINT = "differential"


@workflow.defn
class Do:
    """Takes each step in turn; what the steps give is the result."""

    def __init__(self) -> None:
        self.signals: list[Any] = []
        self.given: list[Any] = []

    @workflow.run
    async def run(self, steps: list[Step]) -> list[Any]:
        for name, *rest in steps:
            try:
                self.given.append(await getattr(self, "_" + name)(*rest))
            except ApplicationError:
                raise
            except Exception as error:
                if not isinstance(rest[-1] if rest else None, dict) or not rest[-1].get("caught"):
                    raise
                cause = error.__cause__
                self.given.append([type(error).__name__, type(cause).__name__, str(cause)])
        return self.given

    @workflow.signal
    def put(self, value: Any) -> None:
        self.signals.append(value)

    @workflow.query
    def look(self) -> list[Any]:
        return self.signals

    @workflow.update
    async def change(self, value: Any) -> Any:
        if value == "fail":
            raise ApplicationError("cannot", type="Cannot")
        if value == "slow":
            await workflow.sleep(0.05)
        self.signals.append(value)
        return value

    @change.validator
    def _check(self, value: Any) -> None:
        if value == "refuse":
            raise ValueError("refused")

    async def _activity(self, name: str, args: list[Any], options: dict[str, Any]) -> Any:
        handle = workflow.start_activity(
            name,
            args=args,
            start_to_close_timeout=ms(options.get("start_to_close", 5000)),
            schedule_to_close_timeout=ms(options["close"]) if "close" in options else None,
            schedule_to_start_timeout=ms(options["start"]) if "start" in options else None,
            heartbeat_timeout=ms(options["heartbeat"]) if "heartbeat" in options else None,
            retry_policy=retry(options),
            task_queue=options.get("queue"),
            activity_id=options.get("id"),
            cancellation_type=ActivityCancellationType[options.get("cancel", "TRY_CANCEL")],
            summary=options.get("summary"),
        )
        if "cancel" in options:
            await workflow.sleep(ms(options.get("after", 100)))
            handle.cancel()
        return await handle

    async def _local(self, name: str, args: list[Any], options: dict[str, Any]) -> Any:
        return await workflow.execute_local_activity(
            name, args=args, start_to_close_timeout=ms(5000), retry_policy=retry(options)
        )

    async def _sleep(self, milliseconds: float) -> None:
        await workflow.sleep(ms(milliseconds))

    async def _sleep_and_cancel(self) -> str:
        timer = asyncio.create_task(workflow.sleep(timedelta(hours=1)))
        await workflow.sleep(ms(10))
        timer.cancel()
        return "cancelled"

    async def _wait(self, count: int) -> None:
        await workflow.wait_condition(lambda: len(self.signals) >= count)

    async def _forever(self) -> None:
        await workflow.wait_condition(lambda: False)

    async def _reluctantly(self) -> None:
        """For ever; and when it is canceled, for a while."""
        try:
            await workflow.wait_condition(lambda: False)
        finally:
            await workflow.sleep(ms(400))

    async def _fail(self, kind: str) -> None:
        raise ApplicationError("as told", {"a": 1}, type=kind, non_retryable=kind == "Final")

    async def _fail_until(self, attempt: int) -> int:
        if workflow.info().attempt < attempt:
            raise ApplicationError("again", type="Again")
        return workflow.info().attempt

    async def _patch(self, name: str) -> bool:
        return workflow.patched(name)

    async def _memo(self, fields: dict[str, Any]) -> None:
        workflow.upsert_memo(fields)

    async def _attribute(self, value: str | None) -> None:
        if value is None:
            workflow.upsert_search_attributes([COLOUR.value_unset()])
        else:
            workflow.upsert_search_attributes([COLOUR.value_set(value)])

    async def _continue(self, steps: list[Step], behavior: str = "") -> None:
        wanted = ContinueAsNewVersioningBehavior[behavior] if behavior else None
        workflow.continue_as_new(args=[steps], memo={"new": 1}, initial_versioning_behavior=wanted)

    async def _child(self, child_id: str, steps: list[Step], options: dict[str, Any]) -> Any:
        handle = await workflow.start_child_workflow(
            Do.run,
            steps,
            id=child_id,
            parent_close_policy=ParentClosePolicy[options.get("policy", "TERMINATE")],
            retry_policy=retry(options),
            run_timeout=ms(options["run"]) if "run" in options else None,
            memo={"child": True},
        )
        if options.get("signal"):
            await handle.signal(Do.put, "from parent")
        if options.get("cancel"):
            handle.cancel()
        if not options.get("leave"):
            return await handle
        await workflow.sleep(ms(300))  # The child has done its first task by then.
        return None

    async def _nexus(self, operation: str, value: Any, options: dict[str, Any]) -> Any:
        endpoint = options.get("endpoint", ENDPOINT)
        if options.get("service"):
            client: Any = workflow.create_nexus_client(
                service=options["service"], endpoint=endpoint
            )
        else:
            client = workflow.create_nexus_client(service=Desk, endpoint=endpoint)
        handle = await client.start_operation(
            operation,
            value,
            schedule_to_close_timeout=ms(options["close"]) if "close" in options else None,
            schedule_to_start_timeout=ms(options["start"]) if "start" in options else None,
            start_to_close_timeout=ms(options["run"]) if "run" in options else None,
            cancellation_type=workflow.NexusOperationCancellationType[
                options.get("cancel", "WAIT_COMPLETED")
            ],
            headers=options.get("headers"),
            summary=options.get("summary"),
        )
        if "cancel" in options:
            await workflow.sleep(ms(options.get("after", 100)))
            handle.cancel()
        return await handle

    async def _signal(self, target: str, value: Any, options: dict[str, Any]) -> None:
        await workflow.get_external_workflow_handle(target).signal("put", value)

    async def _cancel(self, target: str, options: dict[str, Any]) -> None:
        await workflow.get_external_workflow_handle(target).cancel()

    async def _together(self, steps: list[Step]) -> list[Any]:
        return list(
            await asyncio.gather(*(getattr(self, "_" + name)(*rest) for name, *rest in steps))
        )


def worker(client: Client) -> Worker:
    return Worker(
        client,
        task_queue=QUEUE,
        workflows=[Do],
        activities=[echo, fails, beats, stops, later],
        nexus_service_handlers=[DeskHandler()],
        workflow_runner=UnsandboxedWorkflowRunner(),
        identity="worker",
    )
