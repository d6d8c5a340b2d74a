"""Numbers as columns and bars, in percent of the room there is. Pure.

Rule 1: a column begins at 0, and its number is beside it or in a table: nothing is told by length alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

GAP = 0.25
"""Of a column's room."""
LABELS_MAX = 8


@dataclass(frozen=True, slots=True)
class Column:
    """`parts`: from the ground up, each (y, height, look)."""

    name: str
    x: float
    width: float
    parts: tuple[tuple[float, float, str], ...]
    is_labelled: bool


def columns(
    values: Sequence[tuple[str, Sequence[float]]], looks: Sequence[str]
) -> tuple[Column, ...]:
    """(name, numbers that stand on each other) -> columns; `looks` are the classes of those numbers."""
    highest = max((sum(numbers) for _, numbers in values), default=0) or 1
    room = 100 / max(1, len(values))
    every = -(-len(values) // LABELS_MAX)
    found = []
    for index, (name, numbers) in enumerate(values):
        parts, top = [], 100.0
        for number, look in zip(numbers, looks, strict=True):
            height = 100 * number / highest
            top -= height
            if height:
                parts.append((round(top, 3), round(height, 3), look))
        is_labelled = index % every == 0
        x = room * (index + GAP / 2)
        found.append(
            Column(name, round(x, 3), round(room * (1 - GAP), 3), tuple(parts), is_labelled)
        )
    return tuple(found)


def span(percentiles: Sequence[float], longest: float) -> tuple[float, ...]:
    """Where percentiles are on a bar that ends with the longest."""
    return tuple(round(100 * each / longest, 3) for each in percentiles) if longest else ()
