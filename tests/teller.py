"""A workflow that is told by signals what it publishes, and when it asks: a tool, an agent, an operation."""

from typing import Any

from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably.agents.interaction import ask, publish

QUEUE = "tellers"


@workflow.defn
class Teller:
    """Publishes each word that it is told; `ask` has it ask, `end` end."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @workflow.signal
    def tell(self, word: str) -> None:
        self.told.append(word)

    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> str:
        said = []
        for number in range(1000):
            await workflow.wait_condition(lambda number=number: len(self.told) > number)  # type: ignore[misc]
            word = self.told[number]
            if word == "end":
                break
            if word == "ask":
                word = f"painted {await ask('Which colour?', key=f'colour {number}')}"
            publish(word, kind="artifact", name="draft", append=bool(said))
            said.append(word)
        return ", ".join(said)


def worker(client: Client) -> Worker:
    return Worker(
        client,
        task_queue=QUEUE,
        workflows=[Teller],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
