"""Columns and bars, and which runs they are about."""

from hypothesis import given
from hypothesis import strategies as st

from durably.edge.console import charts
from durably.edge.console.analytics import share_text, where_of


def test_which_runs_are_meant() -> None:
    now_ns = 1_800_000_000 * 10**9  # 2027-01-15T08:00:00Z
    assert where_of("", "", now_ns) == ""
    assert where_of("", "7", now_ns) == "StartTime >= '2027-01-09T00:00:00Z'"
    assert where_of("A = 1 OR B = 2", "1", now_ns) == (
        "(A = 1 OR B = 2) AND StartTime >= '2027-01-14T08:00:00Z'"
    )
    assert (share_text(1, 8), share_text(0, 8)) == ("12.5 %", "")


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)), max_size=70))
def test_columns_stand_on_each_other_and_in_their_room(numbers: list[tuple[float, float]]) -> None:
    values = [(str(index), pair) for index, pair in enumerate(numbers)]
    found = charts.columns(values, ("in", "out"))
    assert len(found) == len(values)
    for column in found:
        assert 0 <= column.x <= column.x + column.width <= 100.01
        assert all(-0.01 <= y <= y + height <= 100.01 for y, height, _ in column.parts)
    assert sum(column.is_labelled for column in found) <= charts.LABELS_MAX
    assert charts.span((1.0, 2.0), 4.0) == (25.0, 50.0)
    assert charts.span((), 0) == ()
