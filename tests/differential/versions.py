"""Programs about versions of workers: each has a deployment and a task queue of its own.

Rule 1: a change of the routing is waited for: the peer tells its task queues one after the other.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from temporalio.api.deployment.v1 import message_pb2 as deployments
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflow.v1 import message_pb2 as workflows
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import (
    BuildIdOpAddNewCompatible,
    BuildIdOpAddNewDefault,
    BuildIdOpMergeSets,
    BuildIdOpPromoteBuildIdWithinSet,
    BuildIdOpPromoteSetByBuildId,
)
from temporalio.common import (
    AutoUpgradeVersioningOverride,
    PinnedVersioningOverride,
    RetryPolicy,
    VersioningBehavior,
    WorkerDeploymentVersion,
)
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig

from tests.conftest import eventually
from tests.differential.programs import PROGRAMS, Handle, Stage, program, refusal, result
from tests.differential.worker import Do, echo

__all__ = ["PROGRAMS"]

PINNED, UPGRADE = VersioningBehavior.PINNED, VersioningBehavior.AUTO_UPGRADE
DEPLOYMENT, QUEUE = "shop", "queue"
DONE = queue_enums.ROUTING_CONFIG_UPDATE_STATE_IN_PROGRESS
WAITS = ["wait", 1]
ONCE_MORE = RetryPolicy(maximum_attempts=2)


class Shop:
    """One deployment on one server."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.name, self.queue = stage.id(DEPLOYMENT), stage.id(QUEUE)
        self.here = {"namespace": "default", "deployment_name": self.name}

    def version(self, build_id: str) -> deployments.WorkerDeploymentVersion:
        return deployments.WorkerDeploymentVersion(deployment_name=self.name, build_id=build_id)

    @contextlib.asynccontextmanager
    async def worker(
        self, build_id: str, behavior: VersioningBehavior = PINNED
    ) -> AsyncIterator[None]:
        config = WorkerDeploymentConfig(
            version=WorkerDeploymentVersion(self.name, build_id),
            use_worker_versioning=True,
            default_versioning_behavior=behavior,
        )
        async with Worker(
            self.stage.client,
            task_queue=self.queue,
            workflows=[Do],
            activities=[echo],
            deployment_config=config,
            workflow_runner=UnsandboxedWorkflowRunner(),
        ):
            await eventually(lambda: self.polled(build_id), 60)
            yield

    async def polled(self, build_id: str) -> bool:
        try:
            found = await self.describe_version(build_id)
        except RPCError:
            return False
        return len(found.version_task_queues) == 2

    async def describe(self) -> ws.DescribeWorkerDeploymentResponse:
        return await self.stage.service.describe_worker_deployment(
            ws.DescribeWorkerDeploymentRequest(**self.here)
        )

    async def describe_version(self, build_id: str) -> ws.DescribeWorkerDeploymentVersionResponse:
        return await self.stage.service.describe_worker_deployment_version(
            ws.DescribeWorkerDeploymentVersionRequest(
                namespace="default", deployment_version=self.version(build_id)
            )
        )

    async def settled(self) -> bool:
        state = (await self.describe()).worker_deployment_info.routing_config_update_state
        return state != DONE

    async def current(self, build_id: str, **options: Any) -> Any:
        request = ws.SetWorkerDeploymentCurrentVersionRequest(
            **self.here, build_id=build_id, identity="me", **options
        )
        given = await self.stage.service.set_worker_deployment_current_version(request)
        await eventually(self.settled, 60)
        return given

    async def ramp(self, build_id: str, percentage: float, **options: Any) -> Any:
        request = ws.SetWorkerDeploymentRampingVersionRequest(
            **self.here, build_id=build_id, percentage=percentage, identity="me", **options
        )
        given = await self.stage.service.set_worker_deployment_ramping_version(request)
        await eventually(self.settled, 60)
        return given

    async def start(self, *steps: list[Any], name: str = "w", **options: Any) -> Handle:
        return await self.stage.start(*steps, name=name, task_queue=self.queue, **options)

    async def info(self, handle: Handle) -> Any:
        described = await handle.describe()
        found = described.raw_description.workflow_execution_info
        return found.versioning_info, found.search_attributes, found.worker_deployment_name

    async def update(
        self, handle: Handle, options: workflows.WorkflowExecutionOptions, *p: str
    ) -> Any:
        request = ws.UpdateWorkflowExecutionOptionsRequest(
            namespace="default", workflow_execution_options=options, identity="me"
        )
        request.workflow_execution.workflow_id = handle.id
        request.update_mask.paths.extend(p)
        return await self.stage.service.update_workflow_execution_options(request)

    def pin(self, build_id: str) -> workflows.WorkflowExecutionOptions:
        options = workflows.WorkflowExecutionOptions()
        options.versioning_override.pinned.behavior = 1  # type: ignore[assignment]
        options.versioning_override.pinned.version.CopyFrom(self.version(build_id))
        return options


