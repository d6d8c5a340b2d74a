"""OpenAI Agents. The plugin makes each request to the model an activity; the tools are ours."""

from agents import Agent, Runner
from temporalio import activity, workflow
from temporalio.openai_agents import ModelActivityParameters, OpenAIAgentsPlugin
from temporalio.openai_agents.workflow import activity_as_tool
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

TOOLS = [activity.defn(get_weather), activity.defn(find_sights)]


@workflow.defn
class Trip:
    @workflow.run
    async def run(self, question: str) -> str:
        tools = [
            activity_as_tool(
                each,
                start_to_close_timeout=TOOL_LIMIT,
                heartbeat_timeout=SILENCE,
                retry_policy=RETRY,
            )
            for each in TOOLS
        ]
        guide = Agent(name="guide", instructions=INSTRUCTIONS, model=MODEL, tools=tools)
        return str((await Runner.run(guide, question)).final_output)


if __name__ == "__main__":
    limits = ModelActivityParameters(start_to_close_timeout=MODEL_LIMIT, retry_policy=RETRY)
    work("openai-agents", Trip, OpenAIAgentsPlugin(model_params=limits), TOOLS)
