"""What was done, from two sources that know nothing of each other: the workers' logs, and the histories.

A step that was cut off by a kill is done again. A step whose result is in history must not be.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.client import Client, WorkflowHistory


@dataclass(frozen=True)
class Line:
    """One attempt of a step began, or is done."""

    agent: str
    run_id: str
    activity_id: str
    attempt: int
    event: str
    kind: str
    what: str
    tokens: int = 0

    @property
    def step(self) -> tuple[str, str]:
        return self.run_id, self.activity_id


@dataclass
class Runs:
    """The histories of one agent's workflows."""

    workflows: int = 0
    open: int = 0
    ended: dict[tuple[str, str], int] = field(default_factory=dict)
    """The steps that have a result, and the attempt which brought it."""
    operations: int = 0
    operations_ended: int = 0


@dataclass(frozen=True)
class Work:
    """What one agent did. `made_again` was cut off; `repeated` had a result already: there must be none."""

    model_calls: int
    tools: int
    tokens: int
    made_again: int
    repeated: int


def read_lines(folder: Path, agent: str) -> list[Line]:
    """A line that is being written is left for the next time."""
    log = folder / f"{agent}.jsonl"
    if not log.exists():
        return []
    whole = [row for row in log.read_text().splitlines(keepends=True) if row.endswith("\n")]
    found = []
    for row in whole:
        try:
            found.append(Line(agent=agent, **json.loads(row)))
        except ValueError:
            continue  # Its writer was killed in the middle of it.
    return found


async def read_runs(client: Client) -> Runs:
    """All workflows of a namespace."""
    found = Runs()
    async for each in client.list_workflows():
        handle = client.get_workflow_handle(each.id, run_id=each.run_id)
        found.workflows += 1
        found.open += each.close_time is None
        _read(await handle.fetch_history(), each.run_id, found)
    return found


def _read(history: WorkflowHistory, run_id: str, found: Runs) -> None:
    activities: dict[int, str] = {}
    attempts: dict[int, int] = {}
    for event in history.events:
        match event.event_type:
            case event_types.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
                scheduled = event.activity_task_scheduled_event_attributes
                activities[event.event_id] = scheduled.activity_id
            case event_types.EVENT_TYPE_ACTIVITY_TASK_STARTED:
                started = event.activity_task_started_event_attributes
                attempts[started.scheduled_event_id] = started.attempt
            case event_types.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
                step = event.activity_task_completed_event_attributes.scheduled_event_id
                found.ended[run_id, activities[step]] = attempts[step]
            case event_types.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED:
                found.operations += 1
            case event_types.EVENT_TYPE_NEXUS_OPERATION_COMPLETED:
                found.operations_ended += 1


def weigh(lines: Iterable[Line], runs: Runs) -> Work:
    lines = list(lines)
    began = Counter((line.step, line.attempt) for line in lines if line.event == "began")
    kinds = {line.step: line.kind for line in lines}
    repeated = sum(
        count if attempt > runs.ended.get(step, attempt) else count - 1
        for (step, attempt), count in began.items()
    )
    return Work(
        model_calls=sum(kinds[step] == "model" for step in runs.ended),
        tools=sum(kinds[step] == "tool" for step in runs.ended),
        tokens=sum(line.tokens for line in lines),
        made_again=sum(began.values()) - len(runs.ended) - repeated,
        repeated=repeated,
    )
