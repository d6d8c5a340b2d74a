"""Versions of workers: real workers of several versions, and where their workflows go; also after a kill."""

import asyncio
import contextlib
import json
import sysconfig
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import nexusrpc
import pytest
import pytest_asyncio
from nexusrpc.handler import StartOperationContext, service_handler, sync_operation
from temporalio import activity, workflow
from temporalio.api.batch.v1 import message_pb2 as batch
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.deployment.v1 import message_pb2 as messages
from temporalio.api.enums.v1 import deployment_pb2 as deployment_enums
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.nexus.v1 import message_pb2 as nexus_messages
from temporalio.api.operatorservice.v1 import request_response_pb2 as ops
from temporalio.api.workflow.v1 import message_pb2 as workflows
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import (
    BuildIdOpAddNewCompatible,
    BuildIdOpAddNewDefault,
    Client,
    WorkflowHandle,
)
from temporalio.common import PinnedVersioningOverride, VersioningBehavior, WorkerDeploymentVersion
from temporalio.service import RetryConfig, RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig

from durably import Server
from tests.conftest import eventually
from tests.processes import ServerProcess

PINNED, UPGRADE = VersioningBehavior.PINNED, VersioningBehavior.AUTO_UPGRADE
DEPLOYMENT, QUEUE = "shop", "orders"
HERE = {"namespace": "default", "deployment_name": DEPLOYMENT}
DRAINED = deployment_enums.VERSION_DRAINAGE_STATUS_DRAINED
DRAINING = deployment_enums.VERSION_DRAINAGE_STATUS_DRAINING
CLI = Path(sysconfig.get_path("scripts")) / "temporal"


@workflow.defn
class Order:
    """Says which build worked on it at the start, then, for each signal, which one did then."""

    def __init__(self) -> None:
        self.signals = 0

    @workflow.run
    async def run(self, signals: int = 0) -> list[str]:
        said = [await self.who()]
        for number in range(signals):
            await workflow.wait_condition(lambda n=number: self.signals > n)
            said.append(await self.who())
        return said

    async def who(self) -> str:
        limit = timedelta(seconds=20)
        return await workflow.execute_activity("who", start_to_close_timeout=limit, result_type=str)

    @workflow.signal
    def go_on(self) -> None:
        self.signals += 1


