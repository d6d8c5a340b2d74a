"""One workflow: its summary, input and result, timeline, what is pending; and its relations."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.edge.console import drawing, failures, payloads
from durably.edge.console.folds import Folds, Run, events_from, events_max_of
from durably.edge.console.paging import page_start
from durably.edge.console.rows import status_of, words, workflow_row
from durably.edge.console.site import REFRESH_S, Site, workflow_at
from durably.edge.console.timeline import Kind, Timeline, under_way
from durably.edge.console.units import SECOND_NS, nanoseconds
from durably.errors import NotFound
from durably.service import tokens

ROWS_PER_PAGE = 100
PENDING_SHOWN_MAX = 50
RELATED_SHOWN_MAX = 50
WORKER_EXPECTED_NS = 3 * SECOND_NS
CHANGES_APART_S = 0.25
PLURALS = {
    Kind.ACTIVITY: "activities",
    Kind.LOCAL_ACTIVITY: "local activities",
    Kind.EXTERNAL: "to other workflows",
}
OPEN_STATUSES = ("Running", "Paused")


class Workflow:
    def __init__(self, site: Site, timelines: Folds[Timeline]) -> None:
        self._site = site
        self._timelines = timelines

    def routes(self) -> list[Route]:
        base = "/ui/{namespace:segment}/workflows/{workflow_id:segment}"
        overview = self._site.page(
            "workflow.html",
            "workflows",
            self._load,
            ("workflow_head", "workflow_data", "timeline", "pending"),
            self._wait,
        )
        relations = self._site.page("relations.html", "workflows", self._load_relations)
        return [
            Route(base, self._newest_run),
            Route(base + "/{run_id:segment}", overview),
            Route(base + "/{run_id:segment}/relations", relations),
        ]

    async def _newest_run(self, request: Request) -> Response:
        namespace, workflow_id = (request.path_params[n] for n in ("namespace", "workflow_id"))
        info = (await describe(self._site, Run(namespace, workflow_id, ""))).workflow_execution_info
        place = workflow_at(namespace, workflow_id, info.execution.run_id)
        return RedirectResponse(place, 303)

    async def _load(self, request: Request) -> dict[str, Any]:
        run = run_of(request)
        description = await describe(self._site, run)
        timeline, complete = await self._timelines.read(run, events_max_of(request))
        head = head_of(run, description, "overview", self._site.clock())
        data = await self._data(run, head["is_open"])
        first_row = request.query_params.get("from", "")
        return (
            head
            | data
            | self._picture(timeline, description, first_row, head["is_open"])
            | {
                "pending": [pending_activity(a) for a in _some(description.pending_activities)],
                "pending_count": len(description.pending_activities),
                "pending_nexus": list(_some(description.pending_nexus_operations)),
                "callbacks": list(description.callbacks),
                "callback_state": lambda n: words(common_enums.CallbackState, n, "CALLBACK_STATE_"),
                "nexus_state": lambda n: words(
                    common_enums.PendingNexusOperationState,
                    n,
                    "PENDING_NEXUS_OPERATION_STATE_",
                ),
                "waits_since_ns": _waits_since(timeline, description) if complete else 0,
                "identities": sorted(timeline.identities.items(), key=lambda each: -each[1]),
                "events_read": timeline.next_event_id - 1,
                "complete": complete,
                "next_event_id": timeline.next_event_id,
                "is_final": complete and not head["is_open"],
            }
        )

    async def _data(self, run: Run, is_open: bool) -> dict[str, Any]:
        """What went in, and what came out."""
        first = (await events_from(self._site, run, 1, 1)).history.events
        started = first[0].workflow_execution_started_event_attributes if first else None
        values: dict[str, Any] = {
            "input": [payloads.shown(p) for p in started.input.payloads] if started else [],
            "started": started,
            "close": None,
        }
        if not is_open:
            answer = await self._site.ask(
                "GetWorkflowExecutionHistory",
                ws.GetWorkflowExecutionHistoryRequest(
                    namespace=run.namespace,
                    execution=run.execution,
                    history_event_filter_type=workflow_enums.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT,
                ),
            )
            values["close"] = close_of(answer.history.events[-1]) if answer.history.events else None
        return values

    def _picture(
        self,
        timeline: Timeline,
        description: ws.DescribeWorkflowExecutionResponse,
        asked: str,
        is_open: bool,
    ) -> dict[str, Any]:
        """A page of the timeline's rows: the one that is asked for, else the last of a run that goes on."""
        count = len(timeline.spans)
        first = page_start(asked, count, ROWS_PER_PAGE, at_end=is_open)
        shown = timeline.spans[first : first + ROWS_PER_PAGE]
        shown = under_way(shown, description.pending_activities)
        now_ns = self._site.clock() if is_open else timeline.end_ns or timeline.last_ns
        return {
            "picture": drawing.draw(shown, timeline.begin_ns, now_ns),
            "look_of": drawing.look_of,
            "row_first": first,
            "row_count": count,
            "rows_per_page": ROWS_PER_PAGE,
            "kinds": [_counted(kind, count) for kind, count in timeline.counts().items()],
        }

    async def _wait(self, request: Request, values: dict[str, Any]) -> None:
        if not values["complete"]:
            return
        await until_changed(self._site, run_of(request), values["next_event_id"])

    # --- Relations ----------------------------------------------------------------------------

    async def _load_relations(self, request: Request) -> dict[str, Any]:
        run = run_of(request)
        description = await describe(self._site, run)
        info = description.workflow_execution_info
        first = (await events_from(self._site, run, 1, 1)).history.events
        started = first[0].workflow_execution_started_event_attributes
        escaped = run.workflow_id.replace("\\", "\\\\").replace("'", "\\'")
        chain, children = await asyncio.gather(
            self._listed(run.namespace, f"WorkflowId = '{escaped}'"),
            self._listed(
                run.namespace, f"ParentWorkflowId = '{escaped}' AND ParentRunId = '{run.run_id}'"
            ),
        )
        parent = info.parent_execution if info.HasField("parent_execution") else None
        root = info.root_execution
        return head_of(run, description, "relations", self._site.clock()) | {
            "parent": parent,
            "root": root if root.run_id not in ("", run.run_id) else None,
            "continued_from": started.continued_execution_run_id,
            "first_run": started.first_execution_run_id,
            "original_run": started.original_execution_run_id,
            "reset_run": description.workflow_extended_info.reset_run_id,
            "chain": chain,
            "children": children,
            "pending_children": list(_some(description.pending_children)),
        }

    async def _listed(self, namespace: str, query: str) -> list[dict[str, Any]]:
        answer = await self._site.ask(
            "ListWorkflowExecutions",
            ws.ListWorkflowExecutionsRequest(
                namespace=namespace, query=query, page_size=RELATED_SHOWN_MAX
            ),
        )
        return [workflow_row(each) for each in answer.executions]


