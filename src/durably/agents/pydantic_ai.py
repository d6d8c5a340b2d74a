"""Pydantic AI: activities `agent__NAME__...`, whose payloads are its own dataclasses.

The names are persisted data, which its authors promise not to change:
`pydantic_ai.durable_exec.temporal._operation_names`.
"""

import re
from typing import Final

from durably.agents.calls import Call, Json, Message, ModelCall, Part, Tokens, ToolCall
from durably.agents.payloads import arguments, count, get, objects, text

FRAMEWORK: Final = "pydantic_ai"
MODEL: Final = re.compile(r"agent__(?P<agent>.+)__model_(request|request_stream|compact_messages)")
TOOL: Final = re.compile(
    r"agent__(?P<agent>.+?)__(toolset|mcp_server|dynamic_toolset)__(?P<toolset>.+)__call_tool"
)

ROLES: Final = {"system-prompt": "system", "tool-return": "tool", "retry-prompt": "user"}


def model_call(name: re.Match[str], inputs: list[Json], output: Json) -> list[Call]:
    asked = inputs[0] if inputs else None
    usage = get(output, "usage")
    identity = text(get(asked, "serialized_run_context", "conversation_id"))
    return [
        ModelCall(
            framework=FRAMEWORK,
            agent=name["agent"],
            provider=text(get(output, "provider_name")),
            request_model=text(get(asked, "model_id")).rpartition(":")[2],
            response_model=text(get(output, "model_name")),
            tokens=_tokens(usage) if isinstance(usage, dict) else None,
            prompt=tuple(_prompt(objects(get(asked, "messages")))),
            reply=_response(output) if isinstance(output, dict) else None,
            finish_reason=text(get(output, "finish_reason")),
            response_id=text(get(output, "provider_response_id")),
            conversation_id=identity,
        )
    ]


def tool_call(name: re.Match[str], inputs: list[Json], output: Json) -> list[Call]:
    asked = inputs[0] if inputs else None
    context = get(asked, "serialized_run_context")
    result = get(output, "result")
    return [
        ToolCall(
            framework=FRAMEWORK,
            agent=name["agent"],
            name=text(get(asked, "name")),
            id=text(get(context, "tool_call_id")),
            arguments=get(asked, "tool_args"),
            result=output if result is None else result,
        )
    ]


def _tokens(usage: Json) -> Tokens:
    return Tokens(
        input=count(get(usage, "input_tokens")),
        output=count(get(usage, "output_tokens")),
        cache_read=count(get(usage, "cache_read_tokens")),
        cache_write=count(get(usage, "cache_write_tokens")),
        reasoning=count(get(usage, "output_reasoning_tokens"))
        or count(get(usage, "details", "reasoning_tokens")),
    )


def _prompt(messages: list[dict[str, Json]]) -> list[Message]:
    """Instructions are with each request; those of the last one hold."""
    found: list[Message] = []
    instructions = ""
    for message in messages:
        if message.get("kind") == "response":
            found.append(_response(message))
            continue
        instructions = text(message.get("instructions")) or instructions
        for part in objects(message.get("parts")):
            kind = text(part.get("part_kind"))
            found.append(Message(ROLES.get(kind, "user"), (_part(kind, part),)))
    if instructions:
        found.insert(0, Message("system", (Part("text", instructions),)))
    return found


def _response(message: Json) -> Message:
    parts = objects(get(message, "parts"))
    return Message("assistant", tuple(_part(text(part.get("part_kind")), part) for part in parts))


def _part(kind: str, part: dict[str, Json]) -> Part:
    content = part.get("content")
    name, call_id = text(part.get("tool_name")), text(part.get("tool_call_id"))
    if kind == "tool-call":
        return Part("tool_call", id=call_id, name=name, value=arguments(part.get("args")))
    if kind == "tool-return" or (kind == "retry-prompt" and name):
        return Part("tool_call_response", id=call_id, name=name, value=content)
    if kind == "thinking":
        return Part("reasoning", text(content))
    if isinstance(content, str):
        return Part("text", content)
    return Part(kind, value=content if content is not None else part)
