"""grpc.health.v1.Health: whether the services of this port are being served.

Facts: https://github.com/grpc/grpc/blob/master/doc/health-checking.md.
"""

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from durably.errors import NotFound
from durably.service.admission import Call, Rpc

SERVING, NOT_SERVING = 1, 2


def _messages() -> tuple[type[Message], type[Message]]:
    """The request and response of Check, described here: two messages of one field each."""
    file = descriptor_pb2.FileDescriptorProto(
        name="durably/health.proto", package="durably.health", syntax="proto3"
    )
    request = file.message_type.add(name="HealthCheckRequest")
    request.field.add(name="service", number=1, type=9, label=1)
    response = file.message_type.add(name="HealthCheckResponse")
    response.field.add(name="status", number=1, type=5, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("durably.health.HealthCheckRequest", "durably.health.HealthCheckResponse")
    first, second = (GetMessageClass(pool.FindMessageTypeByName(name)) for name in names)
    return first, second


class Health:
    """Answers health checks."""

    def __init__(self, services: frozenset[str]) -> None:
        self._services = services | {"", "grpc.health.v1.Health"}
        self.serving = True

    def rows(self) -> dict[str, Rpc]:
        request, response = _messages()

        async def check(asked: Message, call: Call) -> Message:
            if asked.service not in self._services:  # type: ignore[attr-defined]
                raise NotFound("unknown service")
            return response(status=SERVING if self.serving else NOT_SERVING)

        row = Rpc("Check", request, response, check, namespaced=False)
        return {"/grpc.health.v1.Health/Check": row}
