"""Spans that a real OTLP receiver gets: the right tree, each once, through kills of the server."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably import Server
from tests.conftest import eventually
from tests.processes import ServerProcess
from tests.traces.receiver import Receiver, attributes, over_grpc, over_http

SECRET = "what-nobody-may-read"


@activity.defn
async def flaky(secret: str) -> str:
    if activity.info().attempt == 1:
        raise ApplicationError(f"not yet: {secret}", type="NotYet")
    return secret


@activity.defn
async def hopeless() -> None:
    raise ApplicationError(f"never: {SECRET}", type="Hopeless", non_retryable=True)


@activity.defn
async def plain_model_call(secret: str) -> dict[str, Any]:
    return {
        "object": "chat.completion",
        "model": "gpt-4.1-mini",
        "choices": [{"message": {"content": f"reply {secret}"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }


@workflow.defn
class Child:
    @workflow.run
    async def run(self, secret: str) -> None:
        await workflow.execute_activity(
            plain_model_call, secret, start_to_close_timeout=timedelta(seconds=30)
        )


@workflow.defn
class Parent:
    def __init__(self) -> None:
        self._gone_on = False

    @workflow.signal
    def go_on(self) -> None:
        self._gone_on = True

    @workflow.update
    def add(self, number: int) -> int:
        return number + 1

    @workflow.run
    async def run(self, secret: str) -> None:
        await workflow.wait_condition(lambda: self._gone_on)
        await asyncio.sleep(0.01)
        await workflow.execute_activity(
            flaky,
            secret,
            start_to_close_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10)),
        )
        await workflow.execute_child_workflow(
            Child.run, secret, id=f"{workflow.info().workflow_id}-c"
        )


@workflow.defn
class Doomed:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(hopeless, start_to_close_timeout=timedelta(seconds=30))


@workflow.defn
class Twice:
    @workflow.run
    async def run(self, left: int) -> None:
        if left:
            workflow.continue_as_new(left - 1)


STEPS = 4
SPANS_OF_A_STEP = 3
"""The activity and its two attempts."""


@workflow.defn
class Steps:
    """A step for each signal, and one signal more to end."""

    def __init__(self) -> None:
        self._told = 0

    @workflow.signal
    def go_on(self) -> None:
        self._told += 1

    @workflow.run
    async def run(self) -> None:
        for number in range(STEPS):
            await workflow.wait_condition(lambda asked=number: self._told > asked)  # type: ignore[misc]
            await workflow.execute_activity(
                flaky,
                SECRET,
                start_to_close_timeout=timedelta(seconds=30),
                retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10)),
            )
        await workflow.wait_condition(lambda: self._told > STEPS)


def worker(client: Client) -> Worker:
    return Worker(
        client,
        task_queue="q",
        workflows=[Parent, Child, Doomed, Steps, Twice],
        activities=[flaky, hopeless, plain_model_call],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


async def run_parent(client: Client, workflow_id: str) -> None:
    handle = await client.start_workflow(Parent.run, SECRET, id=workflow_id, task_queue="q")
    assert await handle.execute_update(Parent.add, 1) == 2
    await handle.signal(Parent.go_on)
    await handle.result()


OVER: dict[str, Callable[[], AbstractContextManager[Receiver]]] = {
    "grpc": over_grpc,
    "http/protobuf": over_http,
}


@pytest.fixture(params=OVER)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def receiver(protocol: str) -> Iterator[Receiver]:
    with OVER[protocol]() as found:
        yield found


def tree(spans: list[Span]) -> dict[str, str]:
    """Name of each span -> name of its parent, or the id of one that is not here."""
    names = {span.span_id: span.name for span in spans}
    return {span.name: names.get(span.parent_span_id, span.parent_span_id.hex()) for span in spans}


async def received(found: Receiver, count: int) -> None:
    """Different ones."""

    async def enough() -> bool:
        return len({(span.trace_id, span.span_id) for span in found.spans}) >= count

    await eventually(enough, 60)


async def test_the_tree_of_a_run(tmp_path: Path, receiver: Receiver, protocol: str) -> None:
    settings = {"traces_endpoint": receiver.endpoint, "traces_protocol": protocol}
    async with Server(
        store=f"sqlite:///{tmp_path}/s.db", port=0, traces_interval_s=0.05, **settings
    ) as server:
        client = await Client.connect(server.address)
        async with worker(client):
            await run_parent(client, "p")
            with pytest.raises(WorkflowFailureError):
                await client.execute_workflow(Doomed.run, id="d", task_queue="q")
            await received(receiver, 13)
        described = await client.get_workflow_handle("p").describe()
    spans = receiver.spans
    assert len({(span.trace_id, span.span_id) for span in spans}) == len(spans) == 13
    of_parent = [
        span for span in spans if span.trace_id == receiver.named("workflow Parent")[0].trace_id
    ]
    assert tree([span for span in of_parent if not span.name.startswith("attempt")]) == {
        "workflow Parent": "",
        "update add": "workflow Parent",
        "timer": "workflow Parent",
        "activity flaky": "workflow Parent",
        "child workflow Child": "workflow Parent",
        "invoke_agent": "child workflow Child",
        "activity plain_model_call": "invoke_agent",
        "chat gpt-4.1-mini": "activity plain_model_call",
    }
    first, second = receiver.named("attempt flaky")
    (whole,) = receiver.named("activity flaky")
    assert {first.parent_span_id, second.parent_span_id} == {whole.span_id}
    assert [attributes(each)["durably.attempt"] for each in (first, second)] == [1, 2]
    assert (first.status.code, attributes(first)["error.type"]) == (
        Status.STATUS_CODE_ERROR,
        "NotYet",
    )
    assert second.status.code == Status.STATUS_CODE_UNSET
    times = (whole.start_time_unix_nano, first.start_time_unix_nano, first.end_time_unix_nano)
    times += (second.start_time_unix_nano, second.end_time_unix_nano, whole.end_time_unix_nano)
    assert list(times) == sorted(times)

    (run,) = receiver.named("workflow Parent")
    about = attributes(run)
    assert about["temporalWorkflowID"] == "p"
    assert about["temporalRunID"] == described.run_id
    assert about["durably.status"] == "completed"
    assert [event.name for event in run.events] == ["signal go_on"]
    (chat,) = receiver.named("chat gpt-4.1-mini")
    assert chat.kind == Span.SPAN_KIND_CLIENT
    about = attributes(chat)
    assert (about["gen_ai.usage.input_tokens"], about["gen_ai.usage.output_tokens"]) == (7, 3)
    (agent,) = receiver.named("invoke_agent")
    assert attributes(agent)["gen_ai.usage.input_tokens"] == 7

    (doomed,) = receiver.named("workflow Doomed")
    assert doomed.status.code == Status.STATUS_CODE_ERROR
    (activity_span,) = receiver.named("activity hopeless")
    assert attributes(activity_span)["error.type"] == "Hopeless"
    # No prompt, no reply, no message of a failure.
    assert not any(SECRET.encode() in span.SerializeToString() for span in spans)
    assert receiver.resources[0]["service.name"] == "durably"
    assert receiver.scopes == {("durably", "https://opentelemetry.io/schemas/gen-ai/0.1.0")}


async def test_an_activity_without_a_workflow_is_a_trace(tmp_path: Path) -> None:
    with over_grpc() as receiver:
        async with Server(
            store="memory:", port=0, traces_endpoint=receiver.endpoint, traces_interval_s=0.05
        ) as server:
            client = await Client.connect(server.address)
            options: dict[str, Any] = {
                "task_queue": "q",
                "start_to_close_timeout": timedelta(seconds=30),
                "retry_policy": RetryPolicy(initial_interval=timedelta(milliseconds=10)),
            }
            gone = await client.start_activity(
                hopeless, id="gone", **{**options, "task_queue": "nobody"}
            )
            await gone.terminate()
            async with worker(client):
                assert await client.execute_activity(flaky, SECRET, id="a", **options) == SECRET
                await received(receiver, 4)
    (whole,) = receiver.named("activity flaky")
    attempts = receiver.named("attempt flaky")
    assert [each.parent_span_id for each in (whole, *attempts)] == [
        b"",
        whole.span_id,
        whole.span_id,
    ]
    assert {each.trace_id for each in attempts} == {whole.trace_id}
    about = attributes(whole)
    assert (about["temporalActivityID"], about["durably.namespace"]) == ("a", "default")
    (terminated,) = receiver.named("activity hopeless")
    assert attributes(terminated)["error.type"] == "terminated"
    assert len(receiver.spans) == 4


async def test_prompts_and_replies_when_they_are_asked_for(tmp_path: Path) -> None:
    with over_grpc() as receiver:
        async with Server(
            store="memory:",
            port=0,
            traces_endpoint=receiver.endpoint,
            traces_content=True,
            traces_interval_s=0.05,
        ) as server:
            client = await Client.connect(server.address)
            async with worker(client):
                await client.execute_workflow(Child.run, SECRET, id="c", task_queue="q")
                await received(receiver, 3)
    (chat,) = receiver.named("chat gpt-4.1-mini")
    assert SECRET in attributes(chat)["gen_ai.output.messages"]


async def test_a_run_is_in_the_trace_that_its_caller_began(tmp_path: Path) -> None:
    """The SDK's interceptors send their spans themselves; ours hang below them, in the same trace."""
    provider = TracerProvider()
    sent = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(sent))
    tracing = TracingInterceptor(provider.get_tracer("test"))
    with over_grpc() as receiver:
        async with Server(
            store="memory:", port=0, traces_endpoint=receiver.endpoint, traces_interval_s=0.05
        ) as server:
            client = await Client.connect(server.address, interceptors=[tracing])
            async with worker(client):
                with provider.get_tracer("test").start_as_current_span("request") as request:
                    await run_parent(client, "p")
                unsampled = SpanContext(
                    uuid.uuid4().int, 7, is_remote=False, trace_flags=TraceFlags(0)
                )
                with use_span(NonRecordingSpan(unsampled)):
                    await client.execute_workflow(Twice.run, 0, id="unsampled", task_queue="q")
                await client.execute_workflow(Twice.run, 0, id="last", task_queue="q")
                await received(receiver, 11)
    assert not any(attributes(s).get("temporalWorkflowID") == "unsampled" for s in receiver.spans)
    theirs = {span.name: span for span in sent.get_finished_spans()}
    trace = request.get_span_context().trace_id.to_bytes(16, "big")
    ours = [span for span in receiver.spans if span.trace_id == trace]
    (run,) = [span for span in ours if span.name == "workflow Parent"]
    start = theirs["StartWorkflow:Parent"].context
    assert start is not None
    assert run.parent_span_id == start.span_id.to_bytes(8, "big")
    (child,) = [span for span in ours if span.name == "invoke_agent"]
    begun = theirs["StartChildWorkflow:Child"].context
    assert begun is not None
    assert child.parent_span_id == begun.span_id.to_bytes(8, "big")
    assert not {span.span_id for span in ours} & {
        span.context.span_id.to_bytes(8, "big") for span in theirs.values() if span.context
    }


