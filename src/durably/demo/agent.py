"""The research agent and the workflow around it; plain Pydantic AI, nothing of this server.

Every call of the model and every tool is an activity: recorded when it is done, and not done again.
`publish_report` needs the approval of a person, for which the workflow waits without costing anything.
"""

import json
import os
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel
from pydantic_ai import Agent, DeferredToolRequests, DeferredToolResults, RunContext, ToolDenied
from pydantic_ai.durable_exec.temporal import PydanticAIWorkflow, TemporalDurability
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.workflow import ActivityConfig

from durably.demo import corpus

TASK_QUEUE = "research"
# A dead worker is noticed by its silence, so that a slow model may take its time.
STEP = ActivityConfig(
    start_to_close_timeout=timedelta(minutes=5),
    heartbeat_timeout=timedelta(seconds=10),
    retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_attempts=20),
)
MODEL_CALLS_MAX = 16


class Desk(BaseModel):
    """Where the agent works: the folder it reads, and the folder it writes to."""

    documents: str
    folder: str

    @property
    def index(self) -> Path:
        return Path(self.folder) / "index.db"

    @property
    def findings(self) -> Path:
        return Path(self.folder) / "findings.json"

    @property
    def last_search(self) -> Path:
        return Path(self.folder) / "search.json"

    @property
    def report(self) -> Path:
        return Path(self.folder) / "report.md"


def model() -> OpenAIChatModel:
    """Any OpenAI-compatible endpoint, as OPENAI_BASE_URL and OPENAI_API_KEY name it."""
    provider = OpenAIProvider(
        base_url=os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1",
        api_key=os.environ.get("OPENAI_API_KEY") or "none",
    )
    return OpenAIChatModel(os.environ.get("OPENAI_MODEL", "gpt-4.1-mini"), provider=provider)


researcher = Agent(
    model(),
    name="researcher",
    deps_type=Desk,
    output_type=[str, DeferredToolRequests],
    instructions=(
        "You answer a question from a folder of documents. List them, search them, note the passages"
        " that answer the question, then publish a report of what you noted."
    ),
    capabilities=[TemporalDurability(activity_config=STEP, model_activity_config=STEP)],
)


@researcher.tool
def list_documents(ctx: RunContext[Desk]) -> str:
    """List the documents."""
    found = corpus.documents(Path(ctx.deps.documents))
    return f"{len(found)} documents, among them " + ", ".join(path.name for path in found[:5])


@researcher.tool
def search(ctx: RunContext[Desk], query: str) -> str:
    """Search the full text of all documents for some words; gives numbered passages."""
    found = corpus.search(ctx.deps.index, query)
    ctx.deps.last_search.write_text(json.dumps([[p.path, p.line, p.text] for p in found]))
    shown = (f"[{n}] {p.place} {p.text[:60]}" for n, p in enumerate(found, start=1))
    return " ".join(shown).replace("\n", " ") or "nothing found"


def _passage(desk: Desk, number: int) -> corpus.Passage | None:
    """A passage of the last search."""
    rows = json.loads(desk.last_search.read_text()) if desk.last_search.exists() else []
    return corpus.Passage(*rows[min(number, len(rows)) - 1]) if rows and number > 0 else None


@researcher.tool
def read_section(ctx: RunContext[Desk], passage: int) -> str:
    """Read a passage of the last search, by its number."""
    found = _passage(ctx.deps, passage)
    return found.text if found else "there is no such passage; search first"


@researcher.tool
def note_finding(ctx: RunContext[Desk], passage: int) -> str:
    """Note a passage of the last search, by its number, for the report."""
    found = _passage(ctx.deps, passage)
    if found is None:
        return "there is no such passage; search first"
    path = ctx.deps.findings
    noted = json.loads(path.read_text()) if path.exists() else []
    if [found.path, found.line, found.text] not in noted:
        noted.append([found.path, found.line, found.text])
        path.write_text(json.dumps(noted))
    return f"noted {found.place}"


@researcher.tool(requires_approval=True)
def publish_report(ctx: RunContext[Desk], title: str) -> str:
    """Write the report: every finding as a quotation with its file and line."""
    path = ctx.deps.findings
    noted = json.loads(path.read_text()) if path.exists() else []
    lines = [f"# {title}", ""]
    for file, line, text in noted:
        lines += [*(f"> {row}" for row in text.splitlines()), "", f"— {file}:{line}", ""]
    ctx.deps.report.write_text("\n".join(lines))
    return f"published with {len(noted)} quotations"


@workflow.defn
class Research(PydanticAIWorkflow):
    """One question: research, a person's approval, the report."""

    __pydantic_ai_agents__ = (researcher,)

    def __init__(self) -> None:
        self._approval: bool | None = None
        self._waiting = ""

    @workflow.signal
    def approve(self, granted: bool) -> None:
        self._approval = granted

    @workflow.query
    def waiting_for(self) -> str:
        """What a person is asked to approve; empty: nothing."""
        return self._waiting

    @workflow.run
    async def run(self, question: str, desk: Desk) -> str:
        limits = UsageLimits(request_limit=MODEL_CALLS_MAX)
        result = await researcher.run(question, deps=desk, usage_limits=limits)
        while isinstance(result.output, DeferredToolRequests):
            answers = DeferredToolResults()
            for call in result.output.approvals:
                self._waiting = f"{call.tool_name} {call.args}"
                await workflow.wait_condition(lambda: self._approval is not None)
                denied = ToolDenied("the person said no")
                answers.approvals[call.tool_call_id] = True if self._approval else denied
            self._waiting = ""
            result = await researcher.run(
                message_history=result.all_messages(),
                deferred_tool_results=answers,
                deps=desk,
                usage_limits=limits,
            )
        return str(result.output)
