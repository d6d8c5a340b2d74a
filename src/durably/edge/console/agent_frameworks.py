"""How agent frameworks write calls of models and tools into a history: a row for each. Pure.

Rule 1: what a framework calls its activities, and the shape of what goes in and comes out, is here alone.
Rule 2: a payload may hold anything: a field that is not of the expected kind is as one that is not there.

Names and shapes were read off histories that the frameworks made (tests/console/histories).
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from durably.edge.console.payloads import visible

TEXT_CHARS_MAX = 8_000


@dataclass(frozen=True, slots=True)
class Said:
    """`role`: instructions, user, tool; `call_id`: which call of a tool this is the result of."""

    role: str
    text: str
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A call of a tool that a model asks for."""

    name: str
    arguments: str
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens; `cached` are among `taken`."""

    taken: int = 0
    given: int = 0
    cached: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.taken + other.taken, self.given + other.given, self.cached + other.cached)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a model was given."""

    said: list[Said] = field(default_factory=list)
    model: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a model gave."""

    text: str = ""
    thought: str = ""
    wanted: list[Wanted] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    model: str = ""
    provider: str = ""


@dataclass(frozen=True, slots=True)
class Framework:
    """`model` and `tool`: the names of its activities; a group `agent` names the agent."""

    name: str
    model: re.Pattern[str]
    asked: Callable[[Any], Asked]
    answered: Callable[[Any], Answered]
    tool: re.Pattern[str] | None = None
    used: Callable[[Any], Wanted] | None = None


# --- Reading values that may be anything ------------------------------------------------------


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(*values: Any) -> int:
    """The first that is a count."""
    for value in values:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53:
            return value
    return 0


def _name(value: Any) -> str:
    return visible(value)[:200] if isinstance(value, str) else ""


def text_of(value: Any) -> str:
    """Text as it is; a list of parts as the text in them; anything else as JSON."""
    if value is None:
        return ""
    if isinstance(value, list):
        parts = [_part(each) for each in value]
        if all(part is not None for part in parts):
            return visible("\n".join(part for part in parts if part))[:TEXT_CHARS_MAX]
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False)
    return visible(value)[:TEXT_CHARS_MAX]


def _part(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    text = _dict(value).get("text")
    if isinstance(text, str):
        return text
    kind = _name(_dict(value).get("type") or _dict(value).get("kind"))
    return f"[{kind}]" if kind else None


# --- Pydantic AI ------------------------------------------------------------------------------


def _pydantic_asked(value: Any) -> Asked:
    said: list[Said] = []
    instructions = ""
    for message in map(_dict, _list(_dict(value).get("messages"))):
        if message.get("kind") != "request":
            continue
        found = text_of(message.get("instructions"))
        if found and found != instructions:
            instructions = found
            said.append(Said("instructions", found))
        for part in map(_dict, _list(message.get("parts"))):
            said.append(_pydantic_said(part))
    return Asked(said)


def _pydantic_said(part: dict[str, Any]) -> Said:
    text = text_of(part.get("content"))
    match part.get("part_kind"):
        case "system-prompt":
            return Said("instructions", text)
        case "tool-return" | "retry-prompt":
            return Said("tool", text, _name(part.get("tool_call_id")))
        case _:
            return Said("user", text)


def _pydantic_answered(value: Any) -> Answered:
    answer = _dict(value)
    parts = [_dict(each) for each in _list(answer.get("parts"))]
    usage = _dict(answer.get("usage"))
    return Answered(
        text="\n".join(text_of(p.get("content")) for p in parts if p.get("part_kind") == "text"),
        thought="\n".join(
            text_of(p.get("content")) for p in parts if p.get("part_kind") == "thinking"
        ),
        wanted=[
            Wanted(_name(p.get("tool_name")), text_of(p.get("args")), _name(p.get("tool_call_id")))
            for p in parts
            if p.get("part_kind") == "tool-call"
        ],
        usage=Usage(
            _number(usage.get("input_tokens")),
            _number(usage.get("output_tokens")),
            _number(usage.get("cache_read_tokens")),
        ),
        model=_name(answer.get("model_name")),
        provider=_name(answer.get("provider_name")),
    )


def _pydantic_used(value: Any) -> Wanted:
    given = _dict(value)
    context = _dict(given.get("serialized_run_context"))
    return Wanted(
        _name(given.get("name")),
        text_of(given.get("tool_args")),
        _name(context.get("tool_call_id")),
    )


# --- Items of OpenAI's Responses API: OpenAI Agents ---------------------------------------------


def _openai_asked(value: Any) -> Asked:
    given = _dict(value)
    said: list[Said] = []
    instructions = text_of(given.get("system_instructions"))
    if instructions:
        said.append(Said("instructions", instructions))
    items = given.get("input")
    if isinstance(items, str):
        said.append(Said("user", text_of(items)))
    for item in map(_dict, _list(items)):
        if item.get("type") == "function_call_output":
            said.append(Said("tool", text_of(item.get("output")), _name(item.get("call_id"))))
        elif item.get("role") in ("user", "system", "developer"):
            role = "user" if item["role"] == "user" else "instructions"
            said.append(Said(role, text_of(item.get("content"))))
    return Asked(said, _name(given.get("model_name") or given.get("model")))


def _openai_answered(value: Any) -> Answered:
    answer = _dict(value)
    items = [_dict(each) for each in _list(answer.get("output"))]
    return Answered(
        text="\n".join(text_of(i.get("content")) for i in items if i.get("type") == "message"),
        thought="\n".join(text_of(i.get("summary")) for i in items if i.get("type") == "reasoning"),
        wanted=[
            Wanted(_name(i.get("name")), text_of(i.get("arguments")), _name(i.get("call_id")))
            for i in items
            if i.get("type") == "function_call"
        ],
        usage=usage_of(answer.get("usage")),
        model=_name(answer.get("model")),
    )


# --- Plain activities that give what a provider's API gave ----------------------------------------


def usage_of(value: Any) -> Usage:
    """Of OpenAI's two APIs and Anthropic's."""
    usage = _dict(value)
    details = _dict(usage.get("input_tokens_details") or usage.get("prompt_tokens_details"))
    return Usage(
        _number(usage.get("input_tokens"), usage.get("prompt_tokens")),
        _number(usage.get("output_tokens"), usage.get("completion_tokens")),
        _number(details.get("cached_tokens"), usage.get("cache_read_input_tokens")),
    )


def plain_answered(value: Any) -> Answered | None:
    """None for a result that is not a model's answer: one has a model and tokens."""
    answer = _dict(value)
    usage = usage_of(answer.get("usage"))
    model = _name(answer.get("model"))
    if not model or not (usage.taken or usage.given):
        return None
    if isinstance(answer.get("output"), list):
        found = _openai_answered(answer)
    elif isinstance(answer.get("choices"), list):
        found = _chat_answered(answer)
    else:
        found = _anthropic_answered(answer)
    return Answered(found.text, found.thought, found.wanted, usage, model)


