"""Times and durations of the API, which are messages, as nanoseconds and back."""

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

SECOND_NS = 1_000_000_000


def nanoseconds(value: Any) -> int:
    """A Timestamp or Duration message in nanoseconds; 0 when it is not set."""
    return int(value.seconds) * SECOND_NS + int(value.nanos)


def timestamp(at_ns: int) -> Timestamp:
    seconds, nanos = divmod(at_ns, SECOND_NS)
    return Timestamp(seconds=seconds, nanos=nanos)


def set_duration(message: object, nanoseconds: int) -> None:
    """Fill a Duration message in place."""
    seconds, nanos = divmod(nanoseconds, SECOND_NS)
    message.seconds = seconds  # type: ignore[attr-defined]
    message.nanos = nanos  # type: ignore[attr-defined]
