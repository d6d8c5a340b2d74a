"""Exports the spans of runs: of what has ended in open ones, and the rest when they have closed.

Rule 1: how far the export has come is kept in the store, for each namespace and for each open run that is
        followed (`open_traces`): a span is sent again - the same, with the same id - only if the server
        died between the receiver's answer and the note of it.
Rule 2: nothing waits for the export. While the receiver is away, it is tried again; nothing is skipped.
Rule 3: a run whose journal cannot be made into spans is reported in the log, and passed over.
"""

import asyncio
import logging
from collections import OrderedDict

import msgspec
from temporalio.api.history.v1 import message_pb2 as history

from durably.background.open_traces import Followed, OpenTraces, Reading
from durably.engine.state import OPEN, Kind
from durably.errors import WrittenByNewer
from durably.service.namespaces import Namespace, Namespaces
from durably.service.transact import Executions
from durably.store.store import ClosedRun, Cursor, JournalRow
from durably.traces.otlp import Exporter
from durably.traces.spans import Parent, RunSpans, Span, caller, span_id, trace_id

logger = logging.getLogger(__name__)

KINDS = (Kind.WORKFLOW, Kind.ACTIVITY)
PAGE_RUNS = 100
JOURNAL_BYTES = 4 * 1024 * 1024
SETTLING_NS = 2_000_000_000
"""A run that closed so recently may still be overtaken by one that closed before it."""
RETRY_MAX_S = 60.0
PARENTS_REMEMBERED_MAX = 10_000
PARENTS_DEPTH_MAX = 50
SINCE = "traces/since"
"""When traces were first asked for: what closed before is not exported."""

_cursors = msgspec.msgpack.Decoder(tuple[int, int, int])


