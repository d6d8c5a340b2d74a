-- The registry of Nexus endpoints: names under which operations are called, wherever they are handled.
CREATE TABLE nexus_endpoints (
    endpoint_id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    record BLOB NOT NULL
);
