"""Calls of models and tools, in one vocabulary for all frameworks.

Rule 1: what a history does not say is None or empty; nothing is guessed.
Rule 2: roles and kinds of parts are those of OpenTelemetry's GenAI conventions.
"""

from dataclasses import dataclass
from typing import Any

Json = Any
"""None, bool, int, float, str, list or dict, as json.loads gives them."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a model call used. `input` counts those that came from a cache or went into one too."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(
            self.input + other.input,
            self.output + other.output,
            self.cache_read + other.cache_read,
            self.cache_write + other.cache_write,
            self.reasoning + other.reasoning,
        )


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a message. `kind`: text, reasoning, tool_call, tool_call_response, or what the
    framework calls it."""

    kind: str
    text: str = ""
    id: str = ""
    """Of a tool call: which; the response has the same."""
    name: str = ""
    """Of a tool call: of the tool."""
    value: Json = None
    """Arguments or result of a tool call; anything else as it is."""


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    """system, user, assistant or tool."""
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One request to a model, and its reply if there is one."""

    framework: str
    agent: str = ""
    provider: str = ""
    request_model: str = ""
    response_model: str = ""
    tokens: Tokens | None = None
    """None: the history does not say, or there was no reply."""
    prompt: tuple[Message, ...] = ()
    reply: Message | None = None
    finish_reason: str = ""
    response_id: str = ""
    conversation_id: str = ""

    @property
    def model(self) -> str:
        return self.response_model or self.request_model

    @property
    def tools_asked(self) -> tuple[Part, ...]:
        """The tools that the reply asks for."""
        parts = self.reply.parts if self.reply else ()
        return tuple(part for part in parts if part.kind == "tool_call")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One run of a tool."""

    framework: str
    agent: str = ""
    name: str = ""
    id: str = ""
    arguments: Json = None
    result: Json = None


Call = ModelCall | ToolCall
