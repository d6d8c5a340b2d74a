"""One suite for every store."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from functools import cache
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio

from durably.config import Config
from durably.engine.versioning.version import ANY, FRESH, PINNED, Route, Version
from durably.errors import Unavailable
from durably.store import sqlite_file
from durably.store.opening import open_store
from durably.store.schema import migrations
from durably.store.shards import Shards
from durably.store.sqlite import SqliteStore
from durably.store.store import (
    Commit,
    Conflict,
    ExecutionWrite,
    Heartbeat,
    NamespaceRow,
    QueueKey,
    Store,
    StoreLocked,
    StoreTooNew,
    TaskKind,
    TaskRow,
    VisibilityRow,
)
from durably.store.visibility_query import Query, parse

SHARDS = 8
"""Ids and workflow ids of these tests agree on their shards in stores of so many."""


@pytest_asyncio.fixture(params=["memory", "file", "postgres", "shards"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    match request.param:
        case "postgres":
            url = request.getfixturevalue("postgres").database()
        case "shards":
            url = request.getfixturevalue("postgres").database(SHARDS)
        case "file":
            url = f"sqlite:///{tmp_path}/s.db"
        case _:
            url = "memory:"
    opened = await open_store(url, Config())
    yield opened
    await opened.close()


@cache
def workflow(execution_id: int) -> str:
    """A workflow id in the shard that the execution's id says."""
    shards = Shards(SHARDS)
    names = (f"w{execution_id}{'-' * more}" for more in count())
    wanted = shards.of_id(execution_id)
    return next(name for name in names if shards.of_workflow("ns", name) == wanted)


def write(execution_id: int, version: int, **changes: object) -> ExecutionWrite:
    values: dict[str, object] = {
        "execution_id": execution_id,
        "expected_version": version,
        "kind": 1,
        "namespace_id": "ns",
        "workflow_id": workflow(execution_id),
        "run_id": f"r{execution_id}",
        "status": 1,
        "next_event_id": version + 2,
        "next_deadline_ns": 0,
        "first_event_id": version + 1,
        "events": b"e%d" % version,
        "replaces_current": 0 if version == 0 else None,
    }
    return ExecutionWrite(**(values | changes))  # type: ignore[arg-type]


def visible(status: int, start_ns: int, close_ns: int = 0, **values: object) -> VisibilityRow:
    return VisibilityRow(
        workflow_type="T",
        task_queue="q",
        status=status,
        start_ns=start_ns,
        execution_ns=start_ns,
        close_ns=close_ns,
        history_length=3,
        history_size_bytes=100,
        state_transitions=2,
        parent_workflow_id="",
        parent_run_id="",
        root_workflow_id="",
        root_run_id="",
        memo=b"",
        search_attributes=b"",
        search_values=dict(values),
    )


async def test_what_is_committed_is_loaded(store: Store) -> None:
    await store.commit(Commit([write(1, 0)]))
    await store.commit(Commit([write(1, 1, records=b"r", next_deadline_ns=7)]))
    found = await store.load(1)
    assert found is not None
    assert (found.version, found.next_event_id, found.next_deadline_ns) == (2, 3, 7)
    assert [(row.version, row.events, row.records) for row in found.journal] == [
        (1, b"e0", b""),
        (2, b"e1", b"r"),
    ]
    assert await store.load(2) is None


async def test_loading_starts_at_the_snapshot(store: Store) -> None:
    await store.commit(Commit([write(1, 0)]))
    await store.commit(Commit([write(1, 1, snapshot=b"state")]))
    beat = Heartbeat(scheduled_event_id=5, attempt=1, at_ns=9, details=b"d")
    await store.commit(Commit([write(1, 2, heartbeats=[beat])]))
    found = await store.load(1)
    assert found is not None
    assert (found.snapshot, found.snapshot_version) == (b"state", 2)
    assert [row.version for row in found.journal] == [3]
    assert found.heartbeats == [beat]


async def test_a_lost_race_leaves_no_trace_and_its_neighbours_stand(store: Store) -> None:
    await store.commit(Commit([write(1, 0)]))
    units = [Commit([write(n, 0)]) for n in (2, 3, 4)]
    stale = Commit(
        [write(9, 0), write(1, 7)],
        tasks_added=[TaskRow(1, QueueKey("ns", TaskKind.WORKFLOW, "q"), 9, 2, 1, 0)],
    )
    done = [store.commit(unit) for unit in (*units, stale, Commit([write(6, 0)]))]
    results = await asyncio.gather(*done, return_exceptions=True)
    assert [type(r) for r in results] == [type(None)] * 3 + [Conflict, type(None)]
    assert await store.load(9) is None
    assert await store.backlog(QueueKey("ns", TaskKind.WORKFLOW, "q"), 0, 10) == []
    assert await store.load(6) is not None


async def test_versions_in_one_group_follow_each_other(store: Store) -> None:
    done: list[asyncio.Future[None]] = []
    for version in range(50):
        last = done[-1] if done else None
        done.append(store.commit(Commit([write(1, version, decided_on=last)])))
    await asyncio.gather(*done)
    found = await store.load(1)
    assert found is not None
    assert found.version == 50


