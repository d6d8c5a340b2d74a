"""Opens the store, starts and stops in order what `parts.py` has built, and listens."""

import asyncio
import contextlib
import importlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

import h2corn
from google.protobuf.message import Message

from durably.background import namespaces as namespace_removal
from durably.background import outbox, time_skipping, timers
from durably.background.batches import BatchWork
from durably.background.nodes import Neighbours
from durably.clock import SkippingClock
from durably.config import Config
from durably.edge.agents import Agents
from durably.edge.app import App, Console, Page
from durably.edge.console import guard
from durably.edge.gate import Gate
from durably.edge.grpc import GrpcApp
from durably.edge.health import NAME as HEALTH
from durably.edge.health import Health
from durably.edge.http_json import HttpJson
from durably.edge.nexus import Nexus
from durably.edge.nexus_operations import OperationRoutes
from durably.edge.nexus_services import ServiceRoutes
from durably.edge.reflection import Reflection
from durably.edge.traffic import Traffic
from durably.logs import without_password
from durably.matching import Matching
from durably.parts import Ground, Parts, build
from durably.service import admission
from durably.service.access import Access
from durably.service.discovery import Discovery
from durably.service.durable_calls import DurableCalls
from durably.service.exposures import Exposures
from durably.service.followers import Followers
from durably.service.namespaces import Namespaces
from durably.service.nexus_operations import NexusOperations
from durably.service.nodes import NamespacesChanged, Nodes
from durably.service.operation_output import OutputStreams
from durably.service.push_configs import PushConfigs
from durably.service.request_states import RequestStates
from durably.service.time_skipping import TimeSkipping
from durably.service.transact import Executions
from durably.store.opening import open_store
from durably.store.store import Store, TaskKind
from durably.version import VERSION

logger = logging.getLogger(__name__)

