"""The command line: `durably serve`, `durably migrate`, `durably copy`, `durably demo`.

Rule 1: a mistake of the user ends in one clear line and exit code 1 or 2, never in a traceback.
Rule 2: nothing heavy is imported before the command is known.
"""

import asyncio
import dataclasses
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from enum import StrEnum
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from durably import logs
from durably.config import Config
from durably.logs import LogFormat

app = typer.Typer(
    name="durably",
    help="A durable execution server for AI agents that speaks the Temporal API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
GARBAGE_OBJECTS = 20_000
"""New objects before the garbage collector looks for cycles among them (Python: 700)."""

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

DEFAULT_STORE = "sqlite:///durably.db"


AUTH_TOKENS = Annotated[
    str,
    typer.Option(
        "--auth-tokens",
        metavar="FILE",
        envvar="DURABLY_AUTH_TOKENS",
        help="Ask every caller for a token; `durably token` makes the file.",
    ),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        from durably.version import VERSION

        out.print(f"durably {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version, and exit."
        ),
    ] = False,
) -> None:
    """A durable execution server for AI agents that speaks the Temporal API."""


@app.command()
def serve(
    store: Annotated[
        str,
        typer.Option(
            envvar="DURABLY_STORE",
            help="Where the state is kept: sqlite:///PATH (sqlite:////PATH is absolute),"
            " postgresql://... or memory:",
        ),
    ] = DEFAULT_STORE,
    workers: Annotated[
        int, typer.Option(envvar="DURABLY_WORKERS", min=1, help="Processes that share the port.")
    ] = 1,
    host: Annotated[
        str, typer.Option(envvar="DURABLY_HOST", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="DURABLY_PORT", min=0, max=65535, help="Port; 0 picks a free one.")
    ] = 7233,
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            envvar="DURABLY_NAMESPACES",
            help="A namespace to create if it is missing; several with commas, or given again.",
        ),
    ] = None,
    auth_tokens: AUTH_TOKENS = "",
    time_skipping: Annotated[
        bool,
        typer.Option(
            "--time-skipping",
            envvar="DURABLY_TIME_SKIPPING",
            help="For tests: let clients skip time where nothing is to be done in it.",
        ),
    ] = False,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Another setting, by its name in docs/configuration.md; also DURABLY_<NAME>.",
        ),
    ] = None,
    log_level: Annotated[
        str, typer.Option(envvar="DURABLY_LOG_LEVEL", help="debug, info, warning or error.")
    ] = "warning",
    log_format: Annotated[
        LogFormat,
        typer.Option(
            envvar="DURABLY_LOG_FORMAT", help="How lines of the log look: text, logfmt or json."
        ),
    ] = LogFormat.TEXT,
) -> None:
    """Serve workflows until SIGTERM or Ctrl-C; everything is kept in the store."""
    try:
        logs.configure(log_level, log_format)
        config = settings(
            setting or [],
            store=store,
            host=host,
            port=port,
            auth_tokens=auth_tokens,
            time_skipping=time_skipping,
            namespaces=_names(namespace or []) or Config().namespaces,
        )
    except ValueError as error:
        _fail(str(error), 2)
    if workers > 1:
        _serve_together(config, workers, log_level, log_format)
    else:
        _loop_runner()(_serve(config))


def _serve_together(config: Config, workers: int, log_level: str, log_format: LogFormat) -> None:
    from durably import fleet

    try:
        member = partial(_serve_as_member, log_level, log_format)
        fleet.serve(config, workers, member, lambda address: _announce(address, config))
    except ValueError as error:
        _fail(str(error), 2)
    except fleet.MemberFailed as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(f"cannot serve on {config.host}:{config.port}: {error}", 1)
    out.print("Stopped.")


def _serve_as_member(
    log_level: str, log_format: LogFormat, config: Config, parent: Connection
) -> None:
    """In a process of its own: until the parent closes the connection, or dies."""
    logs.configure(log_level, log_format)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        _loop_runner()(_serve(config, parent))
    except typer.Exit as ended:
        sys.exit(ended.exit_code)  # It has said why; multiprocessing would show a trace.


