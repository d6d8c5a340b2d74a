"""A scripted model behind OpenAI's HTTP API: chat completions, streamed if that is asked for, and
responses.

It asks for the tool `get_weather` first, and answers when it has the tool's result. What it has served
is written down: the truth for everything that is said of tokens and calls.
"""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "gpt-4.1-mini"
ANSWER = "It rains in Oslo."
ARGUMENTS = {"city": "Oslo"}


@dataclass
class Served:
    """One reply."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int
    asks_for_tool: bool


@dataclass
class Endpoint:
    url: str = ""
    served: list[Served] = field(default_factory=list)
    refusals: int = 0
    """So many of the next requests are refused with 500."""


@contextlib.contextmanager
def endpoint() -> Iterator[Endpoint]:
    found = Endpoint()
    handler = type("Handler", (_Handler,), {"endpoint": found})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    found.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    endpoint: Endpoint

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.endpoint.refusals:
            self.endpoint.refusals -= 1
            return self._send(500, {"error": {"message": "overloaded"}})
        entries = request.get("messages") or request.get("input") or []
        seen = {
            entry.get("role") or entry.get("type") for entry in entries if isinstance(entry, dict)
        }
        served = Served(100 + 10 * len(entries), 20 + len(entries), 64, not seen & TOOL_RESULTS)
        self.endpoint.served.append(served)
        number = len(self.endpoint.served)
        if self.path.endswith("/responses"):
            return self._send(200, _response(served, number))
        if request.get("stream"):
            chunks = [f"data: {json.dumps(each)}\n\n" for each in _chunks(served, number)]
            return self._write(200, "text/event-stream", "".join(chunks) + "data: [DONE]\n\n")
        return self._send(200, _completion(served, number))

    def _send(self, status: int, body: dict[str, Any]) -> None:
        self._write(status, "application/json", json.dumps(body))

    def _write(self, status: int, kind: str, body: str) -> None:
        data = body.encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


TOOL_RESULTS = {"tool", "function_call_output"}


def _completion(served: Served, number: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": ANSWER}
    if served.asks_for_tool:
        function = {"name": "get_weather", "arguments": json.dumps(ARGUMENTS)}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    reason = "tool_calls" if served.asks_for_tool else "stop"
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1_750_000_000,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {
            "prompt_tokens": served.input_tokens,
            "completion_tokens": served.output_tokens,
            "total_tokens": served.input_tokens + served.output_tokens,
            "prompt_tokens_details": {"cached_tokens": served.cached_tokens},
        },
    }


def _chunks(served: Served, number: int) -> list[dict[str, Any]]:
    """The same completion in pieces."""
    whole = _completion(served, number)
    (choice,) = whole.pop("choices")
    usage = whole.pop("usage")
    whole["object"] = "chat.completion.chunk"
    delta = choice["message"]
    for index, call in enumerate(delta.get("tool_calls", ())):
        call["index"] = index
    begun = {"index": 0, "delta": delta, "finish_reason": None}
    ended = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
    return [
        {**whole, "choices": [begun]},
        {**whole, "choices": [ended]},
        {**whole, "choices": [], "usage": usage},
    ]


def _response(served: Served, number: int) -> dict[str, Any]:
    content = [{"type": "output_text", "text": ANSWER, "annotations": []}]
    item: dict[str, Any] = {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": content,
    }
    if served.asks_for_tool:
        item = {
            "id": f"fc_{number}",
            "type": "function_call",
            "call_id": f"call_{number}",
            "name": "get_weather",
            "arguments": json.dumps(ARGUMENTS),
            "status": "completed",
        }
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": 1_750_000_000,
        "model": MODEL,
        "status": "completed",
        "output": [item],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": served.input_tokens,
            "output_tokens": served.output_tokens,
            "total_tokens": served.input_tokens + served.output_tokens,
            "input_tokens_details": {"cached_tokens": served.cached_tokens},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }
