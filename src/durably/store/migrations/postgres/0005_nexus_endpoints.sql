-- The registry of Nexus endpoints: names under which operations are called, wherever they are handled.
CREATE TABLE nexus_endpoints (
    endpoint_id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    version BIGINT NOT NULL,
    record BYTEA NOT NULL
);
