"""Calls of operations on their targets: the one way to a handler, for whoever calls it.

Rule 1: a call ends with an outcome, never with an exception; one that got no answer is `Refused`.
Rule 2: what comes back is in the API's own messages, whatever the target speaks.

Facts: https://github.com/nexus-rpc/api/blob/main/SPEC.md, temporal/api/nexus/v1/message.proto.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, assert_never

from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.nexus.v1 import message_pb2 as nexus

from durably.agents.convention import OPERATION_DISCOVER
from durably.engine.nexus_outcome import (
    Ended,
    Refused,
    Started,
    StartOutcome,
    Succeeded,
    Unsuccessful,
    call_error,
    refused,
    refused_with,
)
from durably.errors import NamespaceDeleted, NamespaceNotFound
from durably.service import agent_outcomes, agent_targets, nexus_failures, nexus_links
from durably.service.describe import set_time
from durably.service.durable_calls import json_payload
from durably.service.namespaces import Namespaces
from durably.service.nexus_offers import Answer
from durably.service.nexus_tasks import NexusTasks


@dataclass(frozen=True, slots=True)
class WorkerTarget:
    """Workers that poll a Nexus task queue; `endpoint`: the name under which they are called, if any."""

    namespace: str
    task_queue: str
    endpoint: str = ""


@dataclass(frozen=True, slots=True)
class ExternalTarget:
    """A handler elsewhere, that speaks Nexus over HTTP."""

    url: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class AgentTarget:
    """An MCP server or an A2A agent; `protocol` is one of `agent_targets`."""

    protocol: str
    url: str
    endpoint: str


Target = WorkerTarget | ExternalTarget | AgentTarget


def target_of(spec: nexus.EndpointSpec) -> Target:
    """Where the operations of an endpoint are handled."""
    if spec.target.HasField("external"):
        protocol, url = agent_targets.parse(spec.target.external.url)
        if protocol != agent_targets.NEXUS:
            return AgentTarget(protocol, url, spec.name)
        return ExternalTarget(url, spec.name)
    worker = spec.target.worker
    return WorkerTarget(worker.namespace, worker.task_queue, spec.name)


class ExternalCaller(Protocol):
    """Calls handlers over HTTP. The callback address of `request` is this server's own: a caller of
    others puts a public one in its place."""

    async def start_operation(
        self,
        target: ExternalTarget,
        request: nexus.StartOperationRequest,
        header: Mapping[str, str],
        timeout_s: float,
    ) -> StartOutcome: ...

    async def cancel_operation(
        self,
        target: ExternalTarget,
        request: nexus.CancelOperationRequest,
        header: Mapping[str, str],
        timeout_s: float,
    ) -> Refused | None: ...


@dataclass(frozen=True, slots=True)
class StillRunning:
    """An operation that is watched has not ended; its handler wants to be asked again after so long, 0:
    it does not say."""

    after_s: float = 0.0


Look = StillRunning | Ended | Refused
"""How an operation stands that is watched."""


@dataclass(frozen=True, slots=True)
class Offered:
    """An operation that can be called, as its handler describes it."""

    name: str
    description: str = ""
    input_schema: Mapping[str, Any] | None = None
    output_schema: Mapping[str, Any] | None = None


class AgentCaller(Protocol):
    """Calls those who know nothing of Nexus: their calls become operations."""

    async def start_operation(
        self,
        target: AgentTarget,
        request: nexus.StartOperationRequest,
        header: Mapping[str, str],
        timeout_s: float,
    ) -> StartOutcome: ...

    async def cancel_operation(
        self, target: AgentTarget, known: Mapping[str, Any], timeout_s: float
    ) -> Refused | None:
        """`known`: what the operation's token says, as `agent_outcomes.known_of` has it."""

    async def look(
        self, target: AgentTarget, known: Mapping[str, Any], timeout_s: float
    ) -> Look: ...

    async def offered(self, target: AgentTarget, timeout_s: float) -> list[Offered] | Refused: ...


