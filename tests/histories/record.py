"""Makes the golden histories that are missing: `python -m tests.histories.record`; or those named.

They are kept so that a later server, or a later SDK, still replays what an earlier server wrote.
Record one anew only when its workflow changes.
"""

import asyncio
import re
import sys
from pathlib import Path

from temporalio.client import Client, WorkflowFailureError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably import Server
from tests.histories.workflows import ACTIVITIES, GOLDEN, WORKFLOWS, Golden

FOLDER = Path(__file__).parent
QUEUE = "histories"
STACK_TRACE = re.compile(r'"stackTrace": "(?:[^"\\]|\\.)*"')
"""Left out: it names the folders of the machine that recorded."""


async def record(client: Client, golden: Golden) -> str:
    """Run one workflow to its end; the history of the run that is wanted, as JSON."""
    handle = await client.start_workflow(
        golden.run.__name__,
        args=golden.arguments,
        id=golden.name,
        task_queue=QUEUE,
        **golden.options,
    )
    await golden.meanwhile(handle)
    try:
        await handle.result()
    except WorkflowFailureError:
        pass  # A cancelled workflow ends so, and its history is what is wanted.
    run_id = None if golden.last_run else handle.first_execution_run_id
    first = client.get_workflow_handle(golden.name, run_id=run_id)
    return STACK_TRACE.sub('"stackTrace": ""', (await first.fetch_history()).to_json())


async def main(names: list[str]) -> None:
    async with Server(store="memory:", port=0) as server:
        client = await Client.connect(server.address, identity="recorder")
        async with Worker(
            client,
            task_queue=QUEUE,
            workflows=WORKFLOWS,
            activities=ACTIVITIES,
            workflow_runner=UnsandboxedWorkflowRunner(),
        ):
            for golden in GOLDEN:
                path = FOLDER / f"{golden.name}.json"
                if golden.name in names or not (names or path.exists()):
                    path.write_text(await record(client, golden) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
