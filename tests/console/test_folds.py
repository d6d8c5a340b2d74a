"""Histories that are looked at are read bit by bit, and kept within bounds."""

import pytest
from temporalio.client import Client

from durably import Server
from durably.config import Config
from durably.edge.console import folds
from durably.edge.console.folds import Folds, Run
from durably.edge.console.site import Site
from durably.edge.console.timeline import Timeline


class Reads:
    """Asks the RPC over the wire, and remembers which pages were asked for."""

    def __init__(self, client: Client) -> None:
        self.service = client.workflow_service
        self.asked: list[int] = []

    async def __call__(self, name: str, request: object) -> object:
        assert name == "GetWorkflowExecutionHistory"
        answer = await self.service.get_workflow_execution_history(request)  # type: ignore[arg-type]
        events = answer.history.events
        self.asked.append(events[0].event_id if events else 0)
        return answer


async def started(client: Client, workflow_id: str, signals: int) -> Run:
    handle = await client.start_workflow("W", id=workflow_id, task_queue="q")
    for number in range(signals):
        await handle.signal("s", number)
    return Run("default", workflow_id, handle.first_execution_run_id or "")


async def test_only_what_is_new_is_read(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds, "EVENTS_PER_READ", 5)
    reads = Reads(client)
    found: Folds[Timeline] = Folds(Site(reads, Config(), lambda: 0), Timeline)
    run = await started(client, "w", 20)
    timeline, complete = await found.read(run, events_max=10)
    assert (timeline.next_event_id, complete, reads.asked) == (11, False, [1, 6])
    timeline, complete = await found.read(run, events_max=100)
    assert (timeline.next_event_id, complete) == (23, True)
    assert len(timeline.spans) == 20
    await client.get_workflow_handle("w").signal("s", 20)
    timeline, complete = await found.read(run)
    assert (len(timeline.spans), complete, reads.asked[-1]) == (21, True, 23)


async def test_what_is_kept_is_bounded(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds, "EVENTS_KEPT_MAX", 30)
    reads = Reads(client)
    found: Folds[Timeline] = Folds(Site(reads, Config(), lambda: 0), Timeline)
    first = await started(client, "first", 20)
    second = await started(client, "second", 20)
    for run in (first, second, first):
        timeline, complete = await found.read(run)
        assert (len(timeline.spans), complete) == (20, True)
    assert reads.asked == [1, 1, 0]  # Two together are too long, but the last is forgotten first.
    await found.read(second)
    assert reads.asked[-1] == 1
