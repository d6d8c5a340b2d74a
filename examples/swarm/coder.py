"""The code agent: writes a module and its test, runs them, and hands over what passes."""

from contract import Code, Order, Written
from model import chat_model, durable
from nexusrpc.handler import service_handler
from pydantic_ai import Agent
from pydantic_ai.durable_exec.temporal import PydanticAIWorkflow
from temporalio import nexus, workflow
from temporalio.nexus import WorkflowRunOperationContext, workflow_run_operation
from trial import trial

coder = Agent(
    chat_model(),
    name="coder",
    output_type=Written,
    instructions=(
        "You are the coder. Write the Python module `solution` that the task asks for, and a module of unittest"
        " test cases that imports it. Run both until the test passes, then hand over both as they are."
    ),
    capabilities=[durable()],
)


@coder.tool_plain
def run_test(code: str, test: str) -> str:
    """Run the test of a module `solution` in a process of its own; the last line says OK if it passed."""
    return trial(code, test)


@workflow.defn
class Write(PydanticAIWorkflow):
    __pydantic_ai_agents__ = (coder,)

    @workflow.run
    async def run(self, order: Order) -> Written:
        return (await coder.run(order.model_dump_json(indent=1))).output


@service_handler(service=Code)
class Handler:
    @workflow_run_operation
    async def write(
        self, ctx: WorkflowRunOperationContext, order: Order
    ) -> nexus.WorkflowHandle[Written]:
        return await ctx.start_workflow(Write.run, order, id=f"write-{ctx.request_id}")


WORKFLOWS = [Write]
HANDLERS = [Handler()]
EXPOSED: dict[str, object] = {}
