"""List Filter text: what it means, and what is said of text that means nothing."""

import re
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
        ("WorkflowId STARTS_WITH 'ab'", ("ab", "ab", "ab", "ac")),
        ("WorkflowId NOT STARTS_WITH 'ab'", ("ab", "ab", "ab", "ac")),
        ("`Color` = 'red' OR (Count >= 3 AND NOT Price < 1.5)", ("red", 3, 1.5)),
        ("Tags IN ('x', 'y') AND Ready = true", ("x", "y", 1)),
        ("Due < '2020-01-01T01:00:00+01:00'", ("2020-01-01T00:00:00.000000000Z",)),
        ("CloseTime IS NULL", ()),
        ("Color IS NOT NULL", ()),
        ("Count = -4", (-4,)),
        ("Color = 'it\\'s'", ("it's",)),
        ("Color = 'it''s' || Color <> \"a'b\"", ("it's", "a'b")),
        ("Tags STARTS_WITH 'a' AND Tags NOT STARTS_WITH 'b'", ("a", "a", "b", "b")),
        ("Color NOT BETWEEN 'a' AND 'b' and not Color in ('c')", ("a", "b", "c")),
        ("Count = 1.5 AND Price = .5 AND Count < +2e3", (1.5, 0.5, 2000.0)),
        ("StartTime < '9999-12-31T00:00:00Z'", (2**63 - 1,)),
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
        ("Nope = 'x'", "invalid search attribute: Nope (at position 1)"),
        ("WorkflowId = 'a' ORDER BY StartTime", "'ORDER BY' clause (at position 18)"),
        ("GROUP BY WorkflowType, RunId", "supports only a single field (at position 24)"),
        ("GROUP BY Nope", "invalid search attribute: Nope (at position 10)"),
        (
            "WorkflowId LIKE 'a%'",
            "operator 'LIKE' not supported for Keyword type search attribute 'WorkflowId'",
        ),
        ("WorkflowId", "incomplete expression (at position 1)"),
        ("= 'x'", "syntax error at position 1 near '='"),
        ("WorkflowId = ", "syntax error at position 13"),
        ("RunId = = 'x'", "syntax error at position 9 near '='"),
        ("  RunId 'x'", "syntax error at position 9 near ''x''"),
        ("RunId = 'x", "syntax error at position 9 near ''x'"),
        ("(RunId = 'x'", "syntax error at position 13"),
        ("RunId = 'x')", "syntax error at position 12 near ')'"),
        ("RunId = 'x' AND\nRunId ! 'y'", "syntax error at position 23 near '! 'y''"),
        (
            "Count = 'many'",
            'invalid value type for search attribute Count of type Int: "many" (type: string)',
        ),
        ("Ready = 1", "of type Bool: 1 (type: int64) (at position 9)"),
        ("Price IN (1, 2, 'x')", 'of type Double: "x" (type: string) (at position 17)'),
        ("StartTime > 'yesterday'", "unable to parse datetime 'yesterday' (at position 13)"),
        ("ExecutionStatus = 'Sleeping'", "invalid ExecutionStatus value 'Sleeping'"),
        ("ExecutionDuration > 'long'", "invalid duration value"),
        ("Tags > 'a'", "operator '>' not supported for KeywordList"),
        ("Tags BETWEEN 'a' AND 'b'", "cannot do range condition on search attribute 'Tags'"),
        ("Count STARTS_WITH 'a'", "operator 'STARTS_WITH' not supported for Int"),
        ("WorkflowId = RunId", 'did you forget to quote "RunId"?) (at position 14)'),
        ("WorkflowId = null", "unexpected value null"),
        ("WorkflowId = 'a' LIMIT 3", "'LIMIT' clause"),
        ("(" * 101 + "RunId = 'x'" + ")" * 101, "nested more than 100 deep (at position 101)"),
        ("NOT " * 5000 + "RunId = 'x'", "nested more than 100 deep"),
        ("1 = 1", "the left side must be the name of a search attribute but was 1"),
        ("WorkflowId = 'a'; DROP TABLE executions", "at position 17 near ';"),
        ("WorkflowId = (SELECT 1)", "syntax error at position 14 near '('"),
    ],
)
def test_errors_name_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid query") as refusal:
        parse(text, TYPES)
    assert message in refusal.value.message


@settings(max_examples=300, deadline=None, database=None)
@given(
    st.lists(
        st.sampled_from(
            (
                "RunId",
                "Count",
                "`Tags`",
                "=",
                "!=",
                "'x'",
                "1",
                "(",
                ")",
                ",",
                "AND",
                "OR",
                "NOT",
                "IN",
                "IS",
                "NULL",
                "BETWEEN",
                "STARTS_WITH",
                "GROUP BY",
                "true",
                "'",
                "-",
                "\\",
            )
        ),
        max_size=12,
    )
)
def test_any_text_is_understood_or_refused(words: list[str]) -> None:
    text = " ".join(words)
    try:
        query = parse(text, TYPES)
    except InvalidArgument as refusal:
        where = [int(found) for found in re.findall(r"at position (\d+)", refusal.message)]
        query, inside = Query(), len(where) == 1 and 1 <= where[0] <= len(text) + 1
    else:
        inside = True
    assert inside
    assert query.sql.count("?") == len(query.values)


def test_long_chains_can_be_run() -> None:
    chain = " OR ".join(f"Color = 'c{number}'" for number in range(5000))
    query = parse(chain, TYPES)
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE visibility (search_values TEXT)")
    assert not connection.execute(
        f"SELECT * FROM visibility WHERE {query.sql}", query.values
    ).fetchall()
    with pytest.raises(InvalidArgument, match="more than 30000 values"):
        parse(f"Count IN ({', '.join('1' for _ in range(30_001))})", TYPES)
