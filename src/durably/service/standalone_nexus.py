"""RPCs about standalone Nexus operations: start, describe, poll, list, count, cancel, terminate, delete.

Facts: temporal/api/workflowservice/v1/request_response.proto, temporal/api/nexus/v1/message.proto.

    the operation is   policy                                    outcome of a start
    ----------------   ---------------------------------------   ------------------------------------
    any                (the same request id)                     it is returned, not started
    running            conflict FAIL, or none given              refused
    running            conflict USE_EXISTING                     returned
    closed             reuse ALLOW_DUPLICATE, or none given      started
    closed             reuse ALLOW_DUPLICATE_FAILED_ONLY         started if it did not complete
    closed             reuse REJECT_DUPLICATE                    refused
"""

import asyncio
from collections.abc import Callable
from typing import Any

from temporalio.api.enums.v1 import nexus_pb2 as nexus_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.config import Config
from durably.engine import nexus_operation
from durably.engine.standalone_nexus import machine
from durably.engine.standalone_nexus.state import StandaloneNexusState
from durably.engine.state import Kind
from durably.errors import (
    InvalidArgument,
    NexusOperationExecutionAlreadyStarted,
    NotFound,
    Unavailable,
)
from durably.service import callbacks, nexus_description, search_attributes, tokens
from durably.service.admission import Call
from durably.service.breakers import IsBlocked
from durably.service.execution import Execution
from durably.service.ids import new_id
from durably.service.namespaces import Namespace, Namespaces
from durably.service.nexus_endpoints import NexusEndpoints
from durably.service.transact import CONFLICT_RETRIES, Executions
from durably.service.visibility import group_payload
from durably.service.workflows import RUN_ID, poll_seconds
from durably.store import visibility_query
from durably.store.store import Conflict
from durably.store.visibility_query import NEXUS_COLUMNS

NexusExecution = Execution[StandaloneNexusState]

OneOperationRequest = (
    ws.DescribeNexusOperationExecutionRequest
    | ws.PollNexusOperationExecutionRequest
    | ws.RequestCancelNexusOperationExecutionRequest
    | ws.TerminateNexusOperationExecutionRequest
    | ws.DeleteNexusOperationExecutionRequest
)


