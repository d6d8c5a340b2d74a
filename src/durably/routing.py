"""How the traffic of task queues is divided between versions: the read model of worker deployments
and of sets of compatible builds.

Rule 1: it is in memory, and follows what is committed; when a server starts it is read from the store.
Rule 2: a queue that no version has ever polled costs one look into an empty table.
Rule 3: the same workflow id goes the same way, as long as the routing is the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from durably.engine.deployment.state import DeploymentState
from durably.engine.version_sets.machine import find
from durably.engine.version_sets.state import BuildSet
from durably.engine.versioning.state import Notice
from durably.engine.versioning.version import PINNED, Route, Version, share
from durably.errors import NewerBuildExists
from durably.store.store import QueueKey, TaskKind

SET_PREFIX = ":"
"""No deployment has an empty name, so no version is called like a set."""


@dataclass(frozen=True, slots=True)
class DeploymentRouting:
    """What one deployment says of the traffic; a copy of its state at one moment."""

    namespace_id: str
    name: str
    current: Version | None
    current_changed_ns: int
    ramping: Version | None
    percentage: float
    percentage_changed_ns: int
    revision: int
    queues: dict[QueueKey, frozenset[str]]
    """Queue -> the builds whose workers have polled it."""


def routing_of(state: DeploymentState) -> DeploymentRouting:
    builds: dict[QueueKey, set[str]] = {}
    for version in state.versions.values():
        for queue in version.queues:
            key = QueueKey(state.namespace_id, TaskKind(queue.kind), queue.name)
            builds.setdefault(key, set()).add(version.build_id)
    return DeploymentRouting(
        state.namespace_id,
        state.workflow_id,
        state.version(state.current),
        state.current_changed_ns,
        state.version(state.ramping),
        state.percentage,
        state.percentage_changed_ns,
        state.revision,
        {key: frozenset(each) for key, each in builds.items()} if state.running else {},
    )


def gone(namespace_id: str, name: str) -> DeploymentRouting:
    """What a deployment says that is not there any more: nothing."""
    return DeploymentRouting(namespace_id, name, None, 0, None, 0.0, 0, 0, {})


UNROUTED = Notice(None, 0)
"""To workers without versioning."""


@dataclass(slots=True)
class QueueRouting:
    """How one task queue's traffic is divided."""

    key: QueueKey
    versions: frozenset[Version] = frozenset()
    """Whose workers have polled it."""
    current: Notice = UNROUTED
    current_changed_ns: int = 0
    ramping: Notice = UNROUTED
    percentage: float = 0.0
    percentage_changed_ns: int = 0
    deployments: dict[str, DeploymentRouting] = field(default_factory=dict)

    def decide(self) -> None:
        """Of several deployments that serve it, the one that was changed last has the word."""
        self.versions = frozenset(
            Version(name, build)
            for name, each in self.deployments.items()
            for build in each.queues[self.key]
        )
        current = self._latest("current", "current_changed_ns")
        ramping = self._latest("ramping", "percentage_changed_ns")
        self.current, self.current_changed_ns = UNROUTED, 0
        self.ramping, self.percentage, self.percentage_changed_ns = UNROUTED, 0.0, 0
        if current is not None:
            self.current = Notice(current.current, current.revision)
            self.current_changed_ns = current.current_changed_ns
        if ramping is not None:
            self.ramping = Notice(ramping.ramping, ramping.revision)
            self.percentage = ramping.percentage
            self.percentage_changed_ns = ramping.percentage_changed_ns

    def _latest(self, field: str, changed: str) -> DeploymentRouting | None:
        """A version goes before no version, then the latest change; a version whose workers have
        not polled this queue says nothing of it."""
        named, unnamed = [], []
        for each in self.deployments.values():
            version = getattr(each, field)
            if version is None:
                unnamed.append(each)
            elif version in self.versions:
                named.append(each)
        return max(named or unnamed, key=lambda each: int(getattr(each, changed)), default=None)

    def target(self, route: Route, workflow_id: str) -> Notice:
        """The version that a task which may go to any goes to now."""
        if route.ramping and self.ramping.version is not None:
            return self.ramping
        found = self.current
        if self.percentage >= 100 or (
            self.percentage > 0 and share(workflow_id) <= self.percentage
        ):
            found = self.ramping
        if route.version is not None and found.version is not None:
            # A queue that lags behind what the workflow knows does not send it back.
            same = found.version.deployment == route.version.deployment
            if same and found.revision < route.revision:
                return Notice(route.version, route.revision)
        return found


