"""Servers in processes of their own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

DURABLY = (sys.executable, "-m", "durably.cli")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: "subprocess.Popen[bytes]", seconds: float = 120.0) -> None:
    """Until something listens on the port; raises if the process ends first."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with code {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


@contextlib.contextmanager
def listening(module: str, log: Path) -> Iterator[str]:
    """A module of the tests that serves on the port it is given, in a process of its own: host and port."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(port)], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_for_port(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


class ServerProcess:
    """`durably serve` on an SQLite file, or at a store's address; can be killed and started again.

    `folder` is where its log goes, `program` is the command that is `durably`: this Python's own, unless a test installed another.
    """

    def __init__(
        self,
        store: Path | str,
        *arguments: str,
        folder: Path | None = None,
        port: int = 0,
        program: Sequence[str] = DURABLY,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.store = f"sqlite:///{store}" if isinstance(store, Path) else store
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        folder = folder or (store.parent if isinstance(store, Path) else Path.cwd())
        self.log = folder / f"server-{self.port}.log"
        self._program = program
        self._arguments = arguments
        self._environment = environment
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "ServerProcess":
        command = [
            *self._program,
            "serve",
            "--store",
            self.store,
            "--port",
            str(self.port),
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self._arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self._environment, "PYTHONUNBUFFERED": "1"},
            )
        wait_for_port(self.port, self.process)
        return self

    def kill(self) -> None:
        """SIGKILL: no chance to save anything."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """SIGSTOP: it does nothing until `go_on`, and does not know that time has passed."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)
