"""The same operations on SQLite and on PostgreSQL: the same replies, the same rows, byte for byte."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from durably.config import Config
from durably.errors import Refusal
from durably.store.opening import open_store
from durably.store.shards import Shards
from durably.store.store import (
    Commit,
    Conflict,
    ExecutionWrite,
    Heartbeat,
    NamespaceRow,
    QueueKey,
    Store,
    TaskKind,
    TaskOrder,
    TaskRow,
)
from durably.store.visibility_query import parse
from tests.postgres import PostgresServer
from tests.store.test_store import visible, write
from tests.stores import dump

STEPS = 300
WORKFLOWS = 12
SHARDS = Shards(4)
"""The ids say theirs, whether or not the store has several."""
TYPES = {
    "Color": "Keyword",
    "Size": "Int",
    "Price": "Double",
    "Tags": "KeywordList",
    "Due": "Datetime",
    "Note": "Text",
    "Ready": "Bool",
}
ASKED = [
    "",
    "Color = 'red'",
    "Color != 'red'",
    "NOT Color = 'red'",
    "Color IN ('red', 'blüe')",
    "Color STARTS_WITH 'bl'",
    "Color > 'f'",
    "Size > 3",
    "Size BETWEEN 1 AND 2.5",
    "Price >= 1.5 AND Price < 3",
    "Price = 2",
    "Tags = 't1'",
    "Tags IN ('t1', 't4')",
    "Tags != 't1'",
    "Tags STARTS_WITH 't'",
    "Note = 'ELL'",
    "Note = 'wöRLD' OR Note = 'WÖRLD'",
    "Ready = true",
    "Ready != true",
    "Due > '2020-01-01T00:00:00Z'",
    "Due IS NULL",
    "CloseTime IS NULL AND WorkflowType = 'T'",
    "ExecutionStatus = 'Running' OR Color = 'red'",
    "WorkflowId STARTS_WITH 'w1'",
    "WorkflowId > 'w3' AND WorkflowId <= 'w8'",
    "StartTime > '1970-01-01T00:00:00.000000100Z'",
    "ExecutionDuration > 5",
    "HistoryLength > 2",
    "ParentWorkflowId = 'p1'",
    "RootWorkflowId = 'root' AND ParentWorkflowId IS NULL",
    "GROUP BY ExecutionStatus",
    "GROUP BY Color",
    "Size > 1 GROUP BY Size",
    "GROUP BY Price",
    "GROUP BY Ready",
    "GROUP BY Tags",
    "'it''s' = Color",
]


class Program:
    """Operations that a seed makes; the same for every store."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.versions: dict[int, int] = {}
        self.ids: dict[int, str] = {}
        self.last: dict[int, asyncio.Future[None]] = {}
        self.stale: dict[int, ExecutionWrite] = {}
        """Writes that lose their race, by `id()`."""
        self.names: dict[int, int] = {}
        self.tasks: list[int] = []
        self.next_id = 1

    def unit(self) -> Commit:
        dice = self.dice
        kind = dice.choice(("start", "start", "go on", "go on", "go on", "go on", "chain", "stale"))
        if kind == "start" or not self.versions:
            return self._start(replaces=0 if dice.random() < 0.7 else None)
        execution_id = dice.choice(list(self.versions))
        if kind == "chain":
            return self._chain(execution_id)
        ahead = dice.choice((50, 90)) if kind == "stale" else 0
        unit = Commit([self._next(execution_id, ahead)])
        if dice.random() < 0.4:
            self._add_task(unit, execution_id)
        shard = SHARDS.of_id(execution_id)
        tasks = [task for task in self.tasks if SHARDS.of_id(task) == shard]
        if tasks and dice.random() < 0.3:
            unit.tasks_removed.append(dice.choice(tasks))
        return unit

    def _start(self, replaces: int | None) -> Commit:
        name = self.dice.randrange(WORKFLOWS)
        if replaces is None:
            replaces = self.names.get(name, 999)
        first = self._created(name, replaces)
        self.names.setdefault(name, first.execution_id)
        return Commit([first])

    def _created(self, name: int, replaces: int) -> Any:
        execution_id = self._new_id(SHARDS.of_workflow("ns", f"w{name}"))
        self.versions[execution_id] = 1
        self.ids[execution_id] = f"w{name}"
        changes: dict[str, Any] = {"workflow_id": f"w{name}", "replaces_current": replaces}
        return write(execution_id, 0, visibility=self._shown(execution_id), **changes)

    def _new_id(self, shard: int) -> int:
        made = SHARDS.id_from(self.next_id, shard)
        self.next_id = made + 1
        return made

    def _chain(self, execution_id: int) -> Commit:
        """Of another workflow than the one before, as long as it is in the same shard."""
        last = self._next(execution_id, 0)
        shard = SHARDS.of_id(execution_id)
        name = self.dice.choice(
            [n for n in range(WORKFLOWS) if SHARDS.of_workflow("ns", f"w{n}") == shard]
        )
        return Commit([last, self._created(name, self.names.get(name, 0))])

    def _next(self, execution_id: int, ahead: int) -> Any:
        dice, version = self.dice, self.versions[execution_id] + ahead
        changes: dict[str, Any] = {
            "workflow_id": self.ids[execution_id],
            "status": dice.randrange(1, 9),
            "next_deadline_ns": dice.choice((0, dice.randrange(10**18))),
            "events": dice.randbytes(dice.choice((0, 10, 3000))),
            "records": dice.randbytes(dice.choice((0, 5))),
        }
        if dice.random() < 0.1:
            changes |= {"snapshot": dice.randbytes(50), "forgets_journal": dice.random() < 0.5}
        if dice.random() < 0.2:
            beat = Heartbeat(dice.randrange(1, 4), 1, dice.randrange(10**15), b"d", 3)
            changes["heartbeats"] = [beat]
        if dice.random() < 0.4:
            changes["visibility"] = self._shown(execution_id)
        made = write(execution_id, max(version, 1), **changes)
        if ahead:
            self.stale[id(made)] = made
        else:
            self.versions[execution_id] += 1
        return made

    def _shown(self, execution_id: int) -> Any:
        """When it started and whose child it is never changes."""
        dice = self.dice
        values: dict[str, object] = {
            "Color": dice.choice(("red", "blüe", "green", "it's", "")),
            "Size": dice.randrange(-3, 6),
            "Price": dice.choice((1.5, 2.0, 3.25)),
            "Tags": dice.sample(("t1", "t2", "t4", "x"), 2),
            "Due": dice.choice(
                ("2019-06-01T00:00:00.000000000Z", "2021-01-01T00:00:00.000000000Z")
            ),
            "Note": dice.choice(("Hello", "wÖrld", "")),
            "Ready": dice.random() < 0.5,
        }
        kept = {name: value for name, value in values.items() if dice.random() < 0.7}
        close_ns = dice.choice((0, dice.randrange(100, 400)))
        row = visible(dice.randrange(1, 9), execution_id * 7 % 300, close_ns, **kept)
        row.parent_workflow_id = ("", "p1")[execution_id % 2]
        row.root_workflow_id = "root"
        row.memo = dice.randbytes(3)
        return row

    def _add_task(self, unit: Commit, execution_id: int) -> None:
        dice = self.dice
        task_id = self._new_id(SHARDS.of_id(execution_id))
        queue = QueueKey("ns", dice.choice((TaskKind.WORKFLOW, TaskKind.ACTIVITY)), "q")
        order = TaskOrder(dice.randrange(1, 6), dice.choice(("", "k")), dice.choice((1.0, 0.5)))
        row = TaskRow(task_id, queue, execution_id, 3, 1, 77, dice.random() < 0.5, order)
        unit.tasks_added.append(row)
        self.tasks.append(task_id)


