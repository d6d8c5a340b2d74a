"""RPCs of `temporal.api.testservice.v1.TestService`: who lets time be skipped, and who sleeps in it.

Rule 1: time is skipped only while nobody holds a lock. A server starts with one, which a client gives
        up while it waits for a result. Several clients may wait at once, so locks may have been given
        up that nobody held; they are owed then.
Rule 2: work under way (a workflow task, an attempt of an activity) counts like a lock. Who sleeps in
        skipped time gives up one of either: an activity may have time skipped while it runs.
"""

import asyncio

from google.protobuf import empty_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.testservice.v1 import request_response_pb2 as ts

from durably.clock import SkippingClock
from durably.engine.times import nanoseconds
from durably.service.admission import Call


class TimeSkipping:
    """Locks on time, and those who wait for a moment of it."""

    def __init__(self, clock: SkippingClock, locks: int = 1) -> None:
        self.clock = clock
        self._locks = locks
        self._sleepers: dict[asyncio.Future[None], int] = {}
        self._skipping_sleepers = 0
        self.changed = asyncio.Event()
        """There may be more to do than before: a lock was given up, or somebody went to sleep."""

    @property
    def wanted(self) -> bool:
        """Whether anybody might have time skipped."""
        return self._locks <= 0 or bool(self._sleepers)

    def allowed(self, under_way: int) -> bool:
        """Whether time may be skipped now; `under_way`: how many tasks and attempts are."""
        return max(self._locks, 0) + under_way <= self._skipping_sleepers

    def next_wake_ns(self) -> int | None:
        """When the first sleeper wakes."""
        return min(self._sleepers.values(), default=None)

    def wake_sleepers(self) -> None:
        now_ns = self.clock()
        for sleeper, wake_ns in list(self._sleepers.items()):
            if wake_ns <= now_ns and not sleeper.done():
                sleeper.set_result(None)

    async def lock_time_skipping(
        self, request: ts.LockTimeSkippingRequest, call: Call
    ) -> ts.LockTimeSkippingResponse:
        self._locks += 1
        return ts.LockTimeSkippingResponse()

    async def unlock_time_skipping(
        self, request: ts.UnlockTimeSkippingRequest, call: Call
    ) -> ts.UnlockTimeSkippingResponse:
        self._locks -= 1
        self.changed.set()
        return ts.UnlockTimeSkippingResponse()

    async def sleep(self, request: ts.SleepRequest, call: Call) -> ts.SleepResponse:
        await self._sleep_until(self.clock() + nanoseconds(request.duration))
        return ts.SleepResponse()

    async def sleep_until(self, request: ts.SleepUntilRequest, call: Call) -> ts.SleepResponse:
        await self._sleep_until(nanoseconds(request.timestamp))
        return ts.SleepResponse()

    async def unlock_time_skipping_with_sleep(
        self, request: ts.SleepRequest, call: Call
    ) -> ts.SleepResponse:
        wake_ns = self.clock() + nanoseconds(request.duration)
        self._skipping_sleepers += 1
        try:
            await self._sleep_until(wake_ns)
        finally:
            self._skipping_sleepers -= 1
        return ts.SleepResponse()

    async def get_current_time(
        self, request: empty_pb2.Empty, call: Call
    ) -> ts.GetCurrentTimeResponse:
        now = Timestamp()
        now.FromNanoseconds(self.clock())
        return ts.GetCurrentTimeResponse(time=now)

    async def _sleep_until(self, wake_ns: int) -> None:
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers[sleeper] = wake_ns
        self.changed.set()
        self.wake_sleepers()
        try:
            await sleeper
        finally:
            del self._sleepers[sleeper]
