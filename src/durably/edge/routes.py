"""Which HTTP method and path is which RPC: the API's own annotations, read once.

Facts: `google.api.http` in temporal/api/workflowservice/v1/service.proto, and how it is read in
google/api/http.proto: a variable of a path is one segment; with `body: "*"` all else is in the body,
without a body it is in the query.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import ServiceDescriptor

from durably.service.admission import SERVICES, Rpc

METHODS = ("get", "post", "put", "delete", "patch")


@dataclass(frozen=True, slots=True)
class Route:
    """One way to call an RPC. `segments`: literals, or variables in braces."""

    method: str
    segments: tuple[str, ...]
    has_body: bool
    rpc: Rpc

    @property
    def path(self) -> str:
        return "/" + "/".join(self.segments)

    @property
    def variables(self) -> list[str]:
        return [segment[1:-1] for segment in self.segments if _is_variable(segment)]


def _is_variable(segment: str) -> bool:
    return segment.startswith("{")


def routes(
    table: Mapping[str, Rpc], services: Iterable[ServiceDescriptor] = SERVICES
) -> list[Route]:
    """Every route of the services, in their order."""
    found: list[Route] = []
    for service in services:
        for method in service.methods:
            rule = method.GetOptions().Extensions[annotations_pb2.http]
            rpc = table[f"/{service.full_name}/{method.name}"]
            for each in (rule, *rule.additional_bindings):
                found += _route(each, rpc)
    return found


def _route(rule: http_pb2.HttpRule, rpc: Rpc) -> list[Route]:
    verb = rule.WhichOneof("pattern")
    if verb not in METHODS:
        return []
    path: str = getattr(rule, verb)
    return [Route(verb.upper(), tuple(path.strip("/").split("/")), bool(rule.body), rpc)]


class Router:
    """Finds the route of a request, one segment after the other; a literal goes before a variable."""

    def __init__(self, found: Iterable[Route]) -> None:
        self._root: dict[str, Any] = {}
        for route in found:
            node = self._root
            for segment in route.segments:
                node = node.setdefault("{}" if _is_variable(segment) else segment, {})
            node.setdefault("", {}).setdefault(route.method, route)

    def find(self, path: str) -> tuple[dict[str, Route], list[str]]:
        """The routes of a path by method, and the values of its variables; none: an empty dict.

        `path` as it was sent, percent-encoded.
        """
        return _find(self._root, path.strip("/").split("/"), [])


def _find(
    node: dict[str, Any], segments: list[str], values: list[str]
) -> tuple[dict[str, Route], list[str]]:
    if not segments:
        return node.get("", {}), values
    head, rest = segments[0], segments[1:]
    if head and head != "{}" and head in node:
        found, given = _find(node[head], rest, values)
        if found:
            return found, given
    if head and "{}" in node:
        return _find(node["{}"], rest, [*values, unquote(head)])
    return {}, values
