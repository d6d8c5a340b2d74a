"""Forms of questions, and the answers that they give."""

from typing import Any

import pytest

from durably.agents.convention import ELICITATION, Question
from durably.edge.console.inbox import fields, response
from durably.errors import InvalidArgument
from tests.console.runs import PUBLISH


def question(schema: Any, method: str = ELICITATION) -> Question:
    return Question(method, {"message": "?", "requestedSchema": schema})


def test_fields_are_made_of_the_schema() -> None:
    asked = fields(question(PUBLISH))
    assert asked is not None
    assert [(each.name, each.kind, each.required) for each in asked] == [
        ("verdict", "choice", True),
        ("copies", "number", True),
        ("notify", "yes", False),
        ("remark", "lines", False),
    ]
    named = {"oneOf": [{"const": "a", "title": "Ants"}, {"const": "b"}, 7]}
    odd = {"properties": {"kind": named, "x": 7, "short": {"maxLength": 10}}, "required": "x"}
    found = fields(question(odd))
    assert found is not None
    assert found[0].choices == (("a", "Ants"), ("b", "b"))
    assert [each.kind for each in found] == ["choice", "lines", "text"]
    assert fields(question("nonsense")) is None
    assert fields(question(PUBLISH, "sampling/createMessage")) is None


@pytest.mark.parametrize(
    ("asked", "form", "says"),
    [
        (question(PUBLISH), {"decision": "burn"}, "accept or decline"),
        (question(PUBLISH), {"decision": "accept", "content.copies": "many"}, "Copies is a number"),
        (question(PUBLISH), {"decision": "accept", "content.copies": "1.5"}, "Copies is a number"),
        (question(PUBLISH), {"decision": "accept", "content.copies": "inf"}, "Copies is a number"),
        (question(None), {"decision": "accept", "response": "{"}, "not JSON"),
    ],
)
def test_what_cannot_be_an_answer(asked: Question, form: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        response(asked, form)


def test_what_is_not_written_is_not_in_the_answer() -> None:
    numbers = {"properties": {"share": {"type": "number"}, "more": {"type": "number"}}}
    form = {"decision": "accept", "content.share": "0.5"}
    assert response(question(numbers), form) == {"action": "accept", "content": {"share": 0.5}}
    assert response(question(PUBLISH), {"decision": "decline"}) == {"action": "decline"}
    assert response(question(None), {"response": '{"a": 1}'}) == {"a": 1}
