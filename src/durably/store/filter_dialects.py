"""How the databases say what a List Filter asks for: where they differ, and nothing else.

Rule 1: `?` marks a value to bind; there is no other `?` in what is written here.
Rule 2: in every dialect the same rows are found: texts compare by code points, a value of another type
        than was asked for equals nothing, and a condition on a missing value is not true.
"""

from typing import Protocol


class Dialect(Protocol):
    """What a condition is made of, for one database."""

    values_indexed: bool
    """Whether values of search attributes are looked up in `attribute_values`."""

    def mark(self, value: object) -> str:
        """Where a value is bound."""

    def attribute(self, name: str, kind: str) -> str:
        """The value of a search attribute of this type."""

    def equals(self, name: str, kind: str, mark: str) -> str:
        """A search attribute has this value."""

    def list_has(self, name: str, marks: list[str]) -> str:
        """One of the values in a list, or of the words of a text, is one of these."""

    def list_starts(self, name: str, mark: str, again: str) -> str:
        """One of the values in a list begins with this text, which is bound twice."""

    def negated(self, condition: str) -> str:
        """It does not hold, or cannot be told."""


class Sqlite:
    values_indexed = True

    def mark(self, value: object) -> str:
        return "?"

    def attribute(self, name: str, kind: str) -> str:
        return f"json_extract(search_values, {_path(name)})"

    def equals(self, name: str, kind: str, mark: str) -> str:
        return f"{self.attribute(name, kind)} = {mark}"

    def list_has(self, name: str, marks: list[str]) -> str:
        values = f"json_each(search_values, {_path(name)})"
        return f"EXISTS (SELECT 1 FROM {values} WHERE value IN ({', '.join(marks)}))"

    def list_starts(self, name: str, mark: str, again: str) -> str:
        values = f"json_each(search_values, {_path(name)})"
        return f"EXISTS (SELECT 1 FROM {values} WHERE substr(value, 1, length({mark})) = {again})"

    def negated(self, condition: str) -> str:
        return f"NOT COALESCE({condition}, 0)"


def _path(name: str) -> str:
    """Where in `search_values` an attribute is, as a constant of SQLite."""
    path = name.replace('"', "").replace("'", "''")
    return f"'$.\"{path}\"'"


class Postgres:
    """`search_values` is jsonb with an index (GIN) that finds what contains a value."""

    values_indexed = False

    def mark(self, value: object) -> str:
        match value:
            case int():
                return "?::bigint"
            case float():
                return "?::float8"
            case _:
                return "?::text"

    def attribute(self, name: str, kind: str) -> str:
        quoted = _literal(name)
        match kind:
            case "Int" | "Double":
                return (
                    f"CASE WHEN jsonb_typeof(search_values -> {quoted}) = 'number'"
                    f" THEN (search_values ->> {quoted})::numeric END"
                )
            case "Bool":
                return (
                    f"CASE search_values -> {quoted} WHEN 'true'::jsonb THEN 1"
                    " WHEN 'false'::jsonb THEN 0 END"
                )
            case "KeywordList":
                return f"(search_values -> {quoted})"
            case _:
                return f'((search_values ->> {quoted}) COLLATE "C")'

    def equals(self, name: str, kind: str, mark: str) -> str:
        if kind == "Bool":
            return f"{self.attribute(name, kind)} = {mark}"
        return f"search_values @> jsonb_build_object({_literal(name)}::text, {mark})"

    def list_has(self, name: str, marks: list[str]) -> str:
        key = f"{_literal(name)}::text"
        found = (
            f"search_values @> jsonb_build_object({key}, jsonb_build_array({mark}))"
            for mark in marks
        )
        return f"({' OR '.join(found)})"

    def list_starts(self, name: str, mark: str, again: str) -> str:
        value = self.attribute(name, "KeywordList")
        values = (
            f"jsonb_array_elements_text(CASE jsonb_typeof({value}) WHEN 'array' THEN {value} END)"
        )
        return (
            f"EXISTS (SELECT 1 FROM {values} AS item"
            f" WHERE substr(item, 1, length({mark})) = {again})"
        )

    def negated(self, condition: str) -> str:
        return f"NOT COALESCE({condition}, FALSE)"


def _literal(text: str) -> str:
    """Text as a constant of PostgreSQL, without a `?`."""
    escaped = text.replace("\\", "\\\\").replace("'", "''").replace("?", "\\x3F")
    return f"E'{escaped}'"


SQLITE = Sqlite()
POSTGRES = Postgres()
