"""The worker process of the demo: `python -m durably.demo.worker ADDRESS LOG`.

Every attempt of an activity leaves a line in LOG when it begins, and one when it is done: the evidence
for what ran twice, and for what the model was paid. While it runs, the worker sends heartbeats for it.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic_ai.durable_exec.temporal import PydanticAIPlugin
from pydantic_ai.messages import ModelResponse
from pydantic_ai.usage import RequestUsage
from temporalio import activity
from temporalio.client import Client
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.service import RPCError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    Worker,
)

from durably.demo.agent import TASK_QUEUE, Research

HEARTBEAT_INTERVAL_S = 1.0


class Evidence(Interceptor):
    """Writes down each attempt of an activity: its beginning and its end."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _EvidenceInbound(next, self._log)


class _EvidenceInbound(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, log: Path) -> None:
        super().__init__(following)
        self._log = log

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        self._write(event="began")
        async with _heartbeats():
            result = await super().execute_activity(input)
        used = result.usage if isinstance(result, ModelResponse) else RequestUsage()
        self._write(event="done", tokens=used.total_tokens)
        return result

    def _write(self, **what: str | int) -> None:
        info = activity.info()
        line = {"activity_id": info.activity_id, "attempt": info.attempt, **what}
        with self._log.open("a") as lines:
            lines.write(json.dumps(line) + "\n")


@contextlib.asynccontextmanager
async def _heartbeats() -> AsyncIterator[None]:
    """Say now and then that this worker lives."""

    async def beat() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()


async def connect(address: str) -> Client:
    """The server may be down just now, which the SDK need not warn of: the demo shows each kill."""
    quiet = LoggingConfig(filter=TelemetryFilter(core_level="ERROR", other_level="ERROR"))
    runtime = Runtime(telemetry=TelemetryConfig(logging=quiet))
    while True:
        try:
            return await Client.connect(address, plugins=[PydanticAIPlugin()], runtime=runtime)
        except (RuntimeError, RPCError):
            await asyncio.sleep(0.2)


async def main(address: str, log: Path) -> None:
    worker = Worker(
        await connect(address),
        task_queue=TASK_QUEUE,
        workflows=[Research],
        interceptors=[Evidence(log)],
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=2),
    )
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
