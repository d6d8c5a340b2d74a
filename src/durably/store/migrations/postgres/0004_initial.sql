-- The schema of PostgreSQL begins here; its numbers mean what SQLite's mean. Texts compare by code
-- points, as everywhere.

-- One row per run. Small: touched by every commit of its execution; room in its page for the next
-- versions, so that they need not touch the indexes.
-- `written_by`: the group commit that wrote this version, so that one whose answer was lost is known.
CREATE TABLE executions (
    shard INTEGER NOT NULL,
    execution_id BIGINT NOT NULL,
    kind INTEGER NOT NULL,
    namespace_id TEXT COLLATE "C" NOT NULL,
    workflow_id TEXT COLLATE "C" NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    status INTEGER NOT NULL,
    next_event_id BIGINT NOT NULL,
    next_deadline_ns BIGINT NOT NULL,
    written_by BIGINT NOT NULL,
    PRIMARY KEY (shard, execution_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
CREATE UNIQUE INDEX executions_by_run ON executions (shard, namespace_id, kind, workflow_id, run_id);
CREATE INDEX executions_by_deadline ON executions (next_deadline_ns) WHERE next_deadline_ns > 0;

-- Append-only: what each commit added. `events` is the wire form of a History message.
CREATE TABLE journal (
    shard INTEGER NOT NULL,
    execution_id BIGINT NOT NULL,
    version BIGINT NOT NULL,
    first_event_id BIGINT NOT NULL,
    events BYTEA NOT NULL,
    records BYTEA NOT NULL,
    PRIMARY KEY (shard, execution_id, version)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- The state at some version, so that loading is snapshot plus tail.
CREATE TABLE snapshots (
    shard INTEGER NOT NULL,
    execution_id BIGINT NOT NULL,
    version BIGINT NOT NULL,
    state BYTEA NOT NULL,
    PRIMARY KEY (shard, execution_id)
);

-- Which run an id names: at most one is open, because this key is unique.
CREATE TABLE current_runs (
    shard INTEGER NOT NULL,
    namespace_id TEXT COLLATE "C" NOT NULL,
    kind INTEGER NOT NULL,
    workflow_id TEXT COLLATE "C" NOT NULL,
    execution_id BIGINT NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (shard, namespace_id, kind, workflow_id)
);

-- Tasks that found no waiting poller. `node`: the server that has it in memory to give it out.
CREATE TABLE tasks (
    shard INTEGER NOT NULL,
    task_id BIGINT NOT NULL,
    namespace_id TEXT COLLATE "C" NOT NULL,
    kind INTEGER NOT NULL,
    queue TEXT COLLATE "C" NOT NULL,
    execution_id BIGINT NOT NULL,
    scheduled_event_id BIGINT NOT NULL,
    stamp BIGINT NOT NULL,
    created_ns BIGINT NOT NULL,
    sticky INTEGER NOT NULL,
    level INTEGER NOT NULL,
    fairness_key TEXT COLLATE "C" NOT NULL,
    weight DOUBLE PRECISION NOT NULL,
    node BIGINT NOT NULL,
    PRIMARY KEY (shard, task_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500);
CREATE INDEX tasks_by_queue ON tasks (namespace_id, kind, queue, level, task_id);
CREATE INDEX tasks_by_execution ON tasks (shard, execution_id);

-- The last heartbeat of a pending activity; overwritten.
CREATE TABLE heartbeats (
    shard INTEGER NOT NULL,
    execution_id BIGINT NOT NULL,
    scheduled_event_id BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    at_ns BIGINT NOT NULL,
    details BYTEA NOT NULL,
    total BIGINT NOT NULL,
    PRIMARY KEY (shard, execution_id, scheduled_event_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

-- What lists and counts see; written in the same transaction as the execution.
CREATE TABLE visibility (
    shard INTEGER NOT NULL,
    execution_id BIGINT NOT NULL,
    kind INTEGER NOT NULL,
    namespace_id TEXT COLLATE "C" NOT NULL,
    workflow_id TEXT COLLATE "C" NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL,
    workflow_type TEXT COLLATE "C" NOT NULL,
    task_queue TEXT COLLATE "C" NOT NULL,
    status INTEGER NOT NULL,
    start_ns BIGINT NOT NULL,
    execution_ns BIGINT NOT NULL,
    close_ns BIGINT NOT NULL,
    history_length BIGINT NOT NULL,
    history_size_bytes BIGINT NOT NULL,
    state_transitions BIGINT NOT NULL,
    parent_workflow_id TEXT COLLATE "C" NOT NULL,
    parent_run_id TEXT COLLATE "C" NOT NULL,
    root_workflow_id TEXT COLLATE "C" NOT NULL,
    root_run_id TEXT COLLATE "C" NOT NULL,
    memo BYTEA NOT NULL,
    search_attributes BYTEA NOT NULL,
    search_values JSONB NOT NULL,
    sort_close_ns BIGINT NOT NULL,
    PRIMARY KEY (shard, execution_id)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX visibility_by_time ON visibility
    (namespace_id, kind, sort_close_ns DESC, start_ns DESC, execution_id DESC, status);
CREATE INDEX visibility_by_status ON visibility
    (namespace_id, kind, status, sort_close_ns DESC, start_ns DESC, execution_id DESC);
CREATE INDEX visibility_by_type ON visibility
    (namespace_id, kind, workflow_type, sort_close_ns DESC, start_ns DESC, execution_id DESC, status);
CREATE INDEX visibility_by_workflow ON visibility (namespace_id, kind, workflow_id);
CREATE INDEX visibility_by_start ON visibility (namespace_id, kind, start_ns);
CREATE INDEX visibility_by_run_id ON visibility (namespace_id, kind, run_id);
CREATE INDEX visibility_by_parent ON visibility (namespace_id, kind, parent_workflow_id)
    WHERE parent_workflow_id <> '';
CREATE INDEX visibility_by_root ON visibility (namespace_id, kind, root_workflow_id);
-- What contains a value of a search attribute.
CREATE INDEX visibility_by_value ON visibility USING gin (search_values jsonb_path_ops);

CREATE TABLE namespaces (
    namespace_id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    version BIGINT NOT NULL,
    record BYTEA NOT NULL
);

CREATE TABLE metadata (
    key TEXT COLLATE "C" PRIMARY KEY,
    value BYTEA NOT NULL
);

-- How a queue is configured; `config` is a serialized TaskQueueConfig.
CREATE TABLE queue_configs (
    namespace_id TEXT COLLATE "C" NOT NULL,
    kind INTEGER NOT NULL,
    queue TEXT COLLATE "C" NOT NULL,
    config BYTEA NOT NULL,
    PRIMARY KEY (namespace_id, kind, queue)
);

-- The servers that are there: each says so again and again.
CREATE SEQUENCE node_numbers;
CREATE TABLE nodes (
    node BIGINT PRIMARY KEY,
    address TEXT NOT NULL,
    seen_at TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);

-- Who waits for tasks where: what servers tell each other. Not in the log: it is worth nothing after a
-- crash.
CREATE UNLOGGED TABLE pollers (
    node BIGINT NOT NULL,
    namespace_id TEXT COLLATE "C" NOT NULL,
    kind INTEGER NOT NULL,
    queue TEXT COLLATE "C" NOT NULL,
    identity TEXT COLLATE "C" NOT NULL,
    at_ns BIGINT NOT NULL,
    request BYTEA NOT NULL,
    PRIMARY KEY (node, namespace_id, kind, queue, identity)
) WITH (fillfactor = 50);

-- What one server has to say to another and is too long for a notification. Not in the log either.
CREATE UNLOGGED TABLE letters (
    letter_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node BIGINT NOT NULL,
    sent_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    body BYTEA NOT NULL
);
