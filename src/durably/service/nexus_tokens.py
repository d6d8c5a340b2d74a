"""Tokens of Nexus operations, as far as this server reads them: which workflow an operation is made of.

A token is its handler's own; those that the SDKs make of an operation that is a workflow say which.

Facts: `{"t": 1, "ns": NAMESPACE, "wid": WORKFLOW}` as base64url without padding, in each SDK; other types
(`t`) are standalone activities and updates.
"""

import base64
import json

OF_WORKFLOW = 1


def workflow_of(token: str) -> tuple[str, str] | None:
    """(namespace, workflow id); None: the token names no workflow."""
    padded = token + "=" * (-len(token) % 4)
    try:
        told = json.loads(base64.urlsafe_b64decode(padded))
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or told.get("t") != OF_WORKFLOW:
        return None
    namespace, workflow_id = told.get("ns"), told.get("wid")
    if not isinstance(namespace, str) or not isinstance(workflow_id, str) or not workflow_id:
        return None
    return namespace, workflow_id


def for_workflow(namespace: str, workflow_id: str) -> str:
    """The token of an operation that is this workflow."""
    told = {"t": OF_WORKFLOW, "ns": namespace, "wid": workflow_id}
    text = json.dumps(told, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")
