"""List Filter text -> checked syntax -> SQL with bound values.

Rule 1: `filter_syntax` parses; what may be asked is decided here. No text of the caller enters the
        SQL: names come from our tables, values are bound.
Rule 2: an error names what is wrong with the query, as the API's own server does.

The language: https://docs.temporal.io/list-filter. Strings are in single or double quotes, names may
be in backticks, times are RFC 3339.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from durably.errors import InvalidArgument
from durably.store import filter_syntax
from durably.store.filter_dialects import SQLITE, Dialect
from durably.store.filter_syntax import (
    WORD_OPERATORS,
    All,
    Any,
    Between,
    Comparison,
    Condition,
    In,
    IsNull,
    Name,
    Not,
    Value,
    refusal,
    unsupported,
)

SECOND_NS = 1_000_000_000
VALUES_MAX = 30_000
"""Fewer than SQLite can bind in one statement."""

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
    indexed: str = ""
    """A column that has the same value wherever the expression has one, and an index. What is asked of
    the expression is asked of it too, so that the index is found."""
    guard: str = ""
    """The condition of that index, if it is not of all rows."""


OPEN_LAST = 2**62
"""Where running executions sort among close times: before all closed ones."""
CLOSE_TIME = Column(f"NULLIF(sort_close_ns, {OPEN_LAST})", "Time", "sort_close_ns")

SYSTEM_COLUMNS: dict[str, Column] = {
    "WorkflowId": Column("workflow_id", "Keyword"),
    "RunId": Column("run_id", "Keyword"),
    "WorkflowType": Column("workflow_type", "Keyword"),
    "TaskQueue": Column("task_queue", "Keyword"),
    "ExecutionStatus": Column("status", "Status"),
    "StartTime": Column("start_ns", "Time"),
    "ExecutionTime": Column("execution_ns", "Time"),
    "CloseTime": CLOSE_TIME,
    "ExecutionDuration": Column("(NULLIF(close_ns, 0) - execution_ns)", "Duration"),
    "HistoryLength": Column("CASE WHEN close_ns > 0 THEN history_length END", "Int"),
    "HistorySizeBytes": Column("CASE WHEN close_ns > 0 THEN history_size_bytes END", "Int"),
    "StateTransitionCount": Column("CASE WHEN close_ns > 0 THEN state_transitions END", "Int"),
    "ParentWorkflowId": Column(
        "NULLIF(parent_workflow_id, '')",
        "Keyword",
        "parent_workflow_id",
        "parent_workflow_id <> ''",
    ),
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


def _nexus_columns() -> dict[str, Column]:
    columns = dict(SYSTEM_COLUMNS)
    columns["OperationId"] = columns["WorkflowId"]
    columns["Operation"] = columns["WorkflowType"]
    columns["Endpoint"] = columns["TaskQueue"]
    columns["Service"] = columns["ParentWorkflowId"]
    columns["RequestId"] = columns["ParentRunId"]
    return columns


NEXUS_COLUMNS = _nexus_columns()
"""The same for standalone Nexus operations. Service and request id are in columns that only workflows
have otherwise."""

PREDEFINED: dict[str, str] = {
    "BatcherNamespace": "Keyword",
    "BatcherUser": "Keyword",
    "BinaryChecksums": "KeywordList",
    "BuildIds": "KeywordList",
    "DurablyWaitsFor": "Keyword",
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


UNINDEXED_ATTRIBUTES = frozenset(("BuildIds",))
"""Attributes that are not in `attribute_values`: every workflow has them, and few differ."""
INDEXED_BYTES_MAX = 255
"""Longer values are not there either."""
COPIED_COLUMNS = frozenset(("status", "start_ns", CLOSE_TIME.sql))
"""What `attribute_values` has of the row."""
NAMING_COLUMNS = frozenset(
    ("workflow_id", "run_id", "root_workflow_id", "NULLIF(parent_workflow_id, '')")
)
"""Who asks for one of these by its value asks for a few rows."""


@dataclass(frozen=True, slots=True)
class ByAttribute:
    """The same condition as the query's, beginning with the values of one search attribute."""

    name: str
    sql: str
    """What is asked of `value`."""
    values: tuple[object, ...]
    rest: str
    """What else is asked of the row."""
    rest_values: tuple[object, ...]
    copied: bool
    """Nothing but COPIED_COLUMNS is needed for the rest, and for the group."""


