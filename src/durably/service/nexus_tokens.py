"""Tokens of Nexus operations, as far as this server reads them: what an operation is made of.

A token is its handler's own; those that the SDKs make of an operation that is a workflow, a standalone activity
or an update say which.

Facts: base64url without padding of `{"t": 1, "ns": NAMESPACE, "wid": WORKFLOW}`, `{"t": 2, "ns": ..., "aid":
ACTIVITY, "rid": RUN}`, `{"t": 3, "ns": ..., "wid": ..., "uid": UPDATE, "rid": RUN}`, in each SDK.
"""

import base64
import json
from dataclasses import dataclass
from typing import Any


class Kind:
    """What `t` says."""

    WORKFLOW = 1
    ACTIVITY = 2
    UPDATE = 3


@dataclass(frozen=True, slots=True)
class OfWorkflow:
    namespace: str
    workflow_id: str


@dataclass(frozen=True, slots=True)
class OfActivity:
    """A standalone activity. `run_id` empty: the latest of its runs."""

    namespace: str
    activity_id: str
    run_id: str = ""


@dataclass(frozen=True, slots=True)
class OfUpdate:
    """An update of a workflow. `run_id` empty: of the latest run."""

    namespace: str
    workflow_id: str
    update_id: str
    run_id: str = ""


MadeOf = OfWorkflow | OfActivity | OfUpdate


def made_of(token: str) -> MadeOf | None:
    """None: only its handler knows."""
    padded = token + "=" * (-len(token) % 4)
    try:
        told = json.loads(base64.urlsafe_b64decode(padded))
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or not isinstance(told.get("ns"), str):
        return None
    namespace = told["ns"]
    workflow_id, activity_id, update_id, run_id = (
        _text(told, name) for name in ("wid", "aid", "uid", "rid")
    )
    match told.get("t"):
        case Kind.WORKFLOW if workflow_id:
            return OfWorkflow(namespace, workflow_id)
        case Kind.ACTIVITY if activity_id:
            return OfActivity(namespace, activity_id, run_id)
        case Kind.UPDATE if workflow_id and update_id:
            return OfUpdate(namespace, workflow_id, update_id, run_id)
        case _:
            return None


def _text(told: dict[str, Any], name: str) -> str:
    """Empty for what is not there, or no text."""
    value = told.get(name)
    return value if isinstance(value, str) else ""


def for_workflow(namespace: str, workflow_id: str) -> str:
    """The token of an operation that is this workflow."""
    told = {"t": Kind.WORKFLOW, "ns": namespace, "wid": workflow_id}
    text = json.dumps(told, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")
