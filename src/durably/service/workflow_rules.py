"""RPCs of workflow rules, which are part of their namespace, and what the rules say of an activity.

Rule 1: what a rule asks is checked when it is made; it cannot fail later.
Rule 2: a rule whose time is over is not there any more.

Facts: temporal/api/rules/v1/message.proto.
"""

from collections.abc import Callable
from dataclasses import dataclass

from temporalio.api.rules.v1 import message_pb2 as rules
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine import workflow_rule
from durably.engine.state import Activity, WorkflowState
from durably.engine.times import nanoseconds
from durably.engine.transition import PausingRule, Transition
from durably.engine.workflow import ensure_running
from durably.errors import InvalidArgument, Unimplemented
from durably.service.admission import Call
from durably.service.conditions import Language
from durably.service.describe import set_time
from durably.service.namespaces import Namespace, Namespaces, StoredRule
from durably.service.transact import Executions
from durably.service.workflows import check_execution
from durably.store.visibility_query import STATUSES

NOT_FOUND = "Workflow Rule with this ID not Found."
STATUS_NAMES = {number: name for name, number in STATUSES.items() if name != "Cancelled"}


def _activity_status(activity: Activity) -> str:
    if activity.pause is not None:
        return "Paused"
    return "Started" if activity.started else "Scheduled"


def _backoff_ns(activity: Activity) -> int:
    """Between the end of the attempt before and the present one."""
    return activity.dispatched_ns - activity.last_ended_ns if activity.attempt > 1 else 0


ACTIVITIES = Language[Activity](
    "activity",
    texts={
        "ActivityId": lambda a: a.activity_id,
        "ActivityType": lambda a: a.scheduled.activity_type.name,
        "ActivityStatus": _activity_status,
        "TaskQueue": lambda a: a.scheduled.task_queue.name,
    },
    numbers={"ActivityAttempt": lambda a: a.attempt, "Attempts": lambda a: a.attempt},
    durations={"BackoffInterval": _backoff_ns},
)
WORKFLOWS = Language[WorkflowState](
    "workflow",
    texts={
        "WorkflowId": lambda w: w.workflow_id,
        "WorkflowType": lambda w: w.workflow_type,
        "ExecutionStatus": lambda w: STATUS_NAMES[w.status],
    },
    times={"StartTime": lambda w: w.start_ns},
)


@dataclass(frozen=True, slots=True)
class _Conditions:
    """What a rule asks, ready to be asked."""

    of_workflow: Callable[[WorkflowState], bool]
    of_activity: Callable[[Activity], bool]
    pauses: bool

    @classmethod
    def of(cls, spec: rules.WorkflowRuleSpec) -> "_Conditions":
        """InvalidArgument, naming what is wrong, if the spec makes no sense."""
        triggered = spec.HasField("activity_start")
        return cls(
            WORKFLOWS.parse(spec.visibility_query),
            ACTIVITIES.parse(spec.activity_start.predicate),
            triggered and any(each.HasField("activity_pause") for each in spec.actions),
        )


@dataclass(frozen=True, slots=True)
class _Rule:
    """A rule that pauses activities."""

    conditions: _Conditions
    expires_ns: int
    pausing: PausingRule


