"""What arrives on the wire, good and bad: each has a status, and the server goes on serving."""

import asyncio
import gzip
import sys
from collections.abc import Awaitable, Callable

import grpc
import pytest
from google.rpc import status_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably import Server
from tests.conftest import eventually

SERVICE = "/temporal.api.workflowservice.v1.WorkflowService/"
Raw = Callable[..., Awaitable[bytes]]


def method(channel: grpc.aio.Channel, name: str) -> Raw:
    """An RPC whose messages are bytes as they are."""
    return channel.unary_unary(name if "/" in name else SERVICE + name)  # type: ignore[return-value]


def poll(queue: str) -> bytes:
    return ws.PollWorkflowTaskQueueRequest(
        namespace="default", task_queue=TaskQueue(name=queue)
    ).SerializeToString()


def start(workflow_id: str, queue: str) -> bytes:
    request = ws.StartWorkflowExecutionRequest(
        namespace="default", workflow_id=workflow_id, task_queue=TaskQueue(name=queue)
    )
    request.workflow_type.name = "W"
    request.request_id = workflow_id
    return request.SerializeToString()


async def refused(call: Awaitable[bytes]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def exchange(server: Server, sent: bytes) -> bytes:
    """Send bytes on a fresh connection, close our side, and read whatever comes back."""
    host, port = server.address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        writer.write_eof()
        return await reader.read(65536)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def healthy(server: Server) -> bool:
    answer = await exchange(
        server, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )
    return b" 200 " in answer


async def test_gzip_requests_are_read(server: Server) -> None:
    async with grpc.aio.insecure_channel(
        server.address, compression=grpc.Compression.Gzip
    ) as channel:
        request = ws.DescribeNamespaceRequest(namespace="default")
        answer = await method(channel, "DescribeNamespace")(request.SerializeToString())
        assert ws.DescribeNamespaceResponse.FromString(answer).namespace_info.name == "default"


async def test_a_message_over_the_limit_is_refused_however_small_it_arrives() -> None:
    async with Server(store="memory:", port=0, message_bytes_max=100_000) as server:
        for compression in (grpc.Compression.Gzip, grpc.Compression.NoCompression):
            async with grpc.aio.insecure_channel(
                server.address, compression=compression
            ) as channel:
                error = await refused(method(channel, "GetClusterInfo")(bytes(1_000_000)))
                assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                assert "message_bytes_max" in (error.details() or "")
        assert await healthy(server)


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        ("NoSuchMethod", b"", grpc.StatusCode.UNIMPLEMENTED),
        ("/no.such.Service/Method", b"", grpc.StatusCode.UNIMPLEMENTED),
        ("DescribeNamespace", b"\xff\xff\xff", grpc.StatusCode.INTERNAL),
    ],
)
async def test_what_is_not_understood_has_a_status(
    server: Server, name: str, body: bytes, code: grpc.StatusCode
) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        assert (await refused(method(channel, name)(body))).code() == code


