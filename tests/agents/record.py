"""Records the histories of real agent runs: `python -m tests.agents.record ADDRESS [NAME ...]`.

Each framework runs unmodified against the scripted endpoint; the first model call is refused once, so
that there is a retry. Beside each history stands what the endpoint served. Needs, in an environment of
its own, the packages that are named in `FRAMEWORKS`, and a server at ADDRESS.
"""

import asyncio
import base64
import json
import os
import sys
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.agents.endpoint import MODEL, Endpoint, endpoint

FOLDER = Path(__file__).parent / "histories"
QUESTION = "What is the weather in Oslo?"
RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=5)
START_TO_CLOSE = timedelta(minutes=2)


@activity.defn
async def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


@workflow.defn
class Forecast:
    """What it runs is a framework's own code."""

    asked: Callable[[str], Awaitable[Any]]

    @workflow.run
    async def run(self, question: str) -> str:
        return str(await Forecast.asked(question))


async def run(client: Client, name: str, activities: list[Callable[..., Any]] | None = None) -> str:
    queue = workflow_id = f"{name}-{uuid.uuid4()}"
    async with Worker(
        client,
        task_queue=queue,
        workflows=[Forecast],
        activities=activities or [],
        workflow_runner=UnsandboxedWorkflowRunner(),
        debug_mode=True,  # Some import for seconds inside the workflow.
    ):
        await client.execute_workflow(Forecast.run, QUESTION, id=workflow_id, task_queue=queue)
    return workflow_id


async def pydantic_ai(address: str) -> str:
    from openai import AsyncOpenAI
    from pydantic_ai import Agent
    from pydantic_ai.durable_exec.temporal import PydanticAIPlugin, TemporalDurability
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider
    from temporalio.workflow import ActivityConfig

    step = ActivityConfig(start_to_close_timeout=START_TO_CLOSE, retry_policy=RETRY)
    provider = OpenAIProvider(openai_client=AsyncOpenAI(max_retries=0))
    agent = Agent(
        OpenAIChatModel(MODEL, provider=provider),
        name="forecaster",
        instructions="Be brief.",
        capabilities=[TemporalDurability(activity_config=step, model_activity_config=step)],
    )

    @agent.tool_plain(name="get_weather")
    def weather(city: str) -> str:
        """The weather of a city."""
        return f"rain in {city}"

    async def asked(question: str) -> str:
        return str((await agent.run(question)).output)

    Forecast.__pydantic_ai_agents__ = (agent,)  # type: ignore[attr-defined]
    Forecast.asked = staticmethod(asked)
    client = await Client.connect(address, plugins=[PydanticAIPlugin()])
    return await run(client, "pydantic-ai")


async def openai_agents(address: str) -> str:
    from agents import Agent, Runner
    from temporalio.openai_agents import ModelActivityParameters, OpenAIAgentsPlugin
    from temporalio.openai_agents.workflow import activity_as_tool

    async def asked(question: str) -> str:
        tool = activity_as_tool(get_weather, start_to_close_timeout=START_TO_CLOSE)
        agent = Agent(name="forecaster", instructions="Be brief.", model=MODEL, tools=[tool])
        return str((await Runner.run(agent, question)).final_output)

    Forecast.asked = staticmethod(asked)

    parameters = ModelActivityParameters(start_to_close_timeout=START_TO_CLOSE, retry_policy=RETRY)
    client = await Client.connect(address, plugins=[OpenAIAgentsPlugin(model_params=parameters)])
    return await run(client, "openai-agents", [get_weather])


def tool_node(state: dict[str, Any]) -> dict[str, Any]:
    from langchain_core.messages import AIMessage, ToolMessage, convert_to_messages

    asked = convert_to_messages(state["messages"])[-1]
    assert isinstance(asked, AIMessage)
    call = asked.tool_calls[0]
    text = f"rain in {call['args']['city']}"
    return {"messages": [ToolMessage(text, tool_call_id=call["id"], name=call["name"])]}