class Routes:
    """All queues that versions have to do with."""

    def __init__(self) -> None:
        self._queues: dict[QueueKey, QueueRouting] = {}
        self._sets: dict[tuple[str, str], tuple[BuildSet, ...]] = {}

    # --- What changes -------------------------------------------------------------------------

    def deployment_changed(self, routing: DeploymentRouting) -> list[QueueKey]:
        """The queues whose traffic is divided anew."""
        changed = set(routing.queues)
        for key, found in list(self._queues.items()):
            if key.namespace_id == routing.namespace_id and routing.name in found.deployments:
                changed.add(key)
                if key not in routing.queues:
                    del found.deployments[routing.name]
        for key in routing.queues:
            queue = self._queues.setdefault(key, QueueRouting(key=key))
            queue.deployments[routing.name] = routing
        for key in changed:
            queue = self._queues[key]
            queue.decide()
            if not queue.deployments:
                del self._queues[key]
        return list(changed)

    def deployments(self) -> set[tuple[str, str]]:
        """(namespace id, name) of those that have a say in any queue."""
        return {
            (key.namespace_id, name)
            for key, queue in self._queues.items()
            for name in queue.deployments
        }

    def sets_changed(
        self, namespace_id: str, queue: str, sets: tuple[BuildSet, ...]
    ) -> list[QueueKey]:
        self._sets[namespace_id, queue] = sets
        return [QueueKey(namespace_id, kind, queue) for kind in TaskKind]

    def forget_namespace(self, namespace_id: str) -> None:
        for key in [key for key in self._queues if key.namespace_id == namespace_id]:
            del self._queues[key]
        for name in [name for name in self._sets if name[0] == namespace_id]:
            del self._sets[name]

    # --- Where tasks go -----------------------------------------------------------------------

    def place(self, key: QueueKey, route: Route, workflow_id: str) -> QueueKey:
        """The part of a queue that a task is put into: the pollers of one version."""
        queue = self._queues.get(key) if self._queues else None
        if route.behavior == PINNED and route.version is not None:
            known = queue is not None and route.version in queue.versions
            if known or key.kind is TaskKind.WORKFLOW:
                return replace(key, version=str(route.version))
        if queue is not None:
            version = queue.target(route, workflow_id).version
            if version is not None:
                return replace(key, version=str(version))
        return self._in_set(key, route) if self._sets else key

    def _in_set(self, key: QueueKey, route: Route) -> QueueKey:
        """With sets of compatible builds: the set of the build, or the default for what is new."""
        sets = self._sets.get((key.namespace_id, key.name))
        if not sets or route.behavior:
            return key
        if route.build_id:
            at = find(sets, route.build_id)
            name = sets[at][0] if at >= 0 else route.build_id
            return replace(key, version=SET_PREFIX + name)
        return replace(key, version=SET_PREFIX + sets[-1][0]) if route.fresh else key

    def target(self, key: QueueKey, route: Route, workflow_id: str) -> Notice:
        """Where a task would go if it were not pinned, and by which routing."""
        queue = self._queues.get(key) if self._queues else None
        return queue.target(route, workflow_id) if queue is not None else UNROUTED

    def stays(self, key: QueueKey, route: Route, workflow_id: str) -> bool:
        """Whether the worker that has a workflow in its cache is one that its tasks are for."""
        if route.behavior == PINNED:
            return True
        if route.build_id:
            return self._is_default_of_set(key, route.build_id)
        queue = self._queues.get(key) if self._queues else None
        if queue is None:
            return True
        target = queue.target(route, workflow_id).version
        return target is None or target == route.version

    def _is_default_of_set(self, key: QueueKey, build_id: str) -> bool:
        sets = self._sets.get((key.namespace_id, key.name), ())
        at = find(sets, build_id)
        return at < 0 or sets[at][1][-1] == build_id

    # --- Pollers ------------------------------------------------------------------------------

    def part_of(self, key: QueueKey, version: Version) -> QueueKey:
        return replace(key, version=str(version))

    def part_of_build(self, key: QueueKey, build_id: str) -> QueueKey:
        """Of a worker that is compatible with others; NewerBuildExists if it is not the newest."""
        sets = self._sets.get((key.namespace_id, key.name), ())
        at = find(sets, build_id)
        name = sets[at][0] if at >= 0 else build_id
        if at >= 0 and sets[at][1][-1] != build_id:
            raise NewerBuildExists(sets[at][1][-1])
        return replace(key, version=SET_PREFIX + name)

    def has(self, key: QueueKey, version: Version) -> bool:
        """Whether workers of this version have polled this queue."""
        queue = self._queues.get(key)
        return queue is not None and version in queue.versions

    def of(self, key: QueueKey) -> QueueRouting | None:
        return self._queues.get(key)

    def sets(self, namespace_id: str, queue: str) -> tuple[BuildSet, ...]:
        return self._sets.get((namespace_id, queue), ())

    def queues_with_sets(self, namespace_id: str) -> Iterable[str]:
        return [queue for of, queue in self._sets if of == namespace_id]
