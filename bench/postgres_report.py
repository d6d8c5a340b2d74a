"""Figures on PostgreSQL as tables, for the terminal and for bench/RESULTS-POSTGRES.md.

Rule: both show the same rows, and an aim that is missed says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from rich.table import Table

from bench.nodes import NodeFigures
from bench.systems import Figures
from bench.words import WordFigures

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
  small loads show large steps.
- Through several servers: each has a worker and a client of its own; a workflow is started through one server and its
  result is asked of the next. Everything shares the cores of one machine, so that more servers are no faster here: what
  the tables show is what each action costs more.
- Words are what servers tell each other of their commits, by notifications that all hear. They are sent here by four
  connections, as fast as they go, to one server and to plain connections that listen."""


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


def _node_ms(of: Callable[[NodeFigures], float]) -> Callable[[NodeFigures], float]:
    return lambda f: 1000 * of(f) / f.outcome.actions


def _node_postgres(of: str) -> Callable[[NodeFigures], float]:
    return lambda f: float(getattr(f.postgres, of)) / f.outcome.actions


NODE_LINES: list[tuple[str, Callable[[NodeFigures], float], int]] = [
    ("actions/s", lambda f: f.outcome.actions / f.outcome.seconds, 0),
    ("p50, ms", lambda f: 1000 * f.p50_s, 1),
    ("p99, ms", lambda f: 1000 * f.p99_s, 1),
    ("CPU of all servers per action, ms", _node_ms(lambda f: f.servers_cpu_s), 2),
    ("CPU of PostgreSQL per action, ms", _node_ms(lambda f: f.postgres.cpu_s), 2),
    ("CPU of workers and client per action, ms", _node_ms(lambda f: f.application_cpu_s), 2),
    ("writing transactions per action", _node_postgres("writing_transactions"), 2),
    ("bytes of the log (WAL) per action", _node_postgres("wal_bytes"), 0),
    ("transitions per action", lambda f: f.commits.transitions / f.outcome.actions, 2),
    ("transitions that lost a race", lambda f: f.commits.conflicts, 0),
    ("of all transitions, %", lambda f: 100 * f.conflict_rate, 2),
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
    """The header, and the rows, of one load through several numbers of servers."""
    rows = [
        [measure, *(f"{of(each):,.{decimals}f}" for each in figures)]
        for measure, of, decimals in NODE_LINES
    ]
    servers = ["1 server" if each.nodes == 1 else f"{each.nodes} servers" for each in figures]
    return ["measure", *servers], rows


def node_title(figures: Sequence[NodeFigures]) -> str:
    return f"{figures[0].size:,} {figures[0].spread.title}, through several servers"


def word_cells(figures: Sequence[WordFigures]) -> tuple[list[str], list[list[str]]]:
    rows = [
        ["notifications/s", *(f"{each.notifications / each.seconds:,.0f}" for each in figures)],
        [
            "CPU of PostgreSQL per notification, µs",
            *(f"{1e6 * each.postgres_cpu_s / each.notifications:,.0f}" for each in figures),
        ],
        [
            "CPU of a server that hears, per word, µs",
            *(f"{1e6 * each.server_cpu_s / each.words:.2f}" for each in figures),
        ],
    ]
    listeners = [f"{each.listeners} listening" for each in figures]
    return ["measure", *listeners], rows


def word_title(figures: Sequence[WordFigures]) -> str:
    each = figures[0]
    return f"{each.notifications:,} notifications of {each.words // each.notifications} words"


def verdicts(
    works: Sequence[Sequence[Figures]], nodes: Sequence[Sequence[NodeFigures]]
) -> list[str]:
    """A plain sentence for each aim, on each work that runs many at once."""
    sentences = []
    for figures in works:
        for each in figures:
            if each.commits is None or each.postgres is None or each.work.in_flight == 1:
                continue
            commits = each.commits.transitions / each.actions
            transactions = each.postgres.transactions / each.actions
            title = f"{each.system}, {each.work.title}"
            sentences += [
                _verdict(title, "commits per action", commits, COMMITS_AIM),
                _verdict(title, "transactions per action", transactions, TRANSACTIONS_AIM),
            ]
    for found in chain.from_iterable(nodes):
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
    works: Sequence[Sequence[Figures]],
    nodes: Sequence[Sequence[NodeFigures]],
    facts: dict[str, str],
    command: str,
    *,
    words: Sequence[WordFigures] = (),
    title: str = "Results on PostgreSQL",
    notes: str = NOTES,
) -> str:
    """The whole of a file of results. `command` is what makes it again."""
    lines = [f"# {title}", "", f"Written by `{command}`; do not edit.", ""]
    lines += [notes, "", "## Aims", ""]
    lines += [f"- {sentence}" for sentence in verdicts(works, nodes)]
    for figures in works:
        work = figures[0].work
        lines += ["", f"## {work.workflows:,} {work.title}", "", *_markdown(*cells(figures))]
    for spread_out in nodes:
        lines += ["", f"## {node_title(spread_out)}", "", *_markdown(*node_cells(spread_out))]
    if words:
        lines += ["", f"## {word_title(words)}", "", *_markdown(*word_cells(words))]
    lines += ["", "## Machine", "", *(f"- {name}: {value}" for name, value in facts.items())]
    return "\n".join(lines) + "\n"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    marks = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(row)} |" for row in (header, marks, *rows)]
