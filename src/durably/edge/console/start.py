"""The form that starts a workflow: empty, or filled in like another run."""

import uuid
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.edge.console.folds import Run, events_from
from durably.edge.console.site import IDENTITY, Site, arguments, form_of, workflow_at
from durably.edge.console.values import encoded, written
from durably.errors import InvalidArgument, NotFound

INPUT_CHARS_MAX = 100_000


class Start:
    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> list[Route]:
        path = "/ui/{namespace:segment}/start"
        page = self._site.page("start.html", "workflows", self._load)
        return [Route(path, page), Route(path, self._start, methods=["POST"])]

    async def _load(self, request: Request) -> dict[str, Any]:
        namespace = request.path_params["namespace"]
        asked = request.query_params
        like = await self._started(namespace, asked.get("like", ""), asked.get("run", ""))
        text = written(like.input, INPUT_CHARS_MAX) if like else ""
        return {
            "namespace": namespace,
            "like": asked.get("like", ""),
            "like_run": asked.get("run", ""),
            "workflow_id": f"{asked['like']}-again" if like else str(uuid.uuid4()),
            "workflow_type": like.workflow_type.name if like else "",
            "task_queue": like.task_queue.name if like else "",
            "arguments": text or "",
            "input_is_kept": text is None,
        }

    async def _started(self, namespace: str, workflow_id: str, run_id: str) -> Any:
        """The first event of a run; None where no run is named."""
        if not workflow_id or not run_id:
            return None
        found = (await events_from(self._site, Run(namespace, workflow_id, run_id), 1, 1)).history
        if not found.events:
            raise NotFound("the run to start like is not there any more")
        return found.events[0].workflow_execution_started_event_attributes

    async def _start(self, request: Request) -> Response:
        namespace = request.path_params["namespace"]
        form = await form_of(request)
        asked = ws.StartWorkflowExecutionRequest(
            namespace=namespace,
            workflow_id=form.get("workflow_id", ""),
            identity=IDENTITY,
            request_id=str(uuid.uuid4()),
        )
        like = await self._started(namespace, form.get("like", ""), form.get("run", ""))
        if like is not None:
            _copy(like, asked)
        asked.workflow_type.name = form.get("workflow_type", "")
        asked.task_queue.name = form.get("task_queue", "")
        if form.get("keep_input") and like is not None:
            asked.input.CopyFrom(like.input)
        else:
            asked.input.CopyFrom(encoded(arguments(form.get("arguments", ""))))
        if not asked.workflow_id:
            raise InvalidArgument("a workflow needs an id")
        answer = await self._site.ask("StartWorkflowExecution", asked)
        place = workflow_at(namespace, asked.workflow_id, answer.run_id)
        return self._site.done(request, place, "The workflow has started.")


def _copy(like: Any, asked: ws.StartWorkflowExecutionRequest) -> None:
    """What the form does not ask for is as it was: timeouts, retries, memo, search attributes."""
    for name in ("workflow_execution_timeout", "workflow_run_timeout", "workflow_task_timeout"):
        if like.HasField(name):
            getattr(asked, name).CopyFrom(getattr(like, name))
    for name in ("retry_policy", "memo", "search_attributes", "header", "priority"):
        if like.HasField(name):
            getattr(asked, name).CopyFrom(getattr(like, name))
    asked.cron_schedule = like.cron_schedule
