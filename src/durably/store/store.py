"""What the rest of the server may ask of a store, and the values that cross.

Rule 1: nothing is acknowledged before `commit`'s future is done; what it wrote is then on disk.
Rule 2: a commit is atomic: all of its writes, or none. It is a compare-and-set on the version of
        each execution it writes; a lost race raises `Conflict`, and nothing has changed.
Rule 3: no rule of the engine lives in SQL.

Rule 4: disk full and I/O errors stop acknowledging, and say so; nothing is corrupted.

Every table of executions leads its primary key with `shard` (0 in a store of one shard): all that one
unit writes lies in one. Times are nanoseconds since the epoch; 0 means none.
"""

import asyncio
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from durably.engine.versioning.version import ANY, Route
from durably.histogram import Histogram
from durably.store.filter_dialects import Dialect
from durably.store.shards import Shards
from durably.store.visibility_query import Query

GROUP_UNITS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


@dataclass(slots=True, eq=False)
class Writes:
    """What a store has written since it was opened. A group is what one fsync served."""

    seconds: Histogram = field(default_factory=Histogram)
    """Of each group that was committed."""
    units: Histogram = field(default_factory=lambda: Histogram(GROUP_UNITS))
    """In each group that was committed: what was acknowledged, or lost a race."""
    conflicts: int = 0
    failed_units: int = 0
    """In groups that could not be committed."""


class Conflict(Exception):
    """Another writer was first: load again and decide again. Never shown to a caller."""


class TaskKind(IntEnum):
    WORKFLOW = 1
    ACTIVITY = 2
    NEXUS = 3
    """In memory only: who asks a handler waits for the answer."""


@dataclass(frozen=True, slots=True)
class QueueKey:
    namespace_id: str
    kind: TaskKind
    name: str
    version: str = ""
    """The part of the queue that is for one version of its workers; empty: for those without one.
    What is stored of a queue is stored of all its parts together."""

    @property
    def whole(self) -> "QueueKey":
        """The queue that this is a part of, or is."""
        return QueueKey(self.namespace_id, self.kind, self.name) if self.version else self


@dataclass(frozen=True, slots=True)
class TaskOrder:
    """What decides when a task's turn is, in the vocabulary of `engine.priority`."""

    level: int = 3
    fairness_key: str = ""
    weight: float = 1.0


@dataclass(slots=True)
class TaskRow:
    """One task that found no waiting poller. `stamp` is the attempt it belongs to."""

    task_id: int
    queue: QueueKey
    execution_id: int
    scheduled_event_id: int
    stamp: int
    created_ns: int
    sticky: bool = False
    order: TaskOrder = TaskOrder()
    held: bool = True
    """Whether the server that adds it has it in memory, to give it out."""
    route: Route = ANY
    workflow_id: str = ""
    """Of the execution; by it a queue's traffic is divided."""


@dataclass(frozen=True, slots=True)
class NexusRequestRow:
    """A request to a Nexus handler that any server which shares the store may give to a worker.
    `request` is a serialized nexus.v1.Request."""

    request_id: str
    request: bytes
    age_s: float
    left_s: float
    """Until its asker stops waiting for the answer."""


@dataclass(slots=True)
class Heartbeat:
    """The last heartbeat of an activity attempt; overwritten, never a journal entry.

    `details` is a serialized Payloads message.
    """

    scheduled_event_id: int
    attempt: int
    at_ns: int
    details: bytes
    total: int = 0
    """How many heartbeats there were, in all attempts."""


@dataclass(slots=True)
class VisibilityRow:
    """What lists and counts see of an execution; written when it starts, closes or upserts."""

    workflow_type: str
    """Or the type of a standalone activity."""
    task_queue: str
    status: int
    """A WorkflowExecutionStatus, whatever the kind: queries have one vocabulary."""
    start_ns: int
    execution_ns: int
    close_ns: int
    history_length: int
    history_size_bytes: int
    state_transitions: int
    parent_workflow_id: str
    parent_run_id: str
    root_workflow_id: str
    root_run_id: str
    memo: bytes
    """Serialized Memo."""
    search_attributes: bytes
    """Serialized SearchAttributes, as shown to clients."""
    search_values: dict[str, object]
    """The custom attributes and those system ones that have no column (BuildIds,
    TemporalChangeVersion, ...), decoded for queries: str, int, float, bool, list[str]; a Datetime is
    its text in RFC 3339, UTC, nanoseconds, so that text order is time order."""


