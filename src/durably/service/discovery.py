"""What there is to call in a namespace: services and their operations, with JSON schemas.

    workflows    the workflow types that are exposed; one service, called over MCP and A2A
    worker       endpoints whose workers are in this namespace: the operations of theirs that are exposed
    mcp, a2a     endpoints without workers: what they offer is known to them, and asked when one is opened
    nexus        endpoints that lead to who speaks Nexus elsewhere

Rule 1: what is exposed is known from `exposures` alone, and where endpoints lead from their registry.
Rule 2: nobody outside is asked anything by who may not call.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from msgspec import UNSET

from durably.agents.convention import Exposed
from durably.config import Config
from durably.engine.nexus_outcome import Refused
from durably.errors import NotFound, Unavailable
from durably.service.access import Role, need
from durably.service.agent_targets import NEXUS
from durably.service.exposures import Exposures
from durably.service.nexus_dispatch import AgentTarget, NexusDispatch, WorkerTarget, target_of
from durably.service.nexus_endpoints import Endpoint, NexusEndpoints

WORKFLOWS = "durably.workflows"
"""The service of the exposed workflows; no endpoint can have this name."""
ASKING = "to ask what an endpoint offers"


@dataclass(frozen=True, slots=True)
class Operation:
    """One that can be called. `exposed_as`: its name as an MCP tool or an A2A agent, if it is one."""

    name: str
    title: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    input_schema: Mapping[str, Any] | None = None
    output_schema: Mapping[str, Any] | None = None
    exposed_as: str = ""
    tool: bool = False
    agent: bool = False
    tasks: str = ""
    """Of a tool: when a call of it is a task, as `Exposed.tasks` has it."""


@dataclass(frozen=True, slots=True)
class Service:
    """`name` empty: any name does, or only the handler knows which it has. `operations` None: they are not
    known here."""

    kind: str
    endpoint: str = ""
    endpoint_id: str = ""
    name: str = ""
    operations: tuple[Operation, ...] | None = None

    @property
    def place(self) -> str:
        """Under which it is opened: its endpoint, or WORKFLOWS."""
        return self.endpoint or self.name

    @property
    def key(self) -> str:
        """In the order of keys services are listed."""
        return f"{self.endpoint}/{self.name}"


class Discovery:
    """Answers callers that want to know what they can call."""

    def __init__(
        self,
        exposures: Exposures,
        endpoints: NexusEndpoints,
        dispatch: NexusDispatch,
        config: Config,
    ) -> None:
        self._exposures = exposures
        self._endpoints = endpoints
        self._dispatch = dispatch
        self._config = config

    async def services(self, namespace: str) -> list[Service]:
        """In the order of their keys; nobody is asked. Raises NamespaceNotFound, and what `access.need`
        raises."""
        await self._exposures.refreshed()
        exposed = self._exposures.of(namespace)
        found = [_workflows(exposed)] if any(each.workflow for each in exposed.values()) else []
        for endpoint in await self._endpoints.current():
            found += _of_endpoint(endpoint, namespace, exposed)
        return sorted(found, key=lambda each: each.key)

    async def opened(self, namespace: str, name: str) -> list[Service]:
        """The services behind an endpoint, or WORKFLOWS. An MCP server or an A2A agent is asked what it
        offers. Raises NotFound, Unavailable if it does not say, and what `services` raises."""
        found = [each for each in await self.services(namespace) if name == each.place]
        if not found:
            raise NotFound(f"no service or endpoint {name[:100]!r} is there to be called")
        target = await self._agent(found[0])
        if target is None:
            return found
        need(Role.WRITE, namespace, ASKING)
        seconds = min(self._config.agent_call_timeout_s, self._config.nexus_call_timeout_s)
        offered = await self._dispatch.offered(target, seconds)
        if isinstance(offered, Refused):
            raise Unavailable(f"endpoint {name} does not say what it offers: {_why(offered)}")
        operations = (
            Operation(
                each.name,
                description=each.description,
                input_schema=each.input_schema,
                output_schema=each.output_schema,
            )
            for each in offered
        )
        return [replace(found[0], operations=tuple(operations))]

    async def _agent(self, service: Service) -> AgentTarget | None:
        endpoint = await self._endpoints.known(service.endpoint_id)
        target = target_of(endpoint.spec) if endpoint is not None else None
        return target if isinstance(target, AgentTarget) else None


def _why(refused: Refused) -> str:
    return refused.failure.cause.message or refused.failure.message


def _workflows(exposed: Mapping[str, Exposed]) -> Service:
    there = {name: each for name, each in exposed.items() if each.workflow}
    operations = (_operation(name, name, each) for name, each in there.items())
    return Service("workflows", name=WORKFLOWS, operations=tuple(operations))


def _of_endpoint(
    endpoint: Endpoint, namespace: str, exposed: Mapping[str, Exposed]
) -> Iterable[Service]:
    """The services behind an endpoint that are exposed, or else the endpoint alone; one whose workers are in
    another namespace is told of only if something of it is exposed here."""
    target = target_of(endpoint.spec)
    kind, endpoint_id = "worker", endpoint.endpoint_id
    if not isinstance(target, WorkerTarget):
        kind = target.protocol if isinstance(target, AgentTarget) else NEXUS
    services: dict[str, list[Operation]] = {}
    for name, each in exposed.items():
        if each.endpoint == endpoint.name:
            services.setdefault(each.service, []).append(_operation(each.operation, name, each))
    for service, operations in services.items():
        yield Service(kind, endpoint.name, endpoint_id, service, tuple(operations))
    elsewhere = isinstance(target, WorkerTarget) and target.namespace != namespace
    if not services and not elsewhere:
        yield Service(kind, endpoint.name, endpoint_id)


def _operation(name: str, exposed_as: str, entry: Exposed) -> Operation:
    return Operation(
        name,
        title=entry.title,
        description=entry.description,
        tags=tuple(entry.tags),
        input_schema=entry.input_schema or None,
        output_schema=None if entry.output_schema is UNSET else entry.output_schema,
        exposed_as=exposed_as,
        tool=entry.tool,
        agent=entry.agent,
        tasks=entry.tasks,
    )
