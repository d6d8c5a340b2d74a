"""A small real model behind an OpenAI-compatible endpoint: `python -m durably.demo.model PORT LOG`.

The model's chat template knows no tools. So the conversation becomes a plain text in which one finished
example stands before the present one; the model continues it, and its decoding is held to a JSON
schema: first the name of a tool, then that tool's arguments. A tool that was called often enough is
not offered again, so a run ends.
"""

import asyncio
import json
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

EXAMPLE = """Question: How are timeouts set for a request?
Call: list_documents {}
Result: 120 documents
Call: search {"query": "timeout request"}
Result: [1] http/README.md:14 Timeouts are given in seconds. [2] http/guide.md:80 Retries
Call: note_finding {"passage": 1}
Result: noted http/README.md:14
Call: search {"query": "default timeout seconds"}
Result: [1] http/guide.md:33 The default timeout is five seconds. [2] http/api.md:9 Client
Call: note_finding {"passage": 1}
Result: noted http/guide.md:33
Call: publish_report {"title": "How timeouts are set"}
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
        arguments = self._complete(f"{text}Call: {name} ", _bounded(schema), 80)
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
    return 1 if name in ("list_documents", "publish_report") else CALLS_OF_ONE_TOOL_MAX


def _makes_sense(name: str, calls: list[str]) -> bool:
    """A passage can be read or noted once there was a search; a report needs a finding."""
    if name in ("read_section", "note_finding"):
        return "search" in calls
    return name != "publish_report" or "note_finding" in calls


def _bounded(schema: dict[str, Any]) -> dict[str, Any]:
    """Short strings: a small model does not know when to stop."""
    properties = {
        key: {**value, "maxLength": 60} if value.get("type") == "string" else value
        for key, value in schema.get("properties", {}).items()
    }
    return {"type": "object", "properties": properties, "required": list(properties)}


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


def application(answer: Any, log: Path) -> Starlette:
    """An endpoint; `answer(body)` gives (message, tokens used). Every call is a line in `log`."""
    turn = asyncio.Lock()

    async def chat(request: Request) -> Response:
        body = await request.json()
        async with turn:
            message, used = await asyncio.to_thread(answer, body)
        with log.open("a") as lines:
            lines.write(json.dumps({"messages": len(body["messages"]), **used}) + "\n")
        return JSONResponse(completion(message, body["model"], used))

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


def main(port: int, log: Path) -> None:
    from durably.demo import weights

    adapter = Adapter(SmallModel(weights.path()))

    def answer(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
        message = adapter.answer(body)
        return message, dict(adapter.used)

    config = h2corn.Config(bind=(f"127.0.0.1:{port}",), access_log=False, lifespan="off")
    server = h2corn.Server(application(answer, log), config)  # type: ignore[arg-type]
    asyncio.run(server.serve())


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
