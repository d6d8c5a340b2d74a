"""load -> decide -> reserve -> commit -> announce: how every execution changes.

Rule 1: the only caller of `Store.commit` for executions.
Rule 2: deciding is one synchronous breath; no lock is held across a commit. The next transition
        decides on the state as it will be and joins the next group. If an earlier commit fails, what
        was decided on top of it fails its compare-and-set too, and is decided again.
Rule 3: nothing is announced, and no caller hears anything - not even a refusal or a read - that
        rests on a state which is not committed yet.
Rule 4: a cached state is an optimisation that the compare-and-set keeps honest. Where other servers
        write too, what is read of it, or refused because of it, is first compared with the store.
"""

import asyncio
import contextlib
import heapq
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import msgspec
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.history.v1 import message_pb2 as history

from durably.backlog import DEFAULT_ORDER
from durably.config import Config
from durably.engine import activity, deadlines, priority, workflow_task
from durably.engine.snapshot import AnyState, encode_state
from durably.engine.state import HistoryState, Kind, WorkflowState
from durably.engine.transition import (
    Delivery,
    DispatchActivity,
    DispatchWorkflowTask,
    RuleFor,
    Transition,
    outstanding,
)
from durably.engine.versioning import machine as versioning
from durably.engine.versioning.state import Notice
from durably.engine.versioning.version import Route, Version, Worker
from durably.engine.versioning.version import worker as worker_from
from durably.errors import NotFound, Refusal, Unavailable
from durably.histogram import Histogram
from durably.matching import Matching, Poll
from durably.routing import Routes
from durably.service.execution import Execution, catch_up, history_bytes, rebuild
from durably.service.ids import IdSource, new_id
from durably.service.nodes import GONE, LEFT_TO_HOLDER_NS, Behind, Nodes, Waiting
from durably.service.search_attributes import visibility_row
from durably.store import visibility_query
from durably.store.store import (
    Commit,
    Conflict,
    ExecutionWrite,
    Heartbeat,
    QueueKey,
    Store,
    StoredExecution,
    TaskKind,
    TaskOrder,
    TaskRow,
    renumbered_key,
)

R = TypeVar("R")
Decide = Callable[[Transition[Any]], R]

CONFLICT_RETRIES = 20
LISTED_PAGE = 1000
SNAPSHOT_BYTES_MIN = 64 * 1024
DELIVERY_RETRY_NS = 10 * 1_000_000_000
OPEN_CHANGES_MAX = 10_000
"""Runs that changed and are remembered for who follows them; of others he learns when they close."""
LOOK_AGAIN_S = 1.0
"""Who waits for a change looks into a shared store so often, in case nobody told him of it."""
COMES_SECOND_NS = 100_000_000
"""How much later than its writer another server comes to a deadline that lies ahead."""
TAKEN_OVER_NS = 5_000_000_000
"""How long a deadline that has passed, or a delivery that is owed, is left to its writer."""
HELD_NS = 10 * 1_000_000_000
"""A task is kept in memory here if a worker has polled its queue here so lately."""

_records_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class Granted:
    """A task that was started in the transition that scheduled it, for a poller that waited."""

    execution: Execution[Any]
    grant: workflow_task.WorkflowTaskGrant | activity.ActivityGrant


@dataclass(slots=True)
class _Unit:
    """One commit on its way: what to announce when it is done."""

    parts: list[tuple[Execution[Any], Transition[Any]]]
    writes: list[ExecutionWrite] = field(default_factory=list)
    granted: list[tuple[Poll, Granted]] = field(default_factory=list)
    tasks: list[TaskRow] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Tally:
    """What the executions of this node have done since it was started."""

    cache_hits: int = 0
    cache_misses: int = 0
    decided_again: int = 0
    """Transitions that lost a race and were decided again."""
    timer_lateness: Histogram = field(default_factory=Histogram)
    """Seconds from a deadline to the moment at which its execution was woken."""


