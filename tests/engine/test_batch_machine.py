"""The life of a batch operation: what its journal says is what it is."""

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine.batch import machine
from durably.engine.batch.state import BatchState
from durably.engine.state import BatchTarget
from durably.engine.transition import WorkOnBatch, outstanding
from durably.errors import NotFound
from tests.engine import lives

FIRST = (BatchTarget("a", "run-a"), BatchTarget("b", "run-b"))
SECOND = (BatchTarget("c", ""),)


def fresh() -> BatchState:
    return BatchState(namespace_id="n", namespace="default", workflow_id="job", run_id="run")


class Life(lives.Life[BatchState]):
    """A batch operation, and those who work on it."""

    def __init__(self) -> None:
        super().__init__(fresh(), fresh())
        self.step(machine.start, ws.StartBatchOperationRequest(reason="r"), 3, "q")

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


# --- Random lives -----------------------------------------------------------------------------

PAGES = [(BatchTarget(f"w{number}", "run"),) for number in range(4)]


class LifeOfABatch(RuleBasedStateMachine):
    """Whoever works on it may be killed, and do a page again, or come late; operators stop it."""

    @initialize()
    def begin(self) -> None:
        self.life = Life()
        self.counted: list[object] = []
        self.taken: list[object] = []

    @rule(number=st.integers(0, 3))
    def take(self, number: int) -> None:
        """The page that begins where its number says; the last one has no other after it."""
        after = b"%d" % number if number else b""
        page = PAGES[number] if number < 3 else ()
        before = self.life.state.page
        self.life.step(machine.take, after, page, b"%d" % (number + 1) if number < 3 else b"")
        if self.life.state.page != before:
            assert page not in self.taken, "no page is taken twice"
            self.taken.append(page)

    @rule(number=st.integers(0, 3), failed=st.booleans())
    def done(self, number: int, failed: bool) -> None:
        before = self.life.counts
        self.life.step(machine.done, PAGES[number], int(not failed), int(failed))
        if self.life.counts != before and not self.life.state.closed:
            self.counted.append(number)
            assert len(self.counted) == len(set(self.counted)), "each page counts once"

    @rule(how=st.sampled_from(["stop", "fail", *["nothing"] * 6]))
    def end(self, how: str) -> None:
        if how == "stop":
            self.life.attempt(machine.stop, "me", "enough")
        elif how == "fail":
            self.life.step(machine.fail, "no such attribute")

    @invariant()
    def it_is_worked_on_while_it_runs(self) -> None:
        state = self.life.state
        assert outstanding(state) == ([WorkOnBatch()] if state.running else [])
        assert state.completed + state.failed <= len(PAGES)
        assert state.closed == bool(state.close_ns)


TestLifeOfABatch = LifeOfABatch.TestCase
