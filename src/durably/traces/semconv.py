"""The names that spans and their attributes have: the one place where a change of them is made.

`gen_ai.*` is OpenTelemetry's GenAI semantic conventions, release v0.1.0 of
https://github.com/open-telemetry/semantic-conventions-genai, all of it in development still. The ids have
the names that Temporal's own tracing interceptors give them, so that their spans and these are found
together; what neither has a name for begins with `durably.`.
"""

import json
from typing import Final

from durably.agents.calls import Message, ModelCall, Part, Tokens, ToolCall

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/gen-ai/0.1.0"

Attributes = dict[str, str | int | float | bool]

WORKFLOW_ID: Final = "temporalWorkflowID"
RUN_ID: Final = "temporalRunID"
ACTIVITY_ID: Final = "temporalActivityID"
UPDATE_ID: Final = "temporalUpdateID"
NAMESPACE: Final = "durably.namespace"
WORKFLOW_TYPE: Final = "durably.workflow.type"
ACTIVITY_TYPE: Final = "durably.activity.type"
TASK_QUEUE: Final = "durably.task_queue"
STATUS: Final = "durably.status"
ATTEMPT: Final = "durably.attempt"
EVENT_ID: Final = "durably.event_id"
ERROR_TYPE: Final = "error.type"

PROVIDERS: Final = {
    "google-gla": "gcp.gemini",
    "google-vertex": "gcp.vertex_ai",
    "google": "gcp.gemini",
    "bedrock": "aws.bedrock",
    "mistral": "mistral_ai",
    "azure": "azure.ai.openai",
    "grok": "x_ai",
    "xai": "x_ai",
}
"""What frameworks call a provider -> what the conventions call it; all others are the same."""


def model_call(call: ModelCall, *, content: bool) -> tuple[str, Attributes]:
    """Name and attributes of a span; prompts and replies only if `content` is asked for."""
    found: Attributes = {"gen_ai.operation.name": "chat", **_agent(call.agent)}
    if call.provider:
        found["gen_ai.provider.name"] = PROVIDERS.get(call.provider, call.provider)
    if call.request_model or call.response_model:
        found["gen_ai.request.model"] = call.request_model or call.response_model
    if call.response_model:
        found["gen_ai.response.model"] = call.response_model
    if call.response_id:
        found["gen_ai.response.id"] = call.response_id
    if call.conversation_id:
        found["gen_ai.conversation.id"] = call.conversation_id
    if call.tokens is not None:
        found |= usage(call.tokens)
    if content:
        system = [m for m in call.prompt if m.role == "system"]
        others = [m for m in call.prompt if m.role != "system"]
        if system:
            parts = [part for message in system for part in message.parts]
            found["gen_ai.system_instructions"] = _json([_part(part) for part in parts])
        if others:
            found["gen_ai.input.messages"] = _json([_message(message) for message in others])
        if call.reply is not None:
            reply = {**_message(call.reply), "finish_reason": call.finish_reason}
            found["gen_ai.output.messages"] = _json([reply])
    return f"chat {call.request_model or call.response_model}".strip(), found


def tool_call(call: ToolCall, *, content: bool) -> tuple[str, Attributes]:
    found: Attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": call.name,
        "gen_ai.tool.type": "function",
        **_agent(call.agent),
    }
    if call.id:
        found["gen_ai.tool.call.id"] = call.id
    if content:
        found["gen_ai.tool.call.arguments"] = _json(call.arguments)
        found["gen_ai.tool.call.result"] = _json(call.result)
    return f"execute_tool {call.name}", found


def agent_run(agent: str, tokens: Tokens) -> tuple[str, Attributes]:
    """A run in which one agent called models."""
    found: Attributes = {"gen_ai.operation.name": "invoke_agent", **_agent(agent)}
    return f"invoke_agent {agent}".strip(), found | usage(tokens)


def usage(tokens: Tokens) -> Attributes:
    found: Attributes = {
        "gen_ai.usage.input_tokens": tokens.input,
        "gen_ai.usage.output_tokens": tokens.output,
    }
    if tokens.cache_read:
        found["gen_ai.usage.cache_read.input_tokens"] = tokens.cache_read
    if tokens.cache_write:
        found["gen_ai.usage.cache_creation.input_tokens"] = tokens.cache_write
    if tokens.reasoning:
        found["gen_ai.usage.reasoning.output_tokens"] = tokens.reasoning
    return found


def _agent(name: str) -> Attributes:
    return {"gen_ai.agent.name": name} if name else {}


def _message(message: Message) -> dict[str, object]:
    return {"role": message.role, "parts": [_part(part) for part in message.parts]}


def _part(part: Part) -> dict[str, object]:
    if part.kind in ("text", "reasoning"):
        return {"type": part.kind, "content": part.text}
    if part.kind == "tool_call":
        return {"type": part.kind, "id": part.id, "name": part.name, "arguments": part.value}
    if part.kind == "tool_call_response":
        return {"type": part.kind, "id": part.id, "response": part.value}
    return {"type": part.kind, "content": part.value}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