async def test_a_workflow_id_names_one_run(store: Store) -> None:
    name = workflow(1)
    await store.commit(Commit([write(1, 0)]))
    with pytest.raises(Conflict):
        await store.commit(Commit([write(9, 0, workflow_id=name)]))
    await store.commit(Commit([write(17, 0, workflow_id=name, replaces_current=1)]))
    current = await store.current_run(1, "ns", name)
    assert current is not None
    assert current.execution_id == 17
    former = await store.find_run(1, "ns", name, "r1")
    assert former is not None
    assert former.execution_id == 1


async def test_events_are_read_in_pages_both_ways(store: Store) -> None:
    for version in range(10):
        await store.commit(Commit([write(1, version, events=b"x" * 100)]))
    forward = await store.read_events(1, 4, 250)
    assert [row.first_event_id for row in forward] == [4, 5]
    backward = await store.read_events_reverse(1, 4, 1000)
    assert [row.first_event_id for row in backward] == [4, 3, 2, 1]
    assert await store.read_events(9, 1, 100) == []


async def test_deadlines_come_in_order(store: Store) -> None:
    for number, deadline in enumerate([30, 10, 0, 20], start=1):
        await store.commit(Commit([write(number, 0, next_deadline_ns=deadline)]))
    assert await store.due(25, 10) == [(2, 10), (4, 20)]


async def test_tasks_wait_in_order_until_they_are_removed(store: Store) -> None:
    queue = QueueKey("ns", TaskKind.ACTIVITY, "q")
    pinned = Route(PINNED, Version("shop", "1.2"), revision=3)
    routes = (ANY, FRESH, pinned)
    rows = [
        TaskRow(1 + n * SHARDS, queue, 1, n, 1, 5, route=route, workflow_id=workflow(1))
        for n, route in enumerate(routes)
    ]
    await store.commit(Commit([write(1, 0)], tasks_added=rows))
    await store.commit(Commit([], tasks_removed=[rows[1].task_id]))
    assert await store.backlog(queue, 0, 10) == [rows[0], rows[2]]
    assert await store.backlog(queue, 1, 10) == [rows[2]]


async def test_deleting_leaves_nothing(store: Store) -> None:
    await store.commit(Commit([write(1, 0, visibility=visible(1, 5))]))
    await store.delete_execution(1)
    assert await store.load(1) is None
    assert await store.current_run(1, "ns", workflow(1)) is None
    assert (await store.list_executions(1, "ns", Query(), 10, b""))[0] == []


async def test_what_is_kept_of_a_namespace_is_found_in_every_shard(store: Store) -> None:
    done = [store.commit(Commit([write(n, 0)])) for n in range(1, 20)]
    await asyncio.gather(*done)
    found = await store.executions_of("ns", 100)
    assert sorted(found) == list(range(1, 20))
    assert len(await store.executions_of("ns", 15)) == 15
    for execution_id in found:
        await store.delete_execution(execution_id)
    assert await store.executions_of("ns", 100) == []


async def test_backlogs_are_counted_over_all_shards(store: Store) -> None:
    queues = [QueueKey("ns", TaskKind.ACTIVITY, name) for name in ("a", "b")]
    for n in range(1, 11):
        task = TaskRow(n, queues[n % 2], n, 5, 1, 100 - n)
        await store.commit(Commit([write(n, 0)], tasks_added=[task]))
    found = {each.queue: each.tasks for each in await store.backlogs()}
    assert found == {queues[0]: 5, queues[1]: 5}
    waiting = await store.backlog(queues[1], 3, 3)
    assert [(row.task_id, row.workflow_id) for row in waiting] == [
        (n, workflow(n)) for n in (5, 7, 9)
    ]


async def test_namespaces_are_written_once(store: Store) -> None:
    await store.put_namespace(NamespaceRow("id", "n", 1, b"a"), 0)
    with pytest.raises(Conflict):
        await store.put_namespace(NamespaceRow("id", "n", 1, b"b"), 0)
    await store.put_namespace(NamespaceRow("id", "n", 2, b"c"), 1)
    assert [row.record for row in await store.namespaces()] == [b"c"]


async def test_lists_are_newest_first_and_page_without_gaps(store: Store) -> None:
    for number in range(25):
        closed = 1000 + number if number % 2 else 0
        row = visible(2 if closed else 1, 100 + number, closed, Tags=["a", f"t{number}"])
        await store.commit(Commit([write(number + 1, 0, visibility=row)]))
    seen: list[str] = []
    token = b""
    while True:
        page, token = await store.list_executions(1, "ns", Query(), 7, token)
        seen += [found.workflow_id for found in page]
        if not token:
            break
    assert len(seen) == len(set(seen)) == 25
    running, closed_ones = seen[:13], seen[13:]
    assert running == [workflow(n + 1) for n in range(24, -1, -2)]
    assert closed_ones == [workflow(n + 1) for n in range(23, 0, -2)]
    types = {"Tags": "KeywordList"}
    tagged = parse("Tags = 't3' OR ExecutionStatus = 'Completed'", types, dialect=store.dialect)
    assert await store.count_executions(1, "ns", tagged) == [(None, 12)]
    groups = await store.count_executions(1, "ns", parse("GROUP BY ExecutionStatus", {}))
    assert sorted(groups) == [(1, 13), (2, 12)]