@dataclass(slots=True)
class ExecutionWrite:
    """The next version of one execution.

    `expected_version` 0 creates it. `events` is the wire form of a `History` message with the new
    events (empty if none), `records` the encoded internal records (empty if none); together they
    are one journal row with key (execution_id, expected_version + 1).
    """

    execution_id: int
    expected_version: int
    kind: int
    """What it is, an `engine.state.Kind`: each kind has ids of its own."""
    namespace_id: str
    workflow_id: str
    run_id: str
    status: int
    next_event_id: int
    next_deadline_ns: int
    """Earliest moment at which the execution wants attention; 0: never."""
    first_event_id: int = 0
    """Id of the first event in `events`; 0 if there are none."""
    events: bytes = b""
    records: bytes = b""
    snapshot: bytes = b""
    """Not empty: the state at this version; loading starts here."""
    forgets_journal: bool = False
    """With a snapshot: the journal up to it is removed. For what has no history that is served, and
    may live for ever."""
    visibility: VisibilityRow | None = None
    heartbeats: list[Heartbeat] = field(default_factory=list)
    decided_on: asyncio.Future[None] | None = None
    """The last commit before this one that this server has asked for. If that one has failed, what
    was decided on top of it is a Conflict, whatever version another server has written meanwhile."""
    replaces_current: int | None = None
    """On creation: the execution id that `current_runs` names now for this workflow id (0: no row).
    If it names another, the commit is a Conflict. None: `current_runs` is not touched."""


@dataclass(slots=True)
class Commit:
    """One atomic unit. Usually one write; two when a run is followed by another."""

    writes: list[ExecutionWrite]
    tasks_added: list[TaskRow] = field(default_factory=list)
    tasks_removed: list[int] = field(default_factory=list)


@dataclass(slots=True)
class JournalRow:
    version: int
    first_event_id: int
    events: bytes
    records: bytes


@dataclass(slots=True)
class StoredExecution:
    """All that is needed to bring an execution back: a snapshot and the journal after it."""

    execution_id: int
    kind: int
    namespace_id: str
    workflow_id: str
    run_id: str
    version: int
    status: int
    next_event_id: int
    next_deadline_ns: int
    snapshot: bytes
    """Empty: none was taken; the journal then starts at version 1."""
    snapshot_version: int
    journal: list[JournalRow]
    heartbeats: list[Heartbeat]


@dataclass(slots=True)
class RunRow:
    execution_id: int
    run_id: str
    status: int


Cursor = tuple[int, int, int]
"""When an execution closed, when it started, and its id: the order in which executions close."""


@dataclass(frozen=True, slots=True)
class ClosedRun:
    execution_id: int
    workflow_id: str
    run_id: str
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class QueueBacklog:
    """How many tasks of a queue wait, and since when the oldest does."""

    queue: QueueKey
    tasks: int
    oldest_ns: int
    sticky: bool
    """It is the queue of one worker."""


@dataclass(slots=True)
class NamespaceRow:
    """`record` is encoded by the service that owns namespaces."""

    namespace_id: str
    name: str
    version: int
    record: bytes


@dataclass(slots=True)
class NexusEndpointRow:
    """`record` is encoded by the service that owns endpoints."""

    endpoint_id: str
    name: str
    version: int
    record: bytes


@dataclass(slots=True)
class VisibleExecution:
    """One row of a list."""

    execution_id: int
    workflow_id: str
    run_id: str
    row: VisibilityRow


class StoreLocked(Exception):
    """Another server has this store open; the message says what to do."""


class StoreTooNew(Exception):
    """The store was written by a newer version of this program; the message says what to do."""


class StoreTooOld(Exception):
    """The store has an older schema than this program needs; the message says what to do."""


class StoreForbidden(Exception):
    """The role may not do what this program needs; the message says what to do."""


class ShardsFixed(Exception):
    """The store has another number of shards, and keeps it; the message says what to do."""


class StoreNotEmpty(Exception):
    """Something is there already; the message says what to do."""


