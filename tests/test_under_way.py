"""Tasks that go on beside whoever began them."""

import asyncio

import pytest

from durably.under_way import UnderWay


async def test_what_is_under_way_is_not_begun_again() -> None:
    under_way, go_on = UnderWay("work"), asyncio.Event()
    begun: list[str] = []

    async def work(name: str) -> None:
        begun.append(name)
        await go_on.wait()

    under_way.begin_once("a", work, "first")
    under_way.begin_once("a", work, "too early")
    under_way.begin_once("b", work, "another")
    await asyncio.sleep(0)
    assert begun == ["first", "another"]
    others = asyncio.all_tasks() - {asyncio.current_task()}
    go_on.set()
    await asyncio.wait(others)
    assert not under_way.working()
    under_way.begin_once("a", work, "again")
    await asyncio.sleep(0)
    assert begun == ["first", "another", "again"]


async def test_what_is_done_in_full_outlives_its_caller() -> None:
    under_way, go_on = UnderWay("changes"), asyncio.Event()
    done: list[str] = []

    async def change() -> str:
        await go_on.wait()
        done.append("changed")
        return "changed"

    caller = asyncio.create_task(under_way.in_full(change()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert under_way.working()
    go_on.set()
    assert await under_way.in_full(change()) == "changed"
    assert done == ["changed", "changed"]


async def test_what_is_closed_is_canceled() -> None:
    under_way = UnderWay("work")
    task = under_way.begin(asyncio.Event().wait())
    under_way.close()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not under_way.working()
