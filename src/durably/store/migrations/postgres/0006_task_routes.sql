-- For which workers a task is; empty: for any. See engine/versioning/version.py.
ALTER TABLE tasks ADD COLUMN route BYTEA NOT NULL DEFAULT '';
