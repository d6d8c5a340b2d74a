"""What the workflows of a simulation do: programs made by chance, each a function of its workflow's id.

A program is a list of blocks; a block's commands are issued together, and the next block comes when all of
them have ended. What a program results in is known beforehand, so that lost or doubled work shows.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Any

from temporalio.api.command.v1 import message_pb2 as command
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.history.v1 import message_pb2 as history

from tests.engine import lives

QUEUE = "q"
WORTH_OF_A_SIGNAL = 1000
CHILD_DEPTH_MAX = 2


@dataclass(frozen=True)
class Block:
    """`kind`: activities, timers, children, outsider (a signal to somebody), signals, continue."""

    kind: str
    names: tuple[str, ...] = ()
    signals: int = 0
    """So many signals must have come, in all."""
    fails: tuple[int, ...] = ()
    """How often each activity fails before it succeeds."""


@dataclass(frozen=True)
class Program:
    blocks: tuple[Block, ...]
    signals: int
    expected: int
    fails: dict[str, int] = field(default_factory=dict)


@lru_cache(maxsize=1000)
def program_of(seed: int, workflow_id: str) -> Program:
    chance = Random(f"{seed} {workflow_id}")
    depth = workflow_id.count("/")
    kinds = ["activities", "activities", "timers", "outsider", "continue"]
    if depth < CHILD_DEPTH_MAX:
        kinds.append("children")
    if depth == 0 and workflow_id.startswith("w"):  # Those of schedules have no client.
        kinds += ["signals", "signals"]
    blocks: list[Block] = []
    signals = expected = 0
    fails: dict[str, int] = {}
    for index in range(chance.randint(1, 4)):
        kind = chance.choice(kinds)
        count = 0 if kind in ("signals", "continue") else chance.randint(1, 3)
        base = workflow_id if kind == "children" else ""
        names = tuple(f"{base}/{index}.{i}" for i in range(count))
        if kind == "signals":
            signals += chance.randint(1, 2)
        elif kind == "activities":
            fails |= {name: chance.choice([0, 0, 1, 2]) for name in names}
            expected += sum(map(worth, names))
        elif kind == "children":
            expected += sum(program_of(seed, name).expected for name in names)
        blocks.append(Block(kind, names, signals))
    return Program(tuple(blocks), signals, expected + signals * WORTH_OF_A_SIGNAL, fails)


def worth(name: str) -> int:
    """What an activity gives."""
    return sum(name.encode())


# --- What has happened ------------------------------------------------------------------------


@dataclass
class Past:
    """A history as the program sees it."""

    started: dict[str, int] = field(default_factory=dict)
    """Name of what was begun -> the event of it."""
    ended: dict[int, int] = field(default_factory=dict)
    """That event -> what it gave."""
    block: int = 0
    value: int = 0
    signals: int = 0


def past_of(events: Iterable[history.HistoryEvent]) -> Past:
    past = Past()
    for event in events:
        attributes: Any = getattr(event, event.WhichOneof("attributes") or "")
        match event.event_type:
            case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
                if attributes.input.payloads:
                    carried = json.loads(attributes.input.payloads[0].data)
                    past.block, past.value, past.signals = carried
            case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
                past.signals += attributes.signal_name == "s"
            case event_types.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
                past.started[attributes.activity_id] = event.event_id
            case event_types.EVENT_TYPE_TIMER_STARTED:
                past.started[attributes.timer_id] = event.event_id
            case event_types.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED:
                past.started[attributes.workflow_id] = event.event_id
            case event_types.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED:
                past.started[attributes.control] = event.event_id
            case event_types.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
                past.ended[attributes.scheduled_event_id] = number(attributes.result)
            case event_types.EVENT_TYPE_TIMER_FIRED:
                past.ended[attributes.started_event_id] = 0
            case event_types.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED:
                past.ended[attributes.initiated_event_id] = number(attributes.result)
            case (
                event_types.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED
                | event_types.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED
            ):
                past.ended[attributes.initiated_event_id] = 0
    return past


def number(result: common.Payloads) -> int:
    return int(json.loads(result.payloads[0].data))


def encoded(value: Any) -> common.Payloads:
    return lives.payloads(json.dumps(value).encode())


# --- What follows -----------------------------------------------------------------------------


def decide(program: Program, past: Past, others: Sequence[str], seed: int) -> list[command.Command]:
    """The commands of the next workflow task."""
    value = past.value
    for index in range(past.block, len(program.blocks)):
        block = program.blocks[index]
        if block.kind == "continue" and index > past.block:
            return [lives.continue_as_new(input=encoded([index, value, past.signals]))]
        if past.signals < block.signals:
            return []
        if not all(name in past.started for name in block.names):
            return [_begin(block.kind, name, others, seed) for name in block.names]
        begun = [past.started[name] for name in block.names]
        if not all(event_id in past.ended for event_id in begun):
            return []
        value += sum(past.ended[event_id] for event_id in begun)
    total = value + program.signals * WORTH_OF_A_SIGNAL
    return [lives.complete_workflow(result=encoded(total))]


def _begin(kind: str, name: str, others: Sequence[str], seed: int) -> command.Command:
    chance = Random(f"{seed} {name}")
    match kind:
        case "activities":
            heartbeat = chance.choice([0, 4])
            return lives.schedule_activity(name, heartbeat_timeout={"seconds": heartbeat})
        case "timers":
            return lives.start_timer(name, chance.choice([0.5, 5, 40]))
        case "children":
            return lives.start_child(name)
        case _:
            target = common.WorkflowExecution(workflow_id=chance.choice(others))
            return lives.as_command(
                command.SignalExternalWorkflowExecutionCommandAttributes(
                    execution=target, signal_name="x", control=name
                )
            )
