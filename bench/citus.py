"""`make bench-citus`: durably on one PostgreSQL and on Citus, the same load side by side. Needs Citus.

Rule: one machine has all of it. What can be compared is what an action costs; how much more several machines
carry cannot be seen on one.
"""

import asyncio
import sys
from dataclasses import replace
from typing import Annotated

import typer
from rich.console import Console

from bench import cluster, machine, postgres_report
from bench.servers import ROOT
from bench.systems import WORKS, Figures, durably
from tests.citus.cluster import CitusCluster
from tests.postgres import PostgresServer

RESULTS = ROOT / "bench" / "RESULTS-CITUS.md"
SHARDS = 8
NOTES = """\
- One durably server on one PostgreSQL, on one PostgreSQL with a store of 8 shards, and on Citus: a coordinator and two
  workers, 8 shards. fsync is on everywhere. All run in turn on the cores of one machine: more machines would carry more,
  and no table here shows how much.
- CPU, transactions, bytes of the log and bytes kept are of all databases together.
- The notes of [RESULTS-POSTGRES.md](RESULTS-POSTGRES.md) hold here too."""
out = Console(highlight=False)


def run(
    scale: Annotated[float, typer.Option(min=0.001, help="Size of each load; 1 is all.")] = 1.0,
    write: Annotated[bool, typer.Option(help="Write bench/RESULTS-CITUS.md.")] = False,
) -> None:
    """Workflows of 1 and of 20 steps, 50 at once, on each kind of store."""
    facts = machine.facts()
    stores: dict[str, PostgresServer] = {
        "PostgreSQL": PostgresServer(fsync=True),
        f"PostgreSQL, {SHARDS} shards": PostgresServer(fsync=True, shards=SHARDS),
        "Citus, 2 workers": CitusCluster(fsync=True, shards=SHARDS),
    }
    try:
        for store in stores.values():
            store.create()
            for each in cluster.machines(store):
                each.configure(cluster.SETTINGS)
            store.start()
        compared = asyncio.run(compare(stores, scale))
        facts["PostgreSQL"] = stores["PostgreSQL"].version()
    finally:
        for store in stores.values():
            store.remove()
    if write:
        command = " ".join(["python -m bench.citus", *sys.argv[1:]])
        text = postgres_report.markdown(
            compared, [], facts, command, title="Results on Citus", notes=NOTES
        )
        RESULTS.write_text(text)
        out.print(f"Written: {RESULTS}")


async def compare(stores: dict[str, PostgresServer], scale: float) -> list[list[Figures]]:
    """Each work that runs many at once, on each store."""
    compared = []
    for work in WORKS:
        if work.in_flight == 1:
            continue
        sized = work.scaled(scale)
        figures = []
        for name, store in stores.items():
            with out.status(f"{sized.title} on {name}"):
                measured = await durably(sized, store, cluster.COUNTS_ARE_TOLD_S)
            figures.append(replace(measured, system=name))
        compared.append(figures)
        title = f"{sized.workflows:,} {sized.title}"
        out.print(postgres_report.table(title, *postgres_report.cells(figures)))
    return compared


if __name__ == "__main__":
    typer.run(run)
