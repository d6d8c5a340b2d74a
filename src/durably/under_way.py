"""What goes on beside whoever began it: tasks, kept until they have ended, for a loop alone may forget them.

Rule 1: work that is begun under a key is begun by those who ask again for what is still owed: what is under
        way is left alone.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar

R = TypeVar("R")


class UnderWay:
    """The tasks of one kind of work."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: dict[Hashable, asyncio.Task[Any]] = {}

    def begin(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        task = asyncio.create_task(work, name=self._name)
        self._keep(task, task)
        return task

    def begin_once(
        self, key: Hashable, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any
    ) -> None:
        """Do `work(*arguments)`, unless what has this key is under way."""
        before = self._tasks.get(key)
        if before is None or before.done():
            self._keep(key, asyncio.create_task(work(*arguments), name=self._name))

    async def in_full(self, work: Coroutine[Any, Any, R]) -> R:
        """Carry work out, whether its caller waits for it or not."""
        return await asyncio.shield(self.begin(work))

    def _keep(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        self._tasks[key] = task
        task.add_done_callback(lambda ended: self._over(key, ended))

    def _over(self, key: Hashable, ended: asyncio.Task[Any]) -> None:
        """What was begun again right after its end stays."""
        if self._tasks.get(key) is ended:
            del self._tasks[key]

    def working(self) -> bool:
        return bool(self._tasks)

    def close(self) -> None:
        for task in list(self._tasks.values()):
            task.cancel()

    async def closed(self) -> None:
        """The same, until all have ended."""
        tasks = list(self._tasks.values())
        self.close()
        await asyncio.gather(*tasks, return_exceptions=True)
