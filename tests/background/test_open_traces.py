"""Which open runs traces follow: bounded, kept through a restart, and given up when they are gone."""

from collections.abc import AsyncIterator

import pytest_asyncio

from durably.background import open_traces
from durably.background.open_traces import FOLLOWED_MAX, READ_MAX, Followed, OpenTraces, Reading
from durably.config import Config
from durably.store.opening import open_store
from durably.store.store import Store
from durably.traces.spans import Parent, RunSpans


@pytest_asyncio.fixture
async def store() -> AsyncIterator[Store]:
    opened = await open_store("memory:", Config())
    yield opened
    await opened.close()


def run(number: int) -> Followed:
    return Followed(number, "n", f"w{number}", f"r{number}")


async def loaded(store: Store) -> OpenTraces:
    found = OpenTraces(store)
    await found.load()
    return found


async def test_how_far_a_run_was_sent_is_known_to_the_next_server(store: Store) -> None:
    first = await loaded(store)
    await first.sent(run(1), 4)
    await first.sent(run(2), 7)
    await first.sent(run(1), 9)
    await first.drop(2)
    second = await loaded(store)
    assert (second.sent_version(1), second.sent_version(2)) == (9, 0)
    await second.sent(run(3), 1)
    first.forget()
    await first.load()
    assert first.sent_version(3) == 1


async def test_no_more_are_followed_than_the_note_has_room_for(store: Store) -> None:
    followed = await loaded(store)
    for number in range(FOLLOWED_MAX):
        assert followed.may_follow(run(number))
        await followed.sent(run(number), 1)
    assert not followed.may_follow(run(FOLLOWED_MAX))
    assert followed.may_follow(run(0))
    await followed.drop(5)
    assert followed.may_follow(run(FOLLOWED_MAX))


async def test_runs_that_change_no_more_are_looked_at_in_turns(store: Store) -> None:
    followed = await loaded(store)
    for number in range(12):
        await followed.sent(run(number), 1)
    seen: set[int] = set()
    for _ in range(3):
        looked_at = [each.execution_id for each in followed.to_look_at({0: ("n", "w0", "r0")})]
        assert looked_at[-1] == 0
        assert len(looked_at) == open_traces.LOOKED_AT_AGAIN + 1
        seen.update(looked_at)
    assert seen == set(range(12))
    (new,) = [e for e in followed.to_look_at({99: ("n", "w", "r")}) if e.execution_id == 99]
    assert (new.run_id, new.sent_version) == ("r", 0)


async def test_a_run_that_was_sent_whole_before_a_kill_is_given_up(store: Store) -> None:
    followed = await loaded(store)
    await followed.drop_if_closed_before(run(1), before_ns=10, now_ns=1)  # It was not followed.
    await followed.sent(run(1), 4)
    await followed.drop_if_closed_before(run(1), before_ns=5, now_ns=6)
    assert followed.sent_version(1) == 4  # It may have closed after what was exported.
    await followed.drop_if_closed_before(run(1), before_ns=7, now_ns=9)
    assert (await loaded(store)).sent_version(1) == 0


async def test_what_was_read_is_kept_of_few(store: Store) -> None:
    followed = await loaded(store)
    for number in range(READ_MAX + 1):
        spans = RunSpans(f"r{number}", "default", content=False)
        followed.keep(number, Reading(Parent(1), spans))
    assert followed.reading(0) is None
    assert followed.reading(1) is not None
    followed.read_again(1)
    assert followed.reading(1) is None
