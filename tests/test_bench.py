"""The benchmarks run: tiny loads against durably alone. Nothing is asserted about time."""

import math

import pytest

from bench import aims, metrics, report
from bench.__main__ import LOADS
from bench.loads import READERS
from bench.measure import measure, percentile
from bench.operations import OPERATIONS_OF_ONE
from bench.servers import COMMANDS


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


async def test_metrics_are_weighed_against_none_in_pairs() -> None:
    for counted_first in (True, False):
        pair = await metrics.measure_pair(LOADS["signals"], 0.3, counted_first=counted_first)
        assert pair.counted_s > 0
        assert pair.uncounted_s > 0
        assert pair.ratio == pair.counted_s / pair.uncounted_s


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
