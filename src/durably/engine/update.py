"""The update machine: a request to a running workflow that gets an answer.

    state      input                  to         journal
    --------   --------------------   --------   --------------------------------------------
    none       admit                  admitted   record UpdateAdmitted, and a workflow task
    admitted   worker accepts         accepted   WorkflowExecutionUpdateAccepted
    admitted   worker rejects         none       record UpdateDropped
    admitted   another request        admitted   record UpdateAttached; its options go into history
                                                 as soon as the update is accepted
    accepted   another request        accepted   WorkflowExecutionOptionsUpdated
    admitted   worker talks nonsense  none       record UpdateDropped, and its task fails
    accepted   worker completes       none       WorkflowExecutionUpdateCompleted

Rule 1: every workflow task carries all updates that are admitted when it starts.
Rule 2: an update that its task neither accepted nor rejected is rejected: the worker knows no updates.
Rule 3: an update id is used once in a run; asked again, it finds the first.
Rule 4: another request for an update brings nothing but its callbacks, and those once.
"""

from collections.abc import Iterator
from typing import TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.protocol.v1 import message_pb2 as protocol
from temporalio.api.update.v1 import message_pb2 as update
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.config import Config
from durably.engine import records as r
from durably.engine import workflow_options, workflow_task
from durably.engine.callback import machine as callback
from durably.engine.refusals import BadCommand
from durably.engine.state import Update, WorkflowState
from durably.engine.transition import Transition
from durably.engine.workflow import ensure_running
from durably.engine.workflow_options import OptionsOfUpdate
from durably.errors import FailedPrecondition, ResourceExhausted, WorkflowNotReady

FAILED_ATTEMPTS_MAX = 3
"""A workflow whose task is at this attempt takes no updates in: its worker cannot get on."""

EVENTS_SENT_AGAIN_MAX = 10
"""A speculative task that carried more new events than this stays in history, so that they are not sent
again and again."""

BAD_MESSAGE = causes.WORKFLOW_TASK_FAILED_CAUSE_BAD_UPDATE_WORKFLOW_EXECUTION_MESSAGE


def known(state: WorkflowState, update_id: str) -> bool:
    return update_id in state.updates or update_id in state.updates_completed


def admit(t: Transition, request: update.Request, config: Config) -> None:
    """Take an update in, unless its id is known. NotFound if the run is closed,
    FailedPrecondition while it is paused."""
    state = t.state
    if known(state, request.meta.update_id):
        _attach(t, request, config)
        return
    ensure_running(state)
    if state.held:
        raise FailedPrecondition("Workflow is paused. Cannot update the workflow.")
    if state.workflow_task_attempt >= FAILED_ATTEMPTS_MAX:
        raise WorkflowNotReady(
            "Unable to perform workflow execution update due to Workflow Task in failed state."
        )
    if len(state.updates) >= config.updates_in_flight_max:
        raise ResourceExhausted(
            f"limit on number of concurrent in-flight updates has been reached"
            f" ({config.updates_in_flight_max}); wait for some to complete"
        )
    if state.updates_total >= config.updates_max:
        raise ResourceExhausted(
            f"limit on number of total updates has been reached ({config.updates_max});"
            " continue as new"
        )
    callback.check_room(state, len(request.completion_callbacks), config.callbacks_max)
    t.note(r.UpdateAdmitted(request.meta.update_id, request.SerializeToString()))
    workflow_task.schedule_for_update(t)


def _attach(t: Transition, request: update.Request, config: Config) -> None:
    """The callbacks of a later request for the same update. One that has completed needs none: its
    outcome is in the reply."""
    state = t.state
    pending = state.updates.get(request.meta.update_id)
    request_id = request.request_id
    if pending is None or not request.completion_callbacks or request_id in state.requests:
        return
    callback.check_room(state, len(request.completion_callbacks), config.callbacks_max)
    options = OptionsOfUpdate(
        update_id=request.meta.update_id,
        attached_request_id=request_id,
        attached_completion_callbacks=request.completion_callbacks,
    )
    if pending.accepted_event_id:
        workflow_options.attach_to_update(t, options)
    elif not _brought_by(pending, request_id):
        t.note(r.UpdateAttached(pending.update_id, request_id, options.SerializeToString()))


def _brought_by(pending: Update, request_id: str) -> bool:
    first = update.Request.FromString(pending.request).request_id
    return request_id == first or any(request_id == known for known, _ in pending.attached)


def messages(state: WorkflowState) -> Iterator[protocol.Message]:
    """What the workflow task in flight carries to the worker. The request of an update that a reset
    brought along is in the history."""
    task = state.workflow_task
    for pending in state.updates.values():
        if pending.sent and not pending.admitted_event_id and task is not None:
            body = AnyMessage()
            body.Pack(update.Request.FromString(pending.request))
            yield protocol.Message(
                id=f"{pending.update_id}/request",
                protocol_instance_id=pending.update_id,
                event_id=task.started_event_id - 1,
                body=body,
            )


def leaves_nothing(state: WorkflowState, request: ws.RespondWorkflowTaskCompletedRequest) -> bool:
    """Whether all that a worker does in a speculative task is to reject updates.

    A worker that cannot forget events it was sent keeps the task, if there were any.
    """
    task = state.workflow_task
    if task is None or not task.speculative or state.buffered:
        return False
    if request.commands or request.force_create_new_workflow_task:
        return False
    news = state.next_event_id - 1 - state.last_completed_event_id
    forgets = request.capabilities.discard_speculative_workflow_task_with_events
    if news > (EVENTS_SENT_AGAIN_MAX if forgets else 0):
        return False
    return all(message.body.Is(update.Rejection.DESCRIPTOR) for message in request.messages)


