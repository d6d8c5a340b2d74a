"""Agent frameworks on durably, unmodified: each loses its worker in the middle of three tools that run at
once, goes on in another process, and is shown as it was.

Not in `make test`, since each is an installation of its own and takes seconds to import: `make frameworks`.
What is read from the histories that they made stands in `test_recorded.py`.
"""

import asyncio
import html
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from durably import Server
from tests.agents.endpoint import MODEL, scripted
from tests.frameworks.story import (
    ANSWER,
    CALLS,
    FRAMEWORKS,
    HELD,
    QUESTION,
    Workflow,
    result_of,
    through_kill_9,
)


@pytest.mark.frameworks
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FRAMEWORKS)
async def test_it_goes_on_after_kill_9_and_is_shown_as_it_was(
    name: str, server: Server, client: Client, tmp_path: Path
) -> None:
    run, answer, served = await through_kill_9(name, client, server.address, tmp_path)
    assert answer == ANSWER

    # No reply of the model was asked for twice, and no tool but the one that was cut off.
    assert [each.asked for each in served.served] == [*scripted.TRIP, ()]
    once = {"weather/Bergen": 1, "sights/Oslo": 1, "sights/Bergen": 1}
    assert Counter(served.looked_up) == {HELD: 2, **once}

    await the_page_shows(server, run, served)
    await sql_says(server, name, served)


# --- What is shown of it ---------------------------------------------------------------------------


async def the_page_shows(server: Server, run: Workflow, served: Any) -> None:
    place = f"/ui/default/workflows/{run.id}/{run.result_run_id}/agent"
    async with httpx.AsyncClient(base_url=f"http://{server.address}", timeout=60) as http:
        page = (await http.get(place)).raise_for_status().text
    facts = dict(re.findall(r"<dt>([^<]+)</dt><dd>([\d,]+)", page))
    assert {key: int(facts[key].replace(",", "")) for key in SUMS} == {
        "Model calls": len(served.served),
        "Tool calls": len(CALLS),
        "Tokens in": sum(each.input_tokens for each in served.served),
        "Tokens out": sum(each.output_tokens for each in served.served),
        "Failed attempts": 1,
    }
    turns = page.split('<li class="turn ')[1:]
    assert [turn_of(turn) for turn in turns] == [
        Shown(
            MODEL,
            f"{each.input_tokens} → {each.output_tokens} tokens",
            [(ask.tool, ask.arguments, result_of(ask)) for ask in each.asked],
            "" if each.asked else ANSWER,
        )
        for each in served.served
    ]
    assert turns[0].count(QUESTION) == 1
    assert QUESTION not in "".join(turns[1:])


SUMS = ("Model calls", "Tool calls", "Tokens in", "Tokens out", "Failed attempts")


@dataclass
class Shown:
    """A turn: tools with arguments and results in the order of the page, and what the model said."""

    model: str
    tokens: str
    tools: list[tuple[str, Any, str]]
    text: str


def turn_of(markup: str) -> Shown:
    head, _, tools = markup.partition('<ul class="tools">')
    said = re.search(r'<pre class="reply">(.*?)</pre>', head, re.DOTALL)
    model = re.findall(r"</span> <b>(.*?)</b>", head)
    tokens = re.findall(r'<span class="tokens">(.*?tokens)', head)
    return Shown(
        html.unescape("".join(model)),
        "".join(tokens),
        [tool_of(each) for each in tools.split("<li")[1:]],
        html.unescape(said[1]) if said else "",
    )


def tool_of(markup: str) -> tuple[str, Any, str]:
    name, arguments = re.findall(r"<b>(.*?)</b> <code>(.*?)</code>", markup)[0]
    results = re.findall(r"<pre>(.*?)</pre>", markup, re.DOTALL)
    return name, json.loads(html.unescape(arguments)), html.unescape("".join(results))


async def sql_says(server: Server, name: str, served: Any) -> None:
    statement = (
        "SELECT (SELECT list(m ORDER BY m.scheduled_event_id) FROM"
        " (SELECT scheduled_event_id, framework, model, input_tokens, output_tokens, cache_read_tokens,"
        " tools_asked FROM model_calls) m) AS models,"
        " (SELECT list(t ORDER BY t.scheduled_event_id) FROM"
        " (SELECT scheduled_event_id, framework, tool FROM tool_calls) t) AS tools"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "durably.cli", "query", statement),
        *("--address", server.address, "--format", "jsonl"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    found = json.loads(out)
    framework = name.replace("-", "_")
    for row in (*found["models"], *found["tools"]):
        del row["scheduled_event_id"]
        assert row.pop("framework") == framework
    assert found["models"] == [
        {
            "model": MODEL,
            "input_tokens": each.input_tokens,
            "output_tokens": each.output_tokens,
            "cache_read_tokens": each.cached_tokens,
            "tools_asked": len(each.asked),
        }
        for each in served.served
    ]
    assert [row["tool"] for row in found["tools"]] == [ask.tool for ask in CALLS]
