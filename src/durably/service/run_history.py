"""Histories of runs as the server's own RPCs give them to whoever asks, and what they say by the convention."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from google.protobuf.message import Message
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.agents import convention
from durably.agents.convention import Piece
from durably.service import tokens
from durably.service.tokens import HistoryPageToken

Answers = Callable[[str, Message], Awaitable[Any]]
"""(name of an RPC, its request) -> its response."""


async def page(
    answers: Answers, namespace: str, workflow_id: str, place: HistoryPageToken, *, waits: bool
) -> tuple[list[history.HistoryEvent], bool]:
    """(events from a place on, whether there will be none after them); `waits`: for the first of them, as
    long as a long poll lasts."""
    request = ws.GetWorkflowExecutionHistoryRequest(
        namespace=namespace, wait_new_event=waits, next_page_token=tokens.encode(place)
    )
    request.execution.workflow_id = workflow_id
    request.execution.run_id = place.run_id
    response = await answers("GetWorkflowExecutionHistory", request)
    return list(response.history.events), waits and not response.next_page_token


async def closing_event(
    answers: Answers, namespace: str, workflow_id: str, run_id: str
) -> history.HistoryEvent | None:
    """How a run that has closed did."""
    request = ws.GetWorkflowExecutionHistoryRequest(
        namespace=namespace,
        history_event_filter_type=workflow_enums.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT,
    )
    request.execution.workflow_id = workflow_id
    request.execution.run_id = run_id
    response = await answers("GetWorkflowExecutionHistory", request)
    return next(iter(response.history.events), None)


def piece_of(event: history.HistoryEvent) -> Piece | None:
    """What an event publishes."""
    shown = upserted(event).get(convention.MEMO_OUTPUT)
    return convention.piece(shown.data) if shown is not None else None


def upserted(event: history.HistoryEvent) -> Mapping[str, common.Payload]:
    """The fields of the memo that an event sets."""
    if event.event_type != event_types.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED:
        return {}
    return event.workflow_properties_modified_event_attributes.upserted_memo.fields
