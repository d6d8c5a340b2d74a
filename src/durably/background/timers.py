"""Deadlines become engine inputs.

Rule 1: the loop decides nothing; it wakes executions whose deadline has come.
Rule 2: near deadlines are in memory; a sweep of the store finds those of a former or another server.
Rule 3: one execution that fails does not stop the others; its deadline comes up again.
"""

import asyncio
import logging

from durably.engine import deadlines
from durably.engine.snapshot import AnyState
from durably.engine.transition import debts, outstanding
from durably.errors import NotFound, Refusal, WrittenByNewer
from durably.service.transact import Executions
from durably.service.wakes import DELIVERY_RETRY_NS

logger = logging.getLogger(__name__)

FIRED_AT_ONCE_MAX = 200
SWEEP_PAGE = 1000
RETRY_NS = 1_000_000_000


async def fire_due(executions: Executions, now_ns: int) -> int:
    """Wake every execution whose near deadline has come; how many."""
    due = executions.wakes.due(now_ns)
    for start in range(0, len(due), FIRED_AT_ONCE_MAX):
        batch = due[start : start + FIRED_AT_ONCE_MAX]
        await asyncio.gather(*(_fire_logged(executions, each) for each in batch))
    return len(due)


async def _fire_logged(executions: Executions, execution_id: int) -> None:
    try:
        await fire(executions, execution_id)
    except NotFound:
        pass  # Deleted meanwhile.
    except WrittenByNewer as newer:
        # Not before the next sweep: whoever has written it has its deadline in memory.
        logger.info("a deadline is left to others: %s", newer.message)
    except Exception as error:
        level = logging.WARNING if isinstance(error, Refusal) else logging.ERROR
        logger.log(
            level,
            "a deadline will be tried again: %r",
            error,
            extra={"fields": executions.ids(execution_id)},
        )
        executions.wakes.arm(execution_id, executions.clock() + RETRY_NS)


async def fire(executions: Executions, execution_id: int) -> None:
    """One execution's deadline has come: let time do its work, or deliver, or delete it."""
    execution = await executions.get(execution_id)
    state = execution.state
    now_ns = executions.clock()
    if state.closed and _may_go(executions, state, now_ns):
        await executions.delete(execution)
        return
    owed = outstanding(state)
    for delivery in owed:
        executions.deliveries.put_nowait((execution_id, delivery))
    if owed and not state.running:
        executions.wakes.arm(execution_id, now_ns + DELIVERY_RETRY_NS)
    due_ns = deadlines.next_deadline(state)
    if state.running or 0 < due_ns <= now_ns:
        await executions.transact(execution_id, deadlines.fire_due)
    elif not owed:
        removal_ns = state.close_ns + executions.retention_ns(state.namespace_id)
        executions.wakes.arm(execution_id, min(due_ns or removal_ns, removal_ns))


def _may_go(executions: Executions, state: AnyState, now_ns: int) -> bool:
    """Its retention is over. What it still owes to others keeps it, but a callback that nobody takes
    does not."""
    return not debts(state) and state.close_ns + executions.retention_ns(state.namespace_id) <= (
        now_ns
    )


async def sweep(executions: Executions, horizon_ns: int) -> int:
    """Arm the deadlines up to `horizon_ns` that are in the store; how many."""
    armed = 0
    while True:
        found = await executions.wakes.due_in_store(horizon_ns, SWEEP_PAGE)
        armed += len(found)
        for execution_id, at_ns in found:
            executions.wakes.arm(execution_id, at_ns)
        if len(found) < SWEEP_PAGE:
            return armed
        # A full page: fire what is overdue, so that the next page is another one.
        if not await fire_due(executions, executions.clock()):
            return armed


async def run(executions: Executions) -> None:
    """Wake executions at their deadlines until cancelled."""
    interval_s = executions.config.deadline_sweep_interval_s
    next_sweep_ns = 0
    first = True
    while True:
        now_ns = executions.clock()
        if now_ns >= next_sweep_ns or _divided_anew(executions):
            next_sweep_ns = now_ns + int(interval_s * 1e9)
            try:
                armed = await sweep(executions, now_ns + int(2e9 * interval_s))
                if first:
                    first = False
                    logger.info("recovered", extra={"fields": {"executions_soon_due": armed}})
            except Exception:
                logger.exception("the sweep of deadlines failed and will be tried again")
        executions.wakes.changed.clear()
        await fire_due(executions, executions.clock())
        await _wait(executions, next_sweep_ns)


def _divided_anew(executions: Executions) -> bool:
    """Whether a server that shares the store has come or gone since this was asked last."""
    nodes = executions.nodes
    if nodes is None or not nodes.members_changed.is_set():
        return False
    nodes.members_changed.clear()
    return True


async def _wait(executions: Executions, next_sweep_ns: int) -> None:
    """Sleep until the next deadline or sweep, or until an earlier deadline is armed."""
    wake_ns = min(executions.wakes.next_near() or next_sweep_ns, next_sweep_ns)
    seconds = (wake_ns - executions.clock()) / 1e9
    if seconds <= 0:
        await asyncio.sleep(0)
        return
    try:
        async with asyncio.timeout(seconds):
            await executions.wakes.changed.wait()
    except TimeoutError:
        pass
