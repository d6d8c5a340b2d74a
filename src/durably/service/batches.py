"""RPCs of batch operations, and which executions they are about.

Facts: temporal/api/batch/v1/message.proto and StartBatchOperationRequest in the API.
"""

from typing import Any

from temporalio.api.batch.v1 import message_pb2 as batch
from temporalio.api.enums.v1 import batch_operation_pb2 as batch_enums
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.enums.v1 import reset_pb2 as reset_enums
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine.batch import machine
from durably.engine.batch.machine import Page
from durably.engine.batch.state import BatchState
from durably.engine.state import RUNNING, BatchTarget, Kind
from durably.errors import (
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
    WorkflowExecutionAlreadyStarted,
)
from durably.service.admission import Call
from durably.service.describe import set_time
from durably.service.execution import Execution
from durably.service.ids import new_id
from durably.service.namespaces import Namespace, Namespaces
from durably.service.resets import check_operations
from durably.service.transact import CONFLICT_RETRIES, Executions
from durably.service.workflow_options import check_mask
from durably.service.workflows import RUN_ID
from durably.store import visibility_query
from durably.store.filter_dialects import Dialect
from durably.store.store import Conflict, VisibilityRow
from durably.store.visibility_query import ACTIVITY_COLUMNS, SYSTEM_COLUMNS, Query

TYPES = {
    "termination_operation": batch_enums.BATCH_OPERATION_TYPE_TERMINATE_WORKFLOW,
    "signal_operation": batch_enums.BATCH_OPERATION_TYPE_SIGNAL_WORKFLOW,
    "cancellation_operation": batch_enums.BATCH_OPERATION_TYPE_CANCEL_WORKFLOW,
    "deletion_operation": batch_enums.BATCH_OPERATION_TYPE_DELETE_WORKFLOW,
    "update_workflow_options_operation": (
        batch_enums.BATCH_OPERATION_TYPE_UPDATE_WORKFLOW_EXECUTION_OPTIONS
    ),
    "reset_operation": batch_enums.BATCH_OPERATION_TYPE_RESET_WORKFLOW,
    "unpause_activities_operation": batch_enums.BATCH_OPERATION_TYPE_UNPAUSE_ACTIVITY,
    "reset_activities_operation": batch_enums.BATCH_OPERATION_TYPE_RESET_ACTIVITY,
    "update_activity_options_operation": (batch_enums.BATCH_OPERATION_TYPE_UPDATE_ACTIVITY_OPTIONS),
    "cancel_activities_operation": batch_enums.BATCH_OPERATION_TYPE_CANCEL_ACTIVITY,
    "terminate_activities_operation": batch_enums.BATCH_OPERATION_TYPE_TERMINATE_ACTIVITY,
    "delete_activities_operation": batch_enums.BATCH_OPERATION_TYPE_DELETE_ACTIVITY,
}
OF_ACTIVITIES = (
    "cancel_activities_operation",
    "terminate_activities_operation",
    "delete_activities_operation",
)
OF_CLOSED_TOO = ("reset_operation", "deletion_operation", "delete_activities_operation")
"""Operations that closed executions are found for as well; the others leave those alone."""

STATES: dict[int, batch_enums.BatchOperationState.ValueType] = {
    RUNNING: batch_enums.BATCH_OPERATION_STATE_RUNNING,
    workflow_enums.WORKFLOW_EXECUTION_STATUS_COMPLETED: (
        batch_enums.BATCH_OPERATION_STATE_COMPLETED
    ),
}


