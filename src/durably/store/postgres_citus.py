"""A group commit on Citus: the same parts as one function, which runs where the group's shard lies.

Citus cannot route a statement that inserts in a WITH: it would move rows between all workers, and commit
in two phases. A call of a function that is distributed by its shard goes to one worker as it is, and
is one transaction there.

Rule 1: the function is made of the parts of `postgres_group`, and its name is a digest of its text: servers
        of two versions use each its own.
Rule 2: who migrates makes it; who serves needs it.
"""

from functools import cache
from hashlib import blake2b
from typing import Any

from durably.store.postgres_group import ADVANCE, CLAIM, CREATE, PARTS, REPLACE, TOGETHER, Part

WINNERS = "SELECT unnest(winners)"
CLAIMED = "SELECT unnest(claimants)"
RACES = {CLAIM.name: "claimants", REPLACE.name: "claimants", ADVANCE.name: "winners"}
"""Parts that say who has won, and where that is noted."""

# The driver asks once per connection what arrays are made of. That takes a second where Citus hides its
# shards from who looks at the catalog, and milliseconds where it does not.
HIDE_NO_SHARDS = "SET citus.override_table_visibility TO off"
# Lay a function beside the tables, so that a call of it goes to the worker of its shard.
DISTRIBUTE_FUNCTION = """SELECT create_distributed_function($1::text::regprocedure, 'in_shard',
    colocate_with := 'executions')"""


def _arguments() -> list[tuple[str, str]]:
    columns = [
        (f"{part.name}_{name}", f"{kind}[]") for part in PARTS for name, kind in part.columns
    ]
    return [("in_tag", "bigint"), ("in_shard", "int"), *columns]


def _step(part: Part) -> str:
    names = [name for name, _ in part.columns]
    given = ", ".join(f"{part.name}_{name}" for name in names)
    rows = f"unnest({given}) AS r({', '.join(names)})"
    sql = part.sql.format(rows=rows, won=WINNERS, claims=CLAIMED)
    sql = sql.replace("$2::int", "in_shard").replace("$1", "in_tag")
    if part is TOGETHER:
        sql = f"IF EXISTS ({sql}) THEN RAISE division_by_zero; END IF;"
    elif part.name in RACES or part is CREATE:
        into = RACES.get(part.name, "winners")
        sql = f"FOR found IN {sql} LOOP {into} := {into} || found; END LOOP;"
    else:
        sql += ";"
    return f"IF {part.name}_{names[0]} IS NOT NULL THEN {sql} END IF;"


@cache
def body() -> str:
    steps = "\n".join(_step(part) for part in PARTS)
    return f"""DECLARE
    found bigint;
    claimants bigint[] := ARRAY[]::bigint[];
    winners bigint[] := ARRAY[]::bigint[];
BEGIN
{steps}
RETURN winners;
END;"""


@cache
def function_name() -> str:
    arguments = ", ".join(f"{name} {kind}" for name, kind in _arguments())
    digest = blake2b(f"{arguments} {body()}".encode(), digest_size=6).hexdigest()
    return f"write_group_{digest}"


def definition() -> str:
    """The statement that makes the function."""
    arguments = ", ".join(f"{name} {kind}" for name, kind in _arguments())
    return (
        f"CREATE FUNCTION {function_name()}({arguments}) RETURNS bigint[] LANGUAGE plpgsql"
        f" AS $function$\n{body()}\n$function$"
    )


def signature() -> str:
    return f"{function_name()}({', '.join(kind for _, kind in _arguments())})"


@cache
def call() -> str:
    """The statement that writes a group: its one value are the executions that won their race."""
    marks = (f"${n}::{kind}" for n, (_, kind) in enumerate(_arguments(), start=1))
    return f"SELECT {function_name()}({', '.join(marks)})"


def values(tag: int, shard: int, columns: dict[str, list[list[Any]]]) -> list[object]:
    """What to bind to a call; NULL for parts that have nothing to do."""
    bound: list[object] = [tag, shard]
    for part in PARTS:
        found = columns.get(part.name)
        bound += found if found else [None] * len(part.columns)
    return bound
