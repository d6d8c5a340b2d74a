"""The research agent: answers questions from a folder of notes, with the file and line of each fact.

It is called over Nexus by the planner, and by whoever speaks MCP: its workflow is exposed as a tool.
"""

import os
from pathlib import Path

from contract import TASK_QUEUE, Question, Research
from model import chat_model, durable
from nexusrpc.handler import service_handler
from pydantic_ai import Agent
from pydantic_ai.durable_exec.temporal import PydanticAIWorkflow
from temporalio import nexus, workflow
from temporalio.nexus import WorkflowRunOperationContext, workflow_run_operation

from durably.agents.convention import Exposed

NOTES = Path(os.environ.get("SWARM_NOTES") or Path(__file__).parent / "notes")

researcher = Agent(
    chat_model(),
    name="researcher",
    instructions=(
        "You are the researcher. List the notes, read those that may answer the question, and answer with"
        " every fact that bears on it, each with its file and line."
    ),
    capabilities=[durable()],
)


@researcher.tool_plain
def list_notes() -> list[str]:
    """The names of the notes."""
    return sorted(path.name for path in NOTES.glob("*.md"))


@researcher.tool_plain
def read_note(name: str) -> str:
    """A note, with its name and the number before each line."""
    if name not in list_notes():
        return f"there is no note {name}"
    lines = (NOTES / name).read_text().splitlines()
    return "\n".join(f"{name}:{number}: {line}" for number, line in enumerate(lines, start=1))


@workflow.defn
class Investigate(PydanticAIWorkflow):
    __pydantic_ai_agents__ = (researcher,)

    @workflow.run
    async def run(self, asked: Question) -> str:
        return (await researcher.run(asked.question)).output


@service_handler(service=Research)
class Handler:
    @workflow_run_operation
    async def investigate(
        self, ctx: WorkflowRunOperationContext, asked: Question
    ) -> nexus.WorkflowHandle[str]:
        # The id comes of the request: a request that is made again starts nothing again.
        return await ctx.start_workflow(Investigate.run, asked, id=f"investigate-{ctx.request_id}")


WORKFLOWS = [Investigate]
HANDLERS = [Handler()]
EXPOSED = {
    "research": Exposed(
        workflow="Investigate",
        task_queue=TASK_QUEUE,
        description="Answers a question from our notes",
        input_schema=Question.model_json_schema(),
    )
}
