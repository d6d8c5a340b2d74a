"""What an agent needs from outside, on this machine and without a key: a model that follows a script,
behind OpenAI's HTTP API, and a service that knows two cities.

    python endpoint.py --pause 20

The model speaks chat completions, streamed if that is asked for, and responses. It goes by what is in the
conversation, not by how often it is asked: a request that is repeated gets the same reply. What was served
is written down, and printed: after a worker was killed, it shows what was asked for a second time.
"""

import argparse
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

MODEL = "gpt-4.1-mini"
CACHED_TOKENS = 64

Json = dict[str, Any]


@dataclass(frozen=True)
class Ask:
    """A call of a tool."""

    tool: str
    arguments: Json


TRIP = (
    (
        Ask("get_weather", {"city": "Oslo"}),
        Ask("get_weather", {"city": "Bergen"}),
        Ask("find_sights", {"city": "Oslo"}),
    ),
    (Ask("find_sights", {"city": "Bergen"}),),
)
"""Three tools at once, then one more; then the answer."""

CITIES = {
    "weather": {"Oslo": "snow, 2 below zero", "Bergen": "rain, 6 degrees"},
    "sights": {"Oslo": "the opera house", "Bergen": "the old harbour"},
}


@dataclass
class Served:
    """One reply of the model."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int
    asked: tuple[Ask, ...] = ()


@dataclass
class Endpoint:
    script: tuple[tuple[Ask, ...], ...] = TRIP
    answer: str = ""
    """The model's last words; empty: all that the tools have said, in the order of the script."""
    url: str = ""
    """Where the model is, as OPENAI_BASE_URL wants it."""
    cities_url: str = ""
    served: list[Served] = field(default_factory=list)
    looked_up: list[str] = field(default_factory=list)
    """What the service of cities was asked for, when it was asked: `weather/Oslo`."""
    refusals: int = 0
    """So many of the next requests to the model are refused with 500."""
    before_look_up: Callable[[str], None] = lambda _: None
    tell: Callable[[str], None] = lambda _: None

    def reply(self, results: dict[str, str]) -> tuple[tuple[Ask, ...], str]:
        """The tools that are asked for next, or the answer, given results by the ids of their calls."""
        done = 0
        for asks in self.script:
            if len(results) < done + len(asks):
                return asks, ""
            done += len(asks)
        return (), self.answer or "; ".join(results[call_id(n)] for n in range(done))

    def first_call(self, asks: tuple[Ask, ...]) -> int:
        """How many calls the script has before these."""
        before = self.script[: self.script.index(asks)] if asks else self.script
        return sum(len(each) for each in before)


def call_id(number: int) -> str:
    return f"call_{number + 1}"


@contextlib.contextmanager
def endpoint(found: Endpoint | None = None, port: int = 0) -> Iterator[Endpoint]:
    found = found or Endpoint()
    handler = type("Handler", (_Handler,), {"endpoint": found})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    found.url = f"http://127.0.0.1:{server.server_port}/v1"
    found.cities_url = f"http://127.0.0.1:{server.server_port}/cities"
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

    def do_GET(self) -> None:
        """`/cities/weather/Oslo`"""
        wanted = unquote(self.path.removeprefix("/cities/"))
        what, _, city = wanted.partition("/")
        known = CITIES.get(what, {}).get(city)
        if known is None:
            return self._send(404, {"error": f"nothing is known of {wanted}"})
        self.endpoint.looked_up.append(wanted)
        self.endpoint.tell(f"tool   {wanted}")
        self.endpoint.before_look_up(wanted)
        return self._send(200, {what: known})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.endpoint.refusals:
            self.endpoint.refusals -= 1
            return self._send(500, {"error": {"message": "overloaded"}})
        entries = request.get("messages") or request.get("input") or []
        asks, answer = self.endpoint.reply(_results(entries))
        served = Served(100 + 10 * len(entries), 20 + len(entries), CACHED_TOKENS, asks)
        self.endpoint.served.append(served)
        self.endpoint.tell(f"model  {[f'{a.tool} {a.arguments}' for a in asks] or answer}")
        made = _Reply(served, answer, len(self.endpoint.served), self.endpoint.first_call(asks))
        if self.path.endswith("/responses"):
            return self._send(200, made.response())
        if request.get("stream"):
            chunks = [f"data: {json.dumps(each)}\n\n" for each in made.chunks()]
            return self._write(200, "text/event-stream", "".join(chunks) + "data: [DONE]\n\n")
        return self._send(200, made.completion())

    def _send(self, status: int, body: Json) -> None:
        self._write(status, "application/json", json.dumps(body))

    def _write(self, status: int, kind: str, body: str) -> None:
        data = body.encode()
        # Whoever asked may be dead.
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