class Executions:
    """The executions of this node: a cache over the store, and the one way to change them."""

    def __init__(
        self,
        store: Store,
        matching: Matching,
        clock: Callable[[], int],
        config: Config,
        retention_ns: Callable[[str], int],
        nodes: Nodes | None = None,
    ) -> None:
        self.store = store
        self.nodes = nodes
        """The servers that share the store; None: it is this one's alone."""
        self.matching = matching
        self.routes = Routes()
        self.clock = clock
        self.config = config
        self.retention_ns = retention_ns
        self._ids = IdSource(store.shards)
        self.inherited_tasks_up_to = self._ids.next(clock(), 0)
        """Rows of `tasks` up to this id were left by a former server; newer ones are in memory."""
        self._cache: OrderedDict[int, Execution[AnyState]] = OrderedDict()
        self._current: dict[tuple[Kind, str, str], int] = {}
        self._loading: dict[int, asyncio.Future[Execution[Any]]] = {}
        self._settling: dict[int, asyncio.Future[None]] = {}
        self._near: list[tuple[int, int]] = []
        self.near_changed = asyncio.Event()
        self.rule_for: RuleFor | None = None
        self.deliveries: asyncio.Queue[tuple[int, Delivery]] = asyncio.Queue()
        self._units_writing = 0
        self.open_changes: dict[int, tuple[str, str, str]] | None = None
        """Namespace id, workflow id and run id of the open workflows that changed here since somebody
        emptied it; None: nobody follows."""
        self.tally = Tally()

    # --- Load ---------------------------------------------------------------------------------

    async def find(self, namespace_id: str, workflow_id: str, run_id: str = "") -> Execution:
        """The workflow with this run id, or the current one; NotFound if there is none."""
        execution = await self.find_or_none(namespace_id, workflow_id, run_id)
        if execution is None:
            raise NotFound(f"workflow not found for ID: {workflow_id}")
        return execution

    async def find_or_none(
        self, namespace_id: str, workflow_id: str, run_id: str = ""
    ) -> Execution | None:
        return await self.find_of_kind(Kind.WORKFLOW, namespace_id, workflow_id, run_id)

    async def find_of_kind(
        self, kind: Kind, namespace_id: str, workflow_id: str, run_id: str = ""
    ) -> Execution[Any] | None:
        """An execution of any kind by the id its caller gave it; the current run without `run_id`."""
        cached = self._cached_current(kind, namespace_id, workflow_id, run_id)
        if cached is not None:
            # Where others write too it may have ended, and another run have begun.
            with contextlib.suppress(NotFound):
                found = await self.get(cached.execution_id)
                if run_id or not found.state.closed:
                    return found
        if run_id:
            row = await self.store.find_run(kind, namespace_id, workflow_id, run_id)
        else:
            row = await self.store.current_run(kind, namespace_id, workflow_id)
        if row is None:
            # It may have been created while the store was being asked.
            return self._cached_current(kind, namespace_id, workflow_id, run_id)
        return await self.get(row.execution_id)

    def _cached_current(
        self, kind: Kind, namespace_id: str, workflow_id: str, run_id: str
    ) -> Execution[Any] | None:
        current = self._current.get((kind, namespace_id, workflow_id))
        execution = self._cache.get(current) if current is not None else None
        if execution is None or run_id not in ("", execution.state.run_id):
            return None
        self._cache.move_to_end(execution.execution_id)
        self.tally.cache_hits += 1
        return execution

    async def all_of_kind(self, kind: Kind) -> AsyncIterator[Execution[Any]]:
        """Every execution of this kind in every namespace: for the few that a server must know to start."""
        everything = visibility_query.parse("", {})
        for namespace in await self.store.namespaces():
            after = b""
            while True:
                page, after = await self.store.list_executions(
                    kind, namespace.namespace_id, everything, LISTED_PAGE, after
                )
                for row in page:
                    try:
                        found = await self.get(row.execution_id)
                    except NotFound:
                        continue
                    yield found
                if not after:
                    break

    async def get(self, execution_id: int) -> Execution[Any]:
        """The execution with this id, with all that was committed before this call; NotFound if it
        is gone."""
        execution = self._cache.get(execution_id)
        if execution is None or execution.overtaken:
            return await self.known(execution_id)
        self._cache.move_to_end(execution_id)
        if self.nodes is None:
            return execution
        if await self._stands(execution) and self._cache.get(execution_id) is execution:
            return execution
        return await self.known(execution_id)

    async def renumbered(self, execution_id: int) -> int | None:
        """The id of an execution that had this one before its store was copied; None: there is none."""
        if self.store.shards.count == 1:
            return None
        found = await self.store.metadata(renumbered_key(execution_id))
        return None if found is None else int(found)

    async def known(self, execution_id: int) -> Execution[Any]:
        """The same as far as this server knows: another may have written since. For what is decided
        and committed, and after a commit of one's own."""
        cached = self._cache.get(execution_id)
        if cached is not None and not cached.overtaken:
            self._cache.move_to_end(execution_id)
            self.tally.cache_hits += 1
            return cached
        loading = self._loading.get(execution_id)
        if loading is None:
            loading = asyncio.ensure_future(self._load(execution_id))
            self._loading[execution_id] = loading
            loading.add_done_callback(lambda _: self._loading.pop(execution_id, None))
        return await asyncio.shield(loading)

    async def _stands(self, execution: Execution[AnyState]) -> bool:
        """Whether no other server has written a later version before this call. If one has, or a
        commit of this server's has failed, the cached state is not used any more as it is."""
        if self.nodes is None or self.nodes.alone():
            return True
        if _busy(execution):
            try:
                await self._wait_for_commit(execution)
            except Conflict:
                return False
            return True
        version = await self.nodes.version(execution.execution_id)
        if version is None:
            self._forget(execution)
            return False
        if version > execution.version:
            execution.overtaken = True
        return not execution.overtaken

    async def _load(self, execution_id: int) -> Execution[AnyState]:
        cached = self._cache.get(execution_id)
        if cached is not None and await self._catch_up(cached):
            return cached
        settling = self._settling.pop(execution_id, None)
        if settling is not None and not settling.done():
            await asyncio.wait([settling])
        self.tally.cache_misses += 1
        stored = await self.store.load(execution_id)
        if stored is None:
            raise NotFound("workflow execution not found; it may have passed its retention period")
        execution = rebuild(stored)
        self._remember(execution)
        return execution

    async def _catch_up(self, execution: Execution[AnyState]) -> bool:
        """Bring a cached state up to what other servers have written; False: it has to be loaded anew,
        and is forgotten."""
        version = execution.version
        has_tail = isinstance(execution.state, HistoryState) and not _busy(execution)
        if self.nodes is not None and has_tail:
            stored = await self.nodes.load_after(execution.execution_id, version)
            untouched = execution.version == version and not _busy(execution)
            kept = self._cache.get(execution.execution_id) is execution
            if stored is not None and untouched and kept:
                self._overtake(execution, stored)
                return True
        self._forget(execution)
        return False

    def _overtake(self, execution: Execution[Any], stored: StoredExecution) -> None:
        catch_up(execution, stored)
        execution.overtaken = False
        execution.recent.trim(self.config.cached_history_bytes_per_execution)
        key = _key(execution.state)
        if execution.state.closed and self._current.get(key) == execution.execution_id:
            del self._current[key]
        execution.wake_all()

    def heard_of(self, execution_id: int, version: int) -> None:
        """Another server says that it has written this version."""
        execution = self._cache.get(execution_id)
        if execution is None or version <= execution.version:
            return
        execution.overtaken = True
        # Whoever waits for a change loads what it is.
        execution.wake_all()

    def distrust(self) -> None:
        """Words of others may have been missed."""
        for execution in list(self._cache.values()):
            execution.overtaken = True
            execution.wake_all()

    def _remember(self, execution: Execution[AnyState]) -> None:
        self._cache[execution.execution_id] = execution
        state = execution.state
        if not state.closed:
            self._current[_key(state)] = execution.execution_id
        self._shrink()

    def _shrink(self) -> None:
        """Forget the least recently used; one that is busy is passed over, once round."""
        for _ in range(min(8, len(self._cache))):
            if len(self._cache) <= self.config.cached_executions_max:
                return
            execution_id, execution = next(iter(self._cache.items()))
            if execution.watched or _busy(execution):
                self._cache.move_to_end(execution_id)
            else:
                self._forget(execution)

    def _forget(self, execution: Execution[AnyState]) -> None:
        """Drop a cached state. A load waits until its pending commits are settled."""
        if self._cache.get(execution.execution_id) is execution:
            del self._cache[execution.execution_id]
        key = _key(execution.state)
        if self._current.get(key) == execution.execution_id:
            del self._current[key]
        if execution.last_commit is not None:
            self._settling[execution.execution_id] = execution.last_commit
        execution.wake_all()

    def open(self) -> Iterator[AnyState]:
        """The states of the open executions in the cache; all that somebody works on are in it."""
        for execution_id in self._current.values():
            execution = self._cache.get(execution_id)
            if execution is not None:
                yield execution.state

    def cached(self) -> int:
        """How many executions are in the cache."""
        return len(self._cache)

    def ids(self, execution_id: int) -> dict[str, object]:
        """What the log says of an execution."""
        execution = self._cache.get(execution_id)
        if execution is None:
            return {"execution_id": execution_id}
        state = execution.state
        return {
            "namespace": state.namespace,
            "workflow_id": state.workflow_id,
            "run_id": state.run_id,
        }

    def writing(self) -> bool:
        """Whether a commit is on its way."""
        return self._units_writing > 0

    # --- Decide and commit --------------------------------------------------------------------

    async def transact(self, execution_id: int, decide: Decide[R], *, task_id: int = 0) -> R:
        """Load, decide, commit; decided again when another writer was first.

        `task_id`: a row of `tasks` that this transition consumes. Raises what `decide` raises, after
        everything it could have seen is committed, and Unavailable if the store cannot write.
        """
        for _ in range(CONFLICT_RETRIES):
            execution = await self.known(execution_id)
            t = self.begin(execution.state)
            try:
                result = decide(t)
            except Exception as error:
                if t.changed:
                    self._forget(execution)
                if not await self._stands(execution):
                    continue
                if isinstance(error, Refusal):
                    await self.settled(execution)
                raise
            try:
                if t.changed or task_id:
                    await self.commit([(execution, t)], task_id=task_id)
                else:
                    await self._wait_for_commit(execution)
            except Conflict:
                self.tally.decided_again += 1
                continue
            if t.changed or task_id or await self._stands(execution):
                return result
        raise Unavailable("this execution is too busy; try again")

    async def read(self, execution_id: int, question: Callable[[Any], R]) -> R:
        """Ask the state something; the answer is given when all it rests on is committed."""
        return await self.transact(execution_id, lambda t: question(t.state))

    async def settled(self, execution: Execution[AnyState]) -> None:
        """Wait until all that the cached state says now is committed."""
        try:
            await self._wait_for_commit(execution)
        except Conflict as error:
            raise Unavailable("the state changed while it was read; try again") from error

    async def _wait_for_commit(self, execution: Execution[AnyState]) -> None:
        commit = execution.last_commit
        if commit is None:
            return
        await asyncio.shield(commit)
        if execution.last_commit is commit:
            # It was done already, and is announced in this turn of the loop.
            await asyncio.sleep(0)

    def begin(self, state: AnyState) -> Transition[Any]:
        t: Transition[Any] = Transition(state, self.clock(), new_id)
        t.rule_for = self.rule_for
        return t

    def create(self, state: AnyState, replaces_current: int | None) -> Execution[Any]:
        """A new execution, in no cache and no store until its first transition is committed."""
        shard = self.store.shards.of_workflow(state.namespace_id, state.workflow_id)
        return Execution(
            execution_id=self._ids.next(self.clock(), shard),
            state=state,
            version=0,
            deadline_ns=0,
            replaces_current=replaces_current,
        )

    async def commit(
        self, parts: list[tuple[Execution[Any], Transition[Any]]], *, task_id: int = 0
    ) -> None:
        """Commit transitions as one atomic unit, then announce them.

        A transition's successor (the next run of a chain) joins the unit. Raises Conflict.
        """
        unit = _Unit(parts=[])
        for execution, t in parts:
            unit.parts.append((execution, t))
            if t.successor is not None:
                followed_by = self.create(t.successor.state, execution.execution_id)
                unit.parts.append((followed_by, t.successor))
        for execution, t in unit.parts:
            self._reserve(unit, execution, t)
        unit.writes = [self._write(execution, t) for execution, t in unit.parts]
        commit = Commit(
            writes=unit.writes,
            tasks_added=unit.tasks,
            tasks_removed=[task_id] if task_id else [],
        )
        done = self.store.commit(commit)
        self._units_writing += 1
        for execution, _ in unit.parts:
            execution.last_commit = done
        done.add_done_callback(partial(self._settle, unit))
        await asyncio.shield(done)

    def _reserve(self, unit: _Unit, execution: Execution[Any], t: Transition[Any]) -> None:
        """Start at once what a waiting poller can take; the rest becomes task rows."""
        for effect in list(t.effects):
            match effect:
                case DispatchWorkflowTask():
                    self._dispatch_workflow_task(unit, execution, t, effect)
                case DispatchActivity():
                    self._dispatch_activity(unit, execution, t, effect)
                case _:
                    pass

    def _dispatch_workflow_task(
        self,
        unit: _Unit,
        execution: Execution[Any],
        t: Transition[Any],
        effect: DispatchWorkflowTask,
    ) -> None:
        state = t.state
        route = versioning.route(state)
        effect = self._unless_sticky_worker_left(t, effect, route)
        key = QueueKey(state.namespace_id, TaskKind.WORKFLOW, effect.queue)
        if not effect.sticky:
            key = self.routes.place(key, route, state.workflow_id)
        order = _order(priority.of_workflow(state))
        poll = self.matching.reserve(key, order)
        if poll is None:
            unit.tasks.append(self._task(key, execution, effect, order, route))
            return
        task = workflow_task.start(
            t,
            effect.scheduled_event_id,
            effect.attempt,
            poll.identity,
            new_id(),
            self.config,
            worker=worker_of(poll.attributes),
            target=self.target(state),
        )
        unit.granted.append((poll, Granted(execution, task)))

    def _dispatch_activity(
        self, unit: _Unit, execution: Execution[Any], t: Transition[Any], effect: DispatchActivity
    ) -> None:
        """One whose workflow would move to another version first is left to `activity.take`."""
        state = t.state
        pending = state.activities[effect.scheduled_event_id]
        route = versioning.activity_route(state, pending)
        key = QueueKey(state.namespace_id, TaskKind.ACTIVITY, effect.queue)
        key = self.routes.place(key, route, state.workflow_id)
        order = _order(priority.of_activity(state, effect.scheduled_event_id))
        at_once = not key.version or (
            route.version is not None and key.version == str(route.version)
        )
        if isinstance(state, WorkflowState) and versioning.moving(state):
            at_once = False
        poll = self.matching.reserve(key, order) if at_once else None
        if poll is None:
            unit.tasks.append(self._task(key, execution, effect, order, route))
            return
        attempt = activity.start(
            t,
            effect.scheduled_event_id,
            effect.stamp,
            poll.identity,
            new_id(),
            worker=worker_of(poll.attributes),
        )
        unit.granted.append((poll, Granted(execution, attempt)))

    def target(self, state: WorkflowState) -> Notice | None:
        """Where the tasks of a workflow go now, if it upgrades; None: versions have nothing to do
        with its queue."""
        key = QueueKey(state.namespace_id, TaskKind.WORKFLOW, state.task_queue)
        if state.versioning is None and self.routes.of(key) is None:
            return None
        return self.routes.target(key, versioning.route(state), state.workflow_id)

    def in_version(self, namespace_id: str, queue: str, version: Version) -> bool:
        """Whether workers of this version have polled this queue for workflows."""
        return self.routes.has(QueueKey(namespace_id, TaskKind.WORKFLOW, queue), version)

    def place(self, key: QueueKey, item: Any) -> QueueKey:
        """The part of a queue that an item of its backlog is for now: a task, or a query."""
        return self.routes.place(key, item.route, item.workflow_id)

    def _unless_sticky_worker_left(
        self, t: Transition, effect: DispatchWorkflowTask, route: Route
    ) -> DispatchWorkflowTask:
        """A sticky queue that nobody polls is not waited for, nor one whose worker has an older
        version than the task is for."""
        if not effect.sticky:
            return effect
        key = QueueKey(t.state.namespace_id, TaskKind.WORKFLOW, effect.queue)
        within_ns = int(self.config.sticky_poller_unavailable_s * 1e9)
        if self.polled_within(key, within_ns) and self.stays(t.state, route):
            return effect
        return workflow_task.move_to_normal_queue(t)

    def stays(self, state: WorkflowState, route: Route) -> bool:
        """Whether the worker that has a workflow in its cache may have its next task."""
        key = QueueKey(state.namespace_id, TaskKind.WORKFLOW, state.task_queue)
        return self.routes.stays(key, route, state.workflow_id)

    def _task(
        self,
        key: QueueKey,
        execution: Execution[Any],
        effect: DispatchWorkflowTask | DispatchActivity,
        order: TaskOrder,
        route: Route,
    ) -> TaskRow:
        return TaskRow(
            task_id=self._ids.next(self.clock(), self.store.shards.of_id(execution.execution_id)),
            queue=key,
            execution_id=execution.execution_id,
            scheduled_event_id=effect.scheduled_event_id,
            stamp=effect.stamp if isinstance(effect, DispatchActivity) else effect.attempt,
            created_ns=self.clock(),
            sticky=isinstance(effect, DispatchWorkflowTask) and effect.sticky,
            order=order,
            held=self._holds(key),
            route=route,
            workflow_id=execution.state.workflow_id,
        )

    def _holds(self, key: QueueKey) -> bool:
        """Whether a task is kept here for the workers that poll here. Others may take it even then."""
        if self.nodes is None or self.nodes.alone():
            return True
        return self.matching.polled_within(key, HELD_NS)

    def polled_within(self, key: QueueKey, within_ns: int) -> bool:
        """Whether a worker has waited on this queue so lately, at any server."""
        if self.matching.polled_within(key, within_ns):
            return True
        return self.nodes is not None and bool(
            self.nodes.polled_within(key, within_ns, self.clock())
        )

    def _write(self, execution: Execution[AnyState], t: Transition[Any]) -> ExecutionWrite:
        """Advance the cached execution and describe its next version to the store."""
        state = t.state
        state.transitions = execution.version + 1
        events = history_bytes(t.encoded)
        records = _records_encoder.encode(t.records) if t.records else b""
        write = ExecutionWrite(
            execution_id=execution.execution_id,
            expected_version=execution.version,
            kind=state.KIND,
            namespace_id=state.namespace_id,
            workflow_id=state.workflow_id,
            run_id=state.run_id,
            status=state.status,
            next_event_id=_next_event_id(state),
            next_deadline_ns=self._next_deadline(execution, t),
            first_event_id=t.events[0].event_id if t.events else 0,
            events=events,
            records=records,
            heartbeats=[_heartbeat(state, i) for i in t.heartbeats if i in state.activities],
            replaces_current=execution.replaces_current,
            decided_on=execution.lost or execution.last_commit,
        )
        if t.visible or execution.version == 0:
            write.visibility = visibility_row(state)
        execution.journal_bytes += len(events) + len(records)
        if execution.journal_bytes > max(SNAPSHOT_BYTES_MIN, 2 * execution.snapshot_bytes):
            write.snapshot = encode_state(state)
            write.forgets_journal = not isinstance(state, HistoryState)
            execution.snapshot_bytes = len(write.snapshot)
            execution.journal_bytes = 0
        execution.version += 1
        execution.deadline_ns = write.next_deadline_ns
        execution.recent.extend(t.events, t.encoded)
        if execution.replaces_current is not None:
            self._remember(execution)
            execution.replaces_current = None
        return write

    def _next_deadline(self, execution: Execution[AnyState], t: Transition[Any]) -> int:
        """Never later than the moment at which the execution wants attention; 0: never."""
        if outstanding(t.state):
            return t.now_ns
        if t.state.closed:
            removal_ns: int = t.state.close_ns + self.retention_ns(t.state.namespace_id)
            return min(removal_ns, deadlines.next_deadline(t.state) or removal_ns)
        if t.reschedule or not execution.deadline_ns:
            return t.deadline_ns
        if execution.deadline_ns <= t.now_ns:
            return deadlines.next_deadline(t.state)
        return min(execution.deadline_ns, t.deadline_ns or execution.deadline_ns)

    # --- Announce -----------------------------------------------------------------------------

    def _settle(self, unit: _Unit, done: asyncio.Future[None]) -> None:
        self._units_writing -= 1
        for execution, _ in unit.parts:
            if execution.last_commit is done:
                execution.last_commit = None
        if done.cancelled() or done.exception() is not None:
            for execution, _ in unit.parts:
                execution.lost = done
                self._forget(execution)
            for poll, _granted in unit.granted:
                self.matching.release(poll)
            if self.nodes is not None and not isinstance(_error(done), Conflict):
                self.nodes.doubt(task.task_id for task in unit.tasks)
            return
        for execution, t in unit.parts:
            self._announce(execution, t)
        for poll, granted in unit.granted:
            self.matching.deliver(poll, granted)
        for task in unit.tasks:
            if task.held:
                self.matching.add(task.queue, task)
        if self.nodes is not None and not self.nodes.alone():
            self._tell(self.nodes, unit)

    def _tell(self, nodes: Nodes, unit: _Unit) -> None:
        """What other servers want to know of a commit."""
        for write in unit.writes:
            nodes.say_changed(write.execution_id, write.expected_version + 1)
        for task in unit.tasks:
            if task.held:
                key = task.queue.whole
                nodes.say_later(Behind.of(key), partial(self.is_behind, key))
            else:
                nodes.say(Waiting.of(task.queue))

    def is_behind(self, queue: QueueKey) -> bool:
        """Whether the workers that poll here are behind with a queue, and others may help."""
        return self.matching.stats(queue, of_all=True).oldest_age_ns >= LEFT_TO_HOLDER_NS

    def _announce(self, execution: Execution[Any], t: Transition[Any]) -> None:
        execution.recent.trim(self.config.cached_history_bytes_per_execution)
        if self.open_changes is not None and not t.state.closed:
            self._follow(execution.execution_id, t.state)
        if t.state.closed and not _busy(execution):
            key = _key(t.state)
            if self._current.get(key) == execution.execution_id:
                del self._current[key]
        for effect in t.effects:
            if isinstance(effect, Delivery):
                self.deliveries.put_nowait((execution.execution_id, effect))
        if execution.deadline_ns:
            self._arm(execution, self._wake_ns(execution))
        if t.rejected or t.abandoned:
            execution.drop_updates(t.rejected, t.abandoned)
        if t.events:
            execution.committed_event_id = t.events[-1].event_id
        if t.events or t.state.closed or not isinstance(t.state, WorkflowState):
            execution.wake_watchers()
        if execution.update_watchers:
            every = list(execution.update_watchers)
            execution.wake_update_watchers(every if t.state.closed else _updates_changed(t))

    def _follow(self, execution_id: int, state: AnyState) -> None:
        changes = self.open_changes
        if changes is None or not isinstance(state, WorkflowState):
            return
        if execution_id in changes or len(changes) < OPEN_CHANGES_MAX:
            changes[execution_id] = (state.namespace_id, state.workflow_id, state.run_id)

    # --- Deadlines ----------------------------------------------------------------------------

    async def due_in_store(self, horizon_ns: int, limit: int) -> list[tuple[int, int]]:
        """(execution id, when to wake it) of those that want attention up to `horizon_ns`.

        Servers that share a store divide them. Whoever wrote a deadline has it in memory and comes
        first; another comes a little later, in case that one has died.
        """
        if self.nodes is None or self.nodes.alone():
            return await self.store.due(horizon_ns, limit)
        part, parts = self.nodes.part()
        now_ns = self.clock()
        found = await self.nodes.board.due(horizon_ns, limit, part, parts)
        return [
            (each, at_ns + (TAKEN_OVER_NS if at_ns <= now_ns else COMES_SECOND_NS))
            for each, at_ns in found
        ]

    def _wake_ns(self, execution: Execution[Any]) -> int:
        """When to look at an execution again. While it owes something, its row says that it wants
        attention now, for the next server; on this one the delivery is on its way."""
        state, now_ns = execution.state, self.clock()
        if execution.deadline_ns > now_ns or not outstanding(state):
            return execution.deadline_ns
        again_ns = now_ns + DELIVERY_RETRY_NS
        wanted_ns = deadlines.next_deadline(state)
        return min(again_ns, wanted_ns) if wanted_ns else again_ns

    def _arm(self, execution: Execution[Any], at_ns: int) -> None:
        """Once is enough, until it comes: whoever is woken is armed again."""
        if not self.clock() < execution.armed_ns <= at_ns:
            execution.armed_ns = at_ns
            self.arm(execution.execution_id, at_ns)

    def arm(self, execution_id: int, at_ns: int) -> None:
        """Remember a deadline in memory, if it comes before the next sweep of the store."""
        horizon_ns = self.clock() + int(2e9 * self.config.deadline_sweep_interval_s)
        if at_ns > horizon_ns:
            return
        if not self._near or at_ns < self._near[0][0]:
            self.near_changed.set()
        heapq.heappush(self._near, (at_ns, execution_id))

    def due(self, now_ns: int) -> list[int]:
        """Take the executions whose near deadline has come; each once."""
        found: dict[int, None] = {}
        while self._near and self._near[0][0] <= now_ns:
            at_ns, execution_id = heapq.heappop(self._near)
            if execution_id not in found:
                self.tally.timer_lateness.observe((now_ns - at_ns) / 1e9)
            found[execution_id] = None
        return list(found)

    def near(self) -> int:
        """How many deadlines are in memory."""
        return len(self._near)

    def next_near(self) -> int:
        return self._near[0][0] if self._near else 0

    # --- History ------------------------------------------------------------------------------

    async def events(
        self, execution: Execution, first_event_id: int, bytes_max: int
    ) -> list[history.HistoryEvent]:
        """Committed events from `first_event_id` on: at least one if there is one, then as many as
        fit into `bytes_max`."""
        # A commit that fails was decided after what is asked for here.
        with contextlib.suppress(Conflict):
            await self._wait_for_commit(execution)
        last_event_id = execution.committed_event_id
        recent = execution.recent.since(first_event_id)
        if recent is not None:
            return _fit(recent[: last_event_id - first_event_id + 1], bytes_max)
        rows = await self.store.read_events(execution.execution_id, first_event_id, bytes_max)
        parsed = chain.from_iterable(history.History.FromString(r.events).events for r in rows)
        return [e for e in parsed if e.event_id >= first_event_id]

    async def history_pages(
        self, execution: Execution, first_event_id: int, bytes_max: int
    ) -> AsyncIterator[list[history.HistoryEvent]]:
        """All committed events from `first_event_id` on, page by page."""
        while first_event_id <= execution.committed_event_id:
            page = await self.events(execution, first_event_id, bytes_max)
            if not page:
                return
            yield page
            first_event_id = page[-1].event_id + 1

    async def wait_for_change(
        self, execution: Execution[AnyState], timeout_s: float, *, close_only: bool = False
    ) -> bool:
        """Wait until new events are committed, or any change of what is closed or is no workflow;
        `close_only`: until it is closed.

        False when `timeout_s` passes without any. True may come too early: look again."""
        watcher: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        watchers = execution.close_watchers if close_only else execution.watchers
        watchers.add(watcher)
        try:
            return await self._woken(execution, watcher, timeout_s)
        finally:
            watchers.discard(watcher)

    async def _woken(
        self, execution: Execution[AnyState], watcher: asyncio.Future[bool], timeout_s: float
    ) -> bool:
        """Where others write too, nobody may have told of it: who waits looks now and then."""
        if self.nodes is None:
            return await _woken(watcher, timeout_s)
        loop = asyncio.get_running_loop()
        give_up = loop.time() + timeout_s
        while not execution.overtaken:
            left = give_up - loop.time()
            await asyncio.wait((watcher,), timeout=min(left, LOOK_AGAIN_S))
            if watcher.done() or not await self._stands(execution):
                return True
            if loop.time() >= give_up:
                return False
        return True

    async def wait_for_update(self, execution: Execution, update_id: str, timeout_s: float) -> bool:
        """Wait until an update comes to another stage, or its workflow closes; False when `timeout_s`
        passes."""
        watcher: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        execution.update_watchers.setdefault(update_id, set()).add(watcher)
        try:
            return await self._woken(execution, watcher, timeout_s)
        finally:
            others = execution.update_watchers.get(update_id)
            if others is not None:
                others.discard(watcher)
                if not others:
                    del execution.update_watchers[update_id]

    async def delete(self, execution: Execution[AnyState]) -> None:
        """Remove an execution and all that is stored of it."""
        await self.settled(execution)
        self._forget(execution)
        await self.store.delete_execution(execution.execution_id)
        if self.nodes is not None:
            self.nodes.say_changed(execution.execution_id, GONE)

    async def delete_some(self, namespace_id: str, limit: int) -> int:
        """Remove up to `limit` executions of a namespace, whatever they are doing; how many.

        What was decided on one of them before is written before; what comes later is a Conflict.
        """
        found = await self.store.executions_of(namespace_id, limit)
        for execution_id in found:
            cached = self._cache.get(execution_id)
            if cached is not None:
                self._forget(cached)
        await asyncio.gather(*(self.store.delete_execution(each) for each in found))
        if self.nodes is not None:
            for execution_id in found:
                self.nodes.say_changed(execution_id, GONE)
        return len(found)


