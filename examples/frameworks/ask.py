"""Asks the agent of an example, and prints what it says: `python ask.py pydantic-ai ["A question?"]`.

Whoever asks needs no framework: a workflow is started by its name.
"""

import argparse
import asyncio
import os
import uuid

from temporalio.client import Client
from trip import QUESTION


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task_queue")
    parser.add_argument("question", nargs="?", default=QUESTION)
    parser.add_argument("--address", default=os.environ.get("DURABLY_ADDRESS", "127.0.0.1:7233"))
    options = parser.parse_args()
    client = await Client.connect(options.address)
    workflow_id = f"trip-{uuid.uuid4().hex[:8]}"
    handle = await client.start_workflow(
        "Trip", options.question, id=workflow_id, task_queue=options.task_queue
    )
    print(
        f"http://{options.address}/ui/default/workflows/{workflow_id}/{handle.result_run_id}/agent"
    )
    print(await handle.result())


if __name__ == "__main__":
    asyncio.run(main())
