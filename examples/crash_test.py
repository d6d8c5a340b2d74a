"""Kill everything: a server and a worker of its own die by SIGKILL again and again; nothing is lost.

python examples/crash_test.py --workflows 20 --kills 3
"""

import argparse
import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.common import RetryPolicy
from temporalio.service import RetryConfig
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

STEPS = 5


@activity.defn
async def step(number: int) -> int:
    await asyncio.sleep(random.uniform(0, 0.1))
    return number * number


@workflow.defn
class Sum:
    """The sum of squares, one activity and one short sleep at a time."""

    @workflow.run
    async def run(self, steps: int) -> int:
        total = 0
        for number in range(steps):
            total += await workflow.execute_activity(
                step,
                number,
                start_to_close_timeout=timedelta(seconds=2),
                retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=100)),
            )
            await workflow.sleep(timedelta(milliseconds=100))
        return total


async def work(address: str) -> None:
    """What the worker's process does; the server may be down when it begins."""
    client = await connected(address)
    runner = UnsandboxedWorkflowRunner()
    await Worker(
        client, task_queue="sums", workflows=[Sum], activities=[step], workflow_runner=runner
    ).run()


class Processes:
    """A server and a worker, each a process that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        port = self.address.rpartition(":")[2]
        serve = ["-m", "durably.cli", "serve", "--store", f"sqlite:///{folder}/crash.db"]
        self.commands = {
            "server": [sys.executable, *serve, "--port", port],
            "worker": [sys.executable, __file__, "--worker", self.address],
        }
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.running[name] = subprocess.Popen(self.commands[name], **quiet)

    def kill(self, name: str) -> None:
        os.kill(self.running[name].pid, signal.SIGKILL)
        self.running[name].wait()


async def connected(address: str) -> Client:
    """A client that is patient: a call goes on until a server that was killed is there again."""
    patient = RetryConfig(max_elapsed_time_millis=60_000, max_retries=1000)
    while True:
        try:
            return await Client.connect(address, retry_config=patient)
        except RuntimeError:
            await asyncio.sleep(0.05)


async def kill_at_random(processes: Processes, kills: int) -> None:
    for number in range(1, kills + 1):
        await asyncio.sleep(random.uniform(0.3, 0.8))
        name = "server" if number % 2 else "worker"
        processes.kill(name)
        print(f"  kill -9 of the {name} ({number} of {kills})", flush=True)
        processes.start(name)


async def main(workflows: int, kills: int) -> None:
    expected = sum(number * number for number in range(STEPS))
    with tempfile.TemporaryDirectory() as folder:
        processes = Processes(Path(folder))
        try:
            processes.start("server")
            processes.start("worker")
            client = await connected(processes.address)
            handles: list[WorkflowHandle[Sum, int]] = [
                await client.start_workflow(Sum.run, STEPS, id=f"sum-{n}", task_queue="sums")
                for n in range(workflows)
            ]
            print(f"{workflows} workflows of {STEPS} steps are running", flush=True)
            await kill_at_random(processes, kills)
            results = await asyncio.gather(*(handle.result() for handle in handles))
        finally:
            for name in processes.running:
                processes.kill(name)
    right = sum(result == expected for result in results)
    print(f"{right} of {workflows} ended with the right result after {kills} kills")
    sys.exit(right != workflows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--workflows", type=int, default=20)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--worker", metavar="ADDRESS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        asyncio.run(work(options.worker))
    else:
        asyncio.run(main(options.workflows, options.kills))
