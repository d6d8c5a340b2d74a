"""Strands (`temporalio-strands-agents`): activities `invoke_model`, whose result is the stream's events
in the form of Bedrock's converse API."""

from typing import Final

from durably.agents.calls import Call, Json, Message, ModelCall, Part, Tokens
from durably.agents.payloads import arguments, count, entries, get, objects, text

FRAMEWORK: Final = "strands"


def recognises(inputs: list[Json]) -> bool:
    asked = inputs[0] if inputs else None
    return isinstance(asked, dict) and "messages" in asked and "model_name" in asked


def model_call(inputs: list[Json], output: Json) -> list[Call]:
    asked = inputs[0]
    events = objects(output)
    usage = next((u for each in reversed(events) if (u := get(each, "metadata", "usage"))), None)
    reason = next((r for each in events if (r := get(each, "messageStop", "stopReason"))), "")
    return [
        ModelCall(
            framework=FRAMEWORK,
            request_model=text(get(asked, "model_name")),
            tokens=_tokens(usage) if isinstance(usage, dict) else None,
            prompt=tuple(_prompt(asked)),
            reply=_reply(events) if events else None,
            finish_reason=text(reason),
        )
    ]


def _tokens(usage: Json) -> Tokens:
    read = count(get(usage, "cacheReadInputTokens"))
    return Tokens(
        input=count(get(usage, "inputTokens")),
        output=count(get(usage, "outputTokens")),
        cache_read=read,
        cache_write=count(get(usage, "cacheWriteInputTokens")),
    )


def _prompt(asked: Json) -> list[Message]:
    found: list[Message] = []
    if text(get(asked, "system_prompt")):
        found.append(Message("system", (Part("text", text(get(asked, "system_prompt"))),)))
    for message in objects(get(asked, "messages")):
        parts = tuple(_block(each) for each in objects(message.get("content")))
        found.append(Message(text(message.get("role")) or "user", parts))
    return found


def _block(block: dict[str, Json]) -> Part:
    use, result = block.get("toolUse"), block.get("toolResult")
    if isinstance(use, dict):
        call_id, name = text(use.get("toolUseId")), text(use.get("name"))
        return Part("tool_call", "", call_id, name, arguments(use.get("input")))
    if isinstance(result, dict):
        call_id, content = text(result.get("toolUseId")), result.get("content")
        only = get(content, 0, "text") if len(entries(content)) == 1 else None
        return Part("tool_call_response", id=call_id, value=content if only is None else only)
    if isinstance(block.get("text"), str):
        return Part("text", block["text"])
    return Part("content", value=block)


def _reply(events: list[dict[str, Json]]) -> Message:
    """The blocks of the reply, each put together from its pieces."""
    parts: list[Part] = []
    tool: Json = None
    pieces: list[str] = []
    for event in events:
        if "contentBlockStart" in event:
            tool, pieces = get(event, "contentBlockStart", "start", "toolUse"), []
        delta = get(event, "contentBlockDelta", "delta")
        pieces.append(text(get(delta, "text")) or text(get(delta, "toolUse", "input")))
        if "contentBlockStop" in event:
            whole = "".join(pieces)
            if isinstance(tool, dict):
                call_id, name = text(tool.get("toolUseId")), text(tool.get("name"))
                parts.append(Part("tool_call", "", call_id, name, arguments(whole)))
            elif whole:
                parts.append(Part("text", whole))
            tool, pieces = None, []
    return Message("assistant", tuple(parts))
