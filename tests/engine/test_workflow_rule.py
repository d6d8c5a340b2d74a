"""Workflow rules: activities that are about to start are paused."""

from durably.engine import workflow_rule
from durably.engine.state import Activity, WorkflowState
from durably.engine.transition import DispatchActivity, PausingRule
from tests.engine.lives import WorkflowLife, schedule_activity

RULE = PausingRule("rule", "me", "why")


def only_of_type_b(state: WorkflowState, pending: Activity, now_ns: int) -> PausingRule | None:
    return RULE if pending.scheduled.activity_type.name == "b" else None


def two_activities() -> WorkflowLife:
    life = WorkflowLife()
    life.rule_for = only_of_type_b
    life.work(schedule_activity("a"), schedule_activity("b", activity_type={"name": "b"}))
    return life


def test_a_rule_is_asked_of_each_activity() -> None:
    life = two_activities()
    assert [type(each) for each in life.effects] == [DispatchActivity]
    assert life.pending("a").pause is None
    assert life.pending("b").pause is not None
    life.check()


def test_a_rule_can_be_applied_to_what_is_pending() -> None:
    life = two_activities()
    assert not life.step(workflow_rule.trigger, lambda pending: False, RULE)
    assert life.step(workflow_rule.trigger, lambda pending: True, RULE)
    assert life.pending("a").pause is not None
    assert not life.step(workflow_rule.trigger, lambda pending: True, RULE), "all are paused"
