"""RPCs about schedules.

Facts: temporal/api/workflowservice/v1/request_response.proto, temporal/api/schedule/v1/message.proto.
"""

import asyncio
import re
from collections.abc import Mapping

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.schedule.v1 import message_pb2 as schedules
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine.schedule import machine, spec, view
from durably.engine.schedule.notation import InvalidNotation
from durably.engine.schedule.state import ScheduleState
from durably.engine.state import Kind
from durably.engine.times import nanoseconds, timestamp
from durably.engine.versioning.version import check_override
from durably.errors import (
    InvalidArgument,
    NotFound,
    Unavailable,
    WorkflowExecutionAlreadyStarted,
)
from durably.service import search_attributes
from durably.service.admission import Call
from durably.service.execution import Execution
from durably.service.ids import new_id
from durably.service.namespaces import Namespace, Namespaces
from durably.service.search_attributes import LIST_INFO
from durably.service.transact import CONFLICT_RETRIES, Executions
from durably.service.workflows import Workflows
from durably.store import visibility_query
from durably.store.filter_dialects import Dialect
from durably.store.store import Conflict, VisibleExecution
from durably.store.visibility_query import Query

MATCHING_TIMES_MAX = 1_000
NOTES_BYTES_MAX = 1_000
WORKFLOW_ID_SUFFIX = "-2006-01-02T15:04:05Z"
"""As long as what is put behind the id of a workflow that a schedule starts."""
STARTS_WAIT_S = 2.0
"""A description waits so long for the answer to starts that are under way."""
REPORTS_WAIT_S = 2.0
"""A trigger waits so long for reports of ends that are under way."""


