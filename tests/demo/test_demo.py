"""`durably demo` as a person runs it: real processes, real kills, and a model that speaks HTTP.

The endpoint here plays a model whose answers are written down beforehand, so that what the demo says
of itself (calls, repeats, tokens, citations) can be checked against what the endpoint saw.
"""

import asyncio
import json
import os
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h2corn
import pytest

from durably.demo import model
from tests.conftest import eventually
from tests.processes import free_port

TOKENS = {"prompt_tokens": 100, "completion_tokens": 10}
SCRIPT: list[tuple[str, dict[str, Any]]] = [
    ("list_documents", {}),
    ("search", {"query": "durable history"}),
    ("note_finding", {"passage": 1}),
    ("read_section", {"passage": 1}),
    ("search", {"query": "worker killed"}),
    ("note_finding", {"passage": 1}),
    ("publish_report", {"title": "What survives a kill"}),
]
# A document of a line or two is not worth reading, to the demo.
FILLER = "\n" + "x\n" * 100


def tool_calls(messages: list[dict[str, Any]]) -> int:
    return sum(len(message.get("tool_calls") or ()) for message in messages)


class ScriptedModel:
    """Answers with the next line of the script, however often it is asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def answer(self, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
        done = tool_calls(body["messages"])
        self.asked.append(done)
        if done >= len(SCRIPT):
            return {"role": "assistant", "content": "The report is published."}, TOKENS
        name, arguments = SCRIPT[done]
        function = {"name": name, "arguments": json.dumps(arguments)}
        call = {"id": f"call_{done}", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}, TOKENS


@asynccontextmanager
async def endpoint(scripted: ScriptedModel) -> AsyncIterator[str]:
    port = free_port()
    config = h2corn.Config(bind=(f"127.0.0.1:{port}",), access_log=False, lifespan="off")
    server = h2corn.Server(model.application(scripted.answer), config)
    serving = asyncio.create_task(server.serve())

    async def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    await eventually(listens)
    yield f"http://127.0.0.1:{port}/v1"
    server.shutdown()
    await serving


def documents(folder: Path) -> Path:
    """A few pages of which the script's searches find something."""
    folder.mkdir()
    (folder / "history.md").write_text(
        "# History\n\nEach step is kept in a durable history before anyone hears that it is done.\n"
        + FILLER
    )
    (folder / "workers.txt").write_text(
        "Workers\n\nA worker that is killed loses nothing that was recorded:\nanother goes on.\n"
        + FILLER
    )
    return folder


async def demo(*arguments: str, folder: Path, **environment: str) -> tuple[int, str]:
    """Exit code and output of `durably demo`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "durably.cli",
        "demo",
        *arguments,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder), "COLUMNS": "160", **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


def figure(output: str, row: str) -> str:
    """What the summary says in one of its rows."""
    found = re.search(rf"{re.escape(row)}\W+(.+?)\s*[│|]", output)
    assert found, f"no row {row!r} in:\n{output}"
    return found[1]


@pytest.mark.parametrize("kill", [True, False])
async def test_the_agent_publishes_a_true_report_and_repeats_nothing(
    tmp_path: Path, kill: bool
) -> None:
    scripted = ScriptedModel()
    docs = documents(tmp_path / "docs")
    arguments = ["--docs", str(docs), "--question", "What survives a kill?"]
    async with endpoint(scripted) as url:
        code, output = await demo(
            *arguments,
            *([] if kill else ["--no-kill"]),
            folder=tmp_path,
            OPENAI_BASE_URL=url,
            OPENAI_API_KEY="none",
        )
    assert code == 0, output
    assert "What survives a kill" in output
    assert "Each step is kept in a durable history" in output
    assert figure(output, "killed with SIGKILL") == ("worker, server" if kill else "nothing")
    assert output.count("SIGKILL") == (3 if kill else 1)
    assert figure(output, "completed steps that ran again") == "0"
    assert figure(output, "quotations found at their file and line") == "2 of 2"
    models = len(SCRIPT) + 1
    steps = models + len(SCRIPT)
    assert figure(output, "steps in history") == f"{steps}, of which {models} model calls"
    # A call in flight at a kill is made again; one whose answer is in history never is.
    assert set(scripted.asked) == set(range(models))
    assert len(scripted.asked) <= models + (2 if kill else 0)
    made = int(figure(output, "model calls made"))
    assert models <= made <= models + (2 if kill else 0)
    assert figure(output, "model calls repeated") == str(made - models)
    tokens = sum(TOKENS.values())
    assert models * tokens <= int(figure(output, "tokens spent")) <= made * tokens
    if not kill:
        assert figure(output, "steps in flight at a kill, tried again") == "0"
        assert scripted.asked == list(range(models))


async def test_a_folder_without_documents_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, output = await demo(
        "--docs", str(tmp_path / "empty"), folder=tmp_path, OPENAI_BASE_URL="http://127.0.0.1:9/v1"
    )
    assert code == 2
    assert "empty" in output
    assert "Traceback" not in output


@pytest.mark.model
async def test_the_small_model_does_the_same(tmp_path: Path) -> None:
    without = {"OPENAI_BASE_URL": "", "OPENAI_API_KEY": ""}
    code, output = await demo(folder=tmp_path, **without)
    assert code == 0, output
    assert figure(output, "completed steps that ran again") == "0"
