"""What happened as rows: of runs, of activities, of the calls of models and tools. Pure.

They are the rows of `durably query`'s tables, and what the console's charts are made of.

Rule 1: a row is what a list or a history says; nothing is estimated. What is not known is None.
Rule 2: no payloads: names, ids, times, counts.
Rule 3: fields are only ever added; times are microseconds since the epoch, durations are seconds.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages

from durably.agents.payloads import read
from durably.agents.prices import cost_usd
from durably.agents.steps import Step, nanoseconds

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    namespace: str
    workflow_id: str
    run_id: str
    workflow_type: str

    def row(self) -> Row:
        return {
            "namespace": self.namespace,
            "workflow_id": self.workflow_id,
            "run_id": self.run_id,
            "workflow_type": self.workflow_type,
        }


def run_of(namespace: str, info: workflow_messages.WorkflowExecutionInfo) -> Run:
    execution = info.execution
    return Run(namespace, execution.workflow_id, execution.run_id, info.type.name)


def workflow_row(run: Run, info: workflow_messages.WorkflowExecutionInfo) -> Row:
    started_us, closed_us = _micros(info.start_time), _micros(info.close_time)
    duration = info.execution_duration
    attributes = {
        name: read(payload) for name, payload in info.search_attributes.indexed_fields.items()
    }
    return {
        **run.row(),
        "task_queue": info.task_queue,
        "status": workflow_enums.WorkflowExecutionStatus.Name(info.status)
        .removeprefix("WORKFLOW_EXECUTION_STATUS_")
        .lower(),
        "start_time": started_us,
        "execution_time": _micros(info.execution_time),
        "close_time": closed_us,
        "duration_s": duration.seconds + duration.nanos / 1e9 if closed_us else None,
        "history_length": info.history_length,
        "history_size_bytes": info.history_size_bytes,
        "state_transitions": info.state_transition_count,
        "parent_workflow_id": info.parent_execution.workflow_id or None,
        "parent_run_id": info.parent_execution.run_id or None,
        "root_workflow_id": info.root_execution.workflow_id or None,
        "root_run_id": info.root_execution.run_id or None,
        "search_attributes": json.dumps(attributes, default=str) if attributes else None,
    }


def step_rows(run: Run, step: Step) -> Iterator[tuple[str, Row]]:
    """(table, row) of an activity and of the calls that it made."""
    about = {**run.row(), **_step_row(step)}
    yield "activities", about
    for index, model in enumerate(step.model_calls, start=1):
        tokens = model.tokens
        cost = cost_usd(model, step.started_ns or step.scheduled_ns)
        yield (
            "model_calls",
            {
                **about,
                "call": index,
                "framework": model.framework,
                "agent": model.agent or None,
                "provider": model.provider or None,
                "model": model.model or None,
                "input_tokens": tokens.input if tokens else None,
                "output_tokens": tokens.output if tokens else None,
                "cache_read_tokens": tokens.cache_read if tokens else None,
                "cache_write_tokens": tokens.cache_write if tokens else None,
                "reasoning_tokens": tokens.reasoning if tokens else None,
                "cost_usd": float(cost) if cost is not None else None,
                "finish_reason": model.finish_reason or None,
                "tools_asked": len(model.tools_asked),
            },
        )
    for index, tool in enumerate(step.tool_calls, start=1):
        yield (
            "tool_calls",
            {
                **about,
                "call": index,
                "framework": tool.framework,
                "agent": tool.agent or None,
                "tool": tool.name,
                "tool_call_id": tool.id or None,
            },
        )


def _step_row(step: Step) -> Row:
    """`schedule_to_start_s`: waiting, backoffs of retries among it; `run_s`: of the last attempt."""
    started, ended = step.started_ns, step.ended_ns
    return {
        "scheduled_event_id": step.scheduled_event_id,
        "activity_id": step.activity_id,
        "activity_type": step.activity_type,
        "task_queue": step.task_queue,
        "status": step.status.replace(" ", "_"),
        "attempts": step.attempt if started else None,
        "failure_type": step.failure_type or None,
        "scheduled_time": step.scheduled_ns // 1000,
        "started_time": started // 1000 if started else None,
        "end_time": ended // 1000 if ended else None,
        "schedule_to_start_s": (started - step.scheduled_ns) / 1e9 if started else None,
        "run_s": (ended - started) / 1e9 if started and ended else None,
    }


def _micros(at: Timestamp) -> int | None:
    return nanoseconds(at) // 1000 or None