@program
async def versions_are_known_when_they_poll(stage: Stage) -> Any:
    shop = Shop(stage)
    before = await refusal(shop.describe())
    async with shop.worker("1"):
        first = await shop.describe()
        async with shop.worker("2"):
            both = await shop.describe()
            version = await shop.describe_version("2")
    version.version_task_queues.sort(key=lambda queue: queue.type)
    version.worker_deployment_version_info.task_queue_infos.sort(key=lambda queue: queue.type)
    return before, first, both, version


@program
async def versions_a_pinned_workflow_stays(stage: Stage) -> Any:
    shop = Shop(stage)
    async with shop.worker("1"), shop.worker("2"):
        told = [await shop.current("1")]
        handle = await shop.start(WAITS, ["activity", "echo", [1], {}], name="pinned")
        await stage.idle(handle)
        told.append(await shop.info(handle))
        told.append(await shop.current("2"))
        await handle.signal(Do.put, 1)
        told.append(await result(handle))
        told.append(await shop.info(handle))
        return told


@program
async def versions_a_workflow_upgrades(stage: Stage) -> Any:
    shop = Shop(stage)
    async with shop.worker("1", UPGRADE), shop.worker("2", UPGRADE):
        await shop.current("1")
        handle = await shop.start(WAITS, ["activity", "echo", [1], {}], ["wait", 2], name="up")
        await stage.idle(handle)
        told = [await shop.info(handle)]
        await shop.current("2")
        await handle.signal(Do.put, 1)
        await stage.idle(handle, 3)
        told.append(await shop.info(handle))
        await handle.signal(Do.put, 2)
        told += [await result(handle), await shop.info(handle), await shop.describe()]
        return told


@program
async def versions_a_ramp_of_all(stage: Stage) -> Any:
    shop = Shop(stage)
    async with shop.worker("1"), shop.worker("2"):
        told = [await shop.current("1"), await shop.ramp("2", 100)]
        handle = await shop.start(name="ramped")
        told += [await result(handle), await shop.info(handle), await shop.describe()]
        told.append(await shop.ramp("2", 0))
        other = await shop.start(name="not-ramped")
        told += [await result(other), await shop.info(other)]
        told += [await shop.ramp("", 0), await shop.describe()]
        return told


@program
async def versions_a_workflow_waits_for_its_first_version(stage: Stage) -> Any:
    shop = Shop(stage)
    async with shop.worker("1"):
        handle = await shop.start(name="waits")
        told = [await shop.info(handle)]
        await shop.current("1")
        return [*told, await result(handle), await shop.info(handle)]


@program
async def versions_an_override_at_the_start(stage: Stage) -> Any:
    shop = Shop(stage)
    async with shop.worker("1", UPGRADE), shop.worker("2", UPGRADE):
        await shop.current("1")
        pinned = PinnedVersioningOverride(WorkerDeploymentVersion(shop.name, "2"))
        handle = await shop.start(WAITS, name="pinned", versioning_override=pinned)
        await stage.idle(handle)
        told = [await shop.info(handle)]
        await handle.signal(Do.put, 1)
        told.append(await result(handle))
        upgrade = AutoUpgradeVersioningOverride()
        other = await shop.start(name="upgrades", versioning_override=upgrade)
        told += [await result(other), await shop.info(other)]
        unknown = PinnedVersioningOverride(WorkerDeploymentVersion(shop.name, "9"))
        told.append(await refusal(shop.start(name="none", versioning_override=unknown)))
        return told


