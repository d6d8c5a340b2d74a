"""The OpenAPI document of the HTTP/JSON API, made from the same descriptors as its routes.

Facts: https://spec.openapis.org/oas/v3.0.3 and, for how messages look,
https://protobuf.dev/programming-guides/json/.
"""

from collections.abc import Iterable, Iterator
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.rpc import status_pb2

from durably.edge.payload_json import PAYLOAD, PAYLOADS
from durably.edge.routes import Route

Schema = dict[str, Any]

SCALARS: dict[int, Schema] = {
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_INT64: {"type": "string", "format": "int64"},
    FieldDescriptor.TYPE_UINT64: {"type": "string", "format": "uint64"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "format": "int64"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "format": "byte"},
}
ANY_VALUE: Schema = {"description": "The value that the payload carries, as JSON."}
WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "description": "Seconds, as in 1.5s."},
    "google.protobuf.FieldMask": {"type": "string", "description": "Fields, with commas between."},
    "google.protobuf.Empty": {"type": "object"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "additionalProperties": True,
    },
    "google.protobuf.BoolValue": {"type": "boolean"},
    "google.protobuf.Int64Value": {"type": "string", "format": "int64"},
    PAYLOAD: ANY_VALUE,
    PAYLOADS: {"type": "array", "items": ANY_VALUE},
}
_STATUS = cast(Descriptor, status_pb2.Status.DESCRIPTOR)
_STATUS_NAME = _STATUS.full_name
PARAMETERS_DEEP_MAX = 2
"""How many messages within messages a query's parameters are listed for."""


def document(found: Iterable[Route], version: str) -> Schema:
    """The whole document: a path for each route, a schema for each message that it needs."""
    schemas = _Schemas()
    paths: dict[str, Schema] = {}
    for number, route in enumerate(found):
        operation = _operation(route, schemas, f"{route.rpc.name}_{number}")
        paths.setdefault(route.path, {}).setdefault(route.method.lower(), operation)
    schemas.ref(_STATUS)
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Temporal API, as durably serves it",
            "version": version,
            "description": "Payloads are written as the values they carry.",
        },
        "paths": paths,
        "components": {"schemas": schemas.all()},
    }


def _operation(route: Route, schemas: "_Schemas", operation_id: str) -> Schema:
    request = cast(Descriptor, route.rpc.request.DESCRIPTOR)
    response = cast(Descriptor, route.rpc.response.DESCRIPTOR)
    parameters: list[Schema] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in route.variables
    ]
    operation: Schema = {
        "operationId": operation_id,
        "summary": route.rpc.name,
        "tags": [route.rpc.name],
        "parameters": parameters,
        "responses": {
            "200": _content("The reply.", schemas.ref(response)),
            "default": _content("A refusal.", {"$ref": f"#/components/schemas/{_STATUS_NAME}"}),
        },
    }
    if route.has_body:
        body = _content("The request; what the path names may be left out.", schemas.ref(request))
        operation["requestBody"] = {"required": True, **body}
    else:
        for name, schema in _query_parameters(request, schemas, "", PARAMETERS_DEEP_MAX):
            if name not in route.variables:
                parameters.append({"name": name, "in": "query", "schema": schema})
    return operation


def _content(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _query_parameters(
    kind: Descriptor, schemas: "_Schemas", prefix: str, depth: int
) -> Iterator[tuple[str, Schema]]:
    for field in kind.fields:
        name = prefix + field.name
        inner = field.message_type
        if inner is None or inner.full_name in WELL_KNOWN:
            yield name, schemas.of_field(field)
        elif depth and not field.is_repeated:
            yield from _query_parameters(inner, schemas, f"{name}.", depth - 1)


class _Schemas:
    """Schemas of messages, each made once, when it is first referred to."""

    def __init__(self) -> None:
        self._found: dict[str, Schema] = {}

    def all(self) -> dict[str, Schema]:
        return dict(sorted(self._found.items()))

    def ref(self, kind: Descriptor) -> Schema:
        if kind.full_name in WELL_KNOWN:
            return dict(WELL_KNOWN[kind.full_name])
        if kind.full_name not in self._found:
            self._found[kind.full_name] = {}  # A message may contain itself.
            self._found[kind.full_name] = {
                "type": "object",
                "properties": {field.json_name: self.of_field(field) for field in kind.fields},
            }
        return {"$ref": f"#/components/schemas/{kind.full_name}"}

    def of_field(self, field: FieldDescriptor) -> Schema:
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            value = self._one(kind.fields_by_name["value"])
            return {"type": "object", "additionalProperties": value}
        one = self._one(field)
        return {"type": "array", "items": one} if field.is_repeated else one

    def _one(self, field: FieldDescriptor) -> Schema:
        if field.message_type is not None:
            return self.ref(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        return dict(SCALARS.get(field.type, {"type": "string"}))

    def _enum(self, kind: EnumDescriptor) -> Schema:
        names = [value.name for value in kind.values]
        self._found.setdefault(kind.full_name, {"type": "string", "enum": names})
        return {"$ref": f"#/components/schemas/{kind.full_name}"}
