-- Every index that a page of a list is read from ends in the order of lists; where it has the status
-- too, a list or a count by both need not look at the rows.
DROP INDEX visibility_by_time;
CREATE INDEX visibility_by_time ON visibility
    (namespace_id, kind, sort_close_ns DESC, start_ns DESC, execution_id DESC, status);
DROP INDEX visibility_by_status;
CREATE INDEX visibility_by_status ON visibility
    (namespace_id, kind, status, sort_close_ns DESC, start_ns DESC, execution_id DESC);
CREATE INDEX visibility_by_type ON visibility
    (namespace_id, kind, workflow_type, sort_close_ns DESC, start_ns DESC, execution_id DESC, status);
CREATE INDEX visibility_by_start ON visibility (namespace_id, kind, start_ns);
CREATE INDEX visibility_by_run_id ON visibility (namespace_id, kind, run_id);
CREATE INDEX visibility_by_parent ON visibility (namespace_id, kind, parent_workflow_id)
    WHERE parent_workflow_id <> '';
CREATE INDEX visibility_by_root ON visibility (namespace_id, kind, root_workflow_id);

-- The values of search attributes that have no column of their own; of a list each of its values.
CREATE TABLE attribute_values (
    shard INTEGER NOT NULL,
    namespace_id TEXT NOT NULL,
    kind INTEGER NOT NULL,
    name TEXT NOT NULL,
    value NOT NULL,
    sort_close_ns INTEGER NOT NULL,
    start_ns INTEGER NOT NULL,
    execution_id INTEGER NOT NULL,
    status INTEGER NOT NULL,
    PRIMARY KEY (shard, namespace_id, kind, name, value, sort_close_ns DESC, start_ns DESC,
        execution_id DESC)
) WITHOUT ROWID;
INSERT OR IGNORE INTO attribute_values
    SELECT v.shard, v.namespace_id, v.kind, attribute.key, item.value, v.sort_close_ns, v.start_ns,
        v.execution_id, v.status
    FROM visibility v, json_each(v.search_values) attribute,
        json_each(CASE attribute.type WHEN 'array' THEN attribute.value
            ELSE json_array(attribute.value) END) item
    WHERE attribute.key <> 'BuildIds' AND item.type <> 'null'
        AND length(CAST(item.value AS BLOB)) <= 255;

-- What the planner is to assume of these tables, whatever is in them: plans that do not change. The
-- numbers: rows in all, then rows that share the first column, the first two, and so on.
ANALYZE metadata;
DELETE FROM sqlite_stat1;
INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
    ('visibility', 'visibility', '1000000 1000000 1'),
    ('visibility', 'visibility_by_time', '1000000 1000000 1000000 10 2 1 1'),
    ('visibility', 'visibility_by_workflow', '1000000 1000000 1000000 2'),
    ('visibility', 'visibility_by_status', '1000000 1000000 1000000 200000 2 1 1'),
    ('visibility', 'visibility_by_type', '1000000 1000000 1000000 100000 2 1 1 1'),
    ('visibility', 'visibility_by_start', '1000000 1000000 1000000 2'),
    ('visibility', 'visibility_by_run_id', '1000000 1000000 1000000 1'),
    ('visibility', 'visibility_by_parent', '100000 100000 100000 10'),
    ('visibility', 'visibility_by_root', '1000000 1000000 1000000 2'),
    ('attribute_values', 'attribute_values', '1000000 1000000 1000000 1000000 500000 1000 2 1 1');
ANALYZE sqlite_schema;
