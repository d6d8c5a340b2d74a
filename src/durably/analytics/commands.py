"""`durably query` and `durably export`.

Rule 1: histories are read only for the tables that the query names.
Rule 2: a file that is being written has another name until it is whole.
"""

import contextlib
import csv
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from temporalio.client import Client

from durably.analytics.gather import batches
from durably.analytics.tables import SCHEMAS


class QueryError(Exception):
    """The SQL is wrong, or asks for what there is not; the message says what."""


# --- Query ------------------------------------------------------------------------------------


async def query(client: Client, sql: str, where: str, shown: str) -> None:
    """Print the result of SQL over the tables as a table, `csv` or `jsonl`. Raises QueryError, RPCError."""
    with duckdb.connect(":memory:") as database:
        database.execute("SET TimeZone = 'UTC'")
        try:
            named = {name.lower() for name in database.get_table_names(sql)} & SCHEMAS.keys()
        except duckdb.Error as error:
            raise QueryError(str(error)) from error
        found: dict[str, list[pa.RecordBatch]] = {name: [] for name in named}
        async for name, batch in batches(client, where, named):
            found[name].append(batch)
        for name, schema in SCHEMAS.items():
            database.register(name, pa.Table.from_batches(found.get(name, []), schema))
        try:
            result = database.sql(sql)
            columns = [] if result is None else result.columns
            rows = [] if result is None else result.fetchall()
        except duckdb.Error as error:
            raise QueryError(f"{error}\nThe tables: {', '.join(SCHEMAS)}") from error
    _show(columns, rows, shown)


def _show(columns: list[str], rows: list[tuple[Any, ...]], shown: str) -> None:
    if shown == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(columns)
        writer.writerows(rows)
        return
    if shown == "jsonl":
        for row in rows:
            print(_json(dict(zip(columns, row, strict=True))))
        return
    table = Table(*(escape(column) for column in columns))
    for row in rows:
        table.add_row(*("" if value is None else escape(str(value)) for value in row))
    Console(highlight=False).print(table)


def _json(row: Mapping[str, Any]) -> str:
    """Times in RFC 3339, other values that JSON has not as their text."""
    return json.dumps(row, ensure_ascii=False, default=_json_value)


def _json_value(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


# --- Export -----------------------------------------------------------------------------------


class _Writer(Protocol):
    def write_batch(self, batch: pa.RecordBatch) -> None: ...


async def export(client: Client, folder: Path, where: str, kind: str) -> dict[str, int]:
    """Write every table to a file of its own, `parquet`, `csv` or `jsonl`; table -> rows.

    Raises OSError, RPCError.
    """
    finals = _files(folder, kind)
    counts = dict.fromkeys(SCHEMAS, 0)
    partial = {name: final.with_suffix(f".{kind}.part") for name, final in finals.items()}
    try:
        with contextlib.ExitStack() as stack:
            writers = {
                name: stack.enter_context(_writer(partial[name], SCHEMAS[name], kind))
                for name in SCHEMAS
            }
            async for name, batch in batches(client, where, SCHEMAS):
                writers[name].write_batch(batch)
                counts[name] += batch.num_rows
        for name, final in finals.items():
            partial[name].replace(final)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
    return counts


def _files(folder: Path, kind: str) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return {name: folder / f"{name}.{kind}" for name in SCHEMAS}


@contextlib.contextmanager
def _writer(path: Path, schema: pa.Schema, kind: str) -> Iterator[_Writer]:
    if kind == "parquet":
        with pa.parquet.ParquetWriter(path, schema, compression="zstd") as parquet:
            yield parquet
    elif kind == "csv":
        with pa.csv.CSVWriter(path, schema) as commas:
            yield commas
    else:
        with path.open("w", encoding="utf-8") as lines:
            yield _Lines(lines)


class _Lines:
    def __init__(self, lines: IO[str]) -> None:
        self._lines = lines

    def write_batch(self, batch: pa.RecordBatch) -> None:
        self._lines.writelines(f"{_json(row)}\n" for row in batch.to_pylist())
