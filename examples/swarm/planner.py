"""The planner: takes a task apart and has the others do it. Its tools are operations of other agents.

A tool that calls an operation runs in the workflow itself and not in an activity: while the other agent works, for
seconds or for days, nobody here is busy, and the result is recorded once.
"""

from datetime import timedelta

from contract import (
    CODE,
    RESEARCH,
    REVIEW,
    Code,
    Delivery,
    Order,
    Question,
    Research,
    Review,
    Verdict,
    Written,
)
from model import chat_model, durable
from pydantic import BaseModel
from pydantic_ai import Agent, RunContext
from pydantic_ai.durable_exec.temporal import PydanticAIWorkflow
from pydantic_ai.usage import UsageLimits
from temporalio import workflow

PATIENCE = timedelta(days=1)
MODEL_CALLS_MAX = 30
IN_WORKFLOW = {"temporal": False}


class Desk(BaseModel):
    """What the planner has so far."""

    task: str
    facts: list[str] = []
    written: Written | None = None
    verdict: Verdict | None = None


planner = Agent(
    chat_model(),
    name="planner",
    deps_type=Desk,
    instructions=(
        "You are the planner. Have the task researched, then the code written, then reviewed. Have it changed"
        " as the reviewer asks, and reviewed again, until it is approved. Then say in a sentence what there is."
    ),
    capabilities=[durable()],
)


@planner.tool(metadata=IN_WORKFLOW)
async def research(ctx: RunContext[Desk], question: str) -> str:
    """Ask the research agent what our notes say."""
    agent = workflow.create_nexus_client(service=Research, endpoint=RESEARCH)
    facts = await agent.execute_operation(
        Research.investigate,
        Question(question=question),
        schedule_to_close_timeout=PATIENCE,
        summary=question,
    )
    ctx.deps.facts.append(facts)
    return facts


@planner.tool(metadata=IN_WORKFLOW)
async def write_code(ctx: RunContext[Desk], instructions: str) -> str:
    """Have the code agent write the code, or change it; it knows the facts and what was written before."""
    desk = ctx.deps
    before = desk.written.code if desk.written else ""
    agent = workflow.create_nexus_client(service=Code, endpoint=CODE)
    desk.written = await agent.execute_operation(
        Code.write,
        Order(task=instructions, facts=desk.facts, before=before),
        schedule_to_close_timeout=PATIENCE,
        summary=instructions,
    )
    return f"written, {len(desk.written.code.splitlines())} lines; its own test passes"


@planner.tool(metadata=IN_WORKFLOW)
async def review(ctx: RunContext[Desk]) -> Verdict | str:
    """Have the review agent judge what was written last."""
    desk = ctx.deps
    if desk.written is None:
        return "there is nothing to review yet"
    agent = workflow.create_nexus_client(service=Review, endpoint=REVIEW)
    desk.verdict = await agent.execute_operation(
        Review.judge,
        Order(task=desk.task, facts=desk.facts, before=desk.written.code),
        schedule_to_close_timeout=PATIENCE,
        summary="review",
    )
    return desk.verdict


@workflow.defn
class Plan(PydanticAIWorkflow):
    __pydantic_ai_agents__ = (planner,)

    @workflow.run
    async def run(self, task: str) -> Delivery:
        desk = Desk(task=task)
        limits = UsageLimits(request_limit=MODEL_CALLS_MAX)
        result = await planner.run(task, deps=desk, usage_limits=limits)
        return Delivery(summary=result.output, written=desk.written, verdict=desk.verdict)


WORKFLOWS = [Plan]
HANDLERS: list[object] = []
EXPOSED: dict[str, object] = {}
