"""RPCs of worker deployments, and the workers that make them known by their polls.

Rule 1: a deployment is an execution of its own kind; how it divides the traffic of task queues is in
        `Routes`, and changes there when the change is on disk.
Rule 2: what is on disk has effect, also if its caller has gone away meanwhile.
Rule 3: the first poll of a version is answered when the version is on disk; the others cost a look.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from temporalio.api.deployment.v1 import message_pb2 as messages
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine import priority
from durably.engine.deployment import machine, view
from durably.engine.deployment.machine import Asked, Limits
from durably.engine.deployment.state import DeploymentState, DeploymentVersion, PolledQueue
from durably.engine.state import Kind
from durably.engine.transition import Transition
from durably.engine.versioning.version import (
    UNVERSIONED_TEXT,
    Version,
    check,
    check_deployment,
    check_override,
    of_message,
    of_options,
    of_text,
    old_text,
    override_target,
    present_form,
)
from durably.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from durably.matching import POLLER_REMEMBERED_NS
from durably.routing import gone, routing_of
from durably.service.admission import Call
from durably.service.execution import Execution
from durably.service.ids import new_id
from durably.service.namespaces import Namespaces
from durably.service.nodes import RoutingChanged
from durably.service.task_queues import shown_stats
from durably.service.transact import CONFLICT_RETRIES, Executions
from durably.store import visibility_query
from durably.store.store import Conflict, QueueKey, TaskKind
from durably.under_way import UnderWay

R = TypeVar("R")
Decide = Callable[[Transition[DeploymentState]], R]
Poll = (
    ws.PollWorkflowTaskQueueRequest | ws.PollActivityTaskQueueRequest | ws.PollNexusTaskQueueRequest
)

NAME_OVERHEAD = 39
"""Both names of a version share the length of an identifier with this much else, as in Temporal."""
BUILD_ID_CHARS_MAX = 255
NO_COMPUTE = (
    "this server starts no workers, so that it has no compute providers: run workers yourself, and"
    " leave the compute config out"
)
KIND_NAMES = {TaskKind.WORKFLOW: "Workflow", TaskKind.ACTIVITY: "Activity"}


class Deployments:
    """Answers RPCs of worker deployments."""

    def __init__(self, executions: Executions, namespaces: Namespaces) -> None:
        self._executions = executions
        self._namespaces = namespaces
        self._matching = executions.matching
        self._routes = executions.routes
        config = executions.config
        self._config = config
        self._changes = UnderWay("changes of deployments")
        self._limits = Limits(
            versions_max=config.versions_per_deployment_max,
            queues_max=config.task_queues_per_version_max,
            drainage_grace_ns=int(config.version_drainage_grace_s * 1e9),
        )

    async def open(self) -> None:
        """Read how the traffic of task queues is divided: before anybody polls them, and again when
        another server has changed it."""
        there: set[tuple[str, str]] = set()
        async for found in self._executions.all_of_kind(Kind.DEPLOYMENT):
            if found.state.running:
                there.add((found.state.namespace_id, found.state.workflow_id))
                self._divide(routing_of(found.state))
        for namespace_id, name in self._routes.deployments() - there:
            await self._look_after(namespace_id, name)

    async def _look_after(self, namespace_id: str, name: str) -> None:
        """A deployment that was not listed: it is gone, or has just been made."""
        last = await self._executions.find_of_kind(Kind.DEPLOYMENT, namespace_id, name)
        self._divide(gone(namespace_id, name) if last is None else routing_of(last.state))

    # --- Polls --------------------------------------------------------------------------------

    def check_poll(self, request: Poll) -> None:
        """Raises InvalidArgument for a worker that says of itself what cannot be."""
        capabilities = request.worker_version_capabilities
        versioned = capabilities.use_versioning or request.HasField("deployment_options")
        queue = request.task_queue
        if versioned and queue.kind == queue_enums.TASK_QUEUE_KIND_STICKY and not queue.normal_name:
            raise InvalidArgument(
                "NormalName must be set on sticky queue when UseVersioning is true or"
                " DeploymentOptions are set."
            )
        if capabilities.use_versioning and not capabilities.build_id:
            raise InvalidArgument("WorkerVersionStamp must be present if UseVersioning is true.")
        if len(capabilities.build_id) > BUILD_ID_CHARS_MAX:
            raise InvalidArgument(
                f"Build ID exceeds {BUILD_ID_CHARS_MAX} characters, use a shorter build ID."
            )
        version = of_options(request.deployment_options)
        if version is None:
            return
        if not version.deployment or not version.build_id:
            raise InvalidArgument("Deployment name and build id must be set together.")
        check(version, self._name_chars_max)

    @property
    def _name_chars_max(self) -> int:
        return (self._config.identifier_chars_max - NAME_OVERHEAD) // 2

    async def register(self, request: Poll, key: QueueKey) -> None:
        """The version that polls a queue is known, with this queue, when this returns."""
        version = of_options(request.deployment_options)
        if version is None or request.task_queue.kind == queue_enums.TASK_QUEUE_KIND_STICKY:
            return
        if self._routes.has(key, version):
            return

        def decide(t: Transition[DeploymentState]) -> None:
            machine.polled(
                t, version.build_id, key.name, key.kind, self._limits, self._has_pollers(t.state)
            )

        await self._changes.in_full(
            self._made_and(key.namespace_id, request.namespace, version.deployment, decide)
        )

    def part_of(self, request: Poll, key: QueueKey) -> QueueKey:
        """The part of the queue that this worker polls. A sticky queue is one worker's anyway."""
        version = of_options(request.deployment_options)
        sticky = request.task_queue.kind == queue_enums.TASK_QUEUE_KIND_STICKY
        routes = self._routes
        if version is not None:
            return key if sticky else routes.part_of(key, version)
        capabilities = request.worker_version_capabilities
        if not capabilities.use_versioning:
            return key
        if sticky:
            normal = replace(key, name=request.task_queue.normal_name)
            routes.part_of_build(normal, capabilities.build_id)
            return key
        return routes.part_of_build(key, capabilities.build_id)

    def _has_pollers(self, state: DeploymentState) -> machine.HasPollers:
        def has_pollers(version: DeploymentVersion) -> bool:
            name = Version(state.workflow_id, version.build_id)
            return any(
                self._executions.dispatch.polled_within(
                    self._part(state.namespace_id, queue, name), POLLER_REMEMBERED_NS
                )
                for queue in version.queues
            )

        return has_pollers

    def _part(self, namespace_id: str, queue: PolledQueue, version: Version) -> QueueKey:
        return QueueKey(namespace_id, TaskKind(queue.kind), queue.name, str(version))

    # --- Changes ------------------------------------------------------------------------------

    async def _change(self, found: Execution[DeploymentState], decide: Decide[R]) -> R:
        def decided(t: Transition[DeploymentState]) -> tuple[R, Any]:
            result = decide(t)
            return result, routing_of(t.state) if t.changed else None

        result, routing = await self._executions.transact(found.execution_id, decided)
        if routing is not None:
            self._divide(routing)
            if self._executions.nodes is not None:
                self._executions.nodes.say(RoutingChanged())
                await self._executions.nodes.settle()
        return result

    def _divide(self, routing: Any) -> None:
        for key in self._routes.deployment_changed(routing):
            self._matching.reroute(key, self._executions.dispatch.place)

    async def _made_and(
        self,
        namespace_id: str,
        namespace: str,
        name: str,
        decide: Decide[R],
        open_it: Decide[None] = machine.open_by_poller,
    ) -> R:
        """Change a deployment, which is made first if there is none."""
        for _ in range(CONFLICT_RETRIES):
            found = await self._executions.find_of_kind(Kind.DEPLOYMENT, namespace_id, name)
            try:
                if found is None or not found.state.running:
                    found = await self._make(namespace_id, namespace, name, found, open_it)
                return await self._change(found, decide)
            except (Conflict, NotFound):
                continue  # Another made it, or removed it, meanwhile.
        raise Unavailable("this worker deployment is too busy; try again")

    async def _make(
        self,
        namespace_id: str,
        namespace: str,
        name: str,
        gone: Execution[DeploymentState] | None,
        open_it: Decide[None],
    ) -> Execution[DeploymentState]:
        await self._check_room(namespace_id)
        state = DeploymentState(
            namespace_id=namespace_id, namespace=namespace, workflow_id=name, run_id=new_id()
        )
        execution = self._executions.create(state, gone.execution_id if gone is not None else 0)
        t = self._executions.begin(state)
        open_it(t)
        await self._executions.commit([(execution, t)])
        return execution

    async def _check_room(self, namespace_id: str) -> None:
        query = visibility_query.parse("ExecutionStatus = 'Running'", {})
        groups = await self._executions.store.count_executions(Kind.DEPLOYMENT, namespace_id, query)
        limit = self._config.deployments_max
        if sum(count for _, count in groups) >= limit:
            raise ResourceExhausted(f"reached maximum deployments in namespace ({limit})")

    async def _find(self, namespace: str, name: str) -> Execution[DeploymentState]:
        namespace_id = self._namespaces.id_of(namespace)
        check_deployment(name, self._name_chars_max)
        found = await self._executions.find_of_kind(Kind.DEPLOYMENT, namespace_id, name)
        if found is None or not found.state.running:
            raise machine.not_found(name)
        return found

    async def _change_named(self, namespace: str, name: str, decide: Decide[R]) -> R:
        found = await self._find(namespace, name)
        return await self._changes.in_full(self._change(found, decide))

    # --- Made and removed by clients ----------------------------------------------------------

    async def create_worker_deployment(
        self, request: ws.CreateWorkerDeploymentRequest, call: Call
    ) -> ws.CreateWorkerDeploymentResponse:
        namespace_id = self._namespaces.id_of(request.namespace)
        name = request.deployment_name
        if not name:
            raise InvalidArgument("deployment name cannot be empty")
        check_deployment(name, self._name_chars_max)
        request_id = request.request_id or new_id()

        def decide(t: Transition[DeploymentState]) -> bytes:
            if t.state.create_request_id != request_id:
                polled = " (auto-created from worker polls)" if t.state.by_poller else ""
                raise AlreadyExists(f'Worker Deployment with name "{name}" already exists{polled}')
            return machine.conflict_token(t.state)

        def open_it(t: Transition[DeploymentState]) -> None:
            machine.create(t, request.identity, request_id)

        token = await self._changes.in_full(
            self._made_and(namespace_id, request.namespace, name, decide, open_it)
        )
        return ws.CreateWorkerDeploymentResponse(conflict_token=token)

    async def create_worker_deployment_version(
        self, request: ws.CreateWorkerDeploymentVersionRequest, call: Call
    ) -> ws.CreateWorkerDeploymentVersionResponse:
        version = self._named_version(request.deployment_version)
        if request.HasField("compute_config"):
            _refuse_compute(request.compute_config.scaling_groups)
        check(version, self._name_chars_max)
        request_id = request.request_id or new_id()
        await self._change_named(
            request.namespace,
            version.deployment,
            lambda t: machine.create_version(
                t,
                version.build_id,
                request.identity,
                request_id,
                self._limits,
                self._has_pollers(t.state),
            ),
        )
        return ws.CreateWorkerDeploymentVersionResponse()

    def _named_version(self, named: messages.WorkerDeploymentVersion) -> Version:
        if not named.deployment_name:
            raise InvalidArgument("deployment name cannot be empty")
        if not named.build_id:
            raise InvalidArgument("build ID cannot be empty")
        return of_message(named)

    async def delete_worker_deployment(
        self, request: ws.DeleteWorkerDeploymentRequest, call: Call
    ) -> ws.DeleteWorkerDeploymentResponse:
        try:
            await self._change_named(request.namespace, request.deployment_name, machine.remove)
        except NotFound:
            self._namespaces.id_of(request.namespace)
        return ws.DeleteWorkerDeploymentResponse()

    async def delete_worker_deployment_version(
        self, request: ws.DeleteWorkerDeploymentVersionRequest, call: Call
    ) -> ws.DeleteWorkerDeploymentVersionResponse:
        version = _version_of(request)
        await self._change_named(
            request.namespace,
            version.deployment,
            lambda t: machine.remove_version(
                t,
                version.build_id,
                request.identity or new_id(),
                skip_drainage=request.skip_drainage,
                has_pollers=self._has_pollers(t.state),
            ),
        )
        return ws.DeleteWorkerDeploymentVersionResponse()

    # --- Routing ------------------------------------------------------------------------------

    async def set_worker_deployment_current_version(
        self, request: ws.SetWorkerDeploymentCurrentVersionRequest, call: Call
    ) -> ws.SetWorkerDeploymentCurrentVersionResponse:
        if not request.deployment_name:
            raise InvalidArgument("deployment name cannot be empty")
        build_id = self._build_of(request)

        def decide(t: Transition[DeploymentState]) -> tuple[Version | None, bytes]:
            previous = t.state.version(t.state.current)
            machine.set_current(
                t,
                build_id,
                _asked(request),
                self._limits,
                self._has_pollers(t.state),
                self._still_needed(t.state),
            )
            return previous, machine.conflict_token(t.state)

        previous, token = await self._routed(request, build_id, decide)
        return ws.SetWorkerDeploymentCurrentVersionResponse(
            conflict_token=token,
            previous_version=old_text(previous),
            previous_deployment_version=previous.message if previous is not None else None,
        )

    async def set_worker_deployment_ramping_version(
        self, request: ws.SetWorkerDeploymentRampingVersionRequest, call: Call
    ) -> ws.SetWorkerDeploymentRampingVersionResponse:
        build_id = self._build_of(request)
        if not 0 <= request.percentage <= 100:
            raise InvalidArgument("Percentage must be between 0 and 100 (inclusive)")

        def decide(t: Transition[DeploymentState]) -> tuple[str, float, bytes]:
            state = t.state
            config = view.routing_config(state)
            machine.set_ramping(
                t,
                build_id,
                request.percentage,
                _asked(request),
                self._limits,
                self._has_pollers(state),
                self._still_needed(state),
            )
            percentage = config.ramping_version_percentage
            return config.ramping_version, percentage, machine.conflict_token(state)

        previous, percentage, token = await self._routed(request, build_id, decide)
        version = of_text(previous) if previous else None
        return ws.SetWorkerDeploymentRampingVersionResponse(
            conflict_token=token,
            previous_version=previous,
            previous_percentage=percentage,
            previous_deployment_version=version.message if version is not None else None,
        )

    async def _routed(
        self,
        request: ws.SetWorkerDeploymentCurrentVersionRequest
        | ws.SetWorkerDeploymentRampingVersionRequest,
        build_id: str,
        decide: Decide[R],
    ) -> R:
        """Who says that a version needs no pollers may name a deployment that has none either."""
        name = request.deployment_name
        if not request.allow_no_pollers:
            return await self._change_named(request.namespace, name, decide)
        namespace_id = self._namespaces.id_of(request.namespace)
        check_deployment(name, self._name_chars_max)
        if build_id:
            check(Version(name, build_id), self._name_chars_max)
        return await self._changes.in_full(
            self._made_and(namespace_id, request.namespace, name, decide)
        )

    def _build_of(
        self,
        request: ws.SetWorkerDeploymentCurrentVersionRequest
        | ws.SetWorkerDeploymentRampingVersionRequest,
    ) -> str:
        """The build that is asked for; empty: no version. Older clients name a whole version."""
        if not request.version:
            return request.build_id
        if request.version == UNVERSIONED_TEXT:
            return ""
        version = of_text(request.version)
        assert version is not None
        if version.deployment != request.deployment_name:
            raise InvalidArgument(
                f"invalid version string '{request.version}' does not match deployment name"
                f" '{request.deployment_name}'"
            )
        return version.build_id

    def _still_needed(self, state: DeploymentState) -> machine.StillNeeded:
        """A queue that another deployment serves by now, or in which nothing happens, is not."""

        def still_needed(queue: PolledQueue) -> bool:
            current = state.version(state.current)
            assert current is not None
            part = self._part(state.namespace_id, queue, current)
            whole = QueueKey(state.namespace_id, part.kind, part.name)
            routing = self._routes.of(whole)
            if routing is not None and routing.current.version not in (None, current):
                return False
            stats = self._matching.stats(part)
            return bool(stats.backlog) or stats.added_per_s > 0

        return still_needed

    async def set_worker_deployment_manager(
        self, request: ws.SetWorkerDeploymentManagerRequest, call: Call
    ) -> ws.SetWorkerDeploymentManagerResponse:
        if not request.identity:
            raise InvalidArgument("Identity is required")
        manager = request.identity if request.self else request.manager_identity

        def decide(t: Transition[DeploymentState]) -> tuple[str, bytes]:
            previous = t.state.manager
            machine.set_manager(t, manager, request.identity, request.conflict_token)
            return previous, machine.conflict_token(t.state)

        previous, token = await self._change_named(
            request.namespace, request.deployment_name, decide
        )
        return ws.SetWorkerDeploymentManagerResponse(
            conflict_token=token, previous_manager_identity=previous
        )

    # --- What is said of versions -------------------------------------------------------------

    async def update_worker_deployment_version_metadata(
        self, request: ws.UpdateWorkerDeploymentVersionMetadataRequest, call: Call
    ) -> ws.UpdateWorkerDeploymentVersionMetadataResponse:
        if not request.upsert_entries and not request.remove_entries:
            raise InvalidArgument(
                "At least one of remove_entries or upsert_entries must be provided"
            )
        size_bytes = sum(each.ByteSize() for each in request.upsert_entries.values())
        if size_bytes > self._config.memo_bytes_max:
            raise InvalidArgument(
                f"metadata of {size_bytes} bytes exceed the limit of"
                f" {self._config.memo_bytes_max} bytes (memo_bytes_max)."
            )
        version = _version_of(request)
        metadata = await self._change_named(
            request.namespace,
            version.deployment,
            lambda t: machine.update_metadata(
                t,
                version.build_id,
                request.upsert_entries,
                list(request.remove_entries),
                request.identity,
            ),
        )
        return ws.UpdateWorkerDeploymentVersionMetadataResponse(metadata=metadata)

    async def update_worker_deployment_version_compute_config(
        self, request: ws.UpdateWorkerDeploymentVersionComputeConfigRequest, call: Call
    ) -> ws.UpdateWorkerDeploymentVersionComputeConfigResponse:
        version = self._named_version(request.deployment_version)
        found = await self._find(request.namespace, version.deployment)
        await self._executions.read(
            found.execution_id, lambda state: machine.known_version(state, version.build_id)
        )
        raise _no_compute(request.compute_config_scaling_groups)

    async def validate_worker_deployment_version_compute_config(
        self, request: ws.ValidateWorkerDeploymentVersionComputeConfigRequest, call: Call
    ) -> ws.ValidateWorkerDeploymentVersionComputeConfigResponse:
        self._namespaces.id_of(request.namespace)
        raise _no_compute(request.compute_config_scaling_groups)

    # --- Descriptions -------------------------------------------------------------------------

    async def describe_worker_deployment(
        self, request: ws.DescribeWorkerDeploymentRequest, call: Call
    ) -> ws.DescribeWorkerDeploymentResponse:
        found = await self._find(request.namespace, request.deployment_name)

        def describe(state: DeploymentState) -> ws.DescribeWorkerDeploymentResponse:
            return ws.DescribeWorkerDeploymentResponse(
                worker_deployment_info=view.deployment_info(state),
                conflict_token=machine.conflict_token(state),
            )

        return await self._executions.read(found.execution_id, describe)

    async def describe_worker_deployment_version(
        self, request: ws.DescribeWorkerDeploymentVersionRequest, call: Call
    ) -> ws.DescribeWorkerDeploymentVersionResponse:
        if not request.version and not request.HasField("deployment_version"):
            raise InvalidArgument("deployment version cannot be empty")
        version = _version_of(request)
        check(version, self._name_chars_max)

        def describe(state: DeploymentState) -> ws.DescribeWorkerDeploymentVersionResponse:
            known = machine.known_version(state, version.build_id)
            response = ws.DescribeWorkerDeploymentVersionResponse(
                worker_deployment_version_info=view.version_info(state, known)
            )
            for queue in known.queues:
                shown = response.version_task_queues.add(name=queue.name, type=queue.kind)
                if request.report_task_queue_stats:
                    self._show_stats(shown, self._part(state.namespace_id, queue, version))
            return response

        try:
            found = await self._find(request.namespace, version.deployment)
            return await self._executions.read(found.execution_id, describe)
        except NotFound as error:
            self._namespaces.id_of(request.namespace)
            raise NotFound("Worker Deployment Version not found") from error

    def _show_stats(self, shown: Any, key: QueueKey) -> None:
        shown.stats.CopyFrom(shown_stats(self._matching.stats(key)))
        for level in {*self._matching.levels(key), priority.DEFAULT_LEVEL}:
            stats: taskqueue.TaskQueueStats = shown_stats(self._matching.stats(key, level))
            shown.stats_by_priority_key[level].CopyFrom(stats)

    async def list_worker_deployments(
        self, request: ws.ListWorkerDeploymentsRequest, call: Call
    ) -> ws.ListWorkerDeploymentsResponse:
        namespace_id = self._namespaces.id_of(request.namespace)
        longest = self._config.list_page_size_max
        size = request.page_size if 0 < request.page_size <= longest else longest
        query = visibility_query.parse("ExecutionStatus = 'Running'", {})
        rows, token = await self._executions.store.list_executions(
            Kind.DEPLOYMENT, namespace_id, query, size, request.next_page_token
        )
        response = ws.ListWorkerDeploymentsResponse(next_page_token=token)
        for row in rows:
            shown = await self._executions.read(row.execution_id, view.list_summary)
            response.worker_deployments.append(shown)
        return response

    # --- Overrides ----------------------------------------------------------------------------

    def check_override(
        self, namespace_id: str, queue: str, override: workflow_messages.VersioningOverride
    ) -> None:
        """Raises InvalidArgument for one that says nothing clear, FailedPrecondition for a version
        whose workers do not poll the workflow's queue."""
        check_override(override)
        target = override_target(override) or override_target(present_form(override))
        if target is None or override.HasField("deployment"):
            return
        if not self._executions.dispatch.in_version(namespace_id, queue, target):
            raise FailedPrecondition(
                f"Pinned version '{target}' is not present in task queue '{queue}' of type"
                f" '{KIND_NAMES[TaskKind.WORKFLOW]}'"
            )

    async def reactivate(
        self, namespace_id: str, override: workflow_messages.VersioningOverride
    ) -> None:
        """A workflow goes to a version that nobody expects any workflows on: it drains again."""
        target = override_target(present_form(override))
        if target is None:
            return
        found = await self._executions.find_of_kind(
            Kind.DEPLOYMENT, namespace_id, target.deployment
        )
        if found is not None and found.state.running:
            grace_ns = self._limits.drainage_grace_ns
            await self._changes.in_full(
                self._change(found, lambda t: machine.reactivate(t, target.build_id, grace_ns))
            )


def _asked(
    request: ws.SetWorkerDeploymentCurrentVersionRequest
    | ws.SetWorkerDeploymentRampingVersionRequest,
) -> Asked:
    return Asked(
        request.identity,
        request.conflict_token,
        request.ignore_missing_task_queues,
        request.allow_no_pollers,
    )


def _version_of(
    request: ws.DescribeWorkerDeploymentVersionRequest
    | ws.DeleteWorkerDeploymentVersionRequest
    | ws.UpdateWorkerDeploymentVersionMetadataRequest,
) -> Version:
    """The version that a request names, in one of two ways."""
    if request.HasField("deployment_version"):
        return of_message(request.deployment_version)
    version = of_text(request.version)
    if version is None:
        raise InvalidArgument(f"{UNVERSIONED_TEXT} is no version of a worker deployment")
    return version


def _refuse_compute(groups: Any) -> None:
    if groups:
        raise _no_compute(groups)


def _no_compute(groups: Any) -> InvalidArgument:
    names = ", ".join(sorted(groups)) or "no scaling group is named"
    return InvalidArgument(f"{names}: {NO_COMPUTE}")
