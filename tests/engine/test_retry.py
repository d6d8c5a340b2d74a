"""Whether another attempt follows, and when."""

from typing import Any

import hypothesis.strategies as st
import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.failure.v1 import message_pb2 as failure

from durably.engine import retry
from durably.errors import InvalidArgument
from tests.engine.lives import SECOND_NS

HEARTBEAT = workflow_enums.TIMEOUT_TYPE_HEARTBEAT
START_TO_CLOSE = workflow_enums.TIMEOUT_TYPE_START_TO_CLOSE
SCHEDULE_TO_START = workflow_enums.TIMEOUT_TYPE_SCHEDULE_TO_START


def decide(
    policy: common.RetryPolicy | None = None,
    reason: failure.Failure | None = None,
    attempt: int = 1,
    expires_ns: int = 0,
) -> retry.RetryDecision:
    return retry.next_retry(
        policy or common.RetryPolicy(),
        attempt=attempt,
        failure=reason or failure.Failure(),
        now_ns=0,
        expires_ns=expires_ns,
    )


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(0, 1), (1, 1), (2, 2), (3, 4), (7, 64), (8, 100), (5000, 100)]
)
def test_the_delay_doubles_up_to_a_hundred_times_the_first(attempt: int, seconds: int) -> None:
    assert decide(attempt=attempt).delay_ns == seconds * SECOND_NS


def test_a_policy_of_ones_own() -> None:
    policy = common.RetryPolicy(
        initial_interval={"seconds": 3},  # type: ignore[arg-type]
        backoff_coefficient=1.0,
        maximum_interval={"seconds": 3},  # type: ignore[arg-type]
        maximum_attempts=3,
    )
    assert retry.with_defaults(policy) == policy
    assert decide(policy, attempt=2).delay_ns == 3 * SECOND_NS
    state = decide(policy, attempt=3).state
    assert state == workflow_enums.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED


def test_the_failure_may_name_the_delay() -> None:
    info = failure.ApplicationFailureInfo(next_retry_delay={"seconds": 9})  # type: ignore[arg-type]
    reason = failure.Failure(application_failure_info=info)
    assert decide(reason=reason).delay_ns == 9 * SECOND_NS


def test_an_attempt_that_would_come_too_late_does_not_come() -> None:
    assert decide(expires_ns=SECOND_NS).state == workflow_enums.RETRY_STATE_TIMEOUT
    assert decide(expires_ns=SECOND_NS + 1).state == workflow_enums.RETRY_STATE_IN_PROGRESS


def _cause(reason: failure.Failure) -> failure.Failure:
    return failure.Failure(activity_failure_info=failure.ActivityFailureInfo(), cause=reason)


FATAL = failure.Failure(
    application_failure_info=failure.ApplicationFailureInfo(type="E", non_retryable=True)
)
LISTED = failure.Failure(application_failure_info=failure.ApplicationFailureInfo(type="Listed"))
PLAIN = failure.Failure(application_failure_info=failure.ApplicationFailureInfo(type="E"))


def timeout(kind: workflow_enums.TimeoutType.ValueType) -> failure.Failure:
    return failure.Failure(timeout_failure_info=failure.TimeoutFailureInfo(timeout_type=kind))


@pytest.mark.parametrize(
    ("reason", "again"),
    [
        (failure.Failure(), True),
        (PLAIN, True),
        (FATAL, False),
        (LISTED, False),
        (failure.Failure(terminated_failure_info=failure.TerminatedFailureInfo()), False),
        (failure.Failure(canceled_failure_info=failure.CanceledFailureInfo()), False),
        (failure.Failure(server_failure_info=failure.ServerFailureInfo()), True),
        (failure.Failure(server_failure_info=failure.ServerFailureInfo(non_retryable=True)), False),
        (timeout(START_TO_CLOSE), True),
        (timeout(SCHEDULE_TO_START), False),
        (timeout(HEARTBEAT), False),
        (_cause(PLAIN), True),
        (_cause(FATAL), False),
        (failure.Failure(activity_failure_info=failure.ActivityFailureInfo()), True),
        (
            failure.Failure(
                child_workflow_execution_failure_info=failure.ChildWorkflowExecutionFailureInfo(),
                cause=LISTED,
            ),
            False,
        ),
    ],
)
def test_which_failures_are_tried_again(reason: failure.Failure, again: bool) -> None:
    policy = common.RetryPolicy(non_retryable_error_types=["Listed", "TemporalTimeout:Heartbeat"])
    state = decide(policy, reason).state
    assert (state == workflow_enums.RETRY_STATE_IN_PROGRESS) == again
    assert again or state == workflow_enums.RETRY_STATE_NON_RETRYABLE_FAILURE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial_interval": {"seconds": -1}}, "InitialInterval"),
        ({"backoff_coefficient": 0.5}, "BackoffCoefficient cannot be less than 1"),
        ({"maximum_interval": {"seconds": -1}}, "MaximumInterval"),
        (
            {"initial_interval": {"seconds": 2}, "maximum_interval": {"seconds": 1}},
            "MaximumInterval cannot be less than InitialInterval",
        ),
        ({"maximum_attempts": -1}, "MaximumAttempts cannot be negative"),
        ({"non_retryable_error_types": ["TemporalTimeout:Never"]}, "Invalid timeout type value"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        retry.validate_policy(common.RetryPolicy(**options))


def test_policies_that_make_sense() -> None:
    retry.validate_policy(common.RetryPolicy())
    retry.validate_policy(common.RetryPolicy(maximum_attempts=1, backoff_coefficient=0.1))
    retry.validate_policy(
        common.RetryPolicy(
            backoff_coefficient=1.5,
            maximum_interval={"seconds": 5},  # type: ignore[arg-type]
            non_retryable_error_types=["E", "TemporalTimeout:StartToClose"],
        )
    )


def duration_ns(value: int) -> Duration:
    made = Duration()
    made.FromNanoseconds(value)
    return made


NANOSECONDS = st.integers(0, 100_000 * SECOND_NS)


@given(
    initial_ns=NANOSECONDS,
    longest_ns=NANOSECONDS,
    coefficient=st.one_of(st.just(0.0), st.floats(1, 1e9)),
    attempts=st.integers(0, 50),
    attempt=st.integers(0, 100_000),
    left_ns=NANOSECONDS,
)
def test_any_policy_gives_a_delay_within_its_bounds_or_a_reason(
    initial_ns: int,
    longest_ns: int,
    coefficient: float,
    attempts: int,
    attempt: int,
    left_ns: int,
) -> None:
    policy = retry.with_defaults(
        common.RetryPolicy(
            initial_interval=duration_ns(initial_ns),
            maximum_interval=duration_ns(longest_ns),
            backoff_coefficient=coefficient,
            maximum_attempts=attempts,
        )
    )
    found = decide(policy, attempt=attempt, expires_ns=left_ns)
    longest = policy.maximum_interval.ToNanoseconds()
    match found.state:
        case workflow_enums.RETRY_STATE_IN_PROGRESS:
            assert 0 <= found.delay_ns <= longest
            assert not left_ns or found.delay_ns < left_ns
            assert not attempts or attempt < attempts
            later = retry.backoff_ns(policy, attempt + 1)
            assert found.delay_ns <= later, "no delay is shorter than the one before"
        case workflow_enums.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED:
            assert attempt >= attempts > 0
        case other:
            assert other == workflow_enums.RETRY_STATE_TIMEOUT
            assert retry.backoff_ns(policy, attempt) >= left_ns > 0
    assert retry.with_defaults(policy) == policy
