"""Failures as Nexus has them, made into those of the API.

A Nexus failure is a message with metadata and details, JSON of any form; its metadata may say that the
details are a Failure of the API, or an error of a Nexus SDK.

Facts: Failure in temporal/api/nexus/v1/message.proto; https://github.com/nexus-rpc/api/blob/main/SPEC.md.
"""

import base64
import json

from google.protobuf import json_format
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import nexus_pb2 as nexus_enums
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.nexus.v1 import message_pb2 as nexus

TEMPORAL_FAILURE = failure.Failure.DESCRIPTOR.full_name
HANDLER_ERROR = "nexus.HandlerError"
OPERATION_ERROR = "nexus.OperationError"


def from_nexus(found: nexus.Failure) -> failure.Failure:
    """The same as a Failure. Raises ValueError if its details are not what its metadata says."""
    made = failure.Failure()
    kind = found.metadata.get("type", "")
    match kind:
        case _ if kind == TEMPORAL_FAILURE:
            try:
                json_format.Parse(found.details, made, ignore_unknown_fields=True)
            except json_format.ParseError as error:
                raise ValueError(str(error)) from error
        case "nexus.OperationError":
            _operation_error(made, json.loads(found.details))
        case "nexus.HandlerError":
            _handler_error(made, json.loads(found.details))
        case _ if found.metadata or found.details:
            made.application_failure_info.type = "NexusFailure"
            made.application_failure_info.details.payloads.append(_kept(found))
    made.message = found.message
    made.stack_trace = found.stack_trace
    if found.HasField("cause"):
        made.cause.CopyFrom(from_nexus(found.cause))
    return made


def _operation_error(made: failure.Failure, details: dict[str, object]) -> None:
    if details.get("state") == "canceled":
        made.canceled_failure_info.SetInParent()
    else:
        made.application_failure_info.type = "OperationError"
        made.application_failure_info.non_retryable = True


RETRY_BEHAVIORS = {
    True: nexus_enums.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_RETRYABLE,
    False: nexus_enums.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE,
}


def _handler_error(made: failure.Failure, details: dict[str, object]) -> None:
    info = made.nexus_handler_failure_info
    info.type = str(details.get("type", ""))
    override = details.get("retryableOverride")
    if isinstance(override, bool):
        info.retry_behavior = RETRY_BEHAVIORS[override]
    encoded = str(details.get("encodedAttributes", ""))
    if encoded:
        data = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
        try:
            json_format.Parse(data, made.encoded_attributes)
        except json_format.ParseError as error:
            raise ValueError(str(error)) from error


def _kept(found: nexus.Failure) -> common.Payload:
    """What is not understood, whole."""
    said: dict[str, object] = {}
    if found.metadata:
        said["metadata"] = dict(found.metadata)
    if found.details:
        said["details"] = json.loads(found.details)
    data = json.dumps(said, separators=(",", ":")).encode()
    return common.Payload(metadata={"encoding": b"json/plain"}, data=data)


def handler_error(found: nexus.HandlerError) -> failure.Failure:
    """A handler error as older SDKs send it."""
    info = failure.NexusHandlerFailureInfo(
        type=found.error_type, retry_behavior=found.retry_behavior
    )
    made = failure.Failure(nexus_handler_failure_info=info)
    made.cause.CopyFrom(from_nexus(found.failure))
    return made


def operation_error(found: nexus.UnsuccessfulOperationError) -> failure.Failure:
    """The end of an operation that failed or was canceled, as older SDKs send it."""
    made = from_nexus(found.failure)
    if found.operation_state == "canceled" and not made.HasField("canceled_failure_info"):
        return canceled(made)
    return made


def canceled(found: failure.Failure) -> failure.Failure:
    """A failure that says no more than that something was canceled."""
    made = failure.Failure(message=found.message, stack_trace=found.stack_trace)
    made.canceled_failure_info.SetInParent()
    if found.HasField("cause"):
        made.cause.CopyFrom(found.cause)
    return made
