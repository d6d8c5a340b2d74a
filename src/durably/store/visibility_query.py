"""List Filter text -> checked syntax -> SQL with bound values.

Rule 1: sqlglot parses; what may be asked is decided here. No text of the caller enters the SQL: names
        come from our tables, values are bound.
Rule 2: an error names what is wrong with the query, as the API's own server does.

The language: https://docs.temporal.io/list-filter. Strings are in single or double quotes, names may
be in backticks, times are RFC 3339.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlglot
from sqlglot import exp

from durably.errors import InvalidArgument

SECOND_NS = 1_000_000_000

STATUSES = {
    "Running": 1,
    "Completed": 2,
    "Failed": 3,
    "Canceled": 4,
    "Cancelled": 4,
    "Terminated": 5,
    "ContinuedAsNew": 6,
    "TimedOut": 7,
    "Paused": 8,
}


IS_OPEN = f"status IN ({STATUSES['Running']}, {STATUSES['Paused']})"


@dataclass(frozen=True, slots=True)
class Column:
    """How an attribute is read: an SQL expression and the type of its values."""

    sql: str
    type: str


SYSTEM_COLUMNS: dict[str, Column] = {
    "WorkflowId": Column("workflow_id", "Keyword"),
    "RunId": Column("run_id", "Keyword"),
    "WorkflowType": Column("workflow_type", "Keyword"),
    "TaskQueue": Column("task_queue", "Keyword"),
    "ExecutionStatus": Column("status", "Status"),
    "StartTime": Column("start_ns", "Time"),
    "ExecutionTime": Column("execution_ns", "Time"),
    "CloseTime": Column("NULLIF(close_ns, 0)", "Time"),
    "ExecutionDuration": Column("(NULLIF(close_ns, 0) - execution_ns)", "Duration"),
    "HistoryLength": Column("CASE WHEN close_ns > 0 THEN history_length END", "Int"),
    "HistorySizeBytes": Column("CASE WHEN close_ns > 0 THEN history_size_bytes END", "Int"),
    "StateTransitionCount": Column("CASE WHEN close_ns > 0 THEN state_transitions END", "Int"),
    "ParentWorkflowId": Column("NULLIF(parent_workflow_id, '')", "Keyword"),
    "ParentRunId": Column("NULLIF(parent_run_id, '')", "Keyword"),
    "RootWorkflowId": Column("root_workflow_id", "Keyword"),
    "RootRunId": Column("root_run_id", "Keyword"),
}


def _activity_columns() -> dict[str, Column]:
    columns = dict(SYSTEM_COLUMNS)
    columns["ActivityId"] = columns["WorkflowId"]
    columns["ActivityType"] = columns["WorkflowType"]
    # Of an activity it counts from its start, not from the end of its start delay.
    columns["ExecutionDuration"] = Column("(NULLIF(close_ns, 0) - start_ns)", "Duration")
    return columns


ACTIVITY_COLUMNS = _activity_columns()
"""The same for standalone activities, which have these names beside."""

PREDEFINED: dict[str, str] = {
    "BatcherNamespace": "Keyword",
    "BatcherUser": "Keyword",
    "BinaryChecksums": "KeywordList",
    "BuildIds": "KeywordList",
    "TemporalChangeVersion": "KeywordList",
    "TemporalNamespaceDivision": "Keyword",
    "TemporalPauseInfo": "KeywordList",
    "TemporalReportedProblems": "KeywordList",
    "TemporalScheduledById": "Keyword",
    "TemporalScheduledStartTime": "Datetime",
    "TemporalSchedulePaused": "Bool",
    "TemporalUsedWorkerDeploymentVersions": "KeywordList",
    "TemporalWorkerDeployment": "Keyword",
    "TemporalWorkerDeploymentVersion": "Keyword",
    "TemporalWorkflowVersioningBehavior": "Keyword",
}
"""Attributes that exist in every namespace and have no column of their own."""


@dataclass(frozen=True, slots=True)
class Query:
    """A condition on rows of `visibility`, with the values to bind; `group_by` for counts."""

    sql: str = ""
    values: tuple[object, ...] = ()
    group_by: str = ""
    group_type: str = ""


def open_only(query: Query) -> Query:
    """The same, of executions that have not closed."""
    sql = f"({query.sql}) AND {IS_OPEN}" if query.sql else IS_OPEN
    return Query(sql, query.values, query.group_by, query.group_type)


def parse(
    text: str,
    attributes: Mapping[str, str],
    columns: Mapping[str, Column] = SYSTEM_COLUMNS,
) -> Query:
    """Parse List Filter text. `attributes`: custom search attributes, name -> type name; `columns`:
    the system attributes of what is listed.

    Raises InvalidArgument, naming what is wrong.
    """
    text = text.strip()
    if not text:
        return Query()
    statement = parse_statement(text)
    if statement.args.get("order"):
        raise InvalidArgument("invalid query: operation is not supported: 'ORDER BY' clause")
    for clause in ("limit", "having", "offset", "joins"):
        if statement.args.get(clause):
            raise InvalidArgument(f"invalid query: operation is not supported: '{clause}' clause")
    writer = _SqlWriter(attributes, columns)
    where = statement.args.get("where")
    sql = writer.condition(where.this) if where is not None else ""
    group_by, group_type = _group(statement, writer)
    return Query(sql, tuple(writer.values), group_by, group_type)


def parse_statement(text: str) -> exp.Select:
    """The text as the WHERE clause of a statement; raises InvalidArgument."""
    rewritten = _rewrite_starts_with(text)
    keyword = "" if re.match(r"(?i)(group|order)\s+by\b", rewritten) else "WHERE "
    try:
        parsed = sqlglot.parse(f"SELECT 1 FROM executions {keyword}{rewritten}", read="mysql")
    except sqlglot.errors.SqlglotError as error:
        raise InvalidArgument(f"invalid query: malformed query: {_first_line(error)}") from error
    if len(parsed) != 1 or not isinstance(parsed[0], exp.Select):
        raise InvalidArgument("invalid query: malformed query: one condition is expected")
    return parsed[0]


def _first_line(error: Exception) -> str:
    """The parser's words without its terminal colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split("\n")[0]


