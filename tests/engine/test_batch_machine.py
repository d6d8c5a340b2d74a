"""The life of a batch operation: what its journal says is what it is."""

from typing import Any

import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine.apply import apply_record
from durably.engine.batch import machine
from durably.engine.batch.state import BatchState
from durably.engine.snapshot import decode_state, encode_state
from durably.engine.state import BatchTarget
from durably.engine.transition import Transition, WorkOnBatch, outstanding
from durably.errors import NotFound

FIRST = (BatchTarget("a", "run-a"), BatchTarget("b", "run-b"))
SECOND = (BatchTarget("c", ""),)


class Life:
    """A batch, and beside it a state that only ever sees the journal."""

    def __init__(self) -> None:
        self.state, self.copy = self.fresh(), self.fresh()
        self.step(lambda t: machine.start(t, ws.StartBatchOperationRequest(reason="r"), 3, "q"))

    @staticmethod
    def fresh() -> BatchState:
        return BatchState(namespace_id="n", namespace="default", workflow_id="job", run_id="run")

    def step(self, decide: Any) -> None:
        t = Transition(self.state, 1_000, lambda: "id")
        decide(t)
        for _, record in t.records:
            apply_record(self.copy, record)
        assert encode_state(self.copy) == encode_state(self.state)
        self.copy = decode_state(encode_state(self.copy))  # type: ignore[assignment]

    @property
    def counts(self) -> tuple[int, int, int]:
        return self.state.total, self.state.completed, self.state.failed


def test_page_after_page_until_there_is_none() -> None:
    life = Life()
    assert outstanding(life.state) == [WorkOnBatch()]
    life.step(lambda t: machine.take(t, b"", FIRST, b"2"))
    assert life.state.page == FIRST
    life.step(lambda t: machine.done(t, FIRST, 1, 1))
    assert life.state.running
    life.step(lambda t: machine.take(t, b"2", SECOND, b""))
    life.step(lambda t: machine.done(t, SECOND, 1, 0))
    assert life.state.closed
    assert life.counts == (3, 2, 1)
    assert outstanding(life.state) == []


def test_a_page_is_taken_and_counted_once() -> None:
    life = Life()
    life.step(lambda t: machine.take(t, b"", FIRST, b"2"))
    life.step(lambda t: machine.take(t, b"", SECOND, b"9"))
    assert (life.state.page, life.state.cursor) == (FIRST, b"2")
    life.step(lambda t: machine.done(t, FIRST, 2, 0))
    life.step(lambda t: machine.done(t, FIRST, 2, 0))
    life.step(lambda t: machine.take(t, b"", FIRST, b"2"))
    assert life.state.page == ()
    assert life.counts == (3, 2, 0)


def test_nothing_found_is_the_end() -> None:
    life = Life()
    life.step(lambda t: machine.take(t, b"", (), b""))
    assert life.state.closed
    assert life.counts == (0, 0, 0)


def test_what_was_done_before_a_stop_counts() -> None:
    life = Life()
    life.step(lambda t: machine.take(t, b"", FIRST, b"2"))
    life.step(lambda t: machine.stop(t, "me", "enough"))
    life.step(lambda t: machine.done(t, FIRST, 1, 0))
    life.step(lambda t: machine.take(t, b"2", SECOND, b""))
    life.step(lambda t: machine.fail(t, "too late"))
    assert life.counts == (3, 1, 0)
    assert (life.state.stopped_by, life.state.stop_reason) == ("me", "enough")
    with pytest.raises(NotFound):
        life.step(lambda t: machine.stop(t, "me", "again"))


def test_a_batch_that_cannot_go_on_has_failed() -> None:
    life = Life()
    life.step(lambda t: machine.fail(t, "no such attribute"))
    assert life.state.closed
    assert outstanding(life.state) == []
