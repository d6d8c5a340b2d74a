"""Requests to handlers that are workers: polled from Nexus task queues, answered by whoever polled.

Rule 1: a request is kept by nobody. Who makes it waits for the answer, and makes it again if there is
        none in time.
Rule 2: a request is answered once; an answer that comes when nobody waits any more is refused.
Rule 3: where servers share the store, a request goes to a worker that waits here, else to one at another
        server (nexus_offers.py); its answer goes to the server whose number is in its id.
"""

import asyncio
import uuid
from collections.abc import Callable
from typing import TypeVar

from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.nexus.v1 import message_pb2 as nexus
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.config import Config
from durably.errors import InvalidArgument, NotFound
from durably.histogram import Histogram
from durably.matching import Matching
from durably.service import nexus_failures, tokens
from durably.service.admission import Call
from durably.service.deployments import Deployments
from durably.service.namespaces import Namespaces
from durably.service.nexus_offers import Answer, NexusOffers, NexusTask
from durably.service.nodes import NexusAnswered, asked_at
from durably.service.task_queues import TaskQueues
from durably.service.tokens import NexusTaskToken
from durably.service.transact import Executions
from durably.service.workflows import poll_seconds
from durably.store.store import QueueKey, TaskKind

MARGIN_S_MAX = 1.0
MARGIN_RATIO = 0.1
"""So much of the caller's time is kept back, for what becomes of his request to reach him in."""


