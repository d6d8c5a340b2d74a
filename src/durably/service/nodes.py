"""This server among those that share its store: who else is there, words and letters to each other.

Rule 1: nothing rests on a word that arrives: it says where to look sooner.
Rule 2: a server is alone only as long as it knows that nobody can have joined: it looked a moment ago,
        and whoever joins waits longer than that before it serves anybody (`alone`, `join`).
Rule 3: a server that is alone says nothing and asks nothing of others: it works as on a store of its
        own.
"""

import asyncio
import itertools
import logging
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Self, TypeVar

import msgspec
from google.protobuf.message import Message
from msgspec import Struct
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.config import Config
from durably.errors import Refusal
from durably.matching import PollerSeen
from durably.store.store import QueueKey, StoredExecution, TaskKind, TaskRow

if TYPE_CHECKING:
    from durably.store.postgres_nodes import PollerRow, PostgresNodes
    from durably.store.postgres_rounds import Rounds
    from durably.store.postgres_workers import PostgresWorkers

logger = logging.getLogger(__name__)

WORDS_BYTES_MAX = 7000
"""PostgreSQL's notifications hold less than 8000 bytes."""
BEATS_ALONE = 1.5
"""For so many beats a server that saw nobody else may think that it is alone."""
BEATS_BETWEEN_CLEANINGS = 15
"""What workers leave behind is looked through after so many beats."""
LEFT_TO_HOLDER_NS = 100_000_000
"""So long a task is left to the workers of the server that keeps it, before others are asked."""
PUBLISHED_AGAIN_NS = 3_000_000_000
"""A poller that goes on waiting is told of again after this time."""

POLLS: dict[TaskKind, type[Message]] = {
    TaskKind.WORKFLOW: ws.PollWorkflowTaskQueueRequest,
    TaskKind.ACTIVITY: ws.PollActivityTaskQueueRequest,
    TaskKind.NEXUS: ws.PollNexusTaskQueueRequest,
}

W = TypeVar("W", bound="Word")


class Word(Struct, frozen=True, array_like=True):
    """One thing that servers tell each other."""


class Changed(Word, frozen=True, array_like=True, tag="c"):
    """An execution has a new version; GONE: it was deleted."""

    execution_id: int
    version: int


class Raced(Word, frozen=True, array_like=True, tag="e"):
    """A server has lost a race for an execution: who writes to it takes turns for a while."""

    execution_id: int


class OfQueue(Word, frozen=True, array_like=True):
    """What is said of a queue."""

    namespace_id: str
    kind: int
    queue: str

    @classmethod
    def of(cls, queue: QueueKey) -> Self:
        return cls(queue.namespace_id, int(queue.kind), queue.name)

    @property
    def key(self) -> QueueKey:
        return QueueKey(self.namespace_id, TaskKind(self.kind), self.queue)


class Waiting(OfQueue, frozen=True, array_like=True, tag="w"):
    """A task waits in this queue."""


class NexusWaits(Word, frozen=True, array_like=True, tag="x"):
    """A request to a Nexus handler waits for a worker of this part of a queue."""

    namespace_id: str
    queue: str
    version: str


class Behind(OfQueue, frozen=True, array_like=True, tag="b"):
    """Tasks that a server keeps for its own workers wait for long: it would give some away."""


class Wanted(OfQueue, frozen=True, array_like=True, tag="a"):
    """So many polls wait elsewhere: who is behind with this part of a queue lets as many tasks go."""

    version: str
    count: int

    @property
    def part(self) -> QueueKey:
        return replace(self.key, version=self.version)


class Configured(OfQueue, frozen=True, array_like=True, tag="q"):
    """A queue has a new configuration."""


class NamespacesChanged(Word, frozen=True, array_like=True, tag="n"):
    """A namespace or a Nexus endpoint was made, changed or removed."""


class RoutingChanged(Word, frozen=True, array_like=True, tag="r"):
    """The traffic of task queues is divided anew between versions of workers."""


class LettersSent(Word, frozen=True, array_like=True, tag="l"):
    """There are letters for a server."""

    node: int


class Joined(Word, frozen=True, array_like=True, tag="j"):
    """A server has joined, or has left."""


