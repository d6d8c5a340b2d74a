"""An execution in memory: its state, its latest events, and who waits for it.

Rule 1: a state is only what its journal says: `rebuild` makes it from a snapshot and the journal after
        it, `catch_up` brings it up to what another server has written.
Rule 2: what is read is understood whole before any of it changes a state.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history

from durably.engine.apply.entries import apply_event, apply_record
from durably.engine.records import AnyRecord, EventBuffered, UpdateDropped, decode_records
from durably.engine.snapshot import AnyState, decode_state, new_state
from durably.engine.state import HistoryState
from durably.engine.transition import S
from durably.errors import WrittenByNewer
from durably.store.store import Heartbeat, JournalRow, StoredExecution

DROPPED_UPDATES_REMEMBERED_MAX = 1000

EVENT_TYPES = frozenset(event_types.EventType.values())
"""What an event of the journal may be."""


@dataclass(slots=True, eq=False)
class RecentEvents:
    """The last events of an execution, so that a worker's next task needs no read."""

    events: list[history.HistoryEvent] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    size: int = 0

    def extend(self, events: Sequence[history.HistoryEvent], encoded: Sequence[bytes]) -> None:
        self.events.extend(events)
        lengths = [len(e) for e in encoded]
        self.sizes.extend(lengths)
        self.size += sum(lengths)

    def trim(self, bytes_max: int) -> None:
        """Forget the oldest, in large steps so that the cost stays constant per event."""
        if self.size <= 2 * bytes_max:
            return
        drop = 0
        while self.size > bytes_max and drop < len(self.events):
            self.size -= self.sizes[drop]
            drop += 1
        del self.events[:drop]
        del self.sizes[:drop]

    def since(self, first_event_id: int) -> list[history.HistoryEvent] | None:
        """The events from this id on; None if some of them are forgotten."""
        if not self.events:
            return None
        skip = first_event_id - self.events[0].event_id
        return self.events[skip:] if skip >= 0 else None


@dataclass(slots=True, eq=False)
class Execution(Generic[S]):
    """A cached execution: its state as it will be once every pending commit is done."""

    execution_id: int
    state: S
    version: int
    deadline_ns: int
    replaces_current: int | None = None
    committed_event_id: int = 0
    """The last event that is known to be on disk."""
    recent: RecentEvents = field(default_factory=RecentEvents)
    last_commit: asyncio.Future[None] | None = None
    """The last one on its way; None when it is announced."""
    journal_bytes: int = 0
    """Journal written since the last snapshot."""
    snapshot_bytes: int = 0
    watchers: set[asyncio.Future[bool]] = field(default_factory=set)
    close_watchers: set[asyncio.Future[bool]] = field(default_factory=set)
    """Those who wait for the end alone: most who wait for a workflow do."""
    update_watchers: dict[str, set[asyncio.Future[bool]]] = field(default_factory=dict)
    """Those who wait for one update: hundreds of readers of a stream are not woken by all that happens
    in its workflow."""
    overtaken: bool = False
    """Another server is known to have written a later version."""
    lost: asyncio.Future[None] | None = None
    """A commit of it that has failed: what is decided on this state is not written any more."""
    armed_ns: int = 0
    """The nearest moment for which it is remembered that the execution wants attention."""

    dropped_updates: dict[str, failure.Failure | None] = field(default_factory=dict)
    """The latest that were rejected, and (None) those whose task failed with them: for callers that
    still wait; they are not in history."""

    @property
    def busy(self) -> bool:
        """Whether a commit of it is on its way."""
        return self.last_commit is not None

    @property
    def watched(self) -> bool:
        """Whether somebody waits for it."""
        return bool(self.watchers or self.close_watchers or self.update_watchers)

    def drop_updates(self, rejected: dict[str, failure.Failure], abandoned: list[str]) -> None:
        self.dropped_updates.update(rejected)
        self.dropped_updates.update(dict.fromkeys(abandoned))
        while len(self.dropped_updates) > DROPPED_UPDATES_REMEMBERED_MAX:
            del self.dropped_updates[next(iter(self.dropped_updates))]

    def wake_watchers(self) -> None:
        if self.watchers:
            watchers, self.watchers = self.watchers, set()
            _wake(watchers)
        if self.close_watchers and self.state.closed:
            self.wake_close_watchers()

    def wake_close_watchers(self) -> None:
        watchers, self.close_watchers = self.close_watchers, set()
        _wake(watchers)

    def wake_all(self) -> None:
        self.wake_watchers()
        self.wake_close_watchers()
        self.wake_update_watchers(list(self.update_watchers))

    def wake_update_watchers(self, update_ids: Iterable[str]) -> None:
        for update_id in update_ids:
            _wake(self.update_watchers.pop(update_id, ()))


