-- Whose workers wait where, by the version they have: two versions may live in one process.
ALTER TABLE pollers ADD COLUMN version TEXT COLLATE "C" NOT NULL DEFAULT '';
-- Servers of the version before write without it, and name the primary key: it stays. Of a worker that has
-- a version, the identity says so too.
CREATE UNIQUE INDEX pollers_by_part ON pollers (node, namespace_id, kind, queue, version, identity);

-- Requests to handlers that are workers, while no worker waits at the server that asks. `holder`: the
-- server that has given it to one; 0: none has. Not in the log: its asker has it, and writes it again.
CREATE UNLOGGED TABLE nexus_requests (
    request_id TEXT COLLATE "C" PRIMARY KEY,
    asker BIGINT NOT NULL,
    holder BIGINT NOT NULL,
    namespace_id TEXT COLLATE "C" NOT NULL,
    queue TEXT COLLATE "C" NOT NULL,
    version TEXT COLLATE "C" NOT NULL,
    asked_at TIMESTAMPTZ NOT NULL,
    ends_at TIMESTAMPTZ NOT NULL,
    request BYTEA NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX nexus_requests_by_queue ON nexus_requests (namespace_id, queue, version);
CREATE INDEX nexus_requests_by_asker ON nexus_requests (asker);

-- The last heartbeat of each worker, whichever server heard it. Not in the log: workers repeat it.
CREATE UNLOGGED TABLE worker_heartbeats (
    namespace_id TEXT COLLATE "C" NOT NULL,
    instance_key TEXT COLLATE "C" NOT NULL,
    seen_at TIMESTAMPTZ NOT NULL,
    heartbeat BYTEA NOT NULL,
    PRIMARY KEY (namespace_id, instance_key)
) WITH (fillfactor = 50);