class Settle(Word, frozen=True, array_like=True, tag="k"):
    """Say so to this server when you have obeyed what it said before."""

    node: int
    number: int


class Settled(Word, frozen=True, array_like=True, tag="d"):
    """What this server said before that number is obeyed by another one."""

    node: int
    number: int
    by: int


class QueryOver(Word, frozen=True, array_like=True, tag="o"):
    """A query that other servers were asked to offer is answered, or nobody waits for it any more."""

    query_id: str


class WorkerShutDown(Word, frozen=True, array_like=True, tag="s"):
    """A worker ends: its polls are answered with nothing, wherever they wait."""

    namespace_id: str
    worker: str
    sticky_queue: str


class QueryAsked(Struct, frozen=True, tag="asked"):
    """A letter: give this query to a worker that waits for this queue at yours."""

    query_id: str
    execution_id: int
    question: bytes
    queue: str
    sticky: bool
    untaken_s: float
    """So long it is offered."""
    ticket: int = 0
    """Who gives it to a worker takes this first."""


class QueryAnswered(Struct, frozen=True, tag="answered"):
    """A letter: a worker has answered. `result` is a serialized WorkflowQueryResult."""

    query_id: str
    result: bytes


class NexusAnswered(Struct, frozen=True, tag="nexus"):
    """A letter: a worker has answered a request. One of them is there, serialized."""

    request_id: str
    response: bytes | None
    failure: bytes | None


Letter = QueryAsked | QueryAnswered | NexusAnswered

AnyWord = (
    Changed
    | Raced
    | Waiting
    | NexusWaits
    | Behind
    | Wanted
    | Configured
    | NamespacesChanged
    | RoutingChanged
    | LettersSent
    | Joined
    | Settle
    | Settled
    | QueryOver
    | WorkerShutDown
)

GONE = 2**62

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(tuple[int, list[msgspec.Raw]])
_word_decoder = msgspec.json.Decoder(AnyWord)
_letter_encoder = msgspec.msgpack.Encoder()
_letter_decoder = msgspec.msgpack.Decoder(Letter)


