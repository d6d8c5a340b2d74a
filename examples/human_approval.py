"""A person in the loop: the workflow asks, waits for as long as it takes, and goes on.

The question is a query, the answer an update: it is checked before it is accepted, and whoever
answers hears at once whether it counted. Nobody answers in time: the workflow decides by itself.

    python examples/human_approval.py                 # plays the person too, and approves
    python examples/human_approval.py --say reject
    python examples/human_approval.py --say nothing   # runs into the timeout
"""

import asyncio
import uuid
from datetime import timedelta

from connect import arguments, connect
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker


@activity.defn
async def publish(text: str) -> str:
    return f"published: {text}"


@workflow.defn
class Publication:
    def __init__(self) -> None:
        self.answer: str | None = None
        self.by = ""

    @workflow.query
    def question(self) -> str:
        return "" if self.answer else "May I publish the report?"

    @workflow.update
    async def decide(self, answer: str, by: str) -> str:
        self.answer, self.by = answer, by
        return f"thank you, {by}"

    @decide.validator
    def check(self, answer: str, by: str) -> None:
        if self.answer is not None:
            raise ApplicationError(f"{self.by} has decided already")
        if answer not in ("approve", "reject"):
            raise ApplicationError("the answer is approve or reject")

    @workflow.run
    async def run(self, text: str, patience_s: float) -> str:
        try:
            await workflow.wait_condition(
                lambda: self.answer is not None, timeout=timedelta(seconds=patience_s)
            )
        except TimeoutError:
            return "nobody answered: kept as a draft"
        if self.answer == "reject":
            return f"{self.by} rejected it"
        return await workflow.execute_activity(
            publish, text, start_to_close_timeout=timedelta(seconds=10)
        )


async def play_the_person(handle: WorkflowHandle[Publication, str], answer: str) -> None:
    print("workflow:", await handle.query(Publication.question))
    try:
        await handle.execute_update(Publication.decide, args=["perhaps", "Ada"])
    except WorkflowUpdateFailedError as refused:
        print("Ada:      perhaps ->", refused.cause)
    print(f"Ada:      {answer} ->", end=" ")
    print(await handle.execute_update(Publication.decide, args=[answer, "Ada"]))


async def run(client: Client, say: str, patience_s: float) -> str:
    queue = f"approval-{uuid.uuid4().hex[:6]}"
    async with Worker(client, task_queue=queue, workflows=[Publication], activities=[publish]):
        handle = await client.start_workflow(
            Publication.run, args=["What we found", patience_s], id=queue, task_queue=queue
        )
        if say != "nothing":
            await play_the_person(handle, say)
        return await handle.result()


async def main() -> None:
    parser = arguments()
    parser.add_argument("--say", choices=["approve", "reject", "nothing"], default="approve")
    parser.add_argument(
        "--patience", type=float, default=2.0, help="seconds to wait for the person"
    )
    options = parser.parse_args()
    print("result:  ", await run(await connect(options), options.say, options.patience))


if __name__ == "__main__":
    asyncio.run(main())
