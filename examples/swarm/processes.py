"""The processes of the swarm: a server, a worker for each agent, and the callers from outside.

The workers are forked from one process that has loaded the libraries already: a killed one is back at once.
"""

import asyncio
import multiprocessing
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from contract import NAMESPACES

SERVER, OUTSIDE = "server", "outside"
LIBRARIES = ["pydantic_ai.durable_exec.temporal", "pydantic_ai.models.openai", "temporalio.worker"]
Running = subprocess.Popen[bytes] | BaseProcess

forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload(LIBRARIES)


def run_worker(name: str, address: str, folder: Path, environment: dict[str, str]) -> None:
    """The body of a worker's process."""
    os.environ.update(environment)
    _to_file(folder / f"{name}.out")
    from worker import work

    asyncio.run(work(name, address, folder / f"{name}.jsonl"))


def run_outside(address: str, folder: Path) -> None:
    """The body of the callers' process."""
    _to_file(folder / f"{OUTSIDE}.out")
    from outside import ask

    asyncio.run(ask(address, folder / "answers.json"))


def _to_file(path: Path) -> None:
    with path.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())


@dataclass
class Swarm:
    """All of it, on one port and in one folder."""

    folder: Path
    environment: dict[str, str]
    running: dict[str, Running] = field(default_factory=dict)
    killed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.names = [SERVER, *NAMESPACES, OUTSIDE]

    def start(self, name: str) -> None:
        if name == SERVER:
            self.running[name] = self._serve()
            return
        where = (self.address, self.folder)
        if name == OUTSIDE:
            process = forked.Process(target=run_outside, args=where)
        else:
            process = forked.Process(target=run_worker, args=(name, *where, self.environment))
        process.start()
        self.running[name] = process

    def _serve(self) -> Running:
        store = f"sqlite:///{self.folder}/swarm.db"
        serve = ["-m", "durably.cli", "serve", "--store", store, "--port", str(self.port)]
        namespaces = [part for name in NAMESPACES for part in ("--namespace", name)]
        with (self.folder / f"{SERVER}.out").open("ab") as out:
            return subprocess.Popen(
                [sys.executable, *serve, *namespaces], stdout=out, stderr=subprocess.STDOUT
            )

    def kill(self, name: str) -> None:
        """SIGKILL: the process can save nothing."""
        process = self.running[name]
        process.kill()
        if isinstance(process, subprocess.Popen):
            process.wait()
        else:
            process.join()

    def stop(self) -> None:
        for name in self.running:
            self.kill(name)


def victims(names: list[str], chance: random.Random) -> Iterator[str]:
    """In a random order, everybody once before anybody twice."""
    while True:
        yield from chance.sample(names, len(names))
