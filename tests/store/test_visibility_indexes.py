"""Lists and counts find what is asked through indexes: the same rows, and no scan of all."""

import dataclasses
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from durably.store import sqlite_file, sqlite_search, sqlite_unit
from durably.store.rows import visible_values
from durably.store.schema import migrations
from durably.store.sqlite import SqliteStore
from durably.store.statements import LIST_ORDER
from durably.store.store import Commit, ExecutionWrite, VisibilityRow
from durably.store.visibility_query import OPEN_LAST, open_only, parse

TYPES = {
    "Color": "Keyword",
    "Size": "Int",
    "Tags": "KeywordList",
    "Due": "Datetime",
    "Note": "Text",
    "Ready": "Bool",
}
ROWS = 120
SECOND_NS = 10**9
EARLIER = migrations()[:3]


def shown(number: int, **changes: object) -> VisibilityRow:
    """An execution of many; one in four runs."""
    closed = number % 4 != 0
    values: dict[str, object] = {"Color": ["red", "green", "blue"][number % 3], "Size": number % 7}
    values["BuildIds"] = ["unversioned"]
    values["Tags"] = [f"t{number % 2}", f"t{number % 5}", f"t{number % 5}"]
    values["Note"] = "n" * (300 if number % 2 else 3)
    if number % 6 == 0:
        values = {}
    row = VisibilityRow(
        workflow_type=f"T{number % 5}",
        task_queue="q",
        status=2 + number % 3 if closed else 1,
        start_ns=number * SECOND_NS,
        execution_ns=number * SECOND_NS,
        close_ns=(number + 50) * SECOND_NS if closed else 0,
        history_length=3,
        history_size_bytes=100,
        state_transitions=2,
        parent_workflow_id="w1" if number % 10 == 0 else "",
        parent_run_id="",
        root_workflow_id=f"w{number // 10}",
        root_run_id="",
        memo=b"",
        search_attributes=b"",
        search_values=values,
    )
    return dataclasses.replace(row, **changes)  # type: ignore[arg-type]


def write(number: int, version: int, row: VisibilityRow) -> ExecutionWrite:
    return ExecutionWrite(
        execution_id=number,
        expected_version=version,
        kind=1,
        namespace_id="ns",
        workflow_id=f"w{number}",
        run_id=f"r{number}",
        status=row.status,
        next_event_id=2,
        next_deadline_ns=0,
        replaces_current=0 if version == 0 else None,
        visibility=row,
    )


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore.open(f"sqlite:///{tmp_path}/s.db")
    for number in range(1, ROWS + 1):
        await opened.commit(Commit([write(number, 0, shown(number))]))
    yield opened
    await opened.close()


ASKED = [
    "Color = 'red'",
    "Color = 'red' AND ExecutionStatus = 'Running'",
    "Color = 'red' AND WorkflowType = 'T1'",
    "Color = 'red' AND Size = 3",
    "Color IN ('red', 'blue') AND StartTime > '1970-01-01T00:00:30Z'",
    "Size > 3",
    "Size BETWEEN 1 AND 2 AND CloseTime IS NULL",
    "Tags = 't1'",
    "Tags IN ('t1', 't4')",
    "Tags = 't1' AND (Color = 'red' OR Size = 2)",
    "Color = 'red' AND CloseTime < '1970-01-01T00:01:20Z'",
    "Color != 'red'",
    "NOT Color = 'red'",
    "WorkflowId = 'w7' AND Color = 'green'",
]


@pytest.mark.parametrize("text", ASKED)
async def test_every_way_finds_the_same(store: SqliteStore, text: str) -> None:
    for query in (parse(text, TYPES), open_only(parse(text, TYPES))):
        plain = dataclasses.replace(query, by_attribute=())
        wanted, _ = await store.list_executions(1, "ns", plain, 1000, b"")
        found: list[int] = []
        token = b""
        while True:
            page, token = await store.list_executions(1, "ns", query, 7, token)
            found += [each.execution_id for each in page]
            if not token:
                break
        assert found == [each.execution_id for each in wanted]
        assert await store.count_executions(1, "ns", query) == [(None, len(wanted))]
        for way in query.by_attribute:
            alone = dataclasses.replace(query, by_attribute=(way,))
            assert await store.count_executions(1, "ns", alone) == [(None, len(wanted))]
    grouped = parse(f"{text} GROUP BY ExecutionStatus", TYPES)
    by_row = dataclasses.replace(grouped, by_attribute=())
    assert dict(await store.count_executions(1, "ns", grouped)) == dict(
        await store.count_executions(1, "ns", by_row)
    )