async def test_an_error_carries_its_detail_and_any_characters(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        request = ws.DescribeWorkflowExecutionRequest(namespace="größe 100% 名")
        request.execution.workflow_id = "w"
        error = await refused(
            method(channel, "DescribeWorkflowExecution")(request.SerializeToString())
        )
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert "größe 100% 名" in (error.details() or "")
    trailers = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    detail = NamespaceNotFoundFailure()
    assert status.details[0].Unpack(detail)
    assert detail.namespace == "größe 100% 名"


async def test_a_cancelled_poll_takes_no_task(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        left = [method(channel, "PollWorkflowTaskQueue")(poll("q")) for _ in range(20)]
        await method(channel, "GetSystemInfo")(b"")
        for call in left:
            call.cancel()  # type: ignore[attr-defined]
        await method(channel, "GetSystemInfo")(b"")
        await method(channel, "StartWorkflowExecution")(start("w", "q"))
        answer = await method(channel, "PollWorkflowTaskQueue")(poll("q"))
    task = ws.PollWorkflowTaskQueueResponse.FromString(answer)
    assert (task.workflow_execution.workflow_id, task.attempt) == ("w", 1)


async def test_a_poll_is_answered_empty_before_its_deadline(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        answer = await method(channel, "PollWorkflowTaskQueue")(poll("q"), timeout=2)
    assert not ws.PollWorkflowTaskQueueResponse.FromString(answer).task_token


async def test_many_polls_share_one_connection(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        polls = [
            asyncio.ensure_future(method(channel, "PollWorkflowTaskQueue")(poll(f"q{i}")))
            for i in range(500)
        ]
        for i in range(0, 500, 50):
            await method(channel, "StartWorkflowExecution")(start(f"w{i}", f"q{i}"))
            task = ws.PollWorkflowTaskQueueResponse.FromString(await polls[i])
            assert task.workflow_execution.workflow_id == f"w{i}"
        for waiting in polls:
            waiting.cancel()
        await asyncio.gather(*polls, return_exceptions=True)


async def test_malformed_frames_have_a_status(server: Server) -> None:
    """Frames that no gRPC library would send, over HTTP/1, where one can write them by hand."""
    packed = gzip.compress(b"anything" * 50)
    frames = {
        b"\x00\x00\x00\x00\x05ab": b"grpc-status: 13",
        b"\x00\x00": b"grpc-status: 13",
        b"\x07\x00\x00\x00\x00": b"grpc-status: 13",
        b"\x01" + (20).to_bytes(4, "big") + packed[:20]: b"grpc-status: 13",
    }
    for frame, status in frames.items():
        head = f"POST {SERVICE}GetSystemInfo HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        head += "content-type: application/grpc\r\ngrpc-encoding: gzip\r\n"
        head += f"content-length: {len(frame)}\r\n\r\n"
        assert status in await exchange(server, head.encode() + frame)


async def by_hand(server: Server, method_name: str, *headers: str, body: bytes = b"") -> bytes:
    """A gRPC call over HTTP/1, where headers can be written as no library would write them."""
    frame = b"\x00" + len(body).to_bytes(4, "big") + body
    head = [
        f"POST {SERVICE}{method_name} HTTP/1.1",
        "host: localhost",
        "te: trailers",
        "connection: close",
    ]
    if not any(header.startswith("content-type") for header in headers):
        head.append("content-type: application/grpc")
    head += [*headers, f"content-length: {len(frame)}", "", ""]
    return await exchange(server, "\r\n".join(head).encode() + frame)


@pytest.mark.parametrize("written", ["1", "S", "-1S", "123456789S", "1X", "1.5S"])
async def test_a_malformed_timeout_is_refused(server: Server, written: str) -> None:
    answer = await by_hand(server, "GetSystemInfo", f"grpc-timeout: {written}")
    assert b"grpc-status: 13" in answer
    assert b"grpc-timeout" in answer


async def test_an_expired_deadline_is_told(server: Server) -> None:
    """Nobody works on this workflow, so that nobody answers the query in time."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        await method(channel, "StartWorkflowExecution")(start("w", "q"))
    asked = ws.QueryWorkflowRequest(namespace="default")
    asked.execution.workflow_id = "w"
    asked.query.query_type = "any"
    body = asked.SerializeToString()
    answer = await by_hand(server, "QueryWorkflow", "grpc-timeout: 200m", body=body)
    assert b"grpc-status: 4" in answer


async def test_an_update_is_answered_before_its_deadline_and_asked_for_again(
    server: Server,
) -> None:
    waiting = ws.PollWorkflowExecutionUpdateRequest(namespace="default")
    async with grpc.aio.insecure_channel(server.address) as channel:
        await method(channel, "StartWorkflowExecution")(start("w", "q"))
        asked = ws.UpdateWorkflowExecutionRequest(namespace="default")
        asked.workflow_execution.workflow_id = "w"
        asked.request.meta.update_id = "u"
        asked.request.input.name = "n"
        asked.wait_policy.lifecycle_stage = 3
        update = method(channel, "UpdateWorkflowExecution")
        first = await update(asked.SerializeToString(), timeout=2)
        assert not ws.UpdateWorkflowExecutionResponse.FromString(first).HasField("outcome")
        waiting.update_ref.workflow_execution.workflow_id = "w"
        waiting.update_ref.update_id = "u"
        ask = method(channel, "PollWorkflowExecutionUpdate")
        answer = await ask(waiting.SerializeToString(), timeout=2)
    assert ws.PollWorkflowExecutionUpdateResponse.FromString(answer).update_ref.update_id == "u"


async def test_what_is_not_grpc_is_told_so(server: Server) -> None:
    answer = await by_hand(server, "GetSystemInfo", "content-type: application/json", body=b"{}")
    assert b" 415 " in answer.split(b"\r\n", 1)[0]
    welcome = await exchange(
        server, b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )
    assert b" 200 " in welcome.split(b"\r\n", 1)[0]
    assert b"durably" in welcome
    lost = await exchange(
        server, b"GET /nope HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )
    assert b" 404 " in lost.split(b"\r\n", 1)[0]


async def test_a_client_that_vanishes_in_the_middle_of_a_poll_takes_no_task(
    server: Server,
) -> None:
    program = (
        "import grpc, sys\n"
        "call = grpc.insecure_channel(sys.argv[1]).unary_unary(sys.argv[2])\n"
        "waiting = [call.future(bytes.fromhex(sys.argv[3])) for _ in range(5)]\n"
        "print('waiting', flush=True)\n"
        "waiting[0].result()\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        server.address,
        SERVICE + "PollWorkflowTaskQueue",
        poll("q").hex(),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    await process.stdout.readline()
    async with grpc.aio.insecure_channel(server.address) as channel:
        describe = ws.DescribeTaskQueueRequest(namespace="default", task_queue_type=1)
        describe.task_queue.name = "q"

        async def polled() -> bool:
            answer = await method(channel, "DescribeTaskQueue")(describe.SerializeToString())
            return bool(ws.DescribeTaskQueueResponse.FromString(answer).pollers)

        await eventually(polled)
        process.kill()
        await process.wait()
        await method(channel, "GetSystemInfo")(b"")
        await method(channel, "StartWorkflowExecution")(start("w", "q"))
        answer = await method(channel, "PollWorkflowTaskQueue")(poll("q"))
    task = ws.PollWorkflowTaskQueueResponse.FromString(answer)
    assert task.workflow_execution.workflow_id == "w"


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sent=st.binary(max_size=300), preface=st.booleans())
async def test_random_bytes_leave_the_server_serving(
    server: Server, sent: bytes, preface: bool
) -> None:
    await exchange(server, (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" if preface else b"") + sent)
    assert await healthy(server)
