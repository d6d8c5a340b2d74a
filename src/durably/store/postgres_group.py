"""Many units as one statement of PostgreSQL: a group commit in one round trip.

Rule 1: each execution is in the group once: a later version of it stands for the earlier ones, and
        either all of them are written or none.
Rule 2: what would need two statements does not fit into the group (`Group.fits`), and begins the next.
Rule 3: a unit of several executions that would be written in part is torn: the statement fails, nothing
        of the group is written, and its units are then written one by one.
Rule 4: rows are locked in the order of their keys, so that the groups of two servers do not lock each
        other out.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from operator import itemgetter
from typing import Any

from durably.store.rows import task_values, visible_values
from durably.store.store import Commit, ExecutionWrite

UNITS_MAX = 512
BYTES_MAX = 32 * 1024 * 1024

Row = tuple[Any, ...]
Key = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Part:
    """One step of the statement: rows that go in, as an array for each column, and what is done.

    In `sql`, `{rows}` stands for the rows, `{won}` for the executions that won their race; `$1` is the
    group's tag, `$2` its shard.
    """

    name: str
    columns: tuple[tuple[str, str], ...]
    sql: str


def _columns(text: str) -> tuple[tuple[str, str], ...]:
    pairs = (column.split() for column in text.split(","))
    return tuple((name, kind) for name, kind in pairs)


# Which run a workflow id names: this one, if none is named yet.
CLAIM = Part(
    "claimed",
    _columns("namespace_id text, kind int, workflow_id text, execution_id bigint, run_id text"),
    """INSERT INTO current_runs (shard, namespace_id, kind, workflow_id, execution_id, run_id)
    SELECT $2::int, r.namespace_id, r.kind, r.workflow_id, r.execution_id, r.run_id FROM {rows}
    ON CONFLICT DO NOTHING RETURNING execution_id""",
)
# The same, in place of a certain other run.
REPLACE = Part(
    "replaced",
    _columns(
        "namespace_id text, kind int, workflow_id text, execution_id bigint, run_id text,"
        " replaces bigint"
    ),
    """UPDATE current_runs c SET execution_id = r.execution_id, run_id = r.run_id FROM {rows}
    WHERE c.shard = $2::int AND c.namespace_id = r.namespace_id AND c.kind = r.kind
        AND c.workflow_id = r.workflow_id AND c.execution_id = r.replaces
    RETURNING c.execution_id""",
)
# The compare-and-set: the next version of an execution.
ADVANCE = Part(
    "advanced",
    _columns(
        "execution_id bigint, expected bigint, version bigint, status int, next_event_id bigint,"
        " next_deadline_ns bigint"
    ),
    """UPDATE executions e SET version = r.version, status = r.status,
        next_event_id = r.next_event_id, next_deadline_ns = r.next_deadline_ns, written_by = $1
    FROM {rows}
    WHERE e.shard = $2::int AND e.execution_id = r.execution_id AND e.version = r.expected
    RETURNING e.execution_id""",
)
# New executions; those that claim their workflow id only if they got it.
CREATE = Part(
    "created",
    _columns(
        "execution_id bigint, kind int, namespace_id text, workflow_id text, run_id text,"
        " version bigint, status int, next_event_id bigint, next_deadline_ns bigint, claims bool"
    ),
    """INSERT INTO executions (shard, execution_id, kind, namespace_id, workflow_id, run_id,
        version, status, next_event_id, next_deadline_ns, written_by)
    SELECT $2::int, r.execution_id, r.kind, r.namespace_id, r.workflow_id, r.run_id, r.version, r.status,
        r.next_event_id, r.next_deadline_ns, $1
    FROM {rows} WHERE NOT r.claims OR r.execution_id IN ({claims})
    RETURNING execution_id""",
)
# What the commits added to histories and beside them.
APPEND = Part(
    "appended",
    _columns(
        "execution_id bigint, version bigint, first_event_id bigint, events bytea, records bytea"
    ),
    """INSERT INTO journal (shard, execution_id, version, first_event_id, events, records)
    SELECT $2::int, r.execution_id, r.version, r.first_event_id, r.events, r.records FROM {rows}
    WHERE r.execution_id IN ({won})""",
)
# The state, so that loading need not start at the beginning.
SNAPSHOT = Part(
    "snapshots_taken",
    _columns("execution_id bigint, version bigint, state bytea"),
    """INSERT INTO snapshots AS s (shard, execution_id, version, state)
    SELECT $2::int, r.execution_id, r.version, r.state FROM {rows} WHERE r.execution_id IN ({won})
    ON CONFLICT (shard, execution_id) DO UPDATE SET version = excluded.version,
        state = excluded.state""",
)
# The journal that a snapshot makes unnecessary.
FORGET = Part(
    "forgotten",
    _columns("execution_id bigint, version bigint"),
    """DELETE FROM journal j USING {rows} WHERE j.shard = $2::int AND j.execution_id = r.execution_id
    AND j.version <= r.version AND r.execution_id IN ({won})""",
)
# The last heartbeats of activities.
HEARTBEAT = Part(
    "heard",
    _columns(
        "execution_id bigint, scheduled_event_id bigint, attempt bigint, at_ns bigint,"
        " details bytea, total bigint"
    ),
    """INSERT INTO heartbeats (shard, execution_id, scheduled_event_id, attempt, at_ns, details, total)
    SELECT $2::int, r.execution_id, r.scheduled_event_id, r.attempt, r.at_ns, r.details, r.total
    FROM {rows} WHERE r.execution_id IN ({won})
    ON CONFLICT (shard, execution_id, scheduled_event_id) DO UPDATE SET attempt = excluded.attempt,
        at_ns = excluded.at_ns, details = excluded.details, total = excluded.total""",
)
# What lists and counts see; what never changes is not written again.
SHOW = Part(
    "shown",
    _columns(
        "execution_id bigint, kind int, namespace_id text, workflow_id text, run_id text,"
        " workflow_type text, task_queue text, status int, start_ns bigint, execution_ns bigint,"
        " close_ns bigint, history_length bigint, history_size_bytes bigint,"
        " state_transitions bigint, parent_workflow_id text, parent_run_id text,"
        " root_workflow_id text, root_run_id text, memo bytea, search_attributes bytea,"
        " search_values text, sort_close_ns bigint"
    ),
    """INSERT INTO visibility (shard, execution_id, kind, namespace_id, workflow_id, run_id,
        workflow_type, task_queue, status, start_ns, execution_ns, close_ns, history_length,
        history_size_bytes, state_transitions, parent_workflow_id, parent_run_id, root_workflow_id,
        root_run_id, memo, search_attributes, search_values, sort_close_ns)
    SELECT $2::int, r.execution_id, r.kind, r.namespace_id, r.workflow_id, r.run_id, r.workflow_type,
        r.task_queue, r.status, r.start_ns, r.execution_ns, r.close_ns, r.history_length,
        r.history_size_bytes, r.state_transitions, r.parent_workflow_id, r.parent_run_id,
        r.root_workflow_id, r.root_run_id, r.memo, r.search_attributes, r.search_values::jsonb,
        r.sort_close_ns
    FROM {rows} WHERE r.execution_id IN ({won})
    ON CONFLICT (shard, execution_id) DO UPDATE SET workflow_type = excluded.workflow_type,
        task_queue = excluded.task_queue, status = excluded.status,
        execution_ns = excluded.execution_ns, close_ns = excluded.close_ns,
        history_length = excluded.history_length,
        history_size_bytes = excluded.history_size_bytes,
        state_transitions = excluded.state_transitions, memo = excluded.memo,
        search_attributes = excluded.search_attributes, search_values = excluded.search_values,
        sort_close_ns = excluded.sort_close_ns""",
)
# Tasks that no poller waited for; `guard` is an execution of their unit (0: none).
ADD_TASK = Part(
    "tasks_added",
    _columns(
        "guard bigint, task_id bigint, namespace_id text, kind int, queue text, execution_id bigint,"
        " scheduled_event_id bigint, stamp bigint, created_ns bigint, sticky int, level int,"
        " fairness_key text, weight float8, route bytea, node bigint"
    ),
    """INSERT INTO tasks (shard, task_id, namespace_id, kind, queue, execution_id,
        scheduled_event_id, stamp, created_ns, sticky, level, fairness_key, weight, route,
        node)
    SELECT $2::int, r.task_id, r.namespace_id, r.kind, r.queue, r.execution_id, r.scheduled_event_id,
        r.stamp, r.created_ns, r.sticky, r.level, r.fairness_key, r.weight, r.route,
        r.node
    FROM {rows} WHERE r.guard = 0 OR r.guard IN ({won})""",
)
# Tasks that a worker has started, or that are stale.
REMOVE_TASK = Part(
    "tasks_removed",
    _columns("guard bigint, task_id bigint"),
    """DELETE FROM tasks t USING {rows} WHERE t.shard = $2::int AND t.task_id = r.task_id
    AND (r.guard = 0 OR r.guard IN ({won}))""",
)
# Executions of one unit: both are written, or neither.
TOGETHER = Part(
    "together",
    _columns("one bigint, other bigint"),
    """SELECT 1 FROM {rows} WHERE (r.one IN ({won})) <> (r.other IN ({won}))""",
)
PARTS = (
    CLAIM,
    REPLACE,
    ADVANCE,
    CREATE,
    APPEND,
    SNAPSHOT,
    FORGET,
    HEARTBEAT,
    SHOW,
    ADD_TASK,
    REMOVE_TASK,
    TOGETHER,
)
NO_ROWS = "SELECT NULL::bigint WHERE FALSE"


@cache
def statement(names: tuple[str, ...]) -> str:
    """The statement that does these parts. Its one value: the executions that won their race.

    A torn unit makes it divide by zero.
    """
    present = [part for part in PARTS if part.name in names]
    steps: list[str] = []
    mark = 2
    races = [name for name in ("advanced", "created") if name in names]
    claims = [name for name in ("claimed", "replaced") if name in names]
    won = "SELECT execution_id FROM won" if races else NO_ROWS
    claimed = " UNION ALL ".join(f"SELECT execution_id FROM {name}" for name in claims) or NO_ROWS
    won_added = False
    for part in present:
        if races and not won_added and part.name not in (*races, *claims):
            steps.append(_won(races))
            won_added = True
        marks = []
        for _, kind in part.columns:
            mark += 1
            marks.append(f"${mark}::{kind}[]")
        rows = f"unnest({', '.join(marks)}) AS r({', '.join(name for name, _ in part.columns)})"
        sql = part.sql.format(rows=rows, won=won, claims=claimed)
        steps.append(f"{part.name} AS ({sql})")
    if races and not won_added:
        steps.append(_won(races))
    whole = f"ARRAY({won})"
    if TOGETHER.name in names:
        torn = f"CASE WHEN EXISTS (SELECT 1 FROM {TOGETHER.name}) THEN 0 ELSE 1 END"
        return f"WITH {', '.join(steps)} SELECT {whole}, 1 / {torn}, $1::bigint, $2::int"
    return f"WITH {', '.join(steps)} SELECT {whole}, $1::bigint, $2::int"


def _won(races: Sequence[str]) -> str:
    found = " UNION ALL ".join(f"SELECT execution_id FROM {name}" for name in races)
    return f"won AS ({found})"


@dataclass(slots=True)
class _Together:
    """All versions of one execution in the group."""

    first: ExecutionWrite
    last: ExecutionWrite
    done: asyncio.Future[None]

    @property
    def version(self) -> int:
        return self.last.expected_version + 1


@dataclass(slots=True)
class Group:
    """Units of one shard on their way into one statement. `tag` names the group in the rows that it
    writes; `node` the server whose memory has the tasks that are added."""

    tag: int
    shard: int = 0
    node: int = 0
    units: list[Commit] = field(default_factory=list)
    _executions: dict[int, _Together] = field(default_factory=dict)
    _claimed: set[Key] = field(default_factory=set)
    _size_bytes: int = 0

    def fits(self, unit: Commit) -> bool:
        """Whether a unit can be written by the same statement as those before it."""
        if len(self.units) >= UNITS_MAX or self._size_bytes >= BYTES_MAX:
            return False
        for write in unit.writes:
            before = self._executions.get(write.execution_id)
            if before is not None and (
                write.expected_version != before.version or write.decided_on is not before.done
            ):
                return False
            if write.replaces_current is not None and _key(write) in self._claimed:
                return False
        return True

    def add(self, unit: Commit, done: asyncio.Future[None]) -> None:
        """`done` is the unit's end: what is decided on top of it names it."""
        self.units.append(unit)
        for write in unit.writes:
            before = self._executions.get(write.execution_id)
            if before is None:
                self._executions[write.execution_id] = _Together(write, write, done)
            else:
                before.last, before.done = write, done
            if write.replaces_current is not None:
                self._claimed.add(_key(write))
            self._size_bytes += len(write.events) + len(write.records) + len(write.snapshot)

    def lost(self, unit: Commit, won: set[int]) -> bool:
        return any(write.execution_id not in won for write in unit.writes)

    def execution_ids(self) -> list[int]:
        return list(self._executions)

    def statement(self) -> tuple[str, list[object]]:
        """The statement of this group, and the values to bind."""
        columns = self.columns()
        values = [column for found in columns.values() for column in found]
        return statement(tuple(columns)), [self.tag, self.shard, *values]

    def columns(self) -> dict[str, list[list[Any]]]:
        """Of each part that has something to do, its rows column by column."""
        rows: dict[str, list[Row]] = {part.name: [] for part in PARTS}
        self._add_races(rows)
        self._add_rest(rows)
        self._add_tasks(rows)
        return {
            part.name: [list(column) for column in zip(*rows[part.name], strict=True)]
            for part in PARTS
            if rows[part.name]
        }

    def _add_races(self, rows: dict[str, list[Row]]) -> None:
        for execution_id in sorted(self._executions):
            together = self._executions[execution_id]
            first, last = together.first, together.last
            version = together.version
            end = (last.status, last.next_event_id, last.next_deadline_ns)
            if first.expected_version:
                row: Row = (execution_id, first.expected_version, version, *end)
                rows[ADVANCE.name].append(row)
                continue
            key = (first.namespace_id, int(first.kind), first.workflow_id)
            claims = first.replaces_current is not None
            row = (execution_id, key[1], key[0], key[2], first.run_id, version, *end, claims)
            rows[CREATE.name].append(row)
            if first.replaces_current == 0:
                rows[CLAIM.name].append((*key, execution_id, first.run_id))
            elif claims:
                replaces = (*key, execution_id, first.run_id, first.replaces_current)
                rows[REPLACE.name].append(replaces)
        for name in (CLAIM.name, REPLACE.name):
            rows[name].sort(key=itemgetter(0, 1, 2))

    def _add_rest(self, rows: dict[str, list[Row]]) -> None:
        snapshots: dict[int, Row] = {}
        forgotten: dict[int, int] = {}
        shown: dict[int, Row] = {}
        heartbeats: dict[tuple[int, int], Row] = {}
        for write in (write for unit in self.units for write in unit.writes):
            execution_id, version = write.execution_id, write.expected_version + 1
            if write.events or write.records:
                added = (execution_id, version, write.first_event_id, write.events, write.records)
                rows[APPEND.name].append(added)
            if write.snapshot:
                snapshots[execution_id] = (execution_id, version, write.snapshot)
                if write.forgets_journal:
                    forgotten[execution_id] = version
            for beat in write.heartbeats:
                event_id = beat.scheduled_event_id
                values = (
                    execution_id,
                    event_id,
                    beat.attempt,
                    beat.at_ns,
                    beat.details,
                    beat.total,
                )
                heartbeats[execution_id, event_id] = values
            if write.visibility is not None:
                shown[execution_id] = visible_values(write, write.visibility)
        if forgotten:
            kept = [row for row in rows[APPEND.name] if row[1] > forgotten.get(row[0], 0)]
            rows[APPEND.name] = kept
        rows[SNAPSHOT.name] = list(snapshots.values())
        rows[FORGET.name] = list(forgotten.items())
        rows[HEARTBEAT.name] = list(heartbeats.values())
        rows[SHOW.name] = [(row[0], int(row[1]), *row[2:]) for row in shown.values()]

    def _add_tasks(self, rows: dict[str, list[Row]]) -> None:
        added: dict[int, Row] = {}
        removed: dict[int, Row] = {}
        for unit in self.units:
            guard = unit.writes[0].execution_id if unit.writes else 0
            for task in unit.tasks_added:
                node = self.node if task.held else 0
                added[task.task_id] = (guard, *task_values(task), node)
            for task_id in unit.tasks_removed:
                if added.pop(task_id, None) is None:
                    removed[task_id] = (guard, task_id)
            for other in unit.writes[1:]:
                rows[TOGETHER.name].append((guard, other.execution_id))
        rows[ADD_TASK.name] = list(added.values())
        rows[REMOVE_TASK.name] = list(removed.values())


def _key(write: ExecutionWrite) -> Key:
    return write.namespace_id, int(write.kind), write.workflow_id


def alone(unit: Commit, done: asyncio.Future[None], like: Group) -> Group:
    """A group of this unit alone, with the tag, the shard and the node of another."""
    group = Group(like.tag, like.shard, like.node)
    group.add(unit, done)
    return group


def won_of(row: Sequence[Any]) -> set[int]:
    """The executions that won their race, from the answer to a group's statement."""
    return set(row[0])