class NexusDispatch:
    """Starts, watches and cancels operations on their targets."""

    def __init__(
        self,
        tasks: NexusTasks,
        namespaces: Namespaces,
        external: ExternalCaller,
        agents: Mapping[str, AgentCaller],
    ) -> None:
        """`agents`: by what they speak."""
        self._tasks = tasks
        self._namespaces = namespaces
        self._external = external
        self._agents = agents

    async def start_operation(
        self,
        target: Target,
        request: nexus.StartOperationRequest,
        header: Mapping[str, str],
        *,
        timeout_s: float,
        now_ns: int,
        failures: bool = True,
    ) -> StartOutcome:
        """Ask for an operation to be started. `header`: names in lower case. `failures`: whether the
        caller understands failures of the API; others get them in the older form from the worker."""
        match target:
            case WorkerTarget():
                asked = nexus.Request(start_operation=request)
                asked.capabilities.temporal_failure_responses = failures
                found = await self._ask(target, asked, header, timeout_s, now_ns)
                return found if isinstance(found, Refused) else _started(found)
            case ExternalTarget():
                return await self._external.start_operation(target, request, header, timeout_s)
            case AgentTarget():
                caller = self._agents[target.protocol]
                if request.operation == OPERATION_DISCOVER:
                    return _told(await self.offered(target, timeout_s))
                return await caller.start_operation(target, request, header, timeout_s)
            case _:
                assert_never(target)

    async def cancel_operation(
        self,
        target: Target,
        request: nexus.CancelOperationRequest,
        header: Mapping[str, str],
        *,
        timeout_s: float,
        now_ns: int,
    ) -> Refused | None:
        """Ask for an operation to be canceled; None: the handler has heard of it."""
        match target:
            case WorkerTarget():
                asked = nexus.Request(cancel_operation=request)
                asked.capabilities.SetInParent()
                found = await self._ask(target, asked, header, timeout_s, now_ns)
                return found if isinstance(found, Refused) else None
            case ExternalTarget():
                return await self._external.cancel_operation(target, request, header, timeout_s)
            case AgentTarget():
                return await self._cancel_at_agent(target, request.operation_token, timeout_s)
            case _:
                assert_never(target)

    async def offered(self, target: AgentTarget, timeout_s: float) -> list[Offered] | Refused:
        """The operations that can be called there."""
        return await self._agents[target.protocol].offered(target, timeout_s)

    async def look(self, target: AgentTarget, token: str, timeout_s: float) -> Look:
        """How an operation stands whose handler does not call back."""
        try:
            known = agent_outcomes.known_of(token)
            return await self._agents[target.protocol].look(target, known, timeout_s)
        except ValueError as error:
            return refused("BAD_REQUEST", str(error))

    async def _cancel_at_agent(
        self, target: AgentTarget, token: str, timeout_s: float
    ) -> Refused | None:
        try:
            known = agent_outcomes.known_of(token)
            return await self._agents[target.protocol].cancel_operation(target, known, timeout_s)
        except ValueError as error:
            return refused("BAD_REQUEST", str(error))

    async def _ask(
        self,
        target: WorkerTarget,
        request: nexus.Request,
        header: Mapping[str, str],
        timeout_s: float,
        now_ns: int,
    ) -> nexus.Response | Refused:
        try:
            namespace_id = self._namespaces.id_of(target.namespace)
        except (NamespaceNotFound, NamespaceDeleted):
            return refused("NOT_FOUND", f'namespace not found: "{target.namespace}"')
        request.header.update(header)
        request.endpoint = target.endpoint
        set_time(request.scheduled_time, now_ns)
        answer: Answer | None = await self._tasks.ask(
            namespace_id, target.task_queue, request, timeout_s
        )
        if answer is None:
            return refused("UPSTREAM_TIMEOUT", "upstream timeout")
        if isinstance(answer, failure.Failure):
            return refused_with(answer)
        return answer


def _told(offered: list[Offered] | Refused) -> StartOutcome:
    """What can be called, as the result of the operation that asks for it."""
    if isinstance(offered, Refused):
        return offered
    shown = [
        {
            "name": each.name,
            "description": each.description,
            "inputSchema": each.input_schema,
            "outputSchema": each.output_schema,
        }
        for each in offered
    ]
    return Succeeded(json_payload({"operations": shown}))


def _started(response: nexus.Response) -> StartOutcome:
    """What a worker answered to a start."""
    answer = response.start_operation
    match answer.WhichOneof("variant"):
        case "sync_success":
            found = answer.sync_success
            payload = found.payload if found.HasField("payload") else None
            return Succeeded(payload, nexus_links.from_nexus(found.links))
        case "async_success":
            told = answer.async_success
            token = told.operation_token or told.operation_id
            return Started(token, nexus_links.from_nexus(told.links))
        case "failure":
            return Unsuccessful(answer.failure)
        case "operation_error":
            return Unsuccessful(nexus_failures.operation_error(answer.operation_error))
        case _:
            return refused("INTERNAL", "empty outcome")


Answered = TypeVar("Answered", bound=StartOutcome | StillRunning)


def within_limit(outcome: Answered, payload_bytes_max: int) -> Answered | Refused:
    """The same, unless its result is larger than what may be kept."""
    if isinstance(outcome, Succeeded) and outcome.payload is not None:
        size_bytes = outcome.payload.ByteSize()
        if size_bytes > payload_bytes_max:
            return call_error(
                f"the operation's result of {size_bytes} bytes exceeds the limit of"
                f" {payload_bytes_max} bytes (payload_bytes_max)",
                retryable=False,
            )
    return outcome
