"""A small real model behind an OpenAI-compatible endpoint: `python -m durably.demo.model PORT`.

The model's chat template knows no tools. So the conversation becomes a plain text in which one finished
example stands before the present one; the model continues it, and its decoding is held to a JSON
schema: first the name of a tool, then that tool's arguments. A tool that was called often enough is
not offered again, so a run ends.
"""

import asyncio
import json
import re
import sys
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import h2corn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

CALLS_OF_ONE_TOOL_MAX = 2
RESULT_CHARS = 300
WORDS_MIN = 2
COMMON_WORDS = frozenset(
    [
        "does",
        "with",
        "from",
        "that",
        "this",
        "what",
        "when",
        "which",
        "where",
        "there",
        "their",
        "they",
        "them",
        "have",
        "will",
        "would",
        "should",
        "could",
        "been",
        "into",
        "over",
        "than",
        "then",
        "some",
        "such",
        "about",
        "documents",
        "among",
        "metadata",
        "noted",
        "info",
        "dist",
    ]
)

EXAMPLE = """Question: Which image formats can the library read?
Call: list_documents {}
Result: 120 documents
Call: search {"query": "image formats library read"}
Result: [1] img/README.md:14 The library reads PNG and JPEG. [2] img/guide.md:80 Colours
Call: note_finding {"passage": 1}
Result: noted img/README.md:14
Call: search {"query": "read image format example"}
Result: [1] img/api.md:9 Client [2] img/guide.md:33 To read a TIFF image, open it first.
Call: note_finding {"passage": 2}
Result: noted img/guide.md:33
Call: publish_report {"title": "Image formats that the library can read"}
Result: published

Question: How is a user logged in with a password?
Call: list_documents {}
Result: 80 documents
Call: search {"query": "user logged in password"}
Result: [1] auth/guide.md:20 A user logs in with a name and a password. [2] auth/api.md:7 Tokens
Call: note_finding {"passage": 1}
Result: noted auth/guide.md:20
Call: search {"query": "login password example"}
Result: [1] auth/api.md:7 Tokens [2] auth/README.md:51 Call login() with the password.
Call: note_finding {"passage": 2}
Result: noted auth/README.md:51
Call: publish_report {"title": "Logging a user in with a password"}
Result: published
"""


class SmallModel:
    """The weights, loaded once."""

    def __init__(self, weights: Path) -> None:
        import xllamacpp

        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(weights)
        parameters.n_ctx = 4096
        parameters.n_parallel = 1
        parameters.warmup = False
        parameters.verbosity = 0
        parameters.cpuparams.n_threads = 2
        self._server = xllamacpp.Server(parameters)

    def complete(self, prompt: str, schema: dict[str, Any] | None, tokens: int) -> dict[str, Any]:
        body: dict[str, Any] = {"prompt": prompt, "n_predict": tokens, "temperature": 0}
        if schema is not None:
            body["json_schema"] = schema
        answer: dict[str, Any] = self._server.handle_completions(body)
        return answer


class Adapter:
    """Chat completions with tools, made of plain completions."""

    def __init__(self, model: SmallModel) -> None:
        self._model = model
        self.used = Counter[str]()

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        self.used = Counter()
        tools = {t["function"]["name"]: t["function"] for t in body.get("tools", [])}
        calls = _calls(body["messages"])
        text = EXAMPLE + "\n" + _transcript(body["messages"])
        offered = [
            name
            for name in tools
            if sum(call == name for call in calls) < _limit(name) and _makes_sense(name, calls)
        ]
        if not offered or "publish_report" in calls:
            return self._say(text)
        name = json.loads(self._complete(text + "Call: ", {"enum": offered}, 16, quoted=True))
        schema = tools[name]["parameters"]
        arguments = self._complete(f"{text}Call: {name} ", _bounded(schema, body["messages"]), 80)
        return _tool_call(name, arguments)

    def _say(self, text: str) -> dict[str, Any]:
        prompt = f"{text}In one sentence, the report says that"
        said = self._complete(prompt, None, 40).strip().split("\n")[0]
        return {"role": "assistant", "content": f"The report says that {said}"}

    def _complete(
        self, prompt: str, schema: dict[str, Any] | None, tokens: int, quoted: bool = False
    ) -> str:
        answer = self._model.complete(prompt, schema, tokens)
        usage = answer["usage"]
        self.used["prompt_tokens"] += usage["prompt_tokens"]
        self.used["completion_tokens"] += usage["completion_tokens"]
        return str(answer["choices"][0]["text"])