_TOKENS = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`[^`]*`|\w+|\s+|.""", re.DOTALL)


def _rewrite_starts_with(text: str) -> str:
    """STARTS_WITH is an operator of this language only; it travels through the parser as LIKE."""
    tokens = _TOKENS.findall(text)
    out: list[str] = []
    for token in tokens:
        if token.upper() == "LIKE":
            raise InvalidArgument("invalid query: operation is not supported: 'like' operator")
        out.append("LIKE" if token.upper() == "STARTS_WITH" else token)
    return "".join(out)


def _group(statement: exp.Select, writer: "_SqlWriter") -> tuple[str, str]:
    group = statement.args.get("group")
    if group is None:
        return "", ""
    expressions = group.expressions
    if len(expressions) != 1 or not isinstance(expressions[0], exp.Column):
        raise InvalidArgument(
            "invalid query: operation is not supported: 'GROUP BY' clause supports only a single field"
        )
    name = expressions[0].name
    if name != "ExecutionStatus":
        raise InvalidArgument(
            "invalid query: operation is not supported: 'GROUP BY' clause is only supported for"
            " ExecutionStatus search attribute"
        )
    column = writer.column(name)
    return column.sql, column.type


_COMPARISONS: dict[type[exp.Expr], str] = {
    exp.EQ: "=",
    exp.NEQ: "!=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.LT: "<",
    exp.LTE: "<=",
}


class _SqlWriter:
    """Writes one condition; `values` are the bound values in the order of their marks."""

    def __init__(self, attributes: Mapping[str, str], columns: Mapping[str, Column]) -> None:
        self._attributes = attributes
        self._columns = columns
        self.values: list[object] = []

    def condition(self, node: exp.Expr) -> str:
        match node:
            case exp.And():
                return f"({self.condition(node.left)} AND {self.condition(node.right)})"
            case exp.Or():
                return f"({self.condition(node.left)} OR {self.condition(node.right)})"
            case exp.Paren():
                return f"({self.condition(node.this)})"
            case exp.Not():
                return f"NOT COALESCE({self.condition(node.this)}, 0)"
            case exp.Between():
                return self._between(node)
            case exp.In():
                return self._in(node)
            case exp.Is():
                return self._is(node)
            case exp.Like():
                return self._starts_with(node)
            case _:
                return self._comparison(node)

    def column(self, name: str) -> Column:
        name = name.removeprefix("Custom.") if name not in self._attributes else name
        if name in self._columns:
            return self._columns[name]
        kind = PREDEFINED.get(name) or self._attributes.get(name)
        if kind is None:
            raise InvalidArgument(
                f"invalid query: column name '{name}' is not a valid search attribute"
            )
        path = name.replace('"', "")
        return Column(f"json_extract(search_values, '$.\"{path}\"')", kind)

    def _target(self, node: exp.Expression | None) -> tuple[str, Column]:
        if not isinstance(node, exp.Column) or node.table:
            raise InvalidArgument(
                f"invalid query: malformed query: {node.sql() if node else ''}:"
                " the left side must be the name of a search attribute"
            )
        return node.name, self.column(node.name)

    def _bind(self, name: str, column: Column, node: exp.Expression) -> str:
        self.values.append(_value(name, column, node))
        return "?"

    def _comparison(self, node: exp.Expr) -> str:
        operator = _COMPARISONS.get(type(node))
        if operator is None:
            raise InvalidArgument(f"invalid query: malformed query: {node.sql()}")
        name, column = self._target(node.this)
        if column.type in ("KeywordList", "Text"):
            return self._contains(name, column, operator, [node.expression])
        return f"{column.sql} {operator} {self._bind(name, column, node.expression)}"

    def _contains(
        self, name: str, column: Column, operator: str, nodes: list[exp.Expression]
    ) -> str:
        """A list contains a value; a text contains a word."""
        if operator not in ("=", "!="):
            raise InvalidArgument(
                f"invalid query: operator '{operator}' not supported for {column.type} type"
                f" search attribute '{name}'"
            )
        if column.type == "Text":
            marks = " OR ".join(
                f"instr(lower({column.sql}), lower({self._bind(name, column, n)})) > 0"
                for n in nodes
            )
            found = f"({marks})"
        else:
            marks = ", ".join(self._bind(name, column, n) for n in nodes)
            found = f"EXISTS (SELECT 1 FROM json_each({column.sql}) WHERE value IN ({marks}))"
        return found if operator == "=" else f"NOT COALESCE({found}, 0)"

    def _between(self, node: exp.Between) -> str:
        name, column = self._target(node.this)
        low = self._bind(name, column, node.args["low"])
        high = self._bind(name, column, node.args["high"])
        return f"{column.sql} BETWEEN {low} AND {high}"

    def _in(self, node: exp.In) -> str:
        name, column = self._target(node.this)
        if column.type in ("KeywordList", "Text"):
            return self._contains(name, column, "=", node.expressions)
        marks = ", ".join(self._bind(name, column, each) for each in node.expressions)
        return f"{column.sql} IN ({marks})"

    def _is(self, node: exp.Is) -> str:
        _, column = self._target(node.this)
        if not isinstance(node.expression, exp.Null):
            raise InvalidArgument("invalid query: 'IS' can only be used with NULL or NOT NULL")
        return f"{column.sql} IS NULL"

    def _starts_with(self, node: exp.Like) -> str:
        name, column = self._target(node.this)
        if column.type != "Keyword":
            raise InvalidArgument(
                f"invalid query: operator 'starts_with' not supported for {column.type} type"
                f" search attribute '{name}'"
            )
        mark = self._bind(name, column, node.expression)
        self.values.append(self.values[-1])
        found = f"substr({column.sql}, 1, length({mark})) = ?"
        return f"NOT COALESCE({found}, 0)" if node.args.get("negate") else found


# --- Values -----------------------------------------------------------------------------------


def _literal(name: str, node: exp.Expression) -> str | int | float | bool:
    match node:
        case exp.Literal():
            if node.is_string:
                return str(node.this)
            text = str(node.this)
            return float(text) if "." in text or "e" in text.lower() else int(text)
        case exp.Neg():
            inner = _literal(name, node.this)
            if isinstance(inner, str):
                raise InvalidArgument(f"invalid query: invalid value for '{name}': {node.sql()}")
            return -inner
        case exp.Boolean():
            return bool(node.this)
        case _:
            raise InvalidArgument(
                f"invalid query: invalid value for search attribute '{name}': {node.sql()}"
            )


def _value(name: str, column: Column, node: exp.Expression) -> object:
    """The value to bind, checked against the attribute's type."""
    found = _literal(name, node)
    convert = _CONVERTERS[column.type]
    try:
        return convert(found)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        shown = node.sql(dialect="mysql")
        kind = "Datetime" if column.type == "Time" else column.type
        raise InvalidArgument(
            f"invalid query: invalid value for search attribute {name} of type {kind}: {shown}"
        ) from error


Found = str | int | float | bool


def _text(found: Found) -> str:
    if not isinstance(found, str):
        raise TypeError
    return found


def _int(found: Found) -> int:
    if isinstance(found, bool | float):
        raise TypeError
    return int(found)


def _double(found: Found) -> float:
    if isinstance(found, bool):
        raise TypeError
    return float(found)


def _bool(found: Found) -> int:
    if isinstance(found, bool):
        return int(found)
    if isinstance(found, str) and found.lower() in ("true", "false"):
        return int(found.lower() == "true")
    raise TypeError


def _status(found: Found) -> int:
    if isinstance(found, int):
        return found
    return STATUSES[_text(found)]


def time_ns(text: str) -> int:
    """RFC 3339 text in nanoseconds since the epoch; raises ValueError."""
    match = re.fullmatch(
        r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?\d*([Zz]|[+-]\d\d:\d\d)",
        text,
    )
    if match is None:
        raise ValueError(text)
    base, fraction, zone = match.groups()
    zone = "+00:00" if zone in "Zz" else zone
    moment = datetime.fromisoformat(base.upper().replace(" ", "T") + zone)
    seconds = int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    return seconds * SECOND_NS + int((fraction or "0").ljust(9, "0"))


def time_text(ns: int) -> str:
    """A moment as text whose order is the order of time: RFC 3339, UTC, nanoseconds."""
    seconds, nanos = divmod(ns, SECOND_NS)
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{nanos:09d}Z"


def _time(found: Found) -> int:
    return time_ns(found) if isinstance(found, str) else _int(found)


def _datetime(found: Found) -> str:
    return time_text(_time(found))


_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": SECOND_NS,
    "m": 60 * SECOND_NS,
    "h": 3600 * SECOND_NS,
    "d": 24 * 3600 * SECOND_NS,
}


def _duration(found: Found) -> int:
    if isinstance(found, int | float):
        return _int(found)
    return duration_ns(found)


def duration_ns(found: str) -> int:
    """Text as nanoseconds: a number of them, `1h30m`, or `HH:MM:SS`; raises ValueError."""
    if re.fullmatch(r"-?\d+", found):
        return int(found)
    clock = re.fullmatch(r"(\d+):(\d\d):(\d\d)", found)
    if clock:
        hours, minutes, seconds = (int(part) for part in clock.groups())
        return ((hours * 60 + minutes) * 60 + seconds) * SECOND_NS
    if not re.fullmatch(r"(\d+(\.\d+)?(ns|us|µs|ms|s|m|h|d))+", found):
        raise ValueError(found)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)", found)
    return int(sum(float(amount) * _UNITS[unit] for amount, unit in parts))


_CONVERTERS = {
    "Keyword": _text,
    "KeywordList": _text,
    "Text": _text,
    "Int": _int,
    "Double": _double,
    "Bool": _bool,
    "Datetime": _datetime,
    "Time": _time,
    "Status": _status,
    "Duration": _duration,
}
