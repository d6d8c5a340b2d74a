"""Each example runs as its reader would run it: a process of its own, against a real server."""

import asyncio
import sys
from pathlib import Path

import pytest

from durably import Server

EXAMPLES = Path(__file__).parents[2] / "examples"
LAUNCH = Path(__file__).parent / "launch.py"


async def run(name: str, *arguments: str, ends: int = 0) -> tuple[str, str]:
    """What it printed, and what went wrong on the way, of an example that ends with this code."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(LAUNCH),
        str(EXAMPLES / name),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == ends, errors.decode()
    return output.decode(), errors.decode()


async def shows(server: Server, name: str, *arguments: str) -> str:
    output, _ = await run(name, "--address", server.address, *arguments)
    return output


def test_every_example_is_listed_and_tested() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")} - {"connect.py"}
    listed = (EXAMPLES / "README.md").read_text()
    tested = Path(__file__).read_text()
    assert names
    for name in names:
        assert f"[{name}]({name})" in listed
        assert f'"{name}"' in tested


async def test_hello_activity(durably_server: Server) -> None:
    output = await shows(durably_server, "hello_activity.py")
    assert "attempt 3 to greet World" in output
    assert output.endswith("Hello, World!\n")


async def test_parallel_tools(durably_server: Server) -> None:
    lines = (await shows(durably_server, "parallel_tools.py")).splitlines()
    # The worker's own warnings come on stdout too: its slow tool answers after it was given up.
    assert [line for line in lines if "temporalio_sdk_core" not in line] == [
        "search: 3 results for 'durable execution'",
        "read: 5 pages of paper.pdf",
        "calculate: 42",
        "browse failed: activity StartToClose timeout",
    ]


@pytest.mark.parametrize(
    ("say", "result"),
    [
        ("approve", "published: What we found"),
        ("reject", "Ada rejected it"),
        ("nothing", "nobody answered: kept as a draft"),
    ],
)
async def test_human_approval(durably_server: Server, say: str, result: str) -> None:
    patience = "0.3" if say == "nothing" else "60"
    output = await shows(durably_server, "human_approval.py", "--say", say, "--patience", patience)
    assert output.splitlines()[-1] == f"result:   {result}"
    if say != "nothing":
        assert "the answer is approve or reject" in output


async def test_long_sleeper(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/s.db"
    async with Server(store=store, port=0) as server:
        output = await shows(server, "long_sleeper.py", "--days", "30", "--id", "z")
        assert "z sleeps for 30 days" in output
        output = await shows(server, "long_sleeper.py", "--seconds", "1", "--wait")
        assert output == "slept 1 s\n"


async def test_crash_test() -> None:
    output, _ = await run("crash_test.py", "--workflows", "8", "--kills", "2")
    assert "8 of 8 ended with the right result after 2 kills" in output


async def test_without_a_server_an_example_says_what_to_run() -> None:
    _, errors = await run("hello_activity.py", "--address", "127.0.0.1:9", ends=1)
    assert "run `durably serve`" in errors