class StandaloneNexus:
    """Answers RPCs about standalone Nexus operations."""

    def __init__(
        self,
        executions: Executions,
        namespaces: Namespaces,
        endpoints: NexusEndpoints,
        is_blocked: IsBlocked,
    ) -> None:
        self._executions = executions
        self._namespaces = namespaces
        self._endpoints = endpoints
        self._is_blocked = is_blocked
        self._config = executions.config

    # --- Start --------------------------------------------------------------------------------

    async def start_nexus_operation_execution(
        self, request: ws.StartNexusOperationExecutionRequest, call: Call
    ) -> ws.StartNexusOperationExecutionResponse:
        namespace = self._namespaces.by_name(request.namespace)
        check_start(request, namespace, self._config)
        endpoint_id = self._endpoints.id_of(request.endpoint)
        for _ in range(CONFLICT_RETRIES):
            try:
                run_id, started = await self._start(namespace.namespace_id, request, endpoint_id)
            except Conflict:
                continue
            return ws.StartNexusOperationExecutionResponse(run_id=run_id, started=started)
        raise Unavailable("this operation id is too busy; try again")

    async def _start(
        self, namespace_id: str, request: ws.StartNexusOperationExecutionRequest, endpoint_id: str
    ) -> tuple[str, bool]:
        """(run id, whether this request started it)."""
        existing: NexusExecution | None = await self._executions.find_of_kind(
            Kind.NEXUS_OPERATION, namespace_id, request.operation_id
        )
        if existing is not None:
            await self._executions.settled(existing)
            if returned(existing.state, request):
                if request.on_conflict_options.attach_completion_callbacks:
                    await self._executions.transact(
                        existing.execution_id,
                        lambda t: machine.attach(
                            t, request.request_id, request.completion_callbacks, self._config
                        ),
                    )
                return existing.state.run_id, False
        state = StandaloneNexusState(
            namespace_id=namespace_id,
            namespace=request.namespace,
            workflow_id=request.operation_id,
            run_id=new_id(),
        )
        execution = self._executions.create(state, existing.execution_id if existing else 0)
        t = self._executions.begin(state)
        machine.start(t, request, endpoint_id, self._config)
        await self._executions.commit([(execution, t)])
        return state.run_id, True

    # --- Describe and poll --------------------------------------------------------------------

    async def describe_nexus_operation_execution(
        self, request: ws.DescribeNexusOperationExecutionRequest, call: Call
    ) -> ws.DescribeNexusOperationExecutionResponse:
        """With a token of an earlier description: once there is something newer, or empty."""
        namespace = self._namespaces.by_name(request.namespace)
        self._check_one(request)
        if request.long_poll_token and not request.run_id:
            raise InvalidArgument("run_id is required when long_poll_token is provided")
        execution = await self._find(request)
        if request.long_poll_token:
            seen = tokens.decode_change(request.long_poll_token, execution.state.run_id)
            if not await self._wait(
                execution, lambda state: state.transitions > seen.transitions, call
            ):
                return ws.DescribeNexusOperationExecutionResponse()
        response = await self._executions.read(
            execution.execution_id,
            lambda state: nexus_description.describe(
                state, request, self._is_blocked, self._executions.clock()
            ),
        )
        search_attributes.with_types(response.info.search_attributes, namespace.search_attributes)
        return response

    async def poll_nexus_operation_execution(
        self, request: ws.PollNexusOperationExecutionRequest, call: Call
    ) -> ws.PollNexusOperationExecutionResponse:
        """Once it has started or closed, as was asked for; an empty response asks to poll again."""
        if request.wait_stage not in nexus_enums.NexusOperationWaitStage.values():
            raise InvalidArgument(f"unsupported wait_stage: {request.wait_stage}")
        self._check_one(request)
        execution = await self._find(request)
        early = request.wait_stage == nexus_enums.NEXUS_OPERATION_WAIT_STAGE_STARTED

        def come(state: StandaloneNexusState) -> bool:
            return state.closed or (early and state.operation.started)

        if not await self._wait(execution, come, call):
            return ws.PollNexusOperationExecutionResponse()
        return await self._executions.read(execution.execution_id, nexus_description.polled)

    async def _wait(
        self, execution: NexusExecution, come: Callable[[StandaloneNexusState], bool], call: Call
    ) -> bool:
        """Whether it came within the time that a long poll lasts."""
        loop = asyncio.get_running_loop()
        longest_s = self._config.activity_poll_timeout_s
        give_up = loop.time() + poll_seconds(longest_s, call, self._executions.clock())
        while not come(execution.state):
            left = give_up - loop.time()
            if left <= 0 or not await self._executions.wait_for_change(execution, left):
                return False
            execution = await self._executions.get(execution.execution_id)
        return True

    # --- List and count -----------------------------------------------------------------------

    async def list_nexus_operation_executions(
        self, request: ws.ListNexusOperationExecutionsRequest, call: Call
    ) -> ws.ListNexusOperationExecutionsResponse:
        namespace = self._namespaces.by_name(request.namespace)
        types, dialect = namespace.search_attributes, self._executions.store.dialect
        query = visibility_query.parse(request.query, types, NEXUS_COLUMNS, dialect)
        if query.group_by:
            raise InvalidArgument("invalid query: operation is not supported: 'GROUP BY' clause")
        size_max = self._config.list_page_size_max
        size = min(request.page_size, size_max) if request.page_size > 0 else size_max
        rows, token = await self._executions.store.list_executions(
            Kind.NEXUS_OPERATION, namespace.namespace_id, query, size, request.next_page_token
        )
        shown = [nexus_description.listed(row) for row in rows]
        for info in shown:
            search_attributes.with_types(info.search_attributes, types)
        return ws.ListNexusOperationExecutionsResponse(operations=shown, next_page_token=token)

    async def count_nexus_operation_executions(
        self, request: ws.CountNexusOperationExecutionsRequest, call: Call
    ) -> ws.CountNexusOperationExecutionsResponse:
        namespace = self._namespaces.by_name(request.namespace)
        dialect = self._executions.store.dialect
        query = visibility_query.parse(
            request.query, namespace.search_attributes, NEXUS_COLUMNS, dialect
        )
        groups = await self._executions.store.count_executions(
            Kind.NEXUS_OPERATION, namespace.namespace_id, query
        )
        response = ws.CountNexusOperationExecutionsResponse(count=sum(count for _, count in groups))
        if query.group_by:
            response.groups.extend(
                ws.CountNexusOperationExecutionsResponse.AggregationGroup(
                    group_values=[group_payload(value, query.group_type)], count=count
                )
                for value, count in groups
            )
        return response

    # --- Cancel, terminate, delete ------------------------------------------------------------

    async def request_cancel_nexus_operation_execution(
        self, request: ws.RequestCancelNexusOperationExecutionRequest, call: Call
    ) -> ws.RequestCancelNexusOperationExecutionResponse:
        self._check_command(request)
        execution = await self._find(request)
        await self._executions.transact(
            execution.execution_id,
            lambda t: machine.request_cancel(
                t, request.identity, request.reason, request.request_id
            ),
        )
        return ws.RequestCancelNexusOperationExecutionResponse()

    async def terminate_nexus_operation_execution(
        self, request: ws.TerminateNexusOperationExecutionRequest, call: Call
    ) -> ws.TerminateNexusOperationExecutionResponse:
        self._check_command(request)
        execution = await self._find(request)
        await self._executions.transact(
            execution.execution_id,
            lambda t: machine.terminate(t, request.identity, request.reason, request.request_id),
        )
        return ws.TerminateNexusOperationExecutionResponse()

    async def delete_nexus_operation_execution(
        self, request: ws.DeleteNexusOperationExecutionRequest, call: Call
    ) -> ws.DeleteNexusOperationExecutionResponse:
        """A running operation is terminated first."""
        self._check_one(request)
        execution = await self._find(request)
        await self._executions.transact(execution.execution_id, _terminate_if_running)
        await self._executions.delete(execution)
        return ws.DeleteNexusOperationExecutionResponse()

    def _check_one(self, request: OneOperationRequest) -> None:
        _check_id(request.operation_id, self._config)
        if request.run_id and not RUN_ID.fullmatch(request.run_id):
            raise InvalidArgument("run_id is not a valid UUID")

    def _check_command(
        self,
        request: ws.RequestCancelNexusOperationExecutionRequest
        | ws.TerminateNexusOperationExecutionRequest,
    ) -> None:
        _check_request_id(request, self._config)
        self._check_one(request)
        _check_length(request.identity, "identity", self._config)
        if len(request.reason) > self._config.payload_bytes_max:
            raise InvalidArgument("reason exceeds length limit")

    async def _find(self, request: OneOperationRequest) -> NexusExecution:
        """The operation with this run id, or the latest; NotFound if there is none."""
        namespace_id = self._namespaces.id_of(request.namespace)
        found: Execution[Any] | None = await self._executions.find_of_kind(
            Kind.NEXUS_OPERATION, namespace_id, request.operation_id, request.run_id
        )
        if found is None:
            raise NotFound(f"operation not found for ID: {request.operation_id}")
        return found


