"""An agent's turn: several tools at once, each with its own patience; one is flaky, one hangs.

The slow tool heartbeats, so that its death is noticed in a second and not in an hour. The tool that
hangs costs its own timeout, not the others' results.

    python examples/parallel_tools.py
"""

import asyncio
import uuid
from dataclasses import dataclass
from datetime import timedelta

from connect import arguments, connect
from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError
from temporalio.worker import Worker


@dataclass
class Call:
    """What a model asks for: a tool and its argument."""

    tool: str
    argument: str
    timeout_s: float


@activity.defn
async def search(query: str) -> str:
    if activity.info().attempt == 1:
        raise ConnectionError("the search service hung up")
    return f"3 results for {query!r}"


@activity.defn
async def read(path: str) -> str:
    """Slow work that says how far it is; a new attempt would go on from there."""
    for page in range(1, 6):
        activity.heartbeat(page)
        await asyncio.sleep(0.05)
    return f"5 pages of {path}"


@activity.defn
async def calculate(expression: str) -> str:
    left, right = expression.split("+")
    return str(int(left) + int(right))


@activity.defn
async def browse(url: str) -> str:
    await asyncio.sleep(3600)
    return url


@workflow.defn
class Turn:
    @workflow.run
    async def run(self, calls: list[Call]) -> list[str]:
        return list(await asyncio.gather(*(self.call(each) for each in calls)))

    async def call(self, call: Call) -> str:
        try:
            result: str = await workflow.execute_activity(
                call.tool,
                call.argument,
                start_to_close_timeout=timedelta(seconds=call.timeout_s),
                heartbeat_timeout=timedelta(seconds=1) if call.tool == "read" else None,
                retry_policy=RetryPolicy(
                    initial_interval=timedelta(milliseconds=100), maximum_attempts=2
                ),
            )
        except ActivityError as error:
            # What a model should see: it can go on without this tool.
            return f"{call.tool} failed: {error.cause}"
        return f"{call.tool}: {result}"


async def main() -> None:
    client = await connect(arguments().parse_args())
    queue = f"tools-{uuid.uuid4().hex[:6]}"
    calls = [
        Call("search", "durable execution", 5),
        Call("read", "paper.pdf", 5),
        Call("calculate", "20+22", 5),
        Call("browse", "https://example.org/slow", 0.5),
    ]
    tools = [search, read, calculate, browse]
    async with Worker(client, task_queue=queue, workflows=[Turn], activities=tools):
        for line in await client.execute_workflow(Turn.run, calls, id=queue, task_queue=queue):
            print(line)


if __name__ == "__main__":
    asyncio.run(main())
