"""RPCs of the worker versioning of before: sets of compatible builds, and which builds have to run.

Rule 1: the sets of a task queue are an execution of its own kind; `Routes` has what is on disk.
Rule 2: versioning by rules is switched off, as in Temporal's server by default: it is refused by name.
"""

from collections.abc import Sequence

from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine.state import Kind
from durably.engine.transition import Transition
from durably.engine.version_sets import machine
from durably.engine.version_sets.machine import Limits, find
from durably.engine.version_sets.state import BuildSet, VersionSetsState
from durably.engine.versioning.apply import UNVERSIONED, VERSIONED
from durably.errors import InvalidArgument, PermissionDenied, Unavailable
from durably.service.admission import Call
from durably.service.deployments import BUILD_ID_CHARS_MAX
from durably.service.execution import Execution
from durably.service.ids import new_id
from durably.service.namespaces import Namespaces
from durably.service.nodes import RoutingChanged
from durably.service.transact import CONFLICT_RETRIES, Executions
from durably.store import visibility_query
from durably.store.filter_syntax import quoted
from durably.store.store import Conflict
from durably.under_way import UnderWay

BUILD_IDS_ASKED_MAX = 5
"""So many builds may be asked about at once, and so many task queues looked at for each."""
QUEUES_ASKED_MAX = 20
NO_RULES = "Worker versioning v0.2 (Rules-based, deprecated) is disabled on this namespace."

STATUS: dict[int, str] = {
    queue_enums.TASK_REACHABILITY_OPEN_WORKFLOWS: " AND ExecutionStatus = 'Running'",
    queue_enums.TASK_REACHABILITY_CLOSED_WORKFLOWS: " AND ExecutionStatus != 'Running'",
    queue_enums.TASK_REACHABILITY_EXISTING_WORKFLOWS: "",
}


