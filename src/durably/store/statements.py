"""The statements that all databases share: mostly reads.

Rule 1: every statement has a name, and above it a sentence that says what it is for.
Rule 2: `?` marks a value to bind; a database that numbers its marks has them numbered (`numbered`).
Rule 3: no rule of the engine lives in SQL.
Rule 4: `shard = 0` is all there is in a store of one shard; where there are more, the shard is bound
        (`routed`).
"""

import re
from functools import lru_cache

from durably.store.visibility_query import STATUSES

# Executions in the order in which they closed, after one of them. Open ones close in OPEN_LAST.
CLOSED_RUNS = """SELECT execution_id, workflow_id, run_id, sort_close_ns, start_ns FROM visibility
    WHERE namespace_id = ? AND kind = ? AND sort_close_ns >= ? AND sort_close_ns < ?
        AND (sort_close_ns, start_ns, execution_id) > (?, ?, ?)
    ORDER BY sort_close_ns, start_ns, execution_id LIMIT ?"""
# How many tasks wait in each queue; of the oldest, since when.
BACKLOGS = """SELECT q.namespace_id, q.kind, q.queue, q.tasks, t.created_ns, t.sticky FROM
    (SELECT namespace_id, kind, queue, COUNT(*) AS tasks, MIN(task_id) AS oldest FROM tasks
        GROUP BY namespace_id, kind, queue) q
    JOIN tasks t ON t.shard = 0 AND t.task_id = q.oldest"""
# The row of an execution, by its id.
READ_EXECUTION = """SELECT kind, namespace_id, workflow_id, run_id, version, status, next_event_id,
    next_deadline_ns FROM executions WHERE shard = 0 AND execution_id = ?"""
READ_SNAPSHOT = "SELECT version, state FROM snapshots WHERE shard = 0 AND execution_id = ?"
# The journal after a snapshot.
READ_TAIL = """SELECT version, first_event_id, events, records FROM journal
    WHERE shard = 0 AND execution_id = ? AND version > ? AND version <= ? ORDER BY version"""
READ_HEARTBEATS = """SELECT scheduled_event_id, attempt, at_ns, details, total FROM heartbeats
    WHERE shard = 0 AND execution_id = ?"""
# A certain run of a workflow id.
FIND_RUN = """SELECT execution_id, run_id, status FROM executions
    WHERE shard = 0 AND namespace_id = ? AND kind = ? AND workflow_id = ? AND run_id = ?"""
# The run that a workflow id names.
CURRENT_RUN = """SELECT e.execution_id, e.run_id, e.status FROM current_runs c
    JOIN executions e ON e.shard = 0 AND e.execution_id = c.execution_id
    WHERE c.shard = 0 AND c.namespace_id = ? AND c.kind = ? AND c.workflow_id = ?"""
# The version of the last row that begins at or before an event.
ROW_OF_EVENT = """SELECT version FROM journal WHERE shard = 0 AND execution_id = ?
    AND first_event_id BETWEEN 1 AND ? ORDER BY version DESC LIMIT 1"""
# Rows with events, forwards and backwards.
EVENTS_FORWARD = """SELECT version, first_event_id, events FROM journal WHERE shard = 0
    AND execution_id = ? AND version >= ? AND first_event_id > 0 ORDER BY version"""
EVENTS_BACKWARD = """SELECT version, first_event_id, events FROM journal WHERE shard = 0
    AND execution_id = ? AND version <= ? AND first_event_id > 0 ORDER BY version DESC"""
# Executions that want attention.
DUE = """SELECT execution_id, next_deadline_ns FROM executions
    WHERE next_deadline_ns > 0 AND next_deadline_ns <= ? ORDER BY next_deadline_ns LIMIT ?"""
# A page of a queue's backlog.
BACKLOG = """SELECT task_id, execution_id, scheduled_event_id, stamp, created_ns, sticky, level,
    fairness_key, weight, route, (SELECT workflow_id FROM executions e
        WHERE e.shard = tasks.shard AND e.execution_id = tasks.execution_id)
    FROM tasks WHERE namespace_id = ? AND kind = ? AND queue = ? AND task_id > ?
    ORDER BY task_id LIMIT ?"""