async def replies(store: Store, seed: int) -> list[object]:
    """Everything the store answers to a program, conflicts and refusals by their names."""
    program = Program(seed)
    said: list[object] = []
    for step in range(STEPS):
        units = [program.unit() for _ in range(program.dice.choice((1, 1, 5)))]
        ends = await commit(store, program, units)
        said.append([type(end).__name__ for end in ends])
        _settle(program, units, ends)
        if step % 50 == 49:
            said.append(await read(store, program))
        if program.dice.random() < 0.03:
            gone = program.dice.choice(list(program.versions))
            await store.delete_execution(gone)
    said.append(await read(store, program))
    said.append(await told_twice(store))
    return said


async def commit(store: Store, program: Program, units: list[Commit]) -> list[BaseException | None]:
    """All at once; what follows from a commit before it says so, as the server does."""
    done = []
    for unit in units:
        for each in unit.writes:
            if id(each) not in program.stale:
                each.decided_on = program.last.get(each.execution_id)
        done.append(store.commit(unit))
        for each in unit.writes:
            if id(each) not in program.stale:
                program.last[each.execution_id] = done[-1]
    return await asyncio.gather(*done, return_exceptions=True)


def _settle(program: Program, units: list[Commit], ends: list[BaseException | None]) -> None:
    """What the program believes of versions follows what was written."""
    for unit, end in zip(units, ends, strict=True):
        if not isinstance(end, Conflict):
            continue
        for each in unit.writes:
            if id(each) in program.stale:
                continue
            program.last.pop(each.execution_id, None)
            if each.expected_version == 0:
                program.versions.pop(each.execution_id, None)
            elif each.execution_id in program.versions:
                before = min(program.versions[each.execution_id], each.expected_version)
                program.versions[each.execution_id] = before


