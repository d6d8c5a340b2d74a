"""A server and a worker in processes of their own, for those who call from outside."""

import subprocess
import sys
from pathlib import Path

from tests.processes import ServerProcess


class WorkerProcess:
    """`python -m tests.agents_outside`; it has exposed its workflows once it is there."""

    def __init__(self, address: str, log: Path) -> None:
        self.address = address
        self.log = log
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> "WorkerProcess":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.agents_outside", self.address],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != "ready":
            raise RuntimeError(self.log.read_text())
        return self

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()


def restart(server: ServerProcess) -> None:
    """kill -9, and again on the same file."""
    server.kill()
    server.start()
