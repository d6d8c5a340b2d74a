"""Reads what happened from a running server, over its API.

Rule 1: lists and histories are read page by page; what is held is the rows of a batch.
Rule 2: nothing is changed.
"""

import asyncio
from collections.abc import AsyncIterator, Collection

import pyarrow as pa
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from durably.agents.rows import Row, Run, run_of, step_rows, workflow_row
from durably.agents.steps import StepReader
from durably.analytics.tables import FROM_HISTORIES, SCHEMAS

PAGE_RUNS = 200
HISTORIES_AT_ONCE = 8
Batch = tuple[str, pa.RecordBatch]


async def batches(client: Client, where: str, tables: Collection[str]) -> AsyncIterator[Batch]:
    """(table, rows) until all runs that the List Filter finds have been read."""
    token = b""
    slots = asyncio.Semaphore(HISTORIES_AT_ONCE)
    while True:
        page = await client.workflow_service.list_workflow_executions(
            ws.ListWorkflowExecutionsRequest(
                namespace=client.namespace,
                query=where,
                page_size=PAGE_RUNS,
                next_page_token=token,
            )
        )
        rows: dict[str, list[Row]] = {name: [] for name in tables}
        found = await asyncio.gather(
            *(_rows(client, info, tables, slots) for info in page.executions)
        )
        for table, row in (each for of_run in found for each in of_run):
            rows[table].append(row)
        for table, of_table in rows.items():
            if of_table:
                yield table, pa.RecordBatch.from_pylist(of_table, SCHEMAS[table])
        token = page.next_page_token
        if not token:
            return


async def _rows(
    client: Client,
    info: workflow_messages.WorkflowExecutionInfo,
    tables: Collection[str],
    slots: asyncio.Semaphore,
) -> list[tuple[str, Row]]:
    run = run_of(client.namespace, info)
    found: list[tuple[str, Row]] = []
    if "workflows" in tables:
        found.append(("workflows", workflow_row(run, info)))
    if FROM_HISTORIES & set(tables):
        async with slots:
            found += [each for each in await _history_rows(client, run) if each[0] in tables]
    return found


async def _history_rows(client: Client, run: Run) -> list[tuple[str, Row]]:
    """Of the activities of a run; nothing of a run that was deleted meanwhile."""
    reader = StepReader()
    steps = []
    request = ws.GetWorkflowExecutionHistoryRequest(
        namespace=client.namespace,
        execution=common.WorkflowExecution(workflow_id=run.workflow_id, run_id=run.run_id),
    )
    while True:
        try:
            page = await client.workflow_service.get_workflow_execution_history(request)
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                return []
            raise
        steps += [step for event in page.history.events if (step := reader.take(event)) is not None]
        request.next_page_token = page.next_page_token
        if not page.next_page_token:
            break
    steps += reader.pending()
    steps.sort(key=lambda step: step.scheduled_event_id)
    return [each for step in steps for each in step_rows(run, step)]
