"""Within a workflow: ask a person or the caller, and publish partial output. In one line each.

    answer = await ask("Delete the table?", schema={"type": "object", "properties": {...}})
    publish("Reading 12 of 80 pages")
    found = await call(nexus_client, "search", {"topic": "ants"})

Rule 1: this is the client's side of `convention`: it imports the SDK, and nothing of the server.
Rule 2: deterministic: it replays, and a run that was reset asks again only what follows its new start.

What is asked for and published is in the memo, so a codec that encrypts payloads hides it from the server too.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import convert
from temporalio import workflow
from temporalio.client import Client
from temporalio.exceptions import ApplicationError, NexusOperationError

from durably.agents.convention import (
    ELICITATION,
    EXPOSE_PREFIX,
    INPUT_REQUIRED,
    MEMO_OUTPUT,
    MEMO_QUESTIONS,
    OPERATION_ANSWER,
    UPDATE_ANSWER,
    Exposed,
    Piece,
    Question,
)

ANY_TEXT: Mapping[str, Any] = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
}
"""The schema of a question that has none."""


class Declined(ApplicationError):
    """Who was asked does not want to answer. Fails the workflow unless it is caught."""

    def __init__(self, key: str, action: str) -> None:
        super().__init__(f"{key}: {action}", type="durably.Declined", non_retryable=True)
        self.action = action
        """`decline` or `cancel`."""


class _Questions:
    """The questions of one run. It is found through the update handler that it registers."""

    def __init__(self) -> None:
        self.open: dict[str, Question] = {}
        self.answers: dict[str, Any] = {}
        self.asked = 0

    def answer(self, key: str, response: Any) -> None:
        """The update `durably_answer`."""
        self.answers[key] = response
        del self.open[key]
        self.show()

    def check(self, key: str, response: Any) -> None:
        if key not in self.open:
            waiting = ", ".join(sorted(self.open)) or "nothing"
            raise ApplicationError(f"{key!r} is not asked; waiting for: {waiting}")
        if self.open[key].method == ELICITATION and not (
            isinstance(response, dict) and response.get("action") in ("accept", "decline", "cancel")
        ):
            raise ApplicationError(
                'a response is {"action": "accept", "content": {...}}, or its action is decline or'
                " cancel"
            )

    def show(self) -> None:
        shown = {key: msgspec.to_builtins(each) for key, each in self.open.items()}
        workflow.upsert_memo({MEMO_QUESTIONS: shown or None})


def _questions() -> _Questions:
    handler = workflow.get_update_handler(UPDATE_ANSWER)
    if handler is None:
        found = _Questions()
        workflow.set_update_handler(UPDATE_ANSWER, found.answer, validator=found.check)
        return found
    owner = getattr(handler, "__self__", None)
    if not isinstance(owner, _Questions):
        raise RuntimeError(f"the workflow has an update handler {UPDATE_ANSWER} of its own")
    return owner


async def request(method: str, params: Mapping[str, Any], *, key: str = "") -> Any:
    """Ask the client for anything that MCP lets servers ask for; the response is as it came."""
    questions = _questions()
    questions.asked += 1
    key = key or f"question-{questions.asked}"
    if key in questions.open or key in questions.answers:
        raise ValueError(
            f"{key!r} was asked already: each question of a run needs a key of its own"
        )
    questions.open[key] = Question(method, dict(params))
    questions.show()
    try:
        await workflow.wait_condition(lambda: key in questions.answers)
    finally:
        if questions.open.pop(key, None) is not None:
            questions.show()
    return questions.answers[key]


async def ask(message: str, *, schema: Mapping[str, Any] | None = None, key: str = "") -> Any:
    """Ask a person, or whoever called. Returns what the schema describes; without one, a text.

    `schema`: an object of plain values (https://modelcontextprotocol.io, elicitation in form mode). `key`
    names the question to those who answer. Raises Declined.
    """
    params = {"mode": "form", "message": message, "requestedSchema": dict(schema or ANY_TEXT)}
    response = await request(ELICITATION, params, key=key)
    if response["action"] != "accept":
        raise Declined(key or message, response["action"])
    content = response.get("content") or {}
    return content if schema is not None else content.get("answer", "")


def publish(value: Any, *, kind: str = "text", name: str = "", append: bool = False) -> None:
    """Show a piece of output to those who watch; it is in history, in order, once.

    `kind`: `text`, `artifact` (a part of the result, named), `message` or `status`.
    """
    piece = Piece(value, kind, name, append)
    workflow.upsert_memo({MEMO_OUTPUT: msgspec.to_builtins(piece)})


async def call(
    client: workflow.NexusClient[Any], operation: str, value: Any = None, **options: Any
) -> Any:
    """Call an operation of an endpoint that leads to an MCP server or an A2A agent, to its end.

    What it asks for on the way is asked here, as `ask` does, and it goes on with the answers. `options`: those
    of `execute_operation`, for each of its requests. Raises NexusOperationError.
    """
    name, given = operation, value
    while True:
        try:
            return await client.execute_operation(name, given, **options)
        except NexusOperationError as error:
            asked = error.cause
            if not isinstance(asked, ApplicationError) or asked.type != INPUT_REQUIRED:
                raise
            told = asked.details[0]
        questions = [convert(each, Question) for each in told["questions"].values()]
        responses = await asyncio.gather(*(request(each.method, each.params) for each in questions))
        answers = dict(zip(told["questions"], responses, strict=True))
        name, given = OPERATION_ANSWER, {"call": told["call"], "answers": answers}


async def expose(client: Client, name: str, what: Exposed) -> None:
    """Let agents outside call a workflow or an operation: as an MCP tool, as an A2A agent, or both.

    Raises ValueError for what makes no sense, RPCError where the namespace is not there.
    """
    from temporalio.api.namespace.v1 import UpdateNamespaceInfo
    from temporalio.api.workflowservice.v1 import UpdateNamespaceRequest

    fault = what.fault()
    if fault:
        raise ValueError(fault)
    text = msgspec.json.encode(what).decode()
    info = UpdateNamespaceInfo(data={EXPOSE_PREFIX + name: text})
    await client.workflow_service.update_namespace(
        UpdateNamespaceRequest(namespace=client.namespace, update_info=info)
    )
