"""LangGraph. A node is an activity; each tool that the model asks for is a task of its own (`Send`)."""

from datetime import timedelta
from typing import Any

from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Send
from temporalio import workflow
from temporalio.langgraph import LangGraphPlugin, graph

with workflow.unsafe.imports_passed_through():
    from langchain_core.messages import SystemMessage, ToolMessage
    from langchain_core.tools import StructuredTool
    from langchain_openai import ChatOpenAI

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

TOOLS = {
    each.__name__: StructuredTool.from_function(coroutine=each)
    for each in (get_weather, find_sights)
}


async def model(state: MessagesState) -> dict[str, Any]:
    chat = ChatOpenAI(model=MODEL, max_retries=0).bind_tools(list(TOOLS.values()))
    return {"messages": [await chat.ainvoke([SystemMessage(INSTRUCTIONS), *state["messages"]])]}


async def tool(call: dict[str, Any]) -> dict[str, Any]:
    result = await TOOLS[call["name"]].ainvoke(call["args"])
    return {"messages": [ToolMessage(result, tool_call_id=call["id"], name=call["name"])]}


async def after_model(state: MessagesState) -> list[Send] | str:
    return [Send("tool", call) for call in state["messages"][-1].tool_calls] or END


def limits(timeout: timedelta, **more: Any) -> dict[str, Any]:
    more |= {"execute_in": "activity", "retry_policy": RETRY}
    return {"start_to_close_timeout": timeout, **more}


steps = StateGraph(MessagesState)
steps.add_node("model", model, metadata=limits(MODEL_LIMIT))
steps.add_node("tool", tool, metadata=limits(TOOL_LIMIT, heartbeat_timeout=SILENCE))
steps.add_edge(START, "model")
steps.add_conditional_edges("model", after_model, ["tool", END])
steps.add_edge("tool", "model")


@workflow.defn
class Trip:
    @workflow.run
    async def run(self, question: str) -> str:
        found = await graph("guide").compile().ainvoke({"messages": [("user", question)]})
        return str(found["messages"][-1].content)


if __name__ == "__main__":
    # Nodes are known by their module, which must not be `__main__`.
    import with_langgraph

    plugin = LangGraphPlugin(graphs={"guide": with_langgraph.steps})
    work("langgraph", with_langgraph.Trip, plugin)