NAMESPACES = "SELECT namespace_id, name, version, record FROM namespaces ORDER BY name"
CREATE_NAMESPACE = "INSERT INTO namespaces VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
UPDATE_NAMESPACE = """UPDATE namespaces SET name = ?, version = ?, record = ?
    WHERE namespace_id = ? AND version = ?"""
# A namespace that has no executions any more.
DELETE_NAMESPACE = (
    "DELETE FROM tasks WHERE namespace_id = ?",
    "DELETE FROM queue_configs WHERE namespace_id = ?",
    "DELETE FROM namespaces WHERE namespace_id = ?",
)
NEXUS_ENDPOINTS = "SELECT endpoint_id, name, version, record FROM nexus_endpoints"
CREATE_NEXUS_ENDPOINT = "INSERT INTO nexus_endpoints VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
UPDATE_NEXUS_ENDPOINT = """UPDATE nexus_endpoints SET name = ?, version = ?, record = ?
    WHERE endpoint_id = ? AND version = ?"""
DELETE_NEXUS_ENDPOINT = "DELETE FROM nexus_endpoints WHERE endpoint_id = ?"
# Some executions of a namespace.
EXECUTIONS_OF = """SELECT execution_id FROM executions WHERE shard = 0 AND namespace_id = ?
    LIMIT ?"""
QUEUE_CONFIG = "SELECT config FROM queue_configs WHERE namespace_id = ? AND kind = ? AND queue = ?"
PUT_QUEUE_CONFIG = """INSERT INTO queue_configs (namespace_id, kind, queue, config)
    VALUES (?, ?, ?, ?)
    ON CONFLICT (namespace_id, kind, queue) DO UPDATE SET config = excluded.config"""
METADATA = "SELECT value FROM metadata WHERE key = ?"
PUT_METADATA = """INSERT INTO metadata (key, value) VALUES (?, ?)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value"""
# What is known already stays.
ADD_METADATA = "INSERT INTO metadata (key, value) VALUES (?, ?) ON CONFLICT (key) DO NOTHING"
DELETE_EXECUTION = (
    "DELETE FROM journal WHERE shard = 0 AND execution_id = ?",
    "DELETE FROM snapshots WHERE shard = 0 AND execution_id = ?",
    "DELETE FROM heartbeats WHERE shard = 0 AND execution_id = ?",
    "DELETE FROM visibility WHERE shard = 0 AND execution_id = ?",
    "DELETE FROM tasks WHERE shard = 0 AND execution_id = ?",
    """DELETE FROM current_runs WHERE shard = 0 AND execution_id = ?1 AND (namespace_id, kind,
        workflow_id) = (SELECT namespace_id, kind, workflow_id FROM executions WHERE shard = 0 AND execution_id = ?1)""",
    "DELETE FROM executions WHERE shard = 0 AND execution_id = ?",
)
# All of a namespace by status: counting ranges of an index is twice as fast as grouping it.
COUNT_BY_STATUS = " UNION ALL ".join(
    f"""SELECT {status} AS status, count(*) FROM visibility
        WHERE namespace_id = ?1 AND kind = ?2 AND status = {status}"""
    for status in sorted(set(STATUSES.values()))
)
VISIBLE_COLUMNS = """execution_id, workflow_id, run_id, workflow_type, task_queue, status, start_ns,
    execution_ns, close_ns, history_length, history_size_bytes, state_transitions,
    parent_workflow_id, parent_run_id, root_workflow_id, root_run_id, memo, search_attributes,
    sort_close_ns"""


LIST_ORDER = "ORDER BY sort_close_ns DESC, start_ns DESC, execution_id DESC"
# A page of a list begins after a certain row.
AFTER_ROW = "(sort_close_ns, start_ns, execution_id) < (?, ?, ?)"


@lru_cache(maxsize=1024)
def numbered(sql: str) -> str:
    """The same statement with the marks of PostgreSQL: `$1`, `$2` and so on."""
    return _numbered(sql)[0]


@lru_cache(maxsize=1024)
def routed(sql: str) -> str:
    """The same for one shard, whose number is bound after all other values."""
    text, count = _numbered(sql)
    return text.replace("shard = 0", f"shard = ${count + 1}")


def _numbered(sql: str) -> tuple[str, int]:
    count = 0

    def mark(found: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return f"${found[1] or count}"

    return re.sub(r"\?(\d*)", mark, sql), count
