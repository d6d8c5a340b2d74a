"""Operations as their callers ask for them: how each stands, how it ended, what it waits for.

    standalone    an execution of this server, by its id
    started       what a worker's operation goes on as, by the token that its start returned: the workflow, the
                  standalone activity or the update that the token names (`nexus_tokens`)

Rule 1: all is asked of the server's own RPCs, as the caller: who may not read an execution learns nothing of it.
Rule 2: nothing is kept here: any server of the store can answer.
Rule 3: what waits for a person says so, and ends no wait twice for the same question.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.service import access, nexus_backing, nexus_tokens
from durably.service.access import Role
from durably.service.durable_calls import DurableCalls, Seen
from durably.service.nexus_calls import HandlerError
from durably.service.nexus_tokens import MadeOf, OfActivity, OfUpdate, OfWorkflow
from durably.service.run_history import Answers
from durably.waits import first_done


@dataclass(frozen=True, slots=True)
class Standalone:
    """`run_id` empty: the latest of its runs."""

    namespace: str
    operation_id: str
    run_id: str = ""


Which = Standalone | MadeOf


def of_token(namespace: str, token: str) -> MadeOf:
    """What goes on under a token, started by a handler of this namespace. Raises HandlerError."""
    named = nexus_tokens.made_of(token)
    if named is None:
        raise HandlerError(
            "NOT_IMPLEMENTED",
            "this operation token names no workflow, activity or update: how the operation stands is known"
            " to its handler alone; its completion callback says how it ends",
        )
    if named.namespace != namespace:
        raise HandlerError("NOT_FOUND", "this operation token is of another namespace")
    return named


class NexusOperations:
    """Answers callers that have started an operation."""

    def __init__(self, calls: DurableCalls, answers: Answers) -> None:
        self._calls = calls
        self._answers = answers

    async def look(self, which: Which) -> Seen:
        """Raises NotFound."""
        match which:
            case Standalone():
                return await self._calls.look_at_operation(
                    which.namespace, which.operation_id, which.run_id
                )
            case OfWorkflow():
                return await self._calls.look_at_workflow(which.namespace, which.workflow_id)
            case OfActivity():
                return await nexus_backing.look_at_activity(self._answers, which)
            case OfUpdate():
                return await nexus_backing.look_at_update(self._answers, which)

    def news(self, which: Which, seen: Seen) -> Coroutine[Any, Any, None]:
        """Until something has happened since; or for as long as a long poll lasts."""
        match which:
            case OfActivity():
                return nexus_backing.activity_moved(self._answers, which)
            case OfUpdate():
                return nexus_backing.update_moved(self._answers, which)
            case _:
                return self._calls.wait_for_news(which.namespace, seen)

    async def wait(
        self, which: Which, seconds: float, known: frozenset[str], stop: asyncio.Event
    ) -> Seen:
        """How it stands once it has ended, or asks for something that is not known to the caller; or after
        so long, or when the server stops. Raises NotFound."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + seconds
        seen = await self.look(which)
        while not seen.ended and seen.questions.keys() <= known:
            left = give_up - loop.time()
            if left <= 0 or stop.is_set():
                break
            news, _ = await first_done(self.news(which, seen), stop.wait(), seconds=left)
            if news.done():
                news.result()
            seen = await self.look(which)
        return seen

    async def answer(self, which: Which, key: str, response: Any) -> Seen:
        """Answer a question. Raises HandlerError, NotFound, Unavailable if no worker takes the answer."""
        access.need(Role.WRITE, which.namespace, "an answer")
        seen = await self.look(which)
        if key not in seen.questions:
            waits_for = ", ".join(sorted(seen.questions)) or "nothing"
            raise HandlerError("CONFLICT", f"{key!r} is not asked; waiting for: {waits_for}")
        fault = await self._calls.answer(which.namespace, seen, key, response)
        if fault:
            raise HandlerError("BAD_REQUEST", fault)
        return await self.look(which)

    async def cancel(self, which: Standalone) -> None:
        """Ask it to end; nothing happens if it has. Raises NotFound."""
        access.need(Role.WRITE, which.namespace, "a cancel")
        await self._calls.cancel(which.namespace, await self.look(which))

    async def listed(
        self, namespace: str, query: str, size: int, page: bytes
    ) -> ws.ListNexusOperationExecutionsResponse:
        """A page of standalone operations, newest first. Raises InvalidArgument for a query or a page that
        cannot be read."""
        request = ws.ListNexusOperationExecutionsRequest(
            namespace=namespace, page_size=size, next_page_token=page, query=query
        )
        found: ws.ListNexusOperationExecutionsResponse = await self._answers(
            "ListNexusOperationExecutions", request
        )
        return found
