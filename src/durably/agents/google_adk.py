"""Google ADK (`temporalio-google-adk`): activities `invoke_model`, whose input is a request of Google's
GenAI SDK and whose result is the list of its responses."""

from typing import Final

from durably.agents.calls import Call, Json, Message, ModelCall, Part, Tokens
from durably.agents.payloads import count, get, objects, text

FRAMEWORK: Final = "google_adk"


def recognises(inputs: list[Json]) -> bool:
    return isinstance(_request(inputs), dict) and isinstance(
        get(_request(inputs), "contents"), list
    )


def model_call(inputs: list[Json], output: Json) -> list[Call]:
    asked = _request(inputs)
    replies = [each for each in objects(output) if not either(each, "partial")]
    last = replies[-1] if replies else None
    usage = next((u for each in reversed(replies) if (u := either(each, "usage_metadata"))), None)
    provider, _, model = text(get(asked, "model")).rpartition("/")
    return [
        ModelCall(
            framework=FRAMEWORK,
            agent=text(get(asked, "config", "labels", "adk_agent_name")),
            provider="gcp.gemini" if "gemini" in model else provider,
            request_model=model,
            response_model=text(either(last, "model_version")),
            tokens=_tokens(usage) if isinstance(usage, dict) else None,
            prompt=tuple(_prompt(asked)),
            reply=_reply(replies),
            finish_reason=text(either(last, "finish_reason")).lower(),
            response_id=text(either(last, "interaction_id")),
        )
    ]


def _request(inputs: list[Json]) -> Json:
    asked = inputs[0] if inputs else None
    return get(asked, "llm_request") or asked


def either(value: Json, name: str) -> Json:
    """A field by its name in snake case or in camel case: both are written."""
    first, *rest = name.split("_")
    found = get(value, name)
    return found if found is not None else get(value, first + "".join(map(str.title, rest)))


def _tokens(usage: Json) -> Tokens:
    """Thoughts are counted beside what is shown, and paid like it."""
    thoughts = count(either(usage, "thoughts_token_count"))
    return Tokens(
        input=count(either(usage, "prompt_token_count")),
        output=count(either(usage, "candidates_token_count")) + thoughts,
        cache_read=count(either(usage, "cached_content_token_count")),
        reasoning=thoughts,
    )


def _prompt(asked: Json) -> list[Message]:
    found: list[Message] = []
    instructions = either(get(asked, "config"), "system_instruction")
    if isinstance(instructions, str):
        found.append(Message("system", (Part("text", instructions),)))
    for content in objects(get(asked, "contents")):
        role = "assistant" if content.get("role") == "model" else "user"
        found.append(Message(role, _parts(content)))
    return found


def _reply(replies: list[dict[str, Json]]) -> Message | None:
    if not replies:
        return None
    parts = (part for each in replies for part in _parts(each.get("content")))
    return Message("assistant", tuple(parts))


def _parts(content: Json) -> tuple[Part, ...]:
    return tuple(_part(each) for each in objects(get(content, "parts")))


def _part(part: dict[str, Json]) -> Part:
    call, response = either(part, "function_call"), either(part, "function_response")
    if isinstance(call, dict):
        return Part("tool_call", "", text(call.get("id")), text(call.get("name")), call.get("args"))
    if isinstance(response, dict):
        name, call_id = text(response.get("name")), text(response.get("id"))
        came = response.get("response")
        wrapped = isinstance(came, dict) and came.keys() == {"result"}
        value = get(came, "result") if wrapped else came  # ADK makes an object of what is none.
        return Part("tool_call_response", "", call_id, name, value)
    if isinstance(part.get("text"), str):
        return Part("reasoning" if part.get("thought") else "text", part["text"])
    return Part("content", value=part)
