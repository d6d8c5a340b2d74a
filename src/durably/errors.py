"""The refusals a caller can see.

Rule 1: every error that leaves the server is a `Refusal`; anything else is a bug and leaves as INTERNAL.
Rule 2: a refusal says what to do next, and nothing has changed when it is raised.

Each class carries its gRPC status; those with a detail message carry it as the API's
`temporal.api.errordetails.v1` type, so that SDKs raise their own typed errors.
"""

from enum import IntEnum

from google.protobuf.message import Message
from temporalio.api.enums.v1 import namespace_pb2 as namespace_enums
from temporalio.api.errordetails.v1 import message_pb2 as details


class Status(IntEnum):
    """gRPC status codes (https://grpc.io/docs/guides/status-codes/)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


HTTP_STATUS: dict[Status, int] = {
    Status.OK: 200,
    Status.CANCELLED: 499,
    Status.UNKNOWN: 500,
    Status.INVALID_ARGUMENT: 400,
    Status.DEADLINE_EXCEEDED: 504,
    Status.NOT_FOUND: 404,
    Status.ALREADY_EXISTS: 409,
    Status.PERMISSION_DENIED: 403,
    Status.RESOURCE_EXHAUSTED: 429,
    Status.FAILED_PRECONDITION: 400,
    Status.ABORTED: 409,
    Status.OUT_OF_RANGE: 400,
    Status.UNIMPLEMENTED: 501,
    Status.INTERNAL: 500,
    Status.UNAVAILABLE: 503,
    Status.DATA_LOSS: 500,
    Status.UNAUTHENTICATED: 401,
}


class Refusal(Exception):
    """Something the caller asked for is not done; nothing has changed.

    `status` is the gRPC status, `message` is shown to the caller, `detail` (optional) is packed into
    `google.rpc.Status.details`.
    """

    status: Status = Status.UNKNOWN

    def __init__(self, message: str, detail: Message | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail


class InvalidArgument(Refusal):
    status = Status.INVALID_ARGUMENT


class NotFound(Refusal):
    status = Status.NOT_FOUND

    def __init__(self, message: str, detail: Message | None = None) -> None:
        super().__init__(message, detail or details.NotFoundFailure())


class NamespaceNotFound(Refusal):
    status = Status.NOT_FOUND

    def __init__(self, namespace: str) -> None:
        super().__init__(
            f"Namespace {namespace} is not found.",
            details.NamespaceNotFoundFailure(namespace=namespace),
        )


class NamespaceDeleted(Refusal):
    """The namespace is being deleted; only its description can still be had."""

    status = Status.FAILED_PRECONDITION

    def __init__(self, namespace: str) -> None:
        super().__init__(
            "Namespace has invalid state: Deleted. Must be Registered or Deprecated.",
            details.NamespaceInvalidStateFailure(
                namespace=namespace,
                state=namespace_enums.NAMESPACE_STATE_DELETED,
                allowed_states=[
                    namespace_enums.NAMESPACE_STATE_REGISTERED,
                    namespace_enums.NAMESPACE_STATE_DEPRECATED,
                ],
            ),
        )


class NamespaceAlreadyExists(Refusal):
    status = Status.ALREADY_EXISTS

    def __init__(self, message: str) -> None:
        super().__init__(message, details.NamespaceAlreadyExistsFailure())


class WorkflowExecutionAlreadyStarted(Refusal):
    """StartWorkflowExecution met an execution that its policies do not let it replace."""

    status = Status.ALREADY_EXISTS

    def __init__(self, message: str, start_request_id: str, run_id: str) -> None:
        super().__init__(
            message,
            details.WorkflowExecutionAlreadyStartedFailure(
                start_request_id=start_request_id, run_id=run_id
            ),
        )


class ActivityExecutionAlreadyStarted(Refusal):
    """StartActivityExecution met an activity that its policies do not let it replace."""

    status = Status.ALREADY_EXISTS

    def __init__(self, start_request_id: str, run_id: str) -> None:
        super().__init__(
            "activity execution already started",
            details.ActivityExecutionAlreadyStartedFailure(
                start_request_id=start_request_id, run_id=run_id
            ),
        )


class NexusOperationExecutionAlreadyStarted(Refusal):
    """StartNexusOperationExecution met an operation that its policies do not let it replace."""

    status = Status.ALREADY_EXISTS

    def __init__(self, start_request_id: str, run_id: str) -> None:
        super().__init__(
            "nexus operation execution already started:"
            f" request_id={start_request_id}, run_id={run_id}",
            details.NexusOperationExecutionAlreadyStartedFailure(
                start_request_id=start_request_id, run_id=run_id
            ),
        )


class AlreadyExists(Refusal):
    status = Status.ALREADY_EXISTS


class QueryFailed(Refusal):
    """The worker answered a query with a failure; `detail` is a QueryFailedFailure."""

    status = Status.INVALID_ARGUMENT


class FailedPrecondition(Refusal):
    status = Status.FAILED_PRECONDITION


class WorkflowNotReady(Refusal):
    status = Status.FAILED_PRECONDITION

    def __init__(self, message: str) -> None:
        super().__init__(message, details.WorkflowNotReadyFailure())


class ResourceExhausted(Refusal):
    status = Status.RESOURCE_EXHAUSTED


class NewerBuildExists(Refusal):
    """A worker polls whose build is not the newest of its compatible ones."""

    status = Status.OUT_OF_RANGE

    def __init__(self, build_id: str) -> None:
        super().__init__(
            f'Task queue has a newer compatible build: "{build_id}"',
            details.NewerBuildExistsFailure(default_build_id=build_id),
        )


class PermissionDenied(Refusal):
    status = Status.PERMISSION_DENIED


class Unauthenticated(Refusal):
    """Nobody knows who calls: there is no token, or not one of this server's."""

    status = Status.UNAUTHENTICATED


class DeadlineExceeded(Refusal):
    status = Status.DEADLINE_EXCEEDED


class Cancelled(Refusal):
    status = Status.CANCELLED


class Aborted(Refusal):
    status = Status.ABORTED


class Unimplemented(Refusal):
    status = Status.UNIMPLEMENTED


class Unavailable(Refusal):
    """The server cannot do this now; the SDKs retry it."""

    status = Status.UNAVAILABLE


class WrittenByNewer(Unavailable):
    """What is stored has something in it that this version does not know. It is not read in part, and nothing
    is decided on it here: a server of the version that wrote it can go on."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} was written by a newer version of durably than this server is: ask a server of that"
            " version, or upgrade this one"
        )


class Internal(Refusal):
    status = Status.INTERNAL
