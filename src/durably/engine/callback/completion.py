"""What a completion callback says: how an execution, or an update of it, ended.

Facts: the completion of an operation in the Nexus specification (nexus-rpc/api, SPEC.md). What Temporal
makes of the end of a workflow: one payload as the result, a failure with a state otherwise.
"""

from dataclasses import dataclass

from temporalio.api.activity.v1 import message_pb2 as activities
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import activity_pb2 as activity_enums
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.enums.v1 import nexus_pb2 as nexus_enums
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.update.v1 import message_pb2 as update

from durably.engine.callback.state import Callback
from durably.engine.standalone.state import StandaloneActivityState
from durably.engine.standalone_nexus.state import StandaloneNexusState
from durably.engine.state import WorkflowState
from durably.engine.times import nanoseconds
from durably.engine.update import closed_failure

SUCCEEDED = "succeeded"
FAILED = "failed"
CANCELED = "canceled"


@dataclass(frozen=True, slots=True)
class Completion:
    """How an operation ended. `failure` None: it succeeded, with a result or without."""

    state: str
    result: common.Payload | None
    failure: failure.Failure | None
    start_ns: int
    close_ns: int
    links: tuple[common.Link, ...]
    """To what the operation was."""


def _succeeded(
    result: common.Payloads, start_ns: int, close_ns: int, link: common.Link
) -> Completion:
    """A completion has room for one payload."""
    first = result.payloads[0] if result.payloads else None
    return Completion(SUCCEEDED, first, None, start_ns, close_ns, (link,))


def _without_result(
    state: StandaloneActivityState | StandaloneNexusState, canceled: bool, link: common.Link
) -> Completion:
    how = CANCELED if canceled else FAILED
    return Completion(how, None, state.failure, state.start_ns, state.close_ns, (link,))


# --- Workflows --------------------------------------------------------------------------------


def ending_event_id(state: WorkflowState, callback: Callback) -> int:
    """The event that `of_workflow` asks for; 0: none is needed."""
    if callback.outcome:
        return 0
    return callback.outcome_event_id or state.close_event_id


def of_workflow(
    state: WorkflowState, callback: Callback, ending: history.HistoryEvent
) -> Completion:
    """`ending`: the event `ending_event_id`, or an empty one."""
    link = _link_to_request(state, callback)
    close_ns = callback.outcome_ns or nanoseconds(ending.event_time)
    if callback.update_id:
        outcome = _outcome(callback, ending)
        if outcome.HasField("failure"):
            return Completion(FAILED, None, outcome.failure, state.start_ns, close_ns, (link,))
        return _succeeded(outcome.success, state.start_ns, close_ns, link)
    if ending.event_type == event_types.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
        result = ending.workflow_execution_completed_event_attributes.result
        return _succeeded(result, state.start_ns, close_ns, link)
    how, reason = unsuccessful(ending)
    return Completion(how, None, reason, state.start_ns, close_ns, (link,))


def _outcome(callback: Callback, ending: history.HistoryEvent) -> update.Outcome:
    if callback.outcome:
        return update.Outcome.FromString(callback.outcome)
    if callback.outcome_event_id:
        return ending.workflow_execution_update_completed_event_attributes.outcome
    return update.Outcome(failure=closed_failure())


def unsuccessful(ending: history.HistoryEvent) -> tuple[str, failure.Failure]:
    """(state, why) of a workflow that ended with this event, and not with a result."""
    match ending.event_type:
        case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
            return FAILED, ending.workflow_execution_failed_event_attributes.failure
        case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
            canceled = ending.workflow_execution_canceled_event_attributes
            info = failure.CanceledFailureInfo()
            if canceled.HasField("details"):
                info.details.CopyFrom(canceled.details)
            return CANCELED, failure.Failure(
                message="operation canceled", canceled_failure_info=info
            )
        case event_types.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:
            return FAILED, failure.Failure(
                message="operation terminated",
                terminated_failure_info=failure.TerminatedFailureInfo(),
            )
        case _:
            return FAILED, failure.Failure(
                message="operation exceeded internal timeout",
                timeout_failure_info=failure.TimeoutFailureInfo(),
            )


def _link_to_request(state: WorkflowState, callback: Callback) -> common.Link:
    """To the event that the request which brought the callback has made. One that may have been
    buffered is named by its request."""
    link = common.Link()
    place = link.workflow_event
    place.namespace = state.namespace
    place.workflow_id, place.run_id = state.workflow_id, state.run_id
    made = state.requests.get(callback.request_id)
    started = event_types.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    if made is None or made.event_type == started:
        place.event_ref.event_id = 1
        place.event_ref.event_type = started
    else:
        place.request_id_ref.request_id = callback.request_id
        place.request_id_ref.event_type = made.event_type  # type: ignore[assignment]
    return link


# --- Standalone activities --------------------------------------------------------------------


def of_activity(state: StandaloneActivityState) -> Completion:
    """Of one that has closed."""
    link = common.Link(
        activity=common.Link.Activity(
            namespace=state.namespace, activity_id=state.workflow_id, run_id=state.run_id
        )
    )
    if state.failure is None:
        outcome = activities.ActivityExecutionOutcome(result=state.result)
        return _succeeded(outcome.result, state.start_ns, state.close_ns, link)
    canceled = state.status == activity_enums.ACTIVITY_EXECUTION_STATUS_CANCELED
    return _without_result(state, canceled, link)


# --- Standalone Nexus operations --------------------------------------------------------------


def of_operation(state: StandaloneNexusState) -> Completion:
    """Of one that has closed."""
    link = common.Link()
    link.nexus_operation.namespace = state.namespace
    link.nexus_operation.operation_id = state.workflow_id
    link.nexus_operation.run_id = state.run_id
    if state.failure is None:
        times = state.start_ns, state.close_ns
        return Completion(SUCCEEDED, state.result, None, *times, (link,))
    canceled = state.status == nexus_enums.NEXUS_OPERATION_EXECUTION_STATUS_CANCELED
    return _without_result(state, canceled, link)