class Schedules:
    """Answers RPCs about schedules."""

    def __init__(
        self, executions: Executions, namespaces: Namespaces, workflows: Workflows
    ) -> None:
        self._executions = executions
        self._namespaces = namespaces
        self._workflows = workflows
        self._config = executions.config

    # --- Change -------------------------------------------------------------------------------

    async def create_schedule(
        self, request: ws.CreateScheduleRequest, call: Call
    ) -> ws.CreateScheduleResponse:
        namespace = self._namespaces.by_name(request.namespace)
        self._check_id(request.schedule_id)
        if not request.request_id:
            raise InvalidArgument("RequestId is not set on request.")
        self._check_request_id(request.request_id)
        self._check_definition(request.schedule, namespace)
        self._check_attributes(request.memo, request.search_attributes, namespace)
        for _ in range(CONFLICT_RETRIES):
            try:
                token = await self._create(namespace, request)
            except Conflict:
                continue
            return ws.CreateScheduleResponse(conflict_token=encode_token(token))
        raise Unavailable("this schedule id is too busy; try again")

    async def _create(self, namespace: Namespace, request: ws.CreateScheduleRequest) -> int:
        """The conflict token of the new schedule, or of the one this very request created before."""
        existing = await self._current(namespace.namespace_id, request.schedule_id)
        if existing is not None:
            await self._executions.settled(existing)
            if existing.state.create_request_id == request.request_id:
                return existing.state.conflict_token
            if existing.state.running:
                message = f'schedule "{request.schedule_id}" is already registered'
                raise WorkflowExecutionAlreadyStarted(message, "", "")
        state = ScheduleState(
            namespace_id=namespace.namespace_id,
            namespace=request.namespace,
            workflow_id=request.schedule_id,
            run_id=new_id(),
        )
        replaces = existing.execution_id if existing is not None else 0
        execution = self._executions.create(state, replaces)
        t = self._executions.begin(state)
        machine.create(
            t,
            request.schedule,
            namespace=request.namespace,
            request_id=request.request_id,
            patch=request.initial_patch,
            memo=request.memo,
            search_attributes=request.search_attributes,
        )
        await self._executions.commit([(execution, t)])
        return state.conflict_token

    async def update_schedule(
        self, request: ws.UpdateScheduleRequest, call: Call
    ) -> ws.UpdateScheduleResponse:
        namespace = self._namespaces.by_name(request.namespace)
        self._check_id(request.schedule_id)
        self._check_request_id(request.request_id)
        if not request.schedule.action.HasField("start_workflow"):
            raise InvalidArgument("Only StartWorkflow action is supported for schedules")
        self._check_definition(request.schedule, namespace)
        self._check_attributes(request.memo, request.search_attributes, namespace)
        execution = await self._find(namespace.namespace_id, request.schedule_id)
        await self._executions.transact(
            execution.execution_id,
            lambda t: machine.update(
                t,
                request.schedule,
                conflict_token=decode_token(request.conflict_token),
                request_id=request.request_id,
                memo=request.memo if request.HasField("memo") else None,
                search_attributes=request.search_attributes
                if request.HasField("search_attributes")
                else None,
            ),
        )
        return ws.UpdateScheduleResponse()

    async def patch_schedule(
        self, request: ws.PatchScheduleRequest, call: Call
    ) -> ws.PatchScheduleResponse:
        if not request.HasField("patch"):
            raise InvalidArgument("Patch is not set on request.")
        namespace_id = self._namespaces.id_of(request.namespace)
        self._check_id(request.schedule_id)
        self._check_request_id(request.request_id)
        notes = request.patch.pause, request.patch.unpause
        if any(len(each.encode()) > NOTES_BYTES_MAX for each in notes):
            raise InvalidArgument("Schedule notes exceeds limit.")
        execution = await self._find(namespace_id, request.schedule_id)
        if request.patch.HasField("trigger_immediately"):
            await self._wait_for_reports(execution.state)
        await self._executions.transact(
            execution.execution_id,
            lambda t: machine.patch(t, request.patch, request.request_id),
        )
        return ws.PatchScheduleResponse()

    async def _wait_for_reports(self, state: ScheduleState) -> None:
        """Who saw an action's workflow end and then triggers the next one is not told that it still runs:
        give reports of ends that are under way a moment."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + REPORTS_WAIT_S
        for action in list(state.actions.values()):
            run = await self._executions.find_or_none(state.namespace_id, action.workflow_id)
            while (
                run is not None
                and run.state.closed
                and run.state.scheduled_by is not None
                and run.state.scheduled_by.run_id == state.run_id
                and not run.state.schedule_reported
            ):
                left = give_up - loop.time()
                if left <= 0 or not await self._executions.wait_for_change(run, left):
                    return
                run = await self._executions.get(run.execution_id)

    async def delete_schedule(
        self, request: ws.DeleteScheduleRequest, call: Call
    ) -> ws.DeleteScheduleResponse:
        """Workflows that it started run on."""
        namespace_id = self._namespaces.id_of(request.namespace)
        self._check_id(request.schedule_id)
        execution = await self._find(namespace_id, request.schedule_id)
        await self._executions.delete(execution)
        return ws.DeleteScheduleResponse()

    # --- Ask ----------------------------------------------------------------------------------

    async def describe_schedule(
        self, request: ws.DescribeScheduleRequest, call: Call
    ) -> ws.DescribeScheduleResponse:
        namespace = self._namespaces.by_name(request.namespace)
        self._check_id(request.schedule_id)
        execution = await self._find(namespace.namespace_id, request.schedule_id)
        await self._wait_for_starts(execution)
        response = await self._executions.read(execution.execution_id, _describe)
        types = namespace.search_attributes
        action = response.schedule.action
        if action.HasField("start_workflow"):
            search_attributes.with_types(action.start_workflow.search_attributes, types)
        search_attributes.with_types(response.search_attributes, types)
        return response

    async def _wait_for_starts(self, execution: Execution[ScheduleState]) -> None:
        """Who triggers an action and then looks sees it: give starts under way a moment."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + STARTS_WAIT_S
        last = execution.state.actions_taken
        while any(a.number <= last and not a.run_id for a in execution.state.actions.values()):
            left = give_up - loop.time()
            if left <= 0 or not await self._executions.wait_for_change(execution, left):
                return
            execution = await self._executions.get(execution.execution_id)

    async def list_schedule_matching_times(
        self, request: ws.ListScheduleMatchingTimesRequest, call: Call
    ) -> ws.ListScheduleMatchingTimesResponse:
        namespace_id = self._namespaces.id_of(request.namespace)
        self._check_id(request.schedule_id)
        if not (request.HasField("start_time") and request.HasField("end_time")):
            raise InvalidArgument("missing or invalid query")
        execution = await self._find(namespace_id, request.schedule_id)
        compiled = await self._executions.read(execution.execution_id, machine.compiled)
        end_ns = nanoseconds(request.end_time)
        response = ws.ListScheduleMatchingTimesResponse()
        for time in compiled.times(nanoseconds(request.start_time)):
            if time.actual_ns > end_ns or len(response.start_time) >= MATCHING_TIMES_MAX:
                break
            response.start_time.append(timestamp(time.actual_ns))
        return response

    async def list_schedules(
        self, request: ws.ListSchedulesRequest, call: Call
    ) -> ws.ListSchedulesResponse:
        namespace = self._namespaces.by_name(request.namespace)
        query = _ungrouped(
            request.query, namespace.search_attributes, self._executions.store.dialect
        )
        most = self._config.list_page_size_max
        size = request.maximum_page_size
        rows, token = await self._executions.store.list_executions(
            Kind.SCHEDULE,
            namespace.namespace_id,
            query,
            size if 0 < size <= most else most,
            request.next_page_token,
        )
        entries = [_entry(row, namespace.search_attributes) for row in rows]
        return ws.ListSchedulesResponse(schedules=entries, next_page_token=token)

    async def count_schedules(
        self, request: ws.CountSchedulesRequest, call: Call
    ) -> ws.CountSchedulesResponse:
        namespace = self._namespaces.by_name(request.namespace)
        query = _ungrouped(
            request.query, namespace.search_attributes, self._executions.store.dialect
        )
        groups = await self._executions.store.count_executions(
            Kind.SCHEDULE, namespace.namespace_id, query
        )
        return ws.CountSchedulesResponse(count=sum(count for _, count in groups))

    # --- Find ---------------------------------------------------------------------------------

    async def _current(
        self, namespace_id: str, schedule_id: str
    ) -> Execution[ScheduleState] | None:
        return await self._executions.find_of_kind(Kind.SCHEDULE, namespace_id, schedule_id)

    async def _find(self, namespace_id: str, schedule_id: str) -> Execution[ScheduleState]:
        execution = await self._current(namespace_id, schedule_id)
        if execution is None or not execution.state.running:
            raise NotFound("schedule not found")
        return execution

    # --- Check --------------------------------------------------------------------------------

    def _check_id(self, schedule_id: str) -> None:
        if not schedule_id:
            raise InvalidArgument("ScheduleId is not set on request.")
        if len(schedule_id) > self._config.identifier_chars_max:
            raise InvalidArgument("ScheduleId length exceeds limit.")

    def _check_request_id(self, request_id: str) -> None:
        if len(request_id) > self._config.identifier_chars_max:
            raise InvalidArgument("RequestId length exceeds limit.")

    def _check_definition(self, schedule: schedules.Schedule, namespace: Namespace) -> None:
        """Refuse what makes no sense; the spec is brought into its canonical form."""
        try:
            schedule.spec.CopyFrom(spec.canonical(schedule.spec))
        except InvalidNotation as problem:
            raise InvalidArgument(f"Invalid schedule spec: {problem}") from problem
        if schedule.state.remaining_actions < 0:
            raise InvalidArgument("RemainingActions is negative.")
        if schedule.action.HasField("start_workflow"):
            self._check_action(schedule.action.start_workflow, namespace)
            if schedule.policies.keep_original_workflow_id:
                _check_kept_id(schedule.action.start_workflow.workflow_id)

    def _check_action(
        self, wanted: workflow_messages.NewWorkflowExecutionInfo, namespace: Namespace
    ) -> None:
        if wanted.cron_schedule:
            raise InvalidArgument("Scheduled workflow must not contain CronSchedule")
        if wanted.workflow_id_reuse_policy not in (
            workflow_enums.WORKFLOW_ID_REUSE_POLICY_UNSPECIFIED,
            workflow_enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
        ):
            raise InvalidArgument("Scheduled workflow must not contain WorkflowIDReusePolicy")
        start = ws.StartWorkflowExecutionRequest(
            workflow_id=wanted.workflow_id + WORKFLOW_ID_SUFFIX,
            workflow_type=wanted.workflow_type,
            task_queue=wanted.task_queue,
            workflow_execution_timeout=wanted.workflow_execution_timeout,
            workflow_run_timeout=wanted.workflow_run_timeout,
            workflow_task_timeout=wanted.workflow_task_timeout,
            input=wanted.input,
            memo=wanted.memo,
            search_attributes=wanted.search_attributes,
        )
        if wanted.HasField("retry_policy"):
            start.retry_policy.CopyFrom(wanted.retry_policy)
        if wanted.HasField("versioning_override"):
            check_override(
                wanted.versioning_override
            )  # Whether it is polled is seen at each start.
        self._workflows.check_start(start, namespace)

    def _check_attributes(
        self, memo: common.Memo, found: common.SearchAttributes, namespace: Namespace
    ) -> None:
        search_attributes.check(found, namespace.search_attributes)
        if memo.ByteSize() > self._config.memo_bytes_max:
            raise InvalidArgument(
                f"Memo exceeds size limit of {self._config.memo_bytes_max} bytes (memo_bytes_max)."
            )


