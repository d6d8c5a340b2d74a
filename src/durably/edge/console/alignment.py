"""What two runs did, step beside step. Pure.

Rule 1: steps are put side by side by what they are, not by their number: the same kind and name, and of several
        such the one that was given the same. One that the other run has not stands alone.
Rule 2: a fold over the events of a history keeps no payload, only its digest: whether two are the same.
Rule 3: what is encrypted anew each time cannot be compared, and is not said to differ.
Facts: an alignment of least cost is the textbook one (Needleman and Wunsch, 1970).
"""

import difflib
import hashlib
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from markupsafe import Markup
from temporalio.api.history.v1 import message_pb2 as history

from durably.agents.calls import Tokens
from durably.edge.console.agent_run import AgentRun, Turn, cost_of, tokens_of
from durably.edge.console.payloads import all_payloads, is_encrypted
from durably.edge.console.timeline import Kind, Outcome, Span, Timeline

WORD = re.compile(r"\w+|\s+|[^\w\s]")
CELLS_MAX = 250_000
"""Of the table of an alignment: some 0.2 s of a core. Beyond, names alone decide."""
SAME_INPUT, SAME_NAME, APART = 5, 2, 0
UNKNOWN = ""
"""The digest of what cannot be compared."""


@dataclass(frozen=True, slots=True)
class Did:
    """A step of a run. `given`, `came`: digests of what went in and what came out."""

    kind: str
    name: str
    event_ids: tuple[int, ...]
    lasted_ns: int
    attempt: int
    outcome: str
    given: str
    came: str
    turns: tuple[Turn, ...] = ()

    @property
    def what(self) -> tuple[str, str]:
        return (self.kind, self.name)

    @property
    def model(self) -> str:
        return ", ".join(dict.fromkeys(turn.model for turn in self.turns if turn.model))

    @property
    def tokens(self) -> Tokens:
        return tokens_of(self.turns)

    @property
    def cost(self) -> Decimal | None:
        return cost_of(self.turns)


@dataclass(slots=True)
class Deeds:
    """What a run did, as far as its events were added."""

    timeline: Timeline = field(default_factory=Timeline)
    agent: AgentRun = field(default_factory=AgentRun)
    next_event_id: int = 1
    _digests: dict[int, str] = field(default_factory=dict)
    _type: str = ""
    _ended: Outcome = Outcome.OPEN

    def add(self, events: Iterable[history.HistoryEvent]) -> None:
        found = list(events)
        self.timeline.add(found)
        self.agent.add(found)
        for event in found:
            self.next_event_id = event.event_id + 1
            kind = event.WhichOneof("attributes")
            if kind is None or kind.startswith("workflow_task_"):
                continue
            self._digests[event.event_id] = digest_of(getattr(event, kind))
            if kind == "workflow_execution_started_event_attributes":
                self._type = event.workflow_execution_started_event_attributes.workflow_type.name
            self._ended = ENDS.get(kind, self._ended)

    def steps(self) -> list[Did]:
        """The input of the run, what it did, how it ended."""
        turns: dict[int, list[Turn]] = {}
        for turn in self.agent.turns():
            turns.setdefault(turn.step.scheduled_event_id, []).append(turn)
        found = [
            self._did(span, turns.get(span.first_event_id, [])) for span in self.timeline.spans
        ]
        if self.next_event_id > 1:
            found.insert(0, self._moment("input", Outcome.DONE, 1))
        if self.timeline.close_event_id:
            found.append(self._moment("end", self._ended, self.timeline.close_event_id))
        return found

    def _did(self, span: Span, turns: list[Turn]) -> Did:
        last = span.event_ids[-1] if len(span.event_ids) > 1 else 0
        closed = span.outcome is not Outcome.OPEN and not span.is_moment
        return Did(
            kind=span.kind.value,
            name=TIMER if span.kind is Kind.TIMER else span.name,
            event_ids=tuple(span.event_ids),
            lasted_ns=span.end_ns - span.begin_ns if span.end_ns else 0,
            attempt=span.attempt,
            outcome=span.outcome.value,
            given=self._digests.get(span.first_event_id, UNKNOWN)
            + (span.given if span.kind is Kind.TIMER else ""),
            came=self._digests.get(last, UNKNOWN) if closed and last else UNKNOWN,
            turns=tuple(turns),
        )

    def _moment(self, kind: str, outcome: Outcome, event_id: int) -> Did:
        found = self._digests.get(event_id, UNKNOWN)
        given, came = (found, UNKNOWN) if kind == "input" else (UNKNOWN, found)
        return Did(kind, self._type, (event_id,), 0, 0, outcome.value, given, came)


ENDS = {
    "workflow_execution_completed_event_attributes": Outcome.DONE,
    "workflow_execution_continued_as_new_event_attributes": Outcome.DONE,
    "workflow_execution_failed_event_attributes": Outcome.FAILED,
    "workflow_execution_timed_out_event_attributes": Outcome.TIMED_OUT,
    "workflow_execution_canceled_event_attributes": Outcome.CANCELED,
    "workflow_execution_terminated_event_attributes": Outcome.TERMINATED,
}
TIMER = "Timer"
"""Timers are numbered by workers: their names say nothing."""


ASIDE = ("header", "memo", "user_metadata", "details[data]")
"""Payloads that are not what a step was given or gave: tracing, notes, when a local activity ran."""


