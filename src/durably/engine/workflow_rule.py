"""Rules of a namespace: an activity that is about to start may be paused instead.

Rule 1: a rule is asked when an attempt is put on its queue, and again when a worker comes for one that
        has waited there.
Rule 2: what it decides is recorded; replaying asks no rule.

Facts: WorkflowRuleSpec in temporal/api/rules/v1/message.proto.
"""

from collections.abc import Callable

from durably.engine import records as r
from durably.engine.state import Activity, HistoryState, WorkflowState
from durably.engine.transition import PausingRule, Transition


def pauses(t: Transition[HistoryState], activity: Activity) -> bool:
    """Whether a rule pauses the activity, which is about to start; if so, it is paused now."""
    if t.rule_for is None or not isinstance(t.state, WorkflowState):
        return False
    rule = t.rule_for(t.state, activity, t.now_ns)
    if rule is not None:
        _pause(t, activity, rule)
    return rule is not None


def trigger(t: Transition, holds: Callable[[Activity], bool], rule: PausingRule) -> bool:
    """Apply a rule to the pending activities that it holds for; whether there are any."""
    found = [a for a in t.state.activities.values() if a.pause is None and holds(a)]
    for activity in found:
        _pause(t, activity, rule)
    return bool(found)


def _pause(t: Transition[HistoryState], activity: Activity, rule: PausingRule) -> None:
    t.note(
        r.ActivityPaused(
            scheduled_event_id=activity.scheduled_event_id,
            at_ns=t.now_ns,
            identity=rule.identity,
            reason=rule.reason,
            request_id="",
            rule_id=rule.rule_id,
        )
    )
    t.visible = True
