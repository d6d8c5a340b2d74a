-- One row per run. Small: touched by every commit of its execution.
-- `kind`: 1 workflow, 2 standalone activity, 3 schedule, 4 batch, 5 standalone Nexus operation.
CREATE TABLE executions (
    shard INTEGER NOT NULL,
    execution_id INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    namespace_id TEXT NOT NULL,
    workflow_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    status INTEGER NOT NULL,
    next_event_id INTEGER NOT NULL,
    next_deadline_ns INTEGER NOT NULL,
    PRIMARY KEY (shard, execution_id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX executions_by_run ON executions (shard, namespace_id, kind, workflow_id, run_id);
CREATE INDEX executions_by_deadline ON executions (next_deadline_ns) WHERE next_deadline_ns > 0;

-- Append-only: what each commit added. `events` is the wire form of a History message.
CREATE TABLE journal (
    shard INTEGER NOT NULL,
    execution_id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    first_event_id INTEGER NOT NULL,
    events BLOB NOT NULL,
    records BLOB NOT NULL,
    PRIMARY KEY (shard, execution_id, version)
) WITHOUT ROWID;

-- The state at some version, so that loading is snapshot plus tail.
CREATE TABLE snapshots (
    shard INTEGER NOT NULL,
    execution_id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    state BLOB NOT NULL,
    PRIMARY KEY (shard, execution_id)
) WITHOUT ROWID;

-- Which run an id names: at most one is open, because this key is unique.
CREATE TABLE current_runs (
    shard INTEGER NOT NULL,
    namespace_id TEXT NOT NULL,
    kind INTEGER NOT NULL,
    workflow_id TEXT NOT NULL,
    execution_id INTEGER NOT NULL,
    run_id TEXT NOT NULL,
    PRIMARY KEY (shard, namespace_id, kind, workflow_id)
) WITHOUT ROWID;

-- Tasks that found no waiting poller.
CREATE TABLE tasks (
    shard INTEGER NOT NULL,
    task_id INTEGER NOT NULL,
    namespace_id TEXT NOT NULL,
    kind INTEGER NOT NULL,
    queue TEXT NOT NULL,
    execution_id INTEGER NOT NULL,
    scheduled_event_id INTEGER NOT NULL,
    stamp INTEGER NOT NULL,
    created_ns INTEGER NOT NULL,
    sticky INTEGER NOT NULL,
    PRIMARY KEY (shard, task_id)
) WITHOUT ROWID;
CREATE INDEX tasks_by_queue ON tasks (namespace_id, kind, queue, task_id);
CREATE INDEX tasks_by_execution ON tasks (execution_id);

-- The last heartbeat of a pending activity; overwritten.
CREATE TABLE heartbeats (
    shard INTEGER NOT NULL,
    execution_id INTEGER NOT NULL,
    scheduled_event_id INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    at_ns INTEGER NOT NULL,
    details BLOB NOT NULL,
    PRIMARY KEY (shard, execution_id, scheduled_event_id)
) WITHOUT ROWID;

-- What lists and counts see; written in the same transaction as the execution.
CREATE TABLE visibility (
    shard INTEGER NOT NULL,
    execution_id INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    namespace_id TEXT NOT NULL,
    workflow_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    workflow_type TEXT NOT NULL,
    task_queue TEXT NOT NULL,
    status INTEGER NOT NULL,
    start_ns INTEGER NOT NULL,
    execution_ns INTEGER NOT NULL,
    close_ns INTEGER NOT NULL,
    history_length INTEGER NOT NULL,
    history_size_bytes INTEGER NOT NULL,
    state_transitions INTEGER NOT NULL,
    parent_workflow_id TEXT NOT NULL,
    parent_run_id TEXT NOT NULL,
    root_workflow_id TEXT NOT NULL,
    root_run_id TEXT NOT NULL,
    memo BLOB NOT NULL,
    search_attributes BLOB NOT NULL,
    search_values TEXT NOT NULL,
    sort_close_ns INTEGER NOT NULL,
    PRIMARY KEY (shard, execution_id)
) WITHOUT ROWID;
CREATE INDEX visibility_by_time
    ON visibility (namespace_id, kind, sort_close_ns DESC, start_ns DESC, execution_id DESC);
CREATE INDEX visibility_by_workflow ON visibility (namespace_id, kind, workflow_id);
CREATE INDEX visibility_by_status ON visibility (namespace_id, kind, status);

CREATE TABLE namespaces (
    namespace_id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    record BLOB NOT NULL
);

CREATE TABLE metadata (
    key TEXT PRIMARY KEY,
    value BLOB NOT NULL
);