@program
async def versions_options_are_updated(stage: Stage) -> Any:
    shop = Shop(stage)
    async with shop.worker("1", UPGRADE), shop.worker("2", UPGRADE):
        await shop.current("2")
        handle = await shop.start(WAITS, ["activity", "echo", [1], {}], ["wait", 2])
        await stage.idle(handle)
        none = workflows.WorkflowExecutionOptions()
        urgent = workflows.WorkflowExecutionOptions()
        urgent.priority.priority_key = 1
        once = workflows.WorkflowExecutionOptions()
        target = once.versioning_override.one_time.target_deployment_version
        target.CopyFrom(shop.version("1"))
        told: list[Any] = [
            await shop.update(handle, shop.pin("1"), "versioning_override"),
            await shop.info(handle),
            await shop.update(handle, shop.pin("1"), "versioning_override"),
            await shop.update(handle, urgent, "priority.priority_key"),
            await refusal(shop.update(handle, shop.pin("1"), "versioning_override.pinned")),
            await refusal(shop.update(handle, shop.pin("9"), "versioning_override")),
            await shop.update(handle, none, "versioning_override"),
            await shop.info(handle),
            await shop.update(handle, once, "versioning_override"),
        ]
        await handle.signal(Do.put, 1)
        await stage.idle(handle, 3)
        told.append(await shop.info(handle))
        await handle.signal(Do.put, 2)
        told.append(await result(handle))
        told.append(await refusal(shop.update(handle, none, "versioning_override")))
        return told


@program
async def versions_children_inherit_a_pin(stage: Stage) -> Any:
    shop = Shop(stage)
    async with shop.worker("1"), shop.worker("2"):
        await shop.current("1")
        child = ["child", stage.id("child"), [["activity", "echo", [1], {}]], {}]
        handle = await shop.start(WAITS, child, name="parent")
        await stage.idle(handle)
        await shop.current("2")
        await handle.signal(Do.put, 1)
        told = [await result(handle)]
        found = stage.client.get_workflow_handle(stage.id("child"))
        return [*told, await shop.info(found)]


@program
async def versions_children_upgrade(stage: Stage) -> Any:
    shop = Shop(stage)
    async with shop.worker("1", UPGRADE):
        await shop.current("1")
        child = ["child", stage.id("child"), [], {}]
        handle = await shop.start(child, name="parent")
        told = [await result(handle)]
        found = stage.client.get_workflow_handle(stage.id("child"))
        return [*told, await shop.info(found)]


async def continued(stage: Stage, behavior: str) -> Any:
    shop = Shop(stage)
    async with shop.worker("1"), shop.worker("2"):
        await shop.current("1")
        handle = await shop.start(WAITS, ["continue", [], behavior], name="w")
        await stage.idle(handle)
        await shop.current("2")
        await handle.signal(Do.put, 1)
        told = [await result(handle)]
        told.append(await shop.info(stage.client.get_workflow_handle(handle.id)))
        first = stage.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
        return [*told, (await first.fetch_history()).events[-1]]


@program
async def versions_continue_as_new(stage: Stage) -> Any:
    return await continued(stage, "")


@program
async def versions_continue_as_new_in_the_next(stage: Stage) -> Any:
    return await continued(stage, "AUTO_UPGRADE")


@program
async def versions_a_retry_begins_again(stage: Stage) -> Any:
    shop = Shop(stage)
    async with shop.worker("1", UPGRADE):
        await shop.current("1")
        policy = {"retry_policy": ONCE_MORE}
        handle = await shop.start(["fail_until", 2], name="again", **policy)
        told = [await result(handle)]
        return [*told, await shop.info(stage.client.get_workflow_handle(handle.id))]


@program
async def versions_what_is_refused(stage: Stage) -> Any:
    shop = Shop(stage)
    service = stage.service
    told: list[Any] = [await refusal(shop.current("1"))]
    async with shop.worker("1"), shop.worker("2"):
        told += [
            await refusal(shop.current("9")),
            await refusal(shop.current("1", conflict_token=b"wrong")),
            await refusal(shop.ramp("1", 101)),
            await refusal(shop.ramp("", 5)),
            await shop.current("1"),
            await shop.current("1"),
            await refusal(shop.ramp("1", 5)),
        ]
        boss = ws.SetWorkerDeploymentManagerRequest(**shop.here, self=True, identity="boss")
        told.append(await service.set_worker_deployment_manager(boss))
        told.append(await refusal(shop.current("2")))
        boss.manager_identity, boss.identity = "", "me"
        told.append(await service.set_worker_deployment_manager(boss))
        for build_id, skip in (("1", True), ("2", False), ("9", False)):
            request = ws.DeleteWorkerDeploymentVersionRequest(
                namespace="default", deployment_version=shop.version(build_id), skip_drainage=skip
            )
            request.identity = "me"
            told.append(await refusal(service.delete_worker_deployment_version(request)))
        gone = ws.DeleteWorkerDeploymentRequest(**shop.here)
        told.append(await refusal(service.delete_worker_deployment(gone)))
    return told


