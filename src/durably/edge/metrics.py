"""`/metrics`: what each part of the server knows of itself, in Prometheus' text format.

Rule 1: parts count for themselves, whether anybody asks or not; here it is only collected.
Rule 2: labels are bounded: RPCs and states are those of the API, namespaces and queues the largest
        `metrics_queues_max`, all others together.
Rule 3: names are those of Temporal's server where the quantity is the same (with Prometheus' suffixes,
        as its own OpenTelemetry reporter writes them); what is only here begins with `durably_`.
Rule 4: what has to be counted in the store is counted aside, and not more often than every
        `metrics_count_interval_s`.

This module is imported when it is first asked for: the library takes its time.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol, TypeVar, cast

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums

from durably.edge.calls import Receive, Scope, Send
from durably.edge.traffic import Traffic
from durably.engine.state import Kind
from durably.histogram import Histogram
from durably.service.namespaces import Namespaces
from durably.service.transact import Executions
from durably.store.store import QueueBacklog, TaskKind
from durably.store.visibility_query import IS_OPEN, Query
from durably.version import VERSION

HEADERS = [
    (b"content-type", CONTENT_TYPE_PLAIN_0_0_4.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
]
OTHERS = "__others__"
"""The namespace or queue of all that have no lines of their own."""
STICKY = "__sticky__"
"""The queue of all queues that belong to one worker each."""
TASK_TYPES = {
    TaskKind.WORKFLOW: "Workflow",
    TaskKind.ACTIVITY: "Activity",
    TaskKind.NEXUS: "Nexus",
}

K = TypeVar("K", bound=tuple[str, ...])
QueueLabels = tuple[str, str, str]
"""Namespace, queue, type of task."""


class Deliveries(Protocol):
    """The outbox, as far as it is asked here."""

    delivered: int
    failed: int

    def under_way(self) -> int: ...


@dataclass(slots=True)
class _Counted:
    """What was counted in the store."""

    open: list[tuple[str, Kind, int]] = field(default_factory=list)
    """Namespace, kind, how many executions are open."""
    backlogs: list[QueueBacklog] = field(default_factory=list)
    at_s: float = float("-inf")


class Metrics(Collector):
    """The page, and the collector behind it."""

    def __init__(
        self,
        executions: Executions,
        namespaces: Namespaces,
        traffic: Traffic,
        waits: Mapping[TaskKind, Histogram],
        deliveries: Deliveries,
    ) -> None:
        """`waits`: for how many seconds tasks waited until a worker had them."""
        self._executions = executions
        self._namespaces = namespaces
        self._traffic = traffic
        self._waits = waits
        self._deliveries = deliveries
        self._counted = _Counted()
        self._counting = asyncio.Lock()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._counting:
            if time.monotonic() - self._counted.at_s >= self._interval_s():
                self._counted = await self._count()
        body = generate_latest(self._registry)
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "durably_build", "Which durably this is.", value={"version": VERSION}
        )
        yield from self._calls()
        yield from self._tasks()
        yield from self._writes()
        yield from self._executions_and_cache()
        yield from self._timers()
        yield from self._outbox()

    # --- What is counted in the store ---------------------------------------------------------

    def _interval_s(self) -> float:
        return self._executions.config.metrics_count_interval_s

    async def _count(self) -> _Counted:
        store = self._executions.store
        found = _Counted(at_s=time.monotonic(), backlogs=await store.backlogs())
        for namespace in self._namespaces.all():
            for kind in Kind:
                groups = await store.count_executions(
                    kind, namespace.namespace_id, Query(sql=IS_OPEN)
                )
                open_now = sum(count for _, count in groups)
                if open_now or kind is Kind.WORKFLOW:
                    found.open.append((namespace.name, kind, open_now))
        return found

    # --- Families -----------------------------------------------------------------------------

    def _calls(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "service_requests", "Calls that were answered, by RPC.", labels=["operation"]
        )
        errors = CounterMetricFamily(
            "service_error_with_type",
            "Calls that were refused, by RPC and gRPC status; CANCELLED: the caller went away.",
            labels=["operation", "error_type"],
        )
        latency = HistogramMetricFamily(
            "service_latency_seconds",
            "From the first byte of a call to its reply; long polls wait in it.",
            labels=["operation"],
        )
        for name, operation in self._traffic.operations.items():
            if not operation.latency.count:
                continue
            requests.add_metric([name], operation.latency.count)
            _add(latency, [name], operation.latency)
            for status, count in operation.refused.items():
                errors.add_metric([name, status.name], count)
        yield requests
        yield errors
        yield latency
        yield _gauge(
            "service_pending_requests",
            "Calls that are not answered yet; most are long polls.",
            self._traffic.pending,
        )

    def _tasks(self) -> Iterator[Metric]:
        waited = HistogramMetricFamily(
            "task_schedule_to_start_latency_seconds",
            "How long tasks waited for a worker to take them.",
            labels=["task_type"],
        )
        for kind, seconds in self._waits.items():
            _add(waited, [TASK_TYPES[kind]], seconds)
        yield waited
        labels = ["namespace", "taskqueue", "task_type"]
        backlog = GaugeMetricFamily(
            "approximate_backlog_count", "Tasks that wait for a worker.", labels=labels
        )
        age = GaugeMetricFamily(
            "approximate_backlog_age_seconds", "Age of the oldest task that waits.", labels=labels
        )
        for key, (tasks, age_s) in self._backlogs().items():
            backlog.add_metric(key, tasks)
            age.add_metric(key, age_s)
        yield backlog
        yield age
        polls = GaugeMetricFamily(
            "durably_waiting_polls", "Polls of workers that wait for a task.", labels=labels
        )
        for key, count in self._polls().items():
            polls.add_metric(key, count)
        yield polls

    def _writes(self) -> Iterator[Metric]:
        writes = self._executions.store.writes
        seconds = HistogramMetricFamily(
            "durably_commit_seconds", "Time of a commit: one fsync for all that waited."
        )
        _add(seconds, [], writes.seconds)
        yield seconds
        units = HistogramMetricFamily(
            "durably_commit_units", "Transitions in one commit: what shares its fsync."
        )
        _add(units, [], writes.units)
        yield units
        yield _counter(
            "durably_commit_conflicts", "Transitions that lost a race.", writes.conflicts
        )
        yield _counter(
            "durably_commit_failed_units",
            "Transitions that could not be written, and were not acknowledged.",
            writes.failed_units,
        )

    def _executions_and_cache(self) -> Iterator[Metric]:
        executions, tally = self._executions, self._executions.tally
        open_now = GaugeMetricFamily(
            "durably_open_executions",
            "Executions that have not closed.",
            labels=["namespace", "kind"],
        )
        rows = {(name, kind.name.lower()): count for name, kind, count in self._counted.open}
        for key, count in self._largest(rows).items():
            open_now.add_metric(key, count)
        yield open_now
        yield _gauge(
            "durably_cached_executions", "Executions whose state is in memory.", executions.cached()
        )
        yield _counter("durably_cache_hits", "Executions found in memory.", tally.cache_hits)
        yield _counter(
            "durably_cache_misses", "Executions read from the store.", tally.cache_misses
        )
        yield _counter(
            "durably_transitions_decided_again",
            "Transitions that were decided again after a lost race.",
            tally.decided_again,
        )
        yield from self._contention()

    def _contention(self) -> Iterator[Metric]:
        contention = self._executions.contention
        yield _gauge(
            "durably_contested_executions",
            "Executions that several servers write to at once, and take turns at.",
            contention.count(),
        )
        yield _counter(
            "durably_contested_rounds",
            "Turns that this server has had at contested executions.",
            contention.rounds,
        )
        yield _counter(
            "durably_contested_rounds_missed",
            "Turns that did not come in time, so that this server went on without.",
            contention.missed,
        )

    def _timers(self) -> Iterator[Metric]:
        executions = self._executions
        now_ns = executions.clock()
        yield _gauge(
            "durably_deadlines_armed",
            "Deadlines of the next half minute that are in memory, stale ones among them.",
            executions.wakes.near(),
        )
        late_ns = now_ns - executions.wakes.next_near() if executions.wakes.next_near() else 0
        yield _gauge(
            "durably_deadlines_overdue_seconds",
            "How long the oldest deadline that has come waits to be acted on; 0: none does.",
            max(0, late_ns) / 1e9,
        )
        late = HistogramMetricFamily(
            "durably_deadline_lateness_seconds",
            "From a deadline (a timer, a retry, a timeout) to what it sets off.",
        )
        _add(late, [], executions.wakes.lateness)
        yield late

    def _outbox(self) -> Iterator[Metric]:
        deliveries = CounterMetricFamily(
            "durably_outbox_deliveries",
            "Deliveries to other executions; a failed one is tried again.",
            labels=["outcome"],
        )
        deliveries.add_metric(["delivered"], self._deliveries.delivered)
        deliveries.add_metric(["failed"], self._deliveries.failed)
        yield deliveries
        yield _gauge(
            "durably_outbox_waiting",
            "Deliveries that wait for their turn.",
            self._executions.deliveries.qsize(),
        )
        yield _gauge(
            "durably_outbox_under_way",
            "Deliveries that are being made.",
            self._deliveries.under_way(),
        )

    # --- Labels -------------------------------------------------------------------------------

    def _backlogs(self) -> dict[QueueLabels, tuple[int, float]]:
        """Tasks, and seconds that the oldest waits, of the queues that have most."""
        now_ns = self._executions.clock()
        tasks: dict[QueueLabels, int] = {}
        ages_s: dict[QueueLabels, float] = {}
        for row in self._counted.backlogs:
            name = STICKY if row.sticky else row.queue.name
            key = (self._name_of(row.queue.namespace_id), name, TASK_TYPES[row.queue.kind])
            tasks[key] = tasks.get(key, 0) + row.tasks
            ages_s[key] = max(ages_s.get(key, 0.0), (now_ns - row.oldest_ns) / 1e9)
        kept = self._largest(tasks)
        left_out = [age_s for key, age_s in ages_s.items() if key not in kept]
        return {key: (count, ages_s.get(key) or max(left_out)) for key, count in kept.items()}

    def _polls(self) -> dict[QueueLabels, int]:
        found: dict[QueueLabels, int] = {}
        for key, count, asked in self._executions.matching.waiting():
            queue = asked.task_queue
            sticky = queue.kind == queue_enums.TASK_QUEUE_KIND_STICKY
            labels = (
                self._name_of(key.namespace_id),
                STICKY if sticky else key.name,
                TASK_TYPES[key.kind],
            )
            found[labels] = found.get(labels, 0) + count
        return self._largest(found)

    def _name_of(self, namespace_id: str) -> str:
        found = self._namespaces.find(namespace_id)
        return found.name if found is not None else OTHERS

    def _largest(self, counts: dict[K, int]) -> dict[K, int]:
        return largest(counts, self._executions.config.metrics_queues_max)


def largest(counts: dict[K, int], keys_max: int) -> dict[K, int]:
    """The keys with the largest counts; of all others one sum, under a key of `__others__`."""
    if len(counts) <= keys_max:
        return counts
    ordered = sorted(counts, key=lambda key: (-counts[key], key))
    kept = {key: counts[key] for key in ordered[:keys_max]}
    others = cast(K, (OTHERS,) * len(ordered[0]))
    kept[others] = kept.get(others, 0) + sum(counts[key] for key in ordered[keys_max:])
    return kept


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=value)


def _counter(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(name, documentation, value=value)


def _add(family: HistogramMetricFamily, labels: Iterable[str], values: Histogram) -> None:
    """Prometheus' buckets count all values up to their bound."""
    totals = accumulate(values.counts)
    bounds = (*(f"{bound:g}" for bound in values.bounds), "+Inf")
    family.add_metric(list(labels), list(zip(bounds, totals, strict=True)), values.sum)
