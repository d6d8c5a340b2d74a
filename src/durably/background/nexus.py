"""Delivers what executions owe to the handlers of their Nexus operations: starts and cancels.

Rule 1: a request is made again until its answer is recorded, under the same request id: the handler sees
        to it that it takes effect once.
Rule 2: an endpoint that keeps failing is left alone for a while; what is owed to it stays owed, and is
        looked at again whenever the sender's deadline comes.
"""

from collections.abc import Callable
from typing import Any

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.nexus.v1 import message_pb2 as nexus

from durably.engine import nexus_operation
from durably.engine.nexus_operation import SYSTEM_ENDPOINT
from durably.engine.nexus_outcome import Refused, StartOutcome, refused
from durably.engine.state import HistoryState, Kind, NexusOperation, WorkflowState
from durably.engine.times import nanoseconds
from durably.service import nexus_dispatch, nexus_links
from durably.service.breakers import CircuitBreakers
from durably.service.callback_tokens import HEADER, SYSTEM_URL, CallbackToken, CallbackTokens
from durably.service.execution import Execution
from durably.service.nexus_dispatch import AgentTarget, NexusDispatch, Target
from durably.service.nexus_endpoints import NexusEndpoints
from durably.service.nexus_system import SystemOperations
from durably.service.nexus_tasks import duration
from durably.service.transact import Executions

NO_ENDPOINT = refused("NOT_FOUND", "endpoint not registered")

OPERATION_TIMEOUT = "operation-timeout"


class NexusDeliveries:
    """The requests of this node to handlers."""

    def __init__(
        self,
        executions: Executions,
        endpoints: NexusEndpoints,
        dispatch: NexusDispatch,
        tokens: CallbackTokens,
        breakers: CircuitBreakers,
        system: SystemOperations,
    ) -> None:
        self._executions = executions
        self._config = executions.config
        self._endpoints = endpoints
        self._dispatch = dispatch
        self._tokens = tokens
        self._breakers = breakers
        self._system = system

    async def start(self, sender: Execution[Any], scheduled_event_id: int) -> None:
        """Ask the handler of an operation to start it, and record what it says."""
        state: HistoryState = sender.state
        operation = state.nexus_operations.get(scheduled_event_id)
        if not state.running or operation is None or not operation.start_is_owed:
            return
        attempt = operation.attempt
        outcome = await self._start(state, operation)
        if outcome is None:
            return
        await self._executions.transact(
            sender.execution_id,
            lambda t: nexus_operation.start_answered(
                t, scheduled_event_id, attempt, outcome, self._config
            ),
        )

    async def _start(self, state: HistoryState, operation: NexusOperation) -> StartOutcome | None:
        """None: not now."""
        scheduled = operation.scheduled
        link = _link(state, operation)
        if scheduled.endpoint == SYSTEM_ENDPOINT:
            return await self._system.start(state.namespace, scheduled, scheduled.request_id, link)
        target = await self._target(scheduled)
        if target is None:
            return NO_ENDPOINT
        now_ns = self._executions.clock()
        # Who has nothing but the call may take as long as the work takes.
        config = self._config
        is_agent = isinstance(target, AgentTarget)
        limit_s = config.agent_call_timeout_s if is_agent else config.nexus_request_timeout_s
        timeout_s = _seconds_left(operation, now_ns, limit_s)
        destination = (state.namespace_id, scheduled.endpoint)
        if timeout_s <= 0 or not self._breakers.allows(destination):
            return None
        request = nexus.StartOperationRequest(
            service=scheduled.service,
            operation=scheduled.operation,
            request_id=scheduled.request_id,
            callback=SYSTEM_URL,
            callback_header={HEADER: self._token(state, operation)},
            payload=scheduled.input if scheduled.HasField("input") else None,
        )
        as_nexus = nexus_links.to_nexus(link)
        if as_nexus is not None:
            request.links.append(as_nexus)
        header = dict(scheduled.nexus_header)
        if OPERATION_TIMEOUT not in header:
            header |= _operation_timeout(operation, now_ns)
        with _Report(self._breakers, destination) as report:
            outcome = await self._dispatch.start_operation(
                target, request, header, timeout_s=timeout_s, now_ns=now_ns
            )
            report(outcome)
        return nexus_dispatch.within_limit(outcome, self._config.payload_bytes_max)

    async def cancel(self, sender: Execution[Any], scheduled_event_id: int) -> None:
        """Ask the handler of an operation to cancel it, and record what it says."""
        state: HistoryState = sender.state
        operation = state.nexus_operations.get(scheduled_event_id)
        if not state.running or operation is None or not operation.cancel_is_owed:
            return
        assert operation.cancel is not None
        attempt = operation.cancel.attempt
        called, answer = await self._cancel(state, operation)
        if not called:
            return
        await self._executions.transact(
            sender.execution_id,
            lambda t: nexus_operation.cancel_answered(
                t, scheduled_event_id, attempt, answer, self._config
            ),
        )

    async def _cancel(
        self, state: HistoryState, operation: NexusOperation
    ) -> tuple[bool, Refused | None]:
        """(Whether it was tried, why not if it was refused)."""
        scheduled = operation.scheduled
        if scheduled.endpoint == SYSTEM_ENDPOINT:
            return True, self._system.cancel()
        target = await self._target(scheduled)
        if target is None:
            return True, NO_ENDPOINT
        now_ns = self._executions.clock()
        timeout_s = _seconds_left(operation, now_ns, self._config.nexus_request_timeout_s)
        destination = (state.namespace_id, scheduled.endpoint)
        if timeout_s <= 0 or not self._breakers.allows(destination):
            return False, None
        request = nexus.CancelOperationRequest(
            service=scheduled.service,
            operation=scheduled.operation,
            operation_id=operation.token,
            operation_token=operation.token,
        )
        with _Report(self._breakers, destination) as report:
            answer = await self._dispatch.cancel_operation(
                target, request, dict(scheduled.nexus_header), timeout_s=timeout_s, now_ns=now_ns
            )
            report(answer)
        return True, answer

    async def _target(
        self, scheduled: history.NexusOperationScheduledEventAttributes
    ) -> Target | None:
        endpoint = await self._endpoints.known(scheduled.endpoint_id, scheduled.endpoint)
        return nexus_dispatch.target_of(endpoint.spec) if endpoint is not None else None

    def _token(self, state: HistoryState, operation: NexusOperation) -> str:
        return self._tokens.sign(
            CallbackToken(
                state.KIND,
                state.namespace_id,
                state.workflow_id,
                state.run_id,
                operation.scheduled_event_id,
                operation.request_id,
            )
        )


