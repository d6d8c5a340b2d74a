"""Removes deleted namespaces, with all that is in them.

Rule 1: what is to be removed is in the store: a removal that was cut off is taken up again at start.
Rule 2: page by page, so that other work goes on in between.
"""

import asyncio
import logging

from durably.service.namespaces import Namespace, Namespaces
from durably.service.transact import Executions

logger = logging.getLogger(__name__)

PAGE = 200
RETRY_S = 10.0


async def run(executions: Executions, namespaces: Namespaces) -> None:
    """Remove what is deleted until cancelled."""
    while True:
        namespaces.removal_wanted.clear()
        wait_s: float | None = None
        deleted = namespaces.deleted()
        if deleted and executions.nodes is not None and not executions.nodes.first():
            # One of the servers that share the store does it; if that dies, another.
            wait_s, deleted = RETRY_S, []
        for namespace in deleted:
            try:
                left_s = await _remove(executions, namespaces, namespace)
            except Exception:
                logger.exception("removing namespace %s will be tried again", namespace.name)
                left_s = RETRY_S
            if left_s:
                wait_s = min(left_s, wait_s or left_s)
        try:
            async with asyncio.timeout(wait_s):
                await namespaces.removal_wanted.wait()
        except TimeoutError:
            pass


async def _remove(executions: Executions, namespaces: Namespaces, namespace: Namespace) -> float:
    """Remove its executions, then it itself; in how many seconds, if it is to stay that long."""
    executions.matching.forget_namespace(namespace.namespace_id)
    executions.routes.forget_namespace(namespace.namespace_id)
    removed = PAGE
    while removed:
        removed = await executions.delete_some(namespace.namespace_id, PAGE)
    left_s = (namespace.remove_after_ns - executions.clock()) / 1e9
    if left_s > 0:
        return left_s
    await namespaces.remove(namespace)
    return 0.0
