"""Reads the runs that a List Filter finds, and counts what was done in them, a little at a time.

Rule 1: whoever waits for a page waits for a bounded time; the count goes on while the page is open.
Rule 2: a run that has closed is read once, and counted for good. Open ones are read on where they were left.
Rule 3: the newest runs are read first, and no more than a limit: what is left out is said.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from temporalio.api.workflow.v1 import message_pb2 as workflow_messages
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.agents.rows import Row, run_of, step_rows, workflow_row
from durably.agents.steps import Step, StepReader
from durably.edge.console import folds
from durably.edge.console.folds import events_from
from durably.edge.console.site import Site
from durably.edge.console.tally import Tally
from durably.errors import NotFound

CLOSED_MAX = 10_000
OPEN_MAX = 100
PAGE_RUNS = 50
EVENTS_PER_READ = 300


class _Reading:
    """One run, as far as it was read."""

    def __init__(self, namespace: str, info: workflow_messages.WorkflowExecutionInfo) -> None:
        self.run = run_of(namespace, info)
        self.info = info
        self.next_event_id = 1
        self._reader = StepReader()
        self._steps: list[Step] = []

    async def read(self, site: Site) -> bool:
        """A page of its history; whether that was the last."""
        place = folds.Run(self.run.namespace, self.run.workflow_id, self.run.run_id)
        try:
            page = await events_from(site, place, self.next_event_id, EVENTS_PER_READ)
        except NotFound:  # Its retention is over.
            return True
        await asyncio.to_thread(self._take, page.history.events)
        return not page.next_page_token

    def _take(self, events: Any) -> None:
        for event in events:
            self.next_event_id = event.event_id + 1
            step = self._reader.take(event)
            if step is not None:
                self._steps.append(step)

    def rows(self) -> Iterator[tuple[str, Row]]:
        yield "workflows", workflow_row(self.run, self.info)
        for step in [*self._steps, *self._reader.pending()]:
            yield from step_rows(self.run, step)


class Survey:
    """What the runs of a namespace did that a List Filter finds."""

    def __init__(self, site: Site, namespace: str, where: str) -> None:
        self._site = site
        self._namespace = namespace
        self._where = f"({where})" if where else ""
        self._closed = Tally()
        self._seen: set[str] = set()
        self._waiting: deque[_Reading] = deque()
        self._open: dict[str, _Reading] = {}
        self._token = b""
        self._is_listed = False
        """Whether the list of closed runs was read to its end, or as far as it is read."""
        self._reading = asyncio.Lock()
        self.runs = 0
        self.found = 0
        """How many runs the filter finds."""
        self.complete = False

    async def go_on(self, seconds: float) -> None:
        """Read on for so long. Raises InvalidArgument for a filter that is wrong."""
        async with self._reading:
            until = time.monotonic() + seconds
            if self.complete or not self.runs:
                await self._look_again(until)
            while time.monotonic() < until:
                if not self._waiting and not await self._list_closed():
                    break
                if self._waiting and await self._waiting[0].read(self._site):
                    self._closed.add(self._waiting.popleft().rows())
                    self.runs += 1
                await asyncio.sleep(0)
            self.complete = self._is_listed and not self._waiting

    def tally(self) -> Tally:
        """Of all that was read, open runs as they were when they were last looked at."""
        of_open = Tally()
        for each in self._open.values():
            of_open.add(each.rows())
        return self._closed + of_open

    @property
    def open_runs(self) -> int:
        return len(self._open)

    async def _look_again(self, until: float) -> None:
        """How many there are, and what the open ones have done; from here the newest are listed anew."""
        counted = ws.CountWorkflowExecutionsRequest(namespace=self._namespace, query=self._where)
        self.found = (await self._site.ask("CountWorkflowExecutions", counted)).count
        answer = await self._list("CloseTime IS NULL", OPEN_MAX, b"")
        still = {}
        for info in answer.executions:
            known = self._open.get(info.execution.run_id)
            still[info.execution.run_id] = known or _Reading(self._namespace, info)
        self._open = still
        for each in sorted(still.values(), key=lambda reading: reading.next_event_id):
            if time.monotonic() < until:
                await each.read(self._site)
        self._token, self._is_listed = b"", False

    async def _list_closed(self) -> bool:
        """A page more of the runs that have closed; False: there are no more that are read."""
        if self._is_listed:
            return False
        answer = await self._list("CloseTime IS NOT NULL", PAGE_RUNS, self._token)
        new = [each for each in answer.executions if each.execution.run_id not in self._seen]
        self._token = answer.next_page_token
        for info in new[: CLOSED_MAX - len(self._seen)]:
            self._seen.add(info.execution.run_id)
            self._waiting.append(_Reading(self._namespace, info))
        # The list begins with the newest: a page without new ones is followed by none that has any.
        self._is_listed = not self._token or not new or len(self._seen) >= CLOSED_MAX
        return bool(self._waiting)

    async def _list(self, condition: str, count: int, token: bytes) -> Any:
        return await self._site.ask(
            "ListWorkflowExecutions",
            ws.ListWorkflowExecutionsRequest(
                namespace=self._namespace,
                query=f"{self._where} AND {condition}" if self._where else condition,
                page_size=count,
                next_page_token=token,
            ),
        )