async def test_the_runs_of_a_chain_are_one_trace(tmp_path: Path) -> None:
    with over_grpc() as receiver:
        async with Server(
            store="memory:", port=0, traces_endpoint=receiver.endpoint, traces_interval_s=0.05
        ) as server:
            client = await Client.connect(server.address)
            async with worker(client):
                await client.execute_workflow(Twice.run, 2, id="t", task_queue="q")
                await received(receiver, 3)
    assert len({span.trace_id for span in receiver.spans}) == 1
    assert len({span.span_id for span in receiver.spans}) == 3


RUNS = 12
SPANS_OF_A_PARENT = 10


async def test_every_span_arrives_once_through_kills(tmp_path: Path) -> None:
    """The server is killed while the receiver refuses, and again while it takes; then all is there."""
    with over_grpc() as receiver:
        receiver.refuses = True
        options = ("--set", f"traces_endpoint={receiver.endpoint}")
        server = ServerProcess(
            tmp_path / "store.db", *options, "--set", "traces_interval_s=0.05"
        ).start()
        try:
            client = await Client.connect(server.address)
            async with worker(client):
                await asyncio.gather(*(run_parent(client, f"p{n}") for n in range(RUNS)))

                async def has_refused() -> bool:
                    return receiver.refused > 1

                await eventually(has_refused, 60)
                server.kill()
                receiver.refuses = False
                server.start()
                await received(receiver, SPANS_OF_A_PARENT * RUNS // 3)
                server.kill()
                server.start()
                ids = set()

                async def all_there() -> bool:
                    ids.update((span.trace_id, span.span_id) for span in receiver.spans)
                    return len(ids) >= SPANS_OF_A_PARENT * RUNS

                await eventually(all_there, 90)
        finally:
            server.kill()
    assert len(ids) == SPANS_OF_A_PARENT * RUNS
    names = Counter(span.name for span in receiver.spans)
    assert set(names) == {
        "workflow Parent",
        "update add",
        "timer",
        "activity flaky",
        "attempt flaky",
        "child workflow Child",
        "invoke_agent",
        "activity plain_model_call",
        "chat gpt-4.1-mini",
    }
    # A run whose answer was on its way when the server was killed is sent again whole, the same.
    again = len(receiver.spans) - len(ids)
    assert again <= SPANS_OF_A_PARENT
    by_id: dict[tuple[bytes, bytes], set[bytes]] = {}
    for span in receiver.spans:
        by_id.setdefault((span.trace_id, span.span_id), set()).add(
            span.SerializeToString(deterministic=True)
        )
    assert all(len(different) == 1 for different in by_id.values())


async def test_what_has_ended_is_sent_while_the_run_goes_on_and_once_through_kills(
    tmp_path: Path,
) -> None:
    """Each step is sent when it has ended; the run itself, which they hang below, comes last."""
    with over_grpc() as receiver:
        options = ("--set", f"traces_endpoint={receiver.endpoint}")
        server = ServerProcess(
            tmp_path / "store.db", *options, "--set", "traces_interval_s=0.05"
        ).start()
        try:
            client = await Client.connect(server.address)
            async with worker(client):
                handle = await client.start_workflow(Steps.run, id="s", task_queue="q")
                for number in range(1, STEPS + 1):
                    await handle.signal(Steps.go_on)
                    await received(receiver, SPANS_OF_A_STEP * number)
                    if number % 2:
                        server.kill()
                        server.start()
                assert not receiver.named("workflow Steps")
                await handle.signal(Steps.go_on)
                await handle.result()
                await received(receiver, SPANS_OF_A_STEP * STEPS + 1)
                # What is not followed any more leaves nothing behind.
                await client.execute_workflow(Twice.run, 0, id="last", task_queue="q")
                await received(receiver, SPANS_OF_A_STEP * STEPS + 2)
        finally:
            server.kill()
    (run,) = receiver.named("workflow Steps")
    steps = receiver.named("activity flaky")
    assert {span.parent_span_id for span in steps} == {run.span_id}
    assert {span.trace_id for span in receiver.spans[:-1]} == {run.trace_id}
    by_id: dict[bytes, set[bytes]] = {}
    for span in receiver.spans:
        by_id.setdefault(span.span_id, set()).add(span.SerializeToString(deterministic=True))
    assert len(by_id) == SPANS_OF_A_STEP * STEPS + 2
    assert all(len(different) == 1 for different in by_id.values())
    # Only what was on its way when the server was killed has come twice, if anything.
    assert len(receiver.spans) - len(by_id) <= SPANS_OF_A_STEP * (STEPS + 1) // 2


async def test_a_receiver_that_was_away_gets_all_that_ended_meanwhile(tmp_path: Path) -> None:
    with over_grpc() as receiver:
        receiver.refuses = True
        async with Server(
            store=f"sqlite:///{tmp_path}/s.db",
            port=0,
            traces_endpoint=receiver.endpoint,
            traces_interval_s=0.05,
        ) as server:
            client = await Client.connect(server.address)
            async with worker(client):
                handle = await client.start_workflow(Steps.run, id="s", task_queue="q")
                await handle.signal(Steps.go_on)

                async def has_refused() -> bool:
                    return receiver.refused > 1

                await eventually(has_refused, 60)
                receiver.refuses = False
                await received(receiver, SPANS_OF_A_STEP)
                await handle.terminate()
                await received(receiver, SPANS_OF_A_STEP + 1)
    assert Counter(span.name for span in receiver.spans) == {
        "activity flaky": 1,
        "attempt flaky": 2,
        "workflow Steps": 1,
    }


async def test_what_closed_before_traces_were_asked_for_is_left_alone(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/s.db"
    async with Server(store=store, port=0) as server:
        client = await Client.connect(server.address)
        async with worker(client):
            await client.execute_workflow(Twice.run, 0, id="before", task_queue="q")
    with over_grpc() as receiver:
        async with Server(
            store=store, port=0, traces_endpoint=receiver.endpoint, traces_interval_s=0.05
        ) as server:
            client = await Client.connect(server.address)
            async with worker(client):
                await client.execute_workflow(Twice.run, 0, id="after", task_queue="q")
                await received(receiver, 1)
    assert [attributes(span)["temporalWorkflowID"] for span in receiver.spans] == ["after"]


async def test_a_receiver_that_is_away_stops_nothing(tmp_path: Path) -> None:
    server = ServerProcess(
        tmp_path / "store.db",
        *("--set", "traces_endpoint=http://127.0.0.1:9", "--set", "traces_interval_s=0.05"),
    ).start()
    try:
        client = await Client.connect(server.address)
        async with worker(client):
            for number in range(3):
                await client.execute_workflow(Twice.run, 0, id=f"t{number}", task_queue="q")
        assert server.terminate() == 0
    finally:
        server.kill()


async def test_an_unknown_protocol_is_a_mistake_of_the_user() -> None:
    with pytest.raises(ValueError, match="use grpc or http/protobuf"):
        async with Server(
            store="memory:", port=0, traces_endpoint="http://127.0.0.1:9", traces_protocol="udp"
        ):
            pass
