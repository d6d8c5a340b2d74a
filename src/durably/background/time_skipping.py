"""Skips time where nobody would do anything in it.

Rule 1: time is not skipped while a worker is at work, or is expected to be: while a workflow task or an
        attempt of an activity waits or runs, something is being delivered or written, or somebody
        holds a lock (but see `service/time_skipping.py`).
Rule 2: it is skipped to the next moment that anybody waits for, and that moment is lived through before
        the next skip.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from durably.engine.snapshot import AnyState
from durably.engine.state import HistoryState, WorkflowState
from durably.engine.transition import outstanding
from durably.errors import NotFound
from durably.service.time_skipping import TimeSkipping
from durably.service.transact import Executions

LOOK_S = 0.002
CANDIDATES_MAX = 100
FOREVER_NS = 2**62


async def run(
    executions: Executions, skipping: TimeSkipping, delivering: Callable[[], bool]
) -> None:
    """Skip time until cancelled. `delivering`: whether the outbox has something on its way."""

    def still() -> bool:
        if delivering() or executions.writing() or not skipping.wanted:
            return False
        states = list(executions.open())
        if any(outstanding(state) for state in states):
            return False
        return skipping.allowed(sum(map(_under_way, states)))

    while True:
        skipping.wake_sleepers()
        if not skipping.wanted:
            skipping.changed.clear()
            await skipping.changed.wait()
        elif still():
            await _skip(executions, skipping, still)
        await asyncio.sleep(LOOK_S)


async def _skip(executions: Executions, skipping: TimeSkipping, still: Callable[[], bool]) -> None:
    """Skip to the next moment, if all is still quiet after it has been found."""
    moments = (await _next_deadline(executions), skipping.next_wake_ns())
    wanted = min((moment for moment in moments if moment is not None), default=None)
    await asyncio.sleep(LOOK_S)
    if wanted is None or not still():
        return
    if wanted > skipping.clock():
        skipping.clock.skip_to(wanted)
        executions.wakes.changed.set()


async def _next_deadline(executions: Executions) -> int | None:
    """When the first of the open executions wants attention. The closed ones only wait to be removed."""
    for execution_id, at_ns in await executions.store.due(FOREVER_NS, CANDIDATES_MAX):
        with suppress(NotFound):
            if (await executions.get(execution_id)).state.running:
                return at_ns
    return None


def _under_way(state: AnyState) -> int:
    """How many tasks and attempts wait for a worker, or are with one."""
    if not isinstance(state, HistoryState):
        return 0
    attempts = sum(
        activity.started or not (activity.retry_at_ns or activity.pause or state.held)
        for activity in state.activities.values()
    )
    return attempts + (isinstance(state, WorkflowState) and state.workflow_task is not None)
