"""RPCs about workflow executions from the outside: start, signal, cancel, terminate, delete, history."""

import asyncio
import re
from collections.abc import Callable
from typing import TypeVar

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.config import Config
from durably.engine import (
    cron,
    priority,
    start_policy,
    workflow,
    workflow_options,
    workflow_task,
)
from durably.engine.retry import validate_policy
from durably.engine.start_policy import Outcome, started_by
from durably.engine.state import ScheduledBy, WorkflowState
from durably.engine.times import nanoseconds
from durably.engine.transition import Transition, debts
from durably.engine.versioning import machine as versioning
from durably.engine.versioning.version import Worker, of_options
from durably.errors import InvalidArgument, NotFound, Unavailable, Unimplemented
from durably.service import callbacks, links, nexus_description, search_attributes, tokens
from durably.service.admission import Call
from durably.service.breakers import IsBlocked
from durably.service.deployments import Deployments
from durably.service.describe import describe
from durably.service.execution import Execution
from durably.service.ids import new_id
from durably.service.namespaces import Namespace, Namespaces
from durably.service.replies import workflow_task_reply
from durably.service.tokens import HistoryPageToken
from durably.service.transact import CONFLICT_RETRIES, Executions
from durably.store.store import Conflict, QueueKey, TaskKind

R = TypeVar("R")

NO_TIME_SKIPPING = (
    "No workflow skips time of its own: time is skipped for the whole server"
    " (`durably serve --time-skipping`), by TestService."
)
RUN_ID = re.compile(
    r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}"
)
DEBTS_WAIT_S = 5.0
"""A delete waits so long for deliveries; they take milliseconds."""
Origin = workflow.Parent | ScheduledBy
"""Who starts a run from inside the server, and is to hear how it ended."""
POLL_MARGIN_S = 1.0
"""A long poll ends this long before its caller gives up, so that the reply still arrives."""

TERMINATED_FOR_NO_REASON = "terminated by user via frontend"
"""What a history says where a caller gave no reason; clients show it, as Temporal's server words it."""
TAKEN_OVER_BY = "history-service"
"""Who ends a run that another takes the place of: the server itself."""


