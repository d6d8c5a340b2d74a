"""Tasks for workers, as transitions schedule them: given to a worker that waits, or left in a queue.

Rule 1: what a waiting poller can take is started in the transition that scheduled it; the rest becomes
        rows of `tasks` in the same commit.
Rule 2: which part of a queue a task is for is asked of the routing anew each time: it may have changed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from temporalio.api.common.v1 import message_pb2 as common

from durably.backlog import DEFAULT_ORDER
from durably.config import Config
from durably.engine import activity, priority, workflow_task
from durably.engine.state import WorkflowState
from durably.engine.transition import DispatchActivity, DispatchWorkflowTask, Transition
from durably.engine.versioning import machine as versioning
from durably.engine.versioning.state import Notice
from durably.engine.versioning.version import Route, Version, Worker
from durably.engine.versioning.version import worker as worker_from
from durably.matching import Matching, Poll
from durably.routing import Routes
from durably.service.execution import Execution
from durably.service.ids import IdSource, new_id
from durably.service.nodes import LEFT_TO_HOLDER_NS, Nodes
from durably.store.shards import Shards
from durably.store.store import QueueKey, TaskKind, TaskOrder, TaskRow

HELD_NS = 10 * 1_000_000_000
"""A task is kept in memory here if a worker has polled its queue here so lately."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A task that was started in the transition that scheduled it, for a poller that waited."""

    execution: Execution[Any]
    grant: workflow_task.WorkflowTaskGrant | activity.ActivityGrant


@dataclass(slots=True)
class Dispatched:
    """The tasks of one commit: those that pollers get when it is done, and those that wait."""

    granted: list[tuple[Poll, Granted]] = field(default_factory=list)
    waiting: list[TaskRow] = field(default_factory=list)


