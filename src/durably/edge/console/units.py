"""How times, durations, sizes and enumerations are written for people. Pure.

Rule 1: times are nanoseconds since the epoch; 0 is no time.
"""

from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

SECOND_NS = 1_000_000_000
MILLISECOND_NS = 1_000_000
LONG_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def nanoseconds(time: Timestamp | Duration) -> int:
    """A timestamp or a duration of the API; 0 if it is not set."""
    return time.seconds * SECOND_NS + time.nanos


def duration_text(ns: int) -> str:
    """Two units at most: `340 ms`, `1.25 s`, `3 min 12 s`, `2 h 5 min`."""
    if ns < 0:
        return f"-{duration_text(-ns)}"
    if ns < MILLISECOND_NS:
        return f"{ns / MILLISECOND_NS:.2g} ms" if ns else "0 s"
    if ns < SECOND_NS:
        return f"{ns // MILLISECOND_NS} ms"
    if ns < 60 * SECOND_NS:
        return f"{ns / SECOND_NS:.3g} s" if ns < 59.95 * SECOND_NS else "60 s"
    seconds = ns // SECOND_NS
    for index, (name, size) in enumerate(LONG_UNITS):
        if seconds >= size:
            count, rest = divmod(seconds, size)
            smaller_name, smaller = LONG_UNITS[index + 1]
            smaller_count = rest // smaller
            more = f" {smaller_count} {smaller_name}" if smaller_count else ""
            return f"{count} {name}{more}"
    raise AssertionError("a minute or more has a unit")


def bytes_text(size_bytes: int) -> str:
    """`512 B`, `1.2 kB`, `5 MB`: powers of 1000."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def iso_text(ns: int) -> str:
    """RFC 3339 in UTC, to the millisecond; a time out of the calendar is given as its seconds."""
    try:
        whole = datetime.fromtimestamp(ns // SECOND_NS, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{ns // SECOND_NS} s"
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{ns % SECOND_NS // MILLISECOND_NS:03d}Z"


def clock_text(ns: int) -> str:
    """As `iso_text`, for reading: `2026-11-27 05:12:33`."""
    return iso_text(ns)[:19].replace("T", " ")


def enum_words(name: str, prefix: str) -> str:
    """The name of an enumeration's value in words: `..._STATUS_TIMED_OUT` is `Timed out`."""
    return name.removeprefix(prefix).replace("_", " ").capitalize()