@dataclass(frozen=True, slots=True)
class Query:
    """A condition on rows of `visibility`, with the values to bind; `group_by` for counts."""

    sql: str = ""
    values: tuple[object, ...] = ()
    group_by: str = ""
    group_type: str = ""
    by_attribute: tuple[ByAttribute, ...] = ()
    """Other ways to the same rows."""


def narrowed(query: Query, sql: str) -> Query:
    """The same, of rows for which `sql` holds: a condition on COPIED_COLUMNS without values to bind."""
    return replace(
        query,
        sql=f"({query.sql}) AND {sql}" if query.sql else sql,
        by_attribute=tuple(
            replace(way, rest=f"({way.rest}) AND {sql}" if way.rest else sql)
            for way in query.by_attribute
        ),
    )


def open_only(query: Query) -> Query:
    """The same, of executions that have not closed."""
    return narrowed(query, IS_OPEN)


def parse(
    text: str,
    attributes: Mapping[str, str],
    columns: Mapping[str, Column] = SYSTEM_COLUMNS,
    dialect: Dialect = SQLITE,
) -> Query:
    """Parse List Filter text. `attributes`: custom search attributes, name -> type name; `columns`:
    the system attributes of what is listed; `dialect`: the store's.

    Raises InvalidArgument, naming what is wrong.
    """
    found = filter_syntax.parse(text)
    asked = _Asked(attributes, columns, dialect)
    parts = [_part(each, asked) for each in _conjuncts(found.condition)]
    values = _values_of(parts)
    if len(values) > VALUES_MAX:
        raise InvalidArgument(f"invalid query: more than {VALUES_MAX} values to compare with")
    if len(found.group_by) > 1:
        raise unsupported("'GROUP BY' clause supports only a single field", found.group_by[1].at)
    group = Column("", "")
    if found.group_by:
        group = _SqlWriter(asked).column(found.group_by[0])
    ways = _by_attribute(parts, group) if dialect.values_indexed else ()
    return Query(_all_of(parts), values, group.sql, group.type, ways)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Which names there are, and how what is asked of them is said."""

    attributes: Mapping[str, str]
    columns: Mapping[str, Column]
    dialect: Dialect


@dataclass(frozen=True, slots=True)
class _Part:
    """One of the conditions that must all hold."""

    sql: str
    values: tuple[object, ...]
    columns: frozenset[str]
    names_few: bool
    attribute: str
    """Of an attribute whose values can be looked up: its name, and what is asked of `value`."""
    value_sql: str


def _conjuncts(condition: Condition | None) -> list[Condition]:
    if condition is None:
        return []
    if isinstance(condition, All):
        return [part for each in condition.parts for part in _conjuncts(each)]
    return [condition]


def _part(node: Condition, asked: _Asked) -> _Part:
    writer = _SqlWriter(asked)
    sql = writer.condition(node)
    equal = isinstance(node, Comparison) and node.operator == "="
    attribute, value_sql = "", ""
    if isinstance(node, Comparison | In | Between) and node.name.text not in asked.columns:
        value_sql = _on_value(node, writer.column(node.name).type, writer.values)
        attribute = node.name.text if value_sql else ""
    return _Part(
        sql,
        tuple(writer.values),
        frozenset(writer.columns),
        equal and bool(writer.columns & NAMING_COLUMNS),
        attribute,
        value_sql,
    )


def _on_value(node: Comparison | In | Between, kind: str, values: list[object]) -> str:
    """What is asked of one value of an attribute, in SQL with the same values to bind; empty if its
    values cannot be looked up that way."""
    if node.name.text in UNINDEXED_ATTRIBUTES:
        return ""
    if any(isinstance(each, str) and len(each.encode()) > INDEXED_BYTES_MAX for each in values):
        return ""
    several = kind in ("KeywordList", "Text")
    match node:
        case Comparison(operator="=") if len(values) == 1:
            return "value = ?"
        case In() if not (several and len(values) > 1):
            return f"value IN ({', '.join('?' * len(values))})"
        case Comparison(operator="<" | "<=" | ">" | ">=" as operator) if kind in _SHORT:
            return f"value {operator} ?"
        case Between() if kind in _SHORT:
            return "value BETWEEN ? AND ?"
    return ""


_SHORT = frozenset(("Int", "Double", "Bool", "Datetime"))
"""Types whose values are all there: none is too long."""


def _by_attribute(parts: list[_Part], group: Column) -> tuple[ByAttribute, ...]:
    """A way for each attribute whose values can be looked up, unless few rows are named anyway."""
    if any(part.names_few for part in parts):
        return ()
    ways = []
    for number, part in enumerate(parts):
        if not part.attribute:
            continue
        rest = parts[:number] + parts[number + 1 :]
        needed = frozenset[str]().union(*(each.columns for each in rest), {group.sql} - {""})
        ways.append(
            ByAttribute(
                part.attribute,
                part.value_sql,
                part.values,
                _all_of(rest),
                _values_of(rest),
                needed <= COPIED_COLUMNS,
            )
        )
    return tuple(ways)


def _all_of(parts: list[_Part]) -> str:
    return _joined([part.sql for part in parts], "AND") if parts else ""


def _values_of(parts: list[_Part]) -> tuple[object, ...]:
    return tuple(value for part in parts for value in part.values)


class _SqlWriter:
    """Writes one condition; `values` are the bound values in the order of their marks, `columns` what
    of the row it reads."""

    def __init__(self, asked: _Asked) -> None:
        self._attributes = asked.attributes
        self._columns = asked.columns
        self._dialect = asked.dialect
        self.values: list[object] = []
        self.columns: set[str] = set()

    def condition(self, node: Condition) -> str:
        match node:
            case All(parts):
                return _joined([self.condition(part) for part in parts], "AND")
            case Any(parts):
                return _joined([self.condition(part) for part in parts], "OR")
            case Not(part):
                return self._dialect.negated(self.condition(part))
            case Between():
                return self._between(node)
            case In():
                return self._in(node)
            case IsNull(name):
                return f"{self.column(name).sql} IS NULL"
            case Comparison():
                return self._comparison(node)

    def column(self, name: Name) -> Column:
        found = self._column(name)
        self.columns.add(found.sql)
        return found

    def _column(self, name: Name) -> Column:
        if name.text in self._columns:
            return self._columns[name.text]
        kind = PREDEFINED.get(name.text) or self._attributes.get(name.text)
        if kind is None:
            raise refusal(f"invalid search attribute: {name.text}", name.at)
        return Column(self._dialect.attribute(name.text, kind), kind)

    def _bind(self, name: Name, column: Column, value: Value) -> str:
        self.values.append(_value(name, column, value))
        return self._dialect.mark(self.values[-1])

    def _comparison(self, node: Comparison) -> str:
        column = self.column(node.name)
        if node.operator in WORD_OPERATORS:
            return self._starts_with(node, column)
        if column.type in ("KeywordList", "Text"):
            if node.operator not in ("=", "!="):
                raise _not_for(node.operator, column, node.name, node.at)
            found = self._contains(node.name, column, (node.value,))
            return found if node.operator == "=" else self._dialect.negated(found)
        mark = self._bind(node.name, column, node.value)
        if node.operator == "=" and node.name.text not in self._columns:
            return self._dialect.equals(node.name.text, column.type, mark)
        asked = f"{{}} {node.operator} {mark}"
        return (
            self._also_of_index(column, asked)
            if node.operator != "!="
            else asked.format(column.sql)
        )

    def _also_of_index(self, column: Column, asked: str) -> str:
        """What is asked of the column, `{}` in `asked`, and the same of the column that has an index."""
        if not column.indexed:
            return asked.format(column.sql)
        self.values += self.values[-asked.count("?") :]
        both = f"{asked.format(column.indexed)} AND {asked.format(column.sql)}"
        return f"({both} AND {column.guard})" if column.guard else f"({both})"

    def _contains(self, name: Name, column: Column, values: tuple[Value, ...]) -> str:
        """A list contains one of the values; a text one of their words."""
        if column.type == "Text":
            found = [word for each in values for word in words(str(_value(name, column, each)))]
            if not found:
                raise refusal(
                    "invalid expression: unexpected value for Text type search attribute"
                    f" '{name.text}': there is no word in it",
                    values[0].at,
                )
            self.values += found
            return self._dialect.list_has(name.text, [self._dialect.mark(word) for word in found])
        marks = [self._bind(name, column, each) for each in values]
        return self._dialect.list_has(name.text, marks)

    def _between(self, node: Between) -> str:
        column = self.column(node.name)
        if column.type in ("KeywordList", "Text"):
            raise refusal(
                "invalid expression: cannot do range condition on search attribute"
                f" '{node.name.text}' of type {column.type}",
                node.name.at,
            )
        low = self._bind(node.name, column, node.low)
        high = self._bind(node.name, column, node.high)
        return self._also_of_index(column, f"{{}} BETWEEN {low} AND {high}")

    def _in(self, node: In) -> str:
        column = self.column(node.name)
        if column.type in ("KeywordList", "Text"):
            return self._contains(node.name, column, node.values)
        marks = ", ".join(self._bind(node.name, column, each) for each in node.values)
        return self._also_of_index(column, f"{{}} IN ({marks})")

    def _starts_with(self, node: Comparison, column: Column) -> str:
        """Of a list: one of its values does."""
        if node.operator != "STARTS_WITH" or column.type not in ("Keyword", "KeywordList"):
            raise _not_for(node.operator, column, node.name, node.at)
        mark = self._bind(node.name, column, node.value)
        self.values.append(self.values[-1])
        if column.type == "Keyword":
            found = f"substr({column.sql}, 1, length({mark})) = {mark}"
            return f"({found}{self._in_range(column, str(self.values[-1]), mark)})"
        return self._dialect.list_starts(node.name.text, mark, mark)

    def _in_range(self, column: Column, prefix: str, mark: str) -> str:
        """The same as a range, for indexes."""
        self.values.append(prefix)
        after = _after_all(prefix)
        if not after:
            return f" AND {column.sql} >= {mark}"
        self.values.append(after)
        return f" AND {column.sql} >= {mark} AND {column.sql} < {mark}"


def _after_all(prefix: str) -> str:
    """The first text after all that begin with the prefix, in the order of code points; empty: none."""
    kept = prefix.rstrip(chr(0x10FFFF))
    if not kept:
        return ""
    following = ord(kept[-1]) + 1
    surrogates = range(0xD800, 0xE000)
    return kept[:-1] + chr(surrogates.stop if following in surrogates else following)


def _not_for(operator: str, column: Column, name: Name, at: int) -> InvalidArgument:
    kind = "Keyword" if column.type == "Status" else column.type
    return unsupported(
        f"operator '{operator}' not supported for {kind} type search attribute '{name.text}'", at
    )


def _joined(parts: list[str], word: str) -> str:
    """As a tree that is as flat as can be: SQLite bounds the depth of an expression."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return f"({_joined(parts[:half], word)} {word} {_joined(parts[half:], word)})"


