"""Steps of two runs, side by side by what they are."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload, Payloads

from durably.edge.console import alignment
from durably.edge.console.alignment import Deeds, Did, Pair, align, marked
from tests.console.test_agent_run import CHAT, values
from tests.console.test_timeline import Told


def did(name: str, given: str = "x", number: int = 1) -> Did:
    return Did("activity", name, (number,), 1, 1, "done", given, "y")


def named(pairs: list[Pair]) -> list[tuple[str, str]]:
    return [(p.left.name if p.left else "", p.right.name if p.right else "") for p in pairs]


def test_a_step_that_only_one_has_stands_alone() -> None:
    left = [did("plan"), did("search"), did("write")]
    right = [did("plan"), did("search"), did("check"), did("write")]
    assert named(align(left, right)) == [
        ("plan", "plan"),
        ("search", "search"),
        ("", "check"),
        ("write", "write"),
    ]


def test_of_several_of_one_name_the_one_with_the_same_input_is_beside_it() -> None:
    left = [did("search", "a"), did("search", "b"), did("search", "c")]
    right = [did("search", "b"), did("search", "c"), did("search", "d")]
    given = [
        (p.left.given if p.left else "", p.right.given if p.right else "")
        for p in align(left, right)
    ]
    assert given == [("a", ""), ("b", "b"), ("c", "c"), ("", "d")]


def test_a_changed_input_is_the_same_step() -> None:
    (pair,) = align([did("search", "a")], [did("search", "b")])
    assert pair.differs == ("input",)
    assert not pair.is_same
    assert align([], []) == []


STEPS = st.lists(st.builds(did, st.sampled_from("abc"), st.sampled_from("xy")), max_size=14)


@pytest.mark.parametrize("cells_max", [0, alignment.CELLS_MAX])
@settings(max_examples=150, deadline=None)
@given(left=STEPS, right=STEPS)
def test_each_step_of_both_is_there_once_in_its_order(
    cells_max: int, left: list[Did], right: list[Did]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment, "CELLS_MAX", cells_max)
        pairs = align(left, right)
    assert [p.left for p in pairs if p.left] == left
    assert [p.right for p in pairs if p.right] == right
    assert all(p.left.what == p.right.what for p in pairs if p.left and p.right)
    if left == right:
        assert all(p.is_same for p in pairs)


@given(
    left=st.text(alphabet="ab <&é\n", max_size=60), right=st.text(alphabet="ab <&é\n", max_size=60)
)
def test_marks_change_no_word(left: str, right: str) -> None:
    for text, shown in zip((left, right), marked(left, right), strict=True):
        bare = re.sub(r"</?(?:ins|del)>", "", str(shown))
        assert bare == text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    same = marked(left, left)
    assert "<del>" not in same[0]
    assert "<ins>" not in same[1]


def run(told: Told) -> list[Did]:
    found = Deeds()
    found.add(told.events)
    return found.steps()


def an_agent(question: str, answer: str = "Yes.", failure: str = "") -> Told:
    """Asks a model once."""
    told = Told()
    told("WORKFLOW_EXECUTION_STARTED", workflow_type__name="Agent", input=values(question))
    told("TIMER_STARTED", timer_id=question)
    said: list[Any] = [{"role": "user", "content": question}]
    scheduled = told("ACTIVITY_TASK_SCHEDULED", activity_type__name="m", input=values(said))
    told("ACTIVITY_TASK_STARTED", scheduled_event_id=scheduled, attempt=1)
    if failure:
        told("ACTIVITY_TASK_FAILED", scheduled_event_id=scheduled, failure__message=failure)
        told("WORKFLOW_EXECUTION_FAILED", failure__cause__message=failure)
        return told
    usage = {"prompt_tokens": len(question), "completion_tokens": 3}
    reply = CHAT | {"choices": [{"message": {"content": answer}}], "usage": usage}
    told("ACTIVITY_TASK_COMPLETED", scheduled_event_id=scheduled, result=values(reply))
    told("WORKFLOW_EXECUTION_COMPLETED", result=values(answer))
    return told


def test_a_run_begins_with_its_input_and_ends_with_its_end() -> None:
    first, timer, call, end = run(an_agent("a"))
    assert [each.kind for each in (first, timer, call, end)] == [
        "input",
        "timer",
        "activity",
        "end",
    ]
    assert timer.name == "Timer"
    assert (call.model, call.tokens.input, call.tokens.output) == ("gpt-4o", 1, 3)
    assert call.cost is not None
    assert end.outcome == "done"
    assert run(Told()) == []


def test_what_differs_is_said_by_name() -> None:
    pairs = align(run(an_agent("a")), run(an_agent("what?", "No.")))
    assert [pair.differs for pair in pairs] == [
        ("input",),
        (),
        ("prompt", "reply", "tokens"),
        ("output",),
    ]
    pairs = align(run(an_agent("a", failure="busy")), run(an_agent("a", failure="late")))
    assert [pair.differs for pair in pairs] == [(), (), ("output",), ("output",)]
    *_, call, end = align(run(an_agent("a")), run(an_agent("a", failure="late")))
    assert call.differs[-3:] == ("outcome", "model", "tokens")
    assert end.differs == ("output", "outcome")


def test_what_is_encrypted_is_not_said_to_differ() -> None:
    def secret(data: bytes) -> Told:
        told = Told()
        given = Payloads(payloads=[Payload(metadata={"encoding": b"binary/encrypted"}, data=data)])
        told("WORKFLOW_EXECUTION_STARTED", workflow_type__name="Agent", input=given)
        return told

    (pair,) = align(run(secret(b"nonce 1")), run(secret(b"nonce 2")))
    assert pair.is_same