def digest_of(attributes: Any) -> str:
    """Of all payloads in an event, and of its failure; UNKNOWN if one of them is encrypted."""
    found = hashlib.blake2b(digest_size=12)
    for place, payload in all_payloads(attributes):
        if is_encrypted(payload):
            return UNKNOWN
        if not place.startswith(ASIDE):
            found.update(b"\0%d\0" % len(payload.data) + payload.data)
    fields = attributes.DESCRIPTOR.fields_by_name
    if "failure" in fields and attributes.HasField("failure"):
        failure = attributes.failure
        while True:
            found.update(f"\1{failure.message}\1{failure.application_failure_info.type}".encode())
            if not failure.HasField("cause"):
                break
            failure = failure.cause
    return found.hexdigest()


# --- Side by side ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pair:
    """A step of the left run and the same of the right one; None where one has it not."""

    left: Did | None
    right: Did | None

    @property
    def one(self) -> Did:
        found = self.left or self.right
        assert found is not None
        return found

    @property
    def differs(self) -> tuple[str, ...]:
        """In what, if both have it."""
        if self.left is None or self.right is None:
            return ()
        found = []
        if (
            UNKNOWN not in (self.left.given, self.right.given)
            and self.left.given != self.right.given
        ):
            found.append("prompt" if self.left.turns else "input")
        if UNKNOWN not in (self.left.came, self.right.came) and self.left.came != self.right.came:
            found.append("reply" if self.left.turns else "output")
        if self.left.outcome != self.right.outcome:
            found.append("outcome")
        if self.left.model != self.right.model:
            found.append("model")
        if self.left.tokens != self.right.tokens:
            found.append("tokens")
        if self.left.attempt != self.right.attempt:
            found.append("attempts")
        return tuple(found)

    @property
    def is_same(self) -> bool:
        return bool(self.left and self.right) and not self.differs


def marked(left: str, right: str) -> tuple[Markup, Markup]:
    """Two texts with the words that only one of them has marked; escaped."""
    pieces: tuple[list[str], list[str]] = ([], [])
    words = [WORD.findall(text) for text in (left, right)]
    for how, a, b, c, d in difflib.SequenceMatcher(None, words[0], words[1]).get_opcodes():
        for side, found, tag in (
            (pieces[0], words[0][a:b], "del"),
            (pieces[1], words[1][c:d], "ins"),
        ):
            text = html.escape("".join(found), quote=False)
            side.append(f"<{tag}>{text}</{tag}>" if how != "equal" and text else text)
    return Markup("".join(pieces[0])), Markup("".join(pieces[1]))


def align(left: Sequence[Did], right: Sequence[Did]) -> list[Pair]:
    """Every step of both, in their order, once."""
    shorter = min(len(left), len(right))
    begin = 0
    while begin < shorter and _alike(left[begin], right[begin]) == SAME_INPUT:
        begin += 1
    end = 0
    while end < shorter - begin and _alike(left[-1 - end], right[-1 - end]) == SAME_INPUT:
        end += 1
    pairs = [Pair(a, b) for a, b in zip(left[:begin], right[:begin], strict=True)]
    inner = (left[begin : len(left) - end], right[begin : len(right) - end])
    within = _cheapest if len(inner[0]) * len(inner[1]) <= CELLS_MAX else _by_name
    pairs += within(*inner)
    rest = zip(left[len(left) - end :], right[len(right) - end :], strict=True)
    return pairs + [Pair(a, b) for a, b in rest]


def _alike(a: Did, b: Did) -> int:
    if a.what != b.what:
        return APART
    return SAME_INPUT if a.given == b.given else SAME_NAME


def _cheapest(left: Sequence[Did], right: Sequence[Did]) -> list[Pair]:
    """The alignment that puts most that is alike side by side."""
    rows, columns = len(left), len(right)
    best = [[0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows - 1, -1, -1):
        here, below = best[i], best[i + 1]
        for j in range(columns - 1, -1, -1):
            alike = _alike(left[i], right[j])
            here[j] = max(below[j], here[j + 1], alike + below[j + 1] if alike else 0)
    pairs: list[Pair] = []
    i = j = 0
    while i < rows and j < columns:
        alike = _alike(left[i], right[j])
        if alike and best[i][j] == alike + best[i + 1][j + 1]:
            pairs.append(Pair(left[i], right[j]))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            pairs.append(Pair(left[i], None))
            i += 1
        else:
            pairs.append(Pair(None, right[j]))
            j += 1
    pairs += [Pair(each, None) for each in left[i:]]
    return pairs + [Pair(None, each) for each in right[j:]]


def _by_name(left: Sequence[Did], right: Sequence[Did]) -> list[Pair]:
    """For long runs: by the longest stretches of the same names; frequent names do not begin one."""
    names = ([each.what for each in left], [each.what for each in right])
    pairs: list[Pair] = []
    for how, a, b, c, d in difflib.SequenceMatcher(None, *names, autojunk=True).get_opcodes():
        if how == "equal":
            pairs += [Pair(x, y) for x, y in zip(left[a:b], right[c:d], strict=True)]
        else:
            pairs += [Pair(each, None) for each in left[a:b]]
            pairs += [Pair(None, each) for each in right[c:d]]
    return pairs