class Workflows:
    """Answers RPCs about workflow executions."""

    def __init__(
        self,
        executions: Executions,
        namespaces: Namespaces,
        deployments: Deployments,
        is_blocked: IsBlocked,
    ) -> None:
        self._executions = executions
        self._deployments = deployments
        self._namespaces = namespaces
        self._is_blocked = is_blocked
        self._config = executions.config

    # --- Start --------------------------------------------------------------------------------

    async def start_workflow_execution(
        self, request: ws.StartWorkflowExecutionRequest, call: Call
    ) -> ws.StartWorkflowExecutionResponse:
        namespace = self._namespaces.by_name(request.namespace)
        self.check_start(request, namespace)
        eager = _EagerStart(request, self._executions) if request.request_eager_execution else None
        run_id, started = await self.start_and(namespace.namespace_id, request, eager)
        response = ws.StartWorkflowExecutionResponse(
            run_id=run_id,
            started=started,
            status=workflow_enums.WORKFLOW_EXECUTION_STATUS_RUNNING,
        )
        await self._complete(response, namespace.namespace_id, request)
        if eager is not None and eager.grant is not None:
            execution = await self._executions.find(
                namespace.namespace_id, request.workflow_id, run_id
            )
            reply = await workflow_task_reply(self._executions, execution, eager.grant, {})
            response.eager_workflow_task.CopyFrom(reply)
        return response

    async def start_child(
        self,
        namespace_id: str,
        request: ws.StartWorkflowExecutionRequest,
        parent: workflow.Parent,
    ) -> str:
        """Start a run for a parent; the same request id finds the run that it started before."""
        self._namespaces.by_name(request.namespace)
        if request.HasField("versioning_override"):
            queue = request.task_queue.name
            self._deployments.check_override(namespace_id, queue, request.versioning_override)
        run_id, _ = await self.start_and(namespace_id, request, origin=parent)
        return run_id

    async def start_scheduled(
        self,
        namespace_id: str,
        request: ws.StartWorkflowExecutionRequest,
        scheduled_by: ScheduledBy,
    ) -> tuple[str, int]:
        """(first run id, start time) of the workflow of a schedule's action. It is started once: the
        mark finds it again, even when another run of its chain is the current one."""
        existing = await self._executions.find_or_none(namespace_id, request.workflow_id)
        if existing is None or existing.state.scheduled_by != scheduled_by:
            self.check_start(request, self._namespaces.by_name(request.namespace))
            run_id, _ = await self.start_and(namespace_id, request, origin=scheduled_by)
            existing = await self._executions.find(namespace_id, request.workflow_id, run_id)
        await self._executions.settled(existing)
        return existing.state.started.first_execution_run_id, existing.state.start_ns

    async def signal_with_start_workflow_execution(
        self, request: ws.SignalWithStartWorkflowExecutionRequest, call: Call
    ) -> ws.SignalWithStartWorkflowExecutionResponse:
        namespace = self._namespaces.by_name(request.namespace)
        start = self.check_signal_with_start(request)
        attributes = _signal_attributes(request, request.signal_input)
        run_id, started = await self.start_and(
            namespace.namespace_id,
            start,
            lambda t: workflow.signal(t, attributes, self._config, request.links),
        )
        found = await self._executions.find(namespace.namespace_id, request.workflow_id, run_id)
        return ws.SignalWithStartWorkflowExecutionResponse(
            run_id=run_id,
            started=started,
            signal_link=_signal_link(found.state, request.request_id),
            first_execution_run_id=found.state.started.first_execution_run_id,
        )

    def check_signal_with_start(
        self, request: ws.SignalWithStartWorkflowExecutionRequest
    ) -> ws.StartWorkflowExecutionRequest:
        """The start in it; raises InvalidArgument for what is not well formed."""
        if not request.signal_name:
            raise InvalidArgument("SignalName is not set on request.")
        start = _start_part(request)
        self.check_start(start, self._namespaces.by_name(request.namespace))
        self._check_payload(request.signal_input.ByteSize(), "SignalInput")
        links.check(request.links, (), self._config)
        return start

    async def _complete(
        self,
        response: ws.StartWorkflowExecutionResponse,
        namespace_id: str,
        request: ws.StartWorkflowExecutionRequest,
    ) -> None:
        """The first run of the chain, and a link to the event that this request has made, or to the
        start of the run that it met."""
        place = (request.namespace, request.workflow_id, response.run_id)
        response.link.CopyFrom(links.to_event(*place))
        if response.started:
            response.first_execution_run_id = response.run_id
            return
        found = await self._executions.find(namespace_id, request.workflow_id, response.run_id)
        response.first_execution_run_id = found.state.started.first_execution_run_id
        response.status = found.state.status  # type: ignore[assignment]
        made = found.state.requests.get(request.request_id)
        if made is not None and made.event_type != links.STARTED:
            link = links.to_request(*place, made.event_type, request.request_id)  # type: ignore[arg-type]
            response.link.CopyFrom(link)

    async def start_and(
        self,
        namespace_id: str,
        request: ws.StartWorkflowExecutionRequest,
        also: Callable[[Transition], None] | None = None,
        origin: Origin | None = None,
    ) -> tuple[str, bool]:
        """(run id, whether this request started it). `also` happens to the run in the same
        transition, or to the one that runs already."""
        for _ in range(CONFLICT_RETRIES):
            existing = await self._executions.find_or_none(namespace_id, request.workflow_id)
            try:
                if existing is None:
                    return await self._create(namespace_id, request, 0, origin, also, []), True
                found = await self._meet(existing, request, also)
                if found is not None:
                    return found
                parts = self._terminated(existing, request)
                replaces = existing.execution_id
                return (
                    await self._create(namespace_id, request, replaces, origin, also, parts),
                    True,
                )
            except Conflict:
                continue
        raise Unavailable("this workflow id is too busy; try again")

    async def _meet(
        self,
        existing: Execution,
        request: ws.StartWorkflowExecutionRequest,
        also: Callable[[Transition], None] | None,
    ) -> tuple[str, bool] | None:
        """The run to return instead of starting one; None: start. Raises AlreadyStarted."""
        state = existing.state
        conflict = request.workflow_id_conflict_policy
        if also is not None and not conflict and not request.request_eager_execution:
            conflict = workflow_enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
        repeated = started_by(state, request.request_id)
        await self._executions.settled(existing)
        outcome = start_policy.decide(
            state, request.request_id, request.workflow_id_reuse_policy, conflict
        )
        if outcome is not Outcome.RETURN:
            return None
        known = request.request_id in state.requests
        for change in (also, None if known else _attachment(request, self._config)):
            if change is None:
                continue
            try:
                await self._executions.transact(existing.execution_id, change)
            except NotFound as error:
                if not repeated:
                    raise Conflict from error  # It closed meanwhile: look again.
        return state.run_id, repeated

    def _terminated(
        self, existing: Execution, request: ws.StartWorkflowExecutionRequest
    ) -> list[tuple[Execution, Transition]]:
        """The end of a run that a new one takes the place of, for the same commit."""
        if not existing.state.running:
            return []
        t = self._executions.begin(existing.state)
        workflow.terminate(t, "TerminateIfRunning WorkflowIdReusePolicy", None, TAKEN_OVER_BY)
        return [(existing, t)]

    async def _create(
        self,
        namespace_id: str,
        request: ws.StartWorkflowExecutionRequest,
        replaces: int,
        origin: Origin | None,
        also: Callable[[Transition], None] | None,
        parts: list[tuple[Execution, Transition]],
    ) -> str:
        run_id = new_id()
        state = WorkflowState(
            namespace_id=namespace_id,
            namespace=request.namespace,
            workflow_id=request.workflow_id,
            run_id=run_id,
        )
        execution = self._executions.create(state, replaces)
        t = self._executions.begin(state)
        parent = origin if isinstance(origin, workflow.Parent) else None
        attributes = workflow.started_attributes(request, run_id, t.now_ns, self._config, parent)
        if isinstance(also, _EagerStart) and not nanoseconds(
            attributes.first_workflow_task_backoff
        ):
            attributes.eager_execution_accepted = True
        workflow.start(
            t,
            attributes,
            namespace=request.namespace,
            request_id=request.request_id,
            user_metadata=request.user_metadata,
            links=request.links,
            schedule=also is None,
            scheduled_by=origin if isinstance(origin, ScheduledBy) else None,
        )
        if also is not None:
            also(t)
            workflow_task.schedule_if_none(t)
        await self._executions.commit([*parts, (execution, t)])
        if request.HasField("versioning_override"):
            await self._deployments.reactivate(namespace_id, request.versioning_override)
        return run_id

    def check_start(self, request: ws.StartWorkflowExecutionRequest, namespace: Namespace) -> None:
        if not request.workflow_id:
            raise InvalidArgument("WorkflowId is not set on request.")
        if not request.workflow_type.name:
            raise InvalidArgument("WorkflowType is not set on request.")
        if not request.task_queue.name:
            raise InvalidArgument("missing task queue name")
        for value, name in (
            (request.workflow_id, "WorkflowId"),
            (request.workflow_type.name, "WorkflowType"),
            (request.task_queue.name, "TaskQueue"),
            (request.request_id, "RequestId"),
        ):
            if len(value) > self._config.identifier_chars_max:
                raise InvalidArgument(f"{name} length exceeds limit.")
        if request.HasField("time_skipping_config"):
            raise Unimplemented(NO_TIME_SKIPPING)
        self._check_times(request)
        priority.check(request.priority)
        if request.HasField("retry_policy"):
            validate_policy(request.retry_policy)
        start_policy.validate(request.workflow_id_reuse_policy, request.workflow_id_conflict_policy)
        search_attributes.check(request.search_attributes, namespace.search_attributes)
        self._check_payload(request.input.ByteSize(), "Input")
        _check_attachments(request, self._config)
        if request.memo.ByteSize() > self._config.memo_bytes_max:
            raise InvalidArgument(
                f"Memo exceeds size limit of {self._config.memo_bytes_max} bytes (memo_bytes_max)."
            )
        if request.HasField("versioning_override"):
            self._deployments.check_override(
                namespace.namespace_id, request.task_queue.name, request.versioning_override
            )
        if not request.request_id:
            request.request_id = new_id()

    def _check_times(self, request: ws.StartWorkflowExecutionRequest) -> None:
        for field, name in (
            ("workflow_execution_timeout", "WorkflowExecutionTimeout"),
            ("workflow_run_timeout", "WorkflowRunTimeout"),
            ("workflow_task_timeout", "WorkflowTaskTimeoutSeconds"),
            ("workflow_start_delay", "WorkflowStartDelay"),
        ):
            if nanoseconds(getattr(request, field)) < 0:
                raise InvalidArgument(f"invalid {name}: negative duration")
        if request.cron_schedule and nanoseconds(request.workflow_start_delay):
            raise InvalidArgument("CronSchedule and WorkflowStartDelay may not be used together.")
        cron.check(request.cron_schedule, self._executions.clock())

    def _check_payload(self, size_bytes: int, name: str) -> None:
        if size_bytes > self._config.payload_bytes_max:
            raise InvalidArgument(
                f"{name} of {size_bytes} bytes exceeds the limit of"
                f" {self._config.payload_bytes_max} bytes (payload_bytes_max)."
            )

    # --- Signal, cancel, terminate, delete ----------------------------------------------------

    async def signal_workflow_execution(
        self, request: ws.SignalWorkflowExecutionRequest, call: Call
    ) -> ws.SignalWorkflowExecutionResponse:
        if not request.signal_name:
            raise InvalidArgument("SignalName is not set on request.")
        self._check_payload(request.input.ByteSize(), "Input")
        links.check(request.links, (), self._config)
        attributes = _signal_attributes(request, request.input)

        def decide(t: Transition) -> common.Link:
            workflow.signal(t, attributes, self._config, request.links)
            return _signal_link(t.state, request.request_id)

        link = await self._transact(request.namespace, request.workflow_execution, decide)
        return ws.SignalWorkflowExecutionResponse(link=link)

    async def request_cancel_workflow_execution(
        self, request: ws.RequestCancelWorkflowExecutionRequest, call: Call
    ) -> ws.RequestCancelWorkflowExecutionResponse:
        links.check(request.links, (), self._config)
        attributes = history.WorkflowExecutionCancelRequestedEventAttributes(
            cause=request.reason, identity=request.identity
        )

        def decide(t: Transition) -> None:
            if t.state.closed:
                return  # What has ended needs no cancel: that is a success.
            check_chain(t.state, request.first_execution_run_id)
            workflow.request_cancel(t, attributes, request.request_id, request.links)

        await self._transact(request.namespace, request.workflow_execution, decide)
        return ws.RequestCancelWorkflowExecutionResponse()

    async def terminate_workflow_execution(
        self, request: ws.TerminateWorkflowExecutionRequest, call: Call
    ) -> ws.TerminateWorkflowExecutionResponse:
        links.check(request.links, (), self._config)
        details = request.details if request.HasField("details") else None

        def decide(t: Transition) -> None:
            check_chain(t.state, request.first_execution_run_id)
            reason = request.reason or TERMINATED_FOR_NO_REASON
            workflow.terminate(t, reason, details, request.identity, request.links)

        await self._transact(request.namespace, request.workflow_execution, decide)
        return ws.TerminateWorkflowExecutionResponse()

    async def delete_workflow_execution(
        self, request: ws.DeleteWorkflowExecutionRequest, call: Call
    ) -> ws.DeleteWorkflowExecutionResponse:
        """A running execution is terminated first, and whoever waits for its end is told."""
        execution = await self._find(request.namespace, request.workflow_execution)
        if execution.state.running:
            await self._executions.transact(
                execution.execution_id,
                lambda t: workflow.terminate(t, "Delete workflow execution", None, ""),
            )
        await self._pay_debts(execution)
        await self._executions.delete(execution)
        return ws.DeleteWorkflowExecutionResponse()

    async def _pay_debts(self, execution: Execution) -> None:
        """Wait until the outbox has delivered what a closed execution owes: it goes with its row."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + DEBTS_WAIT_S
        while debts(execution.state):
            left = give_up - loop.time()
            if left <= 0 or not await self._executions.wait_for_change(execution, left):
                raise Unavailable("others have not heard of its end yet; try again")
            execution = await self._executions.get(execution.execution_id)

    async def _transact(
        self,
        namespace: str,
        which: common.WorkflowExecution,
        decide: Callable[[Transition], R],
    ) -> R:
        """Decide on a run; if it is the current one that closed meanwhile, on its successor."""
        execution = await self._find(namespace, which)
        try:
            return await self._executions.transact(execution.execution_id, decide)
        except NotFound:
            following = await self._find(namespace, which)
            if following.execution_id == execution.execution_id:
                raise
            return await self._executions.transact(following.execution_id, decide)

    async def _find(self, namespace: str, which: common.WorkflowExecution) -> Execution:
        namespace_id = self._namespaces.id_of(namespace)
        check_execution(which)
        return await self._executions.find(namespace_id, which.workflow_id, which.run_id)

    # --- Describe and history -----------------------------------------------------------------

    async def poll_workflow_execution_time_skipping(
        self, request: ws.PollWorkflowExecutionTimeSkippingRequest, call: Call
    ) -> ws.PollWorkflowExecutionTimeSkippingResponse:
        """As by a server on which workflows may not skip time, and so by Temporal's unless told to."""
        self._namespaces.id_of(request.namespace)
        check_execution(request.workflow_execution)
        raise Unimplemented(NO_TIME_SKIPPING)

    async def describe_workflow_execution(
        self, request: ws.DescribeWorkflowExecutionRequest, call: Call
    ) -> ws.DescribeWorkflowExecutionResponse:
        execution = await self._find(request.namespace, request.execution)
        types = self._namespaces.by_name(request.namespace).search_attributes
        response = await self._executions.read(execution.execution_id, self._described)
        found = response.workflow_execution_info.search_attributes
        search_attributes.with_types(found, types)
        return response

    def _described(self, state: WorkflowState) -> ws.DescribeWorkflowExecutionResponse:
        response = describe(state, self._is_blocked)
        response.pending_nexus_operations.extend(nexus_description.pending(state, self._is_blocked))
        return response

    async def get_workflow_execution_history(
        self, request: ws.GetWorkflowExecutionHistoryRequest, call: Call
    ) -> ws.GetWorkflowExecutionHistoryResponse:
        execution, token = await self._history_place(request)
        close_only = (
            request.history_event_filter_type
            == workflow_enums.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT
        )
        if request.wait_new_event:
            await self._wait(execution, token, close_only, call)
            execution = await self._executions.get(execution.execution_id)
        if close_only:
            return await self._close_event(execution, token, request.wait_new_event)
        return await self._history_page(execution, token, request)

    async def _history_place(
        self, request: ws.GetWorkflowExecutionHistoryRequest
    ) -> tuple[Execution, HistoryPageToken]:
        """Where to read on; a page token pins the run."""
        namespace_id = self._namespaces.id_of(request.namespace)
        check_execution(request.execution)
        if not request.next_page_token:
            execution = await self._find(request.namespace, request.execution)
            return execution, HistoryPageToken(execution.state.run_id, 1)
        token = tokens.decode_page(request.next_page_token)
        execution = await self._executions.find(
            namespace_id, request.execution.workflow_id, token.run_id
        )
        return execution, token

    async def _wait(
        self,
        execution: Execution,
        token: HistoryPageToken,
        close_only: bool,
        call: Call,
    ) -> None:
        """Wait until there is something new to show, or for as long as a long poll lasts."""
        loop = asyncio.get_running_loop()
        seconds = poll_seconds(self._config.history_poll_timeout_s, call, self._executions.clock())
        give_up = loop.time() + seconds
        while not self._has_news(execution, token, close_only):
            left = give_up - loop.time()
            if left <= 0 or not await self._executions.wait_for_change(
                execution, left, close_only=close_only
            ):
                return
            execution = await self._executions.get(execution.execution_id)

    def _has_news(self, execution: Execution, token: HistoryPageToken, close_only: bool) -> bool:
        closed = execution.state.closed and (
            execution.committed_event_id >= execution.state.close_event_id
        )
        return closed or (not close_only and execution.committed_event_id >= token.next_event_id)

    async def _close_event(
        self, execution: Execution, token: HistoryPageToken, waiting: bool
    ) -> ws.GetWorkflowExecutionHistoryResponse:
        response = ws.GetWorkflowExecutionHistoryResponse(history=history.History())
        await self._executions.settled(execution)
        if execution.state.closed or not waiting:
            last = execution.state.close_event_id or execution.committed_event_id
            events = await self._executions.events(execution, last, 1)
            response.history.events.extend(events[:1])
        else:
            response.next_page_token = tokens.encode(token)
        return response

    async def _history_page(
        self,
        execution: Execution,
        token: HistoryPageToken,
        request: ws.GetWorkflowExecutionHistoryRequest,
    ) -> ws.GetWorkflowExecutionHistoryResponse:
        response = ws.GetWorkflowExecutionHistoryResponse(history=history.History())
        bytes_max = self._config.history_page_bytes_max
        events = await self._executions.events(execution, token.next_event_id, bytes_max)
        size = request.maximum_page_size or self._config.history_page_events_default
        if token.last_event_id:
            events = events[: max(0, token.last_event_id - token.next_event_id + 1)]
        events = events[:size]
        response.history.events.extend(events)
        next_event_id = events[-1].event_id + 1 if events else token.next_event_id
        last = token.last_event_id or execution.committed_event_id
        following = HistoryPageToken(
            token.run_id, next_event_id, token.last_event_id, token.transient
        )
        if next_event_id <= last or (request.wait_new_event and not execution.state.closed):
            response.next_page_token = tokens.encode(following)
        elif token.transient:
            response.history.events.extend(workflow_task.transient_events(execution.state))
        return response

    async def get_workflow_execution_history_reverse(
        self, request: ws.GetWorkflowExecutionHistoryReverseRequest, call: Call
    ) -> ws.GetWorkflowExecutionHistoryReverseResponse:
        if request.next_page_token:
            token = tokens.decode_page(request.next_page_token)
            namespace_id = self._namespaces.id_of(request.namespace)
            check_execution(request.execution)
            execution = await self._executions.find(
                namespace_id, request.execution.workflow_id, token.run_id
            )
        else:
            execution = await self._find(request.namespace, request.execution)
            await self._executions.settled(execution)
            token = HistoryPageToken(execution.state.run_id, execution.committed_event_id)
        await self._executions.settled(execution)
        size = request.maximum_page_size or self._config.history_page_events_default
        rows = await self._executions.store.read_events_reverse(
            execution.execution_id,
            token.next_event_id,
            self._config.history_page_bytes_max,
        )
        events: list[history.HistoryEvent] = []
        for row in rows:
            events += reversed(history.History.FromString(row.events).events)
        events = [e for e in events if e.event_id <= token.next_event_id][:size]
        response = ws.GetWorkflowExecutionHistoryReverseResponse(history=history.History())
        response.history.events.extend(events)
        if events and events[-1].event_id > 1:
            following = HistoryPageToken(token.run_id, events[-1].event_id - 1)
            response.next_page_token = tokens.encode(following)
        return response


