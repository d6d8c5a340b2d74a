"""Where the spans of a timeline are drawn: a scale on which idle gaps are short, bars and marks. Pure.

Rule 1: positions are per cent of the picture's width, so that it fits any screen.
Rule 2: a gap is idle when no activity, local activity or update works in it; a long idle gap takes little
        width, and is labelled with its length.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from durably.edge.console.timeline import Kind, Outcome, Span
from durably.edge.console.units import MILLISECOND_NS, duration_text

GAP_WIDTH = 3.0
"""Per cent of the picture that a compressed gap takes."""
GAPS_WIDTH_MAX = 36.0
"""Per cent that all of them take together."""
GAP_SHARE_MIN = 0.12
"""A gap is compressed if it is longer than this share of the time in which work is done."""
GAP_NS_MIN = 500 * MILLISECOND_NS
BAR_WIDTH_MIN = 0.35
TICKS = 6
WORKING = (Kind.ACTIVITY, Kind.UPDATE, Kind.NEXUS)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of time and of the picture. A compressed one is a gap."""

    from_ns: int
    to_ns: int
    x: float
    width: float
    is_gap: bool = False

    @property
    def label(self) -> str:
        return duration_text(self.to_ns - self.from_ns)


@dataclass(frozen=True, slots=True)
class Bar:
    """`look`: waits, retries or works."""

    x: float
    width: float
    look: str


@dataclass(frozen=True, slots=True)
class Row:
    span: Span
    bars: tuple[Bar, ...]
    mark: float | None
    """Where a moment is."""
    duration: str


@dataclass(frozen=True, slots=True)
class Tick:
    x: float
    label: str


@dataclass(frozen=True, slots=True)
class Picture:
    rows: tuple[Row, ...]
    gaps: tuple[Piece, ...]
    ticks: tuple[Tick, ...]

    @property
    def left_out(self) -> str:
        """How long all gaps are together."""
        return duration_text(sum(gap.to_ns - gap.from_ns for gap in self.gaps))


class Scale:
    """Time to position, without the idle gaps."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = tuple(pieces)
        self._starts = [piece.from_ns for piece in pieces]

    def x(self, ns: int) -> float:
        piece = self.pieces[max(0, bisect_right(self._starts, ns) - 1)]
        length = piece.to_ns - piece.from_ns
        share = min(1.0, max(0.0, (ns - piece.from_ns) / length)) if length else 0.0
        return round(piece.x + share * piece.width, 3)


def draw(spans: Sequence[Span], begin_ns: int, now_ns: int) -> Picture:
    """A picture of these spans; `begin_ns` is what ticks are counted from, open spans last until now."""
    if not spans:
        return Picture((), (), ())
    scale = scaled(spans, now_ns)
    rows = tuple(_row(span, scale, now_ns) for span in spans)
    gaps = tuple(piece for piece in scale.pieces if piece.is_gap)
    return Picture(rows, gaps, _ticks(scale, begin_ns))


def scaled(spans: Sequence[Span], now_ns: int) -> Scale:
    first = min(span.begin_ns for span in spans)
    last = max(first + 1, *(span.end_ns or now_ns for span in spans))
    gaps = _long_gaps(_idle(spans, first, last, now_ns), last - first)
    return Scale(_laid_out(first, last, gaps))


def _idle(spans: Iterable[Span], first: int, last: int, now_ns: int) -> list[tuple[int, int]]:
    """Stretches between two things that happen, in which nothing works."""
    busy: list[tuple[int, int]] = []
    for span in spans:
        busy.append((span.begin_ns, span.begin_ns))
        end_ns = span.end_ns or now_ns
        if span.kind in WORKING and span.attempt > 1:
            busy.append((span.begin_ns, end_ns))  # Earlier attempts ran somewhere in it.
        elif span.kind in WORKING and span.started_ns:
            busy.append((span.started_ns, end_ns))
        elif span.end_ns:
            busy.append((span.end_ns, span.end_ns))
    found: list[tuple[int, int]] = []
    until = first
    for begin, end in sorted(busy):
        if begin > until:
            found.append((until, begin))
        until = max(until, end)
    if last > until:
        found.append((until, last))
    return found


def _long_gaps(idle: list[tuple[int, int]], whole: int) -> list[tuple[int, int]]:
    """Those that are compressed: the long ones, where something works, but most of the time is idle."""
    busy = whole - sum(end - begin for begin, end in idle)
    if not busy or busy * 2 > whole:
        return []
    shortest = max(GAP_NS_MIN, int(GAP_SHARE_MIN * busy))
    return [(begin, end) for begin, end in idle if end - begin >= shortest]


def _laid_out(first: int, last: int, gaps: list[tuple[int, int]]) -> list[Piece]:
    shown = last - first - sum(end - begin for begin, end in gaps)
    gap_width = min(GAP_WIDTH, GAPS_WIDTH_MAX / len(gaps)) if gaps else 0.0
    room = 100.0 - gap_width * len(gaps)
    pieces: list[Piece] = []
    at, x = first, 0.0
    for begin, end in [*gaps, (last, last)]:
        if begin > at:
            width = room * (begin - at) / shown if shown else 0.0
            pieces.append(Piece(at, begin, x, width))
            x += width
        if end > begin:
            pieces.append(Piece(begin, end, x, gap_width, is_gap=True))
            x += gap_width
        at = end
    return pieces


def _row(span: Span, scale: Scale, now_ns: int) -> Row:
    end_ns = span.end_ns or max(now_ns, span.begin_ns)
    if span.is_moment:
        return Row(span, (), scale.x(span.begin_ns), "")
    bars: list[Bar] = []
    begin, end = scale.x(span.begin_ns), scale.x(end_ns)
    waits_for_worker = span.kind in (Kind.ACTIVITY, Kind.NEXUS)
    if waits_for_worker:
        works_from = scale.x(span.started_ns) if span.started_ns else end
        look = "retries" if span.attempt > 1 else "waits"
        if works_from > begin:
            bars.append(Bar(begin, round(works_from - begin, 3), look))
        if span.started_ns:
            bars.append(_bar(works_from, end, "works"))
    else:
        bars.append(_bar(begin, end, "sleeps" if span.kind is Kind.TIMER else "works"))
    return Row(span, tuple(bars), None, duration_text(end_ns - span.begin_ns))


def _bar(begin: float, end: float, look: str) -> Bar:
    width = max(BAR_WIDTH_MIN, end - begin)
    return Bar(min(begin, 100 - width), round(width, 3), look)


def _ticks(scale: Scale, begin_ns: int) -> tuple[Tick, ...]:
    """Evenly placed, each with the time since the run began; none in a gap, or just after another."""
    ticks: list[Tick] = []
    for index in range(TICKS):
        x = 100.0 * index / TICKS
        piece = next((p for p in reversed(scale.pieces) if p.x <= x), scale.pieces[0])
        if piece.is_gap or not piece.width:
            continue
        ns = piece.from_ns + int((x - piece.x) / piece.width * (piece.to_ns - piece.from_ns))
        label = f"+{duration_text(ns - begin_ns)}"
        if not ticks or ticks[-1].label != label:
            ticks.append(Tick(round(x, 3), label))
    return tuple(ticks)


def look_of(span: Span) -> str:
    """The class that colours a span."""
    return "open" if span.outcome is Outcome.OPEN else span.outcome.value.replace(" ", "-")
