"""Spans to an OTLP receiver, by OpenTelemetry's own exporters (the extra `otel`).

Rule 1: headers, certificates, compression and timeouts are OpenTelemetry's environment variables
        (OTEL_EXPORTER_OTLP_HEADERS and the others); the resource's too (OTEL_SERVICE_NAME).
Rule 2: an export is whole or it has failed; it blocks, and is called in a thread.
"""

import os
from collections.abc import Sequence
from typing import Protocol

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from durably.traces.semconv import ERROR_TYPE, SCHEMA_URL
from durably.traces.spans import Parent, Span
from durably.version import VERSION

GRPC = "grpc"
HTTP = "http/protobuf"
SPANS_PER_EXPORT_MAX = 512
SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Exporter(Protocol):
    def export(self, parent: Parent, spans: Sequence[Span]) -> bool:
        """Whether the receiver has taken all of them."""

    def close(self) -> None: ...


class OtlpExporter:
    """Raises ValueError for a protocol that there is not."""

    def __init__(self, endpoint: str, protocol: str) -> None:
        self._exporter = _exporter(endpoint, protocol)
        named = "OTEL_SERVICE_NAME" in os.environ
        about = {"service.version": VERSION} | ({} if named else {"service.name": "durably"})
        self._resource = Resource.create(about)
        self._scope = InstrumentationScope("durably", VERSION, SCHEMA_URL)

    def export(self, parent: Parent, spans: Sequence[Span]) -> bool:
        for start in range(0, len(spans), SPANS_PER_EXPORT_MAX):
            part = [self._readable(parent, s) for s in spans[start : start + SPANS_PER_EXPORT_MAX]]
            if self._exporter.export(part) is not SpanExportResult.SUCCESS:
                return False
        return True

    def close(self) -> None:
        self._exporter.shutdown()

    def _readable(self, parent: Parent, span: Span) -> ReadableSpan:
        above = None
        if span.parent_id:
            remote = span.parent_id == parent.span_id
            above = SpanContext(parent.trace_id, span.parent_id, remote, SAMPLED)
        attributes = dict(span.attributes)
        status = Status(StatusCode.UNSET)
        if span.error:
            attributes[ERROR_TYPE] = span.error
            status = Status(StatusCode.ERROR, span.error)
        is_chat = attributes.get("gen_ai.operation.name") == "chat"
        return ReadableSpan(
            span.name,
            context=SpanContext(parent.trace_id, span.span_id, False, SAMPLED),
            parent=above,
            resource=self._resource,
            attributes=attributes,
            events=[Event(name, about, at_ns) for name, at_ns, about in span.events],
            kind=SpanKind.CLIENT if is_chat else SpanKind.INTERNAL,
            status=status,
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )


def _exporter(endpoint: str, protocol: str) -> SpanExporter:
    if protocol == GRPC:
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc

        return grpc.OTLPSpanExporter(endpoint=endpoint)
    if protocol == HTTP:
        from opentelemetry.exporter.otlp.proto.http import trace_exporter as http

        path = "" if endpoint.rstrip("/").endswith("/v1/traces") else "/v1/traces"
        return http.OTLPSpanExporter(endpoint=endpoint.rstrip("/") + path)
    raise ValueError(f"traces_protocol={protocol}: use {GRPC} or {HTTP}")
