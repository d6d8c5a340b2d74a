"""Namespaces: what they are, how long they keep closed runs, their search attributes; and the server."""

from typing import Any

from starlette.requests import Request
from starlette.routing import Route
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.enums.v1 import namespace_pb2 as namespace_enums
from temporalio.api.operatorservice.v1 import request_response_pb2 as os
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.edge.console import events
from durably.edge.console.rows import words
from durably.edge.console.site import Site
from durably.edge.console.units import nanoseconds

NAMESPACES_MAX = 500


class Namespaces:
    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> list[Route]:
        page = self._site.page("namespaces.html", "namespaces", self._load)
        return [Route("/ui/{namespace:segment}/namespaces", page)]

    async def _load(self, request: Request) -> dict[str, Any]:
        namespace = request.path_params["namespace"]
        listed = await self._site.ask(
            "ListNamespaces", ws.ListNamespacesRequest(page_size=NAMESPACES_MAX)
        )
        described = await self._site.ask(
            "DescribeNamespace", ws.DescribeNamespaceRequest(namespace=namespace)
        )
        attributes = await self._site.ask(
            "ListSearchAttributes", os.ListSearchAttributesRequest(namespace=namespace)
        )
        cluster = await self._site.ask("GetClusterInfo", ws.GetClusterInfoRequest())
        return {
            "namespace": namespace,
            "rows": [
                {
                    "name": each.namespace_info.name,
                    "description": each.namespace_info.description,
                    "state": words(
                        namespace_enums.NamespaceState,
                        each.namespace_info.state,
                        "NAMESPACE_STATE_",
                    ),
                    "retention_ns": nanoseconds(each.config.workflow_execution_retention_ttl),
                    "owner": each.namespace_info.owner_email,
                }
                for each in listed.namespaces
            ],
            "fields": events.fields_of(described),
            "custom": _typed(attributes.custom_attributes),
            "system": _typed(attributes.system_attributes),
            "cluster": cluster,
        }


def _typed(attributes: Any) -> list[tuple[str, str]]:
    return [
        (name, words(common_enums.IndexedValueType, kind, "INDEXED_VALUE_TYPE_"))
        for name, kind in sorted(attributes.items())
    ]
