"""What a worker says of a workflow that it has: its call stack, its queries.

Rule 1: a query is asked by a form, not by a link: it makes a worker run code.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from temporalio.api.query.v1 import message_pb2 as queries
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.edge.console import payloads
from durably.edge.console.site import Site, arguments, form_of
from durably.edge.console.values import encoded
from durably.edge.console.workflow import describe, head_of, run_of
from durably.errors import Refusal

CALL_STACK = "__stack_trace"
OFFERED = "__temporal_workflow_metadata"
ANSWER_CHARS_MAX = 200_000


class WorkflowQueries:
    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> list[Route]:
        path = "/ui/{namespace:segment}/workflows/{workflow_id:segment}/{run_id:segment}/queries"
        page = self._site.page("queries.html", "workflows", self._load)
        return [Route(path, page), Route(path, self._ask, methods=["POST"])]

    async def _load(self, request: Request) -> dict[str, Any]:
        run = run_of(request)
        head = head_of(run, await describe(self._site, run), "queries", self._site.clock())
        return head | {
            "query": CALL_STACK,
            "given": "",
            "answer": None,
            "problem": "",
            "offered": None,
            "call_stack": CALL_STACK,
            "metadata": OFFERED,
        }

    async def _ask(self, request: Request) -> Response:
        form = await form_of(request)
        values = await self._site.frame(request, "workflows") | await self._load(request)
        values |= {"query": form.get("query", ""), "given": form.get("arguments", ""), "parts": {}}
        try:
            values |= await self._answer(request, form)
        except Refusal as refusal:
            values["problem"] = payloads.visible(refusal.message)
        return HTMLResponse(self._site.render("queries.html", values))

    async def _answer(self, request: Request, form: dict[str, str]) -> dict[str, Any]:
        run = run_of(request)
        name = form.get("query", "")
        inputs = encoded(arguments(form.get("arguments", "")))
        answer = await self._site.ask(
            "QueryWorkflow",
            ws.QueryWorkflowRequest(
                namespace=run.namespace,
                execution=run.execution,
                query=queries.WorkflowQuery(query_type=name, query_args=inputs),
            ),
        )
        if answer.HasField("query_rejected"):
            return {"problem": "The query was rejected: the workflow is not open any more."}
        found = list(answer.query_result.payloads)
        if name == CALL_STACK:
            text = payloads.decoded(found[0]) if found else None
            if isinstance(text, str):
                stack = payloads.Shown("text", payloads.visible(text), len(text), "json/plain")
                return {"answer": [stack]}
        if name == OFFERED and found:
            return {"offered": _offered(payloads.decoded(found[0])), "answer": []}
        return {"answer": [payloads.shown(each, ANSWER_CHARS_MAX) for each in found]}


def _offered(metadata: Any) -> list[dict[str, str]]:
    """The queries, signals and updates that a workflow defines, as its SDK describes them."""
    definition = metadata.get("definition", {}) if isinstance(metadata, dict) else {}
    found: list[dict[str, str]] = []
    for field, kind in (
        ("queryDefinitions", "query"),
        ("signalDefinitions", "signal"),
        ("updateDefinitions", "update"),
    ):
        entries = definition.get(field, []) if isinstance(definition, dict) else []
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and str(entry.get("name", "")):
                about = payloads.visible(str(entry.get("description", "")))[:300]
                name = payloads.visible(str(entry["name"]))[:200]
                found.append({"kind": kind, "name": name, "about": about})
    return [each for each in found if not each["name"].startswith("__")]