class Batches:
    """Answers RPCs of batch operations."""

    def __init__(self, executions: Executions, namespaces: Namespaces) -> None:
        self._executions = executions
        self._namespaces = namespaces
        self._config = executions.config

    # --- RPCs ---------------------------------------------------------------------------------

    async def start_batch_operation(
        self, request: ws.StartBatchOperationRequest, call: Call
    ) -> ws.StartBatchOperationResponse:
        namespace = self._namespaces.by_name(request.namespace)
        self._check(request)
        query = _query(request, namespace, self._executions.store.dialect)
        await self._check_open(namespace)
        total = len(_named(request))
        if query is not None:
            groups = await self._executions.store.count_executions(
                kind_of(request), namespace.namespace_id, query
            )
            total = sum(count for _, count in groups)
        for _ in range(CONFLICT_RETRIES):
            try:
                await self._start(request, namespace, total)
            except Conflict:
                continue
            return ws.StartBatchOperationResponse()
        raise Unavailable("this job id is too busy; try again")

    async def _start(
        self, request: ws.StartBatchOperationRequest, namespace: Namespace, total: int
    ) -> None:
        existing = await self._executions.find_of_kind(
            Kind.BATCH, namespace.namespace_id, request.job_id
        )
        if existing is not None:
            await self._executions.settled(existing)
            message = f'batch operation "{request.job_id}" exists already'
            raise WorkflowExecutionAlreadyStarted(message, "", existing.state.run_id)
        state = BatchState(
            namespace_id=namespace.namespace_id,
            namespace=request.namespace,
            workflow_id=request.job_id,
            run_id=new_id(),
        )
        execution = self._executions.create(state, 0)
        t = self._executions.begin(state)
        machine.start(t, request, total, new_id())
        await self._executions.commit([(execution, t)])

    async def stop_batch_operation(
        self, request: ws.StopBatchOperationRequest, call: Call
    ) -> ws.StopBatchOperationResponse:
        if not request.reason:
            raise InvalidArgument("Reason is not set on request.")
        found = await self._find(request.namespace, request.job_id)
        await self._executions.transact(
            found.execution_id, lambda t: machine.stop(t, request.identity, request.reason)
        )
        return ws.StopBatchOperationResponse()

    async def describe_batch_operation(
        self, request: ws.DescribeBatchOperationRequest, call: Call
    ) -> ws.DescribeBatchOperationResponse:
        found = await self._find(request.namespace, request.job_id)
        return await self._executions.read(found.execution_id, _described)

    async def list_batch_operations(
        self, request: ws.ListBatchOperationsRequest, call: Call
    ) -> ws.ListBatchOperationsResponse:
        namespace_id = self._namespaces.id_of(request.namespace)
        longest = self._config.list_page_size_max
        size = request.page_size if 0 < request.page_size <= longest else longest
        rows, token = await self._executions.store.list_executions(
            Kind.BATCH, namespace_id, visibility_query.parse("", {}), size, request.next_page_token
        )
        response = ws.ListBatchOperationsResponse(next_page_token=token)
        for each in rows:
            info = response.operation_info.add(
                job_id=each.workflow_id,
                state=_state(each.row.status),
                operation_type=TYPES.get(each.row.workflow_type, 0),
            )
            set_time(info.start_time, each.row.start_ns)
            if each.row.close_ns:
                set_time(info.close_time, each.row.close_ns)
        return response

    async def _find(self, namespace: str, job_id: str) -> Execution[BatchState]:
        namespace_id = self._namespaces.id_of(namespace)
        if not job_id:
            raise InvalidArgument("JobId is not set on request.")
        found = await self._executions.find_of_kind(Kind.BATCH, namespace_id, job_id)
        if found is None:
            raise NotFound(f"batch operation not found for ID: {job_id}")
        return found

    # --- Checks -------------------------------------------------------------------------------

    def _check(self, request: ws.StartBatchOperationRequest) -> None:
        operation = request.WhichOneof("operation")
        if not request.job_id:
            raise InvalidArgument("JobId is not set on request.")
        if len(request.job_id) > self._config.identifier_chars_max:
            raise InvalidArgument("JobId length exceeds limit.")
        if not request.reason:
            raise InvalidArgument("Reason is not set on request.")
        if operation is None:
            raise InvalidArgument("Batch operation is not set on request.")
        if operation not in TYPES:
            raise Unimplemented(f"{operation} is not built into this server yet")
        named = [request.visibility_query, request.executions, request.target_executions]
        chosen = sum(bool(each) for each in named)
        if chosen == 0:
            raise InvalidArgument(
                "VisibilityQuery, Executions, or TargetExecutions must be set on request."
            )
        if chosen > 1:
            raise InvalidArgument(
                "visibility query, executions, and target executions are mutually exclusive"
            )
        _check_named(request, self._config.batch_executions_max)
        _check_operation(request, operation)

    async def _check_open(self, namespace: Namespace) -> None:
        query = visibility_query.parse(
            "ExecutionStatus = 'Running'", {}, dialect=self._executions.store.dialect
        )
        groups = await self._executions.store.count_executions(
            Kind.BATCH, namespace.namespace_id, query
        )
        limit = self._config.batch_operations_open_max
        if sum(count for _, count in groups) >= limit:
            raise ResourceExhausted(
                f"{limit} batch operations are under way already (batch_operations_open_max):"
                " wait for one to end, or stop one"
            )

    # --- What is done -------------------------------------------------------------------------

    async def page(self, state: BatchState, after: bytes, size: int) -> tuple[Page, bytes]:
        """The executions that come next, and where the page after them begins; empty: there is none.

        InvalidArgument if the query makes no sense any more: a search attribute may be gone.
        """
        named = _named(state.request)
        if named:
            begin = int(after or b"0")
            end = begin + size
            found = [await self._now(state, target) for target in named[begin:end]]
            return tuple(found), str(end).encode() if end < len(named) else b""
        namespace = self._namespaces.by_name(state.namespace)
        query = _query(state.request, namespace, self._executions.store.dialect)
        assert query is not None
        while True:
            rows, after = await self._executions.store.list_executions(
                kind_of(state.request), state.namespace_id, query, size, after
            )
            page = tuple(
                BatchTarget(each.workflow_id, each.run_id)
                for each in rows
                if _was_there(state, each.row)
            )
            if page or not after:
                return page, after

    async def _now(self, state: BatchState, target: BatchTarget) -> BatchTarget:
        """The run that an id names now: doing it again is doing it to the same one."""
        if target.run_id:
            return target
        found = await self._executions.find_of_kind(
            kind_of(state.request), state.namespace_id, target.id
        )
        return BatchTarget(target.id, found.state.run_id) if found is not None else target


