"""What this node works on beside: one task for each thing, which may take long.

Rule 1: work is begun by the outbox, which asks again for what is still owed: what is under way is left alone.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any


class UnderWay:
    """The tasks of one kind of work."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}

    def begin(
        self, key: Hashable, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any
    ) -> None:
        """Do `work(*arguments)`, unless what has this key is under way."""
        before = self._tasks.get(key)
        if before is not None and not before.done():
            return
        task = asyncio.create_task(work(*arguments))
        self._tasks[key] = task
        task.add_done_callback(lambda ended: self._over(key, ended))

    def _over(self, key: Hashable, ended: asyncio.Task[None]) -> None:
        """What was begun again right after its end stays."""
        if self._tasks.get(key) is ended:
            del self._tasks[key]

    def working(self) -> bool:
        return bool(self._tasks)

    def close(self) -> None:
        for task in list(self._tasks.values()):
            task.cancel()
