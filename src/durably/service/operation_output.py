"""What an operation or a call publishes while it goes on, and how it stands whenever that changes, as a stream.

    pieces      what its workflow publishes by the convention (`agents.convention`), in order, each once
    standings   how it stands: first, whenever its questions change, and last when it has ended; but for the
                first, each after what was published before it

Rule 1: a piece is named by its run and its event: that is where a reader goes on, at any server of the store,
        also when the operation has ended.
Rule 2: so many streams at a time; who comes then is refused, and may come again. Who waits for an end has none.
Rule 3: nobody looks at a run for each of its events: a reader hears of those that say something, and looks when
        the open questions change, and at the end.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from durably.agents.convention import Piece
from durably.errors import NotFound, ResourceExhausted
from durably.service.durable_calls import WORKING, Behind, DurableCalls, Seen, with_piece
from durably.service.followers import Batch, Followers, Reader
from durably.service.nexus_operations import NexusOperations, Standalone, Which
from durably.service.nexus_tokens import OfWorkflow
from durably.service.run_history import Answers
from durably.service.tokens import HistoryPageToken
from durably.waits import first_done


@dataclass(frozen=True, slots=True)
class Place:
    """After this event of this run; `is_end`: after the end of an operation with this run."""

    run_id: str
    event_id: int = 0
    is_end: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """A piece and its place; or how the operation stands now."""

    place: Place | None
    piece: Piece | None = None
    standing: Seen | None = None

    def seen(self, before: Seen) -> Seen:
        """The call of which this is told, that stood so before."""
        if self.standing is not None:
            return replace(self.standing, call_id=before.call_id)
        assert self.piece is not None
        return with_piece(before, self.piece)


class OutputStreams:
    """All streams of this server."""

    def __init__(
        self,
        operations: NexusOperations,
        calls: DurableCalls,
        followers: Followers,
        answers: Answers,
        readers_max: int,
    ) -> None:
        """`answers`: for the caller."""
        self._operations = operations
        self._calls = calls
        self._followers = followers
        self._answers = answers
        self._readers_max = readers_max
        self._reading = 0

    async def has_more(self, which: Which, after: Place) -> bool:
        """For a reader who was told of the end: is there anything that he was not? Raises NotFound."""
        seen = await self._operations.look(which)
        return not (seen.ended and end_of(seen) == after)

    async def stream(
        self, which: Which, after: Place | None, *, from_now: bool, seen: Seen | None = None
    ) -> AsyncGenerator[Told, None]:
        """From a place on; without one from the first run of its workflow, or from now on. `seen`: how it
        stands, if it was looked at already. Raises NotFound, ResourceExhausted."""
        if self._reading >= self._readers_max:
            raise ResourceExhausted(
                f"{self._reading} streams are read already (output_readers_max): try again later"
            )
        self._reading += 1
        try:
            async with aclosing(self._tell(which, seen, after, from_now)) as telling:
                async for told in telling:
                    yield told
        finally:
            self._reading -= 1

    def watch(self, namespace: str, seen: Seen, *, from_now: bool) -> AsyncGenerator[Told, None]:
        """The same of a call that was just looked at, for who waits for its end."""
        return self._tell(call_of(namespace, seen), seen, None, from_now)

    async def settled(self, namespace: str, seen: Seen, seconds: float | None) -> Seen:
        """A call once it has ended or asks for something, or after so long; None: as long as it takes. Raises
        NotFound."""
        if seen.phase != WORKING:
            return seen
        watching = self.watch(namespace, seen, from_now=True)
        try:
            async with asyncio.timeout(seconds), aclosing(watching):
                async for told in watching:
                    seen = told.seen(seen)
                    if seen.phase != WORKING:
                        break
        except TimeoutError:
            pass
        return seen

    async def _tell(
        self, which: Which, seen: Seen | None, after: Place | None, from_now: bool
    ) -> AsyncGenerator[Told, None]:
        reading = _Reading(self, which, after, from_now)
        try:
            async for told in reading.tell(seen):
                yield told
        finally:
            reading.close()

    # --- For one stream -----------------------------------------------------------------------

    async def look(self, which: Which) -> Seen:
        return await self._operations.look(which)

    async def moved(self, which: Which, seen: Seen) -> None:
        """Until there is reason to look again, beside what a workflow publishes."""
        match which:
            case Standalone():
                await self._calls.wait_for_operation(which.namespace, seen)
            case _:
                await self._operations.news(which, seen)

    def reader(self, workflow: Behind, place: HistoryPageToken) -> Reader:
        names = (workflow.namespace, workflow.workflow_id)
        at_end = place == workflow.place
        return Reader(self._followers, self._answers, *names, place, at_end=at_end)


def call_of(namespace: str, seen: Seen) -> Which:
    """The operation that a call is."""
    if seen.operation_id:
        return Standalone(namespace, seen.operation_id)
    return OfWorkflow(namespace, seen.call_id)


def end_of(seen: Seen) -> Place:
    """The place after the end."""
    run_id = seen.called.get("runId", "") or (seen.place.run_id if seen.place is not None else "")
    return Place(run_id, is_end=True)


class _Reading:
    """One stream."""

    def __init__(
        self, streams: OutputStreams, which: Which, after: Place | None, from_now: bool
    ) -> None:
        self._streams = streams
        self._which = which
        self._after = after if after is not None and not after.is_end else None
        self._from_now = from_now
        self._reader: Reader | None = None
        self._read_to_end = ""
        """The last run of a workflow that has closed, and of which all is told."""
        self._asked: list[str] = []

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    async def tell(self, seen: Seen | None) -> AsyncGenerator[Told, None]:
        """`seen`: how it stands, if it was looked at already."""
        seen = seen or await self._streams.look(self._which)
        reader = self._begin(seen)
        if reader is not None and self._after is not None:
            await reader.check()
        if not seen.ended:
            self._asked = sorted(seen.questions)
            yield Told(None, standing=seen)
        while not seen.ended:
            batch, moved = await self._news(seen)
            for told in _pieces(batch):
                yield told
            if not moved and not batch.ended and all(each.piece for each in batch.news):
                continue
            seen = await self._streams.look(self._which)
            while self._is_behind(seen):
                batch = await self._next(seen, waits=False)
                for told in _pieces(batch):
                    yield told
                if batch.ended or not all(each.piece for each in batch.news):
                    seen = await self._streams.look(self._which)
                if not batch.news:
                    break
            if sorted(seen.questions) != self._asked and not seen.ended:
                self._asked = sorted(seen.questions)
                yield Told(None, standing=seen)
        while self._begin(seen) is not None:
            batch = await self._next(seen, waits=False)
            for told in _pieces(batch):
                yield told
            if not batch.news:
                break
        yield Told(end_of(seen), standing=seen)

    async def _news(self, seen: Seen) -> tuple[Batch, bool]:
        """What is new; and whether it has to be looked at for another reason."""
        reader = self._begin(seen)
        if reader is not None and isinstance(self._which, OfWorkflow):
            return await self._next(seen, waits=True), False
        waiting: list[Coroutine[Any, Any, Any]] = [self._streams.moved(self._which, seen)]
        if reader is not None:
            waiting.append(self._next(seen, waits=True))
        moved, *read = await first_done(*waiting)
        news = Batch([])
        for each in read:
            if each.done():
                news = each.result()
        if moved.done():
            moved.result()
        return news, moved.done()

    def _is_behind(self, seen: Seen) -> bool:
        """Is there something to be read that was published before this was seen?"""
        workflow = _workflow(self._which, seen)
        if workflow is None or self._reader is None or seen.ended:
            return False
        here, there = self._reader.place, workflow.place
        return here.run_id == there.run_id and here.next_event_id < there.next_event_id

    def _begin(self, seen: Seen) -> Reader | None:
        """Who reads its workflow; None: there is none, or nothing more of it to be read."""
        if self._reader is not None:
            return self._reader
        workflow = _workflow(self._which, seen)
        if workflow is None or workflow.place.run_id == self._read_to_end:
            return None
        if self._read_to_end:
            place = HistoryPageToken(workflow.place.run_id, 1)  # A reset made this run.
        elif self._after is not None:
            place = HistoryPageToken(self._after.run_id, self._after.event_id + 1)
        elif self._from_now:
            place = workflow.place
        else:
            place = HistoryPageToken(workflow.first_run_id, 1)
        self._reader = self._streams.reader(workflow, place)
        return self._reader

    async def _next(self, seen: Seen, *, waits: bool) -> Batch:
        assert self._reader is not None
        try:
            batch = await self._reader.next(waits=waits)
        except NotFound:
            # The first runs of a chain are removed before the last.
            workflow = _workflow(self._which, seen)
            if (
                workflow is None
                or self._after
                or self._reader.place.run_id == workflow.place.run_id
            ):
                raise
            self.close()
            place = HistoryPageToken(workflow.place.run_id, 1)
            self._reader = self._streams.reader(workflow, place)
            batch = await self._reader.next(waits=waits)
        if batch.ended:
            self._read_to_end = self._reader.place.run_id
            self.close()
        return batch


def _pieces(batch: Batch) -> Iterator[Told]:
    for each in batch.news:
        if each.piece is not None:
            yield Told(Place(each.run_id, each.event_id), each.piece)


def _workflow(which: Which, seen: Seen) -> Behind | None:
    match which:
        case Standalone():
            return seen.behind
        case OfWorkflow():
            assert seen.place is not None
            names = (which.namespace, which.workflow_id)
            return Behind(*names, seen.first_run_id, seen.place)
        case _:
            return None
