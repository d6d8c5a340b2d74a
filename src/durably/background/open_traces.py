"""Which runs traces follow while they are open, and how far each was sent.

Rule 1: of a run so many journal rows were sent as the note says, which is one value in the store, written
        after the receiver has taken the spans of a run: what is in those rows is not sent again.
Rule 2: what is followed is bounded: of a run beyond that everything is sent when it has closed.
"""

from collections import OrderedDict
from collections.abc import Iterator

import msgspec

from durably.service.execution import journal_entries
from durably.store.store import JournalRow, Store
from durably.traces.spans import Parent, RunSpans, Span

NOTE = "traces/open"
FOLLOWED_MAX = 200
READ_MAX = 200
"""Runs of which what was read is kept; of others it is read again when they change."""
LOOKED_AT_AGAIN = 5
"""So many that did not change are looked at each time: whether they are still there, and open."""


class Followed(msgspec.Struct, array_like=True):
    execution_id: int
    namespace_id: str
    workflow_id: str
    run_id: str
    sent_version: int = 0
    """Up to this row of its journal."""


class Reading:
    """A run as far as its journal was read; `spans` holds only what has not been sent."""

    def __init__(self, parent: Parent, spans: RunSpans) -> None:
        self.parent = parent
        self.spans = spans
        self.version = 0

    def take(self, rows: list[JournalRow], sent_version: int) -> list[Span]:
        """The spans that ended in these rows, without those of rows that were sent."""
        found: list[Span] = []
        for row in rows:
            for entry in journal_entries(row):
                self.spans.take(entry)
            ended = self.spans.ended()
            if row.version > sent_version:
                found += ended
            self.version = row.version
        return found


_decoder = msgspec.msgpack.Decoder(list[Followed])


class OpenTraces:
    """The note, and what was read beside it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._followed: OrderedDict[int, Followed] = OrderedDict()
        self._read: OrderedDict[int, Reading] = OrderedDict()
        self._closed: dict[int, int] = {}
        """When a run was first seen closed, that had not been dropped; nanoseconds since the epoch."""
        self._is_loaded = False

    async def load(self) -> None:
        """From the store, if this server was not the one that wrote the note last."""
        if not self._is_loaded:
            noted = await self._store.metadata(NOTE)
            self._followed.clear()
            for each in _decoder.decode(noted) if noted else []:
                self._followed[each.execution_id] = each
            self._is_loaded = True

    def forget(self) -> None:
        """Another server follows them now."""
        self._is_loaded = False
        self._read.clear()

    async def note(self) -> None:
        await self._store.put_metadata(NOTE, msgspec.msgpack.encode(list(self._followed.values())))

    # --- Runs ---------------------------------------------------------------------------------

    def to_look_at(self, changed: dict[int, tuple[str, str, str]]) -> Iterator[Followed]:
        """Those that changed, and a few of the others: each of them gets its turn."""
        others = [each for each in self._followed if each not in changed][:LOOKED_AT_AGAIN]
        for execution_id in others:
            self._followed.move_to_end(execution_id)
            yield self._followed[execution_id]
        for execution_id, run in changed.items():
            yield self._followed.get(execution_id) or Followed(execution_id, *run)

    def may_follow(self, run: Followed) -> bool:
        return run.execution_id in self._followed or len(self._followed) < FOLLOWED_MAX

    def sent_version(self, execution_id: int) -> int:
        found = self._followed.get(execution_id)
        return found.sent_version if found else 0

    async def sent(self, run: Followed, version: int) -> None:
        run.sent_version = version
        self._followed[run.execution_id] = run
        await self.note()

    async def drop(self, execution_id: int) -> None:
        """It has closed and was sent whole, or is gone."""
        self._closed.pop(execution_id, None)
        self._read.pop(execution_id, None)
        if self._followed.pop(execution_id, None) is not None:
            await self.note()

    async def drop_if_closed_before(self, run: Followed, before_ns: int, now_ns: int) -> None:
        """What closed before that was sent whole: of a run that is still followed, the server died before
        that was noted here too."""
        if run.execution_id not in self._followed:
            return
        if self._closed.setdefault(run.execution_id, now_ns) < before_ns:
            await self.drop(run.execution_id)

    # --- What was read ------------------------------------------------------------------------

    def reading(self, execution_id: int) -> Reading | None:
        found = self._read.get(execution_id)
        if found is not None:
            self._read.move_to_end(execution_id)
        return found

    def keep(self, execution_id: int, reading: Reading) -> None:
        self._read[execution_id] = reading
        if len(self._read) > READ_MAX:
            self._read.popitem(last=False)

    def read_again(self, execution_id: int) -> None:
        """What was read is lost: it was not sent."""
        self._read.pop(execution_id, None)
