"""Delivers what committed executions owe to others.

Rule 1: what is owed is part of the sender's state until the sender has recorded the answer; a crash in
        between means that it is delivered again, under the same request id.
Rule 2: a delivery that finds its sender changed, or its target gone, ends with an answer to the
        sender, never with an exception.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, assert_never
from weakref import WeakValueDictionary

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.sdk.v1 import user_metadata_pb2 as sdk
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.background.batches import BatchWork
from durably.background.callbacks import CallbackDeliveries
from durably.background.drainage import Drainage
from durably.background.nexus import NexusDeliveries
from durably.background.nexus_watch import NexusWatch
from durably.background.scheduled import ScheduledDeliveries, StartScheduledRun
from durably.engine import external_workflow, priority, workflow
from durably.engine.external_workflow import delivery_request_id
from durably.engine.state import Child, WorkflowState
from durably.engine.transition import (
    ApplyParentClosePolicy,
    CancelExternal,
    CancelNexusOperation,
    CheckDrainage,
    Delivery,
    EndScheduled,
    InvokeCallback,
    NexusDelivery,
    ReportToParent,
    ReportToSchedule,
    SignalExternal,
    StartChild,
    StartNexusOperation,
    StartScheduled,
    WatchNexusOperation,
    WorkOnBatch,
)
from durably.engine.versioning import machine as versioning
from durably.errors import (
    FailedPrecondition,
    InvalidArgument,
    NamespaceNotFound,
    NotFound,
    Refusal,
    WorkflowExecutionAlreadyStarted,
)
from durably.service.execution import Execution
from durably.service.transact import Executions

logger = logging.getLogger(__name__)

IDENTITY = "history-service"
CONCURRENT_DELIVERIES = 500
CONCURRENT_REQUESTS = 2000
"""Of deliveries that wait for somebody outside the server."""

StartRun = Callable[[str, ws.StartWorkflowExecutionRequest, workflow.Parent], Awaitable[str]]
"""(namespace id, request, parent) -> run id; raises WorkflowExecutionAlreadyStarted or another
Refusal. The same request id finds the run that it started before."""


_Key = tuple[int, Delivery]
"""An execution, and something that it owes."""


class Outbox:
    """The deliveries of this node."""

    def __init__(
        self,
        executions: Executions,
        start_run: StartRun,
        start_scheduled: StartScheduledRun,
        batches: BatchWork,
        nexus: NexusDeliveries,
        watch: NexusWatch,
        callbacks: CallbackDeliveries,
    ) -> None:
        self._executions = executions
        self._start_run = start_run
        self._scheduled = ScheduledDeliveries(executions, start_scheduled)
        self._batches = batches
        self._drainage = Drainage(executions)
        self._nexus = nexus
        self._watch = watch
        self._callbacks = callbacks
        self._beside = (batches.under_way, watch.under_way, callbacks.under_way)
        self._slots = asyncio.Semaphore(CONCURRENT_DELIVERIES)
        self._request_slots = asyncio.Semaphore(CONCURRENT_REQUESTS)
        self._under_way: dict[_Key, asyncio.Task[None]] = {}
        self._again: set[_Key] = set()
        """Asked for while they were under way: looked at once more when they have ended."""
        self._children: WeakValueDictionary[tuple[int, int], asyncio.Lock] = WeakValueDictionary()
        """A child is started, or ended by its parent's close policy, not both at once."""
        self.delivered = 0
        self.failed = 0
        """Deliveries that will be tried again."""

    async def run(self) -> None:
        """Deliver until cancelled."""
        try:
            while True:
                key = await self._executions.deliveries.get()
                if key in self._under_way:
                    self._again.add(key)
                    continue
                if isinstance(key[1], NexusDelivery):
                    task = asyncio.create_task(self._request(key))
                else:
                    await self._slots.acquire()
                    task = asyncio.create_task(self._deliver_at_once(key))
                self._under_way[key] = task
                task.add_done_callback(partial(self._done, key))
        finally:
            for task in list(self._under_way.values()):
                task.cancel()
            for each in self._beside:
                each.close()

    def _done(self, key: _Key, task: "asyncio.Task[None]") -> None:
        del self._under_way[key]
        if key in self._again:
            self._again.discard(key)
            if not task.cancelled():
                self._executions.deliveries.put_nowait(key)

    def under_way(self) -> int:
        """How many deliveries are being made just now."""
        return len(self._under_way)

    def delivering(self) -> bool:
        """Whether anything is on its way, or waits to be."""
        waiting = not self._executions.deliveries.empty()
        working = any(each.working() for each in self._beside)
        return waiting or bool(self._under_way) or working

    async def _deliver_at_once(self, key: _Key) -> None:
        try:
            await self._deliver_logged(*key)
        finally:
            self._slots.release()

    async def _request(self, key: _Key) -> None:
        """What waits for somebody outside may take long, and holds up nothing else."""
        async with self._request_slots:
            await self._deliver_logged(*key)

    async def _deliver_logged(self, execution_id: int, delivery: Delivery) -> None:
        """One that fails is left to the sender's deadline, which asks for it again."""
        try:
            await self.deliver(execution_id, delivery)
            self.delivered += 1
        except NotFound:
            pass  # The sender is gone; nothing is owed any more.
        except Refusal as refusal:
            self.failed += 1
            logger.warning(
                "delivery %s will be tried again: %s",
                delivery,
                refusal.message,
                extra={"fields": self._executions.ids(execution_id)},
            )
        except Exception:
            self.failed += 1
            logger.exception(
                "delivery %s failed",
                delivery,
                extra={"fields": self._executions.ids(execution_id)},
            )

    async def deliver(self, execution_id: int, delivery: Delivery) -> None:
        """Deliver one, and record the answer with the sender."""
        sender: Execution[Any] = await self._executions.get(execution_id)
        match delivery:
            case StartChild():
                async with self._child(sender, delivery.initiated_event_id):
                    await self._start_child(sender, delivery.initiated_event_id)
            case SignalExternal():
                await self._signal(sender, delivery.initiated_event_id)
            case CancelExternal():
                await self._cancel(sender, delivery.initiated_event_id)
            case ApplyParentClosePolicy():
                async with self._child(sender, delivery.initiated_event_id):
                    await self._apply_policy(sender, delivery.initiated_event_id)
            case ReportToParent():
                await self._report(sender)
            case ReportToSchedule():
                await self._scheduled.report(sender)
            case StartScheduled():
                await self._scheduled.start(sender, delivery.action)
            case CheckDrainage():
                await self._drainage.check(sender, delivery.build_id)
            case InvokeCallback():
                self._callbacks.begin(sender, delivery.callback_id)
            case WorkOnBatch():
                self._batches.begin(sender)
            case StartNexusOperation():
                await self._nexus.start(sender, delivery.scheduled_event_id)
            case CancelNexusOperation():
                await self._nexus.cancel(sender, delivery.scheduled_event_id)
            case WatchNexusOperation():
                self._watch.begin(sender, delivery.scheduled_event_id)
            case EndScheduled():
                await self._scheduled.end(sender, delivery.action)
            case _:
                assert_never(delivery)

    # --- Children -----------------------------------------------------------------------------

    def _child(self, sender: Execution, initiated_event_id: int) -> asyncio.Lock:
        key = (sender.execution_id, initiated_event_id)
        return self._children.setdefault(key, asyncio.Lock())

    async def _start_child(self, sender: Execution, initiated_event_id: int) -> None:
        child = sender.state.children.get(initiated_event_id)
        if child is None or child.started or not sender.state.running:
            return
        parent = parent_of(sender.state, initiated_event_id)
        inherited = versioning.for_child(
            sender.state, child.initiated, self._in_version(child.initiated.namespace_id)
        )
        parent = replace(parent, inherited=inherited)
        request = child_request(sender.state, child)
        cause = causes.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS
        try:
            present = await self._run_of_child(sender, child)
            if present is not None:
                run_id = present.state.started.first_execution_run_id
            else:
                run_id = await self._start_run(child.initiated.namespace_id, request, parent)
        except WorkflowExecutionAlreadyStarted:
            await self._child_failed(sender, initiated_event_id, cause)
        except (FailedPrecondition, InvalidArgument):
            cause = causes.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_INVALID_VERSIONING_OVERRIDE
            await self._child_failed(sender, initiated_event_id, cause)
        except NamespaceNotFound:
            cause = causes.START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_NAMESPACE_NOT_FOUND
            await self._child_failed(sender, initiated_event_id, cause)
        else:
            await self._executions.transact(
                sender.execution_id,
                lambda t: external_workflow.child_started(t, initiated_event_id, run_id),
            )

    def _in_version(self, namespace_id: str) -> versioning.InVersion:
        return partial(self._executions.dispatch.in_version, namespace_id)

    async def _run_of_child(self, sender: Execution, child: Child) -> Execution | None:
        """The run of this very child that goes on now; a delivery that was cut off may have started it.

        Its chain may have gone on since. The runs that follow the first have request ids of their own,
        and would not be recognised by the one of this delivery.
        """
        initiated = child.initiated
        found = await self._executions.find_or_none(initiated.namespace_id, initiated.workflow_id)
        if found is None:
            return None
        started = found.state.started
        if child.started:
            is_it = started.first_execution_run_id == child.run_id
        else:
            is_it = (
                started.parent_workflow_execution.run_id == sender.state.run_id
                and started.parent_initiated_event_id == child.initiated_event_id
            )
        if not is_it:
            return None
        await self._executions.settled(found)
        return found

    async def _child_failed(
        self,
        sender: Execution,
        initiated_event_id: int,
        cause: causes.StartChildWorkflowExecutionFailedCause.ValueType,
    ) -> None:
        await self._executions.transact(
            sender.execution_id,
            lambda t: external_workflow.child_start_failed(t, initiated_event_id, cause),
        )

    async def _report(self, child: Execution) -> None:
        """Tell the parent how this execution ended. A parent that is gone need not know."""
        state = child.state
        if state.parent_reported or not state.closed:
            return
        started = state.started
        page = await self._executions.events(child, state.close_event_id, 1)
        closed = page[0]
        try:
            parent = await self._parent(started)
            await self._executions.transact(
                parent.execution_id,
                lambda t: external_workflow.child_closed(
                    t,
                    started.parent_initiated_event_id,
                    started.first_execution_run_id,
                    state.run_id,
                    closed,
                ),
            )
        except NotFound:
            pass
        await self._executions.transact(child.execution_id, workflow.parent_reported)

    async def _parent(self, started: history.WorkflowExecutionStartedEventAttributes) -> Execution:
        """The run that started the child; if that was reset, the run that goes on."""
        named = started.parent_workflow_execution
        run_id = named.run_id
        while True:
            parent = await self._executions.find(
                started.parent_workflow_namespace_id, named.workflow_id, run_id
            )
            run_id = parent.state.reset_run_id
            if not run_id:
                return parent

    async def _apply_policy(self, sender: Execution, initiated_event_id: int) -> None:
        state = sender.state
        child = state.children.get(initiated_event_id)
        if initiated_event_id not in state.policies_due or child is None:
            return
        target = await self._run_of_child(sender, child)
        if target is not None:
            # One that has ended meanwhile needs no end.
            with contextlib.suppress(NotFound):
                await self._end_child(sender, target, state.policies_due[initiated_event_id])
        await self._executions.transact(
            sender.execution_id,
            lambda t: external_workflow.policy_applied(t, initiated_event_id),
        )

    async def _end_child(self, sender: Execution, target: Execution, policy: int) -> None:
        if policy == workflow_enums.PARENT_CLOSE_POLICY_TERMINATE:
            await self._executions.transact(
                target.execution_id,
                lambda t: workflow.terminate(t, "by parent close policy", None, IDENTITY),
            )
            return
        attributes = history.WorkflowExecutionCancelRequestedEventAttributes(
            external_workflow_execution=execution_of(sender.state), identity=IDENTITY
        )
        await self._executions.transact(
            target.execution_id, lambda t: workflow.request_cancel(t, attributes)
        )

    # --- Signals and cancels ------------------------------------------------------------------

    async def _signal(self, sender: Execution, initiated_event_id: int) -> None:
        pending = sender.state.external_signals.get(initiated_event_id)
        if pending is None:
            return
        initiated = pending.initiated
        attributes = history.WorkflowExecutionSignaledEventAttributes(
            signal_name=initiated.signal_name,
            input=initiated.input if initiated.HasField("input") else None,
            header=initiated.header if initiated.HasField("header") else None,
            identity=IDENTITY,
            external_workflow_execution=execution_of(sender.state),
            request_id=delivery_request_id(sender.state, initiated_event_id),
        )
        try:
            target = await self._target(
                sender,
                initiated.namespace_id,
                initiated.workflow_execution,
                initiated.child_workflow_only,
            )
            await self._executions.transact(
                target.execution_id,
                lambda t: workflow.signal(t, attributes, self._executions.config),
            )
        except NotFound:
            await self._signal_failed(
                sender,
                initiated_event_id,
                causes.SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND,
            )
        else:
            await self._executions.transact(
                sender.execution_id,
                lambda t: external_workflow.signal_delivered(t, initiated_event_id),
            )

    async def _signal_failed(
        self,
        sender: Execution,
        initiated_event_id: int,
        cause: causes.SignalExternalWorkflowExecutionFailedCause.ValueType,
    ) -> None:
        await self._executions.transact(
            sender.execution_id,
            lambda t: external_workflow.signal_failed(t, initiated_event_id, cause),
        )

    async def _cancel(self, sender: Execution, initiated_event_id: int) -> None:
        pending = sender.state.external_cancels.get(initiated_event_id)
        if pending is None:
            return
        initiated = pending.initiated
        attributes = history.WorkflowExecutionCancelRequestedEventAttributes(
            cause=initiated.reason,
            external_initiated_event_id=initiated_event_id,
            external_workflow_execution=execution_of(sender.state),
            identity=IDENTITY,
        )
        cause = causes.CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_EXTERNAL_WORKFLOW_EXECUTION_NOT_FOUND
        try:
            target = await self._target(
                sender,
                initiated.namespace_id,
                initiated.workflow_execution,
                initiated.child_workflow_only,
            )
            if target.state.running:
                # One that closes just now is found closed: a cancel that comes too late succeeds.
                with contextlib.suppress(NotFound):
                    await self._executions.transact(
                        target.execution_id, lambda t: workflow.request_cancel(t, attributes)
                    )
        except NotFound:
            await self._executions.transact(
                sender.execution_id,
                lambda t: external_workflow.cancel_failed(t, initiated_event_id, cause),
            )
        else:
            await self._executions.transact(
                sender.execution_id,
                lambda t: external_workflow.cancel_delivered(t, initiated_event_id),
            )

    async def _target(
        self,
        sender: Execution,
        namespace_id: str,
        execution: common.WorkflowExecution,
        child_only: bool,
    ) -> Execution:
        target = await self._executions.find(namespace_id, execution.workflow_id, execution.run_id)
        parent = target.state.started.parent_workflow_execution
        if child_only and (parent.workflow_id, parent.run_id) != (
            sender.state.workflow_id,
            sender.state.run_id,
        ):
            raise NotFound("the target is not a child of this workflow")
        return target


