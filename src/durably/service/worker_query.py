"""Which workers: text of the List Filter language as a condition on their heartbeats.

Rule 1: the whole text is checked before anything is asked of a worker.

Fields and operators: the comments of `ListWorkersRequest` in the API. Texts know =, !=, STARTS_WITH
and IS NULL (an empty text is NULL); times know =, !=, <, <=, >, >=, BETWEEN and IS NULL.
"""

from collections.abc import Callable

from sqlglot import exp
from temporalio.api.enums.v1 import common_pb2 as enums
from temporalio.api.worker.v1 import message_pb2 as worker

from durably.engine.apply import nanoseconds
from durably.errors import InvalidArgument
from durably.store.visibility_query import parse_statement, time_ns

Heartbeat = worker.WorkerHeartbeat
Holds = Callable[[Heartbeat], bool]


def _status(heartbeat: Heartbeat) -> str:
    """`WORKER_STATUS_SHUTTING_DOWN` -> `ShuttingDown`."""
    name = enums.WorkerStatus.Name(heartbeat.status) if heartbeat.status else "Unspecified"
    return name.removeprefix("WORKER_STATUS_").title().replace("_", "")


TEXTS: dict[str, Callable[[Heartbeat], str]] = {
    "WorkerInstanceKey": lambda h: h.worker_instance_key,
    "WorkerIdentity": lambda h: h.worker_identity,
    "HostName": lambda h: h.host_info.host_name,
    "TaskQueue": lambda h: h.task_queue,
    "DeploymentName": lambda h: h.deployment_version.deployment_name,
    "BuildId": lambda h: h.deployment_version.build_id,
    "SdkName": lambda h: h.sdk_name,
    "SdkVersion": lambda h: h.sdk_version,
    "Status": _status,
    "WorkerStatus": _status,
}

TIMES: dict[str, Callable[[Heartbeat], int]] = {
    "StartTime": lambda h: nanoseconds(h.start_time),
    "HeartbeatTime": lambda h: nanoseconds(h.heartbeat_time),
}
"""Nanoseconds since the epoch; 0: not given."""

_OF_TEXTS: dict[type[exp.Expr], Callable[[str, str], bool]] = {
    exp.EQ: lambda found, wanted: found == wanted,
    exp.NEQ: lambda found, wanted: found != wanted,
    exp.Like: lambda found, wanted: found.startswith(wanted),
}

_OF_TIMES: dict[type[exp.Expr], Callable[[int, int], bool]] = {
    exp.EQ: lambda found, wanted: found == wanted,
    exp.NEQ: lambda found, wanted: found != wanted,
    exp.GT: lambda found, wanted: found > wanted,
    exp.GTE: lambda found, wanted: found >= wanted,
    exp.LT: lambda found, wanted: found < wanted,
    exp.LTE: lambda found, wanted: found <= wanted,
}


def parse(text: str) -> Holds:
    """Text to a condition; no text holds for all. Raises InvalidArgument, naming what is wrong."""
    if not text.strip():
        return lambda heartbeat: True
    statement = parse_statement(text.strip())
    for clause in ("order", "group", "limit", "having", "offset", "joins"):
        if statement.args.get(clause):
            raise InvalidArgument(f"operation is not supported: '{clause}' clause")
    where = statement.args.get("where")
    if where is None:
        raise InvalidArgument("operation is not supported: 'where' clause is missing")
    return _condition(where.this)


def _condition(node: exp.Expr) -> Holds:
    match node:
        case exp.Paren():
            return _condition(node.this)
        case exp.And():
            first, second = _condition(node.left), _condition(node.right)
            return lambda heartbeat: first(heartbeat) and second(heartbeat)
        case exp.Or():
            first, second = _condition(node.left), _condition(node.right)
            return lambda heartbeat: first(heartbeat) or second(heartbeat)
        case exp.Not():
            holds = _condition(node.this)
            return lambda heartbeat: not holds(heartbeat)
        case exp.Is():
            return _is_null(node)
        case exp.Between():
            return _between(node)
        case _:
            return _comparison(node)


def _name(node: exp.Expr | None) -> str:
    if not isinstance(node, exp.Column) or node.table:
        raise InvalidArgument(f"invalid filter name: {node.sql() if node else ''}")
    if node.name not in TEXTS and node.name not in TIMES:
        raise InvalidArgument(f"unknown or unsupported worker heartbeat search field: {node.name}")
    return node.name


def _text(name: str, node: exp.Expr | None) -> str:
    if not isinstance(node, exp.Literal) or not node.is_string:
        raise InvalidArgument(f"invalid value for {name}: {node.sql() if node else ''}")
    if not node.this:
        raise InvalidArgument(f"{name} cannot be empty")
    return str(node.this)


def _time(name: str, node: exp.Expr | None) -> int:
    text = _text(name, node)
    try:
        return time_ns(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid value for {name}: {text!r} is not a time") from error


def _is_null(node: exp.Is) -> Holds:
    name = _name(node.this)
    if not isinstance(node.expression, exp.Null):
        raise InvalidArgument("operation is not supported: 'is' is for NULL and NOT NULL alone")
    value: Callable[[Heartbeat], str | int] = TEXTS.get(name) or TIMES[name]
    return lambda heartbeat: not value(heartbeat)


def _between(node: exp.Between) -> Holds:
    name = _name(node.this)
    if name not in TIMES:
        raise InvalidArgument(f"invalid expression: operation between is not for {name}")
    low, high = _time(name, node.args["low"]), _time(name, node.args["high"])
    value = TIMES[name]
    return lambda heartbeat: low <= value(heartbeat) <= high


def _comparison(node: exp.Expr) -> Holds:
    if type(node) not in _OF_TIMES and not isinstance(node, exp.Like):
        raise InvalidArgument(f"operation is not supported: {node.sql()}")
    name = _name(node.this)
    if name in TEXTS:
        text, wanted = TEXTS[name], _text(name, node.expression)
        compare = _OF_TEXTS.get(type(node))
        if compare is None:
            raise InvalidArgument(
                f"invalid expression: operation {node.key} is not supported for {name} column"
            )
        return lambda heartbeat: compare(text(heartbeat), wanted)
    compare_times = _OF_TIMES.get(type(node))
    if compare_times is None:
        raise InvalidArgument(f"invalid expression: operation {node.key} is not supported")
    moment, at_ns = TIMES[name], _time(name, node.expression)
    return lambda heartbeat: compare_times(moment(heartbeat), at_ns)