def _check_kept_id(workflow_id: str) -> None:
    """An id that nothing is put behind must not be empty."""
    if not workflow_id:
        raise InvalidArgument("WorkflowId is not set on request.")


# --- Replies ----------------------------------------------------------------------------------


def _describe(state: ScheduleState) -> ws.DescribeScheduleResponse:
    machine.ensure_open(state)
    response = ws.DescribeScheduleResponse(
        schedule=view.definition(state),
        info=view.info(state),
        conflict_token=encode_token(state.conflict_token),
    )
    if state.memo.fields:
        response.memo.CopyFrom(state.memo)
    if state.search_attributes.indexed_fields:
        response.search_attributes.CopyFrom(state.search_attributes)
    return response


def _entry(found: VisibleExecution, types: Mapping[str, str]) -> schedules.ScheduleListEntry:
    memo = common.Memo.FromString(found.row.memo)
    info = memo.fields.pop(LIST_INFO)
    entry = schedules.ScheduleListEntry(
        schedule_id=found.workflow_id,
        memo=memo,
        info=schedules.ScheduleListInfo.FromString(info.data),
    )
    attributes = common.SearchAttributes.FromString(found.row.search_attributes)
    if attributes.indexed_fields:
        search_attributes.with_types(attributes, types)
        entry.search_attributes.CopyFrom(attributes)
    return entry


def encode_token(token: int) -> bytes:
    return token.to_bytes(8, "big")


def decode_token(token: bytes) -> int:
    """0 for none; a token that is none of ours fits no schedule."""
    if not token:
        return 0
    return int.from_bytes(token, "big") if len(token) == 8 else -1


# --- Queries ----------------------------------------------------------------------------------

_LITERAL_OR_ID = re.compile(
    r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|`?\b(?:Temporal)?ScheduleId\b`?""", re.DOTALL
)


def _ungrouped(text: str, attributes: Mapping[str, str], dialect: Dialect) -> Query:
    """A condition on open schedules; `ScheduleId` names the id."""
    if "ScheduleId" not in attributes:
        text = _LITERAL_OR_ID.sub(lambda found: found[1] or "WorkflowId", text)
    query = visibility_query.parse(text, attributes, dialect=dialect)
    if query.group_by:
        raise InvalidArgument("invalid query: operation is not supported: 'GROUP BY' clause")
    is_open = f"status = {workflow_enums.WORKFLOW_EXECUTION_STATUS_RUNNING}"
    return visibility_query.narrowed(query, is_open)
