"""Links between executions: the API's messages, and the URLs that Nexus has for them.

Facts: Link in temporal/api/common/v1/message.proto; the paths are those that SDKs write and read.
"""

import re
from collections.abc import Iterable
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.nexus.v1 import message_pb2 as nexus

SCHEME = "temporal"
PATHS = {
    "workflow_event": "/namespaces/{}/workflows/{}/{}/history",
    "nexus_operation": "/namespaces/{}/nexus-operations/{}/{}/details",
    "activity": "/namespaces/{}/activities/{}/{}/details",
}
"""Variant of a Link -> the path of its URL: namespace, id, run id."""
IDS = {
    "workflow_event": "workflow_id",
    "nexus_operation": "operation_id",
    "activity": "activity_id",
}
PATTERNS = {
    variant: re.compile(re.escape(path).replace(r"\{\}", "([^/]+)"))
    for variant, path in PATHS.items()
}
VARIANTS = {
    common.Link.WorkflowEvent.DESCRIPTOR.full_name: "workflow_event",
    common.Link.NexusOperation.DESCRIPTOR.full_name: "nexus_operation",
    common.Link.Activity.DESCRIPTOR.full_name: "activity",
}
"""Type of a Nexus link -> the variant it stands for."""


def to_nexus(link: common.Link) -> nexus.Link | None:
    """The link as Nexus has it; None for a kind that has no URL."""
    variant = link.WhichOneof("variant")
    if variant not in PATHS:
        return None
    to = getattr(link, variant)
    names = (to.namespace, getattr(to, IDS[variant]), to.run_id)
    path = PATHS[variant].format(*(quote(name, safe="") for name in names))
    query = _event_query(to) if variant == "workflow_event" else ""
    return nexus.Link(url=f"{SCHEME}://{path}{query}", type=to.DESCRIPTOR.full_name)


def _event_query(to: common.Link.WorkflowEvent) -> str:
    """Which event: by its id, or by the request that made it."""
    said: dict[str, object] = {}
    match to.WhichOneof("reference"):
        case "event_ref":
            if to.event_ref.event_id:
                said["eventID"] = to.event_ref.event_id
            said["eventType"] = _event_name(to.event_ref.event_type)
            said["referenceType"] = "EventReference"
        case "request_id_ref":
            said["eventType"] = _event_name(to.request_id_ref.event_type)
            said["referenceType"] = "RequestIdReference"
            said["requestID"] = to.request_id_ref.request_id
    return f"?{urlencode(said)}" if said else ""


def _event_name(kind: event_types.EventType.ValueType) -> str:
    """EVENT_TYPE_WORKFLOW_TASK_STARTED -> WorkflowTaskStarted."""
    name = event_types.EventType.Name(kind).removeprefix("EVENT_TYPE_")
    return name.title().replace("_", "")


_EVENT_KINDS = {_event_name(kind): kind for kind in event_types.EventType.values()}


def from_nexus(links: Iterable[nexus.Link]) -> tuple[common.Link, ...]:
    """The links that are understood; others are left out: nothing depends on them."""
    found = (_read(each) for each in links)
    return tuple(link for link in found if link is not None)


def _read(link: nexus.Link) -> common.Link | None:
    variant = VARIANTS.get(link.type)
    try:
        url = urlsplit(link.url)
    except ValueError:
        return None
    if variant is None or url.scheme != SCHEME:
        return None
    names = PATTERNS[variant].fullmatch(url.path)
    if names is None:
        return None
    namespace, id_, run_id = (unquote(name) for name in names.groups())
    made = common.Link()
    to = getattr(made, variant)
    to.namespace, to.run_id = namespace, run_id
    setattr(to, IDS[variant], id_)
    if variant == "workflow_event" and not _read_event(to, parse_qs(url.query)):
        return None
    return made


def _read_event(to: common.Link.WorkflowEvent, query: dict[str, list[str]]) -> bool:
    said = {name: values[0] for name, values in query.items()}
    name = said.get("eventType", "")
    kind = _EVENT_KINDS.get(name)
    if kind is None and name in event_types.EventType.keys():  # noqa: SIM118  an enum, not a dict
        kind = event_types.EventType.Value(name)
    if kind is None:
        return False
    match said.get("referenceType"):
        case "EventReference":
            event_id = said.get("eventID", "0")
            if not event_id.isdecimal():
                return False
            to.event_ref.event_id = int(event_id)
            to.event_ref.event_type = kind
        case "RequestIdReference":
            to.request_id_ref.request_id = said.get("requestID", "")
            to.request_id_ref.event_type = kind
        case _:
            return False
    return True
