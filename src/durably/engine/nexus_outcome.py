"""What the handler of a Nexus operation answers; what this engine and whoever calls handlers share.

Facts: https://github.com/nexus-rpc/api/blob/main/SPEC.md.
"""

from dataclasses import dataclass

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import nexus_pb2 as nexus_enums
from temporalio.api.failure.v1 import message_pb2 as failure

NOT_RETRIED = frozenset(
    (
        "BAD_REQUEST",
        "CONFLICT",
        "NOT_FOUND",
        "NOT_IMPLEMENTED",
        "UNAUTHENTICATED",
        "UNAUTHORIZED",
    )
)
"""Types of handler errors after which the same request is not made again. Any other type, also one that
nobody knows, is."""


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The operation is done; this is its result."""

    payload: common.Payload | None = None
    links: tuple[common.Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """The operation goes on by itself, under this token; its end comes by the callback, or is asked for
    if the token begins with `state.WATCHED`."""

    token: str
    links: tuple[common.Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Unsuccessful:
    """The operation failed, or was canceled if the failure says so."""

    failure: failure.Failure

    @property
    def canceled(self) -> bool:
        return self.failure.HasField("canceled_failure_info")


@dataclass(frozen=True, slots=True)
class Refused:
    """The request itself failed: nothing is known of the operation."""

    failure: failure.Failure
    retryable: bool


StartOutcome = Succeeded | Started | Unsuccessful | Refused

Ended = Succeeded | Unsuccessful
"""How an operation ends that was started."""


def refused(kind: str, message: str) -> Refused:
    """A handler error that this server makes itself."""
    info = failure.NexusHandlerFailureInfo(type=kind)
    made = failure.Failure(message=message, nexus_handler_failure_info=info)
    return Refused(made, kind not in NOT_RETRIED)


def refused_with(reason: failure.Failure) -> Refused:
    """A handler error as its handler sent it; it may say itself whether to ask again."""
    info = reason.nexus_handler_failure_info
    match info.retry_behavior:
        case nexus_enums.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_RETRYABLE:
            return Refused(reason, True)
        case nexus_enums.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE:
            return Refused(reason, False)
        case _:
            return Refused(reason, info.type not in NOT_RETRIED)


def call_error(message: str, *, retryable: bool) -> Refused:
    """A request that got no answer, or one that cannot be used."""
    info = failure.ApplicationFailureInfo(type="CallError", non_retryable=not retryable)
    return Refused(failure.Failure(message=message, application_failure_info=info), retryable)
