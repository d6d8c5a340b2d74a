"""load -> decide -> reserve -> commit -> announce: how every execution changes.

Rule 1: the only caller of `Store.commit` for executions.
Rule 2: deciding is one synchronous breath; no lock is held across a commit. The next transition
        decides on the state as it will be and joins the next group. If an earlier commit fails, what
        was decided on top of it fails its compare-and-set too, and is decided again.
Rule 3: nothing is announced, and no caller hears anything - not even a refusal - that rests on a state
        which is not committed yet. Where other servers write too, what is refused because of a
        cached state is first compared with the store.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import msgspec
from temporalio.api.enums.v1 import event_type_pb2 as event_types

from durably.config import Config
from durably.engine.snapshot import AnyState, encode_state
from durably.engine.state import HistoryState, WorkflowState
from durably.engine.transition import Delivery, RuleFor, Transition
from durably.errors import Refusal, Unavailable
from durably.matching import Matching
from durably.routing import Routes
from durably.service.dispatch import Dispatch, Dispatched
from durably.service.execution import Execution, history_bytes
from durably.service.ids import IdSource, new_id
from durably.service.loaded import LoadedExecutions
from durably.service.nodes import GONE, Behind, Nodes, Waiting
from durably.service.search_attributes import visibility_row
from durably.service.wakes import Wakes
from durably.store.store import Commit, Conflict, ExecutionWrite, Heartbeat, Store

R = TypeVar("R")
Decide = Callable[[Transition[Any]], R]

CONFLICT_RETRIES = 20
SNAPSHOT_BYTES_MIN = 64 * 1024
OPEN_CHANGES_MAX = 10_000
"""Runs that changed and are remembered for who follows them; of others he learns when they close."""

_records_encoder = msgspec.msgpack.Encoder()


class _Stale(Exception):
    """Others have written since what was decided on."""


@dataclass(slots=True)
class _Unit:
    """One commit on its way: what to announce when it is done."""

    parts: list[tuple[Execution[Any], Transition[Any]]]
    writes: list[ExecutionWrite] = field(default_factory=list)
    dispatched: Dispatched = field(default_factory=Dispatched)


class Executions(LoadedExecutions):
    """The executions of this node, and the one way to change them."""

    def __init__(
        self,
        store: Store,
        matching: Matching,
        clock: Callable[[], int],
        config: Config,
        retention_ns: Callable[[str], int],
        nodes: Nodes | None = None,
    ) -> None:
        super().__init__(store, clock, config, nodes)
        self.matching = matching
        self.routes = Routes()
        self.retention_ns = retention_ns
        self._ids = IdSource(store.shards)
        self.inherited_tasks_up_to = self._ids.next(clock(), 0)
        """Rows of `tasks` up to this id were left by a former server; newer ones are in memory."""
        self.dispatch = Dispatch(
            matching, self.routes, self._ids, store.shards, clock, config, nodes
        )
        self.wakes = Wakes(store, clock, config, retention_ns, nodes)
        self.rule_for: RuleFor | None = None
        self.deliveries: asyncio.Queue[tuple[int, Delivery]] = asyncio.Queue()
        self._units_writing = 0
        self.open_changes: dict[int, tuple[str, str, str]] | None = None
        """Namespace id, workflow id and run id of the open workflows that changed here since somebody
        emptied it; None: nobody follows."""

    # --- Decide and commit --------------------------------------------------------------------

    async def transact(self, execution_id: int, decide: Decide[R], *, task_id: int = 0) -> R:
        """Load, decide, commit; decided again when another writer was first.

        `task_id`: a row of `tasks` that this transition consumes. Raises what `decide` raises, after
        everything it could have seen is committed, and Unavailable if the store cannot write.
        """
        for _ in range(CONFLICT_RETRIES):
            try:
                if self.contention.contested(execution_id):
                    async with self.contention.round(execution_id):
                        return await self._attempt(execution_id, decide, task_id)
                return await self._attempt(execution_id, decide, task_id)
            except _Stale:
                pass
            except Conflict:
                self.tally.decided_again += 1
                self.contention.lost(execution_id)
        raise Unavailable("this execution is too busy; try again")

    async def _attempt(self, execution_id: int, decide: Decide[R], task_id: int) -> R:
        """Raises Conflict for a lost race, _Stale for what was read or refused on an old state."""
        execution = await self.known(execution_id)
        t = self.begin(execution.state)
        try:
            result = decide(t)
        except Exception as error:
            if t.changed:
                self._forget(execution)
            if not await self._stands(execution):
                raise _Stale from error
            if isinstance(error, Refusal):
                await self.settled(execution)
            raise
        if t.changed or task_id:
            await self.commit([(execution, t)], task_id=task_id)
            return result
        await self._wait_for_commit(execution)
        if not await self._stands(execution):
            raise _Stale
        return result

    async def read(self, execution_id: int, question: Callable[[Any], R]) -> R:
        """Ask the state something; the answer is given when all it rests on is committed."""
        return await self.transact(execution_id, lambda t: question(t.state))

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
            if t.effects:
                self.dispatch.reserve(unit.dispatched, execution, t)
        unit.writes = [self._write(execution, t) for execution, t in unit.parts]
        commit = Commit(
            writes=unit.writes,
            tasks_added=unit.dispatched.waiting,
            tasks_removed=[task_id] if task_id else [],
        )
        done = self.store.commit(commit)
        self._units_writing += 1
        for execution, _ in unit.parts:
            execution.last_commit = done
        done.add_done_callback(partial(self._settle, unit))
        await asyncio.shield(done)

    def writing(self) -> bool:
        """Whether a commit is on its way."""
        return self._units_writing > 0

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
            next_deadline_ns=self.wakes.next_deadline(execution, t),
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
            for poll, _granted in unit.dispatched.granted:
                self.matching.release(poll)
            if self.nodes is not None and not isinstance(_error(done), Conflict):
                self.nodes.doubt(task.task_id for task in unit.dispatched.waiting)
            return
        for execution, t in unit.parts:
            self._announce(execution, t)
        for poll, granted in unit.dispatched.granted:
            self.matching.deliver(poll, granted)
        for task in unit.dispatched.waiting:
            if task.held:
                self.matching.add(task.queue, task)
        if self.nodes is not None and not self.nodes.alone():
            self._tell(self.nodes, unit)

    def _tell(self, nodes: Nodes, unit: _Unit) -> None:
        """What other servers want to know of a commit."""
        for write in unit.writes:
            nodes.say_changed(write.execution_id, write.expected_version + 1)
        for task in unit.dispatched.waiting:
            if task.held:
                key = task.queue.whole
                nodes.say_later(Behind.of(key), partial(self.dispatch.is_behind, key))
            else:
                nodes.say(Waiting.of(task.queue))

    def _announce(self, execution: Execution[Any], t: Transition[Any]) -> None:
        execution.recent.trim(self.config.cached_history_bytes_per_execution)
        if self.open_changes is not None and not t.state.closed:
            self._follow(execution.execution_id, t.state)
        if t.state.closed and not execution.busy:
            self._end_current(execution)
        for effect in t.effects:
            if isinstance(effect, Delivery):
                self.deliveries.put_nowait((execution.execution_id, effect))
        if execution.deadline_ns:
            self.wakes.arm_for(execution)
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

    # --- Delete -------------------------------------------------------------------------------

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