async def test_a_file_belongs_to_one_server(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    first = SqliteStore.open(url)
    with pytest.raises(StoreLocked, match="another durably server"):
        SqliteStore.open(url)
    await first.close()
    await SqliteStore.open(url).close()


async def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    connection = sqlite_file.connect(f"{tmp_path}/s.db")
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(StoreTooNew, match="upgrade durably"):
        SqliteStore.open(f"sqlite:///{tmp_path}/s.db")


async def test_a_full_disk_stops_acknowledging_and_loses_nothing(tmp_path: Path) -> None:
    store = SqliteStore.open(f"sqlite:///{tmp_path}/s.db")
    await store.commit(Commit([write(1, 0)]))
    pages = store._writing.execute("PRAGMA page_count").fetchone()[0]
    store._writing.execute(f"PRAGMA max_page_count = {pages + 2}")
    acknowledged = 1

    async def fill() -> None:
        nonlocal acknowledged
        for _ in range(100):
            await store.commit(Commit([write(1, acknowledged, events=b"x" * 1000)]))
            acknowledged += 1

    with pytest.raises(Unavailable, match="free some disk space"):
        await fill()
    store._writing.execute("PRAGMA max_page_count = 1000000")
    await store.commit(Commit([write(1, acknowledged)]))
    await store.close()
    reopened = SqliteStore.open(f"sqlite:///{tmp_path}/s.db")
    found = await reopened.load(1)
    assert found is not None
    assert found.version == acknowledged + 1
    assert len(found.journal) == acknowledged + 1
    await reopened.close()


KILLED = """
import asyncio, sys
from durably.config import Config
from durably.store.opening import open_store
from durably.store.store import Commit
from tests.store.test_store import write

async def main():
    store = await open_store(sys.argv[1], Config())
    version = 0
    while True:
        pair = [write(1, version), write(9, version)]
        await store.commit(Commit(pair))
        version += 1
        print(version, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["file", "postgres", "shards"])
def test_killed_in_the_middle_of_commits(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Every acknowledged commit is there afterwards, and no unit is torn."""
    url = f"sqlite:///{tmp_path}/s.db"
    if kind != "file":
        url = request.getfixturevalue("postgres").database(SHARDS if kind == "shards" else 1)
    child = subprocess.Popen([sys.executable, "-c", KILLED, url], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    acknowledged = 0
    for line in child.stdout:
        acknowledged = int(line)
        if acknowledged == 60:
            os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()

    async def versions() -> tuple[int, int]:
        store = await open_store(url, Config())
        first, second = await store.load(1), await store.load(9)
        await store.close()
        assert first is not None
        assert second is not None
        assert len(first.journal) == first.version
        return first.version, second.version

    first, second = asyncio.run(versions())
    assert first == second
    assert first in (acknowledged, acknowledged + 1)


def test_migrations_are_numbered_and_repeatable(tmp_path: Path) -> None:
    numbers = [number for number, _ in migrations()]
    assert numbers == list(range(1, len(numbers) + 1))
    connection = sqlite_file.connect(f"{tmp_path}/s.db")
    sqlite_file.migrate(connection)
    before = connection.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall()
    sqlite_file.migrate(connection)
    assert connection.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall() == before
    connection.close()


ENDLESS = """(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1 << 27)
    SELECT count(*) FROM n) > 0"""
"""A condition that takes much longer than anything else in these tests."""


async def test_a_slow_search_holds_up_nothing_else(tmp_path: Path) -> None:
    store = SqliteStore.open(f"sqlite:///{tmp_path}/s.db")
    shown = write(1, 0, visibility=visible(1, 10))
    await store.commit(Commit([shown]))
    slow = Query(sql=ENDLESS)
    searches = [asyncio.ensure_future(store.count_executions(1, "ns", slow)) for _ in range(4)]
    await asyncio.sleep(0.05)
    assert await store.current_run(1, "ns", workflow(1)) is not None
    await store.commit(Commit([write(2, 0)]))
    assert await store.load(2) is not None
    assert not any(search.done() for search in searches)
    await store.close()
    ended = await asyncio.gather(*searches, return_exceptions=True)
    assert all(isinstance(end, Unavailable | asyncio.CancelledError) for end in ended)


async def test_a_store_in_memory_waits_for_a_read_that_nobody_waits_for() -> None:
    opened = SqliteStore.open("memory:")
    began = threading.Event()

    def count(connection: sqlite3.Connection) -> int:
        began.set()
        opened._writer.join()  # So far is the close by now; what comes next is to close the connection.
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300000)"
        return int(connection.execute(f"{numbers} SELECT count(*) FROM n").fetchone()[0])

    reading = asyncio.create_task(asyncio.to_thread(opened._read, count))
    await asyncio.to_thread(began.wait)
    await opened.close()
    assert await reading == 300_000
