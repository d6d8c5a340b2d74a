"""List Filter text: what it means, and what is said of text that means nothing."""

import pytest

from durably.errors import InvalidArgument
from durably.store.visibility_query import Query, parse

TYPES = {
    "Color": "Keyword",
    "Tags": "KeywordList",
    "Note": "Text",
    "Count": "Int",
    "Price": "Double",
    "Ready": "Bool",
    "Due": "Datetime",
}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("WorkflowId = 'a'", ("a",)),
        ('WorkflowType != "b"', ("b",)),
        ("ExecutionStatus = 'Running' AND RunId = 'r'", (1, "r")),
        ("ExecutionStatus IN ('Completed', 'Failed')", (2, 3)),
        ("StartTime > '2020-01-01T00:00:00Z'", (1577836800000000000,)),
        (
            "StartTime BETWEEN '2020-01-01T00:00:00Z' AND '2020-01-01T00:00:01.5Z'",
            (1577836800000000000, 1577836801500000000),
        ),
        ("ExecutionDuration > '1h30m'", (5400 * 10**9,)),
        ("ExecutionDuration > '00:01:30'", (90 * 10**9,)),
        ("WorkflowId STARTS_WITH 'ab'", ("ab", "ab")),
        ("WorkflowId NOT STARTS_WITH 'ab'", ("ab", "ab")),
        ("`Color` = 'red' OR (Count >= 3 AND NOT Price < 1.5)", ("red", 3, 1.5)),
        ("Tags IN ('x', 'y') AND Ready = true", ("x", "y", 1)),
        ("Due < '2020-01-01T01:00:00+01:00'", ("2020-01-01T00:00:00.000000000Z",)),
        ("CloseTime IS NULL", ()),
        ("Color IS NOT NULL", ()),
        ("Count = -4", (-4,)),
        ("Color = 'it\\'s'", ("it's",)),
    ],
)
def test_values_are_bound(text: str, values: tuple[object, ...]) -> None:
    query = parse(text, TYPES)
    assert query.values == values
    assert query.sql.count("?") == len(values)


def test_no_text_means_everything() -> None:
    assert parse("  ", TYPES) == Query()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Nope = 'x'", "column name 'Nope' is not a valid search attribute"),
        ("WorkflowId = 'a' ORDER BY StartTime", "'ORDER BY' clause"),
        ("GROUP BY WorkflowType", "only supported for ExecutionStatus"),
        ("WorkflowId LIKE 'a%'", "'like' operator"),
        ("WorkflowId", "malformed query"),
        ("= 'x'", "malformed query"),
        ("WorkflowId = ", "malformed query"),
        ("Count = 'many'", "invalid value for search attribute Count of type Int"),
        ("StartTime > 'yesterday'", "of type Datetime"),
        ("ExecutionStatus = 'Sleeping'", "invalid value"),
        ("Tags > 'a'", "operator '>' not supported for KeywordList"),
        ("Count STARTS_WITH 'a'", "operator 'starts_with' not supported for Int"),
        ("1 = 1", "left side"),
        ("WorkflowId = 'a'; DROP TABLE executions", "malformed query"),
        ("WorkflowId = (SELECT 1)", "invalid value"),
    ],
)
def test_errors_name_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid query") as refusal:
        parse(text, TYPES)
    assert message in refusal.value.message
