"""An environment for tests: a server in memory, in this process, whose time can be skipped.

Rule 1: time is skipped while a test waits for the result of a workflow, or sleeps in the environment;
        at all other times it passes as it does outside.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf import empty_pb2
from temporalio import testing
from temporalio.api.testservice.v1 import request_response_pb2 as ts
from temporalio.client import (
    Client,
    FetchWorkflowHistoryEventsInput,
    Interceptor,
    OutboundInterceptor,
    WorkflowHandle,
    WorkflowHistoryEventAsyncIterator,
    WorkflowHistoryEventFilterType,
)

from durably.server import Server


class WorkflowEnvironment(testing.WorkflowEnvironment):
    """`async with await WorkflowEnvironment.start_time_skipping() as env:`, then `env.client`.

    Everything that the SDK's environment of this name does, and schedules, resets, updates and standalone
    activities too.
    """

    def __init__(self, client: Client, server: Server) -> None:
        self._server = server
        self._skips = True
        # The SDK's own environments fail a workflow, not its task, where it asserts wrongly.
        options = testing.WorkflowEnvironment.from_client(client).client.config()
        options["interceptors"] = [*options["interceptors"], _SkipsWhileWaiting(self)]
        super().__init__(Client(**options))

    @classmethod
    async def start_time_skipping(
        cls, *, server_settings: dict[str, Any] | None = None, **client_options: Any
    ) -> "WorkflowEnvironment":
        """Start a server in memory, and connect a client to it.

        `server_settings` are settings of the server by name; all others are options of
        `Client.connect`. Options of the SDK's own that say where to download a server from are not
        needed, and refused.
        """
        settings: dict[str, Any] = {"store": "memory:", "port": 0, **(server_settings or {})}
        server = await Server(**settings, time_skipping=True).__aenter__()
        try:
            client = await Client.connect(server.address, **client_options)
        except BaseException:
            await server.__aexit__(None, None, None)
            raise
        return cls(client, server)

    async def shutdown(self) -> None:
        """Stop the server."""
        await self._server.__aexit__(None, None, None)

    async def sleep(self, duration: timedelta | float) -> None:
        """Sleep in the environment's time: it is skipped if nobody works meanwhile."""
        request = ts.SleepRequest()
        request.duration.FromTimedelta(
            duration if isinstance(duration, timedelta) else timedelta(seconds=duration)
        )
        await self.client.test_service.unlock_time_skipping_with_sleep(request)

    async def get_current_time(self, handle: WorkflowHandle[Any, Any] | None = None) -> datetime:
        """The environment's time; it is one for all workflows."""
        found = await self.client.test_service.get_current_time(empty_pb2.Empty())
        return found.time.ToDatetime(tzinfo=UTC)

    @property
    def supports_time_skipping_v1(self) -> bool:
        return True

    @property
    def supports_time_skipping(self) -> bool:
        return True

    @contextmanager
    def auto_time_skipping_disabled(self) -> Iterator[None]:
        """Time passes as outside in this block, even while a result is waited for."""
        before, self._skips = self._skips, False
        try:
            yield
        finally:
            self._skips = before

    @asynccontextmanager
    async def time_skipping_unlocked(self) -> AsyncIterator[None]:
        """Time is skipped in this block, unless `auto_time_skipping_disabled` is around it."""
        if not self._skips:
            yield
            return
        service = self.client.test_service
        await service.unlock_time_skipping(ts.UnlockTimeSkippingRequest())
        try:
            yield
        finally:
            await service.lock_time_skipping(ts.LockTimeSkippingRequest())


class _SkipsWhileWaiting(Interceptor):
    def __init__(self, environment: WorkflowEnvironment) -> None:
        self._environment = environment

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        return _Outbound(next, self._environment)


class _Outbound(OutboundInterceptor):
    def __init__(self, following: OutboundInterceptor, environment: WorkflowEnvironment) -> None:
        super().__init__(following)
        self._environment = environment

    def fetch_workflow_history_events(
        self, input: FetchWorkflowHistoryEventsInput
    ) -> WorkflowHistoryEventAsyncIterator:
        """Waiting for a result is waiting for the event that closes the workflow."""
        closing = WorkflowHistoryEventFilterType.CLOSE_EVENT
        if not input.wait_new_event or input.event_filter_type != closing:
            return super().fetch_workflow_history_events(input)
        return _SkippingIterator(self._environment, input)


class _SkippingIterator(WorkflowHistoryEventAsyncIterator):
    def __init__(
        self, environment: WorkflowEnvironment, input: FetchWorkflowHistoryEventsInput
    ) -> None:
        super().__init__(environment.client, input)
        self._environment = environment

    async def fetch_next_page(self, *, page_size: int | None = None) -> None:
        async with self._environment.time_skipping_unlocked():
            await super().fetch_next_page(page_size=page_size)
