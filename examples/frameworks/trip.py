"""What the examples have in common: a question, two tools, and a worker's process.

    python ask.py pydantic-ai

starts the workflow `Trip` of one of them and prints its answer.
"""

import argparse
import asyncio
import json
import os
import urllib.request
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from temporalio import activity
from temporalio.client import Client, Plugin
from temporalio.common import RetryPolicy
from temporalio.worker import Worker

QUESTION = "Oslo or Bergen this weekend?"
INSTRUCTIONS = "You help with short trips. Look things up, then answer in one sentence."
MODEL = os.environ.get("OPENAI_MODEL", "gpt-4.1-mini")

RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_attempts=5)
MODEL_LIMIT = timedelta(minutes=5)
TOOL_LIMIT = timedelta(minutes=5)
SILENCE = timedelta(seconds=10)
"""A tool that says nothing for so long has died with its worker."""
BEAT = timedelta(seconds=1)
"""How often a tool that lives says so: a machine that is busy may hold up many of these."""


async def look_up(what: str, city: str) -> str:
    """Asks the service of cities; while it takes its time, the server hears that this worker lives."""
    base = os.environ.get("CITIES_URL", "http://127.0.0.1:7299/cities")
    asked = asyncio.create_task(asyncio.to_thread(_get, f"{base}/{what}/{city}"))
    while not asked.done():
        activity.heartbeat()
        await asyncio.wait([asked], timeout=BEAT.total_seconds())
    return f"{what} of {city}: {asked.result()[what]}"


def _get(url: str) -> dict[str, str]:
    with urllib.request.urlopen(url) as reply:
        found: dict[str, str] = json.load(reply)
        return found


async def get_weather(city: str) -> str:
    """The weather of a city."""
    return await look_up("weather", city)


async def find_sights(city: str) -> str:
    """What there is to see in a city."""
    return await look_up("sights", city)


def work(
    task_queue: str,
    workflow: type,
    plugin: Plugin,
    activities: Sequence[Callable[..., Any]] = (),
) -> None:
    """A worker, until somebody ends it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", default=os.environ.get("DURABLY_ADDRESS", "127.0.0.1:7233"))
    address = parser.parse_args().address

    async def run() -> None:
        client = await Client.connect(address, plugins=[plugin])
        print(f"working on {task_queue}", flush=True)
        worker = Worker(
            client,
            task_queue=task_queue,
            workflows=[workflow],
            activities=list(activities),
            # A worker that keeps a workflow in memory is asked first; one that died, not for long.
            sticky_queue_schedule_to_start_timeout=timedelta(seconds=2),
            # Else the SDK keeps back what is said until 80 % of the time to be silent is over.
            max_heartbeat_throttle_interval=BEAT,
        )
        await worker.run()

    asyncio.run(run())