async def read(store: Store, program: Program) -> list[object]:
    found: list[object] = []
    for execution_id in sorted(program.ids):
        loaded = await store.load(execution_id)
        if loaded is not None:
            loaded.heartbeats.sort(key=lambda beat: beat.scheduled_event_id)
        found += [loaded, await store.read_events(execution_id, 2, 3500)]
        found.append(await store.read_events_reverse(execution_id, 4, 3500))
    for name in range(WORKFLOWS):
        current = await store.current_run(1, "ns", f"w{name}")
        found.append(current)
        if current is not None:
            found.append(await store.find_run(1, "ns", f"w{name}", current.run_id))
    for kind in TaskKind:
        found.append(await store.backlog(QueueKey("ns", kind, "q"), 0, 1000))
    found.append(await store.due(10**18, 1000))
    for text in ASKED:
        found.append((text, await asked(store, text)))
    return found


async def asked(store: Store, text: str) -> object:
    try:
        query = parse(text, TYPES, dialect=store.dialect)
    except Refusal as refusal:
        return refusal.message
    if query.group_by:
        groups = await store.count_executions(1, "ns", query)
        return sorted(groups, key=repr)
    pages, token = [], b""
    while True:
        page, token = await store.list_executions(1, "ns", query, 7, token)
        pages.append((page, token))
        if not token:
            return pages, await store.count_executions(1, "ns", query)


async def told_twice(store: Store) -> list[object]:
    said: list[object] = []
    for row, expected in (
        (NamespaceRow("a", "n", 1, b"1"), 0),
        (NamespaceRow("b", "n", 1, b"2"), 0),
        (NamespaceRow("a", "m", 2, b"3"), 1),
        (NamespaceRow("a", "m", 2, b"4"), 1),
    ):
        (end,) = await asyncio.gather(store.put_namespace(row, expected), return_exceptions=True)
        said.append(type(end).__name__)
    key = QueueKey("a", TaskKind.ACTIVITY, "q")
    await store.put_queue_config(key, b"one")
    await store.put_queue_config(key, b"two")
    await store.put_metadata("k", b"first")
    await store.put_metadata("k", b"second")
    said += [await store.queue_config(key), await store.metadata("k"), await store.namespaces()]
    await store.delete_namespace("a")
    said += [await store.queue_config(key), await store.namespaces()]
    return said


SHARDED = ("journal", "snapshots", "current_runs", "heartbeats")
WHOLE = ("namespaces",)


@pytest.mark.parametrize("seed", range(3))
async def test_the_same_replies_and_the_same_rows(
    seed: int, postgres: PostgresServer, tmp_path: Path
) -> None:
    said, rows = [], []
    databases = (postgres.database(1), postgres.database(SHARDS.count))
    for url in (f"sqlite:///{tmp_path}/s.db", *databases):
        store = await open_store(url, Config())
        said.append(await replies(store, seed))
        await store.close()
        found = dump(url)
        # Shards differ; `written_by` is of PostgreSQL alone, and the last column.
        executions = [row[1:10] for row in found["executions"]]
        shardless = {name: sorted(row[1:] for row in found[name]) for name in SHARDED}
        whole = {name: sorted(found[name]) for name in WHOLE}
        rows.append({**shardless, **whole, "executions": sorted(executions)})
    for number, (one, *others) in enumerate(zip(*said, strict=True)):
        assert all(one == other for other in others), f"reply {number}"
    assert rows[0] == rows[1] == rows[2]
