"""Nexus over HTTP, where its specification ends: which services and operations there are.

    GET /namespaces/{ns}/nexus/services           a page of all that can be called there
    GET /namespaces/{ns}/nexus/services/{name}    those of an endpoint; who has no workers is asked what it offers

Rule 1: nothing is decided here.
"""

import base64
from typing import Any
from urllib.parse import quote

from durably.edge import nexus_requests as requests
from durably.edge.nexus_operations import Asked
from durably.edge.nexus_replies import JSON, Answer
from durably.service.agent_targets import A2A, MCP
from durably.service.discovery import Discovery, Operation, Service
from durably.service.nexus_calls import HandlerError
from durably.service.nexus_endpoints import URL_PREFIX
from durably.service.nexus_json import compact

PAGE_SIZE_MAX = 1000


class ServiceRoutes:
    """Answers requests about what can be called."""

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery

    async def of_namespace(self, namespace: str, names: list[str], asked: Asked) -> Answer:
        """What is below `/namespaces/{ns}/nexus/services`."""
        if len(names) > 1:
            raise HandlerError("NOT_FOUND", "not found")
        if asked.method != "GET":
            raise requests.wrong_method(asked.method)
        if not names:
            return await self._list(namespace, asked)
        opened = await self._discovery.opened(namespace, names[0])
        return _json({"services": [_shown(namespace, each) for each in opened]})

    async def _list(self, namespace: str, asked: Asked) -> Answer:
        size = min(requests.page_size(asked.query), PAGE_SIZE_MAX)
        after = requests.page(asked.query).decode("utf-8", "replace")
        found = [each for each in await self._discovery.services(namespace) if each.key > after]
        told: dict[str, Any] = {"services": [_shown(namespace, each) for each in found[:size]]}
        if len(found) > size:
            last = found[size - 1].key.encode()
            told["nextPageToken"] = base64.urlsafe_b64encode(last).decode()
        return _json(told)


def _json(told: object) -> Answer:
    return Answer(200, JSON, compact(told))


def _shown(namespace: str, service: Service) -> dict[str, Any]:
    """What is not known, or empty, is left out."""
    told: dict[str, Any] = {
        "service": service.name,
        "endpoint": service.endpoint,
        "kind": service.kind,
        "path": _path(service),
    }
    if service.operations is not None:
        told["operations"] = [_operation(namespace, each) for each in service.operations]
    if service.kind in (MCP, A2A):
        told["operationsAt"] = (
            f"/namespaces/{quote(namespace, safe='')}/nexus/services/{service.endpoint}"
        )
    return {name: value for name, value in told.items() if value != ""}


def _path(service: Service) -> str:
    """Where operations are started over HTTP; others are called by workflows alone."""
    if service.kind != "worker":
        return ""
    prefix = URL_PREFIX.format(service.endpoint_id)
    return f"{prefix}/{quote(service.name, safe='')}" if service.name else prefix


def _operation(namespace: str, operation: Operation) -> dict[str, Any]:
    place = quote(namespace, safe="")
    told: dict[str, Any] = {
        "name": operation.name,
        "title": operation.title,
        "description": operation.description,
        "tags": list(operation.tags),
        "inputSchema": operation.input_schema,
        "outputSchema": operation.output_schema,
    }
    if operation.tool:
        told["tool"] = {
            "server": f"/mcp/{place}",
            "name": operation.exposed_as,
            "tasks": operation.tasks,
        }
    if operation.agent:
        told["agent"] = f"/a2a/{place}/{quote(operation.exposed_as, safe='')}"
    return {name: value for name, value in told.items() if value}
