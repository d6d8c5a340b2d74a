"""Operations that the server itself carries out, on its own endpoint: what a workflow can ask of it.

Rule 1: an operation is an RPC of the API, named by its service and method; input and result are its
        messages.
Rule 2: what is wrong with the input fails the workflow task that schedules the operation, not the
        operation.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine.commands import NexusCommand
from durably.engine.nexus_operation import SYSTEM_ENDPOINT
from durably.engine.nexus_outcome import Refused, StartOutcome, Succeeded, refused
from durably.errors import (
    Aborted,
    InvalidArgument,
    NotFound,
    Refusal,
    ResourceExhausted,
    Unavailable,
)
from durably.service.admission import Call
from durably.service.nexus_endpoints import NexusEndpoints
from durably.service.workflows import Workflows

SERVICE = "temporal.api.workflowservice.v1.WorkflowService"
TRIED_AGAIN = (Aborted, ResourceExhausted, Unavailable)

Asked = NexusCommand | history.NexusOperationScheduledEventAttributes


@dataclass(frozen=True, slots=True)
class _Operation:
    request: type[Message]
    check: Callable[[Any], object]
    handler: Callable[[Any, Call], Awaitable[Message]]


class SystemOperations:
    """The operations of the server's own endpoint."""

    def __init__(self, workflows: Workflows) -> None:
        self._operations = {
            (SERVICE, "SignalWithStartWorkflowExecution"): _Operation(
                ws.SignalWithStartWorkflowExecutionRequest,
                workflows.check_signal_with_start,
                workflows.signal_with_start_workflow_execution,
            )
        }

    def check(self, namespace: str, asked: NexusCommand) -> None:
        """Raises NotFound for an operation that there is not, InvalidArgument for a wrong input."""
        if asked.nexus_header:
            raise InvalidArgument(
                "ScheduleNexusOperationCommandAttributes.NexusHeader must be empty when using"
                f" {SYSTEM_ENDPOINT} endpoint"
            )
        operation, request = self._read(namespace, asked)
        operation.check(request)

    async def start(
        self, namespace: str, asked: Asked, request_id: str, link: common.Link
    ) -> StartOutcome:
        """Carry it out. The same request id again finds what was done."""
        try:
            operation, request = self._read(namespace, asked)
            request.request_id = request_id
            request.links.append(link)
            response: Any = await operation.handler(request, Call(asked.operation, {}))
        except Refusal as refusal:
            return _refused(refusal)
        links = (response.signal_link,) if response.HasField("signal_link") else ()
        return Succeeded(_payload(response), links)

    def cancel(self) -> Refused:
        """All of them are done at once."""
        return refused("NOT_FOUND", "operation not found")

    def _read(self, namespace: str, asked: Asked) -> tuple[_Operation, Any]:
        if not any(asked.service == service for service, _ in self._operations):
            raise NotFound(f'service "{asked.service}" not found')
        operation = self._operations.get((asked.service, asked.operation))
        if operation is None:
            raise NotFound(f'operation "{asked.operation}" not found')
        request: Any = operation.request()
        _parse(asked.input, request)
        request.namespace = request.namespace or namespace
        if request.namespace != namespace:
            raise InvalidArgument(
                f'Namespace in request "{request.namespace}" does not match namespace in context'
                f' "{namespace}"'
            )
        if request.request_id:
            raise InvalidArgument("RequestID should not be set on the request")
        if request.links:
            raise InvalidArgument("Links should not be set on the request")
        return operation, request


def endpoint_ids(
    endpoints: NexusEndpoints, system: SystemOperations
) -> Callable[[str, NexusCommand], str]:
    """How a command finds the id of its endpoint: in the registry; the server's own has none, and its
    operations are checked at once."""

    def find(namespace: str, asked: NexusCommand) -> str:
        if asked.endpoint != SYSTEM_ENDPOINT:
            return endpoints.id_of(asked.endpoint)
        system.check(namespace, asked)
        return ""

    return find


def _parse(payload: common.Payload, request: Message) -> None:
    try:
        match payload.metadata.get("encoding", b""):
            case b"binary/protobuf":
                request.ParseFromString(payload.data)
            case b"json/protobuf":
                json_format.Parse(payload.data, request)
            case encoding:
                raise InvalidArgument(
                    "failed to decode input payload: its encoding must be binary/protobuf or"
                    f" json/protobuf, not {encoding.decode(errors='replace')!r}"
                )
    except (DecodeError, json_format.ParseError) as error:
        raise InvalidArgument(f"failed to decode input payload: {error}") from error


def _payload(message: Message) -> common.Payload:
    return common.Payload(
        metadata={
            "encoding": b"binary/protobuf",
            "messageType": message.DESCRIPTOR.full_name.encode(),
        },
        data=message.SerializeToString(),
    )


def _refused(refusal: Refusal) -> Refused:
    retryable = isinstance(refusal, TRIED_AGAIN)
    info = failure.ServerFailureInfo(non_retryable=not retryable)
    message = f"{type(refusal).__name__}: {refusal.message}"
    return Refused(failure.Failure(message=message, server_failure_info=info), retryable)