# --- What all pages of a workflow share -------------------------------------------------------


def run_of(request: Request) -> Run:
    return Run(*(request.path_params[n] for n in ("namespace", "workflow_id", "run_id")))


async def until_changed(site: Site, run: Run, next_event_id: int) -> None:
    """Until the run has an event that is new, or something may have changed that is not in its history."""
    token = tokens.encode(tokens.HistoryPageToken(run.run_id, next_event_id))
    await asyncio.sleep(CHANGES_APART_S)
    try:
        async with asyncio.timeout(REFRESH_S):
            await site.ask(
                "GetWorkflowExecutionHistory",
                ws.GetWorkflowExecutionHistoryRequest(
                    namespace=run.namespace,
                    execution=run.execution,
                    wait_new_event=True,
                    maximum_page_size=1,
                    next_page_token=token,
                ),
            )
    except TimeoutError:
        pass


async def describe(site: Site, run: Run) -> ws.DescribeWorkflowExecutionResponse:
    try:
        found: ws.DescribeWorkflowExecutionResponse = await site.ask(
            "DescribeWorkflowExecution",
            ws.DescribeWorkflowExecutionRequest(namespace=run.namespace, execution=run.execution),
        )
    except NotFound as error:
        raise NotFound(
            f"There is no workflow {payloads.visible(run.workflow_id)!r} with this run. Closed ones"
            " are removed when the retention of their namespace is over."
        ) from error
    return found


