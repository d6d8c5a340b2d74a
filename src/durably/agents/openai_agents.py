"""OpenAI Agents (`temporalio-openai-agents`): activities `invoke_model_activity`, and its streaming
sister, whose result is the list of events that ends with the whole response."""

import re
from typing import Final

from durably.agents.calls import Call, Json, Message, ModelCall, Part, Tokens, ToolCall
from durably.agents.payloads import arguments, count, entries, get, objects, text

FRAMEWORK: Final = "openai_agents"
MODEL: Final = re.compile(r"invoke_model_activity(_streaming)?")
MCP_TOOL: Final = re.compile(r"(?P<server>.+)-call-tool(-v2)?")


def model_call(name: re.Match[str], inputs: list[Json], output: Json) -> list[Call]:
    asked = inputs[0] if inputs else None
    if isinstance(output, list):
        output = next(
            (each.get("response") for each in reversed(objects(output)) if "response" in each), None
        )
    usage = get(output, "usage")
    return [
        ModelCall(
            framework=FRAMEWORK,
            provider="openai",
            request_model=text(get(asked, "model_name")),
            response_model=text(get(output, "model")),
            tokens=tokens(usage) if isinstance(usage, dict) else None,
            prompt=tuple(_prompt(asked)),
            reply=_reply(get(output, "output")),
            finish_reason=text(get(output, "status")),
            response_id=text(get(output, "response_id")) or text(get(output, "id")),
            conversation_id=text(get(asked, "conversation_id")),
        )
    ]


def mcp_tool_call(name: re.Match[str], inputs: list[Json], output: Json) -> list[Call]:
    """The name and arguments of the tool are the arguments of the activity, or fields of one."""
    asked = inputs[0] if inputs else None
    if isinstance(asked, dict):
        called = text(asked.get("tool_name")) or text(asked.get("name"))
        given = asked.get("arguments", asked.get("args"))
    else:
        called, given = text(asked), inputs[1] if len(inputs) > 1 else None
    return [ToolCall(framework="mcp", name=called, arguments=given, result=output)]


def tokens(usage: Json) -> Tokens:
    """As OpenAI's responses API says it."""
    return Tokens(
        input=count(get(usage, "input_tokens")),
        output=count(get(usage, "output_tokens")),
        cache_read=count(get(usage, "input_tokens_details", "cached_tokens")),
        cache_write=count(get(usage, "input_tokens_details", "cache_write_tokens")),
        reasoning=count(get(usage, "output_tokens_details", "reasoning_tokens")),
    )


def _prompt(asked: Json) -> list[Message]:
    found: list[Message] = []
    instructions = text(get(asked, "system_instructions"))
    if instructions:
        found.append(Message("system", (Part("text", instructions),)))
    given = get(asked, "input")
    if isinstance(given, str):
        found.append(Message("user", (Part("text", given),)))
    found += [_item(item) for item in objects(given)]
    return found


def _reply(items: Json) -> Message | None:
    """Everything that came back is one message."""
    if not isinstance(items, list):
        return None
    return Message(
        "assistant", tuple(part for each in objects(items) for part in _item(each).parts)
    )


def _item(item: dict[str, Json]) -> Message:
    """One item of a request or a response."""
    kind = text(item.get("type")) or "message"
    call_id = text(item.get("call_id"))
    if kind == "message":
        return Message(text(item.get("role")) or "assistant", _content(item.get("content")))
    if kind == "function_call":
        given = arguments(item.get("arguments"))
        part = Part("tool_call", id=call_id, name=text(item.get("name")), value=given)
        return Message("assistant", (part,))
    if kind == "function_call_output":
        return Message("tool", (Part("tool_call_response", id=call_id, value=item.get("output")),))
    if kind == "reasoning":
        shown = "\n".join(text(each.get("text")) for each in objects(item.get("summary")))
        return Message("assistant", (Part("reasoning", shown),))
    return Message("assistant", (Part(kind, value=item),))


def _content(content: Json) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (Part("text", content),)
    return tuple(
        Part("text", each["text"])
        if isinstance(each, dict) and isinstance(each.get("text"), str)
        else Part("content", value=each)
        for each in entries(content)
    )