def _terminate_if_running(t: machine.NexusTransition) -> None:
    if t.state.running:
        machine.terminate(t, "", "Delete nexus operation execution", t.new_id())


def returned(
    existing: StandaloneNexusState, request: ws.StartNexusOperationExecutionRequest
) -> bool:
    """Whether a start gives back the operation that there is, by the table above; raises
    NexusOperationExecutionAlreadyStarted where it is refused."""
    if existing.create_request_id == request.request_id:
        return True
    already = NexusOperationExecutionAlreadyStarted(existing.create_request_id, existing.run_id)
    if existing.running:
        wanted = nexus_enums.NEXUS_OPERATION_ID_CONFLICT_POLICY_USE_EXISTING
        if request.id_conflict_policy == wanted:
            return True
        raise already
    completed = existing.status == nexus_enums.NEXUS_OPERATION_EXECUTION_STATUS_COMPLETED
    match request.id_reuse_policy:
        case nexus_enums.NEXUS_OPERATION_ID_REUSE_POLICY_REJECT_DUPLICATE:
            raise already
        case nexus_enums.NEXUS_OPERATION_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY if completed:
            raise already
    return False


# --- Well formed ------------------------------------------------------------------------------


def check_start(
    request: ws.StartNexusOperationExecutionRequest, namespace: Namespace, config: Config
) -> None:
    _check_request_id(request, config)
    _check_id(request.operation_id, config)
    _check_length(request.identity, "identity", config)
    for field in ("endpoint", "service", "operation"):
        if not getattr(request, field):
            raise InvalidArgument(f"{field} is required")
    nexus_operation.check(request, "", config)
    search_attributes.check(request.search_attributes, namespace.search_attributes)
    if request.id_reuse_policy not in nexus_enums.NexusOperationIdReusePolicy.values():
        raise InvalidArgument(f"unsupported ID reuse policy: {request.id_reuse_policy}")
    if request.id_conflict_policy not in nexus_enums.NexusOperationIdConflictPolicy.values():
        raise InvalidArgument(f"unsupported ID conflict policy: {request.id_conflict_policy}")
    callbacks.check(request.completion_callbacks, config)


def _check_request_id(
    request: ws.StartNexusOperationExecutionRequest
    | ws.RequestCancelNexusOperationExecutionRequest
    | ws.TerminateNexusOperationExecutionRequest,
    config: Config,
) -> None:
    """One is given where the caller gave none."""
    _check_length(request.request_id, "request_id", config)
    request.request_id = request.request_id or new_id()


def _check_id(operation_id: str, config: Config) -> None:
    if not operation_id:
        raise InvalidArgument("operation_id is required")
    _check_length(operation_id, "operation_id", config)


def _check_length(text: str, name: str, config: Config) -> None:
    limit = config.identifier_chars_max
    if len(text) > limit:
        raise InvalidArgument(f"{name} exceeds length limit. Length={len(text)} Limit={limit}")