# --- Values -----------------------------------------------------------------------------------


def _value(name: Name, column: Column, value: Value) -> object:
    """The value to bind, checked against the attribute's type."""
    try:
        return _CONVERTERS[column.type](value.content)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise refusal(f"invalid expression: {_fault(name, column, value)}", value.at) from error


def _fault(name: Name, column: Column, value: Value) -> str:
    if isinstance(value.content, str):
        match column.type:
            case "Time" | "Datetime":
                return f"unable to parse datetime '{value.content}'"
            case "Status":
                return f"invalid {name.text} value '{value.content}'"
            case "Duration":
                return f"invalid duration value for search attribute {name.text}: {value.content}"
    kind = {"Time": "Datetime", "Status": "Keyword", "Duration": "Int"}.get(
        column.type, column.type
    )
    return (
        f"invalid value type for search attribute {name.text} of type {kind}: {value.shown}"
        f" (type: {_TYPE_NAMES[type(value.content)]})"
    )


_TYPE_NAMES = {str: "string", int: "int64", float: "float64", bool: "bool"}

Found = str | int | float | bool


def words(text: str) -> list[str]:
    """The words of a text as they are compared: each once, without case and accents."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return list(dict.fromkeys(re.findall(r"[^\W_]+", plain.casefold())))


def _text(found: Found) -> str:
    if not isinstance(found, str):
        raise TypeError
    return found


def _int(found: Found) -> int | float:
    if isinstance(found, bool | str) or not -(2**63) <= found < 2**63:
        raise TypeError
    return found


def _double(found: Found) -> float:
    if isinstance(found, bool | str):
        raise TypeError
    return float(found)


def _bool(found: Found) -> int:
    if not isinstance(found, bool):
        raise TypeError
    return int(found)


def _status(found: Found) -> int | float:
    return STATUSES[found] if isinstance(found, str) else _int(found)


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


def _time(found: Found) -> int | float:
    return _within(time_ns(found)) if isinstance(found, str) else _int(found)


def _datetime(found: Found) -> str:
    return time_text(time_ns(found) if isinstance(found, str) else int(_int(found)))


def _within(ns: int) -> int:
    """Beyond what is stored: as far as it goes."""
    return min(max(ns, -(2**63)), 2**63 - 1)


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


def _duration(found: Found) -> int | float:
    return _within(duration_ns(found)) if isinstance(found, str) else _int(found)


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