def kind_of(request: ws.StartBatchOperationRequest) -> Kind:
    """What kind of execution the batch is about."""
    return Kind.ACTIVITY if request.WhichOneof("operation") in OF_ACTIVITIES else Kind.WORKFLOW


def _was_there(state: BatchState, row: VisibilityRow) -> bool:
    """Not a run that the batch itself has started; nor, in a reset, one that it has ended."""
    if row.start_ns > state.start_ns:
        return False
    closed_meanwhile = row.close_ns >= state.start_ns
    return not (state.operation == "reset_operation" and closed_meanwhile)


def _named(request: ws.StartBatchOperationRequest) -> list[BatchTarget]:
    """The executions that the request names one by one."""
    if request.executions:
        return [BatchTarget(each.workflow_id, each.run_id) for each in request.executions]
    return [BatchTarget(each.business_id, each.run_id) for each in request.target_executions]


def _query(
    request: ws.StartBatchOperationRequest, namespace: Namespace, dialect: Dialect
) -> Query | None:
    if not request.visibility_query:
        return None
    attributes = namespace.search_attributes
    columns = ACTIVITY_COLUMNS if kind_of(request) is Kind.ACTIVITY else SYSTEM_COLUMNS
    query = visibility_query.parse(request.visibility_query, attributes, columns, dialect)
    if query.group_by:
        raise InvalidArgument("invalid visibility query: GROUP BY is for counts")
    closed_too = request.WhichOneof("operation") in OF_CLOSED_TOO
    return query if closed_too else visibility_query.open_only(query)


