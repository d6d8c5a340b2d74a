"""Pydantic AI. Each request to the model and each tool is an activity of the plugin's own."""

from pydantic_ai import Agent
from pydantic_ai.durable_exec.temporal import (
    PydanticAIPlugin,
    PydanticAIWorkflow,
    TemporalDurability,
)
from pydantic_ai.models.openai import OpenAIChatModel
from temporalio import workflow
from temporalio.workflow import ActivityConfig
from trip import (
    INSTRUCTIONS,
    MODEL,
    MODEL_LIMIT,
    RETRY,
    SILENCE,
    TOOL_LIMIT,
    find_sights,
    get_weather,
    work,
)

guide = Agent(
    OpenAIChatModel(MODEL),
    name="guide",
    instructions=INSTRUCTIONS,
    tools=[get_weather, find_sights],
    capabilities=[
        TemporalDurability(
            activity_config=ActivityConfig(
                start_to_close_timeout=TOOL_LIMIT, heartbeat_timeout=SILENCE, retry_policy=RETRY
            ),
            model_activity_config=ActivityConfig(
                start_to_close_timeout=MODEL_LIMIT, retry_policy=RETRY
            ),
        )
    ],
)


@workflow.defn
class Trip(PydanticAIWorkflow):
    __pydantic_ai_agents__ = (guide,)

    @workflow.run
    async def run(self, question: str) -> str:
        return str((await guide.run(question)).output)


if __name__ == "__main__":
    work("pydantic-ai", Trip, PydanticAIPlugin())
