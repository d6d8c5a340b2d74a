"""/metrics after real load: what is said equals what was done."""

import asyncio
import json
import re
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import grpc.aio
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from temporalio import activity, workflow
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.nexus.v1 import message_pb2 as nexus
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client, WorkflowHandle
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably import Server
from durably.edge.metrics import OTHERS, largest
from durably.histogram import Histogram
from tests.conftest import eventually
from tests.processes import ServerProcess

DASHBOARD = Path(__file__).parent.parent.parent / "docs/grafana.json"
STEPS = 3
RUNS = 8


async def scrape(address: str) -> dict[str, list[Sample]]:
    """Name of a sample -> its samples."""

    def get() -> str:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as response:
            assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
            return str(response.read(), "utf-8")

    found: dict[str, list[Sample]] = defaultdict(list)
    for family in text_string_to_metric_families(await asyncio.to_thread(get)):
        for sample in family.samples:
            found[sample.name].append(sample)
    return found


def value(found: dict[str, list[Sample]], name: str, **labels: str) -> float:
    """The sum of the samples with these labels."""
    return sum(
        sample.value for sample in found[name] if labels.items() <= dict(sample.labels).items()
    )


@activity.defn
async def step(number: int) -> int:
    if activity.info().attempt == 1 and number == 0:
        raise ApplicationError("once more")
    return number


@workflow.defn
class Steps:
    @workflow.run
    async def run(self) -> None:
        await asyncio.sleep(0.01)
        for number in range(STEPS):
            await workflow.execute_activity(
                step,
                number,
                start_to_close_timeout=timedelta(seconds=30),
                retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10)),
            )


@workflow.defn
class Parent:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_child_workflow(Steps.run)


async def events(handles: Iterable[WorkflowHandle], kind: int) -> int:
    found = 0
    for handle in handles:
        async for event in handle.fetch_history_events():
            found += event.event_type == kind
    return found