async def test_all_are_counted_by_status(store: SqliteStore) -> None:
    counted = await store.count_executions(1, "ns", parse("GROUP BY ExecutionStatus", TYPES))
    statuses = [shown(number).status for number in range(1, ROWS + 1)]
    assert dict(counted) == {status: statuses.count(status) for status in set(statuses)}


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("", "COVERING INDEX visibility_by_time"),
        ("ExecutionStatus = 'Failed'", "COVERING INDEX visibility_by_status"),
        ("ExecutionStatus != 'Running'", "COVERING INDEX visibility_by_time"),
        ("WorkflowType = 'T'", "COVERING INDEX visibility_by_type"),
        ("WorkflowType = 'T' AND ExecutionStatus = 'Failed'", "COVERING INDEX visibility_by_type"),
        ("WorkflowId = 'w'", "visibility_by_workflow (namespace_id=? AND kind=? AND workflow_id=?"),
        ("WorkflowId STARTS_WITH 'w'", "workflow_id>? AND workflow_id<?"),
        ("RunId = 'r'", "visibility_by_run_id"),
        ("ParentWorkflowId = 'w'", "visibility_by_parent"),
        ("RootWorkflowId = 'w'", "visibility_by_root"),
        ("CloseTime > '2020-01-01T00:00:00Z'", "visibility_by_time (namespace_id=? AND kind=? AND"),
        ("Color = 'red'", "attribute_values"),
        ("Tags = 'a' AND ExecutionStatus = 'Running'", "attribute_values"),
    ],
)
def test_an_index_is_found(tmp_path: Path, text: str, index: str) -> None:
    connection = sqlite_file.connect(str(tmp_path / "s.db"))
    sqlite_file.migrate(connection)
    source, condition, values = sqlite_search.found_by(connection, 1, "ns", parse(text, TYPES))
    asked = f"SELECT execution_id FROM {source} WHERE {condition} {LIST_ORDER} LIMIT 9"
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {asked}", values)]
    connection.close()
    assert index in plan[0]


def values_of(connection: sqlite3.Connection, number: int) -> list[tuple[object, ...]]:
    return connection.execute(
        "SELECT name, value, status, sort_close_ns FROM attribute_values WHERE execution_id = ?"
        " ORDER BY name, value",
        (number,),
    ).fetchall()


async def test_values_follow_their_execution(store: SqliteStore) -> None:
    last = OPEN_LAST
    assert values_of(store._reader, 4) == [
        ("Color", "green", 1, last),
        ("Note", "nnn", 1, last),
        ("Size", 4, 1, last),
        ("Tags", "t0", 1, last),
        ("Tags", "t4", 1, last),
    ]
    closed = shown(4, status=3, close_ns=99, search_values={"Color": "grey"})
    await store.commit(Commit([write(4, 1, closed)]))
    assert values_of(store._reader, 4) == [("Color", "grey", 3, 99)]
    await store.delete_execution(4)
    assert values_of(store._reader, 4) == []


async def test_a_store_from_before_has_them_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "old.db"
    old = sqlite_file.connect(str(path))
    with monkeypatch.context() as patched:
        patched.setattr(sqlite_file, "migrations", lambda: EARLIER)
        sqlite_file.migrate(old)
    rows = [
        (number, visible_values(write(number, 0, shown(number)), shown(number)))
        for number in (3, 4, 5)
    ]
    for _, values in rows:
        old.execute(sqlite_unit.SHOW, values)
    old.close()
    migrated = SqliteStore.open(f"sqlite:///{path}")
    fresh = SqliteStore.open(f"sqlite:///{tmp_path}/new.db")
    for number, _ in rows:
        await fresh.commit(Commit([write(number, 0, shown(number))]))
        assert values_of(migrated._reader, number) == values_of(fresh._reader, number)
    await migrated.close()
    await fresh.close()
