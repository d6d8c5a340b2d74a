"""The benchmarks run: tiny loads against durably alone. Nothing is asserted about time."""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from bench import aims, loads, metrics, postgres_report, report
from bench.__main__ import LOADS
from bench.loads import READERS
from bench.measure import measure, percentile
from bench.nodes import SPREADS, measure_nodes
from bench.operations import OPERATIONS_OF_ONE
from bench.servers import COMMANDS, BenchServer, durably_command
from bench.systems import SYSTEMS, Work
from bench.words import measure_words
from tests.postgres import PostgresServer


@pytest.mark.parametrize(
    "name",
    [
        "sequential",
        "sleepers",
        "updates",
        "stream",
        "schedules",
        "nexus-async",
        "nexus-sync-many",
        "call-mcp",
    ],
)
async def test_a_load_runs_and_is_reported(name: str) -> None:
    measured = await measure(
        LOADS[name], "durably", COMMANDS["durably"], scale=3 / LOADS[name].size
    )
    assert measured.done == 3
    assert (
        measured.actions
        == {
            "sequential": 1 + 3,
            "sleepers": 2 * 3,
            "updates": 1 + 3,
            "stream": 1 + 3 * (1 + READERS),
            "schedules": 3,
            "nexus-async": 1 + 3 * 2,
            "nexus-sync-many": 3 * (1 + OPERATIONS_OF_ONE),
            "call-mcp": 3,
        }[name]
    )
    assert (measured.restart is not None) == bool(LOADS[name].kept)
    found = report.rows([measured])
    assert found
    assert all(row.ratio is None and row.met is None for row in found)


def test_aims_are_judged_by_the_ratio() -> None:
    faster = report.Row("load", "actions/s", 500.0, 100.0, 0, aims.THROUGHPUT)
    slower = report.Row("load", "server CPU", 2.0, 10.0, 0, aims.CPU)
    assert faster.met is True
    assert slower.met is False
    sentences = report.verdicts([faster, slower])
    assert "met by load (5)" in sentences[0]
    assert "missed by load (0.2)" in sentences[1]


def test_what_a_protocol_costs_is_told_beside_the_call_alone() -> None:
    found = [
        report.Row(load, measure, value, None, 1, None)
        for load, latency_ms, cpu_ms in (("alone", 10.0, 2.0), ("by MCP", 15.0, 3.5))
        for measure, value in ((report.CALL_LATENCY, latency_ms), (report.CPU_PER_ACTION, cpu_ms))
    ]
    (sentence,) = report.overheads(found)
    assert sentence.startswith("by MCP: +5.0 ms at p50 (1.5 times), +1.50 ms of server CPU")


def _counts_nothing(store: Path, port: int) -> list[str]:
    """With the page, so that one sees that it has nothing to show."""
    return [sys.executable, "-m", "bench.uncounted_server", *durably_command(store, port)[3:]]


async def test_a_load_is_the_same_while_metrics_are_read() -> None:
    load = metrics.scraped(LOADS["signals"])
    measured = await measure(load, "counted", COMMANDS["durably"], scale=3 / load.size)
    assert (measured.done, measured.actions) == (3, 1 + 3)


@pytest.mark.parametrize(
    ("command", "answers"), [(metrics.uncounted_command, False), (_counts_nothing, True)]
)
async def test_a_server_without_metrics_counts_nothing(
    tmp_path: Path, command: Callable[[Path, int], list[str]], answers: bool
) -> None:
    server = BenchServer(command, tmp_path / "store.db")
    try:
        client = await server.answer()
        await loads.starts(client, 3)
        async with httpx.AsyncClient(base_url=f"http://{server.address}", timeout=60) as http:
            page = await http.get("/metrics")
        assert (page.status_code == 200) == answers
        if answers:
            counted = [
                line
                for line in page.text.splitlines()
                if line.startswith(("service_requests_total", "durably_commit_seconds_count"))
            ]
            assert counted
            assert all(line.endswith(" 0.0") for line in counted)
    finally:
        server.process.stop()


def test_what_is_too_small_to_measure_is_refused() -> None:
    assert metrics.Pair(0.002, 0.001).ratio == 2
    for pair in (metrics.Pair(0.002, 0.0), metrics.Pair(0.0, 0.002)):
        with pytest.raises(ValueError, match="larger"):
            _ = pair.ratio


async def test_what_an_action_costs_on_postgres_is_reported(postgres: PostgresServer) -> None:
    figures = await SYSTEMS["durably"](Work("few", 2, 2, 3), postgres, 0.0)
    assert figures.actions == 3 * (1 + 2)
    assert figures.commits is not None
    # A start, a workflow task before and after each of two activities, and what activities say.
    assert figures.commits.transitions >= figures.actions
    assert 0 < figures.commits.groups <= figures.commits.transitions
    header, rows = postgres_report.cells([figures])
    assert header == ["measure", "durably"]
    assert {row[0] for row in rows} == {line.measure for line in postgres_report.LINES}
    text = postgres_report.markdown([[figures]], [], {"cores": "2"}, "the command")
    assert "Written by `the command`" in text
    assert "## 3 workflows of 2 steps, 2 at once" in text


async def test_a_load_goes_through_several_servers(postgres: PostgresServer) -> None:
    spread = SPREADS["one-step"]
    figures = await measure_nodes(spread, 2, postgres, scale=4 / spread.size)
    assert figures.outcome.actions == 4 * 2
    assert figures.commits.transitions >= figures.outcome.actions
    header, rows = postgres_report.node_cells([figures])
    assert header == ["measure", "2 servers"]
    assert len(rows) == len(postgres_report.NODE_LINES)
    (sentence,) = postgres_report.verdicts([], [[figures]])
    assert "2 servers: conflicts per transition" in sentence


async def test_words_reach_every_listener(postgres: PostgresServer) -> None:
    figures = await measure_words(postgres, 3, notifications=5, words=7, idle_s=0.1)
    assert (figures.listeners, figures.words) == (3, 5 * 7)
    text = postgres_report.markdown([], [], {}, "the command", words=[figures])
    assert "## 5 notifications of 7 words" in text
    assert "| measure | 3 listening |" in text


@pytest.mark.parametrize(
    ("ratios", "judged"),
    [
        ([1.0, 1.01, 0.99, 1.0], "within"),
        ([1.2, 1.21, 1.19, 1.2], "above"),
        ([0.9, 1.3, 0.8, 1.2], "not to be told from"),
    ],
)
def test_a_ratio_is_judged_by_its_spread(ratios: list[float], judged: str) -> None:
    assert metrics.verdict(ratios).endswith(f"{judged} 1.05")


def test_percentiles_are_of_the_nearest_rank() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([1.0], 99) == 1.0
    assert math.isnan(percentile([], 50))