def _check_attachments(request: ws.StartWorkflowExecutionRequest, config: Config) -> None:
    """Callbacks and links; a link that a callback has too is dropped."""
    asked = request.on_conflict_options
    if asked.attach_completion_callbacks and not asked.attach_request_id:
        raise InvalidArgument("attaching request ID is required for attaching completion callbacks")
    callbacks.check(request.completion_callbacks, config)
    kept = links.without_repeats(request.links, request.completion_callbacks)
    del request.links[:]
    request.links.extend(kept)
    links.check(request.links, request.completion_callbacks, config)


def _attachment(
    request: ws.StartWorkflowExecutionRequest, config: Config
) -> Callable[[Transition], None] | None:
    """What `on_conflict_options` ask to be done to the run that is met."""
    if not request.HasField("on_conflict_options"):
        return None
    asked = request.on_conflict_options
    request_id = request.request_id if asked.attach_request_id else ""
    brought = request.completion_callbacks if asked.attach_completion_callbacks else []
    linked = request.links if asked.attach_links else []
    return lambda t: workflow_options.attach(t, request_id, brought, linked, config)


class _EagerStart:
    """Starts the first workflow task of a new run for the client that starts the run: it has a
    worker beside it, and needs no poll."""

    def __init__(self, request: ws.StartWorkflowExecutionRequest, executions: Executions) -> None:
        self._request = request
        self._executions = executions
        version = of_options(request.eager_worker_deployment_options)
        self._worker = Worker(request.identity, version)
        self.grant: workflow_task.WorkflowTaskGrant | None = None

    def __call__(self, t: Transition) -> None:
        self.grant = None
        if t.state.last_event_ns != t.now_ns or t.state.next_event_id != 2:
            return  # It runs already, and was not started by this request.
        if t.state.backoff_pending or not self._may_have(t):
            return
        workflow_task.schedule(t, dispatch=False)
        task = t.state.workflow_task
        assert task is not None
        self.grant = workflow_task.start(
            t,
            task.scheduled_event_id,
            1,
            self._request.identity,
            new_id(),
            self._executions.config,
            worker=self._worker,
            target=self._executions.dispatch.target(t.state),
        )

    def _may_have(self, t: Transition) -> bool:
        """Whether the worker is of the version that the first task goes to."""
        key = QueueKey(t.state.namespace_id, TaskKind.WORKFLOW, t.state.task_queue)
        routes = self._executions.routes
        part = routes.place(key, versioning.route(t.state), t.state.workflow_id)
        version = self._worker.version
        return part.version == (str(version) if version is not None else "")


