"""Histories of runs that somebody looks at, read into timelines and the like, kept as far as they were read.

Rule 1: a page waits for a bounded number of events; a live page asks again, and goes on where it was.
Rule 2: what is kept is bounded: the least recently looked at is forgotten.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from starlette.requests import Request
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.edge.console.site import Site
from durably.service import tokens

KEPT_MAX = 32
EVENTS_KEPT_MAX = 500_000
"""Of all histories together; the one that is looked at may be longer."""
PAGES_APART_S = 0.005
"""Between two pages of a long history: whoever else asks the server has his turn."""
EVENTS_PER_READ = 500
EVENTS_PER_PAGE_MAX = 500
"""So many a page waits for: some 20 ms of one core."""
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


class Fold(Protocol):
    """Something made of the events of a history, in their order."""

    next_event_id: int

    def add(self, events: Iterable[history.HistoryEvent]) -> None: ...


Made = TypeVar("Made", bound=Fold)


@dataclass(slots=True)
class _Kept(Generic[Made]):
    made: Made
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)


class Folds(Generic[Made]):
    """Reads histories into what `make` makes."""

    def __init__(self, site: Site, make: Callable[[], Made], *, in_thread: bool = False) -> None:
        """`in_thread`: what is made of events parses whole payloads, which takes a while."""
        self._site = site
        self._make = make
        self._in_thread = in_thread
        self._kept: OrderedDict[Run, _Kept[Made]] = OrderedDict()

    async def read(self, run: Run, events_max: int = EVENTS_PER_PAGE_MAX) -> tuple[Made, bool]:
        """What the events of a run make, up to so many further than before; and whether that is all."""
        kept = self._kept.get(run)
        if kept is None:
            kept = self._kept[run] = _Kept(self._make())
        self._kept.move_to_end(run)
        self._forget()
        made = kept.made
        async with kept.reading:
            last = made.next_event_id + events_max
            while made.next_event_id < last:
                count = min(EVENTS_PER_READ, last - made.next_event_id)
                page = await events_from(self._site, run, made.next_event_id, count)
                if self._in_thread:
                    await asyncio.to_thread(made.add, page.history.events)
                else:
                    made.add(page.history.events)
                if not page.next_page_token:
                    return made, True
                await asyncio.sleep(PAGES_APART_S)
        return made, False

    def known(self, run: Run) -> Made | None:
        """As far as it was read already."""
        kept = self._kept.get(run)
        return kept.made if kept else None

    def _forget(self) -> None:
        """The least recently looked at, while there are too many, or their histories too long."""
        events = sum(kept.made.next_event_id for kept in self._kept.values())
        while len(self._kept) > KEPT_MAX or (events > EVENTS_KEPT_MAX and len(self._kept) > 1):
            _, kept = self._kept.popitem(last=False)
            events -= kept.made.next_event_id


def events_max_of(request: Request) -> int:
    """What a page waits for; one that is open already has more time."""
    is_stream = "text/event-stream" in request.headers.get("accept", "")
    return EVENTS_PER_REFRESH_MAX if is_stream else EVENTS_PER_PAGE_MAX


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
