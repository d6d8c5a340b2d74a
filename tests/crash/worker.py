"""A worker process for the crash tests: `python -m tests.crash.worker ADDRESS`."""

import asyncio
import sys
from datetime import timedelta

from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

from tests.crash.workflows import TASK_QUEUE, Half, Mixed, add


async def connect(address: str) -> Client:
    """The server may be down just now."""
    while True:
        try:
            return await Client.connect(address)
        except (RuntimeError, RPCError):
            await asyncio.sleep(0.1)


async def main(address: str) -> None:
    worker = Worker(
        await connect(address),
        task_queue=TASK_QUEUE,
        workflows=[Mixed, Half],
        activities=[add],
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=2),
    )
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