def _check_named(request: ws.StartBatchOperationRequest, count_max: int) -> None:
    count = len(request.executions) + len(request.target_executions)
    if count > count_max:
        raise InvalidArgument(
            f"{count} executions exceed the limit of {count_max} (batch_executions_max);"
            " use a visibility query"
        )
    activities = kind_of(request) is Kind.ACTIVITY
    wanted = (
        common_enums.EXECUTION_TYPE_ACTIVITY if activities else common_enums.EXECUTION_TYPE_WORKFLOW
    )
    for index, each in enumerate(request.target_executions):
        if each.type != wanted:
            raise InvalidArgument(
                f"target_executions[{index}] is not of the type that the operation is about"
            )
    if not all(each.id for each in _named(request)):
        raise InvalidArgument("an execution without an id is named")
    if not all(RUN_ID.fullmatch(each.run_id) for each in _named(request) if each.run_id):
        raise InvalidArgument("an execution is named with an invalid RunId.")


def _check_operation(request: ws.StartBatchOperationRequest, operation: str) -> None:
    asked: Any = getattr(request, operation)
    match asked:
        case batch.BatchOperationSignal() if not asked.signal:
            raise InvalidArgument("must provide signal name")
        case batch.BatchOperationReset():
            if asked.HasField("options") and asked.options.WhichOneof("target") is None:
                raise InvalidArgument("batch reset missing target")
            if not asked.HasField("options") and asked.reset_type not in (
                reset_enums.RESET_TYPE_FIRST_WORKFLOW_TASK,
                reset_enums.RESET_TYPE_LAST_WORKFLOW_TASK,
            ):
                raise InvalidArgument(f"unknown batch reset type {asked.reset_type}")
            check_operations(asked.post_reset_operations)
        case batch.BatchOperationUpdateWorkflowExecutionOptions():
            if not asked.HasField("workflow_execution_options"):
                raise InvalidArgument("WorkflowExecutionOptions is required")
            if not asked.HasField("update_mask"):
                raise InvalidArgument("UpdateMask is required")
            check_mask(asked.update_mask)
        case (
            batch.BatchOperationUnpauseActivities()
            | batch.BatchOperationResetActivities()
            | batch.BatchOperationUpdateActivityOptions()
        ):
            if asked.WhichOneof("activity") is None:
                raise InvalidArgument("activity filter must be set")
            if not (asked.type or asked.match_all):
                raise InvalidArgument(
                    "Either activity type must be set, or match all should be set to true"
                )
            if isinstance(asked, batch.BatchOperationUpdateActivityOptions):
                _check_options(asked)


def _check_options(asked: batch.BatchOperationUpdateActivityOptions) -> None:
    given = asked.HasField("activity_options")
    if given and asked.restore_original:
        raise InvalidArgument("cannot set both activity options and restore original")
    if not given and not asked.restore_original:
        raise InvalidArgument("either activity options or restore original must be set")


def _state(status: int) -> batch_enums.BatchOperationState.ValueType:
    return STATES.get(status, batch_enums.BATCH_OPERATION_STATE_FAILED)


def _described(state: BatchState) -> ws.DescribeBatchOperationResponse:
    asked = getattr(state.request, state.operation)
    response = ws.DescribeBatchOperationResponse(
        operation_type=TYPES[state.operation],
        job_id=state.workflow_id,
        state=_state(state.status),
        total_operation_count=state.total,
        complete_operation_count=state.completed,
        failure_operation_count=state.failed,
        identity=getattr(asked, "identity", ""),
        reason=state.request.reason,
    )
    set_time(response.start_time, state.start_ns)
    if state.close_ns:
        set_time(response.close_time, state.close_ns)
    _describe_targets(response, state.request)
    return response


def _describe_targets(
    response: ws.DescribeBatchOperationResponse, request: ws.StartBatchOperationRequest
) -> None:
    response.query = request.visibility_query
    response.executions.extend(request.target_executions)
    for each in request.executions:
        response.executions.add(
            type=common_enums.EXECUTION_TYPE_WORKFLOW,
            business_id=each.workflow_id,
            run_id=each.run_id,
        )
