"""Builds the parts, passes them in by hand, starts and stops them in order."""

import asyncio
import contextlib
import importlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import h2corn
from google.protobuf.message import Message

from durably.background import namespaces as namespace_removal
from durably.background import outbox, time_skipping, timers
from durably.background.batches import BatchWork
from durably.background.callbacks import CallbackDeliveries
from durably.background.nexus import NexusDeliveries
from durably.background.nexus_external import ExternalCalls
from durably.background.outbound_http import OutboundHttp
from durably.clock import SkippingClock
from durably.config import Config
from durably.edge.agents import Agents
from durably.edge.app import App, Console, Page
from durably.edge.console import guard
from durably.edge.grpc import GrpcApp
from durably.edge.health import NAME as HEALTH
from durably.edge.health import Health
from durably.edge.http_json import HttpJson
from durably.edge.nexus import Nexus
from durably.edge.reflection import Reflection
from durably.edge.traffic import Traffic
from durably.logs import without_password
from durably.matching import Matching
from durably.service import admission
from durably.service.activity_control import ActivityControl
from durably.service.batches import Batches
from durably.service.breakers import CircuitBreakers, IsBlocked
from durably.service.callback_tokens import CallbackTokens
from durably.service.durable_calls import DurableCalls
from durably.service.exposures import Exposures
from durably.service.namespaces import Namespaces
from durably.service.nexus_calls import NexusCalls
from durably.service.nexus_completions import NexusCompletions
from durably.service.nexus_dispatch import NexusDispatch
from durably.service.nexus_endpoints import NexusEndpoints
from durably.service.nexus_system import SystemOperations, endpoint_ids
from durably.service.nexus_tasks import NexusTasks
from durably.service.queries import Queries
from durably.service.request_states import RequestStates
from durably.service.resets import Resets
from durably.service.schedules import Schedules
from durably.service.standalone_activities import StandaloneActivities
from durably.service.standalone_control import StandaloneControl
from durably.service.standalone_nexus import StandaloneNexus
from durably.service.system import System
from durably.service.task_queues import TaskQueues
from durably.service.time_skipping import TimeSkipping
from durably.service.transact import Executions
from durably.service.updates import Updates
from durably.service.visibility import Visibility
from durably.service.worker_tasks import WorkerTasks
from durably.service.workers import Workers
from durably.service.workflow_pause import WorkflowPause
from durably.service.workflow_rules import WorkflowRules
from durably.service.workflows import Workflows
from durably.store.sqlite import SqliteStore
from durably.store.store import Store
from durably.version import VERSION

logger = logging.getLogger(__name__)

METRICS_PATH = "/metrics"
Ask = Callable[[str, Message], Awaitable[Any]]
FOREVER_NS = 50 * 365 * 24 * 3600 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class _NexusParts:
    """What is there for the sake of Nexus, and of callbacks."""

    endpoints: NexusEndpoints
    tasks: NexusTasks
    system: SystemOperations
    calls: NexusCalls
    deliveries: NexusDeliveries
    callbacks: CallbackDeliveries


