"""The life of a batch operation.

    state     input      to
    -------   --------   -------------------------------------------------------------------
    none      start      running: the outbox has it worked on, page by page
    running   advance    running, or closed after the last page
    running   stop       closed; a page that is being worked on is still finished

Rule 1: a page counts when all of it is done. After a crash it is done again, each part under the
        request id it had before, so that it applies once.
"""

from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine import records as r
from durably.engine.batch.state import BatchState
from durably.engine.transition import Transition, outstanding
from durably.errors import NotFound


def start(
    t: Transition[BatchState], request: ws.StartBatchOperationRequest, total: int, request_id: str
) -> None:
    t.note(r.Created(namespace=request.namespace, request_id=request_id))
    t.note(r.BatchStarted(request.SerializeToString(), total, t.now_ns))
    t.visible = True
    for delivery in outstanding(t.state):
        t.emit(delivery)


def advance(
    t: Transition[BatchState], after: bytes, cursor: bytes, completed: int, failed: int
) -> None:
    """The page that begins at `after` is done; the next begins at `cursor` (empty: there is none)."""
    if not t.state.running or t.state.cursor != after:
        return
    t.note(r.BatchAdvanced(completed, failed, cursor))
    if not cursor:
        t.note(r.BatchEnded(t.now_ns))
        t.visible = True


def stop(t: Transition[BatchState], identity: str, reason: str) -> None:
    if not t.state.running:
        raise NotFound("the batch operation has ended already")
    t.note(r.BatchStopped(identity, reason, t.now_ns))
    t.visible = True