async def test_what_is_counted_was_done(server: Server, client: Client) -> None:
    before = await scrape(server.address)
    async with Worker(
        client,
        task_queue="q",
        workflows=[Steps, Parent],
        activities=[step],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        handles = [
            await client.start_workflow(Parent.run, id=f"p{n}", task_queue="q") for n in range(RUNS)
        ]
        await asyncio.gather(*(handle.result() for handle in handles))
        with pytest.raises(RPCError):
            await client.get_workflow_handle("nobody").describe()
    found = await scrape(server.address)
    children = [
        client.get_workflow_handle(each.id)
        async for each in client.list_workflows("WorkflowType = 'Steps'")
    ]
    assert len(children) == RUNS
    everybody = [*handles, *children]

    assert value(found, "service_requests_total", operation="StartWorkflowExecution") == RUNS
    assert value(found, "service_latency_seconds_count", operation="StartWorkflowExecution") == RUNS
    refused = {"operation": "DescribeWorkflowExecution", "error_type": "NOT_FOUND"}
    assert value(found, "service_error_with_type_total", **refused) == 1
    assert not value(found, "service_error_with_type_total", operation="StartWorkflowExecution")

    # Each attempt of an activity was taken once: the steps, and the first of each again.
    attempts = value(found, "task_schedule_to_start_latency_seconds_count", task_type="Activity")
    assert attempts == RUNS * (STEPS + 1)
    tasks = await events(everybody, event_types.EVENT_TYPE_WORKFLOW_TASK_STARTED)
    taken = value(found, "task_schedule_to_start_latency_seconds_count", task_type="Workflow")
    assert taken == tasks

    commits = value(found, "durably_commit_seconds_count")
    units = value(found, "durably_commit_units_sum") - value(before, "durably_commit_units_sum")
    assert value(found, "durably_commit_units_count") == commits
    assert value(before, "durably_commit_seconds_count") < commits
    described = [await handle.describe() for handle in everybody]
    transitions = sum(each.raw_info.state_transition_count for each in described)
    # A unit is a transition of one execution, or the removal of a task that was taken.
    assert transitions <= units <= 2 * transitions
    assert value(found, "durably_commit_failed_units_total") == 0

    assert value(found, "durably_deadline_lateness_seconds_count") >= 2 * RUNS
    delivered = value(found, "durably_outbox_deliveries_total", outcome="delivered")
    assert delivered >= 2 * RUNS  # A start and an end of each child.
    assert value(found, "durably_cache_hits_total") > value(found, "durably_cache_misses_total")
    assert value(found, "durably_cached_executions") >= 2 * RUNS
    assert value(found, "process_cpu_seconds_total") > 0


async def test_backlog_and_open_executions_outlive_the_server(
    server_process: ServerProcess,
) -> None:
    server_process = ServerProcess(
        server_process.store,
        "--set",
        "metrics_count_interval_s=0",
        folder=server_process.log.parent,
    )
    server_process.start()
    try:
        client = await Client.connect(server_process.address)
        for number in range(5):
            await client.start_workflow("W", id=f"w{number}", task_queue="nobody")
        labels = {"namespace": "default", "taskqueue": "nobody", "task_type": "Workflow"}
        found = await scrape(server_process.address)
        assert value(found, "approximate_backlog_count", **labels) == 5
        assert value(found, "durably_open_executions", namespace="default", kind="workflow") == 5
        server_process.kill()
        server_process.start()
        found = await scrape(server_process.address)
        assert value(found, "approximate_backlog_count", **labels) == 5
        assert value(found, "approximate_backlog_age_seconds", **labels) > 0
        assert value(found, "durably_open_executions", namespace="default", kind="workflow") == 5
        await client.get_workflow_handle("w0").terminate()
        found = await scrape(server_process.address)
        assert value(found, "durably_open_executions", namespace="default", kind="workflow") == 4
    finally:
        server_process.kill()


async def test_polls_that_wait(server: Server, client: Client) -> None:
    async def waiting() -> bool:
        found = await scrape(server.address)
        labels = {"namespace": "default", "taskqueue": "q"}
        polls = value(found, "durably_waiting_polls", **labels)
        return polls > 0 and value(found, "service_pending_requests") >= polls

    async with Worker(
        client, task_queue="q", workflows=[Steps], workflow_runner=UnsandboxedWorkflowRunner()
    ):
        await eventually(waiting)


async def test_requests_of_nexus_wait_for_workers_too(server: Server, client: Client) -> None:
    spec = nexus.EndpointSpec(name="desk")
    spec.target.worker.namespace = "default"
    spec.target.worker.task_queue = "q"
    await client.operator_service.create_nexus_endpoint(
        operator.CreateNexusEndpointRequest(spec=spec)
    )
    start = ws.StartNexusOperationExecutionRequest(
        namespace="default", operation_id="o", endpoint="desk", service="s", operation="o"
    )
    await client.workflow_service.start_nexus_operation_execution(start)
    poll = ws.PollNexusTaskQueueRequest(
        namespace="default", task_queue={"name": "q"}, identity="me"
    )
    assert (await client.workflow_service.poll_nexus_task_queue(poll)).task_token
    found = await scrape(server.address)
    count = "task_schedule_to_start_latency_seconds_count"
    assert value(found, count, task_type="Nexus") == 1


async def test_what_is_no_call_of_the_api_is_counted_as_unknown(server: Server) -> None:
    def post() -> None:
        request = urllib.request.Request(
            f"http://{server.address}/api/v1/namespaces/default/workflows", method="DELETE"
        )
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(request, timeout=30)

    await asyncio.to_thread(post)
    found = await scrape(server.address)
    labels = {"operation": "unknown", "error_type": "UNIMPLEMENTED"}
    assert value(found, "service_error_with_type_total", **labels) == 1


async def test_streams_are_counted_by_name(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        async for _ in stub.ServerReflectionInfo(iter([asked])):
            pass

    async def counted() -> bool:
        found = await scrape(server.address)
        return value(found, "service_requests_total", operation="ServerReflectionInfo") == 1

    await eventually(counted)


async def test_it_can_be_switched_off() -> None:
    async with Server(store="memory:", port=0, metrics=False) as server:
        with pytest.raises(urllib.error.HTTPError, match="404"):
            await scrape(server.address)


async def test_the_dashboard_asks_for_what_there_is(server: Server, client: Client) -> None:
    found = await scrape(server.address)
    assert await client.service_client.check_health()
    found |= await scrape(server.address)
    known = set(found) | {"service_error_with_type_total", "durably_open_executions"}
    known |= {"approximate_backlog_count", "approximate_backlog_age_seconds"}
    known |= {"durably_waiting_polls"}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(asked) > 12
    for expression in asked:
        bare = re.sub(r"\{[^}]*\}|\b(?:by|without) ?\([^)]*\)", "", expression)
        names = set(re.findall(r"[a-z_]+_[a-z_]+", bare)) - {
            "histogram_quantile",
            "__rate_interval",
        }
        assert names, expression
        assert names <= known, (expression, names - known)


def test_few_have_labels_of_their_own() -> None:
    counts = {("a", str(n)): n for n in range(10)}
    kept = largest(counts, 3)
    assert kept == {("a", "9"): 9, ("a", "8"): 8, ("a", "7"): 7, (OTHERS, OTHERS): 21}
    assert largest(kept, 4) == kept


def test_a_value_on_a_bound_is_not_over_it() -> None:
    values = Histogram((1, 2))
    for each in (0.5, 1, 1.5, 2, 3):
        values.observe(each)
    assert values.counts == [2, 2, 1]
    assert (values.count, values.sum) == (5, 8)
