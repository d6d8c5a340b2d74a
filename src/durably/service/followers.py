"""What runs say of themselves while they go on: each run's history is followed once, for all its readers.

Rule 1: a follower reads on from the end of the history, and keeps the latest news. A reader who is further
        behind reads pages of the history by himself: nobody holds up others, and nothing grows with how far
        behind somebody is.
Rule 2: a follower goes when its last reader goes.
Rule 3: a follower reads as the server; each reader is asked for his role before he is told anything.
Rule 4: a run that is followed by another (continue-as-new, retry, cron) leads to it: the chain is read in order.
"""

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.history.v1 import message_pb2 as history

from durably.agents import convention
from durably.agents.convention import Piece
from durably.errors import Internal, Refusal
from durably.service import access
from durably.service.access import Role
from durably.service.run_history import Answers, closing_event, page, piece_of, upserted
from durably.service.tokens import HistoryPageToken

logger = logging.getLogger(__name__)

KEPT_MAX = 1_000
KEPT_BYTES_MAX = 1024 * 1024
READING = "what a workflow publishes"

CLOSING = frozenset(
    (
        event_types.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
        event_types.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
        event_types.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT,
        event_types.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED,
        event_types.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED,
        event_types.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW,
    )
)


@dataclass(frozen=True, slots=True)
class News:
    """What an event says that follows the convention. `piece` None: the open questions have changed."""

    run_id: str
    event_id: int
    piece: Piece | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Batch:
    news: list[News]
    ended: bool = False
    """The last run of the chain has closed."""


class Follower:
    """Follows one run."""

    def __init__(
        self, answers: Answers, namespace: str, workflow_id: str, place: HistoryPageToken
    ) -> None:
        self._answers = answers
        self._namespace = namespace
        self._workflow_id = workflow_id
        self._run_id = place.run_id
        self._kept: deque[News] = deque()
        self._kept_bytes = 0
        self._changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        self.first_event_id = place.next_event_id
        """The news of events before this one are not kept."""
        self.next_event_id = place.next_event_id
        self.following: str | None = None
        """The run that follows; empty: none does. None: it has not closed."""
        self.refusal: Refusal | None = None
        self.readers = 0

    def start(self) -> None:
        context = contextvars.Context()  # It reads for nobody in particular.
        self._task = asyncio.create_task(self._run(), name="follower", context=context)

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def since(self, event_id: int) -> list[News]:
        return [each for each in self._kept if each.event_id >= event_id]

    async def change(self) -> None:
        """Until there is something new."""
        await asyncio.wait((self._changed,))

    async def _run(self) -> None:
        try:
            while self.following is None:
                place = HistoryPageToken(self._run_id, self.next_event_id)
                names = (self._namespace, self._workflow_id)
                events, is_last = await page(self._answers, *names, place, waits=True)
                if is_last and not events:
                    # It had closed before the place at which the first reader was.
                    closing = await closing_event(self._answers, *names, self._run_id)
                    self.following = following_run(closing)
                self._keep(events)
        except Refusal as refusal:
            self.refusal = refusal
        except Exception:
            logger.exception("%s is not followed any more", self._workflow_id)
            self.refusal = Internal("the history could not be followed: see the server's log")
        finally:
            self._tell()

    def _keep(self, events: Iterable[history.HistoryEvent]) -> None:
        for event in events:
            self.next_event_id = event.event_id + 1
            for news in news_of(self._run_id, (event,)):
                self._kept.append(news)
                self._kept_bytes += news.size_bytes
            if event.event_type in CLOSING:
                self.following = following_run(event)
        while len(self._kept) > KEPT_MAX or self._kept_bytes > KEPT_BYTES_MAX:
            oldest = self._kept.popleft()
            self._kept_bytes -= oldest.size_bytes
            self.first_event_id = oldest.event_id + 1
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.get_running_loop().create_future()
        changed.set_result(None)