def poll_seconds(longest_s: float, call: Call, now_ns: int) -> float:
    """How long a long poll may wait: its limit, or shortly before its caller gives up."""
    left = call.seconds_left(now_ns)
    if left is None:
        return longest_s
    return max(0.0, min(longest_s, left - min(POLL_MARGIN_S, left / 10)))


def check_execution(which: common.WorkflowExecution) -> None:
    """Raises InvalidArgument unless this names a workflow, and its run, if any, by a UUID."""
    if not which.workflow_id:
        raise InvalidArgument("WorkflowId is not set on request.")
    if which.run_id and not RUN_ID.fullmatch(which.run_id):
        raise InvalidArgument("Invalid RunId.")


def check_chain(state: WorkflowState, first_run_id: str) -> None:
    if first_run_id and state.started.first_execution_run_id != first_run_id:
        raise NotFound("workflow execution not found")


def _signal_link(state: WorkflowState, request_id: str) -> common.Link:
    """To the signal's event, by its request: it may have no id yet."""
    signaled = event_types.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    place = (state.namespace, state.workflow_id, state.run_id)
    return links.to_request(*place, signaled, request_id)


SignalRequest = ws.SignalWorkflowExecutionRequest | ws.SignalWithStartWorkflowExecutionRequest


def _signal_attributes(
    request: SignalRequest, payloads: common.Payloads
) -> history.WorkflowExecutionSignaledEventAttributes:
    attributes = history.WorkflowExecutionSignaledEventAttributes(
        signal_name=request.signal_name,
        identity=request.identity,
        request_id=request.request_id,
    )
    if payloads.ByteSize():
        attributes.input.CopyFrom(payloads)
    if request.HasField("header"):
        attributes.header.CopyFrom(request.header)
    return attributes


def _start_part(
    request: ws.SignalWithStartWorkflowExecutionRequest,
) -> ws.StartWorkflowExecutionRequest:
    """The start request that a signal with start contains; the fields have the same names."""
    start = ws.StartWorkflowExecutionRequest()
    for field, value in request.ListFields():
        if field.name in start.DESCRIPTOR.fields_by_name:
            if field.message_type is None:
                setattr(start, field.name, value)
            elif field.is_repeated:
                getattr(start, field.name).extend(value)
            else:
                getattr(start, field.name).CopyFrom(value)
    return start