def _limit(name: str) -> int:
    return (
        1 if name in ("list_documents", "read_section", "publish_report") else CALLS_OF_ONE_TOOL_MAX
    )


def _makes_sense(name: str, calls: list[str]) -> bool:
    """A passage can be read or noted once there was a search; a report needs a finding."""
    if name in ("read_section", "note_finding"):
        return "search" in calls
    return name != "publish_report" or "note_finding" in calls


def _bounded(schema: dict[str, Any], messages: list[dict[str, Any]]) -> dict[str, Any]:
    """What a tool's arguments may be: words of this conversation, and numbers, used once.

    A model of this size would otherwise repeat the example, or its own last call.
    """
    used = " ".join(_arguments(messages))
    asked = _words(messages)
    words = [word for word in asked if word not in used]
    if len(words) < WORDS_MIN or "title" in schema.get("properties", {}):
        words = asked
    any_word = f"({'|'.join(words or ['documentation', 'example'])})"
    numbers = [n for n in range(1, 6) if not re.search(rf'"passage":\s*{n}\b', used)] or [1]
    properties = {
        key: {"enum": numbers}
        if value.get("type") == "integer"
        else {"type": "string", "pattern": f"^{any_word}( {any_word}){{1,2}}$"}
        for key, value in schema.get("properties", {}).items()
    }
    return {"type": "object", "properties": properties, "required": list(properties)}


def _arguments(messages: list[dict[str, Any]]) -> list[str]:
    return [c["function"]["arguments"] for m in messages for c in m.get("tool_calls") or ()]


def _words(messages: list[dict[str, Any]]) -> list[str]:
    """The words of the question, each once."""
    texts = [_text(m) for m in messages if m["role"] == "user"]
    found = re.findall(r"[a-z]{4,}", " ".join(texts).lower())
    return [word for word in dict.fromkeys(found) if word not in COMMON_WORDS]


def _calls(messages: list[dict[str, Any]]) -> list[str]:
    return [call["function"]["name"] for m in messages for call in m.get("tool_calls") or ()]


def _transcript(messages: list[dict[str, Any]]) -> str:
    """The conversation in the form of the example."""
    lines: list[str] = []
    for message in messages:
        if message["role"] == "user":
            lines.append(f"Question: {_text(message)}")
        for call in message.get("tool_calls") or ():
            lines.append(f"Call: {call['function']['name']} {call['function']['arguments']}")
        if message["role"] == "tool":
            lines.append(f"Result: {_text(message)[:RESULT_CHARS]}".replace("\n", " "))
    return "\n".join(lines) + "\n"


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content)
    return str(content)


def _tool_call(name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    call = {"id": f"call_{uuid.uuid4().hex[:12]}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def completion(message: dict[str, Any], model: str, used: dict[str, int]) -> dict[str, Any]:
    """The body of a chat completion with one choice."""
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    usage = {key: used.get(key, 0) for key in ("prompt_tokens", "completion_tokens")}
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {**usage, "total_tokens": sum(usage.values())},
    }


def application(answer: Any) -> Starlette:
    """An endpoint; `answer(body)` gives (message, tokens used)."""
    turn = asyncio.Lock()

    async def chat(request: Request) -> Response:
        body = await request.json()
        async with turn:
            message, used = await asyncio.to_thread(answer, body)
        return JSONResponse(completion(message, body["model"], used))

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


def main(port: int) -> None:
    from durably.demo import weights

    adapter = Adapter(SmallModel(weights.path()))

    def answer(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
        message = adapter.answer(body)
        return message, dict(adapter.used)

    config = h2corn.Config(bind=(f"127.0.0.1:{port}",), access_log=False, lifespan="off")
    server = h2corn.Server(application(answer), config)
    asyncio.run(server.serve())


if __name__ == "__main__":
    main(int(sys.argv[1]))
