"""The swarm as its reader runs it, with every process killed once; and how it finds what was done twice."""

import asyncio
import importlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SWARM = EXAMPLES / "swarm"
LAUNCH = Path(__file__).parent / "launch.py"
MODEL_CALLS = {"planner": 6, "researcher": 6, "coder": 5, "reviewer": 6}
"""As the script has them, those of the two callers from outside included."""


@contextmanager
def of_the_example(name: str) -> Iterator[ModuleType]:
    sys.path.insert(0, str(SWARM))
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(str(SWARM))


def row(output: str, name: str) -> list[int]:
    """The figures of a row of the table."""
    found = re.search(rf"│ {name} +│(.+)│", output)
    assert found, output
    return [int(cell) for cell in found[1].split("│")]


@pytest.mark.timeout(400)
async def test_everybody_is_killed_and_nothing_is_repeated(tmp_path: Path) -> None:
    with of_the_example("scripted_model") as scripted, scripted.serving() as served:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(LAUNCH),
            str(SWARM / "run.py"),
            *("--kill", "6", "--seed", "1"),
            env={
                **os.environ,
                "OPENAI_BASE_URL": served.url,
                "TMPDIR": str(tmp_path),
                "COLUMNS": "120",
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
    output = said.decode()
    assert process.returncode == 0, output
    killed = set(re.findall(r"SIGKILL +(\w+) is dead", output))
    assert killed == {"server", "planning", "research", "code", "review", "outside"}
    assert "kills: 6, repeated model calls and tools: 0" in output
    assert "operations between agents: 5, each ended once" in output
    assert "There is a function for durations, tested and reviewed." in output
    redone = 0
    for name, agent in zip(("planning", "research", "code", "review"), MODEL_CALLS, strict=True):
        runs, model, tools, _, kills, again, repeated = row(output, name)
        assert (model, kills, repeated) == (MODEL_CALLS[agent], 1, 0)
        assert (runs, tools) == {
            "planner": (1, 0), "researcher": (2, 5), "coder": (2, 3), "reviewer": (3, 3),
        }[agent]  # fmt: skip
        assert model <= served.agents.count(agent) <= model + again
        redone += again
    assert sum(MODEL_CALLS.values()) <= len(served.agents) <= sum(MODEL_CALLS.values()) + redone
    assert "style.md:5: - A function has type hints" in output
    assert "My test fails, among others for the text" in output


def test_what_is_done_again_is_told_from_what_is_repeated() -> None:
    with of_the_example("evidence") as evidence:

        def line(activity_id: str, attempt: int, event: str = "began") -> object:
            return evidence.Line("code", "run", activity_id, attempt, event, "model", "")

        runs = evidence.Runs(ended={("run", "1"): 1, ("run", "2"): 2})
        once = [
            line("1", 1),
            line("1", 1, "done"),
            line("2", 1),
            line("2", 2),
            line("2", 2, "done"),
        ]
        work = evidence.weigh(once, runs)
        assert (work.model_calls, work.made_again, work.repeated) == (2, 1, 0)
        late = evidence.weigh([*once, line("1", 2)], runs)
        assert (late.made_again, late.repeated) == (1, 1)
        twice = evidence.weigh([*once, line("2", 2)], runs)
        assert (twice.made_again, twice.repeated) == (1, 1)
