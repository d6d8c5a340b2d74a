"""The life of a batch operation.

    state     input      to
    -------   --------   -------------------------------------------------------------------
    none      start      running: the outbox has it worked on, page by page
    running   take       running, with a page of executions; closed if there are none
    running   done       running, or closed after the last page
    running   stop       closed; what is done of the page by then still counts
    running   fail       closed

Rule 1: a page is in the journal before anything is done to it, with run ids, and counts when it was
        tried with all of it. After a crash the same page is done again, each part under the request
        id it had before, so that it applies once.
"""

from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine.batch import records as r
from durably.engine.batch.state import BatchState
from durably.engine.journal import Created
from durably.engine.state import BatchTarget
from durably.engine.transition import Transition, outstanding
from durably.errors import NotFound

Page = tuple[BatchTarget, ...]


def start(
    t: Transition[BatchState], request: ws.StartBatchOperationRequest, total: int, request_id: str
) -> None:
    t.note(Created(namespace=request.namespace, request_id=request_id))
    t.note(r.BatchStarted(request.SerializeToString(), total, t.now_ns))
    t.visible = True
    for delivery in outstanding(t.state):
        t.emit(delivery)


def take(t: Transition[BatchState], after: bytes, page: Page, cursor: bytes) -> None:
    """The page that begins at `after` is next; the one after it begins at `cursor` (empty: none)."""
    state = t.state
    if not state.running or state.page or state.cursor != after:
        return
    if page:
        t.note(r.BatchPageTaken(page, cursor))
    else:
        _end(t)


def done(t: Transition[BatchState], page: Page, completed: int, failed: int) -> None:
    """It was tried with all of the page; or, after a stop, with so many of it."""
    if not page or t.state.page != page:
        return
    t.note(r.BatchPageDone(completed, failed))
    if t.state.running and not t.state.cursor:
        _end(t)


def _end(t: Transition[BatchState]) -> None:
    t.note(r.BatchEnded(t.now_ns))
    t.visible = True


def fail(t: Transition[BatchState], reason: str) -> None:
    """The executions that it is about cannot be found."""
    if t.state.running:
        t.note(r.BatchFailed(reason, t.now_ns))
        t.visible = True


def stop(t: Transition[BatchState], identity: str, reason: str) -> None:
    if not t.state.running:
        raise NotFound("the batch operation has ended already")
    t.note(r.BatchStopped(identity, reason, t.now_ns))
    t.visible = True
