"""The worker process: `python -m bench.worker ADDRESS`.

Rule: the same slots and pollers whichever server it works for, and generous ones, so that the
worker waits for the server and not the server for the worker. Outside the sandbox, because
inside it the worker's CPU would hide the server's.
"""

import asyncio
import sys

from temporalio.client import Client
from temporalio.worker import PollerBehaviorSimpleMaximum, UnsandboxedWorkflowRunner, Worker

from bench import operations
from bench.workflows import ACTIVITIES, TASK_QUEUE, WORKFLOWS

SLOTS = 200
POLLERS = 20
CACHED_WORKFLOWS = 1000


async def work(address: str) -> None:
    """Work until the process is killed."""
    worker = Worker(
        await Client.connect(address),
        task_queue=TASK_QUEUE,
        workflows=[*WORKFLOWS, *operations.WORKFLOWS],
        activities=ACTIVITIES,
        nexus_service_handlers=operations.HANDLERS,
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_cached_workflows=CACHED_WORKFLOWS,
        max_concurrent_workflow_tasks=SLOTS,
        max_concurrent_activities=SLOTS,
        max_concurrent_nexus_tasks=SLOTS,
        workflow_task_poller_behavior=PollerBehaviorSimpleMaximum(POLLERS),
        activity_task_poller_behavior=PollerBehaviorSimpleMaximum(POLLERS),
        nexus_task_poller_behavior=PollerBehaviorSimpleMaximum(POLLERS),
    )
    await worker.run()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1]))
