"""Counts the open workflows that are pinned to a version which gets no new ones.

Rule 1: a count that was cut off is owed still; it is made again, and recorded once.
"""

from durably.engine.deployment import machine
from durably.engine.deployment.state import DeploymentState
from durably.engine.state import Kind
from durably.engine.versioning.version import Version
from durably.service.execution import Execution
from durably.service.transact import Executions
from durably.store import visibility_query
from durably.store.filter_syntax import quoted


class Drainage:
    def __init__(self, executions: Executions) -> None:
        self._executions = executions
        self._interval_ns = int(executions.config.version_drainage_interval_s * 1e9)

    async def check(self, deployment: Execution[DeploymentState], build_id: str) -> None:
        state = deployment.state
        version = str(Version(state.workflow_id, build_id))
        query = visibility_query.parse(
            f"TemporalWorkerDeploymentVersion = {quoted(version)}"
            " AND TemporalWorkflowVersioningBehavior = 'Pinned' AND ExecutionStatus = 'Running'",
            {},
            dialect=self._executions.store.dialect,
        )
        groups = await self._executions.store.count_executions(
            Kind.WORKFLOW, state.namespace_id, query
        )
        drained = not any(count for _, count in groups)
        await self._executions.transact(
            deployment.execution_id,
            lambda t: machine.checked(t, build_id, drained, self._interval_ns),
        )
