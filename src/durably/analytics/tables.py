"""The tables: their columns. Pure.

Rule 1: their rows are those of `agents.rows`. What is not known is NULL.
Rule 2: columns are only ever added; times are UTC, durations are seconds.
"""

from typing import Final

import pyarrow as pa

TIME: Final = pa.timestamp("us", tz="UTC")

_RUN: Final = [
    ("namespace", pa.string()),
    ("workflow_id", pa.string()),
    ("run_id", pa.string()),
    ("workflow_type", pa.string()),
]
_STEP: Final = [
    *_RUN,
    ("scheduled_event_id", pa.int64()),
    ("activity_id", pa.string()),
    ("activity_type", pa.string()),
    ("task_queue", pa.string()),
    ("status", pa.string()),
    ("attempts", pa.int64()),
    ("failure_type", pa.string()),
    ("scheduled_time", TIME),
    ("started_time", TIME),
    ("end_time", TIME),
    ("schedule_to_start_s", pa.float64()),
    ("run_s", pa.float64()),
]
SCHEMAS: Final[dict[str, pa.Schema]] = {
    "workflows": pa.schema(
        [
            *_RUN,
            ("task_queue", pa.string()),
            ("status", pa.string()),
            ("start_time", TIME),
            ("execution_time", TIME),
            ("close_time", TIME),
            ("duration_s", pa.float64()),
            ("history_length", pa.int64()),
            ("history_size_bytes", pa.int64()),
            ("state_transitions", pa.int64()),
            ("parent_workflow_id", pa.string()),
            ("parent_run_id", pa.string()),
            ("root_workflow_id", pa.string()),
            ("root_run_id", pa.string()),
            ("search_attributes", pa.string()),
        ]
    ),
    "activities": pa.schema(_STEP),
    "model_calls": pa.schema(
        [
            *_STEP,
            ("call", pa.int64()),
            ("framework", pa.string()),
            ("agent", pa.string()),
            ("provider", pa.string()),
            ("model", pa.string()),
            ("input_tokens", pa.int64()),
            ("output_tokens", pa.int64()),
            ("cache_read_tokens", pa.int64()),
            ("cache_write_tokens", pa.int64()),
            ("reasoning_tokens", pa.int64()),
            ("cost_usd", pa.float64()),
            ("finish_reason", pa.string()),
            ("tools_asked", pa.int64()),
        ]
    ),
    "tool_calls": pa.schema(
        [
            *_STEP,
            ("call", pa.int64()),
            ("framework", pa.string()),
            ("agent", pa.string()),
            ("tool", pa.string()),
            ("tool_call_id", pa.string()),
        ]
    ),
}
FROM_HISTORIES: Final = frozenset(SCHEMAS) - {"workflows"}
"""Tables for which the histories have to be read."""