class Followers:
    """All that are at work, by run."""

    def __init__(self, answers: Answers) -> None:
        """`answers`: for the server itself."""
        self._answers = answers
        self._by_run: dict[tuple[str, str, str], Follower] = {}

    def __len__(self) -> int:
        return len(self._by_run)

    def find(self, namespace: str, workflow_id: str, run_id: str) -> Follower | None:
        return self._by_run.get((namespace, workflow_id, run_id))

    def join(self, namespace: str, workflow_id: str, place: HistoryPageToken) -> Follower:
        """One more reader of this run, who has read up to the place."""
        key = (namespace, workflow_id, place.run_id)
        found = self._by_run.get(key)
        if found is None:
            found = Follower(self._answers, namespace, workflow_id, place)
            found.start()
            self._by_run[key] = found
        found.readers += 1
        return found

    def leave(self, namespace: str, workflow_id: str, run_id: str, follower: Follower) -> None:
        follower.readers -= 1
        if not follower.readers:
            follower.stop()
            del self._by_run[(namespace, workflow_id, run_id)]

    async def close(self) -> None:
        """Those whose readers were cut off."""
        for each in self._by_run.values():
            each.stop()
        self._by_run.clear()


class Reader:
    """Reads the news of a workflow from a place on, in order, each once. To be closed.

    `next` may be cancelled, and called again: it goes on where it was.
    """

    def __init__(
        self,
        followers: Followers,
        answers: Answers,
        namespace: str,
        workflow_id: str,
        place: HistoryPageToken,
        *,
        at_end: bool = False,
    ) -> None:
        """`answers`: for the caller. `at_end`: nothing was there yet at this place a moment ago."""
        self._followers = followers
        self._answers = answers
        self._names = (namespace, workflow_id)
        self.place = place
        self._joined: Follower | None = None
        self._at_end = at_end

    def close(self) -> None:
        if self._joined is not None:
            self._followers.leave(*self._names, self.place.run_id, self._joined)
            self._joined = None

    async def check(self) -> None:
        """Raises what reading a history does, for a place that is none."""
        await page(self._answers, *self._names, self.place, waits=False)

    async def next(self, *, waits: bool = True) -> Batch:
        """What is new; `waits` False: what is in the history already, or nothing: the follower may not have
        heard of it yet. Raises what reading a history does, and what `access.need` does."""
        while True:
            access.need(Role.READ, self._names[0], READING)
            follower = self._joined
            if follower is not None and follower.first_event_id <= self.place.next_event_id:
                batch = self._take(follower)
                if batch.news or batch.ended:
                    return batch
                if follower.following is not None:
                    continue
                if follower.refusal is not None:
                    raise follower.refusal
                if waits:
                    await follower.change()
                    continue
            if follower is None and waits and self._at_end:
                self._at_end = False
                self._joined = self._followers.join(*self._names, self.place)
                continue
            events, _ = await page(self._answers, *self._names, self.place, waits=False)
            if events:
                batch = self._read(events)
                if batch.news or batch.ended:
                    return batch
            elif not waits:
                return Batch([])
            elif follower is not None:
                await follower.change()
            else:
                self._joined = self._followers.join(*self._names, self.place)

    def _take(self, follower: Follower) -> Batch:
        news = follower.since(self.place.next_event_id)
        self.place = HistoryPageToken(
            self.place.run_id, max(follower.next_event_id, self.place.next_event_id)
        )
        return Batch(news, self._go_on(follower.following))

    def _read(self, events: list[history.HistoryEvent]) -> Batch:
        run_id = self.place.run_id
        self.place = HistoryPageToken(run_id, events[-1].event_id + 1)
        closed = events[-1].event_type in CLOSING
        return Batch(
            list(news_of(run_id, events)),
            self._go_on(following_run(events[-1]) if closed else None),
        )

    def _go_on(self, following: str | None) -> bool:
        """With the run that follows, if there is one. Whether there is none, and will be none."""
        if following:
            self.close()
            self.place = HistoryPageToken(following, 1)
        return following == ""


def news_of(run_id: str, events: Iterable[history.HistoryEvent]) -> Iterable[News]:
    for event in events:
        piece = piece_of(event)
        if piece is not None:
            yield News(run_id, event.event_id, piece, event.ByteSize())
        if convention.MEMO_QUESTIONS in upserted(event):
            yield News(run_id, event.event_id, None, 0)


def following_run(event: history.HistoryEvent | None) -> str:
    """The run that goes on after this closing event; empty: none does."""
    if event is None:
        return ""
    attributes: Any = getattr(event, event.WhichOneof("attributes") or "", None)
    return str(getattr(attributes, "new_execution_run_id", ""))
