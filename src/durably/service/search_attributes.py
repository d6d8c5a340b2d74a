"""Search attributes: from payloads to values that can be queried, and back.

Facts: https://docs.temporal.io/search-attribute; payloads are JSON with a `type` in their metadata.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, assert_never

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import activity_pb2 as activity_enums
from temporalio.api.enums.v1 import nexus_pb2 as nexus_enums
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums

from durably.agents.convention import MEMO_QUESTIONS
from durably.engine.apply.workflow import payload_is_null
from durably.engine.batch.state import BatchState
from durably.engine.deployment.state import DeploymentState
from durably.engine.schedule import view
from durably.engine.schedule.state import ScheduleState
from durably.engine.snapshot import AnyState
from durably.engine.standalone.state import StandaloneActivityState
from durably.engine.standalone_nexus.state import StandaloneNexusState
from durably.engine.state import RUNNING, ExecutionState, WorkflowState
from durably.engine.version_sets.state import VersionSetsState
from durably.engine.versioning.state import Versioning
from durably.engine.versioning.version import AUTO_UPGRADE, PINNED
from durably.errors import InvalidArgument
from durably.service.namespaces import SYSTEM_TYPES
from durably.store.store import VisibilityRow
from durably.store.visibility_query import (
    PREDEFINED,
    SYSTEM_COLUMNS,
    time_ns,
    time_text,
    words,
)


def check(found: common.SearchAttributes, types: Mapping[str, str]) -> None:
    """Refuse attributes that are unknown, reserved, or of another type; `types`: the custom ones.

    What is kept names its type, as clients, workers and lists expect: callers need not have said it.
    """
    for name, payload in found.indexed_fields.items():
        if name in SYSTEM_COLUMNS:
            raise InvalidArgument(f"{name} attribute can't be set in SearchAttributes")
        kind = types.get(name) or PREDEFINED.get(name)
        if kind is None:
            raise InvalidArgument(
                f"Namespace has no mapping defined for search attribute {name}:"
                " add it with `temporal operator search-attribute create`"
            )
        if payload_is_null(payload):
            continue
        try:
            decode(payload, kind)
        except (ValueError, TypeError) as error:
            raise InvalidArgument(
                f"invalid value for search attribute {name} of type {kind}: {_shown(payload)}"
            ) from error
    with_types(found, types)


def _shown(payload: common.Payload) -> str:
    return payload.data[:100].decode("utf-8", "replace")


def decode(payload: common.Payload, kind: str) -> object:
    """The value of a payload, as its type has it; raises ValueError or TypeError."""
    value = json.loads(payload.data)
    if isinstance(value, list) and kind != "KeywordList":
        if len(value) != 1:
            raise ValueError("one value is expected")
        value = value[0]
    match kind:
        case "Keyword" | "Text":
            return _expect(value, str)
        case "Int":
            if isinstance(value, bool):
                raise TypeError
            return _expect(value, int)
        case "Double":
            if isinstance(value, bool):
                raise TypeError
            return float(_expect(value, int, float))
        case "Bool":
            return _expect(value, bool)
        case "Datetime":
            return time_text(time_ns(_expect(value, str)))
        case _:
            values = [value] if isinstance(value, str) else _expect(value, list)
            return [_expect(each, str) for each in values]


def _expect(value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds):
        raise TypeError(f"{value!r} is not what its type says")
    return value


def _values(found: common.SearchAttributes) -> dict[str, object]:
    """Decoded by the type that each payload names itself."""
    values: dict[str, object] = {}
    if not found.indexed_fields:
        return values
    for name, payload in found.indexed_fields.items():
        kind = payload.metadata.get("type", b"").decode("utf-8", "replace")
        kind = PREDEFINED.get(name) or (kind if kind in KNOWN_TYPES else "")
        if payload_is_null(payload):
            continue
        try:
            values[name] = decode(payload, kind) if kind else json.loads(payload.data)
            if kind == "Text":
                values[name] = words(str(values[name]))
        except (ValueError, TypeError):
            continue  # Checked when it was set; an attribute whose type changed since is not shown.
    return values


KNOWN_TYPES = frozenset(("Keyword", "Text", "Int", "Double", "Bool", "Datetime", "KeywordList"))


def with_types(found: common.SearchAttributes, types: Mapping[str, str]) -> None:
    """Note each attribute's type in its payload, as clients expect to see it."""
    for name, payload in found.indexed_fields.items():
        kind = types.get(name) or SYSTEM_TYPES.get(name)
        if kind is not None:
            payload.metadata["type"] = kind.encode()


def visibility_row(state: AnyState) -> VisibilityRow:
    """What lists and counts see of an execution."""
    match state:
        case WorkflowState():
            return _workflow_row(state)
        case ScheduleState():
            return _schedule_row(state)
        case StandaloneActivityState():
            return _activity_row(state)
        case BatchState():
            return _plain_row(state, state.operation)
        case DeploymentState() | VersionSetsState():
            return _plain_row(state, "")
        case StandaloneNexusState():
            return _nexus_row(state)
        case _:
            assert_never(state)


