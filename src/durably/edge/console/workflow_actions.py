"""Forms that act on one workflow. Each is one call of one RPC; what is wrong with it, the RPC says."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.api.enums.v1 import reset_pb2 as reset_enums
from temporalio.api.enums.v1 import update_pb2 as update_enums
from temporalio.api.update.v1 import message_pb2 as updates
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.edge.console import payloads
from durably.edge.console.folds import Run, events_from
from durably.edge.console.site import IDENTITY, Site, arguments, at, form_of, workflow_at
from durably.edge.console.timeline import line_of
from durably.edge.console.values import encoded
from durably.edge.console.workflow import run_of
from durably.errors import FailedPrecondition, InvalidArgument

Form = dict[str, str]
READ_AT_ONCE = 256
Action = Callable[[Run, Form], Awaitable[tuple[str, str]]]
"""Gives the place to go to, and what to say there."""


class WorkflowActions:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._actions: dict[str, Action] = {
            "signal": self._signal,
            "update": self._update,
            "cancel": self._cancel,
            "terminate": self._terminate,
            "delete": self._delete,
            "reset": self._reset,
            "pause": self._pause,
            "unpause": self._unpause,
            "pause-activity": self._pause_activity,
            "unpause-activity": self._unpause_activity,
            "reset-activity": self._reset_activity,
        }

    def routes(self) -> list[Route]:
        base = "/ui/{namespace:segment}/workflows/{workflow_id:segment}/{run_id:segment}"
        return [Route(base + "/actions/{action:segment}", self._act, methods=["POST"])]

    async def _act(self, request: Request) -> Response:
        action = self._actions.get(request.path_params["action"])
        if action is None:
            raise InvalidArgument(f"there is no such action: {', '.join(self._actions)}")
        place, notice = await action(run_of(request), await form_of(request))
        return self._site.done(request, place, notice)

    async def _tell(self, run: Run, rpc: str, request: Message, notice: str) -> tuple[str, str]:
        await self._site.ask(rpc, request)
        return workflow_at(run.namespace, run.workflow_id, run.run_id), notice

    async def _signal(self, run: Run, form: Form) -> tuple[str, str]:
        request = ws.SignalWorkflowExecutionRequest(
            namespace=run.namespace,
            workflow_execution=run.execution,
            signal_name=form.get("name", ""),
            input=encoded(arguments(form.get("arguments", ""))),
            identity=IDENTITY,
            request_id=str(uuid.uuid4()),
        )
        return await self._tell(run, "SignalWorkflowExecution", request, "The signal was sent.")

    async def _update(self, run: Run, form: Form) -> tuple[str, str]:
        accepted = update_enums.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED
        request = ws.UpdateWorkflowExecutionRequest(
            namespace=run.namespace, workflow_execution=run.execution
        )
        request.wait_policy.lifecycle_stage = accepted
        inner = updates.Request(
            meta=updates.Meta(update_id=str(uuid.uuid4()), identity=IDENTITY),
            input=updates.Input(
                name=form.get("name", ""), args=encoded(arguments(form.get("arguments", "")))
            ),
        )
        request.request.CopyFrom(inner)
        answer = await self._site.ask("UpdateWorkflowExecution", request)
        if answer.outcome.HasField("failure"):
            raise FailedPrecondition(f"The update failed: {line_of(answer.outcome.failure)}")
        place = workflow_at(run.namespace, run.workflow_id, run.run_id)
        if not answer.HasField("outcome"):
            return place, "The update was sent; it is not completed yet."
        results = payloads.briefs(answer.outcome.success)
        return place, f"The update answered: {results}"[:200]

    async def _cancel(self, run: Run, form: Form) -> tuple[str, str]:
        request = ws.RequestCancelWorkflowExecutionRequest(
            namespace=run.namespace,
            workflow_execution=run.execution,
            identity=IDENTITY,
            request_id=str(uuid.uuid4()),
            reason=form.get("reason", ""),
        )
        notice = "Its cancellation was requested."
        return await self._tell(run, "RequestCancelWorkflowExecution", request, notice)

    async def _terminate(self, run: Run, form: Form) -> tuple[str, str]:
        request = ws.TerminateWorkflowExecutionRequest(
            namespace=run.namespace,
            workflow_execution=run.execution,
            reason=form.get("reason", ""),
            identity=IDENTITY,
        )
        return await self._tell(run, "TerminateWorkflowExecution", request, "It was terminated.")

    async def _delete(self, run: Run, form: Form) -> tuple[str, str]:
        request = ws.DeleteWorkflowExecutionRequest(
            namespace=run.namespace, workflow_execution=run.execution
        )
        await self._site.ask("DeleteWorkflowExecution", request)
        return at(run.namespace, "workflows"), "The run was deleted."

    async def _pause(self, run: Run, form: Form) -> tuple[str, str]:
        request = ws.PauseWorkflowExecutionRequest(
            namespace=run.namespace,
            workflow_id=run.workflow_id,
            run_id=run.run_id,
            identity=IDENTITY,
            reason=form.get("reason", ""),
            request_id=str(uuid.uuid4()),
        )
        return await self._tell(run, "PauseWorkflowExecution", request, "It is paused.")

    async def _unpause(self, run: Run, form: Form) -> tuple[str, str]:
        request = ws.UnpauseWorkflowExecutionRequest(
            namespace=run.namespace,
            workflow_id=run.workflow_id,
            run_id=run.run_id,
            identity=IDENTITY,
            reason=form.get("reason", ""),
            request_id=str(uuid.uuid4()),
        )
        return await self._tell(run, "UnpauseWorkflowExecution", request, "It goes on.")

    async def _pause_activity(self, run: Run, form: Form) -> tuple[str, str]:
        request = ws.PauseActivityRequest(
            namespace=run.namespace,
            execution=run.execution,
            identity=IDENTITY,
            id=form.get("id", ""),
            reason=form.get("reason", ""),
        )
        return await self._tell(run, "PauseActivity", request, "The activity is paused.")

    async def _unpause_activity(self, run: Run, form: Form) -> tuple[str, str]:
        request = ws.UnpauseActivityRequest(
            namespace=run.namespace,
            execution=run.execution,
            identity=IDENTITY,
            id=form.get("id", ""),
        )
        return await self._tell(run, "UnpauseActivity", request, "The activity goes on.")

    async def _reset_activity(self, run: Run, form: Form) -> tuple[str, str]:
        request = ws.ResetActivityRequest(
            namespace=run.namespace,
            execution=run.execution,
            identity=IDENTITY,
            id=form.get("id", ""),
        )
        notice = "The activity begins again with its first attempt."
        return await self._tell(run, "ResetActivity", request, notice)

    # --- Reset --------------------------------------------------------------------------------

    async def _reset(self, run: Run, form: Form) -> tuple[str, str]:
        request = ws.ResetWorkflowExecutionRequest(
            namespace=run.namespace,
            workflow_execution=run.execution,
            reason=form.get("reason", ""),
            workflow_task_finish_event_id=await self._reset_point(run, form),
            request_id=str(uuid.uuid4()),
            identity=IDENTITY,
        )
        if not form.get("signals"):
            request.reset_reapply_exclude_types.append(
                reset_enums.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL
            )
        if not form.get("updates"):
            request.reset_reapply_exclude_types.append(
                reset_enums.RESET_REAPPLY_EXCLUDE_TYPE_UPDATE
            )
        answer = await self._site.ask("ResetWorkflowExecution", request)
        place = workflow_at(run.namespace, run.workflow_id, answer.run_id)
        return place, "This is the new run, from the point that was chosen."

    async def _reset_point(self, run: Run, form: Form) -> int:
        """The event id that the form names, or that of the first or last completed workflow task."""
        match form.get("target"):
            case "first":
                return await self._first_task(run)
            case "last":
                return await self._last_task(run)
        text = form.get("event_id", "")
        if not text.isdecimal() or len(text) > 12:
            raise InvalidArgument("name the event of a completed workflow task by its number")
        return int(text)

    async def _first_task(self, run: Run) -> int:
        next_id = 1
        while True:
            page = await events_from(self._site, run, next_id, READ_AT_ONCE)
            found = _completed_tasks(page.history.events)
            if found:
                return found[0]
            if not page.next_page_token:
                raise FailedPrecondition("no workflow task of this run was completed yet")
            next_id = page.history.events[-1].event_id + 1

    async def _last_task(self, run: Run) -> int:
        token = b""
        while True:
            page = await self._site.ask(
                "GetWorkflowExecutionHistoryReverse",
                ws.GetWorkflowExecutionHistoryReverseRequest(
                    namespace=run.namespace,
                    execution=run.execution,
                    maximum_page_size=READ_AT_ONCE,
                    next_page_token=token,
                ),
            )
            found = _completed_tasks(page.history.events)
            if found:
                return found[0]
            if not page.next_page_token:
                raise FailedPrecondition("no workflow task of this run was completed yet")
            token = page.next_page_token


def _completed_tasks(events: Any) -> list[int]:
    name = "workflow_task_completed_event_attributes"
    return [each.event_id for each in events if each.WhichOneof("attributes") == name]
