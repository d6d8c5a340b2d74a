"""Bad requests, one row each: what is sent, and the status and message that must come back.

Rule 1: the requests are plain JSON of the API's messages, so that the same row can be sent to any
        server that speaks the API.
Rule 2: in every row the rest of the request is as good as it needs to be for the fault to be met.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grpc import StatusCode

from durably.service.admission import Rpc

INVALID, MISSING, EXISTS = (
    StatusCode.INVALID_ARGUMENT,
    StatusCode.NOT_FOUND,
    StatusCode.ALREADY_EXISTS,
)

HERE = {"namespace": "default"}
NOWHERE = {"namespace": "nowhere"}
NO_RUN = {"workflowId": "nobody", "runId": "1d6c1a0e-3f4b-4f6a-9d53-0c6b1b1f8f00"}
BAD_RUN = {"workflowId": "nobody", "runId": "not-a-uuid"}
NAMED = {"workflowExecution": NO_RUN}
START = {
    **HERE,
    "workflowId": "new",
    "workflowType": {"name": "Any"},
    "taskQueue": {"name": "q"},
    "requestId": "r",
}
LONG = "x" * 1001
BAD_TOKEN = "bm90IGEgdG9rZW4="

MESSAGES = {
    "no namespace": r"^Namespace not set on request\.$",
    "unknown namespace": r"^Namespace nowhere is not found\.$",
    "no workflow id": r"(?i)workflow ?id",
    "malformed run id": r"(?i)run[ _]?id",
    "unknown run": r"(?i)workflow.* not found",
    "unknown activity": r"^activity not found for ID: a$",
    "long activity id": r"(?i)activity ?id exceeds",
    "unknown workflow": r"^workflow not found for ID: nobody$",
    "no type": r"(?i)workflow ?type",
    "no task queue": r"(?i)task[ _]?queue",
    "long workflow id": r"(?i)workflow ?id .*(exceeds)",
    "long type": r"(?i)workflow ?type .*(exceeds)",
    "long task queue": r"(?i)task ?queue .*(exceeds)",
    "long request id": r"(?i)request ?id .*(exceeds)",
    "negative run timeout": r"WorkflowRunTimeout.*negative duration",
    "negative execution timeout": r"WorkflowExecutionTimeout.*negative duration",
    "negative task timeout": r"WorkflowTaskTimeout.*negative duration",
    "negative delay": r"WorkflowStartDelay.*negative duration",
    "unknown search attribute": r"no mapping defined for search attribute Nope",
    "negative priority": r"priority key can't be negative",
    "long fairness key": r"fairness key length exceeds limit",
    "no signal name": r"(?i)signal.* not set|must provide signal name",
    "no token": r"(?i)task ?token",
    "malformed token": r"(?i)token",
    "long identity": r"(?i)identity",
    "long reason": r"(?i)reason",
    "no job id": r"^JobId is not set on request\.$",
    "no reason": r"(?i)reason",
    "unknown job": r"(?i)not found for ID: none$",
    "no executions": r"(?i)executions",
    "query and executions": r"^visibility query, executions, and target executions are mutually",
    "no reset target": r"^batch reset missing target$",
    "no activity filter": r"^activity filter must be set$",
    "wrong target": r"^target_executions\[0\]",
    "no rule": r"^Rule Specification is not set\.$",
    "no rule id": r"^Workflow Rule ID is not set\.$",
    "long rule id": r"^Workflow Rule Id length exceeds limit\.$",
    "no operation id": r"^operation_id is required$",
    "long operation id": r"^operation_id exceeds length limit",
    "unknown operation": r"^operation not found for ID: o$",
    "no endpoint": r"^endpoint is required$",
    "no service": r"^service is required$",
    "long service": r"(?i)service exceeds length limit",
    "reserved header": r"(?i)disallowed",
    "large header": r"(?i)header exceeds size limit",
    "unknown endpoint": r"(?i)endpoint.* not found|endpoint with ID",
    "no endpoint name": r"^endpoint name not set$",
    "no endpoint target": r"^empty target variant$",
    "wrong endpoint name": r"^endpoint name must match",
    "long endpoint name": r"^endpoint name exceeds length limit of 200$",
    "no target queue": r"^invalid target task queue",
    "no target namespace": r"^target namespace not set$",
    "unknown target": r"Namespace nowhere is not found",
    "no target URL": r"^empty target URL$",
    "wrong target URL": r'^invalid target URL scheme: "ftp"',
    "no endpoint id": r"^endpoint ID not set$",
    "malformed endpoint id": r"^malformed endpoint ID",
    "no version": r"^endpoint version is non-positive$",
    "empty link": r"^unsupported link variant$",
    "too many links": r"^cannot attach more than 10 links per request, got 11$",
    "large link": r"^link exceeds allowed size of 4000",
    "link to no job": r"^batch job link must not have an empty job ID$",
    "link to no run": r"^workflow event link must not have an empty",
    "callback to no address": r"^invalid url: unknown scheme:",
    "callback with another scheme": r"^invalid url: unknown scheme: ftp",
    "callback to no host": r"^invalid url: missing host$",
    "callback without TLS": r"callback address",
    "callback to a private address": r"^invalid url: .*10\.0\.0\.1",
    "callback to a long address": r"^invalid url: url length longer than max length",
    "callback with large headers": r"^invalid header: header size longer than max",
    "callback inside the server": r"^unsupported callback variant",
    "push of no task": r"^invalid header: durably-a2a-task is a JSON object with the texts id,",
    "push inside the server": r"^push notifications go to an http or https URL$",
    "callback of no kind": r"^unknown callback variant",
    "callbacks without their request": r"^attaching request ID is required",
    "no deployment": r"(?i)deployment ?name cannot be empty",
    "no build": r"(?i)build ?id cannot be empty",
    "dotted deployment": r"^worker deployment name cannot contain '\.'$",
    "long deployment": r"larger than the maximum allowed$",
    "unknown deployment": r"(?i)not found|^no Worker Deployment found",
    "no such percentage": r"^Percentage must be between 0 and 100",
    "no entries": r"^At least one of remove_entries or upsert_entries must be provided$",
    "no mask": r"^UpdateMask is required$",
    "no options": r"^WorkflowExecutionOptions is required$",
    "unknown option": r'^error parsing UpdateMask: invalid path "nope"',
    "no builds": r"^Must query at least one build ID",
    "pin to nothing": r"^must provide version if override is pinned\.$",
    "upgrade not true": r"^auto-upgrade override must be true$",
    "old pin to nothing": r"^must provide deployment \(deprecated\) or pinned version",
    "malformed version": r'^invalid version string "nope"',
    "no deployment version": r"(?i)version string \"\"|deployment version cannot be empty|deployment name cannot be empty",
    "unknown version": r"is not present in task queue 'q' of type 'Workflow'$",
    "rules": r"(?i)versioning",
    "compute config": r"no compute providers",
    "unknown rule": r"^Workflow Rule with this ID not Found\.$",
}
"""What the message says of a fault, whichever the RPC; the words both servers have in common."""


@dataclass(frozen=True)
class Case:
    rpc: str
    fault: str
    request: Mapping[str, Any] = field(hash=False)
    status: StatusCode = INVALID

    @property
    def message(self) -> str:
        """A regular expression found in the message; a fault that has none says something."""
        return MESSAGES.get(self.fault, ".")

    def __str__(self) -> str:
        return re.sub(r"\W+", "-", f"{self.rpc}-{self.fault}")


def without(request: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name not in names}


def _starts(rpc: str, request: Mapping[str, Any]) -> list[Case]:
    return [
        Case(rpc, "no workflow id", without(request, "workflowId")),
        Case(rpc, "no type", without(request, "workflowType")),
        Case(rpc, "no task queue", without(request, "taskQueue")),
        Case(rpc, "long workflow id", {**request, "workflowId": LONG}),
        Case(rpc, "long type", {**request, "workflowType": {"name": LONG}}),
        Case(rpc, "long task queue", {**request, "taskQueue": {"name": LONG}}),
        Case(rpc, "long request id", {**request, "requestId": LONG}),
        Case(rpc, "negative run timeout", {**request, "workflowRunTimeout": "-1s"}),
        Case(rpc, "negative execution timeout", {**request, "workflowExecutionTimeout": "-1s"}),
        Case(rpc, "negative task timeout", {**request, "workflowTaskTimeout": "-1s"}),
        Case(rpc, "negative delay", {**request, "workflowStartDelay": "-1s"}),
        Case(
            rpc,
            "retry coefficient below one",
            {**request, "retryPolicy": {"initialInterval": "1s", "backoffCoefficient": 0.5}},
        ),
        Case(rpc, "negative attempts", {**request, "retryPolicy": {"maximumAttempts": -1}}),
        Case(rpc, "negative priority", {**request, "priority": {"priorityKey": -1}}),
        Case(rpc, "long fairness key", {**request, "priority": {"fairnessKey": "k" * 65}}),
        Case(rpc, "negative fairness weight", {**request, "priority": {"fairnessWeight": -1}}),
        Case(
            rpc,
            "unknown search attribute",
            {**request, "searchAttributes": {"indexedFields": {"Nope": {"data": "MQ=="}}}},
        ),
    ]


def _brought(
    rpc: str, request: Mapping[str, Any], inner: str = "", *, callbacks: bool = True
) -> list[Case]:
    """Links and, with a start or an update, callbacks; `inner`: the field that brings them."""

    def with_(**fields: Any) -> dict[str, Any]:
        if not inner:
            return {**request, **fields}
        return {**request, inner: {**request[inner], **fields}}

    link = {"batchJob": {"jobId": "j"}}
    found = [
        Case(rpc, "empty link", with_(links=[{}])),
        Case(rpc, "too many links", with_(links=[link] * 11)),
        Case(rpc, "large link", with_(links=[{"batchJob": {"jobId": "j" * 4001}}])),
        Case(rpc, "link to no job", with_(links=[{"batchJob": {}}])),
        Case(rpc, "link to no run", with_(links=[{"workflowEvent": {"namespace": "n"}}])),
    ]
    if not callbacks:
        return found
    for fault, callback in (
        ("callback to no address", {"nexus": {}}),
        ("callback with another scheme", {"nexus": {"url": "ftp://a.example"}}),
        ("callback to no host", {"nexus": {"url": "https:///x"}}),
        ("callback without TLS", {"nexus": {"url": "http://a.example"}}),
        ("callback to a private address", {"nexus": {"url": "https://10.0.0.1/x"}}),
        ("callback to a long address", {"nexus": {"url": "https://a.example/" + LONG}}),
        (
            "callback with large headers",
            {"nexus": {"url": "https://a.example", "header": {"a": LONG * 9}}},
        ),
        ("callback inside the server", {"internal": {"data": "MQ=="}}),
        (
            "push of no task",
            {"nexus": {"url": "https://a.example", "header": {"Durably-A2A-Task": "{}"}}},
        ),
        (
            "push inside the server",
            {"nexus": {"url": "temporal://system", "header": {"durably-a2a-task": "{}"}}},
        ),
    ):
        found.append(Case(rpc, fault, with_(completionCallbacks=[callback], requestId="r")))
    unknown = with_(completionCallbacks=[{}], requestId="r")
    return [*found, Case(rpc, "callback of no kind", unknown, StatusCode.UNIMPLEMENTED)]


_TOKEN_RPCS = (
    "RespondWorkflowTaskCompleted",
    "RespondWorkflowTaskFailed",
    "RecordActivityTaskHeartbeat",
    "RespondActivityTaskCompleted",
    "RespondActivityTaskFailed",
    "RespondActivityTaskCanceled",
    "RespondQueryTaskCompleted",
    "RespondNexusTaskCompleted",
    "RespondNexusTaskFailed",
)
_BY_ID_RPCS = (
    "RecordActivityTaskHeartbeatById",
    "RespondActivityTaskCompletedById",
    "RespondActivityTaskFailedById",
    "RespondActivityTaskCanceledById",
)
_ON_EXECUTION: dict[str, tuple[str, dict[str, Any]]] = {
    "SignalWorkflowExecution": ("workflowExecution", {"signalName": "s"}),
    "RequestCancelWorkflowExecution": ("workflowExecution", {}),
    "TerminateWorkflowExecution": ("workflowExecution", {}),
    "DeleteWorkflowExecution": ("workflowExecution", {}),
    "DescribeWorkflowExecution": ("execution", {}),
    "GetWorkflowExecutionHistory": ("execution", {}),
    "GetWorkflowExecutionHistoryReverse": ("execution", {}),
    "ResetStickyTaskQueue": ("execution", {}),
    "QueryWorkflow": ("execution", {"query": {"queryType": "q"}}),
    "ResetWorkflowExecution": (
        "workflowExecution",
        {"workflowTaskFinishEventId": "4", "requestId": "r"},
    ),
    "UpdateWorkflowExecution": (
        "workflowExecution",
        {"request": {"meta": {"updateId": "u"}, "input": {"name": "n"}}},
    ),
    "PauseActivity": ("execution", {"id": "a"}),
    "UnpauseActivity": ("execution", {"id": "a"}),
    "ResetActivity": ("execution", {"id": "a"}),
    "UpdateActivityOptions": (
        "execution",
        {
            "id": "a",
            "activityOptions": {"taskQueue": {"name": "q"}},
            "updateMask": "taskQueue.name",
        },
    ),
}
_QUERIED = (
    "ListWorkflowExecutions",
    "CountWorkflowExecutions",
    "ListActivityExecutions",
    "CountActivityExecutions",
    "ListNexusOperationExecutions",
    "CountNexusOperationExecutions",
)
_ON_ACTIVITY: dict[str, dict[str, Any]] = {
    "DescribeActivityExecution": {},
    "PollActivityExecution": {},
    "RequestCancelActivityExecution": {},
    "TerminateActivityExecution": {},
    "DeleteActivityExecution": {},
    "PauseActivityExecution": {},
    "UnpauseActivityExecution": {},
    "ResetActivityExecution": {},
    "UpdateActivityExecutionOptions": {"restoreOriginal": True},
}
_START_ACTIVITY: dict[str, Any] = {
    **HERE,
    "activityId": "a",
    "activityType": {"name": "t"},
    "taskQueue": {"name": "q"},
    "startToCloseTimeout": "1s",
}
_QUEUE = {**HERE, "taskQueue": "q", "taskQueueType": "TASK_QUEUE_TYPE_ACTIVITY"}
_SCHEDULE_RPCS: dict[str, dict[str, Any]] = {
    "DescribeSchedule": {},
    "DeleteSchedule": {},
    "PatchSchedule": {"patch": {"pause": "p"}},
    "UpdateSchedule": {
        "schedule": {
            "action": {"startWorkflow": without(START, "namespace", "requestId")},
        }
    },
}


def _on_execution(rpc: str, name: str, rest: Mapping[str, Any]) -> list[Case]:
    return [
        Case(rpc, "no workflow id", {**HERE, name: {}, **rest}),
        Case(rpc, "malformed run id", {**HERE, name: BAD_RUN, **rest}),
        Case(rpc, "unknown run", {**HERE, name: NO_RUN, **rest}, MISSING),
        Case(rpc, "unknown workflow", {**HERE, name: {"workflowId": "nobody"}, **rest}, MISSING),
    ]


def _pauses(rpc: str) -> list[Case]:
    request = {**HERE, "workflowId": "nobody"}
    return [
        Case(rpc, "no workflow id", HERE),
        Case(rpc, "malformed run id", {**HERE, **BAD_RUN}),
        Case(rpc, "unknown workflow", request, MISSING),
        Case(rpc, "long identity", {**request, "identity": LONG}),
        Case(rpc, "long reason", {**request, "reason": LONG}),
        Case(rpc, "a request id that is too long", {**request, "requestId": LONG}),
    ]


_BATCH: dict[str, Any] = {
    **HERE,
    "jobId": "j",
    "reason": "r",
    "terminationOperation": {},
    "visibilityQuery": "WorkflowId = 'nobody'",
}


def _namespace_updates() -> list[Case]:
    """What one cluster cannot do to a namespace."""
    rpc = "UpdateNamespace"
    aliases = {"customSearchAttributeAliases": {"Colour": "Shade"}}
    reserved = {"customSearchAttributeAliases": {"Keyword01": "RunId"}}
    bad = {"badBinaries": {"binaries": {"abc": {"reason": "bad"}}}}
    other = {"activeClusterName": "elsewhere"}
    return [
        Case(rpc, "handover", {**HERE, "replicationConfig": {"state": 2}}),
        Case(rpc, "another cluster", {**HERE, "replicationConfig": other}),
        Case(rpc, "promotion", {**HERE, "promoteNamespace": True}),
        Case(rpc, "bad binary", {**HERE, "config": bad}),
        Case(rpc, "unknown bad binary", {**HERE, "deleteBadBinary": "abc"}),
        Case(rpc, "no such field", {**HERE, "config": aliases}),
        Case(rpc, "reserved name", {**HERE, "config": reserved}),
    ]


def _time_skipping() -> list[Case]:
    """No workflow skips time of its own."""
    unbuilt = StatusCode.UNIMPLEMENTED
    asked = {"timeSkippingConfig": {"enabled": True}}
    rpc = "PollWorkflowExecutionTimeSkipping"
    return [
        Case("StartWorkflowExecution", "time skipping", {**START, **asked}, unbuilt),
        Case(
            "SignalWithStartWorkflowExecution",
            "time skipping",
            {**START, **asked, "signalName": "s"},
            unbuilt,
        ),
        Case(rpc, "no workflow id", HERE),
        Case(rpc, "unknown namespace", {**NOWHERE, **NAMED}, MISSING),
        Case(rpc, "not enabled", {**HERE, **NAMED, "fastForwardId": "f"}, unbuilt),
    ]


def _batches() -> list[Case]:
    rpc, bare = "StartBatchOperation", without(_BATCH, "terminationOperation")
    listed = without(_BATCH, "visibilityQuery")
    job = {**HERE, "jobId": "none"}
    return [
        Case(rpc, "no job id", without(_BATCH, "jobId")),
        Case(rpc, "no reason", without(_BATCH, "reason")),
        Case(rpc, "no operation", bare),
        Case(rpc, "no executions", listed),
        Case(rpc, "query and executions", {**_BATCH, "executions": [{"workflowId": "w"}]}),
        Case(rpc, "malformed query", {**_BATCH, "visibilityQuery": "RunId = = 'x'"}),
        Case(rpc, "an execution without an id", {**listed, "executions": [{}]}),
        Case(rpc, "an execution without a type", {**listed, "targetExecutions": [{}]}),
        Case(rpc, "no signal name", {**bare, "signalOperation": {}}),
        Case(rpc, "no reset target", {**bare, "resetOperation": {"options": {}}}),
        Case(rpc, "no reset type", {**bare, "resetOperation": {}}),
        Case(rpc, "no activity filter", {**bare, "resetActivitiesOperation": {}}),
        Case(rpc, "wrong target", {**listed, "targetExecutions": [{"businessId": "a"}]}),
        Case(rpc, "unknown namespace", {**_BATCH, "namespace": "nowhere"}, MISSING),
        Case("StopBatchOperation", "no job id", {**HERE, "reason": "r"}),
        Case("StopBatchOperation", "no reason", job),
        Case("StopBatchOperation", "unknown job", {**job, "reason": "r"}, MISSING),
        Case("DescribeBatchOperation", "no job id", HERE),
        Case("DescribeBatchOperation", "unknown job", job, MISSING),
        Case("ListBatchOperations", "a page token of nobody", {**HERE, "nextPageToken": BAD_TOKEN}),
    ]


def _rules() -> list[Case]:
    create = {**HERE, "spec": {"id": "r", "activityStart": {"predicate": "ActivityType = 'a'"}}}
    wrong = {"id": "r", "activityStart": {"predicate": "Nope = 'a'"}}
    trigger = {**HERE, "execution": {"workflowId": "nobody"}, "spec": {}}
    rows = [
        Case("CreateWorkflowRule", "no rule", HERE),
        Case("CreateWorkflowRule", "no rule id", {**HERE, "spec": {}}),
        Case("CreateWorkflowRule", "long rule id", {**HERE, "spec": {"id": LONG}}),
        Case("CreateWorkflowRule", "an unknown field", {**HERE, "spec": wrong}),
        Case(
            "CreateWorkflowRule", "unknown namespace", {**create, "namespace": "nowhere"}, MISSING
        ),
        Case("TriggerWorkflowRule", "no rule to trigger", without(trigger, "spec")),
        Case("TriggerWorkflowRule", "unknown rule", {**without(trigger, "spec"), "id": "none"}),
        Case("TriggerWorkflowRule", "no workflow id", {**trigger, "execution": {}}),
        Case("TriggerWorkflowRule", "malformed run id", {**trigger, "execution": BAD_RUN}),
        Case("TriggerWorkflowRule", "unknown workflow", trigger, MISSING),
    ]
    for rpc in ("DescribeWorkflowRule", "DeleteWorkflowRule"):
        rows += [
            Case(rpc, "no rule id", HERE),
            Case(rpc, "unknown rule", {**HERE, "ruleId": "none"}),
            Case(rpc, "unknown namespace", {"namespace": "nowhere", "ruleId": "r"}, MISSING),
        ]
    return rows


_VERSION = {"deploymentName": "d", "buildId": "b"}
_DEPLOYMENT_RPCS: dict[str, dict[str, Any]] = {
    "DescribeWorkerDeployment": {},
    "SetWorkerDeploymentCurrentVersion": {"buildId": "b"},
    "SetWorkerDeploymentRampingVersion": {"buildId": "b", "percentage": 5},
    "SetWorkerDeploymentManager": {"self": True, "identity": "me"},
}
_VERSION_RPCS: dict[str, dict[str, Any]] = {
    "DescribeWorkerDeploymentVersion": {},
    "UpdateWorkerDeploymentVersionMetadata": {"removeEntries": ["x"]},
    "UpdateWorkerDeploymentVersionComputeConfig": {},
}


def _versions() -> list[Case]:
    """Worker deployments, and their versions."""
    rows = []
    for rpc, rest in _DEPLOYMENT_RPCS.items():
        request = {**HERE, "deploymentName": "d", **rest}
        rows.append(Case(rpc, "unknown deployment", request, MISSING))
    for rpc, rest in _VERSION_RPCS.items():
        request = {**HERE, "deploymentVersion": _VERSION, **rest}
        rows.append(Case(rpc, "unknown deployment", request, MISSING))
        rows.append(Case(rpc, "no deployment version", {**HERE, **rest}))
    create, of = "CreateWorkerDeployment", {**HERE, "requestId": "r"}
    ramp = {**HERE, "deploymentName": "d", "percentage": 101}
    metadata = {**HERE, "deploymentVersion": _VERSION}
    gone = {**NOWHERE, "deploymentVersion": _VERSION}
    delete = {**HERE, "deploymentVersion": _VERSION}
    return [
        *rows,
        Case(create, "no deployment", of),
        Case(create, "dotted deployment", {**of, "deploymentName": "a.b"}),
        Case(create, "long deployment", {**of, "deploymentName": LONG}),
        Case(create, "unknown namespace", {**of, **NOWHERE, "deploymentName": "d"}, MISSING),
        Case(
            "CreateWorkerDeploymentVersion",
            "unknown deployment",
            {**of, "deploymentVersion": _VERSION},
            MISSING,
        ),
        Case(
            "CreateWorkerDeploymentVersion",
            "no build",
            {**of, "deploymentVersion": {"deploymentName": "d"}},
        ),
        Case("SetWorkerDeploymentRampingVersion", "no such percentage", ramp),
        Case("UpdateWorkerDeploymentVersionMetadata", "no entries", metadata),
        Case("DeleteWorkerDeploymentVersion", "unknown namespace", gone, MISSING),
        Case(
            "DeleteWorkerDeployment",
            "unknown namespace",
            {**NOWHERE, "deploymentName": "d"},
            MISSING,
        ),
        Case(
            "ListWorkerDeployments", "a page token of nobody", {**HERE, "nextPageToken": BAD_TOKEN}
        ),
        Case("ValidateWorkerDeploymentVersionComputeConfig", "compute config", delete),
    ]


def _version_sets() -> list[Case]:
    refused = StatusCode.PERMISSION_DENIED
    change, get = "UpdateWorkerBuildIdCompatibility", "GetWorkerBuildIdCompatibility"
    reach = "GetWorkerTaskReachability"
    named = {**HERE, "taskQueue": "q"}
    return [
        Case(change, "no task queue", {**HERE, "addNewBuildIdInNewDefaultSet": "1"}),
        Case(change, "no operation", named),
        Case(
            change,
            "unknown namespace",
            {**NOWHERE, "taskQueue": "q", "promoteSetByBuildId": "1"},
            MISSING,
        ),
        Case(change, "a set of nothing", {**named, "promoteSetByBuildId": "1"}, MISSING),
        Case(get, "no task queue", HERE),
        Case(get, "long task queue", {**HERE, "taskQueue": LONG}),
        Case(reach, "no builds", HERE),
        Case(reach, "no queue for no build", {**HERE, "buildIds": [""]}),
        Case(reach, "unknown namespace", {**NOWHERE, "buildIds": ["1"]}, MISSING),
        Case("GetWorkerVersioningRules", "rules", named, refused),
        Case("UpdateWorkerVersioningRules", "rules", named, refused),
    ]


def _overrides() -> list[Case]:
    rpc, start = "UpdateWorkflowExecutionOptions", "StartWorkflowExecution"
    request = {**HERE, "workflowExecution": NO_RUN, "updateMask": "versioningOverride"}
    asked = {**request, "workflowExecutionOptions": {}}

    def wrong(fault: str, override: Mapping[str, Any], status: StatusCode = INVALID) -> Case:
        return Case(start, fault, {**START, "versioningOverride": override}, status)

    return [
        *_on_execution(rpc, "workflowExecution", without(asked, "namespace", "workflowExecution")),
        Case(rpc, "no mask", without(asked, "updateMask")),
        Case(rpc, "no options", request),
        Case(rpc, "unknown option", {**asked, "updateMask": "nope"}),
        Case(rpc, "a part of an override", {**asked, "updateMask": "versioningOverride.pinned"}),
        wrong("pin to nothing", {"pinned": {"behavior": 1}}),
        wrong("a pin of no kind", {"pinned": {"version": _VERSION}}),
        wrong("upgrade not true", {"autoUpgrade": False}),
        wrong("a move to nothing", {"oneTime": {}}),
        wrong("no override", {}),
        wrong("old pin to nothing", {"behavior": 1}),
        wrong("malformed version", {"behavior": 1, "pinnedVersion": "nope"}),
        wrong("a version beside an upgrade", {"behavior": 2, "pinnedVersion": "a.b"}),
        wrong(
            "unknown version",
            {"pinned": {"behavior": 1, "version": _VERSION}},
            StatusCode.FAILED_PRECONDITION,
        ),
    ]


def _by_token(rpc: str) -> list[Case]:
    return [
        Case(rpc, "no token", HERE),
        Case(rpc, "malformed token", {**HERE, "taskToken": BAD_TOKEN}),
    ]


def _by_id(rpc: str) -> list[Case]:
    request = {**HERE, "workflowId": "nobody", "activityId": "a"}
    return [
        Case(rpc, "no activity id", without(request, "activityId")),
        Case(rpc, "unknown activity", without(request, "workflowId"), MISSING),
        Case(rpc, "unknown workflow", request, MISSING),
    ]


def _on_activity(rpc: str, rest: Mapping[str, Any]) -> list[Case]:
    request = {**HERE, "activityId": "a", **rest}
    return [
        Case(rpc, "no activity id", without(request, "activityId")),
        Case(rpc, "long activity id", {**request, "activityId": LONG}),
        Case(rpc, "malformed run id", {**request, "runId": "not-a-uuid"}),
        Case(rpc, "unknown activity", request, MISSING),
    ]


def _starts_of_activities() -> list[Case]:
    rpc, request = "StartActivityExecution", _START_ACTIVITY
    return [
        Case(rpc, "no activity id", without(request, "activityId")),
        Case(rpc, "no activity type", without(request, "activityType")),
        Case(rpc, "no task queue", without(request, "taskQueue")),
        Case(rpc, "no timeout", without(request, "startToCloseTimeout")),
        Case(rpc, "negative timeout", {**request, "heartbeatTimeout": "-1s"}),
        Case(rpc, "negative start delay", {**request, "startDelay": "-1s"}),
        Case(rpc, "negative attempts", {**request, "retryPolicy": {"maximumAttempts": -1}}),
        Case(
            rpc,
            "unknown search attribute",
            {**request, "searchAttributes": {"indexedFields": {"Nope": {"data": "MQ=="}}}},
        ),
        Case(rpc, "unknown namespace", {**request, "namespace": "nowhere"}, MISSING),
    ]


_ON_OPERATION = (
    "DescribeNexusOperationExecution",
    "PollNexusOperationExecution",
    "RequestCancelNexusOperationExecution",
    "TerminateNexusOperationExecution",
    "DeleteNexusOperationExecution",
)
_START_OPERATION: dict[str, Any] = {
    **HERE,
    "operationId": "o",
    "endpoint": "nowhere",
    "service": "s",
    "operation": "op",
}


def _on_operation(rpc: str) -> list[Case]:
    request = {**HERE, "operationId": "o"}
    return [
        Case(rpc, "no operation id", HERE),
        Case(rpc, "long operation id", {**request, "operationId": LONG}),
        Case(rpc, "malformed run id", {**request, "runId": "not-a-uuid"}),
        Case(rpc, "unknown operation", request, MISSING),
    ]


def _operations() -> list[Case]:
    rpc, request = "StartNexusOperationExecution", _START_OPERATION
    rows = [
        Case(rpc, "no operation id", without(request, "operationId")),
        Case(rpc, "no endpoint", without(request, "endpoint")),
        Case(rpc, "no service", without(request, "service")),
        Case(rpc, "no operation", without(request, "operation")),
        Case(rpc, "long operation id", {**request, "operationId": LONG}),
        Case(rpc, "long service", {**request, "service": LONG}),
        Case(rpc, "a request id that is too long", {**request, "requestId": LONG}),
        Case(rpc, "negative timeout", {**request, "startToCloseTimeout": "-1s"}),
        Case(rpc, "reserved header", {**request, "nexusHeader": {"Request-Timeout": "1s"}}),
        Case(rpc, "large header", {**request, "nexusHeader": {"a": "b" * 9000}}),
        Case(
            rpc,
            "unknown search attribute",
            {**request, "searchAttributes": {"indexedFields": {"Nope": {"data": "MQ=="}}}},
        ),
        Case(
            rpc,
            "callback without TLS",
            {**request, "completionCallbacks": [{"nexus": {"url": "http://a.example"}}]},
        ),
        Case(rpc, "unknown endpoint", request, MISSING),
        Case("PollNexusTaskQueue", "no task queue", HERE),
        Case("PollNexusTaskQueue", "long task queue", {**HERE, "taskQueue": {"name": LONG}}),
    ]
    for each in _ON_OPERATION:
        rows += _on_operation(each)
    for each in ("RequestCancel", "Terminate"):
        asked = {**HERE, "operationId": "o", "identity": LONG}
        rows.append(Case(f"{each}NexusOperationExecution", "long identity", asked))
    return rows


_WORKER = {"worker": {"namespace": "default", "taskQueue": "q"}}
_NO_ENDPOINT = "1d6c1a0e-3f4b-4f6a-9d53-0c6b1b1f8f00"


def _endpoint_specs(rpc: str, rest: Mapping[str, Any]) -> list[Case]:
    def case(fault: str, spec: Mapping[str, Any], status: StatusCode = INVALID) -> Case:
        return Case(rpc, fault, {**rest, "spec": spec}, status)

    far = {"external": {"url": "ftp://far"}}
    nowhere = {"worker": {"namespace": "nowhere", "taskQueue": "q"}}
    return [
        case("no endpoint name", {"target": _WORKER}),
        case("no endpoint target", {"name": "e1"}),
        case("wrong endpoint name", {"name": "1e", "target": _WORKER}),
        case("long endpoint name", {"name": "e" * 201, "target": _WORKER}),
        case("no target queue", {"name": "e1", "target": {"worker": {"namespace": "default"}}}),
        case("no target namespace", {"name": "e1", "target": {"worker": {"taskQueue": "q"}}}),
        case("unknown target", {"name": "e1", "target": nowhere}, StatusCode.FAILED_PRECONDITION),
        case("no target URL", {"name": "e1", "target": {"external": {}}}),
        case("wrong target URL", {"name": "e1", "target": far}),
    ]


def _endpoints() -> list[Case]:
    update = {"id": _NO_ENDPOINT, "version": "1", "spec": {"name": "e1", "target": _WORKER}}
    return [
        *_endpoint_specs("CreateNexusEndpoint", {}),
        *_endpoint_specs("UpdateNexusEndpoint", {"id": _NO_ENDPOINT, "version": "1"}),
        Case("UpdateNexusEndpoint", "unknown endpoint", update, MISSING),
        Case("GetNexusEndpoint", "no endpoint id", {}),
        Case("GetNexusEndpoint", "malformed endpoint id", {"id": "e"}),
        Case("GetNexusEndpoint", "unknown endpoint", {"id": _NO_ENDPOINT}, MISSING),
        Case("DeleteNexusEndpoint", "no endpoint id", {"version": "1"}),
        Case("DeleteNexusEndpoint", "no version", {"id": _NO_ENDPOINT}),
        Case(
            "DeleteNexusEndpoint", "unknown endpoint", {"id": _NO_ENDPOINT, "version": "1"}, MISSING
        ),
        Case("ListNexusEndpoints", "negative page size", {"pageSize": -1}),
        Case("ListNexusEndpoints", "a page token of nobody", {"nextPageToken": BAD_TOKEN}),
        Case("ListNexusEndpoints", "large page", {"pageSize": 100_000}),
    ]


def written() -> list[Case]:
    """The rows that are about one RPC, or a few alike."""
    signal_start = {**START, "signalName": "s"}
    rows = [
        *_starts("StartWorkflowExecution", START),
        *_brought("StartWorkflowExecution", START),
        Case(
            "StartWorkflowExecution",
            "callbacks without their request",
            {**START, "onConflictOptions": {"attachCompletionCallbacks": True}},
        ),
        *_brought("StartActivityExecution", _START_ACTIVITY),
        *_brought(
            "UpdateWorkflowExecution",
            {
                **HERE,
                **NAMED,
                "request": {"meta": {"updateId": "u"}, "input": {"name": "n"}},
            },
            "request",
        ),
        *_brought("SignalWorkflowExecution", {**HERE, **NAMED, "signalName": "s"}, callbacks=False),
        *_starts("SignalWithStartWorkflowExecution", signal_start),
        Case("SignalWithStartWorkflowExecution", "no signal name", START),
        Case(
            "SignalWorkflowExecution",
            "no signal name",
            {**HERE, "workflowExecution": {"workflowId": "nobody"}},
        ),
        Case("ExecuteMultiOperation", "no operations", HERE),
        Case("PollWorkflowTaskQueue", "no task queue", HERE),
        Case("PollActivityTaskQueue", "no task queue", HERE),
        Case("DescribeTaskQueue", "no task queue", HERE),
        Case("UpdateTaskQueueConfig", "no task queue", without(_QUEUE, "taskQueue")),
        Case("UpdateTaskQueueConfig", "long task queue", {**_QUEUE, "taskQueue": LONG}),
        Case("UpdateTaskQueueConfig", "no type of queue", without(_QUEUE, "taskQueueType")),
        Case("UpdateTaskQueueConfig", "long identity", {**_QUEUE, "identity": LONG}),
        Case(
            "UpdateTaskQueueConfig",
            "negative rate",
            {**_QUEUE, "updateQueueRateLimit": {"rateLimit": {"requestsPerSecond": -1}}},
        ),
        Case(
            "UpdateTaskQueueConfig",
            "rate of workflow tasks",
            {
                **_QUEUE,
                "taskQueueType": "TASK_QUEUE_TYPE_WORKFLOW",
                "updateQueueRateLimit": {"rateLimit": {"requestsPerSecond": 1}},
            },
        ),
        Case(
            "UpdateTaskQueueConfig",
            "weight of no key",
            {**_QUEUE, "setFairnessWeightOverrides": {"": 1}},
        ),
        Case(
            "UpdateTaskQueueConfig",
            "negative weight",
            {**_QUEUE, "setFairnessWeightOverrides": {"k": -1}},
        ),
        Case(
            "UpdateTaskQueueConfig",
            "weight set and unset",
            {
                **_QUEUE,
                "setFairnessWeightOverrides": {"k": 1},
                "unsetFairnessWeightOverrides": ["k"],
            },
        ),
        Case("UpdateTaskQueueConfig", "unknown namespace", {**_QUEUE, **NOWHERE}, MISSING),
        Case("ListTaskQueuePartitions", "no task queue", HERE),
        Case("ListArchivedWorkflowExecutions", "no archive", HERE),
        Case("AddOrUpdateRemoteCluster", "no address", {}, StatusCode.UNAVAILABLE),
        Case("RemoveRemoteCluster", "unknown cluster", {"clusterName": "x"}, MISSING),
        Case("DescribeWorker", "unknown worker", {**HERE, "workerInstanceKey": "w"}, MISSING),
        Case("ListWorkers", "malformed page token", {**HERE, "nextPageToken": "bm90"}),
        Case("DeleteNamespace", "no name", {}),
        Case("DeleteNamespace", "unknown", {"namespace": "nowhere"}, MISSING),
        Case("DeleteNamespace", "unknown id", {"namespaceId": "nowhere"}, MISSING),
        Case("DeleteNamespace", "name and id", {"namespace": "default", "namespaceId": "x"}),
        Case("PollWorkflowExecutionUpdate", "no reference", HERE),
        Case("RegisterNamespace", "no name", {"workflowExecutionRetentionPeriod": "86400s"}),
        Case("RegisterNamespace", "no retention", {"namespace": "fresh"}),
        Case(
            "RegisterNamespace",
            "taken",
            {"namespace": "default", "workflowExecutionRetentionPeriod": "86400s"},
            EXISTS,
        ),
        Case("DescribeNamespace", "no name", {}),
        Case("DescribeNamespace", "unknown", {"namespace": "nowhere"}, MISSING),
        Case("UpdateNamespace", "no name", {}),
        Case("UpdateNamespace", "unknown", {"namespace": "nowhere"}, MISSING),
        *_namespace_updates(),
        *_time_skipping(),
    ]
    for rpc, (name, rest) in _ON_EXECUTION.items():
        rows += _on_execution(rpc, name, rest)
    for rpc, rest in _ON_ACTIVITY.items():
        rows += _on_activity(rpc, rest)
    rows += _starts_of_activities()
    rows += [*_pauses("PauseWorkflowExecution"), *_pauses("UnpauseWorkflowExecution")]
    rows += [*_batches(), *_rules(), *_operations(), *_endpoints()]
    rows += [*_versions(), *_version_sets(), *_overrides()]
    for rpc in _TOKEN_RPCS:
        rows += _by_token(rpc)
    for rpc in _BY_ID_RPCS:
        rows += _by_id(rpc)
    for rpc in ("ListWorkers", "CountWorkers"):
        rows.append(Case(rpc, "malformed query", {**HERE, "query": "SdkName = = 'x'"}))
        rows.append(Case(rpc, "unknown field", {**HERE, "query": "Nope = 'x'"}))
    for rpc in ("FetchWorkerConfig", "UpdateWorkerConfig"):
        rows.append(Case(rpc, "not enabled", HERE, StatusCode.UNIMPLEMENTED))
    for rpc in _QUERIED:
        rows.append(Case(rpc, "malformed query", {**HERE, "query": "RunId = = 'x'"}))
        rows.append(Case(rpc, "unknown attribute", {**HERE, "query": "Nope = 'x'"}))
    for rpc, rest in _SCHEDULE_RPCS.items():
        rows.append(Case(rpc, "unknown schedule", {**HERE, "scheduleId": "none", **rest}, MISSING))
    return rows


CHECKED_EARLY = frozenset(
    (*_QUERIED, "ListSchedules", "ListBatchOperations", "ListWorkflowRules", "ListSearchAttributes")
)
"""RPCs that need nothing but a namespace."""

WITHOUT_FAULT = frozenset(
    ("ListClusters", "ListNamespaces", "GetSystemInfo", "GetSearchAttributes", "GetClusterInfo")
)
"""RPCs that have no field that could be wrong; any request is answered."""


def generated(rpcs: Mapping[str, Rpc]) -> list[Case]:
    """For every RPC of a namespace: none given, and one that does not exist."""
    complete = {case.rpc: case.request for case in written() if case.status is MISSING}
    rows = []
    for rpc in rpcs.values():
        if rpc.namespaced and rpc.handler is not None:
            request = complete.get(rpc.name, {})
            nowhere = {**request, "namespace": "nowhere"}
            rows.append(Case(rpc.name, "no namespace", without(request, "namespace")))
            if request or rpc.name in CHECKED_EARLY:
                rows.append(Case(rpc.name, "unknown namespace", nowhere, MISSING))
    return rows