class Store(Protocol):
    """What a dialect offers. All methods are called on the event loop."""

    writes: Writes
    name: str
    """What GetClusterInfo calls it."""
    dialect: Dialect
    """How it says what a List Filter asks for."""
    shared: bool
    """Whether other servers may write to it too."""

    @property
    def shards(self) -> Shards:
        """Into which its executions are divided; the ids of new ones say theirs."""

    def commit(self, unit: Commit) -> asyncio.Future[None]:
        """Write a unit. The future raises Conflict, or errors.Unavailable if nothing can be written.

        Units are written in the order of the calls.
        """

    def delete_execution(self, execution_id: int) -> asyncio.Future[None]:
        """Remove an execution and all that is stored of it."""

    def put_namespace(self, row: NamespaceRow, expected_version: int) -> asyncio.Future[None]:
        """Write a namespace; version 0 creates it. Conflict if another was first."""

    def delete_namespace(self, namespace_id: str) -> asyncio.Future[None]:
        """Remove a namespace whose executions are all gone, and what is stored of its queues."""

    def put_nexus_endpoint(
        self, row: NexusEndpointRow, expected_version: int
    ) -> asyncio.Future[None]:
        """Write an endpoint; version 0 creates it. Conflict if another was first, or has the name."""

    def delete_nexus_endpoint(self, endpoint_id: str) -> asyncio.Future[None]: ...

    async def nexus_endpoints(self) -> list[NexusEndpointRow]: ...

    async def executions_of(self, namespace_id: str, limit: int) -> list[int]:
        """Ids of some executions of a namespace, of any kind."""

    def put_queue_config(self, queue: QueueKey, config: bytes) -> asyncio.Future[None]:
        """Write a queue's configuration; `config` is encoded by the service that owns queues."""

    async def queue_config(self, queue: QueueKey) -> bytes | None: ...

    def put_metadata(self, key: str, value: bytes, *, once: bool = False) -> asyncio.Future[None]:
        """Write a fact about the store; `once`: only if it is not known yet."""

    async def load(self, execution_id: int) -> StoredExecution | None: ...

    async def find_run(
        self, kind: int, namespace_id: str, workflow_id: str, run_id: str
    ) -> RunRow | None: ...

    async def current_run(
        self, kind: int, namespace_id: str, workflow_id: str
    ) -> RunRow | None: ...

    async def read_events(
        self, execution_id: int, first_event_id: int, bytes_max: int
    ) -> list[JournalRow]:
        """Rows with events, from the one that holds `first_event_id` on: at least one if there is
        one, then as many as fit into `bytes_max`."""

    async def read_events_reverse(
        self, execution_id: int, last_event_id: int, bytes_max: int
    ) -> list[JournalRow]:
        """The same backwards, from the row that holds `last_event_id`."""

    async def read_journal(
        self, execution_id: int, after_version: int, bytes_max: int
    ) -> list[JournalRow]:
        """Rows after a version, records and all: at least one if there is one, then as many as fit
        into `bytes_max`."""

    async def closed_runs(
        self, kind: int, namespace_id: str, after: Cursor, before_ns: int, limit: int
    ) -> list[ClosedRun]:
        """Executions that closed after `after` and before `before_ns`, first closed first."""

    async def due(self, before_ns: int, limit: int) -> list[tuple[int, int]]:
        """(execution id, deadline) of executions that want attention before `before_ns`."""

    async def backlog(self, queue: QueueKey, after_task_id: int, limit: int) -> list[TaskRow]: ...

    async def backlogs(self) -> list[QueueBacklog]:
        """Of all queues that have tasks; takes time in proportion to the tasks."""

    async def namespaces(self) -> list[NamespaceRow]: ...

    async def metadata(self, key: str) -> bytes | None: ...

    async def list_executions(
        self, kind: int, namespace_id: str, query: Query, page_size: int, page_token: bytes
    ) -> tuple[list[VisibleExecution], bytes]:
        """One page, newest first, and the token of the next (empty: none)."""

    async def count_executions(
        self, kind: int, namespace_id: str, query: Query
    ) -> list[tuple[object, int]]:
        """(group, count) for each group; one with group None without GROUP BY."""

    async def close(self) -> None: ...


def renumbered_key(execution_id: int) -> str:
    """Of the fact that an execution which had this id has another one since its store was copied."""
    return f"renumbered/{execution_id}"


async def made_once(store: Store, key: str, made: bytes) -> bytes:
    """A fact about the store that never changes: what it is, or from now on `made`."""
    found = await store.metadata(key)
    if found is None:
        await store.put_metadata(key, made, once=True)
        # Another server that shares the store may have been first.
        found = await store.metadata(key) or made
    return found