def _results(entries: Any) -> dict[str, str]:
    """What tools have answered, by the ids of their calls."""
    found: dict[str, str] = {}
    for entry in entries if isinstance(entries, list) else ():
        if entry.get("role") == "tool":
            found[entry["tool_call_id"]] = _text(entry["content"])
        elif entry.get("type") == "function_call_output":
            found[entry["call_id"]] = _text(entry["output"])
    return found


def _text(content: Any) -> str:
    """The text of a tool's answer, which some frameworks wrap."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    try:
        wrapped = json.loads(content)
    except ValueError:
        return str(content)
    return str(wrapped["result"]) if isinstance(wrapped, dict) and "result" in wrapped else content


@dataclass
class _Reply:
    """One reply, in each of the forms in which it may be asked for."""

    served: Served
    answer: str
    number: int
    first_call: int

    def usage(self, first: str, second: str) -> Json:
        tokens = self.served
        return {
            f"{first}_tokens": tokens.input_tokens,
            f"{second}_tokens": tokens.output_tokens,
            "total_tokens": tokens.input_tokens + tokens.output_tokens,
            f"{first}_tokens_details": {"cached_tokens": tokens.cached_tokens},
            f"{second}_tokens_details": {"reasoning_tokens": 0},
        }

    def calls(self) -> list[tuple[str, str, str]]:
        """Id, tool and arguments of each call that it asks for."""
        return [
            (call_id(number), ask.tool, json.dumps(ask.arguments))
            for number, ask in enumerate(self.served.asked, start=self.first_call)
        ]

    def completion(self) -> Json:
        message: Json = {"role": "assistant", "content": self.answer or None}
        if self.served.asked:
            message["tool_calls"] = [
                {"id": each, "type": "function", "function": {"name": name, "arguments": given}}
                for each, name, given in self.calls()
            ]
        reason = "tool_calls" if self.served.asked else "stop"
        return {
            "id": f"chatcmpl-{self.number}",
            "object": "chat.completion",
            "created": 1_750_000_000,
            "model": MODEL,
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": self.usage("prompt", "completion"),
        }

    def chunks(self) -> list[Json]:
        """The same completion in pieces."""
        whole = self.completion()
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

    def response(self) -> Json:
        content = [{"type": "output_text", "text": self.answer, "annotations": []}]
        output: list[Json] = [
            {
                "id": f"msg_{self.number}",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": content,
            }
        ]
        if self.served.asked:
            output = [
                {
                    "id": f"fc_{each}",
                    "type": "function_call",
                    "call_id": each,
                    "name": name,
                    "arguments": given,
                    "status": "completed",
                }
                for each, name, given in self.calls()
            ]
        return {
            "id": f"resp_{self.number}",
            "object": "response",
            "created_at": 1_750_000_000,
            "model": MODEL,
            "status": "completed",
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": self.usage("input", "output"),
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=7299)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds that a city takes")
    options = parser.parse_args()
    found = Endpoint(tell=print, before_look_up=lambda _: time.sleep(options.pause))
    with endpoint(found, options.port):
        print(
            f"export OPENAI_BASE_URL={found.url} OPENAI_API_KEY=none CITIES_URL={found.cities_url}"
        )
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
