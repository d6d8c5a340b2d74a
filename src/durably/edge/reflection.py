"""grpc.reflection: tells clients such as grpcurl which services this port has, and their messages.

Rule 1: what cannot be found is an error_response inside the stream, which goes on.
Rule 2: one file per reply; the client asks for what that file imports.

Facts: https://github.com/grpc/grpc/blob/master/doc/server-reflection.md.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from durably.edge.described import POOL, describe, message_class
from durably.edge.grpc import Stream
from durably.errors import Status

Found = TypeVar("Found")
VERSIONS = ("v1", "v1alpha")

# PACKAGE stands for grpc.reflection.v1 or v1alpha: the two differ in nothing else.
TEMPLATE = """
    name: "grpc/reflection/VERSION/reflection.proto" package: "PACKAGE" syntax: "proto3"
    message_type { name: "ServerReflectionRequest" oneof_decl { name: "message_request" }
      field { name: "host" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
      field { name: "file_by_filename" number: 3 type: TYPE_STRING label: LABEL_OPTIONAL
        oneof_index: 0 }
      field { name: "file_containing_symbol" number: 4 type: TYPE_STRING label: LABEL_OPTIONAL
        oneof_index: 0 }
      field { name: "file_containing_extension" number: 5 type: TYPE_MESSAGE label: LABEL_OPTIONAL
        oneof_index: 0 type_name: ".PACKAGE.ExtensionRequest" }
      field { name: "all_extension_numbers_of_type" number: 6 type: TYPE_STRING
        label: LABEL_OPTIONAL oneof_index: 0 }
      field { name: "list_services" number: 7 type: TYPE_STRING label: LABEL_OPTIONAL
        oneof_index: 0 } }
    message_type { name: "ExtensionRequest"
      field { name: "containing_type" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
      field { name: "extension_number" number: 2 type: TYPE_INT32 label: LABEL_OPTIONAL } }
    message_type { name: "ServerReflectionResponse" oneof_decl { name: "message_response" }
      field { name: "valid_host" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
      field { name: "original_request" number: 2 type: TYPE_MESSAGE label: LABEL_OPTIONAL
        type_name: ".PACKAGE.ServerReflectionRequest" }
      field { name: "file_descriptor_response" number: 4 type: TYPE_MESSAGE label: LABEL_OPTIONAL
        oneof_index: 0 type_name: ".PACKAGE.FileDescriptorResponse" }
      field { name: "all_extension_numbers_response" number: 5 type: TYPE_MESSAGE
        label: LABEL_OPTIONAL oneof_index: 0 type_name: ".PACKAGE.ExtensionNumberResponse" }
      field { name: "list_services_response" number: 6 type: TYPE_MESSAGE label: LABEL_OPTIONAL
        oneof_index: 0 type_name: ".PACKAGE.ListServiceResponse" }
      field { name: "error_response" number: 7 type: TYPE_MESSAGE label: LABEL_OPTIONAL
        oneof_index: 0 type_name: ".PACKAGE.ErrorResponse" } }
    message_type { name: "FileDescriptorResponse"
      field { name: "file_descriptor_proto" number: 1 type: TYPE_BYTES label: LABEL_REPEATED } }
    message_type { name: "ExtensionNumberResponse"
      field { name: "base_type_name" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
      field { name: "extension_number" number: 2 type: TYPE_INT32 label: LABEL_REPEATED } }
    message_type { name: "ListServiceResponse"
      field { name: "service" number: 1 type: TYPE_MESSAGE label: LABEL_REPEATED
        type_name: ".PACKAGE.ServiceResponse" } }
    message_type { name: "ServiceResponse"
      field { name: "name" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } }
    message_type { name: "ErrorResponse"
      field { name: "error_code" number: 1 type: TYPE_INT32 label: LABEL_OPTIONAL }
      field { name: "error_message" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL } }
    service { name: "ServerReflection"
      method { name: "ServerReflectionInfo" client_streaming: true server_streaming: true
        input_type: ".PACKAGE.ServerReflectionRequest"
        output_type: ".PACKAGE.ServerReflectionResponse" } }
"""


def _describe_version(version: str) -> FileDescriptor:
    package = f"grpc.reflection.{version}"
    return describe(TEMPLATE.replace("PACKAGE", package).replace("VERSION", version))


FILES = {version: _describe_version(version) for version in VERSIONS}


class Reflection:
    """Answers questions about `services` (full names) and itself."""

    def __init__(self, services: Iterable[str]) -> None:
        own = {f"grpc.reflection.{version}.ServerReflection" for version in VERSIONS}
        self._services = sorted(own.union(services))

    def streams(self) -> dict[str, Stream]:
        return dict(self._stream(version) for version in VERSIONS)

    def _stream(self, version: str) -> tuple[str, Stream]:
        request = message_class(FILES[version], "ServerReflectionRequest")
        response = message_class(FILES[version], "ServerReflectionResponse")

        async def answer(asked: AsyncIterator[Message]) -> AsyncIterator[Message]:
            async for question in asked:
                yield self._answer(question, response)

        path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        return path, Stream("ServerReflectionInfo", request, answer)

    def _answer(self, question: Any, response: type[Message]) -> Message:
        reply: Any = response(valid_host=question.host, original_request=question)
        kind = question.WhichOneof("message_request")
        try:
            if kind == "list_services":
                for name in self._services:
                    reply.list_services_response.service.add(name=name)
            elif kind == "all_extension_numbers_of_type":
                name = question.all_extension_numbers_of_type
                numbers = _find(lambda pool: _extension_numbers(pool, name))
                reply.all_extension_numbers_response.base_type_name = name
                reply.all_extension_numbers_response.extension_number.extend(numbers)
            else:
                file = descriptor_pb2.FileDescriptorProto()
                _file(kind, question).CopyToProto(file)
                reply.file_descriptor_response.file_descriptor_proto.append(
                    file.SerializeToString()
                )
        except KeyError:
            reply.error_response.error_code = int(Status.NOT_FOUND)
            reply.error_response.error_message = "not found"
        return reply  # type: ignore[no-any-return]


def _file(kind: str | None, question: Any) -> FileDescriptor:
    """The file that is asked for; raises KeyError."""
    if kind == "file_by_filename":
        return _find(lambda pool: pool.FindFileByName(question.file_by_filename))
    if kind == "file_containing_symbol":
        return _find(lambda pool: pool.FindFileContainingSymbol(question.file_containing_symbol))
    if kind == "file_containing_extension":
        return _find(lambda pool: _extension_file(pool, question.file_containing_extension))
    raise KeyError(kind)


def _extension_file(pool: DescriptorPool, asked: Any) -> FileDescriptor:
    extended = pool.FindMessageTypeByName(asked.containing_type)
    # The published types of protobuf do not know that a field has a file.
    found: Any = pool.FindExtensionByNumber(extended, asked.extension_number)
    file: FileDescriptor = found.file
    return file


def _extension_numbers(pool: DescriptorPool, name: str) -> list[int]:
    return [e.number for e in pool.FindAllExtensions(pool.FindMessageTypeByName(name))]


def _find(look: Callable[[DescriptorPool], Found]) -> Found:
    """In the API's pool, else in that of gRPC's own services."""
    try:
        return look(descriptor_pool.Default())
    except KeyError:
        return look(POOL)