class Server:
    """A durable execution server inside this process.

    `async with Server(store="memory:", port=0) as server:` then connect any Temporal client to
    `server.address`. Every field of `Config` may be given by name. Raises StoreLocked, StoreTooNew,
    ValueError for an unknown store, OSError for an address that cannot be listened on.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        clock: Callable[[], int] | None = None,
        **settings: Any,
    ) -> None:
        self.config = replace(config or Config(), **settings)
        self.address = ""
        self._skipping: TimeSkipping | None = None
        if self.config.time_skipping:
            if clock is not None:
                raise ValueError("time_skipping needs the server's own clock: leave out `clock`")
            skipping_clock = SkippingClock()
            self._skipping = TimeSkipping(skipping_clock)
            clock = skipping_clock
        self._clock: Callable[[], int] = clock or time.time_ns
        self._running = contextlib.AsyncExitStack()

    async def __aenter__(self) -> "Server":
        async with contextlib.AsyncExitStack() as stack:
            await self._start(stack)
            self._running = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._running.aclose()

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        """Store, then what stands on it, then the port: the last to open is the first to close."""
        store = self._open_store()
        stack.push_async_callback(self._close, store)
        opened = {"store": without_password(self.config.store)}
        logger.info("the store is open", extra={"fields": opened})
        namespaces = Namespaces(store, self.config, self._clock)
        await namespaces.open()
        matching = Matching(self._clock)
        executions = Executions(
            store, matching, self._clock, self.config, self._retention(namespaces)
        )
        breakers = CircuitBreakers(
            self._clock, self.config.nexus_breaker_failures, self.config.nexus_breaker_open_s
        )
        workflows = Workflows(executions, namespaces, _is_blocked(breakers))
        queries = Queries(executions, namespaces)
        activity_control = ActivityControl(executions, namespaces)
        batches = Batches(executions, namespaces)
        rules = WorkflowRules(executions, namespaces)
        executions.rule_for = rules.pausing
        workers = Workers(namespaces, self._clock, self.config)
        task_queues = TaskQueues(executions, namespaces, lambda: self.address)
        nexus = await self._nexus(
            stack, store, namespaces, executions, workflows, task_queues, breakers
        )
        worker_tasks = WorkerTasks(
            executions,
            namespaces,
            queries,
            workers,
            task_queues,
            endpoint_ids(nexus.endpoints, nexus.system),
        )
        handlers = (
            workflows,
            batches,
            worker_tasks,
            nexus.endpoints,
            nexus.tasks,
            StandaloneNexus(executions, namespaces, nexus.endpoints, _is_blocked(breakers)),
            workers,
            task_queues,
            activity_control,
            WorkflowPause(executions, namespaces),
            rules,
            StandaloneActivities(executions, namespaces, _is_blocked(breakers)),
            StandaloneControl(executions, namespaces, activity_control),
            Resets(executions, namespaces),
            queries,
            Updates(executions, namespaces, workflows),
            Visibility(executions, namespaces),
            Schedules(executions, namespaces, workflows),
            namespaces,
            System(await _cluster_id(store), "sqlite", lambda: self.address),
        )
        table = admission.table(handlers)
        if self._skipping is not None:
            table |= admission.table((self._skipping,), admission.TEST_SERVICES)
        batch_work = BatchWork(executions, batches, admission.answers(table))
        deliveries = self._run_loops(stack, executions, namespaces, workflows, batch_work, nexus)
        await self._serve(
            stack, table, executions, namespaces, worker_tasks, deliveries, nexus.calls
        )

    def _run_loops(
        self,
        stack: contextlib.AsyncExitStack,
        executions: Executions,
        namespaces: Namespaces,
        workflows: Workflows,
        batch_work: BatchWork,
        nexus: _NexusParts,
    ) -> outbox.Outbox:
        """What goes on beside the calls."""
        _run_beside(stack, timers.run(executions), "timers")
        deliveries = outbox.Outbox(
            executions,
            workflows.start_child,
            workflows.start_scheduled,
            batch_work,
            nexus.deliveries,
            nexus.callbacks,
        )
        _run_beside(stack, deliveries.run(), "outbox")
        if self.config.traces_endpoint:
            export = _trace_export(executions, namespaces)
            _run_beside(stack, export, "traces")
        _run_beside(stack, namespace_removal.run(executions, namespaces), "namespace removal")
        if self._skipping is not None:
            skips = time_skipping.run(executions, self._skipping, deliveries.delivering)
            _run_beside(stack, skips, "time skipping")
        return deliveries

    async def _nexus(
        self,
        stack: contextlib.AsyncExitStack,
        store: SqliteStore,
        namespaces: Namespaces,
        executions: Executions,
        workflows: Workflows,
        task_queues: TaskQueues,
        breakers: CircuitBreakers,
    ) -> _NexusParts:
        endpoints = NexusEndpoints(store, namespaces, self._clock, self.config)
        await endpoints.open()
        http_client = OutboundHttp(self.config)
        stack.push_async_callback(http_client.close)
        tasks = NexusTasks(executions, namespaces, task_queues)
        system = SystemOperations(workflows)
        tokens = await CallbackTokens.of_store(store)
        external = ExternalCalls(http_client, self.config, lambda: self.address)
        dispatch = NexusDispatch(tasks, namespaces, external)
        completions = NexusCompletions(executions, tokens)
        return _NexusParts(
            endpoints,
            tasks,
            system,
            NexusCalls(
                namespaces, endpoints, dispatch, completions, tokens, self._clock, self.config
            ),
            NexusDeliveries(executions, endpoints, dispatch, tokens, breakers, system),
            CallbackDeliveries(executions, http_client, breakers, completions),
        )

    def _open_store(self) -> SqliteStore:
        return SqliteStore.open(self.config.store)

    async def _serve(
        self,
        stack: contextlib.AsyncExitStack,
        table: dict[str, admission.Rpc],
        executions: Executions,
        namespaces: Namespaces,
        worker_tasks: WorkerTasks,
        deliveries: outbox.Outbox,
        calls: NexusCalls,
    ) -> None:
        """The edge: what answers on the port, and the port."""
        services = frozenset(path.split("/")[1] for path in table)
        health = Health(services)
        streams = health.streams() | Reflection({*services, HEALTH}).streams()
        rows = {**table, **health.rows()}
        names = {row.name for row in rows.values()} | {each.name for each in streams.values()}
        traffic = Traffic(names, worker_tasks.ids_of_token)
        grpc = GrpcApp(rows, streams, self._clock, self.config, traffic)
        http = HttpJson(table, self._clock, self.config, traffic)

        def metrics() -> Page:
            from durably.edge.metrics import Metrics

            return Metrics(executions, namespaces, traffic, worker_tasks, deliveries)

        pages = {METRICS_PATH: metrics} if self.config.metrics else {}
        console = self._console(admission.answers(table)) if self.config.console else None
        agents = await self._agents(stack, admission.answers(table), executions.store, namespaces)
        app = App(grpc, http, Nexus(calls, self.config), agents, pages, console)
        await self._listen(stack, app, executions.matching, health)

    async def _agents(
        self,
        stack: contextlib.AsyncExitStack,
        ask: Ask,
        store: Store,
        namespaces: Namespaces,
    ) -> Agents:
        """MCP and A2A. Their SDKs are loaded beside, where something is exposed already."""
        agents = Agents(
            DurableCalls(ask),
            Exposures(namespaces),
            await RequestStates.of_store(store),
            self.config,
            lambda: self.address,
        )
        stack.push_async_callback(agents.close)
        _run_beside(stack, agents.load(), "loading of agents")
        return agents

    def _console(self, ask: Ask) -> Callable[[], Console]:
        """Made when it is first asked for; its libraries are not imported before."""
        guard.headers(self.config)  # A wrong setting is refused now, not when a page is asked for.

        def make() -> Console:
            from durably.edge.console.app import WebConsole

            return WebConsole(ask, self.config, self._clock)

        return make

    async def _close(self, store: SqliteStore) -> None:
        await store.close()
        logger.info("stopped: all that was acknowledged is in the store")

    def _retention(self, namespaces: Namespaces) -> Callable[[str], int]:
        """Nothing is removed because its time was skipped."""
        return namespaces.retention_ns if self._skipping is None else lambda _: FOREVER_NS

    async def _listen(
        self, stack: contextlib.AsyncExitStack, app: App, matching: Matching, health: Health
    ) -> None:
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        http = h2corn.Server(app, self._http_config(f"{host}:{self.config.port}"))
        with _no_banner():
            serving = asyncio.create_task(http.serve(), name="http")
            started = asyncio.create_task(http.wait_started())
            await asyncio.wait((serving, started), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            started.cancel()
            await serving
        stack.push_async_callback(self._drain, http, serving, app, matching, health)
        port = http.addresses[0].rsplit(":", 1)[1] if self.config.port == 0 else self.config.port
        self.address = f"{host}:{port}"
        fields = {"address": self.address, "version": VERSION}
        logger.info("listening", extra={"fields": fields})

    def _http_config(self, bind: str) -> h2corn.Config:
        return h2corn.Config(
            bind=(bind,),
            grpc=True,
            access_log=False,
            http1=True,
            lifespan="off",
            max_concurrent_streams=self.config.concurrent_streams_max,
            timeout_graceful_shutdown=self.config.shutdown_drain_s,
        )

    async def _drain(
        self,
        http: h2corn.Server,
        serving: "asyncio.Task[None]",
        app: App,
        matching: Matching,
        health: Health,
    ) -> None:
        """Take no new connections, answer the long polls, let what is under way finish."""
        logger.info("draining: no new connections, long polls are answered")
        health.stop()
        app.stop()
        http.shutdown()
        give_up = asyncio.get_running_loop().time() + self.config.shutdown_drain_s + 1
        while not serving.done() and asyncio.get_running_loop().time() < give_up:
            matching.end_all_polls()
            await asyncio.wait((serving,), timeout=0.02)
        if not serving.done():
            serving.cancel()
        await asyncio.wait((serving,))


@contextlib.contextmanager
def _no_banner() -> Iterator[None]:
    """h2corn has no setting for its banner; the command line prints where it serves itself."""
    native: Any = importlib.import_module("h2corn._lib")
    emit = native.emit_banner
    native.emit_banner = lambda *_: None
    try:
        yield
    finally:
        native.emit_banner = emit


def _is_blocked(breakers: CircuitBreakers) -> IsBlocked:
    return lambda namespace_id, endpoint: breakers.is_open((namespace_id, endpoint))


async def _cluster_id(store: SqliteStore) -> str:
    found = await store.metadata("cluster_id")
    if found is None:
        found = str(uuid.uuid4()).encode()
        await store.put_metadata("cluster_id", found)
    return found.decode()


def _trace_export(executions: Executions, namespaces: Namespaces) -> Coroutine[Any, Any, None]:
    """Raises ValueError without the packages that it needs, or for an unknown protocol."""
    try:
        from durably.background.traces import TraceExport
        from durably.traces.otlp import OtlpExporter
    except ImportError as error:
        raise ValueError(
            f"traces_endpoint needs more packages ({error.name}): pip install 'durably[otel]'"
        ) from error
    config = executions.config
    exporter = OtlpExporter(config.traces_endpoint, config.traces_protocol)
    return TraceExport(executions, namespaces, exporter).run()


def _run_beside(stack: contextlib.AsyncExitStack, loop: Any, name: str) -> None:
    """Run a background loop until the stack unwinds."""
    task = asyncio.create_task(loop, name=name)

    async def stop() -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(stop)
