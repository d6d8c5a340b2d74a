"""Figures on PostgreSQL as tables, for the terminal and for bench/RESULTS-POSTGRES.md.

Rule: both show the same rows, and an aim that is missed says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table

from bench.nodes import NodeFigures
from bench.systems import Figures

COMMITS_AIM = 2.0
TRANSACTIONS_AIM = 1.0
CONFLICTS_AIM = 0.01

NOTES = """\
- One PostgreSQL cluster with fsync on, a database of its own for every measurement. Temporal's dev server is
  beside it with its own SQLite file: the `temporal` command knows no PostgreSQL.
- An action is a workflow started or a step (an activity) started. Each system is measured on the same work in turn.
- DBOS is a library: its application process is server, worker and client in one, so it has no row of a server. "DBOS"
  starts each workflow in its own process; "DBOS, queue" enqueues all at once for a worker of 50, which looks every
  0.1 s: its latency has the waiting in it.
- "Everything" is the CPU of all processes: server, PostgreSQL, worker and client.
- Transactions are all of the database, also those that only read, also the server's own in the background; writing
  ones are those that got a number. Group commits are durably's: one transaction writes all transitions that wait.
- Bytes of the log have the pages in them that are logged whole after a checkpoint. Bytes kept are those of the tables,
  with indexes and with the room that is left free for later versions; PostgreSQL takes disk space in steps, so that
  small loads show large steps."""


@dataclass(frozen=True, slots=True)
class Line:
    """One measure, of every system that has it."""

    measure: str
    of: Callable[[Figures], float | None]
    decimals: int


def _postgres(of: str) -> Callable[[Figures], float | None]:
    return lambda f: getattr(f.postgres, of) / f.actions if f.postgres else None


def _everything_s(figures: Figures) -> float:
    postgres_s = figures.postgres.cpu_s if figures.postgres else 0.0
    return figures.application_cpu_s + (figures.server_cpu_s or 0.0) + postgres_s


def _with_postgres_s(figures: Figures) -> float | None:
    if figures.server_cpu_s is None:
        return None
    return figures.server_cpu_s + (figures.postgres.cpu_s if figures.postgres else 0.0)


def _per_action_ms(of: Callable[[Figures], float | None]) -> Callable[[Figures], float | None]:
    def found(figures: Figures) -> float | None:
        seconds = of(figures)
        return None if seconds is None else 1000 * seconds / figures.actions

    return found


LINES = [
    Line("actions/s", lambda f: f.actions / f.seconds, 0),
    Line("p50 of a workflow, ms", lambda f: 1000 * f.p50_s, 1),
    Line("p99 of a workflow, ms", lambda f: 1000 * f.p99_s, 1),
    Line("CPU of everything per action, ms", _per_action_ms(_everything_s), 2),
    Line("CPU of server and PostgreSQL per action, ms", _per_action_ms(_with_postgres_s), 2),
    Line("CPU of the server per action, ms", _per_action_ms(lambda f: f.server_cpu_s), 2),
    Line(
        "CPU of PostgreSQL per action, ms",
        _per_action_ms(lambda f: f.postgres.cpu_s if f.postgres else None),
        2,
    ),
    Line(
        "CPU of worker and client, or DBOS application, per action, ms",
        _per_action_ms(lambda f: f.application_cpu_s),
        2,
    ),
    Line("transactions per action", _postgres("transactions"), 2),
    Line("writing transactions per action", _postgres("writing_transactions"), 2),
    Line(
        "group commits per action", lambda f: f.commits.groups / f.actions if f.commits else None, 2
    ),
    Line(
        "commits (transitions) per action",
        lambda f: f.commits.transitions / f.actions if f.commits else None,
        2,
    ),
    Line("bytes of the log (WAL) per action", _postgres("wal_bytes"), 0),
    Line("of them pages logged whole, per action", _postgres("wal_pages"), 3),
    Line("bytes kept per action", _postgres("stored_bytes"), 0),
]
NODE_HEADERS = [
    "load",
    "servers",
    "actions/s",
    "p50, ms",
    "p99, ms",
    "CPU of servers per action, ms",
    "CPU of PostgreSQL per action, ms",
    "workers and client, ms",
    "transactions per action",
    "conflicts",
    "transitions",
    "conflict rate",
]


def cells(figures: Sequence[Figures]) -> tuple[list[str], list[list[str]]]:
    """The header, and the rows, of one work on every system."""
    rows = []
    for line in LINES:
        values = [line.of(each) for each in figures]
        if any(value is not None for value in values):
            shown = ["–" if v is None else f"{v:,.{line.decimals}f}" for v in values]
            rows.append([line.measure, *shown])
    return ["measure", *(each.system for each in figures)], rows


def node_cells(figures: Sequence[NodeFigures]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for each in figures:
        actions = each.outcome.actions
        values = [
            f"{each.size:,} {each.spread.title}",
            f"{each.nodes}",
            f"{actions / each.outcome.seconds:,.0f}",
            f"{1000 * each.p50_s:,.1f}",
            f"{1000 * each.p99_s:,.1f}",
            f"{1000 * each.servers_cpu_s / actions:.2f}",
            f"{1000 * each.postgres.cpu_s / actions:.2f}",
            f"{1000 * each.application_cpu_s / actions:.2f}",
            f"{each.postgres.writing_transactions / actions:.2f}",
            f"{each.commits.conflicts:,.0f}",
            f"{each.commits.transitions:,.0f}",
            f"{100 * each.conflict_rate:.2f} %",
        ]
        rows.append(values)
    return NODE_HEADERS, rows


def verdicts(works: Sequence[Sequence[Figures]], nodes: Sequence[NodeFigures]) -> list[str]:
    """A plain sentence for each aim, on each work that runs many at once."""
    sentences = []
    for figures in works:
        for each in figures:
            if each.commits is None or each.postgres is None or each.work.in_flight == 1:
                continue
            commits = each.commits.transitions / each.actions
            transactions = each.postgres.transactions / each.actions
            sentences += [
                _verdict(each.work.title, "commits per action", commits, COMMITS_AIM),
                _verdict(
                    each.work.title, "transactions per action", transactions, TRANSACTIONS_AIM
                ),
            ]
    for found in nodes:
        if found.nodes > 1 and found.spread.normal:
            title = f"{found.spread.title}, {found.nodes} servers"
            sentences.append(
                _verdict(title, "conflicts per transition", found.conflict_rate, CONFLICTS_AIM)
            )
    return sentences


def _verdict(title: str, measure: str, value: float, aim: float) -> str:
    met = "met" if value <= aim else "missed"
    return f"{title}: {measure} {value:.3g}, aim at most {aim:g}: {met}."


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    drawn = Table(title=title, title_justify="left")
    for number, name in enumerate(header):
        drawn.add_column(name, justify="right" if number else "left")
    for row in rows:
        drawn.add_row(*row)
    return drawn


def markdown(
    works: Sequence[Sequence[Figures]], nodes: Sequence[NodeFigures], facts: dict[str, str]
) -> str:
    """The whole of bench/RESULTS-POSTGRES.md."""
    lines = ["# Results on PostgreSQL", "", "Written by `make bench-postgres`; do not edit.", ""]
    lines += [NOTES, "", "## Aims", ""]
    lines += [f"- {sentence}" for sentence in verdicts(works, nodes)]
    for figures in works:
        work = figures[0].work
        lines += ["", f"## {work.workflows:,} {work.title}", "", *_markdown(*cells(figures))]
    if nodes:
        lines += ["", "## One, two and three servers", ""]
        lines += ["Each with a worker and a client; transactions are those that write.", ""]
        lines += _markdown(*node_cells(nodes))
    lines += ["", "## Machine", "", *(f"- {name}: {value}" for name, value in facts.items())]
    return "\n".join(lines) + "\n"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    marks = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(row)} |" for row in (header, marks, *rows)]
