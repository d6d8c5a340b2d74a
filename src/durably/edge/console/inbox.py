"""The inbox: workflows that wait for somebody's answer, by the convention of `durably.agents`, and its form.

Rule 1: they are found by a search attribute that the server derives from their memo: no history is read.
Rule 2: whether an answer will do is for the workflow to say; what it says against one is shown.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.agents import convention
from durably.agents.convention import ELICITATION, Question
from durably.edge.console.rows import workflow_row
from durably.edge.console.site import WAITING, Site, at, form_of
from durably.edge.console.workflow_list import page_of, token_of
from durably.errors import FailedPrecondition, InvalidArgument, NotFound
from durably.service.durable_calls import DurableCalls, Seen

PAGE_SIZE = 50
CONTENT = "content."
"""Prefix of the form's fields that are part of the answer: a schema may name one `key`."""
LONG_CHARS = 120
"""A text that may be longer is written in several lines."""


@dataclass(frozen=True, slots=True)
class Field:
    """One value that is asked for. `kind`: `text`, `lines`, `number`, `yes` or `choice`."""

    name: str
    title: str
    about: str
    kind: str
    required: bool
    default: str
    choices: tuple[tuple[str, str], ...] = ()
    """(value, as it is shown)."""
    whole: bool = False
    """Of a number: it has no fraction."""


class Inbox:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._calls = DurableCalls(site.ask)

    def routes(self) -> list[Route]:
        base = "/ui/{namespace:segment}/inbox"
        listed = self._site.page("inbox.html", "inbox", self._load, ("inbox_rows",))
        return [
            Route(base, listed, methods=["GET"]),
            Route(base + "/question", self._question, methods=["GET"]),
            Route(base + "/answer", self._answer, methods=["POST"]),
        ]

    async def _load(self, request: Request) -> dict[str, Any]:
        namespace = request.path_params["namespace"]
        asked = request.query_params.get("query", "").strip()
        answer = await self._site.ask(
            "ListWorkflowExecutions",
            ws.ListWorkflowExecutionsRequest(
                namespace=namespace,
                query=f"{WAITING} AND ({asked})" if asked else WAITING,
                page_size=PAGE_SIZE,
                next_page_token=token_of(request.query_params.get("page", "")),
            ),
        )
        rows = [
            workflow_row(each)
            | {"questions": convention.questions(each.memo.fields[convention.MEMO_QUESTIONS].data)}
            for each in answer.executions
        ]
        return {
            "namespace": namespace,
            "query": asked,
            "rows": rows,
            "next_page": page_of(answer.next_page_token),
        }

    async def _question(self, request: Request) -> Response:
        """The form of one question."""
        namespace, asked = request.path_params["namespace"], request.query_params
        seen, question = await self._asked(namespace, asked.get("id", ""), asked.get("key", ""))
        values = {
            "namespace": namespace,
            "workflow_id": seen.call_id,
            "key": asked.get("key", ""),
            "question": question,
            "fields": fields(question),
            "raw": json.dumps(question.params, indent=2, ensure_ascii=False),
        }
        return HTMLResponse(self._site.render("parts/question.html", values))

    async def _answer(self, request: Request) -> Response:
        namespace, form = request.path_params["namespace"], await form_of(request)
        key = form.get("key", "")
        seen, question = await self._asked(namespace, form.get("id", ""), key)
        fault = await self._calls.answer(namespace, seen, key, response(question, form))
        if fault:
            raise FailedPrecondition(f"The workflow does not take this answer: {fault}")
        notice = f"{seen.call_id} has its answer."
        return self._site.done(request, at(namespace, "inbox"), notice)

    async def _asked(self, namespace: str, workflow_id: str, key: str) -> tuple[Seen, Question]:
        seen = await self._calls.look_at_workflow(namespace, workflow_id)
        question = seen.questions.get(key)
        if question is None:
            raise NotFound(
                "This is not asked any more: somebody has answered, or the run has ended."
            )
        return seen, question


# --- Forms ------------------------------------------------------------------------------------


def fields(question: Question) -> list[Field] | None:
    """What a form asks for; None: its answer is written as JSON."""
    schema = question.params.get("requestedSchema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if question.method != ELICITATION or not isinstance(properties, dict):
        return None
    needed = schema.get("required") if isinstance(schema, dict) else None
    required = frozenset(needed if isinstance(needed, list) else ())
    return [
        _field(str(name), each if isinstance(each, dict) else {}, name in required)
        for name, each in properties.items()
    ]


def _field(name: str, schema: Mapping[str, Any], required: bool) -> Field:
    kind, choices = "text", _choices(schema)
    match schema.get("type"):
        case "boolean":
            kind = "yes"
        case "integer" | "number":
            kind = "number"
        case _ if choices:
            kind = "choice"
        case _ if _may_be_long(schema.get("maxLength")):
            kind = "lines"
    default = schema.get("default", "")
    return Field(
        name,
        str(schema.get("title") or name),
        str(schema.get("description", "")),
        kind,
        required,
        json.dumps(default) if isinstance(default, bool) else str(default),
        choices,
        whole=schema.get("type") == "integer",
    )


def _may_be_long(chars_max: object) -> bool:
    return not isinstance(chars_max, int) or chars_max > LONG_CHARS


def _choices(schema: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    values = schema.get("enum")
    if isinstance(values, list):
        names = schema.get("enumNames")
        shown = names if isinstance(names, list) and len(names) == len(values) else values
        return tuple((str(v), str(n)) for v, n in zip(values, shown, strict=True))
    several = schema.get("oneOf")
    if not isinstance(several, list):
        return ()
    named = [each for each in several if isinstance(each, dict) and "const" in each]
    return tuple((str(each["const"]), str(each.get("title", each["const"]))) for each in named)


def response(question: Question, form: Mapping[str, str]) -> Any:
    """The response to a question that a form gives. Raises InvalidArgument."""
    decision = form.get("decision", "")
    asked = fields(question)
    if asked is None:
        return _json(form.get("response", ""))
    if decision not in ("accept", "decline"):
        raise InvalidArgument("the decision is accept or decline")
    if decision == "decline":
        return {"action": "decline"}
    content: dict[str, Any] = {}
    for each in asked:
        text = form.get(CONTENT + each.name, "")
        if each.kind == "yes":
            content[each.name] = text == "true"
        elif text or each.required:
            content[each.name] = _value(each, text)
    return {"action": "accept", "content": content}


def _value(field: Field, text: str) -> Any:
    if field.kind != "number":
        return text
    try:
        if field.whole:
            return int(text)
        number = float(text)
        return int(number) if number.is_integer() else number
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(f"{field.title} is a number, not {text!r}") from error


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidArgument(f"the response is not JSON: {error}") from error
