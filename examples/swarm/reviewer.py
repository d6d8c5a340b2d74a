"""The review agent: tries code with a test of its own, and says what has to change.

It is called over Nexus by the planner, and by whoever speaks A2A: a message is code to review.
"""

from typing import Any

from contract import TASK_QUEUE, Order, Review, Verdict
from model import chat_model, durable
from nexusrpc.handler import service_handler
from pydantic_ai import Agent
from pydantic_ai.durable_exec.temporal import PydanticAIWorkflow
from temporalio import nexus, workflow
from temporalio.nexus import WorkflowRunOperationContext, workflow_run_operation
from trial import trial

from durably.agents.convention import Exposed

reviewer = Agent(
    chat_model(),
    name="reviewer",
    output_type=Verdict,
    instructions=(
        "You are the reviewer. Write a unittest test of your own for the code, from the facts, and run it."
        " Approve what passes; else say what has to change."
    ),
    capabilities=[durable()],
)


@reviewer.tool_plain
def run_test(code: str, test: str) -> str:
    """Run the test of a module `solution` in a process of its own; the last line says OK if it passed."""
    return trial(code, test)


@workflow.defn
class Judge(PydanticAIWorkflow):
    __pydantic_ai_agents__ = (reviewer,)

    @workflow.run
    async def run(self, order: Order) -> Verdict:
        return (await reviewer.run(order.model_dump_json(indent=1))).output


@workflow.defn
class JudgeMessage(PydanticAIWorkflow):
    """The same for a message of A2A, whose text is the code."""

    __pydantic_ai_agents__ = (reviewer,)

    @workflow.run
    async def run(self, message: dict[str, Any]) -> Verdict:
        code = "\n".join(part.get("text", "") for part in message["parts"])
        order = Order(task="Review this module", before=code)
        return (await reviewer.run(order.model_dump_json(indent=1))).output


@service_handler(service=Review)
class Handler:
    @workflow_run_operation
    async def judge(
        self, ctx: WorkflowRunOperationContext, order: Order
    ) -> nexus.WorkflowHandle[Verdict]:
        return await ctx.start_workflow(Judge.run, order, id=f"judge-{ctx.request_id}")


WORKFLOWS = [Judge, JudgeMessage]
HANDLERS = [Handler()]
EXPOSED = {
    "reviewer": Exposed(
        workflow="JudgeMessage",
        task_queue=TASK_QUEUE,
        tool=False,
        agent=True,
        description="Reviews a Python module",
        tags=["review"],
    )
}