def _wake(watchers: Iterable[asyncio.Future[bool]]) -> None:
    for watcher in watchers:
        if not watcher.done():
            watcher.set_result(True)


_TAG = b"\x0a"
"""Field 1, length-delimited: `History.events`."""


def history_bytes(encoded: Sequence[bytes]) -> bytes:
    """The wire form of a `History` message from events that are already serialized."""
    parts: list[bytes] = []
    for event in encoded:
        parts += (_TAG, _varint(len(event)), event)
    return b"".join(parts)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# --- Rebuild ------------------------------------------------------------------------------------


def rebuild(stored: StoredExecution) -> Execution[AnyState]:
    """Snapshot plus journal tail: the state as the last commit left it. Raises WrittenByNewer."""
    if stored.snapshot:
        state = decode_state(stored.snapshot)
    else:
        state = new_state(stored.kind, stored.namespace_id, stored.workflow_id, stored.run_id)
    execution = Execution(
        execution_id=stored.execution_id,
        state=state,
        version=stored.version,
        deadline_ns=stored.next_deadline_ns,
        snapshot_bytes=len(stored.snapshot),
    )
    catch_up(execution, stored)
    return execution


def catch_up(execution: Execution[Any], stored: StoredExecution) -> None:
    """Bring a state up to what is stored, by the journal after it. Raises WrittenByNewer, before anything
    has changed."""
    state = execution.state
    for row, events, records in [(row, *_read(row)) for row in stored.journal]:
        _replay(execution, events, records)
        execution.journal_bytes += len(row.events) + len(row.records)
    if isinstance(state, HistoryState):
        for heartbeat in stored.heartbeats:
            _overlay(state, heartbeat)
        execution.committed_event_id = state.next_event_id - 1
    execution.version = stored.version
    execution.deadline_ns = stored.next_deadline_ns
    state.transitions = stored.version


def journal_entries(row: JournalRow) -> Iterator[history.HistoryEvent | AnyRecord]:
    """What one commit added, in its order: a record stands before the event of its number."""
    events, records = _read(row)
    position = 0
    for before, record in records:
        yield from events[position:before]
        position = max(position, before)
        yield record
    yield from events[position:]


def _read(row: JournalRow) -> tuple[list[history.HistoryEvent], list[tuple[int, AnyRecord]]]:
    """Raises WrittenByNewer."""
    events = list(history.History.FromString(row.events).events)
    records = decode_records(row.records)
    for event in events:
        _check(event)
    for _, record in records:
        if isinstance(record, EventBuffered):
            _check(history.HistoryEvent.FromString(record.event))
    return events, records


def _check(event: history.HistoryEvent) -> None:
    if event.event_type not in EVENT_TYPES:
        raise WrittenByNewer(f"an event of this execution (type {event.event_type})")


def _replay(
    execution: Execution[Any],
    events: list[history.HistoryEvent],
    records: list[tuple[int, AnyRecord]],
) -> None:
    encoded = [e.SerializeToString() for e in events]
    state = execution.state
    position = 0
    for before, record in records:
        while position < before:
            apply_event(state, events[position], len(encoded[position]))
            position += 1
        apply_record(state, record)
        if isinstance(record, UpdateDropped):
            _drop_update(execution, record)
    for event, wire in zip(events[position:], encoded[position:], strict=True):
        apply_event(state, event, len(wire))
    execution.recent.extend(events, encoded)


def _drop_update(execution: Execution[Any], record: UpdateDropped) -> None:
    """For callers that wait for it here."""
    if record.failure:
        rejected = {record.update_id: failure.Failure.FromString(record.failure)}
        execution.drop_updates(rejected, [])
    else:
        execution.drop_updates({}, [record.update_id])


def _overlay(state: HistoryState, heartbeat: Heartbeat) -> None:
    pending = state.activities.get(heartbeat.scheduled_event_id)
    if pending is None or heartbeat.at_ns < pending.heartbeat_ns:
        return
    pending.heartbeat_ns = heartbeat.at_ns
    pending.heartbeats = heartbeat.total
    if heartbeat.details:
        pending.heartbeat_details = common.Payloads.FromString(heartbeat.details)
