"""LangChain's messages, as LangGraph nodes return them (`temporalio-langgraph`) and as deepagents
passes them (`temporalio-deepagents`).

A node is an activity with a name of its own; what says that it called a model is the message it
returns. A message is either its fields, or `{"lc": 1, "id": [..., "AIMessage"], "kwargs": fields}`.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from durably.agents.calls import Call, Json, Message, ModelCall, Part, Tokens, ToolCall
from durably.agents.payloads import arguments, count, entries, get, objects, text

DEEPAGENTS_MODEL: Final = re.compile(r"deepagents\.invoke_model(_streaming)?")
DEEPAGENTS_TOOL: Final = re.compile(r"deepagents\.invoke_tool")
DEPTH_MAX: Final = 6
"""How deep in a node's result messages are looked for."""

ROLES: Final = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}


def deepagents_model_call(name: re.Match[str], inputs: list[Json], output: Json) -> list[Call]:
    asked = inputs[0] if inputs else None
    prompt = [_message(each) for each in _messages(get(asked, "messages"))]
    reply = next((each for each in _messages(output) if _kind(each) == "ai"), None)
    model = text(get(asked, "model_name")).rpartition(":")[2]
    return [_model_call("deepagents", "", model, prompt, reply)]


def deepagents_tool_call(name: re.Match[str], inputs: list[Json], output: Json) -> list[Call]:
    asked = inputs[0] if inputs else None
    reply = next(_messages(output), None)
    return [
        ToolCall(
            framework="deepagents",
            name=text(get(asked, "tool_name")),
            id=text(get(asked, "tool_call_id")),
            arguments=get(asked, "args"),
            result=_fields(reply).get("content"),
        )
    ]


def node_calls(activity_type: str, inputs: list[Json], output: Json) -> list[Call]:
    """The calls that a LangGraph node made: each message that a model or a tool returned."""
    if not isinstance(output, dict) or not {"result", "langgraph_command"} <= output.keys():
        return []
    agent = activity_type.partition(".")[0]
    state = get(inputs[0], "args") if inputs else None
    given = list(_messages(state))
    before = [_message(each) for each in given]
    seen = {text(_fields(each).get("id")) for each in given} - {""}
    wanted = [part for message in before for part in message.parts if part.kind == "tool_call"]
    asked = {part.id: part for part in [*wanted, *_sent(state)]}
    calls: list[Call] = []
    for each in _messages(output):
        fields = _fields(each)
        if text(fields.get("id")) in seen:
            continue  # A node that returns all messages, not only its own.
        if _kind(each) == "ai":
            calls.append(_model_call("langgraph", agent, "", before, each))
        elif _kind(each) == "tool":
            call_id = text(fields.get("tool_call_id"))
            request = asked.get(call_id)
            calls.append(
                ToolCall(
                    framework="langgraph",
                    agent=agent,
                    name=text(fields.get("name")) or (request.name if request else ""),
                    id=call_id,
                    arguments=request.value if request else None,
                    result=fields.get("content"),
                )
            )
    return calls


def _sent(value: Json) -> Iterator[Part]:
    """The calls of tools that a node was given by themselves (`Send`), not in a message."""
    for each in _within(value, lambda found: _is_call(found) or bool(_kind(found))):
        if _is_call(each):
            yield _tool_call(each)


def _is_call(value: dict[str, Json]) -> bool:
    return value.get("type") == "tool_call"


def _tool_call(call: dict[str, Json]) -> Part:
    given = arguments(call.get("args"))
    return Part("tool_call", id=text(call.get("id")), name=text(call.get("name")), value=given)


def _model_call(
    framework: str, agent: str, model: str, prompt: list[Message], reply: Json
) -> ModelCall:
    fields = _fields(reply)
    about = fields.get("response_metadata")
    usage = fields.get("usage_metadata")
    return ModelCall(
        framework=framework,
        agent=agent,
        provider=text(get(about, "model_provider")),
        request_model=model,
        response_model=text(get(about, "model_name")) or text(get(about, "model")),
        tokens=_tokens(usage) if isinstance(usage, dict) else None,
        prompt=tuple(prompt),
        reply=_message(reply) if reply is not None else None,
        finish_reason=text(get(about, "finish_reason")) or text(get(about, "stop_reason")),
        response_id=text(get(about, "id")) or text(fields.get("id")),
    )


def _tokens(usage: Json) -> Tokens:
    return Tokens(
        input=count(get(usage, "input_tokens")),
        output=count(get(usage, "output_tokens")),
        cache_read=count(get(usage, "input_token_details", "cache_read")),
        cache_write=count(get(usage, "input_token_details", "cache_creation")),
        reasoning=count(get(usage, "output_token_details", "reasoning")),
    )


def _messages(value: Json) -> Iterator[dict[str, Json]]:
    """The messages in a value, wherever they are, in their order."""
    return _within(value, lambda found: bool(_kind(found)))


def _within(
    value: Json, wanted: Callable[[dict[str, Json]], bool], depth: int = DEPTH_MAX
) -> Iterator[dict[str, Json]]:
    """The objects that are wanted, wherever they are, in their order; what is in them is not looked at."""
    if isinstance(value, dict):
        if wanted(value):
            yield value
            return
        inner: Iterable[Json] = value.values()
    else:
        inner = entries(value)
    if depth:
        for each in inner:
            yield from _within(each, wanted, depth - 1)


def _kind(value: dict[str, Json]) -> str:
    """ai, human, system or tool; empty: this is no message."""
    if value.get("lc") == 1 and isinstance(value.get("kwargs"), dict):
        name = text(get(value, "id", -1)).removesuffix("Chunk").removesuffix("Message").lower()
        return name if name in ROLES else ""
    kind = text(value.get("type")).removesuffix("MessageChunk").lower()
    return kind if kind in ROLES and "content" in value else ""


def _fields(value: Json) -> dict[str, Json]:
    inner = get(value, "kwargs")
    if get(value, "lc") == 1 and isinstance(inner, dict):
        return inner
    return value if isinstance(value, dict) else {}


def _message(value: dict[str, Json]) -> Message:
    fields = _fields(value)
    content = fields.get("content")
    role = ROLES[_kind(value)]
    call_id = text(fields.get("tool_call_id"))
    if role == "tool":
        name = text(fields.get("name"))
        return Message(role, (Part("tool_call_response", id=call_id, name=name, value=content),))
    parts = [Part("text", content)] if isinstance(content, str) and content else []
    for each in objects(content):
        if each.get("type") == "text":
            parts.append(Part("text", text(each.get("text"))))
        elif each.get("type") not in ("tool_use", "function_call"):
            parts.append(Part(text(each.get("type")), value=each))
    parts += [_tool_call(call) for call in objects(fields.get("tool_calls"))]
    return Message(role, tuple(parts))