class TraceExport:
    """Follows the runs as they close."""

    def __init__(self, executions: Executions, namespaces: Namespaces, exporter: Exporter) -> None:
        self._executions = executions
        self._store = executions.store
        self._namespaces = namespaces
        self._exporter = exporter
        self._content = executions.config.traces_content
        self._parents: OrderedDict[tuple[str, str], Parent] = OrderedDict()
        self._open = OpenTraces(executions.store)
        executions.open_changes = {}

    async def run(self) -> None:
        """Export until cancelled."""
        interval_s = self._executions.config.traces_interval_s
        since: Cursor | None = None
        wait_s = interval_s
        try:
            while True:
                try:
                    since = since or await self._since()
                    taken = await self._export_all(since)
                    wait_s = interval_s if taken else min(2 * wait_s, RETRY_MAX_S)
                except Exception:
                    logger.exception("the export of traces will be tried again")
                    wait_s = min(2 * wait_s, RETRY_MAX_S)
                await asyncio.sleep(wait_s)
        finally:
            self._exporter.close()

    async def _export_all(self, since: Cursor) -> bool:
        """Of the servers that share the store, one does it; if that dies, another."""
        nodes = self._executions.nodes
        changed, self._executions.open_changes = self._executions.open_changes or {}, {}
        if nodes is not None and not nodes.first():
            self._open.forget()
            return True
        await self._open.load()
        before_ns = self._executions.clock() - SETTLING_NS
        if await self._export_closed(since, before_ns) and await self._export_open(
            changed, before_ns
        ):
            return True
        # What it was that changed is asked for again.
        self._executions.open_changes = changed | (self._executions.open_changes or {})
        return False

    async def _since(self) -> Cursor:
        """Where a namespace begins that has none of its runs exported yet."""
        found = await self._store.metadata(SINCE)
        if found is None:
            found = str(self._executions.clock()).encode()
            await self._store.put_metadata(SINCE, found)
        return (int(found), 0, 0)

    async def _export_closed(self, since: Cursor, before_ns: int) -> bool:
        """All that has closed since the last time; False if the receiver does not take it."""
        for namespace in self._namespaces.all():
            for kind in KINDS:
                if not await self._export_kind(namespace, kind, since, before_ns):
                    return False
        return True

    async def _export_kind(
        self, namespace: Namespace, kind: Kind, since: Cursor, before_ns: int
    ) -> bool:
        key = f"traces/exported/{namespace.namespace_id}/{int(kind)}"
        noted = await self._store.metadata(key)
        cursor = _cursors.decode(noted) if noted else since
        while True:
            runs = await self._store.closed_runs(
                kind, namespace.namespace_id, cursor, before_ns, PAGE_RUNS
            )
            for run in runs:
                if not await self._export(namespace, kind, run):
                    return False
                cursor = run.cursor
                await self._store.put_metadata(key, msgspec.msgpack.encode(cursor))
                await self._open.drop(run.execution_id)
            if len(runs) < PAGE_RUNS:
                return True

    async def _export(self, namespace: Namespace, kind: Kind, run: ClosedRun) -> bool:
        fields = {
            "namespace": namespace.name,
            "workflow_id": run.workflow_id,
            "run_id": run.run_id,
        }
        try:
            parent, spans = await self._spans(namespace, kind, run)
        except WrittenByNewer:
            raise  # Its spans are not lost: they wait for a server that can read them.
        except Exception:
            logger.exception("a run has no spans: passed over", extra={"fields": fields})
            return True
        if not parent.sampled or not spans:
            return True
        taken = await asyncio.to_thread(self._exporter.export, parent, spans)
        if not taken:
            logger.warning(
                "the receiver of traces takes nothing: tried again", extra={"fields": fields}
            )
        return taken

    async def _spans(
        self, namespace: Namespace, kind: Kind, run: ClosedRun
    ) -> tuple[Parent, list[Span]]:
        """All spans of a run, read from its journal page by page; a long one is made in a thread."""
        followed = Followed(run.execution_id, namespace.namespace_id, run.workflow_id, run.run_id)
        followed.sent_version = self._open.sent_version(run.execution_id)
        reading, spans = await self._read_on(namespace, kind, followed, None)
        if reading is None:
            return Parent(0), []  # Deleted meanwhile.
        if not reading.parent.sampled:
            return reading.parent, []
        rest = await asyncio.to_thread(reading.spans.finished, reading.parent, run.cursor[0])
        return reading.parent, [*rest, *spans]

    async def _read_on(
        self, namespace: Namespace, kind: Kind, run: Followed, reading: Reading | None
    ) -> tuple[Reading | None, list[Span]]:
        """The journal from where it was read up to, and the spans that ended in rows that were not sent."""
        found: list[Span] = []
        version = reading.version if reading else 0
        while rows := await self._store.read_journal(run.execution_id, version, JOURNAL_BYTES):
            if reading is None:
                reading = await self._begin(namespace, kind, run, rows[0])
            if not reading.parent.sampled:
                break
            found += await asyncio.to_thread(reading.take, rows, run.sent_version)
            version = rows[-1].version
        return reading, found

    async def _begin(
        self, namespace: Namespace, kind: Kind, run: Followed, row: JournalRow
    ) -> Reading:
        standalone = kind is Kind.ACTIVITY
        first = history.History.FromString(row.events).events[0]
        if standalone:
            header = first.activity_task_scheduled_event_attributes.header
            own = trace_id(namespace.namespace_id, run.workflow_id, run.run_id)
            parent = caller(header) or Parent(own)
        else:
            parent = await self._parent(namespace.namespace_id, run.run_id, first)
        content = self._content
        spans = RunSpans(run.run_id, namespace.name, content=content, standalone=standalone)
        return Reading(parent, spans)

    # --- Runs that are open -------------------------------------------------------------------

    async def _export_open(self, changed: dict[int, tuple[str, str, str]], before_ns: int) -> bool:
        """What has ended in runs that go on; False if the receiver does not take it. What closed before
        `before_ns` has been exported."""
        for run in self._open.to_look_at(changed):
            namespace = self._namespaces.find(run.namespace_id)
            row = await self._store.find_run(
                Kind.WORKFLOW, run.namespace_id, run.workflow_id, run.run_id
            )
            if namespace is None or row is None:
                await self._open.drop(run.execution_id)
            elif row.status not in OPEN:
                await self._open.drop_if_closed_before(run, before_ns, self._executions.clock())
            elif self._open.may_follow(run) and not await self._export_ended(namespace, run):
                return False
        return True

    async def _export_ended(self, namespace: Namespace, run: Followed) -> bool:
        reading = self._open.reading(run.execution_id)
        try:
            reading, spans = await self._read_on(namespace, Kind.WORKFLOW, run, reading)
        except Exception:
            logger.exception("an open run has no spans: passed over", extra={"fields": _names(run)})
            self._open.read_again(run.execution_id)
            return True
        if reading is None:
            return True
        self._open.keep(run.execution_id, reading)
        if not spans:
            return True
        if not await asyncio.to_thread(self._exporter.export, reading.parent, spans):
            self._open.read_again(run.execution_id)
            return False
        await self._open.sent(run, reading.version)
        return True

    # --- Where a run hangs --------------------------------------------------------------------

    async def _parent(
        self, namespace_id: str, run_id: str, event: history.HistoryEvent, depth: int = 0
    ) -> Parent:
        """From the first event: in the caller's trace, in that of the parent workflow, or in its own."""
        known = self._parents.get((namespace_id, run_id))
        if known is not None:
            return known
        started = event.workflow_execution_started_event_attributes
        found = caller(started.header)
        above = started.parent_workflow_execution
        if found is None and above.run_id:
            of_parent = None
            if depth < PARENTS_DEPTH_MAX and started.parent_workflow_namespace_id in (
                "",
                namespace_id,
            ):
                of_parent = await self._parent_of(
                    namespace_id, above.workflow_id, above.run_id, depth
                )
            if of_parent is None:
                of_parent = Parent(trace_id(namespace_id, above.workflow_id, above.run_id))
            hangs_at = span_id(above.run_id, started.parent_initiated_event_id)
            found = Parent(of_parent.trace_id, hangs_at, of_parent.sampled)
        if found is None:
            first = started.first_execution_run_id or run_id
            found = Parent(trace_id(namespace_id, started.workflow_id, first))
        self._parents[(namespace_id, run_id)] = found
        if len(self._parents) > PARENTS_REMEMBERED_MAX:
            self._parents.popitem(last=False)
        return found

    async def _parent_of(
        self, namespace_id: str, workflow_id: str, run_id: str, depth: int
    ) -> Parent | None:
        """Where the run of a parent hangs; None if it is gone."""
        row = await self._store.find_run(Kind.WORKFLOW, namespace_id, workflow_id, run_id)
        if row is None:
            return None
        rows = await self._store.read_events(row.execution_id, 1, 1)
        events = history.History.FromString(rows[0].events).events if rows else []
        if not events:
            return None
        return await self._parent(namespace_id, run_id, events[0], depth + 1)


def _names(run: Followed) -> dict[str, str]:
    return {"workflow_id": run.workflow_id, "run_id": run.run_id}
