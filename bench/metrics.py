"""`python -m bench.metrics`: what metrics cost the server, as CPU per action.

Rule 1: one side counts and is scraped every second, which is more often than Prometheus does by default; the
        other counts nothing and is not asked (`bench.uncounted_server`).
Rule 2: the sides take turns, and who goes first alternates: each pair of runs gives one ratio, so that what
        the machine does beside slows both of it. The middle of the ratios is told with their spread.
"""

import asyncio
import math
import statistics
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from temporalio.client import Client

from bench import loads
from bench.loads import Load, Outcome
from bench.measure import measure, percentile
from bench.servers import durably_command

PAIRS = 10
SCRAPED_EVERY_S = 1.0
AIM = 1.05
CERTAIN = 1.96
"""So many standard errors around a mean are a confidence of 95 %."""
out = Console(highlight=False)


def uncounted_command(store: Path, port: int) -> list[str]:
    serve = durably_command(store, port)[3:]
    return [sys.executable, "-m", "bench.uncounted_server", *serve, "--set", "metrics=false"]


def scraped(load: Load) -> Load:
    """The load, with somebody beside it who reads `/metrics`."""

    async def run(client: Client, size: int) -> Outcome:
        async with asyncio.TaskGroup() as group:
            scraping = group.create_task(_scrape_on(client))
            outcome = await load.run(client, size)
            scraping.cancel()
        return outcome

    async def prepare(client: Client, size: int) -> int:
        # The first time the server imports what it needs for the page.
        async with _scraper(client) as http:
            await _scrape(http)
        return size if load.prepare is None else await load.prepare(client, size)

    return replace(load, run=run, prepare=prepare)


def _scraper(client: Client) -> httpx.AsyncClient:
    address = client.service_client.config.target_host
    return httpx.AsyncClient(base_url=f"http://{address}", timeout=60)


async def _scrape(http: httpx.AsyncClient) -> None:
    (await http.get("/metrics")).raise_for_status()


async def _scrape_on(client: Client) -> None:
    async with _scraper(client) as http:
        while True:
            await _scrape(http)
            await asyncio.sleep(SCRAPED_EVERY_S)


@dataclass(frozen=True, slots=True)
class Pair:
    """Seconds of the server's CPU per action."""

    counted_s: float
    uncounted_s: float

    @property
    def ratio(self) -> float:
        """ValueError where the load was so small that the kernel, which counts in ticks, counted nothing."""
        if not self.counted_s or not self.uncounted_s:
            raise ValueError("the load is too small to measure CPU by it: make --scale larger")
        return self.counted_s / self.uncounted_s


async def measure_pair(load: Load, scale: float, *, counted_first: bool) -> Pair:
    async def counted() -> float:
        return (await measure(scraped(load), "counted", durably_command, scale)).server_cpu_s

    async def uncounted() -> float:
        return (await measure(load, "uncounted", uncounted_command, scale)).server_cpu_s

    sides: list[Callable[[], Awaitable[float]]] = [counted, uncounted]
    first, second = [await side() for side in (sides if counted_first else sides[::-1])]
    return Pair(first, second) if counted_first else Pair(second, first)


def verdict(ratios: list[float]) -> str:
    """The middle of the ratios, where most are, and within what their mean is with 95 % confidence."""
    ordered = sorted(ratios)
    logs = [math.log(each) for each in ordered]
    error = CERTAIN * statistics.stdev(logs) / math.sqrt(len(logs))
    mean = statistics.fmean(logs)
    low, high = math.exp(mean - error), math.exp(mean + error)
    judged = "within" if high <= AIM else "above" if low > AIM else "not to be told from"
    return (
        f"CPU per action with metrics, of that without: {statistics.median(ordered):.3f} "
        f"(half of {len(ordered)} pairs from {percentile(ordered, 25):.3f} to "
        f"{percentile(ordered, 75):.3f}, all from {ordered[0]:.3f} to {ordered[-1]:.3f}); "
        f"the mean is from {low:.3f} to {high:.3f} with 95 % confidence: {judged} {AIM:.2f}"
    )


def run(
    pairs: Annotated[int, typer.Option(min=2, help="How often each side has its turn.")] = PAIRS,
    load: Annotated[
        str, typer.Option(help="One of the loads of `python -m bench`.")
    ] = "activity-20",
    scale: Annotated[float, typer.Option(min=0.0001, help="Size of the load; 1 is all.")] = 4.0,
) -> None:
    """The server's CPU per action with metrics that are scraped, and without any."""
    found: list[Pair] = []
    for number in range(pairs):
        with out.status(f"pair {number + 1} of {pairs}"):
            pair = measure_pair(loads.LOADS[load], scale, counted_first=number % 2 == 0)
            found.append(asyncio.run(pair))
        millis = (1000 * found[-1].counted_s, 1000 * found[-1].uncounted_s)
        out.print(
            f"{millis[0]:.3f} ms with, {millis[1]:.3f} ms without: {found[-1].ratio:.3f}",
            style="dim",
        )
    out.print(verdict([pair.ratio for pair in found]))


if __name__ == "__main__":
    typer.run(run)
