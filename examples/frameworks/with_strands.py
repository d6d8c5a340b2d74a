"""Strands. Models are known to the worker by a name; the tools are activities of ours."""

from strands.models.openai import OpenAIModel
from temporalio import activity, workflow
from temporalio.strands_agents import StrandsPlugin, TemporalAgent
from temporalio.strands_agents.workflow import activity_as_tool
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
        guide = TemporalAgent(
            model=MODEL,
            start_to_close_timeout=MODEL_LIMIT,
            retry_policy=RETRY,
            system_prompt=INSTRUCTIONS,
            tools=[
                activity_as_tool(
                    each,
                    start_to_close_timeout=TOOL_LIMIT,
                    heartbeat_timeout=SILENCE,
                    retry_policy=RETRY,
                )
                for each in TOOLS
            ],
            callback_handler=None,
        )
        return str(await guide.invoke_async(question)).strip()


if __name__ == "__main__":
    models = {MODEL: lambda: OpenAIModel(client_args={"max_retries": 0}, model_id=MODEL)}
    work("strands", Trip, StrandsPlugin(models=models), TOOLS)
