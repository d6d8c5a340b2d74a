"""Activities that call a model themselves, and return what it replied: OpenAI's chat completions and
responses, Anthropic's messages. The result is recognised by its own fields, the prompt by its messages."""

from dataclasses import replace
from typing import Final

from durably.agents import openai_agents
from durably.agents.calls import Call, Json, Message, ModelCall, Part, Tokens
from durably.agents.payloads import arguments, count, get, objects, text

FRAMEWORK: Final = "plain"


def calls(inputs: list[Json], output: Json) -> list[Call]:
    if not isinstance(output, dict) or not isinstance(output.get("usage"), dict):
        return []
    if output.get("object") == "chat.completion":
        return [replace(_completion(output), prompt=_prompt(inputs))]
    if output.get("object") == "response":
        return openai_agents.model_call(MATCH, inputs, output)
    if output.get("type") == "message" and output.get("role") == "assistant":
        return [replace(_anthropic(output), prompt=_prompt(inputs))]
    return []


def _prompt(inputs: list[Json]) -> tuple[Message, ...]:
    """The first list of messages among the arguments: one of them, or its field `messages`."""
    for given in inputs:
        listed = given if isinstance(given, list) else get(given, "messages")
        messages = [each for each in objects(listed) if isinstance(each.get("role"), str)]
        if messages:
            return tuple(_message(each) for each in messages)
    return ()


def _message(message: dict[str, Json]) -> Message:
    role, content = text(message.get("role")), message.get("content")
    if role == "tool":
        call_id = text(message.get("tool_call_id"))
        return Message("tool", (Part("tool_call_response", id=call_id, value=content),))
    parts = [Part("text", content)] if isinstance(content, str) else []
    for block in objects(content):
        said = text(block.get("text"))
        parts.append(Part("text", said) if said else Part(text(block.get("type")), value=block))
    return Message("system" if role == "developer" else role, tuple(parts))


_found = openai_agents.MODEL.fullmatch("invoke_model_activity")
assert _found is not None
MATCH: Final = _found


def _completion(output: Json) -> ModelCall:
    usage, message = output["usage"], get(output, "choices", 0, "message")
    parts = [Part("text", content)] if (content := text(get(message, "content"))) else []
    for call in objects(get(message, "tool_calls")):
        name, given = text(get(call, "function", "name")), get(call, "function", "arguments")
        parts.append(Part("tool_call", "", text(call.get("id")), name, arguments(given)))
    return ModelCall(
        framework=FRAMEWORK,
        provider="openai",
        response_model=text(output.get("model")),
        tokens=Tokens(
            input=count(get(usage, "prompt_tokens")),
            output=count(get(usage, "completion_tokens")),
            cache_read=count(get(usage, "prompt_tokens_details", "cached_tokens")),
            reasoning=count(get(usage, "completion_tokens_details", "reasoning_tokens")),
        ),
        reply=Message("assistant", tuple(parts)),
        finish_reason=text(get(output, "choices", 0, "finish_reason")),
        response_id=text(output.get("id")),
    )


def _anthropic(output: Json) -> ModelCall:
    """Its input tokens are those beside the cache."""
    usage = output["usage"]
    read = count(usage.get("cache_read_input_tokens"))
    written = count(usage.get("cache_creation_input_tokens"))
    parts = []
    for block in objects(output.get("content")):
        if block.get("type") == "tool_use":
            call_id, name = text(block.get("id")), text(block.get("name"))
            parts.append(Part("tool_call", "", call_id, name, block.get("input")))
        elif block.get("type") == "text":
            parts.append(Part("text", text(block.get("text"))))
        else:
            parts.append(Part(text(block.get("type")), value=block))
    return ModelCall(
        framework=FRAMEWORK,
        provider="anthropic",
        response_model=text(output.get("model")),
        tokens=Tokens(
            input=count(usage.get("input_tokens")) + read + written,
            output=count(usage.get("output_tokens")),
            cache_read=read,
            cache_write=written,
        ),
        reply=Message("assistant", tuple(parts)),
        finish_reason=text(output.get("stop_reason")),
        response_id=text(output.get("id")),
    )
