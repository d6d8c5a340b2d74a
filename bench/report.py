"""Measurements as rows, and rows as a table in the terminal or in Markdown.

Rule: the terminal and bench/RESULTS.md show the same rows, and an aim that is missed says so.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rich.table import Table

from bench import aims
from bench.aims import Aim
from bench.loads import START_BUDGET_S
from bench.measure import Measurement

ACTION = (
    "An action is what Temporal Cloud's pricing calls one: a workflow started, an activity started, "
    "a signal or an update sent, a timer started, a schedule created, a Nexus operation started. "
    "Workflow tasks, polls and describes are not counted."
)
BUDGET = (
    f"Sleepers and schedules are started for {START_BUDGET_S:.0f} s at most: see how many there are "
    "in the end before comparing memory and restart."
)
CPU_PER_ACTION = "server CPU per action, ms"
CALL_LATENCY = "p50 of a call, ms"
RATIO = "The ratio is durably : Temporal's dev server, measured in turn in one run."


@dataclass(frozen=True, slots=True)
class Row:
    """One measure of one load on either server; `ours` or `theirs` is None when it did not run."""

    load: str
    measure: str
    ours: float | None
    theirs: float | None
    decimals: int
    aim: Aim | None

    @property
    def ratio(self) -> float | None:
        return self.ours / self.theirs if self.ours is not None and self.theirs else None

    @property
    def met(self) -> bool | None:
        return self.aim.met(self.ratio) if self.aim and self.ratio is not None else None

    def cells(self) -> list[str]:
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}"
        aim = "" if self.aim is None else str(self.aim)
        verdict = {None: "", True: "met", False: "missed"}[self.met]
        values = ["" if v is None else f"{v:,.{self.decimals}f}" for v in (self.ours, self.theirs)]
        return [self.load, self.measure, *values, ratio, aim, verdict]


HEADERS = ["load", "measure", "durably", "temporal", "ratio", "aim", ""]


def rows(measurements: list[Measurement]) -> list[Row]:
    """The rows of each load, in the order they ran."""
    by_load: dict[str, dict[str, Measurement]] = {}
    for measurement in measurements:
        by_load.setdefault(measurement.load.name, {})[measurement.server] = measurement
    return [row for pair in by_load.values() for row in _load_rows(pair)]


def _load_rows(pair: dict[str, Measurement]) -> list[Row]:
    ours, theirs = pair.get("durably"), pair.get("temporal")
    one = next(iter(pair.values()))
    load = one.load
    title = f"{one.size:,} {load.title}"

    def row(
        measure: str, of: Callable[[Measurement], float], decimals: int, aim: Aim | None = None
    ) -> Row:
        values = [of(each) if each else None for each in (ours, theirs)]
        return Row(title, measure, values[0], values[1], decimals, aim)

    found = [
        row("actions/s", lambda m: m.actions_per_s, 0, load.aims.throughput),
        row(f"p50 of a {load.timed}, ms", lambda m: 1000 * m.p50_s, 1, load.aims.latency),
        row(f"p99 of a {load.timed}, ms", lambda m: 1000 * m.p99_s, 1),
        row(CPU_PER_ACTION, lambda m: 1000 * m.server_cpu_s, 2, load.aims.cpu),
        row("worker and client CPU per action, ms", lambda m: 1000 * m.client_cpu_s, 2),
        row("server memory before, MiB", lambda m: m.idle_rss_bytes / 2**20, 0),
        row("server memory after, MiB", lambda m: m.rss_bytes / 2**20, 0),
    ]
    if all(each.restart for each in pair.values()):
        found += [
            row(f"{load.kept}s in the end", lambda m: m.done, 0),
            row(f"server memory per {load.kept}, KiB", _kib_each, 1),
            row("kill to first describe, s", _restart_describe_s, 2),
            row("kill to first start, s", _restart_start_s, 2),
            row("server memory after restart, MiB", _restart_mib, 0),
        ]
    return found


def _kib_each(measurement: Measurement) -> float:
    return (measurement.rss_bytes - measurement.idle_rss_bytes) / 1024 / measurement.done


def _restart_describe_s(measurement: Measurement) -> float:
    assert measurement.restart
    return measurement.restart.describe_s


def _restart_start_s(measurement: Measurement) -> float:
    assert measurement.restart
    return measurement.restart.start_s


def _restart_mib(measurement: Measurement) -> float:
    assert measurement.restart
    return measurement.restart.rss_bytes / 2**20


def table(found: list[Row]) -> Table:
    drawn = Table(caption=f"{ACTION} {RATIO} {BUDGET}", caption_justify="left")
    for header in HEADERS[1:]:
        drawn.add_column(header, justify="left" if header == "measure" else "right")
    shown = ""
    for row in found:
        cells = row.cells()
        if row.load != shown:
            drawn.add_section()
            drawn.add_row(f"[bold]{row.load}[/]")
        shown = row.load
        drawn.add_row(*cells[1:], style={None: "", True: "green", False: "red"}[row.met])
    return drawn


def verdicts(found: list[Row]) -> list[str]:
    """One plain sentence per aim: met everywhere, or where it was missed and by how much."""
    sentences = []
    for aim in aims.ALL:
        judged = [row for row in found if row.aim is aim and row.ratio is not None]
        missed = [f"{row.load} ({row.ratio:.3g})" for row in judged if not row.met]
        met = [f"{row.load} ({row.ratio:.3g})" for row in judged if row.met]
        if judged:
            parts = ["met by " + ", ".join(met)] if met else []
            parts += ["missed by " + ", ".join(missed)] if missed else []
            sentences.append(f"Aim: {aim.says}: {'; '.join(parts)}.")
    return sentences


def overheads(found: list[Row]) -> list[str]:
    """What each protocol of agents outside costs beside the same call without it, which comes first."""
    latencies = {row.load: row.ours for row in found if row.measure == CALL_LATENCY and row.ours}
    cpu = {row.load: row.ours for row in found if row.measure == CPU_PER_ACTION and row.ours}
    alone, *others = latencies or [""]
    return [
        f"{load}: +{latencies[load] - latencies[alone]:.1f} ms at p50"
        f" ({latencies[load] / latencies[alone]:.2g} times), +{cpu[load] - cpu[alone]:.2f} ms of server CPU,"
        f" beside {alone}."
        for load in others
    ]


def markdown(found: list[Row], facts: dict[str, str]) -> str:
    """The whole of bench/RESULTS.md."""
    lines = ["# Results", "", "Written by `make bench`; do not edit.", ""]
    lines += [ACTION, RATIO, BUDGET, ""]
    lines += [
        "The worker and the client take CPU of the same machine: where the row of their CPU per "
        "action is the larger, they and not the server bound the throughput.",
        "",
    ]
    lines += ["## Aims", "", *[f"- {sentence}" for sentence in verdicts(found)], ""]
    lines += [*[f"- {sentence}" for sentence in overheads(found)], ""]
    lines += ["## Figures", "", _line(HEADERS), _line(["---", "---", *["---:"] * 5])]
    lines += [_line(row.cells()) for row in found]
    lines += ["", "## Machine", "", *[f"- {name}: {value}" for name, value in facts.items()]]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
