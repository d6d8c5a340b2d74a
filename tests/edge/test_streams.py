"""Health and reflection, asked by gRPC's own clients."""

import asyncio

import grpc
import pytest
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from durably import Server


async def test_reflection_describes_every_service_with_all_that_it_imports(server: Server) -> None:
    def ask() -> tuple[set[str], int]:
        with grpc.insecure_channel(server.address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            pool = descriptor_pool.DescriptorPool(database)
            services = set(database.get_services())
            methods = [len(pool.FindServiceByName(name).methods) for name in services]
            return services, min(methods)

    services, methods_min = await asyncio.to_thread(ask)
    assert services == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "temporal.api.operatorservice.v1.OperatorService",
        "temporal.api.workflowservice.v1.WorkflowService",
    }
    assert methods_min >= 1


async def test_what_reflection_cannot_find_is_an_answer_and_the_stream_goes_on(
    server: Server,
) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    question = reflection_pb2.ServerReflectionRequest
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await call.write(question(file_containing_symbol="no.such.Thing"))
        refused = await call.read()
        assert refused.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
        await call.write(question(file_containing_extension={"containing_type": "no.such.Thing"}))
        assert (await call.read()).HasField("error_response")
        await call.write(question(all_extension_numbers_of_type="google.protobuf.MethodOptions"))
        assert (await call.read()).all_extension_numbers_response.extension_number
        await call.write(question(list_services="*"))
        assert len((await call.read()).list_services_response.service) == 5
        await call.done_writing()
        assert await call.read() == grpc.aio.EOF
        assert await call.code() == grpc.StatusCode.OK


async def test_a_watcher_is_told_the_status_and_its_last_change(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        checked = await health.Check(health_pb2.HealthCheckRequest())
        assert checked.status == health_pb2.HealthCheckResponse.SERVING
        watching = health.Watch(health_pb2.HealthCheckRequest(service="grpc.health.v1.Health"))
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(server.__aexit__(None, None, None))
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await watching.read() == grpc.aio.EOF
        await stopping


async def test_an_unknown_service_is_watched_and_not_checked(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest(service="no.such.Service")
        watching = health.Watch(asked)
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watching.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(asked)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