LIST_INFO = "ScheduleInfo"
"""The memo field in which a schedule's row carries what a list shows of it."""


def _schedule_row(state: ScheduleState) -> VisibilityRow:
    memo = common.Memo()
    memo.CopyFrom(state.memo)
    info = memo.fields[LIST_INFO]
    info.metadata["encoding"] = b"binary/plain"
    info.data = view.list_info(state).SerializeToString()
    found = state.search_attributes
    start = state.schedule.action.start_workflow
    return VisibilityRow(
        workflow_type=start.workflow_type.name,
        task_queue=start.task_queue.name,
        status=state.status,
        start_ns=state.start_ns,
        execution_ns=state.start_ns,
        close_ns=state.close_ns,
        history_length=0,
        history_size_bytes=0,
        state_transitions=state.transitions,
        parent_workflow_id="",
        parent_run_id="",
        root_workflow_id="",
        root_run_id="",
        memo=memo.SerializeToString(),
        search_attributes=found.SerializeToString(),
        search_values={**_values(found), "TemporalSchedulePaused": state.paused},
    )


def _plain_row(state: ExecutionState, type_name: str) -> VisibilityRow:
    """Of what is only listed for those who know what they look for."""
    return VisibilityRow(
        workflow_type=type_name,
        task_queue="",
        status=state.status,
        start_ns=state.start_ns,
        execution_ns=state.start_ns,
        close_ns=state.close_ns,
        history_length=0,
        history_size_bytes=0,
        state_transitions=state.transitions,
        parent_workflow_id="",
        parent_run_id="",
        root_workflow_id="",
        root_run_id="",
        memo=b"",
        search_attributes=b"",
        search_values={},
    )


LISTED_STATUS = {
    activity_enums.ACTIVITY_EXECUTION_STATUS_RUNNING: RUNNING,
    activity_enums.ACTIVITY_EXECUTION_STATUS_COMPLETED: (
        workflow_enums.WORKFLOW_EXECUTION_STATUS_COMPLETED
    ),
    activity_enums.ACTIVITY_EXECUTION_STATUS_FAILED: workflow_enums.WORKFLOW_EXECUTION_STATUS_FAILED,
    activity_enums.ACTIVITY_EXECUTION_STATUS_CANCELED: (
        workflow_enums.WORKFLOW_EXECUTION_STATUS_CANCELED
    ),
    activity_enums.ACTIVITY_EXECUTION_STATUS_TERMINATED: (
        workflow_enums.WORKFLOW_EXECUTION_STATUS_TERMINATED
    ),
    activity_enums.ACTIVITY_EXECUTION_STATUS_TIMED_OUT: (
        workflow_enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT
    ),
    activity_enums.ACTIVITY_EXECUTION_STATUS_PAUSED: workflow_enums.WORKFLOW_EXECUTION_STATUS_PAUSED,
}
"""Status of a standalone activity -> the status of the same name in its row."""


def _activity_row(state: StandaloneActivityState) -> VisibilityRow:
    scheduled = state.activity.scheduled
    found = state.search_attributes
    return VisibilityRow(
        workflow_type=scheduled.activity_type.name,
        task_queue=scheduled.task_queue.name,
        status=LISTED_STATUS[state.shown_status],
        start_ns=state.start_ns,
        execution_ns=state.first_dispatch_ns,
        close_ns=state.close_ns,
        history_length=0,
        history_size_bytes=state.history_size_bytes,
        state_transitions=state.transitions,
        parent_workflow_id="",
        parent_run_id="",
        root_workflow_id="",
        root_run_id="",
        memo=b"",
        search_attributes=found.SerializeToString(),
        search_values=_values(found) if found.indexed_fields else {},
    )


LISTED_NEXUS_STATUS = {
    nexus_enums.NEXUS_OPERATION_EXECUTION_STATUS_RUNNING: RUNNING,
    nexus_enums.NEXUS_OPERATION_EXECUTION_STATUS_COMPLETED: (
        workflow_enums.WORKFLOW_EXECUTION_STATUS_COMPLETED
    ),
    nexus_enums.NEXUS_OPERATION_EXECUTION_STATUS_FAILED: (
        workflow_enums.WORKFLOW_EXECUTION_STATUS_FAILED
    ),
    nexus_enums.NEXUS_OPERATION_EXECUTION_STATUS_CANCELED: (
        workflow_enums.WORKFLOW_EXECUTION_STATUS_CANCELED
    ),
    nexus_enums.NEXUS_OPERATION_EXECUTION_STATUS_TERMINATED: (
        workflow_enums.WORKFLOW_EXECUTION_STATUS_TERMINATED
    ),
    nexus_enums.NEXUS_OPERATION_EXECUTION_STATUS_TIMED_OUT: (
        workflow_enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT
    ),
}
"""Status of a standalone Nexus operation -> the status of the same name in its row."""