def _names(texts: list[str]) -> tuple[str, ...]:
    """The names in all texts, each of which may hold several, separated by commas."""
    names = (name.strip() for text in texts for name in text.split(","))
    return tuple(dict.fromkeys(name for name in names if name))


def settings(pairs: list[str], **given: Any) -> Config:
    """A Config from the environment, then `NAME=VALUE` pairs, then what is given.

    Raises ValueError for a name that is no setting, or a value of the wrong kind.
    """
    import os

    fields = {f.name: f for f in dataclasses.fields(Config) if f.name not in given}
    texts = {
        name: os.environ[f"DURABLY_{name.upper()}"]
        for name in fields
        if f"DURABLY_{name.upper()}" in os.environ
    }
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or name not in fields:
            raise ValueError(f"--set {pair}: expected NAME=VALUE; the names: {', '.join(fields)}")
        texts[name] = value
    values = {name: _convert(name, text) for name, text in texts.items()}
    return dataclasses.replace(Config(), **given, **values)


def _convert(name: str, text: str) -> Any:
    """A setting's text as the kind of its default."""
    default = getattr(Config(), name)
    try:
        if isinstance(default, dict):
            return dict(pair.split(":", 1) for pair in text.split(",") if pair)
        if isinstance(default, tuple):
            return tuple(part for part in text.split(",") if part)
        if isinstance(default, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        return type(default)(text)
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{name}={text}: expected a value of the kind {type(default).__name__}"
        ) from error


def _loop_runner() -> Any:
    """uvloop where there is one: it takes less CPU per call."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run


async def _serve(config: Config, parent: Connection | None = None) -> None:
    from durably.errors import Refusal
    from durably.server import Server
    from durably.store.store import StoreForbidden, StoreLocked, StoreTooNew, StoreTooOld

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    if parent is not None:
        loop.add_reader(parent.fileno(), stop.set)
    else:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
    try:
        async with Server(config) as server:
            loop.add_signal_handler(signal.SIGHUP, server.reload_tokens)
            if parent is not None:
                parent.send(server.address)
            else:
                _announce(server.address, config)
            _collect_rarely()
            await stop.wait()
            if parent is None:
                out.print("Draining ...")
        if parent is None:
            out.print("Stopped.")
    except (StoreForbidden, StoreLocked, StoreTooNew, StoreTooOld, ValueError) as error:
        _fail(str(error), 1)
    except Refusal as refusal:
        _fail(refusal.message, 1)
    except OSError as error:
        _fail(f"cannot serve on {config.host}:{config.port}: {error}", 1)


def _collect_rarely() -> None:
    """What was made until now stays: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS, 20, 50)


def _announce(address: str, config: Config) -> None:
    where = config.store
    if where.startswith("sqlite:///"):
        where = str(Path(where.removeprefix("sqlite:///")).expanduser().resolve())
    elif "://" in where:
        where = logs.without_password(where)
    out.print(f"[bold]durably[/bold] serves the Temporal API on [bold green]{address}[/]")
    out.print(f"  data       {where}", soft_wrap=True)
    out.print(f"  namespaces {', '.join(config.namespaces)}")
    out.print(f'  Python     await Client.connect("{address}")')
    out.print(f"  CLI        temporal --address {address} workflow list")
    if config.console:
        out.print(f"  browser    http://{address}")
    sys.stdout.flush()
    from durably.addresses import is_loopback

    if not config.auth_tokens and not is_loopback(config.host):
        err.print(
            f"[bold yellow]durably:[/] whoever reaches {config.host} may do everything here: give"
            " --auth-tokens FILE (`durably token` makes one), or listen on 127.0.0.1 behind a proxy",
            soft_wrap=True,
        )


