"""Text of the List Filter language as a condition on something in memory.

Rule 1: the whole text is checked before the condition is asked of anything.

Texts know =, !=, STARTS_WITH and IS NULL (an empty text is NULL); numbers, among them times and
durations, know =, !=, <, <=, >, >=, BETWEEN and IS NULL (0 is NULL).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sqlglot import exp

from durably.errors import InvalidArgument
from durably.store.visibility_query import duration_ns, parse_statement, time_ns

T = TypeVar("T")

_OF_TEXTS: dict[type[exp.Expr], Callable[[str, str], bool]] = {
    exp.EQ: lambda found, wanted: found == wanted,
    exp.NEQ: lambda found, wanted: found != wanted,
    exp.Like: lambda found, wanted: found.startswith(wanted),
}

_OF_NUMBERS: dict[type[exp.Expr], Callable[[int, int], bool]] = {
    exp.EQ: lambda found, wanted: found == wanted,
    exp.NEQ: lambda found, wanted: found != wanted,
    exp.GT: lambda found, wanted: found > wanted,
    exp.GTE: lambda found, wanted: found >= wanted,
    exp.LT: lambda found, wanted: found < wanted,
    exp.LTE: lambda found, wanted: found <= wanted,
}


@dataclass(frozen=True)
class Language(Generic[T]):
    """What can be asked of a T: the names of its fields, and how each is read."""

    subject: str
    """What the fields are fields of, in the words of a refusal."""
    texts: Mapping[str, Callable[[T], str]]
    times: Mapping[str, Callable[[T], int]] = field(default_factory=dict)
    """Nanoseconds since the epoch."""
    numbers: Mapping[str, Callable[[T], int]] = field(default_factory=dict)
    durations: Mapping[str, Callable[[T], int]] = field(default_factory=dict)
    """Nanoseconds; asked for in seconds, or as `1h30m`."""

    def parse(self, text: str) -> Callable[[T], bool]:
        """Text to a condition; no text holds for all. InvalidArgument names what is wrong."""
        if not text.strip():
            return lambda each: True
        statement = parse_statement(text.strip())
        for clause in ("order", "group", "limit", "having", "offset", "joins"):
            if statement.args.get(clause):
                raise InvalidArgument(f"operation is not supported: '{clause}' clause")
        where = statement.args.get("where")
        if where is None:
            raise InvalidArgument("operation is not supported: 'where' clause is missing")
        return self._condition(where.this)

    def _condition(self, node: exp.Expr) -> Callable[[T], bool]:
        match node:
            case exp.Paren():
                return self._condition(node.this)
            case exp.And():
                first, second = self._condition(node.left), self._condition(node.right)
                return lambda each: first(each) and second(each)
            case exp.Or():
                first, second = self._condition(node.left), self._condition(node.right)
                return lambda each: first(each) or second(each)
            case exp.Not():
                holds = self._condition(node.this)
                return lambda each: not holds(each)
            case exp.Is():
                return self._is_null(node)
            case exp.Between():
                return self._between(node)
            case _:
                return self._comparison(node)

    def _name(self, node: exp.Expr | None) -> str:
        if not isinstance(node, exp.Column) or node.table:
            raise InvalidArgument(f"invalid filter name: {node.sql() if node else ''}")
        if node.name not in self.texts and self._number(node.name) is None:
            raise InvalidArgument(f"unknown or unsupported {self.subject} field: {node.name}")
        return node.name

    def _number(self, name: str) -> Callable[[T], int] | None:
        return self.times.get(name) or self.numbers.get(name) or self.durations.get(name)

    def _wanted(self, name: str, node: exp.Expr | None) -> int:
        try:
            if name in self.times:
                return time_ns(_text(name, node))
            if isinstance(node, exp.Literal) and not node.is_string:
                scale = 1_000_000_000 if name in self.durations else 1
                return int(float(node.this) * scale) if "." in node.this else int(node.this) * scale
            if name in self.durations:
                return duration_ns(_text(name, node))
            return int(_text(name, node))
        except ValueError as error:
            shown = node.sql() if node else ""
            raise InvalidArgument(f"invalid value for {name}: {shown}") from error

    def _is_null(self, node: exp.Is) -> Callable[[T], bool]:
        name = self._name(node.this)
        if not isinstance(node.expression, exp.Null):
            raise InvalidArgument("operation is not supported: 'is' is for NULL and NOT NULL alone")
        value: Callable[[T], str | int] | None = self.texts.get(name) or self._number(name)
        assert value is not None
        return lambda each: not value(each)

    def _between(self, node: exp.Between) -> Callable[[T], bool]:
        name = self._name(node.this)
        value = self._number(name)
        if value is None:
            raise InvalidArgument(f"invalid expression: operation between is not for {name}")
        low, high = self._wanted(name, node.args["low"]), self._wanted(name, node.args["high"])
        return lambda each: low <= value(each) <= high

    def _comparison(self, node: exp.Expr) -> Callable[[T], bool]:
        if type(node) not in _OF_NUMBERS and not isinstance(node, exp.Like):
            raise InvalidArgument(f"operation is not supported: {node.sql()}")
        name = self._name(node.this)
        if name in self.texts:
            text, wanted = self.texts[name], _text(name, node.expression)
            compare = _OF_TEXTS.get(type(node))
            if compare is None:
                raise InvalidArgument(
                    f"invalid expression: operation {node.key} is not supported for {name} column"
                )
            return lambda each: compare(text(each), wanted)
        compare_numbers = _OF_NUMBERS.get(type(node))
        if compare_numbers is None:
            raise InvalidArgument(f"invalid expression: operation {node.key} is not supported")
        number, limit = self._number(name), self._wanted(name, node.expression)
        assert number is not None
        return lambda each: compare_numbers(number(each), limit)


def _text(name: str, node: exp.Expr | None) -> str:
    if not isinstance(node, exp.Literal) or not node.is_string:
        raise InvalidArgument(f"invalid value for {name}: {node.sql() if node else ''}")
    if not node.this:
        raise InvalidArgument(f"{name} cannot be empty")
    return str(node.this)
