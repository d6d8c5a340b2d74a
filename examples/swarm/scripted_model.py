"""A model that follows a script, behind OpenAI's HTTP API: for those without a key, and for tests.

It plays all four agents for one task: which, it reads in their instructions; how far each is, in the messages that it
is sent. Nothing is remembered between requests, as with a real model. The code in it was written by a person, and
goes wrong where a model's might: the first attempt fails the coder's own test, the second the reviewer's.
"""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TASK = "Write a function `seconds(text)` that reads durations as our notes define them."
QUESTION = "How are durations written, and what does our style ask for?"
THINKING_S = 0.1
"""How long an answer takes, so that a kill finds some under way."""

_PARTS = """    found = re.findall(r"(\\d+)([dhms])", text)
    {check}
    return sum(int(number) * UNITS[unit] for number, unit in found)
"""
_HEAD = '''"""Durations as texts."""

import re

UNITS = {units}


def seconds(text: str) -> int:
    """The seconds of a duration such as `1h30m`."""
'''
_UNITS = '{"d": 86400, "h": 3600, "m": 60, "s": 1}'
_REFUSED = 'raise ValueError(f"{text!r} is no duration")'
_ANY_TEXT = _PARTS.format(check=f'if "".join(n + u for n, u in found) != text:\n        {_REFUSED}')
_RIGHT = _PARTS.format(
    check="units = [unit for _, unit in found]\n"
    '    whole = "".join(n + u for n, u in found) == text\n'
    "    if not text or not whole or units != sorted(set(units), key=list(UNITS).index):\n"
    f"        {_REFUSED}"
)
WITHOUT_DAYS = _HEAD.format(units='{"h": 3600, "m": 60, "s": 1}') + _ANY_TEXT
TAKES_NOTHING = _HEAD.format(units=_UNITS) + _ANY_TEXT
RIGHT = _HEAD.format(units=_UNITS) + _RIGHT
TEST = """import unittest

from solution import seconds


class Durations(unittest.TestCase):
    def test_units(self) -> None:
        self.assertEqual(seconds("1h30m"), 5400)
        self.assertEqual(seconds("2d"), 172800)

    def test_a_number_needs_its_unit(self) -> None:
        with self.assertRaises(ValueError):
            seconds("90")


if __name__ == "__main__":
    unittest.main()
"""
REVIEWERS_TEST = """import unittest

from solution import seconds


class Refusals(unittest.TestCase):
    def test_what_is_refused(self) -> None:
        for text in ("", "5", "-1h", "1h1h", "1s1h"):
            with self.subTest(text), self.assertRaises(ValueError):
                seconds(text)

    def test_a_day_and_a_second(self) -> None:
        self.assertEqual(seconds("1d1s"), 86401)
"""


@dataclass
class Talk:
    """What one agent was told, as its messages have it."""

    agent: str
    asked: str
    results: list[tuple[str, str]]
    """The tools it has called, and what came of each."""

    def results_of(self, tool: str) -> list[str]:
        return [text for name, text in self.results if name == tool]


Reply = list[tuple[str, dict[str, Any]]] | str
"""Calls of tools, or a text."""


def planner(talk: Talk) -> Reply:
    verdicts = [json.loads(text) for text in talk.results_of("review")]
    written = len(talk.results_of("write_code"))
    if not talk.results_of("research"):
        return [("research", {"question": QUESTION})]
    if not written:
        return [("write_code", {"instructions": talk.asked})]
    if len(verdicts) < written:
        return [("review", {})]
    if not verdicts[-1]["approved"]:
        return [("write_code", {"instructions": f"{talk.asked} {verdicts[-1]['remarks']}"})]
    return "There is a function for durations, tested and reviewed."


def researcher(talk: Talk) -> Reply:
    if not talk.results:
        return [("list_notes", {})]
    names = json.loads(talk.results[0][1])
    read = talk.results_of("read_note")
    wanted = [name for name in names if name.removesuffix(".md") in talk.asked.lower()]
    if not read and wanted:
        return [("read_note", {"name": name}) for name in wanted]
    facts = [line for note in read for line in note.splitlines() if ": - " in line]
    return "\n".join(facts) or "our notes say nothing of it"


def coder(talk: Talk) -> Reply:
    order = json.loads(talk.asked)
    tries = [RIGHT] if order["before"] else [WITHOUT_DAYS, TAKES_NOTHING]
    outputs = talk.results_of("run_test")
    if outputs and outputs[-1].endswith("OK"):
        return [("final_result", {"code": tries[len(outputs) - 1], "test": TEST})]
    return [("run_test", {"code": tries[len(outputs)], "test": TEST})]


def reviewer(talk: Talk) -> Reply:
    outputs = talk.results_of("run_test")
    if not outputs:
        code = json.loads(talk.asked)["before"]
        return [("run_test", {"code": code, "test": REVIEWERS_TEST})]
    if outputs[-1].endswith("OK"):
        return [("final_result", {"approved": True, "remarks": "as the notes say"})]
    failed = ", ".join(re.findall(r"\[(.*?)\] \.\.\. FAIL|\(<subtest>\) \[(.*?)\]", outputs[-1])[0])
    remarks = f"My test fails, among others for the text {failed.strip(', ')!r}."
    return [("final_result", {"approved": False, "remarks": remarks})]


AGENTS = {each.__name__: each for each in (planner, researcher, coder, reviewer)}


def talk_of(messages: list[dict[str, Any]]) -> Talk:
    names: dict[str, str] = {}
    talk = Talk("", "", [])
    for message in messages:
        text = _text(message)
        role = message["role"]
        found = re.search(r"You are the (\w+)", text)
        if role in ("system", "developer") and found:
            talk.agent = found[1]
        elif role == "user" and not talk.asked:
            talk.asked = text
        elif role == "tool":
            talk.results.append((names[message["tool_call_id"]], text))
        for call in message.get("tool_calls") or ():
            names[call["id"]] = call["function"]["name"]
    return talk


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else " ".join(part["text"] for part in content)


@dataclass
class Served:
    """The endpoint, and whom it has answered."""

    url: str = ""
    agents: list[str] = field(default_factory=list)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        messages = body["messages"]
        talk = talk_of(messages)
        self.agents.append(talk.agent)
        reply = AGENTS[talk.agent](talk)
        said: dict[str, Any] = {"role": "assistant", "content": None}
        if isinstance(reply, str):
            said["content"] = reply
        else:
            said["tool_calls"] = [
                {
                    "id": f"call_{len(messages)}_{number}",
                    "type": "function",
                    "function": {"name": name, "arguments": json.dumps(arguments)},
                }
                for number, (name, arguments) in enumerate(reply)
            ]
        tokens = {"prompt_tokens": len(json.dumps(messages)) // 4, "completion_tokens": 20}
        finish = "stop" if said["content"] else "tool_calls"
        return {
            "id": f"chatcmpl-{len(self.agents)}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": [{"index": 0, "message": said, "finish_reason": finish}],
            "usage": {**tokens, "total_tokens": sum(tokens.values())},
        }


@contextmanager
def serving() -> Iterator[Served]:
    """On a port of its own, in a thread of this process."""
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            time.sleep(THINKING_S)
            answer = json.dumps(served.answer(body)).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:
                pass  # Who asked was killed.

        def log_message(self, *said: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
