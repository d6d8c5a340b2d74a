"""One load on one server: a Measurement.

Rule: a fresh server, a fresh file and a fresh worker each time, warmed up before the clock starts.
"""

import asyncio
import math
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from temporalio.client import Client
from temporalio.service import RPCError

from bench import loads
from bench.loads import Load
from bench.servers import RETRY_INTERVAL_S, BenchServer, own_cpu_s, start_worker, thread_seconds
from bench.workflows import Sleeper

WARM_UP_WORKFLOWS = 5
RESTART_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Restart:
    """Seconds from the launch of a killed server to its first answers, and its memory then."""

    describe_s: float
    start_s: float
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """CPU in seconds per action; latencies in seconds; memory when the load was done."""

    load: Load
    server: str
    size: int
    done: int
    actions: int
    seconds: float
    p50_s: float
    p99_s: float
    server_cpu_s: float
    client_cpu_s: float
    rss_bytes: int
    idle_rss_bytes: int
    threads_s: dict[str, float]
    restart: Restart | None = None

    @property
    def actions_per_s(self) -> float:
        return self.actions / self.seconds


def percentile(values: list[float], percent: float) -> float:
    """The nearest-rank percentile; not a number when there are no values."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


async def measure(
    load: Load, name: str, command: Callable[[Path, int], list[str]], scale: float
) -> Measurement:
    """Run the load, `scale` times its size, on a fresh server started by `command`."""
    size = max(1, round(load.size * scale))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        server = BenchServer(command, Path(folder) / "store.db")
        try:
            return await _measure_on(server, load, name, size, Path(folder) / "worker.log")
        finally:
            server.process.stop()


async def _measure_on(
    server: BenchServer, load: Load, name: str, size: int, worker_log: Path
) -> Measurement:
    client = await server.answer()
    worker = start_worker(server.address, worker_log)
    try:
        await _warm_up(client)
        probe = await _start_probe(client)
        if not load.worker:
            worker.kill()
        clients = [os.getpid(), worker.pid] if load.worker else [os.getpid()]
        if load.prepare is not None:
            size = await load.prepare(client, size)
        idle = server.process.usage()
        clients_before_s = sum(map(own_cpu_s, clients))
        outcome = await load.run(client, size)
        after = server.process.usage()
        clients_after_s = sum(map(own_cpu_s, clients))
        threads_s = thread_seconds(server.process.pid)
        restart = await _restart(server, probe) if load.kept else None
    finally:
        worker.kill()
    return Measurement(
        load=load,
        server=name,
        size=size,
        done=outcome.done,
        actions=outcome.actions,
        seconds=outcome.seconds,
        p50_s=percentile(outcome.latencies_s, 50),
        p99_s=percentile(outcome.latencies_s, 99),
        server_cpu_s=(after.cpu_s - idle.cpu_s) / outcome.actions,
        client_cpu_s=(clients_after_s - clients_before_s) / outcome.actions,
        rss_bytes=after.rss_bytes,
        idle_rss_bytes=idle.rss_bytes,
        threads_s=threads_s,
        restart=restart,
    )


async def _warm_up(client: Client) -> None:
    """Imports, caches, connections; a new server's namespace may need a moment to be known."""
    give_up = time.monotonic() + RESTART_TIMEOUT_S
    while True:
        try:
            await loads.one_activity(client, WARM_UP_WORKFLOWS)
        except* RPCError:
            if time.monotonic() > give_up:
                raise
            await asyncio.sleep(0.1)
        else:
            return


async def _start_probe(client: Client) -> str:
    """The id of a workflow that outlives the load, to be described after a restart."""
    workflow_id = loads.fresh_id()
    await client.start_workflow(Sleeper.run, id=workflow_id, task_queue=loads.UNSERVED_QUEUE)
    return workflow_id


async def _restart(server: BenchServer, probe: str) -> Restart:
    """Kill and launch again on the same file; the first describe that answers, the first start."""
    began = time.perf_counter()
    server.relaunch()
    client = await server.answer()
    describe_s = await _seconds_until(client.get_workflow_handle(probe).describe, began)
    start_s = await _seconds_until(lambda: loads.starts(client, 1), began)
    return Restart(describe_s, start_s, server.process.usage().rss_bytes)


async def _seconds_until(call: Callable[[], Awaitable[object]], began: float) -> float:
    give_up = time.perf_counter() + RESTART_TIMEOUT_S
    while True:
        try:
            await call()
        except* RPCError:
            if time.perf_counter() > give_up:
                raise
            await asyncio.sleep(RETRY_INTERVAL_S)
        else:
            return time.perf_counter() - began