def _nexus_row(state: StandaloneNexusState) -> VisibilityRow:
    """Names are where NEXUS_COLUMNS of `visibility_query` says."""
    scheduled = state.operation.scheduled
    found = state.search_attributes
    status: nexus_enums.NexusOperationExecutionStatus.ValueType = state.status  # type: ignore[assignment]
    return VisibilityRow(
        workflow_type=scheduled.operation,
        task_queue=scheduled.endpoint,
        status=LISTED_NEXUS_STATUS[status],
        start_ns=state.start_ns,
        execution_ns=state.start_ns,
        close_ns=state.close_ns,
        history_length=0,
        history_size_bytes=state.history_size_bytes,
        state_transitions=state.transitions,
        parent_workflow_id=scheduled.service,
        parent_run_id=scheduled.request_id,
        root_workflow_id="",
        root_run_id="",
        memo=b"",
        search_attributes=found.SerializeToString(),
        search_values=_values(found) if found.indexed_fields else {},
    )


PAUSE_INFO = "TemporalPauseInfo"
BUILD_IDS = "BuildIds"
PROBLEMS = "TemporalReportedProblems"
WAITS_FOR = "DurablyWaitsFor"
"""`answer` of a workflow that has asked something, by the convention of its memo: the inbox lists them."""


Own = tuple[tuple[str, str | tuple[str, ...]], ...]
"""Search attributes that the server sets itself: name, and a keyword or a list of them."""


def shown_attributes(state: WorkflowState) -> common.SearchAttributes:
    """The search attributes of a workflow, with those that the server sets itself."""
    found = common.SearchAttributes()
    found.CopyFrom(state.search_attributes)
    found.MergeFrom(_own_message(_own_attributes(state)))
    return found


def _own_attributes(state: WorkflowState) -> Own:
    """Which builds have worked on a workflow, what of it is paused, why its worker cannot get on."""
    asks = state.running and MEMO_QUESTIONS in state.memo.fields
    own = (
        (PAUSE_INFO, _pauses(state)),
        (BUILD_IDS, tuple(state.build_ids)),
        (PROBLEMS, tuple(state.reported_problems)),
        (WAITS_FOR, "answer" if asks else ""),
        *(_versions(state, state.versioning) if state.versioning is not None else ()),
    )
    return tuple((name, values) for name, values in own if values)


def _pauses(state: WorkflowState) -> tuple[str, ...]:
    said = []
    if state.pause is not None:
        said.append(f"Workflow:{state.workflow_id}")
        if state.pause.reason:
            said.append(f"Reason:{state.pause.reason}")
    paused = (a.scheduled.activity_type.name for a in state.activities.values() if a.pause)
    return (*said, *(f"property:activityType={name}" for name in dict.fromkeys(paused)))


@lru_cache(1024)
def _own_message(own: Own) -> common.SearchAttributes:
    """Made once, not to be changed: thousands of workflows have the same builds."""
    found = common.SearchAttributes()
    for name, values in own:
        payload = found.indexed_fields[name]
        payload.metadata["encoding"] = b"json/plain"
        payload.metadata["type"] = PREDEFINED[name].encode()
        payload.data = json.dumps(values, separators=(",", ":")).encode()
    return found


@lru_cache(1024)
def _own_encoded(own: Own) -> bytes:
    """To stand behind other attributes: serialized messages in a row are one with the fields of all."""
    return _own_message(own).SerializeToString()


BEHAVIORS: dict[int, str] = {PINNED: "Pinned", AUTO_UPGRADE: "AutoUpgrade"}


def _versions(state: WorkflowState, versioning: Versioning) -> Own:
    """On which version of which deployment it is."""
    version = versioning.shown_version
    return (
        ("TemporalWorkerDeployment", version.deployment if version else state.deployment),
        ("TemporalWorkerDeploymentVersion", str(version) if version else ""),
        ("TemporalWorkflowVersioningBehavior", BEHAVIORS.get(versioning.shown_behavior, "")),
        ("TemporalUsedWorkerDeploymentVersions", tuple(state.used_versions)),
    )


def _workflow_row(state: WorkflowState) -> VisibilityRow:
    started = state.started
    own = _own_attributes(state)
    root = state.root
    return VisibilityRow(
        workflow_type=started.workflow_type.name,
        task_queue=started.task_queue.name,
        status=state.status,
        start_ns=state.start_ns,
        execution_ns=state.execution_ns,
        close_ns=state.close_ns,
        history_length=state.next_event_id - 1,
        history_size_bytes=state.history_size_bytes,
        state_transitions=state.transitions,
        parent_workflow_id=started.parent_workflow_execution.workflow_id,
        parent_run_id=started.parent_workflow_execution.run_id,
        root_workflow_id=root.workflow_id,
        root_run_id=root.run_id,
        memo=state.memo.SerializeToString(),
        search_attributes=state.search_attributes.SerializeToString() + _own_encoded(own),
        search_values=_values(state.search_attributes) | _own_values(own),
    )


def _own_values(own: Own) -> dict[str, object]:
    return {name: value if isinstance(value, str) else list(value) for name, value in own}
