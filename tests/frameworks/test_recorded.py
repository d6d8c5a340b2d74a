"""What the console and SQL read from the histories of agents that lost their worker is what was served.

`make frameworks` runs the same agents, and `record.py` makes these histories again.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHistory

from durably.agents.calls import Tokens
from durably.agents.steps import steps
from durably.edge.console import agent
from durably.edge.console.agent_run import AgentRun, Said, Turn
from tests.agents.endpoint import MODEL
from tests.frameworks.story import ANSWER, CALLS, FRAMEWORKS, QUESTION, result_of
from tests.frameworks.workers import EXAMPLES, ROOT

HISTORIES = Path(__file__).parent / "histories"


def recorded(name: str) -> tuple[list[dict[str, Any]], list[HistoryEvent]]:
    found = json.loads((HISTORIES / f"{name.replace('-', '_')}.json").read_text())
    return found["served"], list(WorkflowHistory.from_json("any", found["history"]).events)


def read(events: list[HistoryEvent]) -> list[Turn]:
    run = AgentRun()
    run.add(events)
    return run.turns()


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_turns_are_the_replies_that_were_served(name: str) -> None:
    served, events = recorded(name)
    turns = read(events)
    assert [(turn.model, turn.tokens) for turn in turns] == [
        (MODEL, Tokens(each["input_tokens"], each["output_tokens"], each["cached_tokens"]))
        for each in served
    ]
    assert [turn.text for turn in turns] == ["", "", ANSWER]
    assert Said("user", QUESTION) in turns[0].new
    assert not [said for turn in turns[1:] for said in turn.new]
    assert all(turn.cost is not None for turn in turns)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_each_tool_stands_with_the_reply_that_asked_for_it(name: str) -> None:
    served, events = recorded(name)
    turns = read(events)
    for turn, each in zip(turns, served, strict=True):
        asked = [(ask["tool"], ask["arguments"]) for ask in each["asked"]]
        assert [(tool.name, json.loads(tool.arguments)) for tool in turn.tools] == asked
        assert [tool.id for tool in turn.tools] == [wanted.id for wanted in turn.wanted]
    results = [tool.result for turn in turns for tool in turn.tools]
    assert results == [result_of(ask) for ask in CALLS]


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_only_the_tool_that_was_cut_off_has_a_second_attempt(name: str) -> None:
    _, events = recorded(name)
    turns = read(events)
    tools = [tool for turn in turns for tool in turn.tools]
    assert [turn.step.attempt for turn in turns] == [1, 1, 1]
    assert [tool.step.attempt for tool in tools] == [2, 1, 1, 1]
    sums = agent.sums(turns, turns[0].step.scheduled_ns, turns[-1].step.ended_ns)
    assert (sums["calls"], sums["tools"], sums["failed_attempts"]) == (3, 4, 1)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_sql_has_the_same_calls(name: str) -> None:
    """Its tables have a row per call of a step, under the framework's name."""
    _, events = recorded(name)
    found = steps(events)
    assert {call.framework for step in found for call in step.calls} == {name.replace("-", "_")}
    assert len([call for step in found for call in step.model_calls]) == 3
    assert [call.name for step in found for call in step.tool_calls] == [ask.tool for ask in CALLS]


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_whatever_part_of_it_there_is_no_tool_is_shown_twice(name: str) -> None:
    """While it runs, the tools that are under way are told apart by the ids that the model gave them."""
    _, events = recorded(name)
    for length in range(len(events)):
        ids = [tool.id for turn in read(events[:length]) for tool in turn.tools]
        assert len(ids) == len(set(ids))


def test_every_example_is_listed_and_tested() -> None:
    names = sorted(path.name for path in EXAMPLES.glob("with_*.py"))
    assert names == sorted(f"with_{name.replace('-', '_')}.py" for name in FRAMEWORKS)
    readme = (EXAMPLES / "README.md").read_text()
    table = (ROOT / "docs/frameworks.md").read_text()
    for name in names:
        assert f"({name})" in readme
        assert f"(../examples/frameworks/{name})" in table


def test_the_versions_that_the_docs_name_are_those_that_are_locked() -> None:
    lock = (EXAMPLES / "uv.lock").read_text()
    locked = dict(re.findall(r'^name = "([^"]+)"\nversion = "([^"]+)"', lock, re.MULTILINE))
    table = (ROOT / "docs/frameworks.md").read_text()
    named = re.findall(r"`([a-z-]+) ([0-9][0-9.]*)`", table)
    assert len(named) >= len(FRAMEWORKS)
    assert [(name, locked.get(name)) for name, _ in named] == named