class Nodes:
    """The servers that share a store, as this one sees them."""

    def __init__(
        self,
        board: "PostgresNodes",
        workers: "PostgresWorkers",
        rounds: "Rounds",
        config: Config,
    ) -> None:
        self.board = board
        self.workers = workers
        self.rounds = rounds
        self.node = 0
        self.others: list[int] = []
        self.members_changed = asyncio.Event()
        """Set when a server came or went: what was divided among them is divided anew."""
        self._config = config
        self._address = ""
        self._alone_until = 0.0
        self._beats = 0
        self._unsaid: dict[AnyWord, None] = {}
        self._later: dict[AnyWord, float] = {}
        """Words that may be true later, each with the time at which it is looked at last."""
        self._versions: dict[int, int] = {}
        self._saying: asyncio.Task[None] | None = None
        self._asked: dict[int, asyncio.Future[int | None]] = {}
        self._asking: asyncio.Task[None] | None = None
        self._pollers: dict[QueueKey, dict[tuple[int, str], PollerRow]] = {}
        self._parts: dict[QueueKey, list[QueueKey]] = {}
        """Queue -> those of its parts for versions that workers poll elsewhere, its own included."""
        self._published: dict[tuple[QueueKey, str], int] = {}
        self._doubted: list[int] = []
        self._settling: dict[int, tuple[set[int], asyncio.Event]] = {}
        """Number -> the servers that have not obeyed yet, and what is set when all have."""
        self._settle_numbers = itertools.count(1)
        self._unsure: dict[QueueKey, None] = {}
        """Queues of which this server may have claimed tasks whose claim it never heard the end of."""

    # --- Who is there -------------------------------------------------------------------------

    async def join(self) -> None:
        """Be there, and wait until no other can think any more that it is alone."""
        self.node = await self.board.next_node()
        await self.beat()
        if self.others:
            self.say(Joined())
            await self._say_all()
            await asyncio.sleep(BEATS_ALONE * self._config.node_beat_s)

    async def beat(self) -> None:
        """Say that this server is there, then see who else is. In this order: of two that come at
        once, one sees the other."""
        loop = asyncio.get_running_loop()
        await self.board.seen(self.node, self._address)
        began = loop.time()
        live = await self.board.live(self._config.node_lost_after_s)
        others = [node for node in live if node != self.node]
        if others != self.others:
            self.others = others
            self.members_changed.set()
            for number, (missing, _) in self._settling.items():
                self._obeyed(number, missing.difference(others))
        self._alone_until = 0.0 if others else began + BEATS_ALONE * self._config.node_beat_s
        if self.first():
            await self.board.clean()
            self._beats += 1
            if self._beats % BEATS_BETWEEN_CLEANINGS == 0:
                config = self._config
                await self.workers.clean(config.worker_remembered_s, config.workers_max)

    async def leave(self) -> None:
        self._later.clear()
        await self.board.left(self.node)
        self._unsaid[Joined()] = None
        await self._say_all()

    def alone(self) -> bool:
        """Whether no other server can write to the store at this moment."""
        return asyncio.get_running_loop().time() < self._alone_until

    def first(self) -> bool:
        """Whether this is the server that does what one of them has to do."""
        return not self.others or self.node < self.others[0]

    def part(self) -> tuple[int, int]:
        """Which part of what is divided among the servers is this one's, of how many."""
        return sum(node < self.node for node in self.others), len(self.others) + 1

    # --- Words --------------------------------------------------------------------------------

    def say(self, word: AnyWord) -> None:
        """Soon, together with what else there is to say."""
        if self.alone():
            return
        self._unsaid[word] = None
        self._say_soon()

    def say_later(self, word: AnyWord, holds: Callable[[], bool]) -> None:
        """After LEFT_TO_HOLDER_NS, if it holds then. Asked for again before, it is also looked at so
        long after that."""
        if self.alone():
            return
        loop = asyncio.get_running_loop()
        waits = word in self._later
        self._later[word] = loop.time() + LEFT_TO_HOLDER_NS / 1e9
        if not waits:
            loop.call_at(self._later[word], self._say_if, word, holds)

    def _say_if(self, word: AnyWord, holds: Callable[[], bool]) -> None:
        at = self._later.get(word)
        if at is None:
            return  # This server leaves.
        loop = asyncio.get_running_loop()
        if at > loop.time():
            loop.call_at(at, self._say_if, word, holds)
        else:
            del self._later[word]
        if holds():
            self.say(word)

    def say_changed(self, execution_id: int, version: int) -> None:
        if self.alone():
            return
        self._versions[execution_id] = version
        self._say_soon()

    def _say_soon(self) -> None:
        if self._saying is None:
            self._saying = asyncio.create_task(self._say_logged(), name="words to other servers")

    async def _say_logged(self) -> None:
        try:
            while self._unsaid or self._versions:
                await self._say_all()
        except Refusal as refusal:
            logger.warning("other servers were not told: %s", refusal.message)
        finally:
            self._saying = None

    async def _say_all(self) -> None:
        versions, self._versions = self._versions, {}
        unsaid, self._unsaid = self._unsaid, {}
        words = (*(Changed(each, version) for each, version in versions.items()), *unsaid)
        if words:
            await self.board.say(list(self._packed(words)))

    def _packed(self, words: Iterable[AnyWord]) -> Iterable[str]:
        """As many words in one notification as it holds; one that is too long is not said."""
        parts: list[str] = []
        size = 0
        for word in words:
            encoded = _encoder.encode(word)
            if size + len(encoded) > WORDS_BYTES_MAX and parts:
                yield f"[{self.node},[{','.join(parts)}]]"
                parts, size = [], 0
            if len(encoded) <= WORDS_BYTES_MAX:
                parts.append(encoded.decode())
                size += len(encoded) + 1
        if parts:
            yield f"[{self.node},[{','.join(parts)}]]"

    async def settle(self) -> None:
        """Until all other servers have obeyed what was said before, or have looked by themselves: what
        is acknowledged after this is known wherever the next call goes."""
        if self.alone() or not self.others:
            return
        number, settled = next(self._settle_numbers), asyncio.Event()
        self._settling[number] = set(self.others), settled
        self.say(Settle(self.node, number))
        try:
            async with asyncio.timeout(BEATS_ALONE * self._config.node_beat_s):
                await settled.wait()
        except TimeoutError:
            pass  # One is dead, or hears nothing; who lives has looked at a beat.
        finally:
            del self._settling[number]

    def settled(self, word: Settled) -> None:
        if word.node == self.node:
            self._obeyed(word.number, {word.by})

    def _obeyed(self, number: int, by: set[int]) -> None:
        if number in self._settling:
            missing, settled = self._settling[number]
            missing -= by
            if not missing:
                settled.set()

    def understood(self, text: str) -> list[AnyWord]:
        """What another server said; nothing if it was this one. A server of another version may know
        words that this one does not, among those that both know."""
        try:
            node, encoded = _decoder.decode(text)
        except msgspec.MsgspecError:
            logger.warning("words of another server were not understood: %.100s", text)
            return []
        if node == self.node:
            return []
        words: list[AnyWord] = []
        for each in encoded:
            try:
                words.append(_word_decoder.decode(each))
            except msgspec.MsgspecError:
                logger.warning("a word of another server was not understood: %.100r", bytes(each))
        return words

    # --- Letters ------------------------------------------------------------------------------

    async def send(self, node: int, letter: Letter) -> None:
        """What is too long for a word."""
        await self.send_all({node}, letter)

    async def send_all(self, nodes: set[int], letter: Letter) -> None:
        """The same letter to each of them."""
        if nodes:
            body = _letter_encoder.encode(letter)
            await self.board.send([(node, body) for node in nodes])
            for node in nodes:
                self.say(LettersSent(node))

    async def take_letters(self) -> list[Letter]:
        """Those to this server; each is given out once."""
        found: list[Letter] = []
        for body in await self.board.take_letters(self.node):
            try:
                found.append(_letter_decoder.decode(body))
            except msgspec.MsgspecError:
                logger.warning("a letter of another server was not understood: %.100r", body)
        return found

    def new_id(self) -> str:
        """An id that says at which server somebody waits."""
        return f"{self.node}:{uuid.uuid4()}"

    # --- Versions -----------------------------------------------------------------------------

    async def version(self, execution_id: int) -> int | None:
        """The committed version of an execution, read after this call; None: it is gone. Those that
        ask at the same time are answered by one read."""
        asked = self._asked.get(execution_id)
        if asked is None:
            asked = self._asked[execution_id] = asyncio.get_running_loop().create_future()
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask(), name="versions")
        return await asyncio.shield(asked)

    async def _ask(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked, {}
                await self._answer(asked)
        finally:
            self._asking = None

    async def _answer(self, asked: dict[int, asyncio.Future[int | None]]) -> None:
        try:
            versions = await self.board.versions(list(asked))
        except Exception as error:
            for future in asked.values():
                future.set_exception(error)
                future.exception()  # Whoever asked may have gone away.
            return
        for execution_id, future in asked.items():
            future.set_result(versions.get(execution_id))

    async def load_after(self, execution_id: int, version: int) -> StoredExecution | None:
        """What other servers have added to an execution whose state at `version` is known."""
        return await self.board.load_after(execution_id, version)

    # --- Tasks --------------------------------------------------------------------------------

    async def claim(
        self, queue: QueueKey, limit: int, *, of_others_before_ns: int = 0
    ) -> list[TaskRow]:
        """Up to so many tasks that no server has that is there. `of_others_before_ns`: also those that
        another has since before then, which does not know that they are taken: two that go for the
        same task lose a race."""
        return await self._claim(queue, limit, self.others, of_others_before_ns)

    async def claim_left(self, queue: QueueKey, limit: int) -> list[TaskRow]:
        """Only tasks that no server has, or one that has been silent for longer than it should be."""
        silent_s = BEATS_ALONE * self._config.node_beat_s
        others = await self.board.live(silent_s)
        return await self._claim(queue, limit, others, 0)

    async def _claim(
        self, queue: QueueKey, limit: int, others: list[int], before_ns: int
    ) -> list[TaskRow]:
        complete = False
        try:
            found, complete = await self.board.claim(queue, self.node, limit, others, before_ns)
            return found
        finally:
            if not complete:  # Also when the caller went away meanwhile.
                self._unsure[queue] = None

    def take_unsure(self) -> list[QueueKey]:
        """The queues of which tasks may be in this server's name and not in its memory."""
        unsure, self._unsure = list(self._unsure), {}
        return unsure

    def put_unsure(self, queues: Iterable[QueueKey]) -> None:
        self._unsure.update(dict.fromkeys(queues))

    def doubt(self, task_ids: Iterable[int]) -> None:
        """These are in this server's name and not in its memory: it gave them up, or nobody heard the end
        of the commit that added them."""
        self._doubted += task_ids

    async def release_doubted(self) -> None:
        while self._doubted:
            doubted = self._doubted[:1000]
            await self.board.release(doubted, self.node)
            del self._doubted[: len(doubted)]

    # --- Pollers ------------------------------------------------------------------------------

    def polled_within(self, queue: QueueKey, within_ns: int, now_ns: int) -> set[int]:
        """The servers at which workers waited for this part of a queue so lately."""
        since = now_ns - within_ns
        found = self._pollers.get(queue, {}).values()
        return {row.node for row in found if row.at_ns >= since}

    def polled_at(self, queue: QueueKey, within_ns: int, now_ns: int) -> int:
        """At how many other servers workers waited for this queue so lately, of whatever version."""
        if not self.others:
            return 0
        since = now_ns - within_ns
        rows = self._rows(queue, of_all=True)
        return len({row.node for row in rows if row.at_ns >= since})

    def _rows(self, queue: QueueKey, *, of_all: bool) -> list["PollerRow"]:
        parts = self._parts.get(queue.whole, ()) if of_all else (queue,)
        return [row for part in parts for row in self._pollers.get(part, {}).values()]

    def pollers(self, queue: QueueKey, *, of_all: bool = False) -> list[PollerSeen]:
        """Who waits for this part of a queue at other servers, each once; `of_all`: for any part."""
        poll = POLLS[queue.kind]
        latest: dict[str, PollerRow] = {}
        for row in self._rows(queue, of_all=of_all):
            if row.identity not in latest or row.at_ns > latest[row.identity].at_ns:
                latest[row.identity] = row
        return [
            PollerSeen(row.identity, poll.FromString(row.request), row.at_ns)
            for row in latest.values()
        ]

    def forget_pollers(self, queue: QueueKey, identity: str = "") -> None:
        """Those with this identity, or all, of any part of a queue."""
        for part in self._parts.get(queue.whole, ()):
            found = self._pollers[part]
            for key in [key for key in found if not identity or key[1] == identity]:
                del found[key]

    async def exchange_pollers(
        self, present: Iterable[tuple[QueueKey, PollerSeen, int]], now_ns: int, kept_ns: int
    ) -> None:
        """Tell others who waits here, and hear who waits there."""
        fresh = []
        for queue, seen, at_ns in present:
            known = (queue, seen.identity)
            if at_ns >= self._published.get(known, 0) + PUBLISHED_AGAIN_NS:
                self._published[known] = at_ns
                request = seen.attributes.SerializeToString()
                fresh.append((queue, seen.identity, at_ns, request))
        if fresh:
            await self.board.put_pollers(self.node, fresh)
        live = set(self.others)
        since = now_ns - kept_ns
        found: dict[QueueKey, dict[tuple[int, str], PollerRow]] = {}
        for row in await self.board.pollers(self.node, since):
            if row.node in live:
                found.setdefault(row.queue, {})[row.node, row.identity] = row
        self._pollers = found
        self._parts = {}
        for part in found:
            self._parts.setdefault(part.whole, []).append(part)
        self._published = {key: at for key, at in self._published.items() if at >= since}
        if self.first():
            await self.board.forget_pollers(since)


def wanted(part: QueueKey, count: int) -> Wanted:
    return Wanted(part.namespace_id, int(part.kind), part.name, part.version, count)


def asked_at(question_id: str) -> int:
    """The server at which a question or a request was asked; 0: one whose store is its own."""
    node, _, _ = question_id.partition(":")
    return int(node) if node.isdecimal() else 0
