"""Which RPCs there are, who answers them, and what must be well formed before anyone does.

Rule 1: one row per RPC of the API's services; one that nobody answers is UNIMPLEMENTED, by name.
Rule 2: a handler is a method named after its RPC in snake case: `start_workflow_execution`.
Rule 3: whatever the way in, what a caller may not ask for is refused in `Rpc.answer`.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from temporalio.api.operatorservice.v1 import service_pb2 as operator_service
from temporalio.api.testservice.v1 import service_pb2 as test_service
from temporalio.api.workflowservice.v1 import service_pb2 as workflow_service

from durably.errors import InvalidArgument, Refusal, Unimplemented
from durably.service.access import CALLER, Caller

Handler = Callable[[Any, "Call"], Awaitable[Message]]


@dataclass(frozen=True, slots=True)
class Call:
    """What is known of a call beside its request."""

    rpc: str
    metadata: Mapping[str, str]
    """gRPC headers in lower case; of a repeated one the last."""
    deadline_ns: int = 0
    """When the caller stops waiting, nanoseconds since the epoch; 0: never."""
    caller: Caller | None = None
    """Whose token it has; None: no tokens are asked for, or the server itself calls."""

    def seconds_left(self, now_ns: int) -> float | None:
        return (self.deadline_ns - now_ns) / 1e9 if self.deadline_ns else None


class Learned(Protocol):
    """What this server knows that other servers may change."""

    @property
    def generation(self) -> int:
        """Another number whenever something was news."""

    async def refreshed(self) -> int:
        """The generation, after a look at what is so now."""


class LearnedTogether:
    """Several of them as one."""

    def __init__(self, *parts: Learned) -> None:
        self._parts = parts

    @property
    def generation(self) -> int:
        return sum(part.generation for part in self._parts)

    async def refreshed(self) -> int:
        return sum([await part.refreshed() for part in self._parts])


@dataclass(frozen=True, slots=True)
class Rpc:
    """One row: an RPC, its messages, and who answers it (None: nobody yet)."""

    name: str
    request: type[Message]
    response: type[Message]
    handler: Handler | None
    namespaced: bool
    waits: bool = False
    """A long poll: it may wait for something to happen, and ends when its caller goes away."""
    learned: "Learned | None" = None
    """Where other servers change what is asked for here."""

    async def answer(self, request: Message, call: Call) -> Message:
        """Refuse what is malformed, then ask the handler."""
        if self.handler is None:
            raise Unimplemented(
                f"{self.name} is not built into this server; docs/api.md lists what is"
            )
        if self.namespaced and not request.namespace:  # type: ignore[attr-defined]
            raise InvalidArgument("Namespace not set on request.")
        if call.caller is not None:
            call.caller.check(self.name, request)
        known = self.learned.generation if self.learned is not None else 0
        try:
            return await self.handler(request, call)
        except Refusal:
            # What it was refused for may not be so any more.
            if self.learned is None or await self.learned.refreshed() == known:
                raise
            return await self.handler(request, call)


WITHOUT_NAMESPACE = frozenset(
    ("RegisterNamespace", "DescribeNamespace", "UpdateNamespace", "DeleteNamespace")
)
"""RPCs whose `namespace` is checked by their handler: it may be an id instead, or is to be made."""

LONG_POLLS = frozenset(
    (
        "DescribeActivityExecution",
        "DescribeNexusOperationExecution",
        "ExecuteMultiOperation",
        "GetWorkflowExecutionHistory",
        "QueryWorkflow",
        "Sleep",
        "SleepUntil",
        "UnlockTimeSkippingWithSleep",
        "UpdateWorkflowExecution",
    )
)
"""RPCs that may wait, beside those whose name begins with Poll. All others answer at once."""

SERVICES: tuple[ServiceDescriptor, ...] = (
    workflow_service.DESCRIPTOR.services_by_name["WorkflowService"],
    operator_service.DESCRIPTOR.services_by_name["OperatorService"],
)

TEST_SERVICES: tuple[ServiceDescriptor, ...] = (
    test_service.DESCRIPTOR.services_by_name["TestService"],
)
"""Served where time can be skipped."""


def snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def table(
    handlers: Iterable[object],
    services: tuple[ServiceDescriptor, ...] = SERVICES,
    learned: "Learned | None" = None,
) -> dict[str, Rpc]:
    """Path (`/package.Service/Method`) -> row, for every RPC of the services.

    `handlers` are looked through in order for a method that is named after the RPC.
    """
    owners = tuple(handlers)
    rows: dict[str, Rpc] = {}
    for service in services:
        for method in service.methods:
            rows[f"/{service.full_name}/{method.name}"] = _row(method, owners, learned)
    return rows


def answers(rows: Mapping[str, Rpc]) -> Callable[[str, Message], Awaitable[Message]]:
    """(name of an RPC, its request) -> its response: for the server's own work."""
    by_name = {row.name: row for row in rows.values()}
    return lambda name, request: by_name[name].answer(request, Call(name, {}))


def answers_for_caller(rows: Mapping[str, Rpc]) -> Callable[[str, Message], Awaitable[Message]]:
    """The same for what the server does for somebody: whoever makes the request that is being answered
    must be allowed to ask for it."""
    by_name = {row.name: row for row in rows.values()}
    return lambda name, request: by_name[name].answer(request, Call(name, {}, caller=CALLER.get()))


def _row(
    method: MethodDescriptor,
    owners: tuple[object, ...],
    learned: "Learned | None",
) -> Rpc:
    name = snake_case(method.name)
    handler = next((getattr(o, name) for o in owners if hasattr(o, name)), None)
    namespaced = (
        "namespace" in method.input_type.fields_by_name and method.name not in WITHOUT_NAMESPACE
    )
    return Rpc(
        method.name,
        GetMessageClass(method.input_type),
        GetMessageClass(method.output_type),
        handler,
        namespaced,
        waits=method.name.startswith("Poll") or method.name in LONG_POLLS,
        learned=learned,
    )