async def _woken(watcher: asyncio.Future[bool], timeout_s: float) -> bool:
    """False when `timeout_s` passes first. Cheaper than `asyncio.wait_for`, which matters to those who
    wait by the hundred."""

    def give_up() -> None:
        if not watcher.done():
            watcher.set_result(False)

    timer = watcher.get_loop().call_later(timeout_s, give_up)
    try:
        return await watcher
    finally:
        timer.cancel()


def _updates_changed(t: Transition[Any]) -> Iterator[str]:
    """The updates that this transition brought to another stage."""
    yield from t.rejected
    yield from t.abandoned
    for event in t.events:
        match event.event_type:
            case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
                accepted = event.workflow_execution_update_accepted_event_attributes
                yield accepted.protocol_instance_id
            case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED:
                completed = event.workflow_execution_update_completed_event_attributes
                yield completed.meta.update_id
            case _:
                pass


def _error(done: asyncio.Future[None]) -> BaseException | None:
    return None if done.cancelled() else done.exception()


def worker_of(poll: Any) -> Worker:
    """The worker, from its request for a task."""
    return worker_from(poll.identity, poll.deployment_options, poll.worker_version_capabilities)


def _order(wanted: common.Priority) -> TaskOrder:
    if not wanted.ByteSize():
        return DEFAULT_ORDER
    return TaskOrder(
        priority.level(wanted), wanted.fairness_key, priority.weight(wanted.fairness_weight)
    )


def _key(state: AnyState) -> tuple[Kind, str, str]:
    return state.KIND, state.namespace_id, state.workflow_id


def _busy(execution: Execution[AnyState]) -> bool:
    return execution.last_commit is not None


def _next_event_id(state: AnyState) -> int:
    return state.next_event_id if isinstance(state, HistoryState) else 1


def _heartbeat(state: HistoryState, scheduled_event_id: int) -> Heartbeat:
    pending = state.activities[scheduled_event_id]
    details = pending.heartbeat_details
    return Heartbeat(
        scheduled_event_id=scheduled_event_id,
        attempt=pending.attempt,
        at_ns=pending.heartbeat_ns,
        details=details.SerializeToString() if details is not None else b"",
        total=pending.heartbeats,
    )


def _fit(events: list[history.HistoryEvent], bytes_max: int) -> list[history.HistoryEvent]:
    total = 0
    for index, event in enumerate(events):
        total += event.ByteSize()
        if total > bytes_max and index:
            return events[:index]
    return events
