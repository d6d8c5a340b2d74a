"""deepagents. Requests to the model and calls of our tools are activities; its own tools (files, todos)
run within the workflow."""

from temporalio import workflow
from temporalio.deepagents import (
    DeepAgentsPlugin,
    create_temporal_deep_agent,
    tool_as_activity,
)

# The workflow's sandbox loads this module again, and what it loaded would be the tool.
with workflow.unsafe.imports_passed_through():
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

TOOLS = [
    tool_as_activity(
        each,
        start_to_close_timeout=TOOL_LIMIT,
        activity_options={"heartbeat_timeout": SILENCE, "retry_policy": RETRY},
    )
    for each in (get_weather, find_sights)
]


@workflow.defn
class Trip:
    @workflow.run
    async def run(self, question: str) -> str:
        guide = create_temporal_deep_agent(
            model=f"openai:{MODEL}",
            system_prompt=INSTRUCTIONS,
            tools=TOOLS,
            activity_options={"start_to_close_timeout": MODEL_LIMIT, "retry_policy": RETRY},
        )
        found = await guide.ainvoke({"messages": [{"role": "user", "content": question}]})
        return str(found["messages"][-1].content)


if __name__ == "__main__":
    work("deepagents", Trip, DeepAgentsPlugin())
