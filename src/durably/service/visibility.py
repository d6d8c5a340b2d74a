"""RPCs that list and count executions by List Filter."""

import json

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.filter.v1 import message_pb2 as filters
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine.state import Kind
from durably.engine.times import nanoseconds
from durably.errors import InvalidArgument
from durably.service import search_attributes
from durably.service.admission import Call
from durably.service.describe import listed
from durably.service.namespaces import Namespaces
from durably.service.transact import Executions
from durably.store import visibility_query
from durably.store.visibility_query import Query, time_text

STATUS_NAMES = {
    number: name for name, number in visibility_query.STATUSES.items() if name != "Cancelled"
}

ARCHIVE_PAGE_SIZE_MAX = 10_000

Page = tuple[list[workflow_messages.WorkflowExecutionInfo], bytes]


class Visibility:
    """Answers RPCs that list and count executions."""

    def __init__(self, executions: Executions, namespaces: Namespaces) -> None:
        self._store = executions.store
        self._config = executions.config
        self._namespaces = namespaces

    async def list_workflow_executions(
        self, request: ws.ListWorkflowExecutionsRequest, call: Call
    ) -> ws.ListWorkflowExecutionsResponse:
        executions, token = await self._list(
            request.namespace, request.query, request.page_size, request.next_page_token
        )
        return ws.ListWorkflowExecutionsResponse(executions=executions, next_page_token=token)

    async def scan_workflow_executions(
        self, request: ws.ScanWorkflowExecutionsRequest, call: Call
    ) -> ws.ScanWorkflowExecutionsResponse:
        executions, token = await self._list(
            request.namespace, request.query, request.page_size, request.next_page_token
        )
        return ws.ScanWorkflowExecutionsResponse(executions=executions, next_page_token=token)

    async def list_archived_workflow_executions(
        self, request: ws.ListArchivedWorkflowExecutionsRequest, call: Call
    ) -> ws.ListArchivedWorkflowExecutionsResponse:
        """Nothing is archived: closed executions are kept for their retention, then removed."""
        self._namespaces.id_of(request.namespace)
        if request.page_size > ARCHIVE_PAGE_SIZE_MAX:
            raise InvalidArgument(f"PageSize is larger than allowed {ARCHIVE_PAGE_SIZE_MAX}.")
        raise InvalidArgument("Cluster is not configured for visibility archival.")

    async def list_open_workflow_executions(
        self, request: ws.ListOpenWorkflowExecutionsRequest, call: Call
    ) -> ws.ListOpenWorkflowExecutionsResponse:
        conditions = [
            "ExecutionStatus IN ('Running', 'Paused')",
            *_time_range(request.start_time_filter, "StartTime"),
        ]
        if request.HasField("execution_filter"):
            conditions.append(f"WorkflowId = {_quoted(request.execution_filter.workflow_id)}")
        if request.HasField("type_filter"):
            conditions.append(f"WorkflowType = {_quoted(request.type_filter.name)}")
        executions, token = await self._list(
            request.namespace,
            " AND ".join(conditions),
            request.maximum_page_size,
            request.next_page_token,
        )
        return ws.ListOpenWorkflowExecutionsResponse(executions=executions, next_page_token=token)

    async def list_closed_workflow_executions(
        self, request: ws.ListClosedWorkflowExecutionsRequest, call: Call
    ) -> ws.ListClosedWorkflowExecutionsResponse:
        conditions = [
            "ExecutionStatus NOT IN ('Running', 'Paused')",
            *_time_range(request.start_time_filter, "CloseTime"),
        ]
        if request.HasField("execution_filter"):
            conditions.append(f"WorkflowId = {_quoted(request.execution_filter.workflow_id)}")
        if request.HasField("type_filter"):
            conditions.append(f"WorkflowType = {_quoted(request.type_filter.name)}")
        if request.HasField("status_filter"):
            status = request.status_filter.status
            if status in (0, workflow_enums.WORKFLOW_EXECUTION_STATUS_RUNNING):
                raise InvalidArgument("StatusFilter must be specified and must be not Running.")
            conditions.append(f"ExecutionStatus = {int(status)}")
        executions, token = await self._list(
            request.namespace,
            " AND ".join(conditions),
            request.maximum_page_size,
            request.next_page_token,
        )
        return ws.ListClosedWorkflowExecutionsResponse(executions=executions, next_page_token=token)

    async def count_workflow_executions(
        self, request: ws.CountWorkflowExecutionsRequest, call: Call
    ) -> ws.CountWorkflowExecutionsResponse:
        namespace = self._namespaces.by_name(request.namespace)
        query = visibility_query.parse(
            request.query, namespace.search_attributes, dialect=self._store.dialect
        )
        groups = await self._store.count_executions(Kind.WORKFLOW, namespace.namespace_id, query)
        response = ws.CountWorkflowExecutionsResponse(count=sum(count for _, count in groups))
        if query.group_by:
            response.groups.extend(
                ws.CountWorkflowExecutionsResponse.AggregationGroup(
                    group_values=[group_payload(value, query.group_type)], count=count
                )
                for value, count in groups
            )
        return response

    async def _list(
        self, namespace_name: str, text: str, page_size: int, page_token: bytes
    ) -> Page:
        namespace = self._namespaces.by_name(namespace_name)
        if page_size < 0:
            raise InvalidArgument("Invalid PageSize.")
        query = visibility_query.parse(
            text, namespace.search_attributes, dialect=self._store.dialect
        )
        if query.group_by:
            raise InvalidArgument("invalid query: operation is not supported: 'GROUP BY' clause")
        size = min(
            page_size or self._config.list_page_size_default,
            self._config.list_page_size_max,
        )
        rows, token = await self._read(namespace.namespace_id, query, size, page_token)
        for info in rows:
            search_attributes.with_types(info.search_attributes, namespace.search_attributes)
        return rows, token

    async def _read(self, namespace_id: str, query: Query, size: int, page_token: bytes) -> Page:
        rows, token = await self._store.list_executions(
            Kind.WORKFLOW, namespace_id, query, size, page_token
        )
        return [listed(row) for row in rows], token


def _time_range(wanted: filters.StartTimeFilter, name: str) -> list[str]:
    earliest, latest = (
        nanoseconds(wanted.earliest_time),
        nanoseconds(wanted.latest_time),
    )
    if latest and earliest > latest:
        raise InvalidArgument(
            "EarliestTime in StartTimeFilter should not be larger than LatestTime."
        )
    try:
        conditions = [f"{name} >= '{time_text(earliest)}'"] if earliest else []
        if latest:
            conditions.append(f"{name} <= '{time_text(latest)}'")
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidArgument("a time in StartTimeFilter is not of the years 1 to 9999.") from error
    return conditions


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def group_payload(value: object, kind: str) -> common.Payload:
    """What the executions of a group have in common, as a search attribute; null: they have none."""
    match kind:
        case "Status":
            shown, kind = STATUS_NAMES.get(int(str(value)), "Unspecified"), "Keyword"
            data = json.dumps(shown)
        case "Time":
            kind, data = (
                "Datetime",
                json.dumps(None if value is None else time_text(int(str(value)))),
            )
        case "Duration":
            kind, data = "Int", json.dumps(value)
        case "Bool":
            data = json.dumps(None if value is None else bool(value))
        case "KeywordList":
            data = "null" if value is None else str(value)  # SQLite gives it as JSON.
        case _:
            data = json.dumps(value)
    return common.Payload(
        metadata={"encoding": b"json/plain", "type": kind.encode()}, data=data.encode()
    )
