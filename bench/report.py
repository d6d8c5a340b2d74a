"""Measurements as rows, and rows as a table in the terminal or in Markdown.

Rule: the terminal and bench/RESULTS.md show the same rows, and an aim that is missed says so.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rich.table import Table

from bench.loads import START_BUDGET_S
from bench.measure import Measurement

ACTION = (
    "An action is what Temporal Cloud's pricing calls one: a workflow started, an activity started, "
    "a signal or an update sent, a timer started, a schedule created. Workflow tasks, polls and "
    "describes are not counted."
)
BUDGET = (
    f"Sleepers and schedules are started for {START_BUDGET_S:.0f} s at most: see how many there are "
    "in the end before comparing memory and restart."
)
RATIO = "The ratio is durably : Temporal's dev server, measured in turn in one run."


@dataclass(frozen=True, slots=True)
class Aim:
    """What the ratio durably : temporal should be: at least, or at most, the bound."""

    bound: float
    at_least: bool

    def met(self, ratio: float) -> bool:
        return ratio >= self.bound if self.at_least else ratio <= self.bound

    def __str__(self) -> str:
        return f">= {self.bound:g}" if self.at_least else f"<= 1/{1 / self.bound:g}"


THROUGHPUT = Aim(5, at_least=True)
CPU = Aim(1 / 8, at_least=False)
STEP_LATENCY = Aim(1 / 6, at_least=False)


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
    load, sequential = one.load, one.load.name == "sequential"
    title = f"{one.size:,} {load.title}"

    def row(
        measure: str, of: Callable[[Measurement], float], decimals: int, aim: Aim | None = None
    ) -> Row:
        values = [of(each) if each else None for each in (ours, theirs)]
        return Row(title, measure, values[0], values[1], decimals, aim)

    step_aim = STEP_LATENCY if sequential else None
    throughput = THROUGHPUT if load.aimed and not sequential else None
    cpu = CPU if load.aimed else None
    found = [
        row("actions/s", lambda m: m.actions_per_s, 0, throughput),
        row(f"p50 of a {load.timed}, ms", lambda m: 1000 * m.p50_s, 1, step_aim),
        row(f"p99 of a {load.timed}, ms", lambda m: 1000 * m.p99_s, 1),
        row("server CPU per action, ms", lambda m: 1000 * m.server_cpu_s, 2, cpu),
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
    for name, aim in [
        ("throughput at least 5 times Temporal's", THROUGHPUT),
        ("server CPU per action at most 1/8 of Temporal's", CPU),
        ("sequential step latency at most 1/6 of Temporal's", STEP_LATENCY),
    ]:
        judged = [row for row in found if row.aim is aim and row.ratio is not None]
        missed = [f"{row.load} ({row.ratio:.3g})" for row in judged if not row.met]
        met = [f"{row.load} ({row.ratio:.3g})" for row in judged if row.met]
        if judged:
            parts = ["met by " + ", ".join(met)] if met else []
            parts += ["missed by " + ", ".join(missed)] if missed else []
            sentences.append(f"Aim: {name}: {'; '.join(parts)}.")
    return sentences


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
    lines += ["## Figures", "", _line(HEADERS), _line(["---", "---", *["---:"] * 5])]
    lines += [_line(row.cells()) for row in found]
    lines += ["", "## Machine", "", *[f"- {name}: {value}" for name, value in facts.items()]]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