class Dispatch:
    """Where the tasks of executions go."""

    def __init__(
        self,
        matching: Matching,
        routes: Routes,
        ids: IdSource,
        shards: Shards,
        clock: Callable[[], int],
        config: Config,
        nodes: Nodes | None,
    ) -> None:
        self._matching = matching
        self._routes = routes
        self._ids = ids
        self._shards = shards
        self._clock = clock
        self._config = config
        self._nodes = nodes

    def reserve(self, into: Dispatched, execution: Execution[Any], t: Transition[Any]) -> None:
        """Start at once what a waiting poller can take; the rest becomes task rows."""
        for effect in list(t.effects):
            match effect:
                case DispatchWorkflowTask():
                    self._dispatch_workflow_task(into, execution, t, effect)
                case DispatchActivity():
                    self._dispatch_activity(into, execution, t, effect)
                case _:
                    pass

    def _dispatch_workflow_task(
        self,
        into: Dispatched,
        execution: Execution[Any],
        t: Transition[Any],
        effect: DispatchWorkflowTask,
    ) -> None:
        state = t.state
        route = versioning.route(state)
        effect = self._unless_sticky_worker_left(t, effect, route)
        key = QueueKey(state.namespace_id, TaskKind.WORKFLOW, effect.queue)
        if not effect.sticky:
            key = self._routes.place(key, route, state.workflow_id)
        order = _order(priority.of_workflow(state))
        poll = self._matching.reserve(key, order)
        if poll is None:
            into.waiting.append(self._task(key, execution, effect, order, route))
            return
        task = workflow_task.start(
            t,
            effect.scheduled_event_id,
            effect.attempt,
            poll.identity,
            new_id(),
            self._config,
            worker=worker_of(poll.attributes),
            target=self.target(state),
        )
        into.granted.append((poll, Granted(execution, task)))

    def _dispatch_activity(
        self,
        into: Dispatched,
        execution: Execution[Any],
        t: Transition[Any],
        effect: DispatchActivity,
    ) -> None:
        """One whose workflow would move to another version first is left to `activity.take`."""
        state = t.state
        pending = state.activities[effect.scheduled_event_id]
        route = versioning.activity_route(state, pending)
        key = QueueKey(state.namespace_id, TaskKind.ACTIVITY, effect.queue)
        key = self._routes.place(key, route, state.workflow_id)
        order = _order(priority.of_activity(state, effect.scheduled_event_id))
        at_once = not key.version or (
            route.version is not None and key.version == str(route.version)
        )
        if isinstance(state, WorkflowState) and versioning.moving(state):
            at_once = False
        poll = self._matching.reserve(key, order) if at_once else None
        if poll is None:
            into.waiting.append(self._task(key, execution, effect, order, route))
            return
        attempt = activity.start(
            t,
            effect.scheduled_event_id,
            effect.stamp,
            poll.identity,
            new_id(),
            worker=worker_of(poll.attributes),
        )
        into.granted.append((poll, Granted(execution, attempt)))

    def _task(
        self,
        key: QueueKey,
        execution: Execution[Any],
        effect: DispatchWorkflowTask | DispatchActivity,
        order: TaskOrder,
        route: Route,
    ) -> TaskRow:
        return TaskRow(
            task_id=self._ids.next(self._clock(), self._shards.of_id(execution.execution_id)),
            queue=key,
            execution_id=execution.execution_id,
            scheduled_event_id=effect.scheduled_event_id,
            stamp=effect.stamp if isinstance(effect, DispatchActivity) else effect.attempt,
            created_ns=self._clock(),
            sticky=isinstance(effect, DispatchWorkflowTask) and effect.sticky,
            order=order,
            held=self._holds(key),
            route=route,
            workflow_id=execution.state.workflow_id,
        )

    def _holds(self, key: QueueKey) -> bool:
        """Whether a task is kept here for the workers that poll here. Others may take it even then."""
        if self._nodes is None or self._nodes.alone():
            return True
        return self._matching.polled_within(key, HELD_NS)

    def _unless_sticky_worker_left(
        self, t: Transition, effect: DispatchWorkflowTask, route: Route
    ) -> DispatchWorkflowTask:
        """A sticky queue that nobody polls is not waited for, nor one whose worker has an older
        version than the task is for."""
        if not effect.sticky:
            return effect
        key = QueueKey(t.state.namespace_id, TaskKind.WORKFLOW, effect.queue)
        within_ns = int(self._config.sticky_poller_unavailable_s * 1e9)
        if self.polled_within(key, within_ns) and self.stays(t.state, route):
            return effect
        return workflow_task.move_to_normal_queue(t)

    # --- Where tasks go now -------------------------------------------------------------------

    def target(self, state: WorkflowState) -> Notice | None:
        """Where the tasks of a workflow go now, if it upgrades; None: versions have nothing to do
        with its queue."""
        key = QueueKey(state.namespace_id, TaskKind.WORKFLOW, state.task_queue)
        if state.versioning is None and self._routes.of(key) is None:
            return None
        return self._routes.target(key, versioning.route(state), state.workflow_id)

    def in_version(self, namespace_id: str, queue: str, version: Version) -> bool:
        """Whether workers of this version have polled this queue for workflows."""
        return self._routes.has(QueueKey(namespace_id, TaskKind.WORKFLOW, queue), version)

    def place(self, key: QueueKey, item: Any) -> QueueKey:
        """The part of a queue that an item of its backlog is for now: a task, or a query."""
        return self._routes.place(key, item.route, item.workflow_id)

    def stays(self, state: WorkflowState, route: Route) -> bool:
        """Whether the worker that has a workflow in its cache may have its next task."""
        key = QueueKey(state.namespace_id, TaskKind.WORKFLOW, state.task_queue)
        return self._routes.stays(key, route, state.workflow_id)

    def polled_within(self, key: QueueKey, within_ns: int) -> bool:
        """Whether a worker has waited on this queue so lately, at any server."""
        if self._matching.polled_within(key, within_ns):
            return True
        return self._nodes is not None and bool(
            self._nodes.polled_within(key, within_ns, self._clock())
        )

    def is_behind(self, queue: QueueKey) -> bool:
        """Whether the workers that poll here are behind with a queue, and others may help."""
        return self._matching.stats(queue, of_all=True).oldest_age_ns >= LEFT_TO_HOLDER_NS


def worker_of(poll: Any) -> Worker:
    """The worker, from its request for a task."""
    return worker_from(poll.identity, poll.deployment_options, poll.worker_version_capabilities)


def _order(wanted: common.Priority) -> TaskOrder:
    if not wanted.ByteSize():
        return DEFAULT_ORDER
    return TaskOrder(
        priority.level(wanted), wanted.fairness_key, priority.weight(wanted.fairness_weight)
    )
