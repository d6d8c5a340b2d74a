"""How lines of the log look: text for people, logfmt or JSON for machines.

Rule 1: a line is a sentence and fields: `logger.info("...", extra={"fields": {"run_id": ...}})`.
Rule 2: a value never breaks out of its line or its field: what comes from outside is quoted.
Rule 3: no payloads, no secrets: fields are names, ids and numbers.
"""

import json
import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum

PLAIN = re.compile(r"[\w.:/@+<>-]+", re.ASCII)


class LogFormat(StrEnum):
    TEXT = "text"
    LOGFMT = "logfmt"
    JSON = "json"


def configure(level: str, log_format: LogFormat) -> None:
    """Lines go to standard error. Raises ValueError for a level that there is not."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMATTERS[log_format]())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def without_password(url: str) -> str:
    """A URL of a store, fit to be shown: whatever is before its host is left out, however it is written."""
    if url.startswith("sqlite:"):
        return url
    place, question, parameters = url.partition("?")
    place = re.sub(r"(?<=//).*@", "", place)
    return place + question + re.sub(r"(password=)[^&]*", r"\1***", parameters)


class TextFormatter(logging.Formatter):
    """2026-01-31T12:00:00.000Z INFO durably.server: listening address=127.0.0.1:7233"""

    def format(self, record: logging.LogRecord) -> str:
        message = " ".join(record.getMessage().splitlines())
        line = f"{_time(record)} {record.levelname} {record.name}: {message}"
        fields = "".join(f" {name}={_quoted(value)}" for name, value in _fields(record).items())
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        return f"{line}{fields}\n{trace}" if trace else line + fields


class LogfmtFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{name}={_quoted(v)}" for name, v in _whole(self, record).items())


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_whole(self, record), default=str)


FORMATTERS: Mapping[LogFormat, type[logging.Formatter]] = {
    LogFormat.TEXT: TextFormatter,
    LogFormat.LOGFMT: LogfmtFormatter,
    LogFormat.JSON: JsonFormatter,
}


def _whole(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, object]:
    """All of a record, under names that no field has."""
    found: dict[str, object] = {
        "time": _time(record),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
        **_fields(record),
    }
    if record.exc_info:
        found["trace"] = formatter.formatException(record.exc_info)
    return found


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    found = getattr(record, "fields", None)
    return found if isinstance(found, Mapping) else {}


def _quoted(value: object) -> str:
    text = str(value)
    return text if PLAIN.fullmatch(text) else json.dumps(text)
