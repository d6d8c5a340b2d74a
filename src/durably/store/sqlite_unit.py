"""What a unit writes into SQLite.

Rule 1: a unit that lost its race leaves no trace, and its neighbours in the group are not touched: the
        compare-and-set of all its executions is checked before anything of it is written.
"""

import json
import sqlite3
from collections.abc import Callable

from durably.store.rows import indexed_values, task_values, visible_values
from durably.store.store import Commit, Conflict, ExecutionWrite, VisibilityRow
from durably.store.visibility_query import OPEN_LAST

# The compare-and-set: the next version of an execution.
ADVANCE = """UPDATE executions SET version = ?, status = ?, next_event_id = ?, next_deadline_ns = ?
    WHERE shard = 0 AND execution_id = ? AND version = ?"""
# A new execution.
CREATE = """INSERT INTO executions (shard, execution_id, kind, namespace_id, workflow_id, run_id,
    version, status, next_event_id, next_deadline_ns) VALUES (0, ?, ?, ?, ?, ?, 1, ?, ?, ?)"""
# The run that a workflow id names is to be this one, if none is named yet.
CLAIM_CURRENT = """INSERT INTO current_runs (shard, namespace_id, kind, workflow_id, execution_id,
    run_id) VALUES (0, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
# The same, in place of a certain other run.
REPLACE_CURRENT = """UPDATE current_runs SET execution_id = ?, run_id = ?
    WHERE shard = 0 AND namespace_id = ? AND kind = ? AND workflow_id = ? AND execution_id = ?"""
# What a commit added to the history and beside it.
APPEND = "INSERT INTO journal VALUES (0, ?, ?, ?, ?, ?)"
# The state, so that loading need not start at the beginning.
SNAPSHOT = "INSERT OR REPLACE INTO snapshots VALUES (0, ?, ?, ?)"
# The journal that a snapshot makes unnecessary.
FORGET_JOURNAL = "DELETE FROM journal WHERE shard = 0 AND execution_id = ? AND version <= ?"
# The last heartbeat of an activity.
HEARTBEAT = "INSERT OR REPLACE INTO heartbeats VALUES (0, ?, ?, ?, ?, ?, ?)"
# A task that no poller waited for.
ADD_TASK = f"INSERT INTO tasks VALUES (0, {', '.join('?' * 13)})"
# A task that a worker has started, or that is stale.
REMOVE_TASK = "DELETE FROM tasks WHERE shard = 0 AND task_id = ?"
# What lists and counts see; what never changes is not written again, nor are indexes of it alone.
SHOW = f"""INSERT INTO visibility VALUES (0, {", ".join("?" * 22)})
    ON CONFLICT (shard, execution_id) DO UPDATE SET workflow_type = excluded.workflow_type,
    task_queue = excluded.task_queue, status = excluded.status,
    execution_ns = excluded.execution_ns, close_ns = excluded.close_ns,
    history_length = excluded.history_length, history_size_bytes = excluded.history_size_bytes,
    state_transitions = excluded.state_transitions, memo = excluded.memo,
    search_attributes = excluded.search_attributes, search_values = excluded.search_values,
    sort_close_ns = excluded.sort_close_ns"""
# What is shown of an execution, as far as the values of its attributes are kept with it.
SHOWN = """SELECT namespace_id, kind, search_values, sort_close_ns, start_ns FROM visibility
    WHERE shard = 0 AND execution_id = ?"""
# One value of a search attribute.
ADD_VALUE = "INSERT OR REPLACE INTO attribute_values VALUES (0, ?, ?, ?, ?, ?, ?, ?, ?)"
REMOVE_VALUE = """DELETE FROM attribute_values WHERE shard = 0 AND namespace_id = ? AND kind = ?
    AND name = ? AND value = ? AND sort_close_ns = ? AND start_ns = ? AND execution_id = ?"""
Execute = Callable[..., sqlite3.Cursor]


def write_unit(connection: sqlite3.Connection, unit: Commit) -> None:
    """All of a unit, or nothing of it and Conflict."""
    execute = connection.execute
    if len(unit.writes) == 1 and unit.writes[0].expected_version:
        # The common case needs no savepoint: the compare-and-set is its first statement.
        _advance(execute, unit.writes[0])
    else:
        execute("SAVEPOINT unit")
        try:
            for write in unit.writes:
                _advance(execute, write)
        except Conflict:
            execute("ROLLBACK TO unit")
            execute("RELEASE unit")
            raise
        execute("RELEASE unit")
    for write in unit.writes:
        _write_rest(execute, write)
    for task in unit.tasks_added:
        execute(ADD_TASK, task_values(task))
    for task_id in unit.tasks_removed:
        execute(REMOVE_TASK, (task_id,))


def _advance(execute: Execute, write: ExecutionWrite) -> None:
    if write.expected_version:
        values = (
            write.expected_version + 1,
            write.status,
            write.next_event_id,
            write.next_deadline_ns,
            write.execution_id,
            write.expected_version,
        )
        if execute(ADVANCE, values).rowcount != 1:
            raise Conflict
        return
    _claim_current(execute, write)
    try:
        execute(
            CREATE,
            (
                write.execution_id,
                write.kind,
                write.namespace_id,
                write.workflow_id,
                write.run_id,
                write.status,
                write.next_event_id,
                write.next_deadline_ns,
            ),
        )
    except sqlite3.IntegrityError as error:
        raise Conflict from error


def _claim_current(execute: Execute, write: ExecutionWrite) -> None:
    if write.replaces_current is None:
        return
    key = (write.namespace_id, write.kind, write.workflow_id)
    if write.replaces_current == 0:
        claimed = execute(CLAIM_CURRENT, (*key, write.execution_id, write.run_id))
    else:
        values = (write.execution_id, write.run_id, *key, write.replaces_current)
        claimed = execute(REPLACE_CURRENT, values)
    if claimed.rowcount != 1:
        raise Conflict


def _write_rest(execute: Execute, write: ExecutionWrite) -> None:
    version = write.expected_version + 1
    if write.events or write.records:
        values = (
            write.execution_id,
            version,
            write.first_event_id,
            write.events,
            write.records,
        )
        execute(APPEND, values)
    if write.snapshot:
        execute(SNAPSHOT, (write.execution_id, version, write.snapshot))
        if write.forgets_journal:
            execute(FORGET_JOURNAL, (write.execution_id, version))
    for beat in write.heartbeats:
        execute(
            HEARTBEAT,
            (
                write.execution_id,
                beat.scheduled_event_id,
                beat.attempt,
                beat.at_ns,
                beat.details,
                beat.total,
            ),
        )
    if write.visibility is not None:
        _show(execute, write, write.visibility)


def _show(execute: Execute, write: ExecutionWrite, row: VisibilityRow) -> None:
    if write.expected_version:
        forget_values(execute, write.execution_id)
    execute(SHOW, visible_values(write, row))
    for name, value in indexed_values(row.search_values):
        key = (write.namespace_id, write.kind, name, value)
        execute(
            ADD_VALUE,
            (*key, row.close_ns or OPEN_LAST, row.start_ns, write.execution_id, row.status),
        )


def forget_values(execute: Execute, execution_id: int) -> None:
    """Remove the values of its attributes, as they were shown last."""
    shown = execute(SHOWN, (execution_id,)).fetchone()
    if shown is None or shown[2] == "{}":
        return
    namespace_id, kind, values, sort_close_ns, start_ns = shown
    for name, value in indexed_values(json.loads(values)):
        execute(
            REMOVE_VALUE,
            (namespace_id, kind, name, value, sort_close_ns, start_ns, execution_id),
        )