METRICS_PATH = "/metrics"
Table = Mapping[str, admission.Rpc]
Ask = Callable[[str, Message], Awaitable[Any]]


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
        self._tokens: Access | None = None

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
        store = await self._open_store()
        stack.push_async_callback(self._close, store)
        opened = {"store": without_password(self.config.store)}
        logger.info("the store is open", extra={"fields": opened})
        ground = Ground(
            store=store,
            nodes=await self._join(store, stack),
            config=self.config,
            clock=self._clock,
            address=lambda: self.address,
            skipping=self._skipping,
        )
        parts = await build(ground)
        stack.push_async_callback(parts.nexus.http.close)
        stack.push_async_callback(parts.core.executions.contention.close)
        _keep_in_touch(stack, parts)
        deliveries = self._run_loops(stack, parts)
        await self._serve(stack, parts, deliveries)

    def _run_loops(self, stack: contextlib.AsyncExitStack, parts: Parts) -> outbox.Outbox:
        """What goes on beside the calls."""
        core = parts.core
        executions, namespaces = core.executions, core.namespaces
        deliveries = outbox.Outbox(
            executions,
            core.workflows.start_child,
            core.workflows.start_scheduled,
            BatchWork(executions, parts.batches, admission.answers(parts.table)),
            parts.nexus.deliveries,
            parts.nexus.watch,
            parts.nexus.callbacks,
        )
        _run_beside(stack, timers.run(executions), "timers")
        _run_beside(stack, deliveries.run(), "outbox")
        if self.config.traces_endpoint:
            export = _trace_export(executions, namespaces)
            _run_beside(stack, export, "traces")
        _run_beside(stack, namespace_removal.run(executions, namespaces), "namespace removal")
        if self._skipping is not None:
            skips = time_skipping.run(executions, self._skipping, deliveries.delivering)
            _run_beside(stack, skips, "time skipping")
        return deliveries

    async def _open_store(self) -> Store:
        return await open_store(self.config.store, self.config)

    async def _serve(
        self, stack: contextlib.AsyncExitStack, parts: Parts, deliveries: outbox.Outbox
    ) -> None:
        """The edge: what answers on the port, and the port."""
        table, executions = parts.table, parts.core.executions
        services = frozenset(path.split("/")[1] for path in table)
        health = Health(services)
        streams = health.streams() | Reflection({*services, HEALTH}).streams()
        rows = {**table, **health.rows()}
        names = {row.name for row in rows.values()} | {each.name for each in streams.values()}
        traffic = Traffic(names, parts.worker_tasks.ids_of_token)
        grpc = GrpcApp(rows, streams, self._clock, self.config, traffic)
        http = HttpJson(table, self._clock, self.config, traffic)

        def metrics() -> Page:
            from durably.edge.metrics import Metrics

            nexus_waits = parts.nexus.tasks.schedule_to_start
            waits = {**parts.worker_tasks.schedule_to_start, TaskKind.NEXUS: nexus_waits}
            return Metrics(executions, parts.core.namespaces, traffic, waits, deliveries)

        pages = {METRICS_PATH: metrics} if self.config.metrics else {}
        access = await self._access(executions.store)
        ask = admission.answers_for_caller(table)
        console = self._console(ask, access) if self.config.console else None
        calls = DurableCalls(ask)
        exposures = Exposures(parts.core.namespaces)
        operations = NexusOperations(calls, ask)
        output = self._output(stack, table, calls, operations)
        agents = await self._agents(stack, parts, calls, output, exposures)
        routes = OperationRoutes(operations, output, self.config)
        discovery = Discovery(exposures, parts.nexus.endpoints, parts.nexus.dispatch, self.config)
        nexus = Nexus(parts.nexus.calls, routes, ServiceRoutes(discovery), self.config)
        app = App(Gate(self.config, access), grpc, http, nexus, agents, pages, console)
        await self._listen(stack, app, executions.matching, health)

    def _output(
        self,
        stack: contextlib.AsyncExitStack,
        table: Table,
        calls: DurableCalls,
        operations: NexusOperations,
    ) -> OutputStreams:
        """What operations and calls publish, for all who read it."""
        followers = Followers(admission.answers(table))
        stack.push_async_callback(followers.close)
        ask = admission.answers_for_caller(table)
        readers_max = self.config.output_readers_max
        return OutputStreams(operations, calls, followers, ask, readers_max)

    async def _agents(
        self,
        stack: contextlib.AsyncExitStack,
        parts: Parts,
        calls: DurableCalls,
        streams: OutputStreams,
        exposures: Exposures,
    ) -> Agents:
        """MCP and A2A. Their SDKs are loaded beside, where something is exposed already."""
        agents = Agents(
            calls,
            streams,
            exposures,
            PushConfigs(parts.core.executions, parts.core.namespaces),
            await RequestStates.of_store(parts.core.executions.store),
            self.config,
            lambda: self.address,
        )
        stack.push_async_callback(agents.close)
        _run_beside(stack, agents.load(), "loading of agents")
        return agents

    async def _access(self, store: Store) -> Access | None:
        """Raises ValueError for a file of tokens that cannot be used."""
        if self.config.auth_tokens:
            self._tokens = await Access.of_store(self.config.auth_tokens, store, self._clock)
        return self._tokens

    def reload_tokens(self) -> None:
        """Read the file of tokens again. One that cannot be used changes nothing, and is complained of."""
        if self._tokens is None:
            return
        try:
            count = self._tokens.load()
        except ValueError as error:
            logger.error("the tokens stay as they were: %s", error)
        else:
            logger.warning("the tokens were read again", extra={"fields": {"tokens": count}})

    def _console(self, ask: Ask, access: Access | None) -> Callable[[], Console]:
        """Made when it is first asked for; its libraries are not imported before."""
        guard.headers(self.config)  # A wrong setting is refused now, not when a page is asked for.

        def make() -> Console:
            from durably.edge.console.app import WebConsole

            return WebConsole(ask, self.config, self._clock, access)

        return make

    async def _close(self, store: Store) -> None:
        await store.close()
        logger.info("stopped: all that was acknowledged is in the store")

    async def _join(self, store: Store, stack: contextlib.AsyncExitStack) -> Nodes | None:
        """Where others may share the store: be one of them."""
        if not store.shared:
            return None
        if self._skipping is not None:
            raise ValueError("time_skipping needs a store of its own: sqlite:///PATH or memory:")
        from durably.store.postgres import PostgresStore
        from durably.store.postgres_connections import Connector
        from durably.store.postgres_nodes import PostgresNodes
        from durably.store.postgres_rounds import Rounds
        from durably.store.postgres_workers import PostgresWorkers

        assert isinstance(store, PostgresStore)
        listen_url = self.config.postgres_listen or self.config.store
        rounds = Rounds(Connector(listen_url, self.config))
        stack.push_async_callback(rounds.close)
        board, workers = PostgresNodes(store, listen_url), PostgresWorkers(store)
        nodes = Nodes(board, workers, rounds, self.config)
        await nodes.join()
        store.writer.node = nodes.node
        stack.push_async_callback(nodes.leave)
        return nodes

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
            reuse_port=self.config.reuse_port,
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


def _keep_in_touch(stack: contextlib.AsyncExitStack, parts: Parts) -> None:
    """With the servers that share the store, if any can."""
    core, endpoints = parts.core, parts.nexus.endpoints
    nodes = core.executions.nodes
    if nodes is None:
        return
    core.namespaces.changed = endpoints.changed = lambda: nodes.say(NamespacesChanged())
    core.namespaces.settled = endpoints.settled = nodes.settle
    core.namespaces.may_have_changed = endpoints.may_have_changed = lambda: not nodes.alone()
    neighbours = Neighbours(
        nodes,
        core.executions,
        core.namespaces,
        endpoints,
        core.deployments,
        core.version_sets,
        core.task_queues,
        core.queries,
        parts.nexus.tasks,
        parts.worker_tasks,
    )
    _run_beside(stack, neighbours.listen(), "listening to other servers")
    _run_beside(stack, neighbours.beat(), "beats")
    _run_beside(stack, neighbours.look(), "looking for tasks")


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
