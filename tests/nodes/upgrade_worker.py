"""What is worked on while servers are replaced, and a worker process for it:
`python -m tests.nodes.upgrade_worker ADDRESS`."""

import asyncio
import sys
from datetime import timedelta

import nexusrpc
from nexusrpc.handler import StartOperationContext, service_handler, sync_operation
from temporalio import activity, workflow
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.crash.worker import connect
from tests.crash.workflows import TASK_QUEUE, Half, Mixed, add

ENDPOINT = "upgrade"
SAID = 3


@activity.defn
async def shout(text: str) -> str:
    return text.upper()


@nexusrpc.service
class Hall:
    echo: nexusrpc.Operation[str, str]


@service_handler(service=Hall)
class HallHandler:
    @sync_operation
    async def echo(self, _ctx: StartOperationContext, text: str) -> str:
        return f"{text}, {text}"


@workflow.defn
class Talk:
    """Hears updates, each with an activity, tells queries of them, and asks an operation at the end."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: len(self.heard) == SAID)
        hall = workflow.create_nexus_client(service=Hall, endpoint=ENDPOINT)
        echo: str = await hall.execute_operation("echo", self.heard[-1], output_type=str)
        return [*self.heard, echo]

    @workflow.query
    def all(self) -> list[str]:
        return self.heard

    @workflow.update
    async def say(self, text: str) -> str:
        said = await workflow.execute_activity(
            shout, text, start_to_close_timeout=timedelta(seconds=10)
        )
        self.heard.append(said)
        return said


async def main(address: str) -> None:
    worker = Worker(
        await connect(address),
        task_queue=TASK_QUEUE,
        workflows=[Mixed, Half, Talk],
        activities=[add, shout],
        nexus_service_handlers=[HallHandler()],
        workflow_runner=UnsandboxedWorkflowRunner(),
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=2),
    )
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
