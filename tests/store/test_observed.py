"""What metrics and traces ask of a store; every store answers the same."""

import asyncio

import pytest

from durably.store.store import (
    Commit,
    Conflict,
    JournalRow,
    QueueKey,
    Store,
    TaskKind,
    TaskRow,
)
from tests.store import test_store
from tests.store.test_store import visible, workflow, write

store = test_store.store
"""The fixture: each kind of store."""


def task(task_id: int, queue: str, created_ns: int, *, sticky: bool = False) -> TaskRow:
    key = QueueKey("ns", TaskKind.ACTIVITY, queue)
    return TaskRow(task_id, key, 1, 5, 1, created_ns, sticky)


async def test_backlogs_are_counted_by_queue(store: Store) -> None:
    assert await store.backlogs() == []
    tasks = [task(n, "a", at_ns) for n, at_ns in ((9, 20), (25, 30))]
    tasks.append(task(17, "b", 40, sticky=True))
    await store.commit(Commit([write(1, 0)], tasks_added=tasks))
    found = {each.queue.name: each for each in await store.backlogs()}
    assert found.keys() == {"a", "b"}
    assert (found["a"].tasks, found["a"].oldest_ns, found["a"].sticky) == (2, 20, False)
    assert (found["b"].tasks, found["b"].oldest_ns, found["b"].sticky) == (1, 40, True)
    assert found["a"].queue.kind is TaskKind.ACTIVITY
    await store.commit(Commit([write(1, 1)], tasks_removed=[9, 17]))
    (left,) = await store.backlogs()
    assert (left.queue.name, left.tasks, left.oldest_ns) == ("a", 1, 30)


async def test_a_journal_is_read_in_pages_with_its_records(store: Store) -> None:
    await store.commit(Commit([write(1, 0)]))
    for version in range(1, 6):
        records = b"r" * 100 if version % 2 else b""
        changes = {"events": b"", "first_event_id": 0} if version == 3 else {}
        await store.commit(Commit([write(1, version, records=records, **changes)]))
    found: list[JournalRow] = []
    pages = 0
    while rows := await store.read_journal(1, found[-1].version if found else 0, 110):
        pages += 1
        found += rows
    assert [row.version for row in found] == [1, 2, 3, 4, 5, 6]
    assert [len(row.records) for row in found] == [0, 100, 0, 100, 0, 100]
    assert found[3].events == b""
    assert pages == 3
    assert len(await store.read_journal(1, 0, 1)) == 1
    assert await store.read_journal(2, 0, 1000) == []


async def test_closed_runs_come_in_the_order_of_closing(store: Store) -> None:
    closes = {1: 500, 2: 300, 3: 0, 4: 500, 5: 900, 6: 300}
    for number, close_ns in closes.items():
        row = visible(2 if close_ns else 1, start_ns=10 + number % 2, close_ns=close_ns)
        await store.commit(Commit([write(number, 0, visibility=row)]))
    other = visible(2, start_ns=1, close_ns=400)
    await store.commit(Commit([write(7, 0, visibility=other, namespace_id="another")]))

    found = await store.closed_runs(1, "ns", (0, 0, 0), 900, 100)
    assert [run.execution_id for run in found] == [2, 6, 4, 1]
    assert [run.cursor for run in found] == [(300, 10, 2), (300, 10, 6), (500, 10, 4), (500, 11, 1)]
    assert (found[0].workflow_id, found[0].run_id) == (workflow(2), "r2")
    one_by_one = []
    cursor = (0, 0, 0)
    while page := await store.closed_runs(1, "ns", cursor, 2**61, 1):
        cursor = page[0].cursor
        one_by_one.append(page[0].execution_id)
    assert one_by_one == [2, 6, 4, 1, 5]


async def test_writes_are_counted(store: Store) -> None:
    before = store.writes.units.count
    units = [Commit([write(number, 0)]) for number in range(1, 9)]
    stale = Commit([write(1, 7)])
    done = await asyncio.gather(
        *(store.commit(unit) for unit in (*units, stale)), return_exceptions=True
    )
    assert isinstance(done[-1], Conflict)
    assert store.writes.conflicts == 1
    groups = store.writes.units.count - before
    assert groups == store.writes.seconds.count - before
    assert 1 <= groups <= 9
    assert store.writes.units.sum >= 9
    assert store.writes.failed_units == 0


@pytest.mark.parametrize("cursor", [(2**62, 0, 0), (900, 2**62, 2**62)])
async def test_after_the_last_there_is_none(store: Store, cursor: tuple[int, int, int]) -> None:
    row = visible(2, start_ns=10, close_ns=900)
    await store.commit(Commit([write(1, 0, visibility=row)]))
    assert await store.closed_runs(1, "ns", cursor, 2**61, 10) == []