class NexusTasks:
    """Answers the RPCs of workers that handle Nexus operations."""

    def __init__(
        self,
        executions: Executions,
        namespaces: Namespaces,
        task_queues: TaskQueues,
        deployments: Deployments,
    ) -> None:
        self._executions = executions
        self._matching: Matching = executions.matching
        self._deployments = deployments
        self._clock = executions.clock
        self._namespaces = namespaces
        self._task_queues = task_queues
        self._config: Config = executions.config
        self._waiting: dict[str, NexusTask] = {}
        nodes = executions.nodes
        self._nodes = nodes
        self.offers = NexusOffers(nodes, executions) if nodes is not None else None
        """What is exchanged with other servers; None: the store is this server's alone."""
        self.schedule_to_start = Histogram()
        """Seconds that requests waited until a worker had them."""

    # --- Who makes a request ------------------------------------------------------------------

    async def ask(
        self, namespace_id: str, task_queue: str, request: nexus.Request, timeout_s: float
    ) -> Answer | None:
        """The answer of a worker that polls the queue; None if none came in time."""
        key = QueueKey(namespace_id, TaskKind.NEXUS, task_queue)
        loop = asyncio.get_running_loop()
        wait_s = timeout_s - min(MARGIN_S_MAX, timeout_s * MARGIN_RATIO)
        asked_s = loop.time()
        deadline_s = asked_s + wait_s
        task_id = self._nodes.new_id() if self._nodes is not None else str(uuid.uuid4())
        task = NexusTask(task_id, request, asked_s, deadline_s, loop.create_future())
        self._waiting[task_id] = task
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._queue(key, task)
                return await task.answer
        except TimeoutError:
            return None
        finally:
            self._waiting.pop(task_id, None)
            self._matching.withdraw(key, task)
            if self.offers is not None:
                self.offers.withdraw(task_id)

    async def _queue(self, key: QueueKey, task: NexusTask) -> None:
        part = self._executions.dispatch.place(key, task)
        if self._nodes is None or self.offers is None or self._nodes.alone():
            self._matching.add(part, task)
        elif not self._matching.hand(part, task):
            await self.offers.offer(key, task)

    # --- Workers ------------------------------------------------------------------------------

    async def poll_nexus_task_queue(
        self, request: ws.PollNexusTaskQueueRequest, call: Call
    ) -> ws.PollNexusTaskQueueResponse:
        namespace_id = self._namespaces.id_of(request.namespace)
        self._check(request)
        key = QueueKey(namespace_id, TaskKind.NEXUS, request.task_queue.name)
        self._deployments.check_poll(request)
        await self._task_queues.load(key)
        await self._deployments.register(request, key)
        key = self._deployments.part_of(request, key)
        loop = asyncio.get_running_loop()
        came_ns = self._clock()
        longest_s = self._config.task_poll_timeout_s
        give_up_s = loop.time() + poll_seconds(longest_s, call, came_ns)
        while (seconds := give_up_s - loop.time()) > 0:
            item = await self._next(key, request, seconds)
            if item is None:
                break
            if not item.answer.done() and loop.time() < item.deadline_s:
                self.schedule_to_start.observe(loop.time() - item.asked_s)
                reply = self._reply(namespace_id, item)
                waited_ns = self._clock() - came_ns
                more = self._matching.poller_hint(key, waited_ns, from_backlog=False)
                if more:
                    reply.poller_scaling_decision.poll_request_delta_suggestion = more
                return reply
        return ws.PollNexusTaskQueueResponse()

    async def _next(
        self, part: QueueKey, request: ws.PollNexusTaskQueueRequest, seconds: float
    ) -> NexusTask | None:
        poll = self._matching.poll(
            part, request.identity, request, seconds, request.worker_instance_key
        )
        if self.offers is not None:
            # As soon as this poll waits.
            asyncio.get_running_loop().call_soon(self.offers.poll_comes, part)
        found: NexusTask | None = await poll
        return found

    def _check(self, request: ws.PollNexusTaskQueueRequest) -> None:
        limit = self._config.identifier_chars_max
        if not request.task_queue.name:
            raise InvalidArgument("taskQueue is not set")
        if len(request.task_queue.name) > limit:
            raise InvalidArgument("taskQueue length exceeds limit")
        if len(request.identity) > limit:
            raise InvalidArgument("Identity length exceeds limit.")

    def _reply(self, namespace_id: str, task: NexusTask) -> ws.PollNexusTaskQueueResponse:
        token = NexusTaskToken(namespace_id, task.task_id)
        reply = ws.PollNexusTaskQueueResponse(task_token=tokens.encode(token), request=task.request)
        left_s = max(task.deadline_s - asyncio.get_running_loop().time(), 0.0)
        # Some SDKs look for the one spelling, some for the other.
        for name in ("request-timeout", "Request-Timeout"):
            reply.request.header[name] = duration(left_s)
        return reply

    async def respond_nexus_task_completed(
        self, request: ws.RespondNexusTaskCompletedRequest, call: Call
    ) -> ws.RespondNexusTaskCompletedResponse:
        token = self._token(request.namespace, request.task_token)
        self._check_response(request.response)
        await self._answer(token, request.response)
        return ws.RespondNexusTaskCompletedResponse()

    def _check_response(self, response: nexus.Response) -> None:
        started = response.start_operation
        if started.HasField("async_success"):
            token = started.async_success.operation_token or started.async_success.operation_id
            limit = self._config.nexus_token_bytes_max
            if not token:
                raise InvalidArgument("missing operation token in response")
            if len(token.encode()) > limit:
                raise InvalidArgument(
                    f"operation token length exceeds allowed limit ({len(token.encode())}/{limit})"
                )
        if started.HasField("operation_error"):
            _converted(nexus_failures.operation_error, started.operation_error)

    async def respond_nexus_task_failed(
        self, request: ws.RespondNexusTaskFailedRequest, call: Call
    ) -> ws.RespondNexusTaskFailedResponse:
        token = self._token(request.namespace, request.task_token)
        if request.HasField("failure"):
            reason = request.failure
            if not reason.HasField("nexus_handler_failure_info"):
                raise InvalidArgument("the failure must be one with NexusHandlerFailureInfo")
        elif request.HasField("error"):
            reason = _converted(nexus_failures.handler_error, request.error)
        else:
            raise InvalidArgument("request must contain error or failure")
        await self._answer(token, reason)
        return ws.RespondNexusTaskFailedResponse()

    def _token(self, namespace: str, task_token: bytes) -> NexusTaskToken:
        return tokens.decode_nexus_task(task_token, self._namespaces.id_of(namespace))

    async def _answer(self, token: NexusTaskToken, answer: Answer) -> None:
        nodes, node = self._nodes, asked_at(token.task_id)
        if nodes is not None and node in nodes.others:
            await nodes.send(node, _letter(token.task_id, answer))
        elif not self._answered(token.task_id, answer):
            raise NotFound("Nexus task not found or already expired")

    def _answered(self, task_id: str, answer: Answer) -> bool:
        """Whether somebody has waited for it."""
        task = self._waiting.pop(task_id, None)
        if task is None or task.answer.done():
            return False
        task.answer.set_result(answer)
        return True

    def answered_elsewhere(self, letter: NexusAnswered) -> None:
        """A worker has given its answer to another server."""
        if letter.failure is not None:
            self._answered(letter.request_id, failure.Failure.FromString(letter.failure))
        else:
            self._answered(letter.request_id, nexus.Response.FromString(letter.response or b""))


def _letter(task_id: str, answer: Answer) -> NexusAnswered:
    body = answer.SerializeToString()
    failed = isinstance(answer, failure.Failure)
    return NexusAnswered(task_id, None if failed else body, body if failed else None)


F = TypeVar("F")


def _converted(convert: Callable[[F], failure.Failure], found: F) -> failure.Failure:
    """A failure in its older form; refused if it is not well formed."""
    try:
        return convert(found)
    except ValueError as error:
        raise InvalidArgument("failure details must be JSON serializable") from error


def duration(seconds: float) -> str:
    """A duration as Nexus headers have it."""
    return f"{int(seconds * 1000)}ms"
