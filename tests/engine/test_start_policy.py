"""What becomes of a start whose workflow id is taken."""

import pytest
from temporalio.api.enums.v1 import workflow_pb2 as e

from durably.engine.start_policy import Outcome, decide, validate
from durably.engine.state import PAUSED, RUNNING
from durably.errors import InvalidArgument, WorkflowExecutionAlreadyStarted
from tests.engine.lives import fresh

DUPLICATE = e.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE
FAILED_ONLY = e.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY
REJECT = e.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
TERMINATE_IF_RUNNING = e.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING
FAIL = e.WORKFLOW_ID_CONFLICT_POLICY_FAIL
USE = e.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
TERMINATE = e.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
COMPLETED = e.WORKFLOW_EXECUTION_STATUS_COMPLETED
FAILED = e.WORKFLOW_EXECUTION_STATUS_FAILED


@pytest.mark.parametrize(
    ("status", "reuse", "conflict", "outcome"),
    [
        (RUNNING, 0, 0, None),
        (RUNNING, DUPLICATE, FAIL, None),
        (RUNNING, REJECT, USE, Outcome.RETURN),
        (PAUSED, DUPLICATE, USE, Outcome.RETURN),
        (RUNNING, DUPLICATE, TERMINATE, Outcome.TERMINATE),
        (RUNNING, TERMINATE_IF_RUNNING, 0, Outcome.TERMINATE),
        (COMPLETED, 0, 0, Outcome.START),
        (COMPLETED, DUPLICATE, FAIL, Outcome.START),
        (COMPLETED, TERMINATE_IF_RUNNING, 0, Outcome.START),
        (COMPLETED, REJECT, USE, None),
        (FAILED, REJECT, 0, None),
        (COMPLETED, FAILED_ONLY, 0, None),
        (e.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW, FAILED_ONLY, 0, None),
        (FAILED, FAILED_ONLY, 0, Outcome.START),
        (e.WORKFLOW_EXECUTION_STATUS_CANCELED, FAILED_ONLY, 0, Outcome.START),
        (e.WORKFLOW_EXECUTION_STATUS_TERMINATED, FAILED_ONLY, 0, Outcome.START),
        (e.WORKFLOW_EXECUTION_STATUS_TIMED_OUT, FAILED_ONLY, 0, Outcome.START),
    ],
)
def test_the_table(
    status: int,
    reuse: e.WorkflowIdReusePolicy.ValueType,
    conflict: e.WorkflowIdConflictPolicy.ValueType,
    outcome: Outcome | None,
) -> None:
    existing = fresh()
    existing.status = status
    existing.create_request_id = "first"
    if outcome is not None:
        assert decide(existing, "second", reuse, conflict) == outcome
        return
    with pytest.raises(WorkflowExecutionAlreadyStarted, match="WorkflowId: w, RunId: run"):
        decide(existing, "second", reuse, conflict)


@pytest.mark.parametrize("status", [RUNNING, COMPLETED])
def test_the_same_request_finds_the_run_that_it_started(status: int) -> None:
    existing = fresh()
    existing.status, existing.create_request_id = status, "first"
    assert decide(existing, "first", REJECT, FAIL) == Outcome.RETURN


def test_a_request_without_an_id_is_never_the_same() -> None:
    existing = fresh()
    existing.status = RUNNING
    with pytest.raises(WorkflowExecutionAlreadyStarted):
        decide(existing, "", DUPLICATE, FAIL)


def test_policies_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="TERMINATE_IF_RUNNING"):
        validate(TERMINATE_IF_RUNNING, USE)
    with pytest.raises(InvalidArgument, match="REJECT_DUPLICATE"):
        validate(REJECT, TERMINATE)
    validate(TERMINATE_IF_RUNNING, e.WORKFLOW_ID_CONFLICT_POLICY_UNSPECIFIED)
    validate(REJECT, USE)
    validate(DUPLICATE, TERMINATE)


@pytest.mark.parametrize("status", [RUNNING, PAUSED, *range(2, 8)])
@pytest.mark.parametrize("reuse", e.WorkflowIdReusePolicy.values())
@pytest.mark.parametrize("conflict", e.WorkflowIdConflictPolicy.values())
def test_every_combination_has_one_outcome(
    status: int,
    reuse: e.WorkflowIdReusePolicy.ValueType,
    conflict: e.WorkflowIdConflictPolicy.ValueType,
) -> None:
    existing = fresh()
    existing.status = status
    try:
        outcome = decide(existing, "new", reuse, conflict)
    except WorkflowExecutionAlreadyStarted:
        return
    if existing.running:
        assert outcome in (Outcome.RETURN, Outcome.TERMINATE), "two runs never have one id"
    else:
        assert outcome is Outcome.START
