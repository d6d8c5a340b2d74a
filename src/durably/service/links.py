"""Links between executions: what requests may bring, and what replies say.

Facts: Link in temporal/api/common/v1/message.proto.
"""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import event_type_pb2 as event_types

from durably.config import Config
from durably.errors import InvalidArgument

EventType: TypeAlias = event_types.EventType.ValueType
STARTED = event_types.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED

NEEDED: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "workflow_event": (
        "workflow event link",
        (("namespace", "namespace"), ("workflow_id", "workflow ID"), ("run_id", "run ID")),
    ),
    "activity": (
        "activity link",
        (("namespace", "namespace"), ("activity_id", "activity ID"), ("run_id", "run ID")),
    ),
    "nexus_operation": (
        "nexus operation link",
        (("namespace", "namespace"), ("operation_id", "operation ID"), ("run_id", "run ID")),
    ),
}
"""Kind of link -> what refusals call it, and the fields that it needs."""


def check(
    links: Sequence[common.Link], callbacks: Iterable[common.Callback], config: Config
) -> None:
    """Raises InvalidArgument for links that a request may not bring, its callbacks' among them."""
    brought = [*links, *(link for callback in callbacks for link in callback.links)]
    if len(brought) > config.links_per_request_max:
        raise InvalidArgument(
            f"cannot attach more than {config.links_per_request_max} links per request,"
            f" got {len(brought)}"
        )
    for link in brought:
        _check_link(link, config)


def _check_link(link: common.Link, config: Config) -> None:
    if link.ByteSize() > config.link_bytes_max:
        raise InvalidArgument(
            f"link exceeds allowed size of {config.link_bytes_max}, got {link.ByteSize()}"
        )
    kind = link.WhichOneof("variant") or ""
    if kind == "batch_job":
        if not link.batch_job.job_id:
            raise InvalidArgument("batch job link must not have an empty job ID")
        return
    if kind not in NEEDED:
        raise InvalidArgument("unsupported link variant")
    name, fields = NEEDED[kind]
    for field, shown in fields:
        if not getattr(getattr(link, kind), field):
            raise InvalidArgument(f"{name} must not have an empty {shown} field")
    reference = link.workflow_event.event_ref
    if reference.event_id and not reference.event_type:
        raise InvalidArgument(
            "workflow event link ref cannot have an unspecified event type and a non-zero event ID"
        )


def without_repeats(
    links: Iterable[common.Link], callbacks: Iterable[common.Callback]
) -> list[common.Link]:
    """Those that no callback of the same request has."""
    known = [link for callback in callbacks for link in callback.links]
    return [link for link in links if link not in known]


def to_event(
    namespace: str,
    workflow_id: str,
    run_id: str,
    event_type: EventType = STARTED,
    event_id: int = 1,
) -> common.Link:
    """A link to an event of a workflow."""
    link = _to_workflow(namespace, workflow_id, run_id)
    link.workflow_event.event_ref.event_id = event_id
    link.workflow_event.event_ref.event_type = event_type
    return link


def to_request(
    namespace: str, workflow_id: str, run_id: str, event_type: EventType, request_id: str
) -> common.Link:
    """A link to the event that a request made; its id may not be known yet."""
    link = _to_workflow(namespace, workflow_id, run_id)
    link.workflow_event.request_id_ref.request_id = request_id
    link.workflow_event.request_id_ref.event_type = event_type
    return link


def _to_workflow(namespace: str, workflow_id: str, run_id: str) -> common.Link:
    return common.Link(
        workflow_event=common.Link.WorkflowEvent(
            namespace=namespace, workflow_id=workflow_id, run_id=run_id
        )
    )