@program
async def versions_made_by_hand(stage: Stage) -> Any:
    shop = Shop(stage)
    service = stage.service
    create = ws.CreateWorkerDeploymentRequest(**shop.here, identity="me", request_id="r1")
    version = ws.CreateWorkerDeploymentVersionRequest(
        namespace="default", deployment_version=shop.version("1"), identity="me", request_id="r2"
    )
    told: list[Any] = [await refusal(service.create_worker_deployment_version(version))]
    told += [await service.create_worker_deployment(create) for _ in range(2)]
    create.request_id = "r3"
    told.append(await refusal(service.create_worker_deployment(create)))
    told += [await service.create_worker_deployment_version(version) for _ in range(2)]
    version.request_id = "r4"
    told.append(await refusal(service.create_worker_deployment_version(version)))
    metadata = ws.UpdateWorkerDeploymentVersionMetadataRequest(
        namespace="default", deployment_version=shop.version("1"), identity="you"
    )
    told.append(await refusal(service.update_worker_deployment_version_metadata(metadata)))
    metadata.upsert_entries["commit"].data = b"abc"
    told.append(await service.update_worker_deployment_version_metadata(metadata))
    told += [await shop.describe(), await shop.describe_version("1")]
    delete = ws.DeleteWorkerDeploymentVersionRequest(
        namespace="default", deployment_version=shop.version("1"), identity="me"
    )
    told.append(await service.delete_worker_deployment_version(delete))
    gone = ws.DeleteWorkerDeploymentRequest(**shop.here, identity="me")
    told += [await service.delete_worker_deployment(gone) for _ in range(2)]
    told += [await refusal(shop.describe()), await refusal(shop.describe_version("1"))]
    return told


@program
async def sets_of_compatible_builds(stage: Stage) -> Any:
    client, queue = stage.client, stage.id(QUEUE)
    told: list[Any] = []
    for operation in (
        BuildIdOpAddNewDefault("1.0"),
        BuildIdOpAddNewDefault("1.0"),
        BuildIdOpAddNewCompatible("1.1", "1.0"),
        BuildIdOpAddNewCompatible("1.2", "9"),
        BuildIdOpAddNewDefault("1.1"),
        BuildIdOpPromoteBuildIdWithinSet("1.0"),
        BuildIdOpAddNewDefault("2.0"),
        BuildIdOpAddNewCompatible("2.0", "1.0"),
        BuildIdOpPromoteSetByBuildId("1.0"),
        BuildIdOpPromoteSetByBuildId("9"),
        BuildIdOpMergeSets("2.0", "1.0"),
        BuildIdOpMergeSets("9", "1.0"),
    ):
        told.append(await refusal(client.update_worker_build_id_compatibility(queue, operation)))
        request = ws.GetWorkerBuildIdCompatibilityRequest(namespace="default", task_queue=queue)
        told.append(await stage.service.get_worker_build_id_compatibility(request))
    reach = ws.GetWorkerTaskReachabilityRequest(
        namespace="default", build_ids=["2.0", "1.0", "nope"], task_queues=[queue]
    )
    told.append(await stage.service.get_worker_task_reachability(reach))
    poll = ws.PollWorkflowTaskQueueRequest(
        namespace="default", task_queue=taskqueue.TaskQueue(name=queue)
    )
    poll.worker_version_capabilities.build_id = "1.0"
    poll.worker_version_capabilities.use_versioning = True
    told.append(await refusal(stage.service.poll_workflow_task_queue(poll)))
    return told


@program
async def workers_with_compatible_builds(stage: Stage) -> Any:
    client, queue = stage.client, stage.id(QUEUE)

    def worker(build_id: str) -> Worker:
        return Worker(
            client,
            task_queue=queue,
            workflows=[Do],
            activities=[echo],
            build_id=build_id,
            use_worker_versioning=True,
            workflow_runner=UnsandboxedWorkflowRunner(),
        )

    await client.update_worker_build_id_compatibility(queue, BuildIdOpAddNewDefault("1.0"))
    steps: list[Any] = [WAITS, ["activity", "echo", [1], {}]]
    async with worker("1.0"):
        handle = await stage.start(*steps, task_queue=queue, name="compatible")
        await stage.idle(handle)
    await client.update_worker_build_id_compatibility(
        queue, BuildIdOpAddNewCompatible("1.1", "1.0")
    )
    async with worker("1.1"):
        await handle.signal(Do.put, 1)
        told = [await result(handle)]
    described = await handle.describe()
    return [*told, described.raw_description.workflow_execution_info.search_attributes]