class WorkflowRules:
    """Answers RPCs of workflow rules."""

    def __init__(self, executions: Executions, namespaces: Namespaces) -> None:
        self._executions = executions
        self._namespaces = namespaces
        self._config = executions.config
        self._parsed: dict[str, tuple[int, list[_Rule]]] = {}
        """Namespace id -> its version, and its rules in the order in which they were made."""

    def pausing(self, state: WorkflowState, activity: Activity, now_ns: int) -> PausingRule | None:
        """The first rule that pauses this activity, which is about to start."""
        namespace = self._namespaces.find(state.namespace_id)
        if namespace is None or not namespace.workflow_rules:
            return None
        for rule in self._rules(namespace):
            asked = rule.conditions
            if (
                not 0 < rule.expires_ns <= now_ns
                and asked.of_workflow(state)
                and asked.of_activity(activity)
            ):
                return rule.pausing
        return None

    def _rules(self, namespace: Namespace) -> list[_Rule]:
        version, found = self._parsed.get(namespace.namespace_id, (0, []))
        if version != namespace.version:
            stored = (rules.WorkflowRule.FromString(s.rule) for s in _stored(namespace))
            parsed = [(rule, _Conditions.of(rule.spec)) for rule in stored]
            found = [
                _Rule(
                    conditions,
                    nanoseconds(rule.spec.expiration_time),
                    PausingRule(rule.spec.id, rule.created_by_identity, rule.description),
                )
                for rule, conditions in parsed
                if conditions.pauses
            ]
            self._parsed[namespace.namespace_id] = namespace.version, found
        return found

    # --- RPCs ---------------------------------------------------------------------------------

    async def create_workflow_rule(
        self, request: ws.CreateWorkflowRuleRequest, call: Call
    ) -> ws.CreateWorkflowRuleResponse:
        self._namespaces.by_name(request.namespace)
        if not request.HasField("spec"):
            raise InvalidArgument("Rule Specification is not set.")
        _check_id(request.spec.id)
        if len(request.spec.id) > self._config.identifier_chars_max:
            raise InvalidArgument("Workflow Rule Id length exceeds limit.")
        _Conditions.of(request.spec)
        if request.force_scan:
            raise Unimplemented(
                "force_scan is not built into this server: use TriggerWorkflowRule, or PauseActivity"
            )
        rule = rules.WorkflowRule(
            spec=request.spec,
            created_by_identity=request.identity,
            description=request.description,
        )
        set_time(rule.create_time, self._executions.clock())
        made = await self._namespaces.change(
            request.namespace, lambda n: self._add(n, rule, request.request_id)
        )
        return ws.CreateWorkflowRuleResponse(rule=made)

    def _add(
        self, namespace: Namespace, rule: rules.WorkflowRule, request_id: str
    ) -> rules.WorkflowRule:
        self._drop_expired(namespace)
        existing = namespace.workflow_rules.get(rule.spec.id)
        if existing is not None:
            if request_id and existing.request_id == request_id:
                return rules.WorkflowRule.FromString(existing.rule)
            raise InvalidArgument("Workflow Rule with this ID already exists.")
        if len(namespace.workflow_rules) >= self._config.workflow_rules_max:
            raise InvalidArgument(
                f"Workflow Rule limit exceeded. Max: {self._config.workflow_rules_max}"
                " (workflow_rules_max)"
            )
        namespace.workflow_rules[rule.spec.id] = StoredRule(rule.SerializeToString(), request_id)
        return rule

    def _drop_expired(self, namespace: Namespace) -> None:
        for rule in self._there(namespace, expired=True):
            del namespace.workflow_rules[rule.spec.id]

    def _there(self, namespace: Namespace, *, expired: bool = False) -> list[rules.WorkflowRule]:
        """The rules of a namespace whose time is not over; or those whose time is."""
        now_ns = self._executions.clock()
        found = [rules.WorkflowRule.FromString(s.rule) for s in _stored(namespace)]
        return [
            rule
            for rule in found
            if (0 < nanoseconds(rule.spec.expiration_time) <= now_ns) == expired
        ]

    async def describe_workflow_rule(
        self, request: ws.DescribeWorkflowRuleRequest, call: Call
    ) -> ws.DescribeWorkflowRuleResponse:
        return ws.DescribeWorkflowRuleResponse(rule=self._find(request.namespace, request.rule_id))

    async def delete_workflow_rule(
        self, request: ws.DeleteWorkflowRuleRequest, call: Call
    ) -> ws.DeleteWorkflowRuleResponse:
        self._find(request.namespace, request.rule_id)

        def delete(namespace: Namespace) -> None:
            if namespace.workflow_rules.pop(request.rule_id, None) is None:
                raise InvalidArgument(NOT_FOUND)

        await self._namespaces.change(request.namespace, delete)
        return ws.DeleteWorkflowRuleResponse()

    async def list_workflow_rules(
        self, request: ws.ListWorkflowRulesRequest, call: Call
    ) -> ws.ListWorkflowRulesResponse:
        """All at once: there are few."""
        namespace = self._namespaces.by_name(request.namespace)
        return ws.ListWorkflowRulesResponse(rules=self._there(namespace))

    async def trigger_workflow_rule(
        self, request: ws.TriggerWorkflowRuleRequest, call: Call
    ) -> ws.TriggerWorkflowRuleResponse:
        """Apply a rule, or one that is given and not kept, to the activities of one workflow."""
        namespace_id = self._namespaces.id_of(request.namespace)
        check_execution(request.execution)
        pausing = PausingRule("", request.identity, "")
        spec = request.spec
        match request.WhichOneof("rule"):
            case "id":
                rule = self._find(request.namespace, request.id)
                spec = rule.spec
                pausing = PausingRule(spec.id, rule.created_by_identity, rule.description)
            case None:
                raise InvalidArgument("Workflow Rule ID or specification must be set.")
        asked = _Conditions.of(spec)

        def apply(t: Transition) -> bool:
            ensure_running(t.state)
            if not (asked.pauses and asked.of_workflow(t.state)):
                return False
            return workflow_rule.trigger(t, asked.of_activity, pausing)

        which = request.execution
        execution = await self._executions.find(namespace_id, which.workflow_id, which.run_id)
        applied = await self._executions.transact(execution.execution_id, apply)
        return ws.TriggerWorkflowRuleResponse(applied=applied)

    def _find(self, namespace_name: str, rule_id: str) -> rules.WorkflowRule:
        namespace = self._namespaces.by_name(namespace_name)
        _check_id(rule_id)
        for rule in self._there(namespace):
            if rule.spec.id == rule_id:
                return rule
        raise InvalidArgument(NOT_FOUND)


def _check_id(rule_id: str) -> None:
    if not rule_id:
        raise InvalidArgument("Workflow Rule ID is not set.")


def _stored(namespace: Namespace) -> list[StoredRule]:
    return list(namespace.workflow_rules.values())