def _fail(message: str, code: int) -> NoReturn:
    err.print(f"[bold red]durably:[/] {escape(message)}", soft_wrap=True)
    raise typer.Exit(code)


@app.command()
def token(
    name: Annotated[str, typer.Argument(help="Whose it is: shown in refusals and in the console.")],
    file: Annotated[
        Path,
        typer.Option("--file", envvar="DURABLY_AUTH_TOKENS", help="The file to add it to."),
    ] = Path("tokens.toml"),
    role: Annotated[str, typer.Option(help="read, write or admin.")] = "write",
    namespace: Annotated[
        list[str] | None,
        typer.Option(help="Where it counts: a name, or a pattern with *; given again for several."),
    ] = None,
) -> None:
    """Make a token for `durably serve --auth-tokens`, and print it: it is written down nowhere."""
    from durably.service.access import add_entry

    try:
        made = add_entry(file, name, role, _names(namespace or []) or Config().namespaces)
    except ValueError as error:
        _fail(str(error), 2)
    err.print(f"Added to {file}. A running server reads it again on SIGHUP.", soft_wrap=True)
    print(made)


@app.command()
def migrate(
    store: Annotated[
        str,
        typer.Option(envvar="DURABLY_STORE", help="The store: postgresql://... or sqlite:///PATH"),
    ] = DEFAULT_STORE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is missing, and change nothing.")
    ] = False,
    shards: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of an empty PostgreSQL database: into how many parts its executions are divided. On a"
            " coordinator of Citus they are spread over its workers. It cannot be changed later.",
        ),
    ] = None,
) -> None:
    """Bring a store's tables up to date. Servers of the version before may go on using them."""
    asyncio.run(_migrate(store, dry_run, shards))


async def _migrate(store: str, dry_run: bool, shards: int | None) -> None:
    from durably.errors import Refusal
    from durably.store.opening import POSTGRES_SCHEMES, migrate_store, pending_migrations
    from durably.store.store import ShardsFixed, StoreForbidden, StoreLocked, StoreTooNew

    config = Config()
    try:
        present, missing = await pending_migrations(store, config, shards)
        if not dry_run and (missing or store.startswith(POSTGRES_SCHEMES)):
            await migrate_store(store, config, shards)
    except (
        StoreForbidden,
        StoreLocked,
        StoreTooNew,
        ShardsFixed,
        ValueError,
        OSError,
    ) as error:
        _fail(str(error), 1)
    except Refusal as refusal:
        _fail(refusal.message, 1)
    if not missing:
        out.print(f"Up to date: schema {present}.")
        return
    numbers = ", ".join(map(str, missing))
    done = "Missing" if dry_run else "Done"
    out.print(f"{done}: migrations {numbers} (the schema was {present}).")


@app.command()
def copy(
    source: Annotated[str, typer.Option("--from", help="The store to copy: sqlite:///PATH")],
    target: Annotated[
        str, typer.Option("--to", help="An empty database: postgresql://USER@HOST/DATABASE")
    ],
) -> None:
    """Copy a store from SQLite into PostgreSQL, with its open executions. Stop the server first."""
    asyncio.run(_copy(source, target))


async def _copy(source: str, target: str) -> None:
    from durably.store.copying import copy as copy_store
    from durably.store.opening import POSTGRES_SCHEMES
    from durably.store.sqlite_file import path_of
    from durably.store.store import StoreLocked, StoreNotEmpty, StoreTooNew

    if not target.startswith(POSTGRES_SCHEMES):
        _fail(f"--to {target}: a copy goes into postgresql://...", 2)
    try:
        with err.status("copying") as status:
            counts = await copy_store(
                path_of(source),
                target,
                Config(),
                lambda table, count: status.update(f"copying {table}: {count} rows"),
            )
    except (StoreLocked, StoreTooNew, StoreNotEmpty, ValueError, OSError) as error:
        _fail(str(error), 1)
        return
    for table, count in counts.items():
        out.print(f"{table:<14} {count}")
    out.print(f"Copied. Serve it with: durably serve --store {logs.without_password(target)}")


