"""The order in which the tasks of a queue are given out."""

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from durably.backlog import Backlog
from durably.store.store import QueueKey, TaskKind, TaskOrder, TaskRow

QUEUE = QueueKey("namespace", TaskKind.ACTIVITY, "queue")


def row(task_id: int, level: int = 3, key: str = "", weight: float = 1.0) -> TaskRow:
    return TaskRow(task_id, QUEUE, 1, 1, 1, task_id, order=TaskOrder(level, key, weight))


def filled(rows: Iterable[TaskRow]) -> Backlog:
    backlog = Backlog()
    for each in rows:
        backlog.add(each, each.order.weight)
    return backlog


def taken(backlog: Backlog, count: int = 10**9) -> list[TaskRow]:
    found: list[TaskRow] = []
    while len(found) < count and (item := backlog.take(0, lambda key: 0)) is not None:
        found.append(item)
    return found


def keys(rows: Iterable[TaskRow]) -> str:
    return "".join(each.order.fairness_key for each in rows)


def test_lower_levels_go_first_and_equals_in_their_order() -> None:
    rows = [row(number, level) for number, level in enumerate((5, 3, 1, 3, 2, 1), start=1)]
    assert [each.task_id for each in taken(filled(rows))] == [3, 6, 5, 2, 4, 1]


def test_keys_take_turns() -> None:
    backlog = filled([*(row(n, key="a") for n in range(4)), *(row(n, key="b") for n in (10, 11))])
    assert keys(taken(backlog)) == "ababaa"


def test_weights_are_shares() -> None:
    rows = [row(n, key="a", weight=3.0) for n in range(300)]
    rows += [row(n, key="b") for n in range(1000, 1300)]
    share = keys(taken(filled(rows), 100)).count("a")
    assert 70 <= share <= 80


def test_a_key_that_had_nothing_comes_at_once_but_gains_nothing_for_later() -> None:
    backlog = filled(row(n, key="a") for n in range(100))
    taken(backlog, 50)
    for number in range(200, 203):
        backlog.add(row(number, key="b"))
    assert keys(taken(backlog, 6)) == "bababa"


def test_a_key_that_comes_one_by_one_gets_no_more_than_its_share() -> None:
    backlog = filled(row(n, key="a") for n in range(100))
    given_out = ""
    for number in range(200, 210):
        backlog.add(row(number, key="b"))
        given_out += keys(taken(backlog, 2))
    assert given_out.count("b") == 10


def test_a_key_that_must_wait_is_passed_over_until_it_may_go_on() -> None:
    backlog = filled([*(row(n, key="a") for n in range(3)), row(10, key="b"), row(11, key="b")])
    ready = {"a": 5, "b": 0}
    found = [backlog.take(0, ready.__getitem__) for _ in range(3)]
    assert keys(each for each in found if each is not None) == "bb"
    assert found[2] is None
    assert backlog.ready_ns() == 5
    assert keys([backlog.take(5, ready.__getitem__)]) == "a"
    ready["a"] = 9
    assert backlog.take(6, ready.__getitem__) is None
    ready["a"] = 0
    backlog.reconsider()
    assert keys(taken(backlog)) == "aa"


def test_counts_and_ages_are_by_level() -> None:
    backlog = filled([row(7, 1), row(8, 3), row(9, 3)])
    assert (backlog.count(), backlog.count(3), backlog.count(5)) == (3, 2, 0)
    assert (backlog.oldest_ns(), backlog.oldest_ns(3), backlog.oldest_ns(5)) == (7, 8, 0)
    taken(backlog, 2)
    assert (backlog.count(), backlog.oldest_ns(), backlog.levels()) == (1, 9, [3])


def test_queries_take_turns_with_tasks_and_can_be_taken_out() -> None:
    backlog = filled(row(n) for n in range(3))
    backlog.add("first query")
    backlog.add("second query")
    assert backlog.remove("first query")
    assert not backlog.remove("first query")
    assert backlog.count() == 3
    out = [backlog.take(0, lambda key: 0) for _ in range(4)]
    assert out.index("second query") == 1
    assert not backlog


def test_what_was_given_back_comes_first() -> None:
    backlog = filled([row(1, 1), row(2, 1)])
    first = backlog.take(0, lambda key: 0)
    backlog.add_first(first)
    assert backlog.oldest_ns() == 1
    assert backlog.take_first() is first


ROWS = st.lists(
    st.tuples(st.integers(1, 5), st.sampled_from(("", "a", "b")), st.sampled_from((0.5, 1.0, 4.0))),
    max_size=60,
)


@settings(max_examples=200, deadline=None, database=None)
@given(wanted=ROWS, takes=st.lists(st.integers(0, 5), max_size=20))
def test_each_is_given_out_once_in_the_order_of_its_key(
    wanted: list[tuple[int, str, float]], takes: list[int]
) -> None:
    backlog = Backlog()
    out: list[TaskRow] = []
    pauses = iter(takes)
    for number, (level, key, weight) in enumerate(wanted, start=1):
        backlog.add(row(number, level, key, weight), weight)
        out += taken(backlog, next(pauses, 0))
    out += taken(backlog)
    assert sorted(each.task_id for each in out) == list(range(1, len(wanted) + 1))
    for level, key in {each[:2] for each in wanted}:
        ids = [each.task_id for each in out if each.order.level == level if _key(each) == key]
        assert ids == sorted(ids)
    assert not backlog
    assert backlog.count() == 0


def _key(task: TaskRow) -> str:
    return task.order.fairness_key
