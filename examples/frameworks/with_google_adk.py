"""Google ADK, with a model behind OpenAI's API through LiteLLM. The tools are activities of ours."""

from google.adk.agents import LlmAgent
from google.adk.models import LLMRegistry
from google.adk.models.lite_llm import LiteLlm
from google.adk.runners import InMemoryRunner
from google.genai import types
from temporalio import activity, workflow
from temporalio.google_adk import GoogleAdkPlugin, TemporalModel
from temporalio.google_adk.workflow import activity_as_tool
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

TOOLS = [activity.defn(get_weather), activity.defn(find_sights)]
APP = "trips"


@workflow.defn
class Trip:
    @workflow.run
    async def run(self, question: str) -> str:
        limits = ActivityConfig(start_to_close_timeout=MODEL_LIMIT, retry_policy=RETRY)
        guide = LlmAgent(
            name="guide",
            model=TemporalModel(f"openai/{MODEL}", activity_config=limits),
            instruction=INSTRUCTIONS,
            tools=[
                activity_as_tool(
                    each,
                    start_to_close_timeout=TOOL_LIMIT,
                    heartbeat_timeout=SILENCE,
                    retry_policy=RETRY,
                )
                for each in TOOLS
            ],
        )
        runner = InMemoryRunner(agent=guide, app_name=APP)
        session = await runner.session_service.create_session(app_name=APP, user_id="me")
        asked = types.Content(role="user", parts=[types.Part(text=question)])
        answer = ""
        async for event in runner.run_async(user_id="me", session_id=session.id, new_message=asked):
            if event.is_final_response() and event.content and event.content.parts:
                answer = event.content.parts[0].text or ""
        return answer


if __name__ == "__main__":
    LLMRegistry.register(LiteLlm)
    work("google-adk", Trip, GoogleAdkPlugin(), TOOLS)
