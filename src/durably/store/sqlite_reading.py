"""What is read of one execution in SQLite."""

import sqlite3

from durably.store.rows import stored_execution
from durably.store.statements import (
    READ_EXECUTION,
    READ_HEARTBEATS,
    READ_SNAPSHOT,
    READ_TAIL,
    ROW_OF_EVENT,
)
from durably.store.store import JournalRow, StoredExecution


def load(connection: sqlite3.Connection, execution_id: int) -> StoredExecution | None:
    """Everything about one execution, read in one transaction."""
    in_transaction = connection.in_transaction
    if not in_transaction:
        connection.execute("BEGIN")
    try:
        row = connection.execute(READ_EXECUTION, (execution_id,)).fetchone()
        if row is None:
            return None
        found = connection.execute(READ_SNAPSHOT, (execution_id,)).fetchone()
        snapshot_version, snapshot = found or (0, b"")
        tail = connection.execute(READ_TAIL, (execution_id, snapshot_version, row[4])).fetchall()
        beats = connection.execute(READ_HEARTBEATS, (execution_id,)).fetchall()
    finally:
        if not in_transaction:
            connection.execute("COMMIT")
    return stored_execution(execution_id, row, (snapshot_version, snapshot), tail, beats)


def events_from(
    connection: sqlite3.Connection,
    sql: str,
    execution_id: int,
    event_id: int,
    bytes_max: int,
) -> list[JournalRow]:
    found = connection.execute(ROW_OF_EVENT, (execution_id, event_id)).fetchone()
    if found is None:
        return []
    rows: list[JournalRow] = []
    total = 0
    cursor = connection.execute(sql, (execution_id, found[0]))
    for version, first_event_id, events in cursor:
        total += len(events)
        if rows and total > bytes_max:
            break
        rows.append(JournalRow(version, first_event_id, events, b""))
    cursor.close()
    return rows


def journal_after(
    connection: sqlite3.Connection, execution_id: int, after_version: int, bytes_max: int
) -> list[JournalRow]:
    rows: list[JournalRow] = []
    total = 0
    cursor = connection.execute(READ_TAIL, (execution_id, after_version, 2**62))
    for values in cursor:
        row = JournalRow(*values)
        total += len(row.events) + len(row.records)
        if rows and total > bytes_max:
            break
        rows.append(row)
    cursor.close()
    return rows
