"""grpc.health.v1.Health: whether the services of this port are being served.

Rule 1: a watcher is told the present status at once and each change after it; NOT_SERVING is the last.

Facts: https://github.com/grpc/grpc/blob/master/doc/health-checking.md.
"""

import asyncio
from collections.abc import AsyncIterator

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from durably.edge.described import describe, message_class
from durably.edge.grpc import Stream
from durably.errors import NotFound
from durably.service.admission import Call, Rpc

NAME = "grpc.health.v1.Health"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3

FILE: FileDescriptor = describe(
    """
    name: "grpc/health/v1/health.proto" package: "grpc.health.v1" syntax: "proto3"
    message_type { name: "HealthCheckRequest"
      field { name: "service" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } }
    message_type { name: "HealthCheckResponse"
      field { name: "status" number: 1 type: TYPE_ENUM label: LABEL_OPTIONAL
        type_name: ".grpc.health.v1.HealthCheckResponse.ServingStatus" }
      enum_type { name: "ServingStatus"
        value { name: "UNKNOWN" number: 0 } value { name: "SERVING" number: 1 }
        value { name: "NOT_SERVING" number: 2 } value { name: "SERVICE_UNKNOWN" number: 3 } } }
    service { name: "Health"
      method { name: "Check" input_type: ".grpc.health.v1.HealthCheckRequest"
        output_type: ".grpc.health.v1.HealthCheckResponse" }
      method { name: "Watch" input_type: ".grpc.health.v1.HealthCheckRequest"
        output_type: ".grpc.health.v1.HealthCheckResponse" server_streaming: true } }
    """
)


class Health:
    """Answers health checks."""

    def __init__(self, services: frozenset[str]) -> None:
        self._services = services | {"", NAME}
        self._stopped = asyncio.Event()
        self._request = message_class(FILE, "HealthCheckRequest")
        self._response = message_class(FILE, "HealthCheckResponse")

    def stop(self) -> None:
        """From now on NOT_SERVING; watchers are told, and their streams end."""
        self._stopped.set()

    def rows(self) -> dict[str, Rpc]:
        row = Rpc("Check", self._request, self._response, self._check, namespaced=False)
        return {f"/{NAME}/Check": row}

    def streams(self) -> dict[str, Stream]:
        return {f"/{NAME}/Watch": Stream("Watch", self._request, self._watch)}

    async def _check(self, asked: Message, call: Call) -> Message:
        if not self._knows(asked):
            raise NotFound("unknown service")
        return self._status()

    async def _watch(self, asked: AsyncIterator[Message]) -> AsyncIterator[Message]:
        async for request in asked:
            known = self._knows(request)
            yield self._status() if known else self._response(status=SERVICE_UNKNOWN)
            if known and self._stopped.is_set():
                return
            await self._stopped.wait()
            if known:
                yield self._status()
            return

    def _knows(self, request: Message) -> bool:
        return request.service in self._services  # type: ignore[attr-defined]

    def _status(self) -> Message:
        return self._response(status=NOT_SERVING if self._stopped.is_set() else SERVING)