def waiting_unsent(state: WorkflowState) -> bool:
    """Whether an update waits that the task in flight does not carry."""
    return any(not u.sent and not u.accepted_event_id for u in state.updates.values())


# --- What the worker says ---------------------------------------------------------------------


def receive(t: Transition, message: protocol.Message) -> None:
    """One message of a completed workflow task. Raises BadCommand for one that makes no sense."""
    body = message.body
    if body.Is(update.Acceptance.DESCRIPTOR):
        _accept(t, message, _unpack(body, update.Acceptance()))
    elif body.Is(update.Rejection.DESCRIPTOR):
        _reject(t, message, _unpack(body, update.Rejection()))
    elif body.Is(update.Response.DESCRIPTOR):
        _complete(t, message, _unpack(body, update.Response()))
    else:
        raise BadCommand(BAD_MESSAGE, f"unknown message {body.type_url}")


M = TypeVar("M", update.Acceptance, update.Rejection, update.Response)


def _unpack(body: AnyMessage, into: M) -> M:
    body.Unpack(into)
    return into


def _accept(t: Transition, message: protocol.Message, accepted: update.Acceptance) -> None:
    update_id = message.protocol_instance_id
    pending = t.state.updates.get(update_id)
    if pending is None or pending.accepted_event_id:
        raise BadCommand(BAD_MESSAGE, f"update {update_id} was not waiting to be accepted")
    if not accepted.accepted_request_sequencing_event_id:
        raise _not_set(accepted, "accepted_request_sequencing_event_id")
    if not accepted.accepted_request_message_id:
        raise _not_set(accepted, "accepted_request_message_id")
    request = update.Request.FromString(pending.request)
    attached = list(pending.attached)
    t.record(
        history.WorkflowExecutionUpdateAcceptedEventAttributes(
            protocol_instance_id=update_id,
            accepted_request_message_id=accepted.accepted_request_message_id,
            accepted_request_sequencing_event_id=accepted.accepted_request_sequencing_event_id,
            accepted_request=None if pending.admitted_event_id else request,
        ),
        links=[link for each in request.completion_callbacks for link in each.links],
    )
    for _, options in attached:
        workflow_options.attach_to_update(t, OptionsOfUpdate.FromString(options))


def _reject(t: Transition, message: protocol.Message, rejected: update.Rejection) -> None:
    update_id = message.protocol_instance_id
    pending = t.state.updates.get(update_id)
    if pending is None or pending.accepted_event_id:
        raise BadCommand(BAD_MESSAGE, f"update {update_id} was not waiting to be rejected")
    _drop(t, pending, rejected.failure)


def _drop(t: Transition, pending: Update, reason: failure.Failure) -> None:
    """No trace is left in history, except where a reset had brought the request into it: the callbacks
    that came with it hear of the rejection."""
    outcome = b""
    if pending.admitted_event_id:
        outcome = update.Outcome(failure=reason).SerializeToString()
    at_ns = t.now_ns if outcome else 0
    t.note(r.UpdateDropped(pending.update_id, outcome, at_ns, reason.SerializeToString()))
    t.rejected[pending.update_id] = reason
    callback.invoke_due(t)


def _complete(t: Transition, message: protocol.Message, response: update.Response) -> None:
    update_id = message.protocol_instance_id
    pending = t.state.updates.get(update_id)
    if pending is None or not pending.accepted_event_id:
        raise BadCommand(BAD_MESSAGE, f"update {update_id} was not accepted")
    if not response.HasField("outcome"):
        raise _not_set(response, "outcome")
    if response.meta.update_id != update_id:
        raise BadCommand(BAD_MESSAGE, f"invalid *update.Response: meta.update_id != {update_id}")
    t.record(
        history.WorkflowExecutionUpdateCompletedEventAttributes(
            meta=response.meta,
            outcome=response.outcome,
            accepted_event_id=pending.accepted_event_id,
        )
    )
    callback.invoke_due(t)


def _not_set(message: Message, field: str) -> BadCommand:
    return BadCommand(BAD_MESSAGE, f"invalid *update.{type(message).__name__}: {field} is not set")


def reject_unprocessed(t: Transition, sent: list[str]) -> None:
    """Updates that a completed task carried, and said nothing of."""
    for update_id in sent:
        pending = t.state.updates.get(update_id)
        if pending is not None and not pending.accepted_event_id:
            reason = _server_failure(
                "UnprocessedUpdate",
                "Workflow Update is rejected because it wasn't processed by worker."
                " Probably, Workflow Update is not supported by the worker.",
            )
            _drop(t, pending, reason)


def abandon_sent(t: Transition) -> None:
    """The task that carried them could not be completed with what its worker answered. It is tried
    again, and they are not: the worker would answer the same."""
    for update_id, pending in list(t.state.updates.items()):
        if pending.sent and not pending.accepted_event_id:
            t.note(r.UpdateDropped(update_id))
            t.abandoned.append(update_id)


def closed_failure() -> failure.Failure:
    """The outcome of an accepted update whose workflow closed before it completed."""
    return _server_failure(
        "AcceptedUpdateCompletedWorkflow",
        "Workflow Update failed because the Workflow completed before the Update completed.",
    )


def _server_failure(kind: str, message: str) -> failure.Failure:
    info = failure.ApplicationFailureInfo(type=kind, non_retryable=True)
    return failure.Failure(message=message, source="Server", application_failure_info=info)
