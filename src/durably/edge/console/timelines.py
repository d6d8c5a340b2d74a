"""The timelines of runs that somebody looks at, kept as far as they were read.

Rule 1: a page waits for a bounded number of events; a live page asks again, and goes on where it was.
Rule 2: the least recently looked at is forgotten.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.edge.console.site import Site
from durably.edge.console.timeline import Timeline
from durably.service import tokens

TIMELINES_MAX = 32
EVENTS_PER_READ = 500
EVENTS_PER_PAGE_MAX = 1_000
EVENTS_PER_REFRESH_MAX = 4_000


@dataclass(frozen=True, slots=True)
class Run:
    """A run as the address of a page names it."""

    namespace: str
    workflow_id: str
    run_id: str

    @property
    def execution(self) -> common.WorkflowExecution:
        return common.WorkflowExecution(workflow_id=self.workflow_id, run_id=self.run_id)


@dataclass(slots=True)
class _Kept:
    timeline: Timeline = field(default_factory=Timeline)
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)


class Timelines:
    """Reads histories into timelines."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._kept: OrderedDict[Run, _Kept] = OrderedDict()

    async def read(self, run: Run, events_max: int = EVENTS_PER_PAGE_MAX) -> tuple[Timeline, bool]:
        """The timeline of a run, up to so many events further than before; and whether that is all."""
        kept = self._kept.setdefault(run, _Kept())
        self._kept.move_to_end(run)
        while len(self._kept) > TIMELINES_MAX:
            self._kept.popitem(last=False)
        timeline = kept.timeline
        async with kept.reading:
            last = timeline.next_event_id + events_max
            while timeline.next_event_id < last:
                page = await events_from(self._site, run, timeline.next_event_id, EVENTS_PER_READ)
                timeline.add(page.history.events)
                if not page.next_page_token:
                    return timeline, True
                await asyncio.sleep(0)  # Others have their turn between pages.
        return timeline, False


async def events_from(site: Site, run: Run, event_id: int, count: int) -> Any:
    """A page of history that begins with an event."""
    token = tokens.encode(tokens.HistoryPageToken(run.run_id, event_id))
    return await site.ask(
        "GetWorkflowExecutionHistory",
        ws.GetWorkflowExecutionHistoryRequest(
            namespace=run.namespace,
            execution=run.execution,
            maximum_page_size=count,
            next_page_token=token,
        ),
    )
