"""Priorities: bounds, defaults, and what is inherited."""

from typing import Any

import pytest
from temporalio.api.common.v1 import message_pb2 as common

from durably.engine import priority
from durably.errors import InvalidArgument
from tests.engine.lives import WorkflowLife


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priority_key": -1}, "can't be negative"),
        ({"fairness_key": "ü" * 33}, "fairness key length"),
        ({"fairness_weight": -0.1}, "must be greater than zero"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        priority.check(common.Priority(**options))


def test_what_makes_sense_is_taken() -> None:
    priority.check(common.Priority())
    priority.check(common.Priority(priority_key=9, fairness_key="ü" * 32, fairness_weight=2))


@pytest.mark.parametrize(("asked", "level"), [(0, 3), (1, 1), (5, 5), (9, 5)])
def test_a_level_is_between_one_and_five(asked: int, level: int) -> None:
    assert priority.level(common.Priority(priority_key=asked)) == level


@pytest.mark.parametrize(
    ("asked", "weight"), [(0, 1.0), (float("nan"), 1.0), (0.0001, 0.001), (2, 2), (5000, 1000)]
)
def test_a_weight_has_bounds(asked: float, weight: float) -> None:
    assert priority.weight(asked) == weight


def test_of_a_workflow_and_of_its_activities() -> None:
    life = WorkflowLife(priority={"priority_key": 2, "fairness_weight": 3.0})
    assert priority.of_workflow(life.state).priority_key == 2
    life.with_activity(priority={"fairness_key": "k"})
    merged = priority.of_activity(life.state, life.pending().scheduled_event_id)
    assert merged == common.Priority(priority_key=2, fairness_key="k", fairness_weight=3.0)
    plain = WorkflowLife().with_activity(priority={"fairness_key": "k"})
    own = priority.of_activity(plain.state, plain.pending().scheduled_event_id)
    assert own == common.Priority(fairness_key="k")