def worker(client: Client, build_id: str, behavior: VersioningBehavior = PINNED) -> Worker:
    """One whose activity says what build it is."""

    @activity.defn(name="who")
    async def who() -> str:
        return build_id

    return Worker(
        client,
        task_queue=QUEUE,
        workflows=[Order],
        activities=[who],
        deployment_config=WorkerDeploymentConfig(
            version=WorkerDeploymentVersion(DEPLOYMENT, build_id),
            use_worker_versioning=True,
            default_versioning_behavior=behavior,
        ),
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


def version(build_id: str) -> messages.WorkerDeploymentVersion:
    return messages.WorkerDeploymentVersion(deployment_name=DEPLOYMENT, build_id=build_id)


async def describe_version(
    client: Client, build_id: str
) -> ws.DescribeWorkerDeploymentVersionResponse:
    return await client.workflow_service.describe_worker_deployment_version(
        ws.DescribeWorkerDeploymentVersionRequest(
            namespace="default", deployment_version=version(build_id)
        )
    )


async def known(client: Client, *builds: str) -> None:
    """Until workers of these builds have polled for workflows and for activities."""

    async def polled() -> bool:
        try:
            found = [await describe_version(client, build) for build in builds]
        except RPCError:
            return False
        return all(len(each.version_task_queues) == 2 for each in found)

    await eventually(polled)


@contextlib.asynccontextmanager
async def workers(
    client: Client, *builds: str, behavior: VersioningBehavior = PINNED
) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for build in builds:
            await stack.enter_async_context(worker(client, build, behavior))
        await known(client, *builds)
        yield


async def current(client: Client, build_id: str) -> None:
    await client.workflow_service.set_worker_deployment_current_version(
        ws.SetWorkerDeploymentCurrentVersionRequest(**HERE, build_id=build_id)
    )


async def ramp(client: Client, build_id: str, percentage: float) -> None:
    await client.workflow_service.set_worker_deployment_ramping_version(
        ws.SetWorkerDeploymentRampingVersionRequest(
            **HERE, build_id=build_id, percentage=percentage
        )
    )


async def start(client: Client, name: str, signals: int = 0, **options: Any) -> WorkflowHandle:  # type: ignore[type-arg]
    return await client.start_workflow(
        Order.run, signals, id=name, task_queue=QUEUE, result_type=list[str], **options
    )


async def began(handle: WorkflowHandle) -> None:  # type: ignore[type-arg]
    """Until it waits for its first signal."""

    async def waits() -> bool:
        history = await handle.fetch_history()
        names = [event.WhichOneof("attributes") for event in history.events]
        return (
            "activity_task_completed_event_attributes" in names
            and names[-1] == "workflow_task_completed_event_attributes"
        )

    await eventually(waits)


def pin(build_id: str) -> workflows.WorkflowExecutionOptions:
    options = workflows.WorkflowExecutionOptions()
    options.versioning_override.pinned.behavior = (
        workflows.VersioningOverride.PINNED_OVERRIDE_BEHAVIOR_PINNED
    )
    options.versioning_override.pinned.version.CopyFrom(version(build_id))
    return options


# --- Where workflows go -------------------------------------------------------------------------


async def test_a_pinned_workflow_stays_and_new_ones_go_to_the_current_version(
    client: Client,
) -> None:
    async with workers(client, "1", "2"):
        await current(client, "1")
        old = await start(client, "old", 1)
        await began(old)
        await current(client, "2")
        assert await (await start(client, "new")).result() == ["2"]
        await old.signal(Order.go_on)
        assert await old.result() == ["1", "1"]


async def test_a_workflow_that_upgrades_moves_with_the_next_task(client: Client) -> None:
    async with workers(client, "1", "2", behavior=UPGRADE):
        await current(client, "1")
        handle = await start(client, "moves", 1)
        await began(handle)
        await current(client, "2")
        await handle.signal(Order.go_on)
        assert await handle.result() == ["1", "2"]
        found = [
            each.id
            async for each in client.list_workflows(
                "TemporalWorkerDeploymentVersion = 'shop:2' AND TemporalWorkflowVersioningBehavior = 'AutoUpgrade'"
            )
        ]
        assert found == ["moves"]


async def test_a_ramp_takes_its_share_and_always_the_same_one(client: Client) -> None:
    async with workers(client, "1", "2"):
        await current(client, "1")
        await ramp(client, "2", 30)
        ids = [f"order-{number}" for number in range(100)]

        async def first(name: str) -> str:
            return str((await (await start(client, name)).result())[0])

        once = dict(zip(ids, await asyncio.gather(*map(first, ids)), strict=True))
        assert 15 <= Counter(once.values())["2"] <= 45
        again = dict(zip(ids, await asyncio.gather(*map(first, ids)), strict=True))
        assert again == once
        await ramp(client, "2", 60)
        more = dict(zip(ids, await asyncio.gather(*map(first, ids)), strict=True))
        assert {name for name in ids if once[name] == "2"} < {
            name for name in ids if more[name] == "2"
        }
        await ramp(client, "2", 100)
        assert await first("order-0") == await first("order-1") == "2"


async def test_a_workflow_waits_for_workers_of_its_version(client: Client) -> None:
    async with workers(client, "2"):
        async with workers(client, "1"):
            await current(client, "1")
            handle = await start(client, "waits", 1)
            await began(handle)
        await current(client, "2")
        await handle.signal(Order.go_on)
        assert await (await start(client, "other")).result() == ["2"]
        described = await handle.describe()
        assert described.raw_description.HasField("pending_workflow_task")
        async with workers(client, "1"):
            assert await handle.result() == ["1", "1"]


async def test_workers_without_versioning_have_what_no_version_has(client: Client) -> None:
    @activity.defn(name="who")
    async def who() -> str:
        return "none"

    async with (
        Worker(
            client,
            task_queue=QUEUE,
            workflows=[Order],
            activities=[who],
            workflow_runner=UnsandboxedWorkflowRunner(),
        ),
        workers(client, "1", behavior=UPGRADE),
    ):
        before = await start(client, "before", 1)
        await began(before)
        await current(client, "1")
        await before.signal(Order.go_on)
        assert await before.result() == ["none", "1"]
        await client.workflow_service.set_worker_deployment_current_version(
            ws.SetWorkerDeploymentCurrentVersionRequest(**HERE)
        )
        assert await (await start(client, "after")).result() == ["none"]


# --- Overrides ----------------------------------------------------------------------------------


async def test_overrides_at_the_start_and_later(client: Client) -> None:
    async with workers(client, "1", "2", behavior=UPGRADE):
        await current(client, "1")
        override = PinnedVersioningOverride(WorkerDeploymentVersion(DEPLOYMENT, "2"))
        handle = await start(client, "pinned", 2, versioning_override=override)
        await began(handle)
        await handle.signal(Order.go_on)
        await eventually(lambda: tasks(handle, 2))
        request = ws.UpdateWorkflowExecutionOptionsRequest(namespace="default")
        request.workflow_execution.workflow_id = handle.id
        request.workflow_execution_options.SetInParent()
        request.update_mask.paths.append("versioning_override")
        await client.workflow_service.update_workflow_execution_options(request)
        await handle.signal(Order.go_on)
        assert await handle.result() == ["2", "2", "1"]
        with pytest.raises(RPCError) as refused:
            await client.workflow_service.update_workflow_execution_options(request)
        assert refused.value.status is RPCStatusCode.NOT_FOUND


async def tasks(handle: WorkflowHandle, count: int) -> bool:  # type: ignore[type-arg]
    """Whether so many activities have been completed, and the workflow has taken it in: what comes then
    is no part of a task that a worker still has."""
    names = [e.WhichOneof("attributes") for e in (await handle.fetch_history()).events]
    return (
        names.count("activity_task_completed_event_attributes") == count
        and names[-1] == "workflow_task_completed_event_attributes"
    )


async def test_a_batch_moves_many_workflows(client: Client) -> None:
    async with workers(client, "1", "2"):
        await current(client, "1")
        handles = [await start(client, f"w{number}", 1) for number in range(5)]
        for handle in handles:
            await began(handle)
        operation = batch.BatchOperationUpdateWorkflowExecutionOptions(
            workflow_execution_options=pin("2")
        )
        operation.update_mask.paths.append("versioning_override")
        await client.workflow_service.start_batch_operation(
            ws.StartBatchOperationRequest(
                namespace="default",
                job_id="move",
                reason="1 is bad",
                executions=[common.WorkflowExecution(workflow_id=each.id) for each in handles],
                update_workflow_options_operation=operation,
            )
        )

        async def moved(handle: WorkflowHandle) -> bool:  # type: ignore[type-arg]
            info = (await handle.describe()).raw_description.workflow_execution_info
            return info.versioning_info.versioning_override.HasField("pinned")

        for handle in handles:
            await eventually(lambda handle=handle: moved(handle))
            await handle.signal(Order.go_on)
            assert await handle.result() == ["1", "2"]


async def test_a_reset_can_send_its_run_to_another_version(client: Client) -> None:
    async with workers(client, "1", "2"):
        await current(client, "1")
        handle = await start(client, "bad")
        assert await handle.result() == ["1"]
        request = ws.ResetWorkflowExecutionRequest(
            namespace="default",
            workflow_execution=common.WorkflowExecution(workflow_id="bad"),
            reason="1 is bad",
            workflow_task_finish_event_id=4,
            request_id="again",
        )
        after = request.post_reset_operations.add().update_workflow_options
        after.workflow_execution_options.CopyFrom(pin("2"))
        after.update_mask.paths.append("versioning_override")
        await client.workflow_service.reset_workflow_execution(request)
        assert await client.get_workflow_handle("bad", result_type=list[str]).result() == ["2"]


# --- The end of a version -----------------------------------------------------------------------


@pytest_asyncio.fixture
async def quick(tmp_path: Path) -> AsyncIterator[Client]:
    """Of a server that looks soon, and often, whether a version is drained."""
    async with Server(
        store=f"sqlite:///{tmp_path}/store.db",
        port=0,
        version_drainage_grace_s=0.05,
        version_drainage_interval_s=0.05,
    ) as server:
        yield await Client.connect(server.address)


async def drainage(client: Client, build_id: str) -> int:
    info = (await describe_version(client, build_id)).worker_deployment_version_info
    return int(info.drainage_info.status)


async def test_a_version_drains_and_is_deleted(quick: Client) -> None:
    delete = ws.DeleteWorkerDeploymentVersionRequest(
        namespace="default", deployment_version=version("1")
    )
    async with workers(quick, "2"):
        async with workers(quick, "1"):
            await current(quick, "1")
            handle = await start(quick, "last", 1)
            await began(handle)
            await current(quick, "2")
            await asyncio.sleep(0.3)  # long enough to be looked at a few times
            assert await drainage(quick, "1") == DRAINING
            with pytest.raises(RPCError, match="drain"):
                await quick.workflow_service.delete_worker_deployment_version(delete)
            await handle.signal(Order.go_on)
            assert await handle.result() == ["1", "1"]

            async def drained() -> bool:
                return await drainage(quick, "1") == DRAINED

            await eventually(drained)
            with pytest.raises(RPCError, match="pollers"):
                await quick.workflow_service.delete_worker_deployment_version(delete)

        async def deleted() -> bool:
            try:
                await quick.workflow_service.delete_worker_deployment_version(delete)
            except RPCError as refused:
                assert "pollers" in refused.message  # noqa: PT017
                return False
            return True

        await eventually(deleted)
        with pytest.raises(RPCError, match="not found"):
            await describe_version(quick, "1")
        assert await (await start(quick, "next")).result() == ["2"]


# --- After a kill -------------------------------------------------------------------------------


async def test_routing_and_waiting_tasks_outlive_a_kill(server_process: ServerProcess) -> None:
    server_process.start()
    client = await Client.connect(server_process.address)
    async with workers(client, "1", "2"):
        await current(client, "1")
        pinned = await start(client, "pinned", 1)
        await began(pinned)
        await current(client, "2")
        await ramp(client, "1", 100)
    await pinned.signal(Order.go_on)
    new = await start(client, "new")
    server_process.kill()
    server_process.start()
    info = (
        await client.workflow_service.describe_worker_deployment(
            ws.DescribeWorkerDeploymentRequest(**HERE)
        )
    ).worker_deployment_info.routing_config
    assert info.current_deployment_version == version("2")
    assert (info.ramping_deployment_version, info.ramping_version_percentage) == (version("1"), 100)
    async with worker(client, "2"):
        other = await start(client, "other", versioning_override=override_to("2"))
        assert await other.result() == ["2"]
        for handle in (pinned, new):
            assert (await handle.describe()).raw_description.HasField("pending_workflow_task")
        async with worker(client, "1"):
            assert await pinned.result() == ["1", "1"]
            assert await new.result() == ["1"]


def override_to(build_id: str) -> PinnedVersioningOverride:
    return PinnedVersioningOverride(WorkerDeploymentVersion(DEPLOYMENT, build_id))


async def test_kills_while_workflows_move(server_process: ServerProcess) -> None:
    server_process.start()
    # A server takes long to come back on a busy machine.
    patient = RetryConfig(max_elapsed_time_millis=60_000, max_retries=1000)
    client = await Client.connect(server_process.address, retry_config=patient)
    async with workers(client, "1", "2", behavior=UPGRADE):
        await current(client, "1")
        handles = [await start(client, f"w{number}", 2) for number in range(20)]
        for handle in handles:
            await began(handle)
        for build in ("2", "1"):
            await current(client, build)
            signals = [asyncio.ensure_future(handle.signal(Order.go_on)) for handle in handles]
            await asyncio.sleep(0.05)
            server_process.kill()
            server_process.start()
            await asyncio.gather(*signals)
            for handle in handles:
                await eventually(lambda handle=handle, build=build: settled(handle, build))
        said = [await handle.result() for handle in handles]
    assert {tuple(each) for each in said} == {("1", "2", "1")}


async def settled(handle: WorkflowHandle, build: str) -> bool:  # type: ignore[type-arg]
    """Whether the last thing that happened is that a worker of that build has done its work."""
    last = (await handle.fetch_history()).events[-1]
    if last.HasField("workflow_execution_completed_event_attributes"):
        return True
    completed = last.workflow_task_completed_event_attributes
    return completed.deployment_version.build_id == build


# --- Sets of compatible builds ------------------------------------------------------------------


async def test_compatible_builds_take_over_and_others_do_not(
    server: Server, client: Client
) -> None:
    async def with_build(build_id: str) -> Worker:
        @activity.defn(name="who")
        async def who() -> str:
            return build_id

        return Worker(
            await Client.connect(server.address),  # one client has one worker of a queue
            task_queue=QUEUE,
            workflows=[Order],
            activities=[who],
            build_id=build_id,
            use_worker_versioning=True,
            workflow_runner=UnsandboxedWorkflowRunner(),
        )

    await client.update_worker_build_id_compatibility(QUEUE, BuildIdOpAddNewDefault("1.0"))
    async with await with_build("1.0"):
        handle = await start(client, "first", 1)
        await began(handle)
    await client.update_worker_build_id_compatibility(
        QUEUE, BuildIdOpAddNewCompatible("1.1", "1.0")
    )
    await client.update_worker_build_id_compatibility(QUEUE, BuildIdOpAddNewDefault("2.0"))
    await handle.signal(Order.go_on)
    async with await with_build("2.0"):
        assert await (await start(client, "second")).result() == ["2.0"]
        async with await with_build("1.1"):
            assert await handle.result() == ["1.0", "1.1"]


# --- Nexus --------------------------------------------------------------------------------------


@nexusrpc.service
class Desk:
    who: nexusrpc.Operation[str, str]


def handler(client: Client, build_id: str) -> Worker:
    """One whose operation says what build it is."""

    @service_handler(service=Desk)
    class DeskHandler:
        @sync_operation
        async def who(self, _ctx: StartOperationContext, word: str) -> str:
            return build_id

    return Worker(
        client,
        task_queue=QUEUE,
        nexus_service_handlers=[DeskHandler()],
        deployment_config=WorkerDeploymentConfig(
            version=WorkerDeploymentVersion(DEPLOYMENT, build_id), use_worker_versioning=True
        ),
    )


async def test_requests_to_handlers_go_to_the_current_version(client: Client) -> None:
    spec = nexus_messages.EndpointSpec(name="desk")
    spec.target.worker.namespace, spec.target.worker.task_queue = "default", QUEUE
    await client.operator_service.create_nexus_endpoint(ops.CreateNexusEndpointRequest(spec=spec))
    desk = client.create_nexus_client(service=Desk, endpoint="desk")

    async def ask(operation_id: str) -> Any:
        limit = timedelta(seconds=60)
        return await desk.start_operation(
            Desk.who, "", id=operation_id, schedule_to_close_timeout=limit
        )

    async def polled(build_id: str) -> bool:
        with contextlib.suppress(RPCError):
            queues = (await describe_version(client, build_id)).version_task_queues
            return [queue.type for queue in queues] == [queue_enums.TASK_QUEUE_TYPE_NEXUS]
        return False

    async with handler(client, "1"), handler(client, "2"):
        for build_id in ("1", "2"):
            await eventually(lambda build_id=build_id: polled(build_id))
        waiting = await ask("waits")  # No version is current yet: nobody here is to have it.
        await current(client, "2")
        assert await waiting.result() == "2"
        assert {await (await ask(f"{n}")).result() for n in range(5)} == {"2"}
        await current(client, "1")
        assert {await (await ask(f"{n + 5}")).result() for n in range(5)} == {"1"}


# --- What people see ----------------------------------------------------------------------------


async def test_a_task_queue_says_how_its_traffic_is_divided(client: Client) -> None:
    async with workers(client, "1", "2"):
        await current(client, "1")
        await ramp(client, "2", 25)
        request = ws.DescribeTaskQueueRequest(namespace="default")
        request.task_queue.name = QUEUE
        request.task_queue_type = queue_enums.TASK_QUEUE_TYPE_WORKFLOW
        found = (await client.workflow_service.describe_task_queue(request)).versioning_info
        assert found.current_deployment_version == version("1")
        assert found.ramping_deployment_version == version("2")
        assert found.ramping_version_percentage == 25


async def test_the_command_line_changes_the_routing(server: Server, client: Client) -> None:
    async def temporal(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            str(CLI),
            "worker",
            "deployment",
            *arguments,
            "--address",
            server.address,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        return output.decode()

    async with workers(client, "1", "2"):
        named = ("--deployment-name", DEPLOYMENT, "--build-id")
        await temporal("set-current-version", *named, "1", "--yes")
        await temporal("set-ramping-version", *named, "2", "--percentage", "10", "--yes")
        shown = json.loads(await temporal("describe", "--name", DEPLOYMENT, "--output", "json"))
        assert shown["routingConfig"]["currentVersionBuildID"] == "1"
        assert shown["routingConfig"]["rampingVersionPercentage"] == 10
        listed = json.loads(await temporal("list", "--output", "json"))
        assert [each["name"] for each in listed] == [DEPLOYMENT]
        found = json.loads(await temporal("describe-version", *named, "2", "--output", "json"))
        assert found["BuildID"] == "2"
        await temporal("update-version-metadata", *named, "2", "--metadata", 'commit="abc"')
        assert "abc" in await temporal("describe-version", *named, "2")
        await temporal("set-ramping-version", *named, "2", "--delete", "--yes")
        assert await (await start(client, "new")).result() == ["1"]