class _Report:
    """Tells the breaker what became of a request; one that was cut off failed."""

    def __init__(self, breakers: CircuitBreakers, destination: tuple[str, str]) -> None:
        self._breakers = breakers
        self._destination = destination
        self._answer: object = NO_ENDPOINT
        self._answered = False

    def __enter__(self) -> Callable[[object], None]:
        return self._note

    def _note(self, answer: object) -> None:
        self._answer, self._answered = answer, True

    def __exit__(self, *exc: object) -> None:
        down = isinstance(self._answer, Refused) and self._answer.retryable
        if self._answered and not down:
            self._breakers.succeeded(self._destination)
        else:
            self._breakers.failed(self._destination)


def _link(state: HistoryState, operation: NexusOperation) -> common.Link:
    """Who calls: the event that scheduled an operation, or the operation itself."""
    link = common.Link()
    if isinstance(state, WorkflowState):
        to = link.workflow_event
        to.workflow_id = state.workflow_id
        to.event_ref.event_id = operation.scheduled_event_id
        to.event_ref.event_type = event_types.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED
        to.namespace, to.run_id = state.namespace, state.run_id
    else:
        assert state.KIND is Kind.NEXUS_OPERATION
        itself = link.nexus_operation
        itself.operation_id = state.workflow_id
        itself.namespace, itself.run_id = state.namespace, state.run_id
    return link


def _operation_timeout(operation: NexusOperation, now_ns: int) -> dict[str, str]:
    """How long the operation may take, as its handler is told."""
    scheduled = operation.scheduled
    limits = []
    if nanoseconds(scheduled.start_to_close_timeout):
        limits.append(nanoseconds(scheduled.start_to_close_timeout))
    close_ns = nanoseconds(scheduled.schedule_to_close_timeout)
    if close_ns:
        limits.append(operation.scheduled_ns + close_ns - now_ns)
    return {OPERATION_TIMEOUT: duration(min(limits) / 1e9)} if limits else {}


def _seconds_left(operation: NexusOperation, now_ns: int, limit_s: float) -> float:
    """For one request: no longer than the operation has left."""
    ends = [at_ns for at_ns, _ in nexus_operation.timeouts(operation)]
    return min([limit_s, *((at_ns - now_ns) / 1e9 for at_ns in ends)])
