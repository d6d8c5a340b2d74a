-- What decides when a task's turn is: levels and fairness keys.
ALTER TABLE tasks ADD COLUMN level INTEGER NOT NULL DEFAULT 3;
ALTER TABLE tasks ADD COLUMN fairness_key TEXT NOT NULL DEFAULT '';
ALTER TABLE tasks ADD COLUMN weight REAL NOT NULL DEFAULT 1.0;

-- How a queue is configured; `config` is a serialized TaskQueueConfig.
CREATE TABLE queue_configs (
    namespace_id TEXT NOT NULL,
    kind INTEGER NOT NULL,
    queue TEXT NOT NULL,
    config BLOB NOT NULL,
    PRIMARY KEY (namespace_id, kind, queue)
) WITHOUT ROWID;
