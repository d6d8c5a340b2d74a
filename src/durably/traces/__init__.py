"""Spans, made from journals and exported over OTLP."""