async def model_node(state: dict[str, Any]) -> dict[str, Any]:
    from langchain_openai import ChatOpenAI

    schema = {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
    model = ChatOpenAI(model=MODEL, max_retries=0).bind_tools([schema])
    return {"messages": [await model.ainvoke(state["messages"])]}


async def after_model(state: Any) -> str:
    return "tools" if state["messages"][-1].tool_calls else "__end__"


async def langgraph(address: str) -> str:
    from langgraph.graph import START, MessagesState, StateGraph
    from temporalio.langgraph import LangGraphPlugin, graph

    options = {
        "start_to_close_timeout": START_TO_CLOSE,
        "retry_policy": RETRY,
        "execute_in": "activity",
    }
    made = StateGraph(MessagesState)
    made.add_node("agent", model_node, metadata=options)
    made.add_node("tools", tool_node, metadata=options)
    made.add_edge(START, "agent")
    made.add_conditional_edges("agent", after_model, ["tools", "__end__"])
    made.add_edge("tools", "agent")

    async def asked(question: str) -> str:
        compiled = graph("forecaster").compile()
        found = await compiled.ainvoke({"messages": [("user", question)]})
        return str(found["messages"][-1].content)

    Forecast.asked = staticmethod(asked)

    client = await Client.connect(address, plugins=[LangGraphPlugin(graphs={"forecaster": made})])
    return await run(client, "langgraph")


async def strands(address: str) -> str:
    from strands.models.openai import OpenAIModel
    from temporalio.strands_agents import StrandsPlugin, TemporalAgent
    from temporalio.strands_agents.workflow import activity_as_tool

    async def asked(question: str) -> str:
        tool = activity_as_tool(get_weather, start_to_close_timeout=START_TO_CLOSE)
        agent = TemporalAgent(
            model=MODEL,
            start_to_close_timeout=START_TO_CLOSE,
            retry_policy=RETRY,
            system_prompt="Be brief.",
            tools=[tool],
        )
        return str(await agent.invoke_async(question))

    Forecast.asked = staticmethod(asked)

    def model() -> OpenAIModel:
        return OpenAIModel(client_args={"max_retries": 0}, model_id=MODEL)

    client = await Client.connect(address, plugins=[StrandsPlugin(models={MODEL: model})])
    return await run(client, "strands", [get_weather])


async def deepagents(address: str) -> str:
    from temporalio.deepagents import (
        DeepAgentsPlugin,
        activity_as_tool,
        create_temporal_deep_agent,
    )

    tool = activity_as_tool(get_weather, start_to_close_timeout=START_TO_CLOSE)

    async def asked(question: str) -> str:
        agent = create_temporal_deep_agent(
            model=f"openai:{MODEL}",
            system_prompt="Be brief.",
            tools=[tool],
            activity_options={"start_to_close_timeout": START_TO_CLOSE, "retry_policy": RETRY},
        )
        found = await agent.ainvoke({"messages": [{"role": "user", "content": question}]})
        return str(found["messages"][-1].content)

    Forecast.asked = staticmethod(asked)
    client = await Client.connect(address, plugins=[DeepAgentsPlugin()])
    return await run(client, "deepagents", [get_weather])


async def google_adk(address: str) -> str:
    from google.adk.agents import LlmAgent
    from google.adk.runners import InMemoryRunner
    from google.genai import types
    from temporalio.google_adk import GoogleAdkPlugin, TemporalModel
    from temporalio.google_adk.workflow import activity_as_tool
    from temporalio.workflow import ActivityConfig

    step = ActivityConfig(start_to_close_timeout=START_TO_CLOSE, retry_policy=RETRY)
    tool = activity_as_tool(get_weather, start_to_close_timeout=START_TO_CLOSE)

    async def asked(question: str) -> str:
        agent = LlmAgent(
            name="forecaster",
            model=TemporalModel(f"openai/{MODEL}", activity_config=step),
            instruction="Be brief.",
            tools=[tool],
        )
        runner = InMemoryRunner(agent=agent, app_name="forecasts")
        session = await runner.session_service.create_session(app_name="forecasts", user_id="u")
        content = types.Content(role="user", parts=[types.Part(text=question)])
        answer = ""
        async for event in runner.run_async(
            user_id="u", session_id=session.id, new_message=content
        ):
            for part in event.content.parts if event.content and event.content.parts else ():
                answer = part.text or answer
        return answer

    Forecast.asked = staticmethod(asked)
    client = await Client.connect(address, plugins=[GoogleAdkPlugin()])
    return await run(client, "google-adk", [get_weather])


FRAMEWORKS: dict[str, Callable[[str], Awaitable[str]]] = {
    # pydantic-ai-slim[openai,temporal]
    "pydantic_ai": pydantic_ai,
    # temporalio-openai-agents
    "openai_agents": openai_agents,
    # temporalio-langgraph langchain-openai
    "langgraph": langgraph,
    # temporalio-strands-agents strands-agents[openai]
    "strands": strands,
    # temporalio-google-adk litellm
    "google_adk": google_adk,
    # temporalio-deepagents langchain-openai
    "deepagents": deepagents,
}


LEFT_OUT = ("stackTrace", "identity", "tool_schemas")


def shortened(value: Any) -> Any:
    """Without places on the machine that it was recorded on, nor what tools say of themselves."""
    if isinstance(value, dict):
        kept = {name: shortened(v) for name, v in value.items() if name not in LEFT_OUT}
        if isinstance(kept.get("data"), str) and "metadata" in kept:
            kept["data"] = base64.b64encode(
                _shortened_json(base64.b64decode(kept["data"]))
            ).decode()
        return kept
    return [shortened(each) for each in value] if isinstance(value, list) else value


def _shortened_json(data: bytes) -> bytes:
    try:
        value = json.loads(data)
    except ValueError:
        return data
    if not isinstance(value, dict):
        return data
    return json.dumps({name: v for name, v in value.items() if name not in LEFT_OUT}).encode()


async def record(address: str, name: str, served: Endpoint) -> None:
    served.refusals = 1
    workflow_id = await FRAMEWORKS[name](address)
    client = await Client.connect(address)
    history = await client.get_workflow_handle(workflow_id).fetch_history()
    kept = shortened(history.to_json_dict())
    found = {"served": [asdict(each) for each in served.served], "history": kept}
    (FOLDER / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def main(address: str, names: list[str]) -> None:
    for name in names or FRAMEWORKS:
        with endpoint() as served:
            os.environ |= {"OPENAI_BASE_URL": served.url, "OPENAI_API_KEY": "none"}
            os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"
            os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
            asyncio.run(record(address, name, served))
            print(f"{name}: {len(served.served)} model calls")


if __name__ == "__main__":
    # LangGraph names tasks by their module, which `__main__` is not.
    from tests.agents import record as this

    this.main(sys.argv[1], sys.argv[2:])
