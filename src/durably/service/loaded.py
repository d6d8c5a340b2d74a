"""The executions that this node has in memory: found, loaded, kept, caught up, forgotten; and what is read
of them.

Rule 1: nobody is told anything that rests on a state which is not committed yet.
Rule 2: a cached state is an optimisation that the compare-and-set of a commit keeps honest. Where other
        servers write too, what is read of it is first compared with the store (`get`), and who waits
        for a change looks for himself now and then.
Rule 3: what is forgotten while a commit of it is on its way is loaded again after that commit.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from temporalio.api.history.v1 import message_pb2 as history

from durably.config import Config
from durably.engine.snapshot import AnyState
from durably.engine.state import HistoryState, Kind
from durably.errors import NotFound, Unavailable
from durably.service.contention import Contention
from durably.service.execution import Execution, catch_up, rebuild
from durably.service.nodes import Nodes
from durably.store import visibility_query
from durably.store.store import Conflict, Store, StoredExecution, renumbered_key

LISTED_PAGE = 1000
LOOK_AGAIN_S = 1.0
"""Who waits for a change looks into a shared store so often, in case nobody told him of it."""


@dataclass(slots=True, eq=False)
class Tally:
    """What the executions of this node have done since it was started."""

    cache_hits: int = 0
    cache_misses: int = 0
    decided_again: int = 0
    """Transitions that lost a race and were decided again."""


class LoadedExecutions:
    """The executions in memory: a cache over the store."""

    def __init__(
        self, store: Store, clock: Callable[[], int], config: Config, nodes: Nodes | None
    ) -> None:
        self.store = store
        self.nodes = nodes
        """The servers that share the store; None: it is this one's alone."""
        self.clock = clock
        self.config = config
        self.tally = Tally()
        self.contention = Contention(nodes, self._refresh)
        self._cache: OrderedDict[int, Execution[AnyState]] = OrderedDict()
        self._current: dict[tuple[Kind, str, str], int] = {}
        self._loading: dict[int, asyncio.Future[Execution[Any]]] = {}
        self._settling: dict[int, asyncio.Future[None]] = {}

    # --- Find ---------------------------------------------------------------------------------

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

    # --- Load ---------------------------------------------------------------------------------

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
        has_tail = isinstance(execution.state, HistoryState) and not execution.busy
        if self.nodes is not None and has_tail:
            stored = await self.nodes.load_after(execution.execution_id, version)
            untouched = execution.version == version and not execution.busy
            kept = self._cache.get(execution.execution_id) is execution
            if stored is not None and untouched and kept:
                self._overtake(execution, stored)
                return True
        self._forget(execution)
        return False

    async def _refresh(self, execution_id: int) -> None:
        """Whoever asks for it after this sees what was committed before this."""
        loading = self._loading.get(execution_id)
        if loading is not None:
            await asyncio.wait([loading])
        execution = self._cache.get(execution_id)
        if execution is None:
            return
        if execution.last_commit is not None:
            await asyncio.wait([execution.last_commit])
            # Announced in this turn of the loop.
            await asyncio.sleep(0)
        execution.overtaken = True

    def _overtake(self, execution: Execution[Any], stored: StoredExecution) -> None:
        if stored.version > execution.version:
            self.contention.overtook(execution.execution_id)
        catch_up(execution, stored)
        execution.overtaken = False
        execution.recent.trim(self.config.cached_history_bytes_per_execution)
        if execution.state.closed:
            self._end_current(execution)
        execution.wake_all()

    def heard_of(self, execution_id: int, version: int) -> None:
        """Another server says that it has written this version."""
        execution = self._cache.get(execution_id)
        if execution is None or version <= execution.version:
            return
        execution.overtaken = True
        # Whoever waits for a change loads what it is.
        execution.wake_all()

    def heard_of_race(self, execution_id: int) -> None:
        """Another server says that it has lost a race."""
        if execution_id in self._cache:
            self.contention.raced(execution_id)

    def distrust(self) -> None:
        """Words of others may have been missed."""
        for execution in list(self._cache.values()):
            execution.overtaken = True
            execution.wake_all()

    async def _stands(self, execution: Execution[AnyState]) -> bool:
        """Whether no other server has written a later version before this call. If one has, or a
        commit of this server's has failed, the cached state is not used any more as it is."""
        if self.nodes is None or self.nodes.alone():
            return True
        if execution.busy:
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

    # --- Keep and forget ----------------------------------------------------------------------

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
            if execution.watched or execution.busy:
                self._cache.move_to_end(execution_id)
            else:
                self._forget(execution)

    def _forget(self, execution: Execution[AnyState]) -> None:
        """Drop a cached state. A load waits until its pending commits are settled."""
        if self._cache.get(execution.execution_id) is execution:
            del self._cache[execution.execution_id]
        self._end_current(execution)
        if execution.last_commit is not None:
            self._settling[execution.execution_id] = execution.last_commit
        execution.wake_all()

    def _end_current(self, execution: Execution[AnyState]) -> None:
        """Its workflow id does not lead to it any more."""
        key = _key(execution.state)
        if self._current.get(key) == execution.execution_id:
            del self._current[key]

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

    # --- Read what is committed ---------------------------------------------------------------

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

    # --- Wait for a change --------------------------------------------------------------------

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


def _key(state: AnyState) -> tuple[Kind, str, str]:
    return state.KIND, state.namespace_id, state.workflow_id


def _fit(events: list[history.HistoryEvent], bytes_max: int) -> list[history.HistoryEvent]:
    total = 0
    for index, event in enumerate(events):
        total += event.ByteSize()
        if total > bytes_max and index:
            return events[:index]
    return events
