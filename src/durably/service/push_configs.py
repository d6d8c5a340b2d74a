"""Push notification configs of A2A tasks: callbacks of executions that follow them (`engine/callback`).

Rule 1: a config is one callback. Setting one again under its id takes the place of the former, in one commit.
Rule 2: one that is removed is told nothing any more, whatever run goes on.
"""

from temporalio.api.common.v1 import message_pb2 as common

from durably.engine import workflow, workflow_options
from durably.engine.callback import machine
from durably.engine.state import WorkflowState
from durably.engine.transition import Transition
from durably.service import a2a_tasks, callbacks
from durably.service.access import Role, need
from durably.service.execution import Execution
from durably.service.ids import new_id
from durably.service.namespaces import Namespaces
from durably.service.transact import Executions

CHANGING = "to change push notification configs"
LOOKING = "to see push notification configs"


class PushConfigs:
    """Changes and reads those of a task, by the id of its workflow."""

    def __init__(self, executions: Executions, namespaces: Namespaces) -> None:
        self._executions = executions
        self._namespaces = namespaces

    async def put(self, namespace: str, task_id: str, callback: common.Callback) -> None:
        """Have the task tell one more, or another under the same id. Raises Refusal: NotFound for a task
        that has ended, FailedPrecondition if there are too many."""
        need(Role.WRITE, namespace, CHANGING)
        config = self._executions.config
        callbacks.check([callback], config)
        execution = await self._find(namespace, task_id)
        shown = a2a_tasks.push_config(callback)
        assert shown is not None

        def decide(t: Transition[WorkflowState]) -> None:
            workflow.ensure_running(t.state)
            before = _named(t.state, shown["id"])
            if list(before.values()) == [shown]:
                return
            for callback_id in before:
                machine.removed(t, callback_id)
            workflow_options.attach(t, new_id(), [callback], [], config)

        await self._executions.transact(execution.execution_id, decide)

    async def of(self, namespace: str, task_id: str) -> list[a2a_tasks.Json]:
        """As TaskPushNotificationConfig, in the order in which they came."""
        need(Role.READ, namespace, LOOKING)
        execution = await self._find(namespace, task_id)
        found = await self._executions.read(execution.execution_id, _configs)
        return list(found.values())

    async def remove(self, namespace: str, task_id: str, config_id: str) -> None:
        """Nothing happens if there is none of this id."""
        need(Role.WRITE, namespace, CHANGING)
        execution = await self._find(namespace, task_id)

        def decide(t: Transition[WorkflowState]) -> None:
            for callback_id in _named(t.state, config_id):
                machine.removed(t, callback_id)

        await self._executions.transact(execution.execution_id, decide)

    async def _find(self, namespace: str, task_id: str) -> Execution:
        return await self._executions.find(self._namespaces.id_of(namespace), task_id)


def _configs(state: WorkflowState) -> dict[str, a2a_tasks.Json]:
    """Id of a callback -> the config that it was made for."""
    found = {}
    for each in state.callbacks.values():
        shown = a2a_tasks.push_config(common.Callback.FromString(each.callback))
        if shown is not None:
            found[each.callback_id] = shown
    return found


def _named(state: WorkflowState, config_id: str) -> dict[str, a2a_tasks.Json]:
    return {i: each for i, each in _configs(state).items() if each["id"] == config_id}
