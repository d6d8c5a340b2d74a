"""Lists and counts in SQLite.

Rule 1: a search begins with the rarest of the values that it asks for, else with an index of `visibility`.
"""

import sqlite3

from durably.store.rows import decode_page_token, page_token_after, visible
from durably.store.statements import (
    AFTER_ROW,
    COUNT_BY_STATUS,
    LIST_ORDER,
    VISIBLE_COLUMNS,
)
from durably.store.store import VisibleExecution
from durably.store.visibility_query import ByAttribute, Query

SEVERAL_VALUES = 10_000
"""So many rows of an attribute's value are counted to find which of several is the rarest."""


def found_by(
    connection: sqlite3.Connection, kind: int, namespace_id: str, query: Query
) -> tuple[str, str, list[object]]:
    """Where to look for what is asked, the condition there, and its values."""
    way = _rarest(connection, kind, namespace_id, query.by_attribute)
    if way is None:
        condition, asked = query.sql, query.values
        source, sql = "visibility", "namespace_id = ? AND kind = ?"
        values: list[object] = [namespace_id, kind]
    else:
        condition, asked = way.rest, way.rest_values
        source, sql, values = _of_attribute(kind, namespace_id, way)
        if not way.copied:
            source += """ CROSS JOIN visibility USING
                (shard, namespace_id, kind, sort_close_ns, start_ns, execution_id, status)"""
    return source, f"{sql} AND ({condition})" if condition else sql, [*values, *asked]


def _of_attribute(kind: int, namespace_id: str, way: ByAttribute) -> tuple[str, str, list[object]]:
    sql = f"shard = 0 AND namespace_id = ? AND kind = ? AND name = ? AND {way.sql}"
    return "attribute_values", sql, [namespace_id, kind, way.name, *way.values]


def _rarest(
    connection: sqlite3.Connection, kind: int, namespace_id: str, ways: tuple[ByAttribute, ...]
) -> ByAttribute | None:
    """The way with the fewest rows to look at."""
    if len(ways) < 2:
        return ways[0] if ways else None

    def rows(way: ByAttribute) -> int:
        source, sql, values = _of_attribute(kind, namespace_id, way)
        some = f"SELECT 1 FROM {source} WHERE {sql} LIMIT {SEVERAL_VALUES}"
        counted = connection.execute(f"SELECT count(*) FROM ({some})", values).fetchone()
        return int(counted[0])

    return min(ways, key=rows)


def count(
    connection: sqlite3.Connection, kind: int, namespace_id: str, query: Query
) -> list[tuple[object, int]]:
    if query.group_by == "status" and not query.sql:
        counts = connection.execute(f"{COUNT_BY_STATUS} ORDER BY 2 DESC", (namespace_id, kind))
        return [(status, count) for status, count in counts if count]
    source, condition, values = found_by(connection, kind, namespace_id, query)
    sql = f"SELECT {query.group_by or 'NULL'}, count(*) FROM {source} WHERE {condition}"
    if query.group_by:
        # Not in the order of an index: the condition decides where to look.
        sql += f" GROUP BY +{query.group_by} ORDER BY 2 DESC"
    return connection.execute(sql, values).fetchall()


def list_page(
    connection: sqlite3.Connection,
    kind: int,
    namespace_id: str,
    query: Query,
    page_size: int,
    page_token: bytes,
) -> tuple[list[VisibleExecution], bytes]:
    source, sql, values = found_by(connection, kind, namespace_id, query)
    if page_token:
        sql += f" AND {AFTER_ROW}"
        values += decode_page_token(page_token)
    # Which they are is found in an index, if it has all that is asked; only then rows are read.
    page = f"SELECT execution_id FROM {source} WHERE {sql} {LIST_ORDER} LIMIT ?"
    sql = f"""SELECT {VISIBLE_COLUMNS} FROM visibility WHERE shard = 0 AND execution_id IN ({page})
        {LIST_ORDER}"""
    values.append(page_size)
    rows = connection.execute(sql, values).fetchall()
    token = b""
    if len(rows) == page_size:
        token = page_token_after(rows[-1])
    return [visible(row) for row in rows], token
