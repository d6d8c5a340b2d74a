"""Hello: one workflow, one activity that fails twice, and no code that retries.

durably serve                          # in one terminal
python examples/hello_activity.py      # in another
"""

import asyncio
import uuid
from datetime import timedelta

from connect import arguments, connect
from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.worker import Worker


@activity.defn
async def greet(name: str) -> str:
    """The outside world: it fails twice before it works."""
    attempt = activity.info().attempt
    print(f"  attempt {attempt} to greet {name}")
    if attempt < 3:
        raise ConnectionError("the network is down")
    return f"Hello, {name}!"


@workflow.defn
class Greeting:
    @workflow.run
    async def run(self, name: str) -> str:
        return await workflow.execute_activity(
            greet,
            name,
            start_to_close_timeout=timedelta(seconds=10),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200)),
        )


async def main() -> None:
    client = await connect(arguments().parse_args())
    queue = f"hello-{uuid.uuid4().hex[:6]}"
    async with Worker(client, task_queue=queue, workflows=[Greeting], activities=[greet]):
        print(await client.execute_workflow(Greeting.run, "World", id=queue, task_queue=queue))


if __name__ == "__main__":
    asyncio.run(main())
