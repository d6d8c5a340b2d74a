"""The worker of one agent: `work(NAME, ADDRESS, LOG)`, in a process of its own.

Every attempt of a step leaves a line in LOG when it begins, and one when it is done: what `run.py` shows, and the
evidence for what was done twice.
"""

import asyncio
import importlib
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from contract import TASK_QUEUE
from pydantic_ai.durable_exec.temporal import PydanticAIPlugin
from pydantic_ai.messages import ModelResponse
from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    UnsandboxedWorkflowRunner,
    Worker,
)

from durably.agents.interaction import expose

MODULES = {
    "planning": "planner",
    "research": "researcher",
    "code": "coder",
    "review": "reviewer",
}


class Evidence(Interceptor):
    def __init__(self, log: Path) -> None:
        self._log = log

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Recording(next, self._log)


class _Recording(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, log: Path) -> None:
        super().__init__(following)
        self._log = log

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        kind, what = _step(input)
        self._write(event="began", kind=kind, what=what)
        result = await super().execute_activity(input)
        tokens = result.usage.total_tokens if isinstance(result, ModelResponse) else 0
        self._write(event="done", kind=kind, what=what, tokens=tokens)
        return result

    def _write(self, **said: str | int) -> None:
        info = activity.info()
        which = {"run_id": info.workflow_run_id, "activity_id": info.activity_id}
        line = json.dumps({**which, "attempt": info.attempt, **said})
        with self._log.open("a") as lines:
            lines.write(line + "\n")


def _step(input: ExecuteActivityInput) -> tuple[str, str]:
    """`model` or `tool`, and which."""
    if activity.info().activity_type.endswith("model_request"):
        return "model", ""
    asked = input.args[0]
    return "tool", getattr(asked, "name", activity.info().activity_type)


async def connected(address: str, namespace: str, **options: Any) -> Client:
    """The server may be down just now."""
    while True:
        try:
            return await Client.connect(address, namespace=namespace, **options)
        except (RuntimeError, RPCError):
            await asyncio.sleep(0.1)


async def work(name: str, address: str, log: Path) -> None:
    agent = importlib.import_module(MODULES[name])
    client = await connected(address, name, plugins=[PydanticAIPlugin()])
    for exposed_as, what in agent.EXPOSED.items():
        await expose(client, exposed_as, what)
    worker = Worker(
        client,
        task_queue=TASK_QUEUE,
        workflows=agent.WORKFLOWS,
        nexus_service_handlers=agent.HANDLERS,
        interceptors=[Evidence(log)],
        workflow_runner=UnsandboxedWorkflowRunner(),
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=2),
    )
    await worker.run()
