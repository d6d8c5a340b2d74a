"""The implemented RPCs, and calls to them with any bytes; nothing in between that could refuse."""

from functools import cache

import grpc

from durably.service import (
    activity_control,
    admission,
    batches,
    deployments,
    namespaces,
    nexus_endpoints,
    nexus_tasks,
    queries,
    resets,
    schedules,
    standalone_activities,
    standalone_control,
    standalone_nexus,
    system,
    task_queues,
    updates,
    version_sets,
    visibility,
    worker_tasks,
    workers,
    workflow_options,
    workflow_pause,
    workflow_rules,
    workflows,
)

HANDLERS = (
    workflows.Workflows,
    worker_tasks.WorkerTasks,
    workers.Workers,
    task_queues.TaskQueues,
    activity_control.ActivityControl,
    standalone_activities.StandaloneActivities,
    standalone_control.StandaloneControl,
    standalone_nexus.StandaloneNexus,
    nexus_endpoints.NexusEndpoints,
    nexus_tasks.NexusTasks,
    deployments.Deployments,
    version_sets.VersionSets,
    workflow_options.WorkflowOptions,
    workflow_pause.WorkflowPause,
    workflow_rules.WorkflowRules,
    batches.Batches,
    resets.Resets,
    queries.Queries,
    updates.Updates,
    visibility.Visibility,
    schedules.Schedules,
    namespaces.Namespaces,
    system.System,
)


@cache
def implemented() -> dict[str, admission.Rpc]:
    """Path -> row, of the RPCs that somebody answers."""
    rows = admission.table(HANDLERS)
    return {path: row for path, row in rows.items() if row.handler is not None}


async def call(
    channel: grpc.aio.Channel, path: str, body: bytes, timeout_s: float = 10.0
) -> tuple[grpc.StatusCode, str]:
    """Send a body, whatever it is; the status and its message."""
    try:
        await channel.unary_unary(path)(body, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""
