"""OTLP receivers over gRPC and HTTP: what a collector's endpoint is."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass
class Receiver:
    endpoint: str = ""
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    scopes: set[tuple[str, str]] = field(default_factory=set)
    refuses: bool = False
    refused: int = 0

    def take(self, request: messages.ExportTraceServiceRequest) -> bool:
        if self.refuses:
            self.refused += 1
            return False
        for resource in request.resource_spans:
            self.resources.append(attributes(resource.resource))
            for scope in resource.scope_spans:
                self.scopes.add((scope.scope.name, scope.schema_url))
                self.spans += scope.spans
        return True

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


def attributes(of: Any) -> dict[str, Any]:
    def value(found: AnyValue) -> Any:
        return getattr(found, found.WhichOneof("value") or "string_value")

    return {each.key: value(each.value) for each in of.attributes}


@contextlib.contextmanager
def over_grpc() -> Iterator[Receiver]:
    found = Receiver()

    class Servicer(service.TraceServiceServicer):
        def Export(
            self, request: messages.ExportTraceServiceRequest, context: grpc.ServicerContext
        ) -> messages.ExportTraceServiceResponse:
            if not found.take(request):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not now")
            return messages.ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    service.add_TraceServiceServicer_to_server(Servicer(), server)
    found.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield found
    finally:
        server.stop(None).wait()


@contextlib.contextmanager
def over_http() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            taken = found.take(messages.ExportTraceServiceRequest.FromString(body))
            self.send_response(200 if taken else 400)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
