"""The same steps with DBOS, as an application: `python -m bench.dbos_application URL WAY STEPS WORKFLOWS`.

DBOS has no server: the library runs workflows in the application's own process and writes to PostgreSQL
by itself. This process is server, worker and client in one.

It says `ready` when it is warm, runs when it is told so on its standard input, says what came of it
as a line of JSON, and ends when it is told so.
"""

import asyncio
import json
import logging
import sys
import time
from dataclasses import asdict

from dbos import DBOS, DBOSConfig

from bench.loads import IN_FLIGHT, Outcome, timed, together

WARM_UP_WORKFLOWS = 5
QUEUE = "bench"
QUEUE_LOOKS_EVERY_S = 0.1
"""Ten times as often as DBOS does by itself, in its favour."""


@DBOS.step()
async def step() -> int:
    """When it ran: nanoseconds since the epoch."""
    return time.time_ns()


@DBOS.workflow()
async def steps(count: int) -> list[int]:
    return [await step() for _ in range(count)]


async def one_by_one(count: int, workflows: int) -> list[float]:
    return await together(workflows, lambda _: steps(count), in_flight=1)


async def at_once(count: int, workflows: int) -> list[float]:
    async def run(_: int) -> None:
        handle = await DBOS.start_workflow_async(steps, count)
        await handle.get_result()

    return await together(workflows, run)


async def queued(count: int, workflows: int) -> list[float]:
    """All are put into a queue, which runs IN_FLIGHT at once; a latency is from there to the result."""

    async def run() -> None:
        handle = await DBOS.enqueue_workflow_async(QUEUE, steps, count)
        await handle.get_result(polling_interval_sec=QUEUE_LOOKS_EVERY_S)

    return await asyncio.gather(*(timed(run) for _ in range(workflows)))


WAYS = {"one by one": one_by_one, "at once": at_once, "queued": queued}


async def main(url: str, way: str, count: int, workflows: int) -> None:
    config = DBOSConfig(name="bench", system_database_url=url, run_admin_server=False)
    DBOS(config=config)
    logging.getLogger("dbos").setLevel(logging.WARNING)
    DBOS.launch()
    await DBOS.register_queue_async(
        QUEUE, worker_concurrency=IN_FLIGHT, polling_interval_sec=QUEUE_LOOKS_EVERY_S
    )
    await WAYS[way](count, WARM_UP_WORKFLOWS)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    began = time.perf_counter()
    latencies_s = await WAYS[way](count, workflows)
    seconds = time.perf_counter() - began
    outcome = Outcome(workflows, workflows * (1 + count), seconds, latencies_s)
    print(json.dumps(asdict(outcome)), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    DBOS.destroy()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