@app.command()
def demo(
    docs: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="The folder of documents that the agent reads."
        ),
    ] = None,
    question: Annotated[str | None, typer.Option(help="What the agent is to find out.")] = None,
    kill: Annotated[
        bool, typer.Option("--kill/--no-kill", help="Kill the worker, then the server, midway.")
    ] = True,
) -> None:
    """A research agent on real documents that survives the kill of its worker and its server."""
    try:
        from durably.demo.run import main as run_demo
    except ImportError as error:
        _fail(f"the demo needs more packages ({error.name}): pip install 'durably[demo]'", 1)
        return
    code = run_demo(docs, question, kill)
    sys.stdout.flush()
    # A thread of the SDK's core may still answer; an interpreter torn down under it can crash.
    os._exit(code)


class FileFormat(StrEnum):
    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"


class Shown(StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSONL = "jsonl"


ADDRESS = Annotated[
    str, typer.Option("--address", envvar="DURABLY_ADDRESS", help="Of the server that is asked.")
]
NAMESPACE = Annotated[
    str, typer.Option("--namespace", envvar="DURABLY_NAMESPACE", help="Whose runs are read.")
]
TOKEN = Annotated[
    str,
    typer.Option(
        "--api-key", envvar="DURABLY_API_KEY", help="A token, if the server asks for one."
    ),
]
WHERE = Annotated[
    str, typer.Option("--where", help="A List Filter: only the runs that it finds are read.")
]


@app.command()
def query(
    sql: Annotated[
        str, typer.Argument(help="Over workflows, activities, model_calls and tool_calls.")
    ],
    address: ADDRESS = "127.0.0.1:7233",
    namespace: NAMESPACE = "default",
    where: WHERE = "",
    api_key: TOKEN = "",
    shown: Annotated[
        Shown, typer.Option("--format", help="How the result is shown: table, csv or jsonl.")
    ] = Shown.TABLE,
) -> None:
    """SQL (DuckDB's) over what happened: runs, activities, calls of models and tools, tokens, cost."""
    commands = _analytics()

    async def run(client: Any) -> None:
        await commands.query(client, sql, where, shown)

    _ask(address, namespace, api_key, run)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where a file for each table is written.")],
    address: ADDRESS = "127.0.0.1:7233",
    namespace: NAMESPACE = "default",
    where: WHERE = "",
    api_key: TOKEN = "",
    file_format: Annotated[
        FileFormat, typer.Option("--format", help="parquet, csv or jsonl.")
    ] = FileFormat.PARQUET,
) -> None:
    """Write what happened to files: runs, activities, calls of models and tools, tokens, cost."""
    commands = _analytics()

    async def run(client: Any) -> None:
        counts = await commands.export(client, folder, where, file_format)
        for table, rows in counts.items():
            out.print(f"{rows:>10,}  {folder / table}.{file_format}", soft_wrap=True)

    _ask(address, namespace, api_key, run)


def _analytics() -> Any:
    try:
        from durably.analytics import commands
    except ImportError as error:
        _fail(f"this needs more packages ({error.name}): pip install 'durably[analytics]'", 1)
    return commands


def _ask(
    address: str,
    namespace: str,
    api_key: str,
    run: Callable[[Any], Coroutine[Any, Any, None]],
) -> None:
    from temporalio.client import Client
    from temporalio.service import RPCError

    from durably.analytics.commands import QueryError

    async def connected() -> None:
        try:
            client = await Client.connect(
                address, namespace=namespace, api_key=api_key or None, tls=False
            )
        except RuntimeError as error:
            _fail(f"no server answers on {address}: start one, or give its --address ({error})", 1)
        await run(client)

    try:
        asyncio.run(connected())
    except QueryError as error:
        _fail(str(error), 2)
    except RPCError as error:
        _fail(f"{address} refuses: {error.message}", 1)
    except OSError as error:
        _fail(f"cannot write: {error}", 1)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
