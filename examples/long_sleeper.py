"""A workflow that sleeps for days costs nothing meanwhile, and no restart wakes it or loses it.

Start it, stop the server, start the server again: it wakes when it said it would.

    python examples/long_sleeper.py --days 30            # starts it, and leaves it asleep
    python examples/long_sleeper.py --seconds 5 --wait   # stays for the end of a short one
"""

import asyncio
import uuid
from datetime import timedelta

from connect import arguments, connect
from temporalio import workflow
from temporalio.worker import Worker


@workflow.defn
class Sleeper:
    @workflow.run
    async def run(self, seconds: float) -> str:
        begun = workflow.now()
        await workflow.sleep(timedelta(seconds=seconds))
        return f"slept {(workflow.now() - begun).total_seconds():.0f} s"


async def main() -> None:
    parser = arguments()
    parser.add_argument("--days", type=float, default=0)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--id", default=f"sleeper-{uuid.uuid4().hex[:6]}")
    parser.add_argument("--wait", action="store_true", help="wait for the end, and run a worker")
    options = parser.parse_args()
    seconds = options.days * 86_400 + options.seconds
    client = await connect(options)
    async with Worker(client, task_queue="sleepers", workflows=[Sleeper]):
        handle = await client.start_workflow(
            Sleeper.run, seconds, id=options.id, task_queue="sleepers"
        )
        if options.wait:
            print(await handle.result())
            return
        while True:
            events = (await handle.fetch_history()).events
            if any(event.HasField("timer_started_event_attributes") for event in events):
                break
            await asyncio.sleep(0.05)
    print(f"{options.id} sleeps for {timedelta(seconds=seconds)}; no worker and no memory is held.")


if __name__ == "__main__":
    asyncio.run(main())
