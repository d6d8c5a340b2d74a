"""Values as rows and back, as all databases have them.

Rule 1: the order of the values is the order of the columns in the migrations.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

import msgspec

from durably.engine.versioning.version import decode_route, encode_route
from durably.errors import InvalidArgument
from durably.store.store import (
    ExecutionWrite,
    Heartbeat,
    JournalRow,
    QueueKey,
    StoredExecution,
    TaskOrder,
    TaskRow,
    VisibilityRow,
    VisibleExecution,
)
from durably.store.visibility_query import INDEXED_BYTES_MAX, OPEN_LAST, UNINDEXED_ATTRIBUTES


def task_values(task: TaskRow) -> tuple[object, ...]:
    return (
        task.task_id,
        task.queue.namespace_id,
        int(task.queue.kind),
        task.queue.name,
        task.execution_id,
        task.scheduled_event_id,
        task.stamp,
        task.created_ns,
        int(task.sticky),
        task.order.level,
        task.order.fairness_key,
        task.order.weight,
        encode_route(task.route),
    )


def task_row(queue: QueueKey, row: Sequence[Any]) -> TaskRow:
    """A row of BACKLOG."""
    return TaskRow(
        row[0],
        queue,
        row[1],
        row[2],
        row[3],
        row[4],
        bool(row[5]),
        TaskOrder(*row[6:9]),
        route=decode_route(row[9]),
        workflow_id=row[10] or "",
    )


def stored_execution(
    execution_id: int,
    row: Sequence[Any],
    snapshot: tuple[int, bytes],
    journal: Iterable[Sequence[Any]],
    heartbeats: Iterable[Sequence[Any]],
) -> StoredExecution:
    """From the columns of `executions`, kind first; the snapshot with its version."""
    return StoredExecution(
        execution_id=execution_id,
        kind=row[0],
        namespace_id=row[1],
        workflow_id=row[2],
        run_id=row[3],
        version=row[4],
        status=row[5],
        next_event_id=row[6],
        next_deadline_ns=row[7],
        snapshot=snapshot[1],
        snapshot_version=snapshot[0],
        journal=[JournalRow(*each) for each in journal],
        heartbeats=[Heartbeat(*each) for each in heartbeats],
    )


def visible_values(write: ExecutionWrite, row: VisibilityRow) -> tuple[object, ...]:
    return (
        write.execution_id,
        write.kind,
        write.namespace_id,
        write.workflow_id,
        write.run_id,
        row.workflow_type,
        row.task_queue,
        row.status,
        row.start_ns,
        row.execution_ns,
        row.close_ns,
        row.history_length,
        row.history_size_bytes,
        row.state_transitions,
        row.parent_workflow_id,
        row.parent_run_id,
        row.root_workflow_id,
        row.root_run_id,
        row.memo,
        row.search_attributes,
        json.dumps(row.search_values) if row.search_values else "{}",
        row.close_ns or OPEN_LAST,
    )


def visible(row: Sequence[Any]) -> VisibleExecution:
    return VisibleExecution(
        execution_id=row[0],
        workflow_id=row[1],
        run_id=row[2],
        row=VisibilityRow(*(*row[3:18], {})),
    )


def indexed_values(values: dict[str, Any]) -> Iterator[tuple[str, object]]:
    """Of each attribute its value, of a list each of its values: those that are looked up."""
    for name, found in values.items():
        if name in UNINDEXED_ATTRIBUTES:
            continue
        for value in found if isinstance(found, list) else (found,):
            if not isinstance(value, str) or len(value.encode()) <= INDEXED_BYTES_MAX:
                yield name, value


_token_encoder = msgspec.msgpack.Encoder()
_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_token_decoder = msgspec.msgpack.Decoder(tuple[_Int64, _Int64, _Int64])


def page_token_after(row: Sequence[Any]) -> bytes:
    """Where the page after this row of VISIBLE_COLUMNS begins."""
    return _token_encoder.encode((row[18], row[6], row[0]))


def decode_page_token(page_token: bytes) -> tuple[int, int, int]:
    """Raises InvalidArgument for a token that this file has not made: clients hand it back."""
    try:
        return _token_decoder.decode(page_token)
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidArgument("Invalid NextPageToken.") from error