def _chat_answered(answer: dict[str, Any]) -> Answered:
    message = _dict(_dict(next(iter(answer["choices"]), None)).get("message"))
    calls = [_dict(each) for each in _list(message.get("tool_calls"))]
    functions = [(each, _dict(each.get("function"))) for each in calls]
    return Answered(
        text=text_of(message.get("content")),
        wanted=[
            Wanted(_name(f.get("name")), text_of(f.get("arguments")), _name(each.get("id")))
            for each, f in functions
        ],
    )


def _anthropic_answered(answer: dict[str, Any]) -> Answered:
    parts = [_dict(each) for each in _list(answer.get("content"))]
    return Answered(
        text="\n".join(text_of(p.get("text")) for p in parts if p.get("type") == "text"),
        thought="\n".join(text_of(p.get("thinking")) for p in parts if p.get("type") == "thinking"),
        wanted=[
            Wanted(_name(p.get("name")), text_of(p.get("input")), _name(p.get("id")))
            for p in parts
            if p.get("type") == "tool_use"
        ],
    )


def plain_asked(values: list[Any]) -> Asked:
    """The messages, wherever the arguments have them; else the arguments as they are."""
    for value in values:
        messages = value if isinstance(value, list) else _dict(value).get("messages")
        if isinstance(messages, list) and messages and _dict(messages[0]).get("role"):
            return Asked([said for each in messages for said in _chat_said(_dict(each))])
        if isinstance(_dict(value).get("input"), str | list):
            return _openai_asked(value)
    return Asked([Said("user", text_of(value)) for value in values if value is not None])


def _chat_said(message: dict[str, Any]) -> list[Said]:
    role = message.get("role")
    if role == "assistant":
        return []
    if role == "tool":
        call_id = _name(message.get("tool_call_id"))
        return [Said("tool", text_of(message.get("content")), call_id)]
    shown = "instructions" if role in ("system", "developer") else "user"
    return [Said(shown, text_of(message.get("content")))]


FRAMEWORKS = (
    Framework(
        "Pydantic AI",
        re.compile(r"agent__(?P<agent>.+?)__model_request(_stream)?"),
        _pydantic_asked,
        _pydantic_answered,
        re.compile(r"agent__(?P<agent>.+?)__toolset__.+__call_tool"),
        _pydantic_used,
    ),
    Framework(
        "OpenAI Agents",
        re.compile(r"invoke_model_activity(_streaming)?"),
        _openai_asked,
        _openai_answered,
    ),
)
