"""The table of frameworks: which activity is a call of a model or of a tool, and who can read it.

Rule 1: a framework is one row for each kind of its activities, and the functions of one module.
Rule 2: what is not recognised is no call; a payload that cannot be read is a call without content.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from durably.agents import google_adk, langchain, openai_agents, plain, pydantic_ai, strands
from durably.agents.calls import Call, Json
from durably.agents.payloads import Opaque

Decode = Callable[[re.Match[str], list[Json], Json], list[Call]]


@dataclass(frozen=True, slots=True)
class Row:
    activity_type: re.Pattern[str]
    decode: Decode


def _invoke_model(_: re.Match[str], inputs: list[Json], output: Json) -> list[Call]:
    """Google ADK and Strands give their activities the same names."""
    if google_adk.recognises(inputs):
        return google_adk.model_call(inputs, output)
    if strands.recognises(inputs):
        return strands.model_call(inputs, output)
    return []


TABLE: tuple[Row, ...] = (
    Row(pydantic_ai.MODEL, pydantic_ai.model_call),
    Row(pydantic_ai.TOOL, pydantic_ai.tool_call),
    Row(openai_agents.MODEL, openai_agents.model_call),
    Row(langchain.DEEPAGENTS_MODEL, langchain.deepagents_model_call),
    Row(langchain.DEEPAGENTS_TOOL, langchain.deepagents_tool_call),
    Row(re.compile(r"invoke_model(_streaming)?"), _invoke_model),
    Row(openai_agents.MCP_TOOL, openai_agents.mcp_tool_call),
)


def decode(activity_type: str, inputs: list[Json | Opaque], output: Json | Opaque) -> list[Call]:
    """The calls that an activity made. `output`: None while there is none."""
    given = [None if isinstance(each, Opaque) else each for each in inputs]
    came = None if isinstance(output, Opaque) else output
    for row in TABLE:
        match = row.activity_type.fullmatch(activity_type)
        if match is not None:
            return row.decode(match, given, came)
    return langchain.node_calls(activity_type, given, came) or plain.calls(given, came)