class VersionSets:
    """Answers RPCs about compatible builds."""

    def __init__(self, executions: Executions, namespaces: Namespaces) -> None:
        self._executions = executions
        self._namespaces = namespaces
        self._routes = executions.routes
        self._changes = UnderWay("changes of version sets")
        config = executions.config
        self._limits = Limits(config.version_sets_per_queue_max, config.builds_per_queue_max)

    async def open(self) -> None:
        """Read the sets of all task queues, before anybody polls them."""
        async for found in self._executions.all_of_kind(Kind.VERSION_SETS):
            state = found.state
            self._divide(state.namespace_id, state.workflow_id, state.sets)

    def _divide(self, namespace_id: str, queue: str, sets: tuple[BuildSet, ...]) -> None:
        for key in self._routes.sets_changed(namespace_id, queue, sets):
            self._executions.matching.reroute(key, self._executions.dispatch.place)

    # --- Sets ---------------------------------------------------------------------------------

    async def update_worker_build_id_compatibility(
        self, request: ws.UpdateWorkerBuildIdCompatibilityRequest, call: Call
    ) -> ws.UpdateWorkerBuildIdCompatibilityResponse:
        namespace_id = self._namespaces.id_of(request.namespace)
        _check_update(request)
        self._check_queue(request.task_queue)
        await self._changes.in_full(self._update(namespace_id, request))
        return ws.UpdateWorkerBuildIdCompatibilityResponse()

    async def _update(
        self, namespace_id: str, request: ws.UpdateWorkerBuildIdCompatibilityRequest
    ) -> None:
        for _ in range(CONFLICT_RETRIES):
            found = await self._executions.find_of_kind(
                Kind.VERSION_SETS, namespace_id, request.task_queue
            )
            try:
                if found is not None:
                    sets = await self._executions.transact(
                        found.execution_id, lambda t: self._change(t, request)
                    )
                else:
                    sets = await self._make(namespace_id, request)
            except Conflict:
                continue
            self._divide(namespace_id, request.task_queue, sets)
            if self._executions.nodes is not None:
                self._executions.nodes.say(RoutingChanged())
                await self._executions.nodes.settle()
            return
        raise Unavailable("this task queue is too busy; try again")

    def _change(
        self,
        t: Transition[VersionSetsState],
        request: ws.UpdateWorkerBuildIdCompatibilityRequest,
    ) -> tuple[BuildSet, ...]:
        machine.update(t, request, self._limits)
        return t.state.sets

    async def _make(
        self, namespace_id: str, request: ws.UpdateWorkerBuildIdCompatibilityRequest
    ) -> tuple[BuildSet, ...]:
        state = VersionSetsState(
            namespace_id=namespace_id,
            namespace=request.namespace,
            workflow_id=request.task_queue,
            run_id=new_id(),
        )
        execution: Execution[VersionSetsState] = self._executions.create(state, 0)
        t = self._executions.begin(state)
        sets = self._change(t, request)
        await self._executions.commit([(execution, t)])
        return sets

    async def get_worker_build_id_compatibility(
        self, request: ws.GetWorkerBuildIdCompatibilityRequest, call: Call
    ) -> ws.GetWorkerBuildIdCompatibilityResponse:
        """The newest sets, `max_sets` of them if that is not 0."""
        namespace_id = self._namespaces.id_of(request.namespace)
        self._check_queue(request.task_queue)
        sets = self._routes.sets(namespace_id, request.task_queue)
        shown = sets[-request.max_sets :] if request.max_sets > 0 else sets
        return ws.GetWorkerBuildIdCompatibilityResponse(
            major_version_sets=[
                taskqueue.CompatibleVersionSet(build_ids=builds) for _, builds in shown
            ]
        )

    def _check_queue(self, name: str) -> None:
        if not name:
            raise InvalidArgument("missing task queue name")
        if len(name) > self._executions.config.identifier_chars_max:
            raise InvalidArgument("TaskQueue length exceeds limit.")

    # --- Rules --------------------------------------------------------------------------------

    async def update_worker_versioning_rules(
        self, request: ws.UpdateWorkerVersioningRulesRequest, call: Call
    ) -> ws.UpdateWorkerVersioningRulesResponse:
        self._namespaces.id_of(request.namespace)
        raise PermissionDenied(NO_RULES)

    async def get_worker_versioning_rules(
        self, request: ws.GetWorkerVersioningRulesRequest, call: Call
    ) -> ws.GetWorkerVersioningRulesResponse:
        self._namespaces.id_of(request.namespace)
        raise PermissionDenied(NO_RULES)

    # --- Reachability -------------------------------------------------------------------------

    async def get_worker_task_reachability(
        self, request: ws.GetWorkerTaskReachabilityRequest, call: Call
    ) -> ws.GetWorkerTaskReachabilityResponse:
        namespace_id = self._namespaces.id_of(request.namespace)
        self._check_reachability(request)
        response = ws.GetWorkerTaskReachabilityResponse()
        for build_id in request.build_ids:
            of_build = response.build_id_reachability.add(build_id=build_id)
            queues = list(request.task_queues) or self._queues_of(namespace_id, build_id)
            for position, queue in enumerate(queues):
                shown = of_build.task_queue_reachability.add(task_queue=queue)
                if position < QUEUES_ASKED_MAX:
                    found = await self._reached(namespace_id, queue, build_id, request.reachability)
                    shown.reachability.extend(found)
                else:
                    shown.reachability.append(queue_enums.TASK_REACHABILITY_UNSPECIFIED)
        return response

    def _check_reachability(self, request: ws.GetWorkerTaskReachabilityRequest) -> None:
        builds = request.build_ids
        if not builds:
            raise InvalidArgument(
                "Must query at least one build ID (or empty string for unversioned worker)"
            )
        if len(builds) > BUILD_IDS_ASKED_MAX:
            raise InvalidArgument(
                f"Too many build ids queried at once, limit: {BUILD_IDS_ASKED_MAX}"
            )
        if any(len(each) > BUILD_ID_CHARS_MAX for each in builds):
            raise InvalidArgument(
                f"Build ID exceeds {BUILD_ID_CHARS_MAX} characters, use a shorter build ID."
            )
        if "" in builds and not request.task_queues:
            raise InvalidArgument(
                "Cannot get reachability of an unversioned worker (an empty build ID) without"
                " specifying at least one task queue"
            )
        for queue in request.task_queues:
            self._check_queue(queue)
        asked = request.reachability
        known = (*STATUS, 0, queue_enums.TASK_REACHABILITY_NEW_WORKFLOWS)
        if asked not in known:
            raise InvalidArgument(f"Unsupported reachability type: {asked}")

    def _queues_of(self, namespace_id: str, build_id: str) -> list[str]:
        queues = self._routes.queues_with_sets(namespace_id)
        return sorted(q for q in queues if find(self._routes.sets(namespace_id, q), build_id) >= 0)

    async def _reached(
        self,
        namespace_id: str,
        queue: str,
        build_id: str,
        asked: queue_enums.TaskReachability.ValueType,
    ) -> Sequence[queue_enums.TaskReachability.ValueType]:
        """What tasks the workers of a build may still get from a queue."""
        sets = self._routes.sets(namespace_id, queue)
        if build_id:
            at = find(sets, build_id)
            if at < 0 or sets[at][1][-1] != build_id:
                return []  # Unknown, or another build of its set has taken over.
            default = at == len(sets) - 1
            names = [f"{VERSIONED}:{each}" for each in sets[at][1]]
        else:
            default = not sets
            names = [UNVERSIONED]
        reached: list[queue_enums.TaskReachability.ValueType] = []
        if default:
            reached.append(queue_enums.TASK_REACHABILITY_NEW_WORKFLOWS)
        if asked == queue_enums.TASK_REACHABILITY_NEW_WORKFLOWS:
            return reached
        asked = asked or queue_enums.TASK_REACHABILITY_EXISTING_WORKFLOWS
        fresh = default and asked != queue_enums.TASK_REACHABILITY_CLOSED_WORKFLOWS
        if await self._has_workflows(namespace_id, queue, names, fresh, STATUS[asked]):
            reached.append(asked)
        return reached

    async def _has_workflows(
        self, namespace_id: str, queue: str, names: list[str], fresh: bool, status: str
    ) -> bool:
        """`fresh`: those that no worker has worked on yet count, too."""
        builds = f"BuildIds IN ({', '.join(quoted(each) for each in names)})"
        if fresh:
            builds = f"(BuildIds IS NULL OR {builds})"
        text = f"TaskQueue = {quoted(queue)} AND {builds}{status}"
        query = visibility_query.parse(text, {}, dialect=self._executions.store.dialect)
        groups = await self._executions.store.count_executions(Kind.WORKFLOW, namespace_id, query)
        return any(count for _, count in groups)


OPERATIONS = {
    "add_new_build_id_in_new_default_set": ("",),
    "add_new_compatible_build_id": ("new_build_id", "existing_compatible_build_id"),
    "promote_set_by_build_id": ("",),
    "promote_build_id_within_set": ("",),
    "merge_sets": ("primary_set_build_id", "secondary_set_build_id"),
}


def _check_update(request: ws.UpdateWorkerBuildIdCompatibilityRequest) -> None:
    """Raises InvalidArgument that names all that is missing."""
    operation = request.WhichOneof("operation")
    missing = [] if request.task_queue else ["`task_queue` to be set"]
    if operation is None:
        missing.append("an operation to be specified")
    else:
        asked = getattr(request, operation)
        for field in OPERATIONS[operation]:
            build = getattr(asked, field) if field else asked
            if not build:
                missing.append(f"`{field or operation}` to be set")
            elif len(build) > BUILD_ID_CHARS_MAX:
                missing.append(f"build ids of at most {BUILD_ID_CHARS_MAX} characters")
    if missing:
        raise InvalidArgument(
            f"request to update worker build ID compatability requires: {', '.join(missing)}"
        )
