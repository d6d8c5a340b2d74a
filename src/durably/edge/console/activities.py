"""Standalone activities: the list with its List Filter, one activity, and what can be done to it."""

import uuid
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.edge.console import events, failures, payloads
from durably.edge.console.rows import activity_status_of, words
from durably.edge.console.site import IDENTITY, Site, at, form_of
from durably.edge.console.units import nanoseconds
from durably.edge.console.workflow_list import page_of, token_of
from durably.errors import InvalidArgument, Refusal

PAGE_SIZE = 50


class Activities:
    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> list[Route]:
        base = "/ui/{namespace:segment}/activities"
        one = base + "/{activity_id:segment}/{run_id:segment}"
        listed = self._site.page(
            "activities.html", "activities", self._load_list, ("activity_rows",)
        )
        shown = self._site.page("activity.html", "activities", self._load, ("activity",))
        return [
            Route(base, listed),
            Route(one, shown),
            Route(one + "/actions/{action:segment}", self._act, methods=["POST"]),
        ]

    async def _load_list(self, request: Request) -> dict[str, Any]:
        namespace = request.path_params["namespace"]
        query = request.query_params.get("query", "").strip()
        values = {"namespace": namespace, "query": query, "problem": "", "rows": []}
        try:
            answer = await self._site.ask(
                "ListActivityExecutions",
                ws.ListActivityExecutionsRequest(
                    namespace=namespace,
                    query=query,
                    page_size=PAGE_SIZE,
                    next_page_token=token_of(request.query_params.get("page", "")),
                ),
            )
        except Refusal as refusal:
            return values | {"problem": refusal.message, "next_page": ""}
        rows = [
            {
                "status": activity_status_of(each.status),
                "activity_id": each.activity_id,
                "run_id": each.run_id,
                "type": each.activity_type.name,
                "task_queue": each.task_queue,
                "start_ns": nanoseconds(each.schedule_time),
                "close_ns": nanoseconds(each.close_time),
            }
            for each in answer.executions
        ]
        return values | {"rows": rows, "next_page": page_of(answer.next_page_token)}

    async def _load(self, request: Request) -> dict[str, Any]:
        namespace, activity_id, run_id = _names(request)
        found = await self._site.ask(
            "DescribeActivityExecution",
            ws.DescribeActivityExecutionRequest(
                namespace=namespace,
                activity_id=activity_id,
                run_id=run_id,
                include_input=True,
                include_outcome=True,
                include_heartbeat_details=True,
                include_last_failure=True,
            ),
        )
        info = found.info
        status = activity_status_of(info.status)
        is_open = status in ("Running", "Paused")
        failed = found.outcome.HasField("failure")
        reason = found.outcome.failure if failed else info.last_failure
        return {
            "namespace": namespace,
            "activity_id": activity_id,
            "run_id": run_id,
            "info": info,
            "status": status,
            "is_open": is_open,
            "is_final": not is_open,
            "run_state": words(
                workflow_enums.PendingActivityState, info.run_state, "PENDING_ACTIVITY_STATE_"
            ),
            "input": [payloads.shown(each) for each in found.input.payloads],
            "result": [payloads.shown(each) for each in found.outcome.result.payloads],
            "heartbeat": [payloads.shown(each) for each in info.heartbeat_details.payloads],
            "failure": failures.chain(reason) if failed or info.HasField("last_failure") else [],
            "fields": events.fields_of(info),
        }

    async def _act(self, request: Request) -> Response:
        namespace, activity_id, run_id = _names(request)
        form = await form_of(request)
        named = {
            "namespace": namespace,
            "activity_id": activity_id,
            "run_id": run_id,
            "identity": IDENTITY,
            "reason": form.get("reason", ""),
            "request_id": str(uuid.uuid4()),
        }
        match request.path_params["action"]:
            case "cancel":
                asked = ws.RequestCancelActivityExecutionRequest(**named)
                await self._site.ask("RequestCancelActivityExecution", asked)
                notice = "Its cancellation was requested."
            case "terminate":
                await self._site.ask(
                    "TerminateActivityExecution", ws.TerminateActivityExecutionRequest(**named)
                )
                notice = "It was terminated."
            case _:
                raise InvalidArgument("there is no such action: cancel, terminate")
        return self._site.done(request, at(namespace, "activities", activity_id, run_id), notice)


def _names(request: Request) -> tuple[str, str, str]:
    namespace, activity_id, run_id = (
        request.path_params[n] for n in ("namespace", "activity_id", "run_id")
    )
    return namespace, activity_id, run_id
