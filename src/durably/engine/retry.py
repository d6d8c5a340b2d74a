"""When is the next attempt, or why is there none: for activities and workflow runs alike.

Facts: RetryPolicy in temporal/api/common/v1/message.proto.
"""

from dataclasses import dataclass

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.failure.v1 import message_pb2 as failure

from durably.engine.times import SECOND_NS, nanoseconds
from durably.errors import InvalidArgument

INITIAL_INTERVAL_NS = SECOND_NS
BACKOFF_COEFFICIENT = 2.0
MAXIMUM_INTERVAL_FACTOR = 100

TIMEOUT_TYPES = {
    "StartToClose": workflow_enums.TIMEOUT_TYPE_START_TO_CLOSE,
    "ScheduleToStart": workflow_enums.TIMEOUT_TYPE_SCHEDULE_TO_START,
    "ScheduleToClose": workflow_enums.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE,
    "Heartbeat": workflow_enums.TIMEOUT_TYPE_HEARTBEAT,
}
TIMEOUT_PREFIX = "TemporalTimeout:"


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """IN_PROGRESS with a delay in nanoseconds, or the reason for which there is no other attempt."""

    state: workflow_enums.RetryState.ValueType
    delay_ns: int = 0


def validate_policy(policy: common.RetryPolicy) -> None:
    """Raises InvalidArgument for a policy that makes no sense. One attempt needs nothing else."""
    if policy.maximum_attempts == 1:
        return
    initial_ns = nanoseconds(policy.initial_interval)
    maximum_ns = nanoseconds(policy.maximum_interval)
    if initial_ns < 0:
        raise InvalidArgument("invalid InitialInterval set on retry policy: negative duration")
    if policy.backoff_coefficient != 0 and policy.backoff_coefficient < 1:
        raise InvalidArgument("BackoffCoefficient cannot be less than 1 on retry policy.")
    if maximum_ns < 0:
        raise InvalidArgument("invalid MaximumInterval set on retry policy: negative duration")
    if maximum_ns and maximum_ns < initial_ns:
        raise InvalidArgument(
            "MaximumInterval cannot be less than InitialInterval on retry policy."
        )
    if policy.maximum_attempts < 0:
        raise InvalidArgument("MaximumAttempts cannot be negative on retry policy.")
    for name in policy.non_retryable_error_types:
        kind = name.removeprefix(TIMEOUT_PREFIX)
        if kind != name and kind not in TIMEOUT_TYPES:
            raise InvalidArgument(f"Invalid timeout type value: {kind}.")


def with_defaults(policy: common.RetryPolicy) -> common.RetryPolicy:
    """The same policy with every unset field at its default."""
    full = common.RetryPolicy()
    full.CopyFrom(policy)
    if not nanoseconds(full.initial_interval):
        full.initial_interval.seconds = INITIAL_INTERVAL_NS // SECOND_NS
    if not full.backoff_coefficient:
        full.backoff_coefficient = BACKOFF_COEFFICIENT
    if not nanoseconds(full.maximum_interval):
        longest_ns = nanoseconds(full.initial_interval) * MAXIMUM_INTERVAL_FACTOR
        full.maximum_interval.seconds, full.maximum_interval.nanos = divmod(longest_ns, SECOND_NS)
    return full


def next_retry(
    policy: common.RetryPolicy,
    *,
    attempt: int,
    failure: failure.Failure,
    now_ns: int,
    expires_ns: int,
) -> RetryDecision:
    """Whether attempt number `attempt`, which ended with `failure`, is followed by another."""
    if not _retryable(failure, policy):
        return RetryDecision(workflow_enums.RETRY_STATE_NON_RETRYABLE_FAILURE)
    if policy.maximum_attempts and attempt >= policy.maximum_attempts:
        return RetryDecision(workflow_enums.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED)
    delay_ns = nanoseconds(failure.application_failure_info.next_retry_delay)
    if not delay_ns:
        delay_ns = backoff_ns(policy, attempt)
    if expires_ns and now_ns + delay_ns >= expires_ns:
        return RetryDecision(workflow_enums.RETRY_STATE_TIMEOUT)
    return RetryDecision(workflow_enums.RETRY_STATE_IN_PROGRESS, delay_ns)


def backoff_ns(policy: common.RetryPolicy, attempt: int) -> int:
    """Delay after attempt number `attempt` (from 1; 0, after a reset, counts as 1)."""
    attempt = max(attempt, 1)
    initial_ns = nanoseconds(policy.initial_interval) or INITIAL_INTERVAL_NS
    coefficient = policy.backoff_coefficient or BACKOFF_COEFFICIENT
    longest_ns = nanoseconds(policy.maximum_interval) or initial_ns * MAXIMUM_INTERVAL_FACTOR
    try:
        delay = initial_ns * coefficient ** (attempt - 1)
    except OverflowError:
        return longest_ns
    return int(min(delay, longest_ns))


def _retryable(reason: failure.Failure, policy: common.RetryPolicy) -> bool:
    listed = policy.non_retryable_error_types
    if reason.HasField("terminated_failure_info") or reason.HasField("canceled_failure_info"):
        return False
    if reason.HasField("timeout_failure_info"):
        kind = reason.timeout_failure_info.timeout_type
        retried = (
            workflow_enums.TIMEOUT_TYPE_START_TO_CLOSE,
            workflow_enums.TIMEOUT_TYPE_HEARTBEAT,
        )
        names = [n for n, value in TIMEOUT_TYPES.items() if value == kind]
        return kind in retried and not any(TIMEOUT_PREFIX + n in listed for n in names)
    if reason.HasField("server_failure_info"):
        return not reason.server_failure_info.non_retryable
    if reason.HasField("application_failure_info"):
        info = reason.application_failure_info
        return not info.non_retryable and info.type not in listed
    if reason.HasField("child_workflow_execution_failure_info") or reason.HasField(
        "activity_failure_info"
    ):
        return _retryable(reason.cause, policy) if reason.HasField("cause") else True
    return True
