"""The machine of a standalone Nexus operation: the operation machine, and what an execution adds to it.

    state     input                             to
    -------   -------------------------------   ----------------------------------------------
    none      start                             running, its first request owed
    running   what handlers, callbacks and      see `engine/nexus_operation.py`; its end closes this
              time do
    running   request_cancel                    running until the handler obeys
    running   terminate                         closed; the handler hears nothing of it

Rule 1: the same request id again changes nothing, also after the end.

Facts: the messages of StartNexusOperationExecution and its kin in
temporal/api/workflowservice/v1/request_response.proto.
"""

from collections.abc import Sequence

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import nexus_pb2 as nexus_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.config import Config
from durably.engine import nexus_operation
from durably.engine.callback import machine as callback
from durably.engine.journal import Created
from durably.engine.standalone_nexus import records as r
from durably.engine.standalone_nexus.state import SCHEDULED_EVENT_ID, StandaloneNexusState
from durably.engine.transition import Transition
from durably.errors import FailedPrecondition

NexusTransition = Transition[StandaloneNexusState]


def start(
    t: NexusTransition,
    request: ws.StartNexusOperationExecutionRequest,
    endpoint_id: str,
    config: Config,
) -> None:
    """A well-formed request becomes an execution; see `service/standalone_nexus.py`."""
    t.note(Created(request.namespace, request.request_id))
    t.note(r.NexusOpened(request.identity, request.search_attributes.SerializeToString()))
    attach(t, request.request_id, request.completion_callbacks, config)
    event = nexus_operation.scheduled_attributes(request, endpoint_id, t.new_id(), limit_ns=0)
    nexus_operation.begin(t, event, request.user_metadata)
    t.visible = True


def attach(
    t: NexusTransition,
    request_id: str,
    callbacks: Sequence[common.Callback],
    config: Config,
) -> None:
    """Callbacks of a start request; those of one request id are taken once."""
    known = any(each.request_id == request_id for each in t.state.callbacks.values())
    if not callbacks or known:
        return
    if t.state.closed:
        raise FailedPrecondition("cannot attach callbacks to a closed operation")
    callback.check_room(t.state, len(callbacks), config.callbacks_max, "an operation")
    encoded = tuple(each.SerializeToString() for each in callbacks)
    t.note(r.NexusAttached(request_id, t.now_ns, encoded))


def request_cancel(t: NexusTransition, identity: str, reason: str, request_id: str) -> None:
    """RequestCancelNexusOperationExecution."""
    state = t.state
    if state.cancel is not None and state.cancel.request_id == request_id:
        return
    if not state.running:
        raise FailedPrecondition("operation already completed")
    if state.cancel is not None:
        raise FailedPrecondition(
            f"cancellation already requested with request ID {state.cancel.request_id}"
        )
    t.note(r.NexusCancelAsked(identity, reason, request_id))
    nexus_operation.ask_cancel(t, SCHEDULED_EVENT_ID, completed_event_id=0)


def terminate(t: NexusTransition, identity: str, reason: str, request_id: str) -> None:
    """TerminateNexusOperationExecution. What the handler does about the operation is lost."""
    state = t.state
    if state.status == nexus_enums.NEXUS_OPERATION_EXECUTION_STATUS_TERMINATED:
        if state.terminate_request_id == request_id:
            return
        raise FailedPrecondition(f"already terminated with request ID {state.terminate_request_id}")
    if not state.running:
        raise FailedPrecondition("operation already completed")
    t.note(r.NexusTerminated(t.now_ns, identity, reason, request_id))
    callback.invoke_due(t)
    t.visible = True
