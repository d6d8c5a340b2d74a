"""The tasks of one queue that wait for a poller, in the order in which they are to be given out.

Rule 1: by level first: 1 goes before 2, whoever it is for.
Rule 2: within a level the fairness keys take turns. A task's turn is one step after the last turn of
        its key, and not before the turn that was given out last; a step is 1 / weight. So a key that
        has many tasks waits for itself, and a key that had none comes at once.
Rule 3: within a key, first come first served.
Rule 4: a task is here once, however often it is added: servers may take a task from each other and
        back.
Rule 5: adding and taking cost the logarithm of the number of keys that have tasks here, however many
        tasks there are. A key that may not have a task yet is set aside until it may.

Direct items (queries) are not tasks: they take turns with the tasks of the default level, and are in
no count.
"""

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from durably.store.store import TaskOrder, TaskRow

KEYS_REMEMBERED_MIN = 1000
"""So many keys whose tasks are all given out are remembered before the useless ones are dropped."""

DEFAULT_ORDER = TaskOrder()


class _Lane:
    """The items of one key in one level; `turns` are theirs, in the same order."""

    __slots__ = ("items", "key", "level", "listed", "order_key", "turns")

    def __init__(self, level: int, key: str, order_key: tuple[int, str, bool]) -> None:
        self.level = level
        self.key = key
        self.order_key = order_key
        self.items: deque[Any] = deque()
        self.turns: deque[float] = deque()
        self.listed = False
        """Whether it is among those that can be taken from, or set aside."""


class Backlog:
    def __init__(self) -> None:
        self._first: deque[Any] = deque()
        """Items that were given back: they had their turn."""
        self._lanes: dict[tuple[int, str, bool], _Lane] = {}
        self._next: list[tuple[int, float, int, _Lane]] = []
        """A heap with one entry for each lane: (level, turn of its first item, number, lane)."""
        self._aside: list[tuple[int, int, _Lane]] = []
        """A heap of lanes that may not be taken from yet: (from when, number, lane)."""
        self._given: dict[int, float] = {}
        """Level -> the turn that was given out last."""
        self._steps: dict[tuple[int, str, bool], float] = {}
        """Of lanes that are empty: where their next turn would begin."""
        self._created: dict[int, OrderedDict[int, int]] = {}
        """Level -> task id -> when it was created, oldest first."""
        self._number = 0

    def __bool__(self) -> bool:
        return bool(self._first or self._lanes)

    # --- In -----------------------------------------------------------------------------------

    def add(self, item: Any, weight: float = 1.0) -> None:
        """Behind what waits already, as the item's order says."""
        task = isinstance(item, TaskRow)
        order = item.order if task else DEFAULT_ORDER
        if task and item.task_id in self._created.get(order.level, ()):
            return
        order_key = (order.level, order.fairness_key, task)
        lane = self._lanes.get(order_key)
        if lane is None:
            lane = self._lanes[order_key] = _Lane(order.level, order.fairness_key, order_key)
        begun = lane.turns[-1] if lane.turns else self._steps.pop(order_key, 0.0)
        lane.turns.append(max(self._given.get(order.level, 0.0), begun + 1.0 / weight))
        lane.items.append(item)
        if task:
            self._created.setdefault(order.level, OrderedDict())[item.task_id] = item.created_ns
        if not lane.listed:
            self._list(lane)

    def add_first(self, item: Any) -> None:
        """Before everything: it had been given out."""
        if isinstance(item, TaskRow):
            created = self._created.setdefault(item.order.level, OrderedDict())
            if item.task_id in created:
                return
            created[item.task_id] = item.created_ns
            created.move_to_end(item.task_id, last=False)
        self._first.appendleft(item)

    def remove(self, item: Any) -> bool:
        """Take a direct item out again, if it is still here."""
        if item in self._first:
            self._first.remove(item)
            return True
        order_key = (DEFAULT_ORDER.level, DEFAULT_ORDER.fairness_key, False)
        lane = self._lanes.get(order_key)
        if lane is None or item not in lane.items:
            return False
        index = lane.items.index(item)
        del lane.items[index]
        del lane.turns[index]
        if not lane.items:
            del self._lanes[order_key]
        return True

    # --- Out ----------------------------------------------------------------------------------

    def take_first(self) -> Any:
        """An item that was given back, or None."""
        return self._counted(self._first.popleft()) if self._first else None

    def take(self, now_ns: int, ready_ns: Callable[[str], int]) -> Any:
        """The item whose turn it is, or None if none may be given out now.

        `ready_ns` says from when the tasks of a key may be given out.
        """
        while self._aside and self._aside[0][0] <= now_ns:
            self._list(heapq.heappop(self._aside)[2])
        while self._next:
            lane = heapq.heappop(self._next)[3]
            lane.listed = False
            if not lane.items:
                continue  # What was in it has been removed.
            from_ns = ready_ns(lane.key)
            if from_ns > now_ns:
                self._number += 1
                lane.listed = True
                heapq.heappush(self._aside, (from_ns, self._number, lane))
                continue
            return self._take_from(lane)
        return None

    def ready_ns(self) -> int:
        """When the first of the keys that are set aside may be given out; 0: none is."""
        return self._aside[0][0] if self._aside else 0

    def reconsider(self) -> None:
        """What keys may have has changed: none is set aside any more."""
        aside, self._aside = self._aside, []
        for _, _, lane in aside:
            self._list(lane)

    def _take_from(self, lane: _Lane) -> Any:
        turn = lane.turns.popleft()
        self._given[lane.level] = turn
        item = lane.items.popleft()
        if lane.items:
            self._list(lane)
        else:
            del self._lanes[lane.order_key]
            self._remember(lane.order_key, turn)
        return self._counted(item)

    def _remember(self, order_key: tuple[int, str, bool], turn: float) -> None:
        if not self._lanes:
            self._steps.clear()
            self._given.clear()
            return
        self._steps[order_key] = turn
        if len(self._steps) > KEYS_REMEMBERED_MIN + 2 * len(self._lanes):
            # A turn that lies a step or more behind the last one given out changes nothing.
            self._steps = {
                key: begun
                for key, begun in self._steps.items()
                if begun + 1.0 > self._given.get(key[0], 0.0)
            }

    def _counted(self, item: Any) -> Any:
        if isinstance(item, TaskRow):
            del self._created[item.order.level][item.task_id]
        return item

    def _list(self, lane: _Lane) -> None:
        lane.listed = True
        self._number += 1
        turn = lane.turns[0] if lane.turns else 0.0
        heapq.heappush(self._next, (lane.level, turn, self._number, lane))

    # --- What is in it ------------------------------------------------------------------------

    def levels(self) -> list[int]:
        """The levels that have tasks."""
        return [level for level, created in self._created.items() if created]

    def count(self, level: int | None = None) -> int:
        """Tasks, of one level or of all."""
        if level is not None:
            return len(self._created.get(level, ()))
        return sum(map(len, self._created.values()))

    def oldest_ns(self, level: int | None = None) -> int:
        """When the oldest task was created; 0: there is none."""
        levels = self._created if level is None else (level,)
        firsts = [
            next(iter(created.values()))
            for created in (self._created.get(each) for each in levels)
            if created
        ]
        return min(firsts, default=0)

    def items(self) -> list[Any]:
        """Everything, in the order of adding: for one who puts it in order anew."""
        queued = [item for lane in self._lanes.values() for item in lane.items]
        tasks = [item for item in queued if isinstance(item, TaskRow)]
        tasks.sort(key=lambda task: task.task_id)
        return [*self._first, *tasks, *(each for each in queued if not isinstance(each, TaskRow))]
