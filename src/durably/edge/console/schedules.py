"""Schedules: the list, one schedule with what it did and will do, and what can be done to it."""

import uuid
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.api.enums.v1 import schedule_pb2 as schedule_enums
from temporalio.api.schedule.v1 import message_pb2 as schedules
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.edge.console import events, payloads
from durably.edge.console.rows import status_of, words
from durably.edge.console.site import IDENTITY, Site, at, form_of
from durably.edge.console.units import duration_text, nanoseconds
from durably.edge.console.workflow_list import page_of, token_of
from durably.errors import InvalidArgument

PAGE_SIZE = 50


class Schedules:
    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> list[Route]:
        base = "/ui/{namespace:segment}/schedules"
        one = base + "/{schedule_id:segment}"
        listed = self._site.page("schedules.html", "schedules", self._load_list, ("schedule_rows",))
        shown = self._site.page("schedule.html", "schedules", self._load, ("schedule",))
        return [
            Route(base, listed),
            Route(one, shown),
            Route(one + "/actions/{action:segment}", self._act, methods=["POST"]),
        ]

    async def _load_list(self, request: Request) -> dict[str, Any]:
        namespace = request.path_params["namespace"]
        answer = await self._site.ask(
            "ListSchedules",
            ws.ListSchedulesRequest(
                namespace=namespace,
                maximum_page_size=PAGE_SIZE,
                next_page_token=token_of(request.query_params.get("page", "")),
            ),
        )
        return {
            "namespace": namespace,
            "rows": [_row(each) for each in answer.schedules],
            "next_page": page_of(answer.next_page_token),
        }

    async def _load(self, request: Request) -> dict[str, Any]:
        namespace, schedule_id = (request.path_params[n] for n in ("namespace", "schedule_id"))
        found = await self._site.ask(
            "DescribeSchedule",
            ws.DescribeScheduleRequest(namespace=namespace, schedule_id=schedule_id),
        )
        action = found.schedule.action.start_workflow
        policy = found.schedule.policies.overlap_policy
        return {
            "namespace": namespace,
            "schedule_id": schedule_id,
            "paused": found.schedule.state.paused,
            "notes": found.schedule.state.notes,
            "remaining": found.schedule.state.remaining_actions
            if found.schedule.state.limited_actions
            else None,
            "times": spec_lines(found.schedule.spec),
            "overlap": words(
                schedule_enums.ScheduleOverlapPolicy, policy, "SCHEDULE_OVERLAP_POLICY_"
            ),
            "action": action,
            "input": [payloads.shown(each) for each in action.input.payloads],
            "info": found.info,
            "recent": [_result(each) for each in reversed(found.info.recent_actions)],
            "coming": [nanoseconds(each) for each in found.info.future_action_times],
            "running": list(found.info.running_workflows),
            "fields": events.fields_of(found.schedule),
        }

    async def _act(self, request: Request) -> Response:
        namespace, schedule_id = (request.path_params[n] for n in ("namespace", "schedule_id"))
        form = await form_of(request)
        patch = schedules.SchedulePatch()
        match request.path_params["action"]:
            case "pause":
                patch.pause = form.get("reason", "") or "paused from the console"
                notice = "The schedule is paused."
            case "unpause":
                patch.unpause = form.get("reason", "") or "goes on from the console"
                notice = "The schedule goes on."
            case "trigger":
                patch.trigger_immediately.overlap_policy = (
                    schedule_enums.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL
                )
                notice = "Its workflow is started now."
            case "delete":
                await self._site.ask(
                    "DeleteSchedule",
                    ws.DeleteScheduleRequest(
                        namespace=namespace, schedule_id=schedule_id, identity=IDENTITY
                    ),
                )
                return self._site.done(
                    request, at(namespace, "schedules"), "The schedule was deleted."
                )
            case _:
                raise InvalidArgument("there is no such action: pause, unpause, trigger, delete")
        await self._site.ask(
            "PatchSchedule",
            ws.PatchScheduleRequest(
                namespace=namespace,
                schedule_id=schedule_id,
                patch=patch,
                identity=IDENTITY,
                request_id=str(uuid.uuid4()),
            ),
        )
        return self._site.done(request, at(namespace, "schedules", schedule_id), notice)


def _row(entry: schedules.ScheduleListEntry) -> dict[str, Any]:
    info = entry.info
    coming = [nanoseconds(each) for each in info.future_action_times]
    recent = [_result(each) for each in info.recent_actions]
    return {
        "id": entry.schedule_id,
        "type": info.workflow_type.name,
        "paused": info.paused,
        "notes": info.notes,
        "times": spec_lines(info.spec),
        "next_ns": coming[0] if coming else 0,
        "last": recent[-1] if recent else None,
    }


def _result(result: schedules.ScheduleActionResult) -> dict[str, Any]:
    return {
        "planned_ns": nanoseconds(result.schedule_time),
        "actual_ns": nanoseconds(result.actual_time),
        "workflow_id": result.start_workflow_result.workflow_id,
        "run_id": result.start_workflow_result.run_id,
        "status": status_of(result.start_workflow_status),
    }


def spec_lines(spec: schedules.ScheduleSpec) -> list[str]:
    """When a schedule acts, in words: a line for each part of its spec."""
    found: list[str] = []
    for each in spec.interval:
        line = f"every {duration_text(nanoseconds(each.interval))}"
        if each.HasField("phase") and nanoseconds(each.phase):
            line += f", offset {duration_text(nanoseconds(each.phase))}"
        found.append(line)
    for calendar in spec.structured_calendar:
        if calendar.comment:
            found.append(payloads.visible(calendar.comment))
        else:
            found.append(_calendar_line(calendar))
    found += [f"cron {payloads.visible(each)}" for each in spec.cron_string]
    if spec.timezone_name:
        found.append(f"in {payloads.visible(spec.timezone_name)}")
    return found


def _calendar_line(calendar: schedules.StructuredCalendarSpec) -> str:
    parts = []
    for name in ("second", "minute", "hour", "day_of_month", "month", "year", "day_of_week"):
        ranges = [_range(each) for each in getattr(calendar, name)]
        parts.append(f"{name.replace('_', ' ')} {','.join(ranges) or '*'}")
    return "; ".join(parts)


def _range(found: schedules.Range) -> str:
    text = f"{found.start}" if found.end <= found.start else f"{found.start}-{found.end}"
    return f"{text}/{found.step}" if found.step > 1 else text