def execution_of(state: WorkflowState) -> common.WorkflowExecution:
    return common.WorkflowExecution(workflow_id=state.workflow_id, run_id=state.run_id)


def parent_of(state: WorkflowState, initiated_event_id: int) -> workflow.Parent:
    root = state.root
    return workflow.Parent(
        namespace=state.namespace,
        namespace_id=state.namespace_id,
        workflow_id=state.workflow_id,
        run_id=state.run_id,
        initiated_event_id=initiated_event_id,
        root_workflow_id=root.workflow_id,
        root_run_id=root.run_id,
    )


def child_request(state: WorkflowState, child: Child) -> ws.StartWorkflowExecutionRequest:
    """The start that a child's initiated event asks for."""
    initiated = child.initiated
    request = ws.StartWorkflowExecutionRequest(
        namespace=initiated.namespace,
        workflow_id=initiated.workflow_id,
        workflow_type=initiated.workflow_type,
        task_queue=initiated.task_queue,
        workflow_execution_timeout=initiated.workflow_execution_timeout,
        workflow_run_timeout=initiated.workflow_run_timeout,
        workflow_task_timeout=initiated.workflow_task_timeout,
        workflow_id_reuse_policy=initiated.workflow_id_reuse_policy,
        request_id=delivery_request_id(state, child.initiated_event_id),
        cron_schedule=initiated.cron_schedule,
        user_metadata=sdk.UserMetadata.FromString(child.user_metadata),
    )
    for field in (
        "input",
        "retry_policy",
        "memo",
        "search_attributes",
        "header",
        "versioning_override",
    ):
        if initiated.HasField(field):
            getattr(request, field).CopyFrom(getattr(initiated, field))
    inherited = priority.of_workflow(state)
    if inherited.ByteSize() or initiated.HasField("priority"):
        # A child has its parent's priority, but for what its own says.
        request.priority.CopyFrom(priority.merge(inherited, initiated.priority))
    return request