def head_of(
    run: Run, description: ws.DescribeWorkflowExecutionResponse, tab: str, now_ns: int
) -> dict[str, Any]:
    """What the head of every page of a workflow shows."""
    info = description.workflow_execution_info
    extended = description.workflow_extended_info
    status = status_of(info.status)
    row = workflow_row(info)
    config = description.execution_config
    return {
        "run": run,
        "namespace": run.namespace,
        "info": info,
        "row": row,
        "status": status,
        "is_open": status in OPEN_STATUSES,
        "tab": tab,
        "cancel_requested": extended.cancel_requested,
        "pause": extended.pause_info if extended.HasField("pause_info") else None,
        "reset_run_id": extended.reset_run_id,
        "config": config,
        "memo": {name: payloads.shown(p) for name, p in sorted(info.memo.fields.items())},
        "summary": payloads.plain(config.user_metadata.summary)
        if config.user_metadata.HasField("summary")
        else None,
        "details": payloads.shown(config.user_metadata.details)
        if config.user_metadata.HasField("details")
        else None,
        "task_problem": _task_problem(description, now_ns),
    }


def _waits_since(timeline: Timeline, description: ws.DescribeWorkflowExecutionResponse) -> int:
    """Since when nothing is under way in an open run, so that only a message can wake it; 0: it is not so."""
    if timeline.end_ns or description.HasField("pending_workflow_task"):
        return 0
    return 0 if timeline.has_open else timeline.last_ns


def _task_problem(description: ws.DescribeWorkflowExecutionResponse, now_ns: int) -> str:
    """Why a run does not go on: its workflow task fails again and again, or no worker takes it."""
    if not description.HasField("pending_workflow_task"):
        return ""
    task = description.pending_workflow_task
    if task.attempt > 1:
        return f"Its workflow task fails: attempt {task.attempt}. It goes on when its worker is mended."
    waits = task.state == workflow_enums.PENDING_WORKFLOW_TASK_STATE_SCHEDULED
    if waits and now_ns - nanoseconds(task.scheduled_time) > WORKER_EXPECTED_NS:
        return "No worker has taken its workflow task yet: is there one for its task queue?"
    return ""


def close_of(event: history.HistoryEvent) -> dict[str, Any] | None:
    """How a run ended: its result, its failure, or what follows it."""
    kind = event.WhichOneof("attributes") or ""
    attributes: Any = getattr(event, kind) if kind else None
    name = kind.removeprefix("workflow_execution_").removesuffix("_event_attributes")
    result: list[common.Payload] = []
    match name:
        case "completed":
            result = list(attributes.result.payloads)
        case "canceled" | "terminated":
            result = list(attributes.details.payloads)
        case "continued_as_new":
            result = list(attributes.input.payloads)
        case "failed" | "timed_out":
            pass
        case _:
            return None
    return {
        "name": name,
        "result": [payloads.shown(each) for each in result],
        "failure": failures.chain(attributes.failure) if name == "failed" else [],
        "reason": payloads.visible(getattr(attributes, "reason", ""))[:2000],
        "identity": getattr(attributes, "identity", ""),
        "next_run": getattr(attributes, "new_execution_run_id", ""),
        "event_id": event.event_id,
    }


def pending_activity(a: workflow_messages.PendingActivityInfo) -> dict[str, Any]:
    return {
        "id": a.activity_id,
        "type": a.activity_type.name,
        "state": words(workflow_enums.PendingActivityState, a.state, "PENDING_ACTIVITY_STATE_"),
        "attempt": a.attempt,
        "attempts_max": a.maximum_attempts,
        "started_ns": nanoseconds(a.last_started_time),
        "next_ns": nanoseconds(a.next_attempt_schedule_time),
        "heartbeat_ns": nanoseconds(a.last_heartbeat_time),
        "heartbeat": [payloads.shown(p, 2_000) for p in a.heartbeat_details.payloads],
        "failure": failures.chain(a.last_failure) if a.HasField("last_failure") else [],
        "worker": a.last_worker_identity,
        "task_queue": a.activity_options.task_queue.name,
        "paused": a.paused,
    }


def _counted(kind: Kind, count: int) -> str:
    plural = kind.value if count == 1 else PLURALS.get(kind, f"{kind.value}s")
    return f"{count:,} {plural}"


def _some(found: Any) -> Any:
    return found[:PENDING_SHOWN_MAX]
