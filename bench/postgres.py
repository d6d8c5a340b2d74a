"""`make bench-postgres`: durably, DBOS and Temporal's dev server on the same steps; several servers.

Rule: all in one run and in turn, so that a slow or busy machine weighs on all; ratios are what to quote.
"""

import asyncio
import sys
from enum import StrEnum
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console

from bench import cluster, machine, postgres_report
from bench.nodes import SPREADS, NodeFigures, measure_nodes
from bench.servers import ROOT
from bench.systems import SYSTEMS, WORKS, Figures
from bench.words import LISTENERS, NOTIFICATIONS, WORDS, WordFigures, measure_words
from tests.postgres import PostgresServer

RESULTS = ROOT / "bench" / "RESULTS-POSTGRES.md"
NODES_MAX = 3
WorkName = StrEnum("WorkName", {work.name: work.name for work in WORKS})  # type: ignore[misc]
SystemName = StrEnum("SystemName", {name: name for name in SYSTEMS})  # type: ignore[misc]
SpreadName = StrEnum("SpreadName", {name: name for name in SPREADS})  # type: ignore[misc]
out = Console(highlight=False)


def run(
    work: Annotated[list[WorkName] | None, typer.Option(help="Only this work; repeatable.")] = None,
    only: Annotated[
        list[SystemName] | None, typer.Option(help="Only this system; repeatable.")
    ] = None,
    spread: Annotated[
        list[SpreadName] | None, typer.Option(help="Only this load over servers; repeatable.")
    ] = None,
    systems: Annotated[bool, typer.Option(help="Compare the systems.")] = True,
    nodes: Annotated[bool, typer.Option(help="Compare 1, 2 and 3 servers.")] = True,
    words: Annotated[bool, typer.Option(help="Measure what servers tell each other.")] = True,
    scale: Annotated[float, typer.Option(min=0.001, help="Size of each load; 1 is all.")] = 1.0,
    write: Annotated[bool, typer.Option(help="Write bench/RESULTS-POSTGRES.md.")] = False,
) -> None:
    """The same steps on durably, DBOS and Temporal, and the same load through several servers."""
    facts = machine.facts()
    postgres = cluster.created()
    try:
        compared = (
            asyncio.run(compare(postgres, _names(work), _names(only), scale)) if systems else []
        )
        spread_out = asyncio.run(spread_load(postgres, _names(spread), scale)) if nodes else []
        told = asyncio.run(tell(postgres, scale)) if words else []
        facts["PostgreSQL"] = postgres.version()
        facts["DBOS"] = version("dbos")
    finally:
        postgres.remove()
    for sentence in postgres_report.verdicts(compared, spread_out):
        out.print(sentence)
    if write:
        command = " ".join(["python -m bench.postgres", *sys.argv[1:]])
        RESULTS.write_text(
            postgres_report.markdown(compared, spread_out, facts, command, words=told)
        )
        out.print(f"Written: {RESULTS}")


def _names(chosen: list[StrEnum] | None) -> list[str]:
    return [str(name) for name in chosen or []]


async def compare(
    postgres: PostgresServer, works: list[str], systems: list[str], scale: float
) -> list[list[Figures]]:
    """Each work on each system; who goes first alternates."""
    compared = []
    for turn, work in enumerate(work for work in WORKS if not works or work.name in works):
        sized = work.scaled(scale)
        chosen = [name for name in SYSTEMS if not systems or name in systems]
        if work.in_flight == 1 and "dbos" in chosen:
            # One after another, nothing is queued.
            chosen = [name for name in chosen if name != "dbos-queue"]
        found: dict[str, Figures] = {}
        for name in chosen if turn % 2 == 0 else reversed(chosen):
            with out.status(f"{sized.title} on {name}"):
                found[name] = await SYSTEMS[name](sized, postgres, cluster.COUNTS_ARE_TOLD_S)
        figures = [found[name] for name in chosen]
        compared.append(figures)
        title = f"{sized.workflows:,} {sized.title}"
        out.print(postgres_report.table(title, *postgres_report.cells(figures)))
    return compared


async def spread_load(
    postgres: PostgresServer, spreads: list[str], scale: float
) -> list[list[NodeFigures]]:
    """Each load through 1, 2 and 3 servers."""
    spread_out = []
    for name, spread in SPREADS.items():
        if spreads and name not in spreads:
            continue
        found = []
        for nodes in range(1, NODES_MAX + 1):
            with out.status(f"{spread.title} through {nodes} servers"):
                found.append(await measure_nodes(spread, nodes, postgres, scale))
        spread_out.append(found)
        out.print(
            postgres_report.table(
                postgres_report.node_title(found), *postgres_report.node_cells(found)
            )
        )
    return spread_out


async def tell(postgres: PostgresServer, scale: float) -> list[WordFigures]:
    """Words of many commits, to a few and to many."""
    notifications = max(1, round(NOTIFICATIONS * scale))
    found = []
    for listeners in LISTENERS:
        with out.status(f"Words to {listeners}"):
            found.append(await measure_words(postgres, listeners, notifications, WORDS))
    out.print(
        postgres_report.table(postgres_report.word_title(found), *postgres_report.word_cells(found))
    )
    return found


if __name__ == "__main__":
    typer.run(run)
