"""Text of the List Filter language as a condition on something in memory.

Rule 1: the whole text is checked before the condition is asked of anything.

Texts know =, !=, STARTS_WITH and IS NULL (an empty text is NULL); numbers, among them times and
durations, know =, !=, <, <=, >, >=, BETWEEN and IS NULL (0 is NULL).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from durably.errors import InvalidArgument
from durably.store import filter_syntax
from durably.store.filter_syntax import (
    All,
    Any,
    Between,
    Comparison,
    Condition,
    IsNull,
    Name,
    Not,
    Value,
    refusal,
    unsupported,
)
from durably.store.visibility_query import SECOND_NS, duration_ns, time_ns

T = TypeVar("T")

_OF_TEXTS: dict[str, Callable[[str, str], bool]] = {
    "=": lambda found, wanted: found == wanted,
    "!=": lambda found, wanted: found != wanted,
    "STARTS_WITH": lambda found, wanted: found.startswith(wanted),
}

_OF_NUMBERS: dict[str, Callable[[int, int], bool]] = {
    "=": lambda found, wanted: found == wanted,
    "!=": lambda found, wanted: found != wanted,
    ">": lambda found, wanted: found > wanted,
    ">=": lambda found, wanted: found >= wanted,
    "<": lambda found, wanted: found < wanted,
    "<=": lambda found, wanted: found <= wanted,
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
        found = filter_syntax.parse(text)
        if found.group_by:
            raise unsupported("'GROUP BY' clause", found.group_by[0].at)
        return self._condition(found.condition) if found.condition else lambda each: True

    def _condition(self, node: Condition) -> Callable[[T], bool]:
        match node:
            case All(parts):
                every = [self._condition(part) for part in parts]
                return lambda each: all(holds(each) for holds in every)
            case Any(parts):
                some = [self._condition(part) for part in parts]
                return lambda each: any(holds(each) for holds in some)
            case Not(part):
                holds = self._condition(part)
                return lambda each: not holds(each)
            case IsNull(name):
                value = self._read(name)
                return lambda each: not value(each)
            case Between():
                return self._between(node)
            case Comparison():
                return self._comparison(node)
            case _:
                raise unsupported("'IN' operator", node.at)

    def _read(self, name: Name) -> Callable[[T], str | int]:
        found = self.texts.get(name.text) or self._number(name)
        if found is None:
            raise refusal(f"unknown or unsupported {self.subject} field: {name.text}", name.at)
        return found

    def _number(self, name: Name) -> Callable[[T], int] | None:
        wanted = name.text
        return self.times.get(wanted) or self.numbers.get(wanted) or self.durations.get(wanted)

    def _wanted(self, name: Name, value: Value) -> int:
        try:
            if name.text in self.times:
                return time_ns(_text(name, value))
            if isinstance(value.content, int | float) and not isinstance(value.content, bool):
                return int(value.content * (SECOND_NS if name.text in self.durations else 1))
            if name.text in self.durations:
                return duration_ns(_text(name, value))
            return int(_text(name, value))
        except (ValueError, OverflowError) as error:
            raise refusal(f"invalid value for {name.text}: {value.shown}", value.at) from error

    def _between(self, node: Between) -> Callable[[T], bool]:
        self._read(node.name)
        value = self._number(node.name)
        if value is None:
            raise refusal(
                f"invalid expression: operation between is not for {node.name.text}", node.name.at
            )
        low, high = self._wanted(node.name, node.low), self._wanted(node.name, node.high)
        return lambda each: low <= value(each) <= high

    def _comparison(self, node: Comparison) -> Callable[[T], bool]:
        self._read(node.name)
        if node.name.text in self.texts:
            text, wanted = self.texts[node.name.text], _text(node.name, node.value)
            compare = _OF_TEXTS.get(node.operator)
            if compare is None:
                raise _not_for(node)
            return lambda each: compare(text(each), wanted)
        number, compare_numbers = self._number(node.name), _OF_NUMBERS.get(node.operator)
        if number is None or compare_numbers is None:
            raise _not_for(node)
        limit = self._wanted(node.name, node.value)
        return lambda each: compare_numbers(number(each), limit)


def _not_for(node: Comparison) -> InvalidArgument:
    return unsupported(f"operator '{node.operator}' not supported for '{node.name.text}'", node.at)


def _text(name: Name, value: Value) -> str:
    if not isinstance(value.content, str):
        raise refusal(f"invalid value for {name.text}: {value.shown}", value.at)
    if not value.content:
        raise refusal(f"{name.text} cannot be empty", value.at)
    return value.content
