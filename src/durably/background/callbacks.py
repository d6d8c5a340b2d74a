"""Calls those who asked to be told how an execution, or an update of it, ended, and some while it goes on.

Rule 1: an attempt ends with a record in the execution, whatever happens; what was not recorded is tried
        again, under the same id, by which a receiver knows a repeated call.
Rule 2: a slow receiver holds up nobody but those who call it too: each destination has its own slots
        and its own circuit breaker.
Rule 3: what is to be completed on this very server does not go over HTTP.

Facts: the completion of an operation in the Nexus specification (nexus-rpc/api, SPEC.md).
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from typing import Any
from weakref import WeakValueDictionary

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.history.v1 import message_pb2 as history

from durably.addresses import destination_of
from durably.background.outbound_http import CallFailed, OutboundHttp, Reply
from durably.engine.callback import completion as completions
from durably.engine.callback import machine
from durably.engine.callback.completion import Completion
from durably.engine.callback.state import SCHEDULED, Callback
from durably.engine.nexus_outcome import Ended, Succeeded, Unsuccessful
from durably.engine.standalone.state import StandaloneActivityState
from durably.engine.standalone_nexus.state import StandaloneNexusState
from durably.engine.state import AwaitedState, WorkflowState
from durably.engine.transition import InvokeCallback, Transition
from durably.errors import NotFound, Refusal, Status
from durably.service import a2a_tasks, nexus_completions, nexus_errors, nexus_json, nexus_links
from durably.service.breakers import CircuitBreakers
from durably.service.callback_tokens import HEADER
from durably.service.callbacks import INTERNAL_URLS
from durably.service.execution import Execution
from durably.service.nexus_completions import NexusCompletions
from durably.service.nexus_content import http_date, links_header, rfc3339, to_content
from durably.service.transact import Executions
from durably.under_way import UnderWay

logger = logging.getLogger(__name__)

CALLBACK_ID_HEADER = "durably-callback-id"
"""The same in every attempt at the same call, and in no other."""
MESSAGE_CHARS_MAX = 1_000
NEWS_BYTES_MAX = 64 * 1024
"""About so much of a history is read at once for those who follow it."""
WAITING_MAX = 10_000
"""So many callbacks to one destination go on at once when it answers again."""

Destination = tuple[str, str]
"""Namespace id; scheme, host and port."""

RETRIED = frozenset(
    (
        Status.CANCELLED,
        Status.UNKNOWN,
        Status.DEADLINE_EXCEEDED,
        Status.RESOURCE_EXHAUSTED,
        Status.ABORTED,
        Status.INTERNAL,
        Status.UNAVAILABLE,
    )
)
"""Refusals of this server that are worth another attempt."""


class _AttemptFailed(Exception):
    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message[:MESSAGE_CHARS_MAX])
        self.retryable = retryable


class CallbackDeliveries:
    """Makes the calls of this node."""

    def __init__(
        self,
        executions: Executions,
        http: OutboundHttp,
        breakers: CircuitBreakers,
        completions: NexusCompletions,
    ) -> None:
        self._executions = executions
        self._http = http
        self._breakers = breakers
        self._completions = completions
        self.under_way = UnderWay("completion callbacks")
        self._waiting: dict[Destination, set[tuple[int, InvokeCallback]]] = {}
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def begin(self, execution: Execution[Any], callback_id: str) -> None:
        """Have one call made, unless that is under way."""
        key = (execution.execution_id, callback_id)
        self.under_way.begin_once(key, self._deliver_logged, *key)

    async def _deliver_logged(self, execution_id: int, callback_id: str) -> None:
        """One that fails without a record is left to the execution's deadline, which asks again."""
        try:
            await self.deliver(execution_id, callback_id)
        except NotFound:
            pass  # The execution is gone; nothing is owed any more.
        except Refusal as refusal:
            logger.warning("callback %s will be tried again: %s", callback_id, refusal.message)
        except Exception:
            logger.exception("callback %s of execution %s failed", callback_id, execution_id)

    async def deliver(self, execution_id: int, callback_id: str) -> None:
        """Make an attempt and record how it ended; of one that follows, the next until it has been told
        all. Nothing happens while the destination is blocked."""
        again = True
        while again:
            execution = await self._executions.get(execution_id)
            await self._executions.settled(execution)
            callback = execution.state.callbacks.get(callback_id)
            if callback is None or callback.state != SCHEDULED:
                return
            target = common.Callback.FromString(callback.callback).nexus
            async with self._slots_of(destination_of(target.url)):
                tell = self._tell_news if callback.has_news else self._tell_end
                again = await tell(execution, callback, target)

    async def _tell_end(
        self, execution: Execution[Any], callback: Callback, target: common.Callback.Nexus
    ) -> bool:
        which = callback.callback_id, callback.attempt + 1
        completion = await self._completion(execution, callback)
        if self._is_held(execution, callback.callback_id, target):
            return False
        failed = await self._attempt(
            execution.state, target, self._call(execution.state, callback, target, completion)
        )

        def ended(t: Transition[AwaitedState]) -> None:
            if failed is None:
                machine.succeeded(t, *which)
            else:
                machine.failed(t, *which, str(failed), retryable=failed.retryable)

        await self._executions.transact(execution.execution_id, ended)
        return False

    async def _tell_news(
        self, execution: Execution[Any], callback: Callback, target: common.Callback.Nexus
    ) -> bool:
        """Of the first event that says something. Returns whether there may be more to tell now."""
        which = callback.callback_id, callback.attempt + 1
        event_id, news = await self._news(execution, callback, target)
        if news and self._is_held(execution, callback.callback_id, target):
            return False
        failed: _AttemptFailed | None = None
        for number, (headers, body) in enumerate(news):
            call_id = f"{execution.state.run_id}/{callback.callback_id}/{event_id}-{number}"
            call = self._post(target, call_id, headers, body)
            failed = await self._attempt(execution.state, target, call)
            if failed is not None:
                break

        def ended(t: Transition[AwaitedState]) -> None:
            if failed is not None and failed.retryable:
                machine.failed(t, *which, str(failed), retryable=True)
            else:
                machine.told(t, *which, event_id, str(failed or ""))

        await self._executions.transact(execution.execution_id, ended)
        return True

    async def _news(
        self, execution: Execution[Any], callback: Callback, target: common.Callback.Nexus
    ) -> tuple[int, list[tuple[dict[str, str], bytes]]]:
        """(an event, what it says as headers and bodies of calls): the first that says something, else the
        last that was looked at."""
        ids = target.header.get(a2a_tasks.PUSH_HEADER, "")
        last = callback.news_event_id
        if not ids:
            return last, []  # There are no words for it.
        looked_at = callback.told_event_id
        for event in await self._executions.events(execution, looked_at + 1, NEWS_BYTES_MAX):
            if event.event_id > last:
                break
            looked_at = event.event_id
            found = list(a2a_tasks.push_updates(ids, execution.state.run_id, event))
            if found:
                return looked_at, found
        return looked_at, []

    def _is_held(
        self, execution: Execution[Any], callback_id: str, target: common.Callback.Nexus
    ) -> bool:
        """Whether it waits for its destination to answer again. Else an attempt has to follow."""
        key = (execution.state.namespace_id, destination_of(target.url))
        if self._breakers.allows(key):
            return False
        self._wait(key, (execution.execution_id, InvokeCallback(callback_id)))
        return True

    def _wait(self, destination: Destination, what: tuple[int, InvokeCallback]) -> None:
        """Until the destination answers again; of too many, each waits for its execution's deadline."""
        waiting = self._waiting.setdefault(destination, set())
        if len(waiting) < WAITING_MAX:
            waiting.add(what)

    def _go_on(self, destination: Destination) -> None:
        for what in self._waiting.pop(destination, ()):
            self._executions.deliveries.put_nowait(what)

    def _slots_of(self, destination: str) -> asyncio.Semaphore:
        size = self._executions.config.calls_per_destination_max
        slots = self._slots.get(destination)
        if slots is None:
            slots = self._slots[destination] = asyncio.Semaphore(size)
        return slots

    async def _attempt(
        self, state: AwaitedState, target: common.Callback.Nexus, call: Awaitable[None]
    ) -> _AttemptFailed | None:
        """Why it failed, if it did; the breaker learns in any case whether the destination is there."""
        destination = (state.namespace_id, destination_of(target.url))
        answers = False
        try:
            await call
            answers = True
            return None
        except _AttemptFailed as failure:
            answers = not failure.retryable
            return failure
        finally:
            if answers:
                self._breakers.succeeded(destination)
                self._go_on(destination)
            else:
                self._breakers.failed(destination)

    async def _completion(self, execution: Execution[Any], callback: Callback) -> Completion:
        state = execution.state
        if isinstance(state, StandaloneActivityState):
            return completions.of_activity(state)
        if isinstance(state, StandaloneNexusState):
            return completions.of_operation(state)
        assert isinstance(state, WorkflowState)
        ending = history.HistoryEvent()
        event_id = completions.ending_event_id(state, callback)
        if event_id:
            ending = (await self._executions.events(execution, event_id, 1))[0]
        return completions.of_workflow(state, callback, ending)

    async def _complete_here(self, target: common.Callback.Nexus, completion: Completion) -> None:
        """The operation that is completed is one of this server: found by its token."""
        ended: Ended = Succeeded(completion.result)
        if completion.failure is not None:
            ended = Unsuccessful(completion.failure)
        told = nexus_completions.Completion(
            ended,
            operation_token=target.header.get("nexus-operation-token", ""),
            started_ns=completion.start_ns,
            links=completion.links,
        )
        try:
            await self._completions.complete_operation(target.header.get(HEADER, ""), told)
        except Refusal as refusal:
            retryable = refusal.status in RETRIED
            raise _AttemptFailed(refusal.message, retryable=retryable) from refusal

    async def _call(
        self,
        state: AwaitedState,
        callback: Callback,
        target: common.Callback.Nexus,
        completion: Completion,
    ) -> None:
        """Raises _AttemptFailed."""
        if target.url in INTERNAL_URLS:
            await self._complete_here(target, completion)
            return
        ids = target.header.get(a2a_tasks.PUSH_HEADER, "")
        headers, body = a2a_tasks.push_request(ids, completion) if ids else request_of(completion)
        call_id = f"{state.run_id}/{callback.callback_id}"
        await self._post(target, call_id, headers, body)

    async def _post(
        self,
        target: common.Callback.Nexus,
        call_id: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> None:
        """Raises _AttemptFailed."""
        own = {n: v for n, v in target.header.items() if n not in a2a_tasks.OWN_HEADERS}
        sent = {**headers, CALLBACK_ID_HEADER: call_id, **own}
        headers = {_canonical(name): value for name, value in sent.items()}
        timeout_s = self._executions.config.callback_timeout_s
        try:
            reply = await self._http.post(target.url, headers, body, timeout_s)
        except CallFailed as failure:
            raise _AttemptFailed(str(failure), retryable=True) from failure
        if not 200 <= reply.status < 300:
            raise _refused(reply)


def request_of(completion: Completion) -> tuple[dict[str, str], bytes]:
    """(headers in lower case, body) of the request that brings a completion."""
    headers = {
        "user-agent": "durably",
        "nexus-operation-state": completion.state,
        "nexus-operation-start-time": http_date(completion.start_ns),
        "nexus-operation-close-time": rfc3339(completion.close_ns),
    }
    links = [shown for link in completion.links if (shown := nexus_links.to_nexus(link))]
    if links:
        headers["nexus-link"] = links_header(links)
    if completion.failure is None:
        content, body = to_content(completion.result)
        return headers | {f"content-{name}": value for name, value in content.items()}, body
    body = nexus_json.encoded(completion.failure)
    return headers | {"content-type": "application/json"}, body


def _canonical(name: str) -> str:
    """As most receivers show and compare them, though the case of a name means nothing."""
    return "-".join(part.capitalize() for part in name.split("-"))


def _refused(reply: Reply) -> _AttemptFailed:
    refused = nexus_errors.of_reply(reply.status, reply.reason, reply.headers, reply.body)
    return _AttemptFailed(nexus_errors.told(refused), retryable=refused.retryable)
