"""`python -m bench`: run the loads on both servers in turn and print the ratios."""

import asyncio
import pstats
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench import loads, machine, operations, outside, report
from bench.measure import Measurement, measure
from bench.servers import COMMANDS, ROOT, profiled_command

LOADS = loads.LOADS | operations.LOADS | outside.LOADS
LoadName = StrEnum("LoadName", {name: name for name in LOADS})  # type: ignore[misc]
ServerName = StrEnum("ServerName", {name: name for name in COMMANDS})  # type: ignore[misc]
RESULTS = ROOT / "bench" / "RESULTS.md"
PROFILED_FUNCTIONS = 30
out = Console(highlight=False)


def run(
    load: Annotated[list[LoadName] | None, typer.Option(help="Only this load; repeatable.")] = None,
    only: Annotated[ServerName | None, typer.Option(help="Only this server.")] = None,
    scale: Annotated[float, typer.Option(min=0.0001, help="Size of each load; 1 is all.")] = 1.0,
    write: Annotated[bool, typer.Option(help="Write bench/RESULTS.md.")] = False,
    profile: Annotated[
        bool, typer.Option(help="Run durably under cProfile instead, and print where it spends.")
    ] = False,
) -> None:
    """The same load, worker and client against durably and Temporal's dev server, in turn."""
    names = [str(name) for name in load or LOADS]
    if profile:
        for name in names:
            asyncio.run(print_profile(name, scale))
        return
    facts = machine.facts()
    measurements = asyncio.run(run_loads(names, str(only) if only else None, scale))
    found = report.rows(measurements)
    out.print(report.table(found))
    for sentence in [*report.verdicts(found), *report.overheads(found)]:
        out.print(sentence)
    if write:
        RESULTS.write_text(report.markdown(found, facts))
        out.print(f"Written: {RESULTS}")


async def run_loads(names: list[str], only: str | None, scale: float) -> list[Measurement]:
    """Each load on each server; who goes first alternates, so that neither gains by it."""
    measurements = []
    for turn, name in enumerate(names):
        servers = [server for server in LOADS[name].servers if only in (None, server)]
        for server in servers if turn % 2 == 0 else reversed(servers):
            with out.status(f"{name} on {server}"):
                measured = await measure(LOADS[name], server, COMMANDS[server], scale)
            out.print(f"{name} on {server}: {measured.actions_per_s:,.0f} actions/s", style="dim")
            measurements.append(measured)
    return measurements


async def print_profile(name: str, scale: float) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(folder) / "profile"
        with out.status(f"{name} on durably, profiled"):
            measured = await measure(LOADS[name], "durably", profiled_command(path), scale)
        statistics = pstats.Stats(str(path))
    out.rule(f"{measured.size} {measured.load.title}: {measured.actions} actions")
    out.print("CPU seconds of each thread (the kernel's count, profiler included):")
    for thread, seconds in sorted(measured.threads_s.items(), key=lambda item: -item[1]):
        if seconds >= 0.01:
            out.print(f"  {seconds:7.2f}  {thread}")
    statistics.sort_stats("tottime").print_stats(PROFILED_FUNCTIONS)


if __name__ == "__main__":
    typer.run(run)
