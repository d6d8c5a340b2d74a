"""RPCs about task queues: what they are asked for, what waits in them, how they are limited.

Rule 1: a queue is read from the store before anything is said of it or taken from it.
Rule 2: a change of its configuration is on disk before it has effect.
"""

import asyncio
import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine import priority
from durably.engine.state import Kind
from durably.engine.version_sets.machine import find
from durably.engine.versioning.apply import VERSIONED
from durably.engine.versioning.version import SEPARATOR, old_text
from durably.errors import InvalidArgument
from durably.matching import PollerSeen, QueueLimits, Stats
from durably.routing import SET_PREFIX, QueueRouting
from durably.service.admission import Call
from durably.service.describe import set_time
from durably.service.namespaces import Namespaces
from durably.service.nodes import (
    LEFT_TO_HOLDER_NS,
    Behind,
    Configured,
    Nodes,
    Waiting,
    wanted,
)
from durably.service.transact import Executions
from durably.store import visibility_query
from durably.store.filter_syntax import quoted
from durably.store.store import QueueKey, TaskKind, TaskRow

KINDS = tuple(int(kind) for kind in TaskKind)
"""The kinds of task queues, as the API numbers them."""
BACKLOG_PAGE = 1000
UNLIMITED_PER_S = 100_000.0
"""What is shown of a queue that nothing limits: the default of the API's own server."""
BUILD_IDS_ASKED_MAX = 5
"""The reachability of so many builds may be asked for at once."""
DIVIDED_NS = 30_000_000_000
"""A server whose workers have not polled a queue for so long leaves its share of the rates to others."""
RESERVED_PREFIX = "/_sys/"

RateUpdate = ws.UpdateTaskQueueConfigRequest.RateLimitUpdate
EffectiveRate = ws.DescribeTaskQueueResponse.EffectiveRateLimit


class TaskQueues:
    """All task queues, as the store and `Matching` have them."""

    def __init__(
        self, executions: Executions, namespaces: Namespaces, address: Callable[[], str]
    ) -> None:
        self._executions = executions
        self._matching = executions.matching
        self._namespaces = namespaces
        self._config = executions.config
        self._address = address
        self._elsewhere: set[QueueKey] = set()
        """Queues that may have tasks which nobody has."""
        self._asked: dict[QueueKey, int] = {}
        """Queues of which other servers had tasks at the last look, and when they were asked for some."""
        self._claiming: set[QueueKey] = set()

    async def load(self, key: QueueKey) -> None:
        """Before the first use of a queue: its configuration, and the tasks of a former server."""
        if self._matching.queue(key).loaded:
            return
        store = self._executions.store
        config = _decode(await store.queue_config(key))
        nodes = self._executions.nodes
        if nodes is not None:
            await self._load_shared(nodes, key, config)
            return
        found: list[TaskRow] = []
        page: list[TaskRow] = []
        while len(page) == BACKLOG_PAGE or not found:
            page = await store.backlog(key, found[-1].task_id if found else 0, BACKLOG_PAGE)
            found += page
            if not page:
                break
        if not self._matching.queue(key).loaded:
            inherited = [
                row for row in found if row.task_id <= self._executions.inherited_tasks_up_to
            ]
            self._matching.load(key, inherited, _limits(config), self._executions.dispatch.place)

    # --- Queues that servers share ------------------------------------------------------------

    async def _load_shared(
        self, nodes: Nodes, key: QueueKey, config: taskqueue.TaskQueueConfig
    ) -> None:
        """A server that is alone takes over every task there is; else each takes one when a worker
        waits for it."""
        found: list[TaskRow] = []
        while nodes.alone():
            page = await nodes.claim(key, BACKLOG_PAGE)
            found += page
            if len(page) < BACKLOG_PAGE:
                break
        else:
            self._elsewhere.add(key)
        self._matching.divide(key, self._polled_at(nodes, key))
        if not self._matching.queue(key).loaded:
            self._matching.load(key, found, _limits(config), self._executions.dispatch.place)
        else:
            self._add(key, found)

    def _add(self, key: QueueKey, rows: list[TaskRow]) -> None:
        for row in rows:
            self._matching.add(self._executions.dispatch.place(key, row), row)

    async def fetch(self, part: QueueKey) -> None:
        """Before a poll waits: a task that nobody has, if there may be one, and none is here."""
        nodes = self._executions.nodes
        if nodes is None:
            return
        key = part.whole
        while key in self._elsewhere:
            if self._matching.queue(part).backlog:
                return
            await self._claim(nodes, key, 1)

    async def _claim(
        self, nodes: Nodes, key: QueueKey, limit: int, of_others_before_ns: int = 0
    ) -> None:
        self._elsewhere.discard(key)
        found = await nodes.claim(key, limit, of_others_before_ns=of_others_before_ns)
        if len(found) == limit:
            self._elsewhere.add(key)
        if len(found) == limit and any(row.order.fairness_key for row in found):
            await self._take_left(nodes, key, found)
        else:
            self._add(key, found)
        self._say_if_behind(nodes, key)

    def _say_if_behind(self, nodes: Nodes, key: QueueKey) -> None:
        if self._matching.stats(key, of_all=True).backlog:
            nodes.say_later(Behind.of(key), lambda: self._executions.dispatch.is_behind(key))

    async def _take_left(self, nodes: Nodes, key: QueueKey, found: list[TaskRow]) -> None:
        """Whose turn it is among fairness keys is known to who has all their tasks: take those that
        nobody has, or a server that is silent, together with what was found."""
        taken, full = list(found), True
        try:
            while full:
                page = await nodes.claim_left(key, BACKLOG_PAGE)
                taken += page
                full = len(page) == BACKLOG_PAGE
        finally:
            self._matching.take_over(key, taken, self._executions.dispatch.place)

    def other_is_behind(self, key: QueueKey) -> None:
        """Another server says so: ask for as many tasks as polls wait here."""
        nodes = self._executions.nodes
        if nodes is not None:
            for part, count in self._matching.idle_parts(key):
                nodes.say(wanted(part, count))

    async def let_go(self, part: QueueKey, count: int) -> None:
        """Workers of another server want tasks: give up what those that poll here are behind with."""
        nodes = self._executions.nodes
        before_ns = self._executions.clock() - LEFT_TO_HOLDER_NS
        tasks = self._matching.give_up(part, count, before_ns)
        if nodes is None or not tasks:
            return
        nodes.doubt(task.task_id for task in tasks)
        await nodes.release_doubted()
        key = part.whole
        self._elsewhere.add(key)
        nodes.say(Waiting.of(key))
        self._say_if_behind(nodes, key)

    async def task_waits(self, key: QueueKey, of_others_before_ns: int = 0) -> None:
        """There is one that nobody has: polls that wait here for this queue get it, or one of them; or
        one that another server has since before that time."""
        nodes = self._executions.nodes
        self._elsewhere.add(key)
        idle = self._matching.idle(key)
        if nodes is None or not idle or key in self._claiming:
            return
        self._claiming.add(key)
        try:
            while idle and key in self._elsewhere:
                await self._claim(nodes, key, idle, of_others_before_ns)
                idle = self._matching.idle(key)
        finally:
            self._claiming.discard(key)

    async def look(self) -> None:
        """For all queues on which polls wait: are there tasks that nobody told of? A server that has
        some is asked for them; what was made before it was asked, and is still there at the next look,
        is taken from it: it may be dead."""
        nodes = self._executions.nodes
        if nodes is not None:
            await self._let_go_of_unknown(nodes)
        queues = self._matching.idle_queues()
        asked, self._asked = self._asked, {}
        if nodes is None or not queues:
            return
        now_ns = self._executions.clock()
        for key in await nodes.board.waiting(queues, nodes.node):
            self._asked[key] = now_ns
            self.other_is_behind(key)
            await self.task_waits(key, asked.get(key, 0))

    async def _let_go_of_unknown(self, nodes: Nodes) -> None:
        """Tasks that a claim has put in this server's name, and whose rows never came here: nobody has
        them. One that was just committed, or given to a worker, is given out again, and then refused."""
        unsure = nodes.take_unsure()
        while unsure:
            key = unsure[-1]
            try:
                held = await nodes.board.held(key, nodes.node)
                nodes.doubt(set(held) - self._matching.task_ids(key))
                await nodes.release_doubted()
            except BaseException:
                nodes.put_unsure(unsure)
                raise
            unsure.pop()
            nodes.say(Waiting.of(key))
            await self.task_waits(key)

    def divide_rates(self) -> None:
        """Among the servers at which workers wait for a queue, as they are known now."""
        nodes = self._executions.nodes
        if nodes is not None:
            for key in self._matching.queues():
                self._matching.divide(key, self._polled_at(nodes, key))

    def _polled_at(self, nodes: Nodes, key: QueueKey) -> int:
        """At how many servers workers wait for a queue, this one among them."""
        return 1 + nodes.polled_at(key, DIVIDED_NS, self._executions.clock())

    async def configured(self, key: QueueKey) -> None:
        """Another server has changed the configuration of a queue."""
        if self._matching.queue(key).loaded:
            config = _decode(await self._executions.store.queue_config(key))
            self._matching.configure(key, _limits(config))

    # --- Configuration ------------------------------------------------------------------------

    async def update_task_queue_config(
        self, request: ws.UpdateTaskQueueConfigRequest, call: Call
    ) -> ws.UpdateTaskQueueConfigResponse:
        namespace_id = self._namespaces.id_of(request.namespace)
        self._check_name(request.task_queue)
        kind = self._check_update(request)
        key = QueueKey(namespace_id, kind, request.task_queue)
        await self.load(key)
        config = _decode(await self._executions.store.queue_config(key))
        if request.HasField("update_queue_rate_limit"):
            self._set_rate(config.queue_rate_limit, request.update_queue_rate_limit, request)
        if request.HasField("update_fairness_key_rate_limit_default"):
            self._set_rate(
                config.fairness_keys_rate_limit_default,
                request.update_fairness_key_rate_limit_default,
                request,
            )
        for fairness_key in request.unset_fairness_weight_overrides:
            config.fairness_weight_overrides.pop(fairness_key, None)
        config.fairness_weight_overrides.update(request.set_fairness_weight_overrides)
        if len(config.fairness_weight_overrides) > self._config.fairness_weights_max:
            raise InvalidArgument(
                "the update would give the queue more than"
                f" {self._config.fairness_weights_max} fairness weights (fairness_weights_max)"
            )
        done = self._executions.store.put_queue_config(key, config.SerializeToString())
        # What is written takes effect, even if the caller has gone away meanwhile.
        done.add_done_callback(lambda done: self._written(key, config, done))
        await asyncio.shield(done)
        if self._executions.nodes is not None:
            await self._executions.nodes.settle()
        return ws.UpdateTaskQueueConfigResponse(config=config)

    def _written(
        self, key: QueueKey, config: taskqueue.TaskQueueConfig, done: "asyncio.Future[None]"
    ) -> None:
        if not done.cancelled() and done.exception() is None:
            self._matching.configure(key, _limits(config))
            if self._executions.nodes is not None:
                self._executions.nodes.say(Configured.of(key))

    def _set_rate(
        self,
        config: taskqueue.RateLimitConfig,
        update: RateUpdate,
        request: ws.UpdateTaskQueueConfigRequest,
    ) -> None:
        config.Clear()
        if update.HasField("rate_limit"):
            config.rate_limit.CopyFrom(update.rate_limit)
        config.metadata.reason = update.reason
        config.metadata.update_identity = request.identity
        set_time(config.metadata.update_time, self._executions.clock())

    def _check_update(self, request: ws.UpdateTaskQueueConfigRequest) -> TaskKind:
        try:
            kind = TaskKind(request.task_queue_type)
        except ValueError as error:
            raise InvalidArgument("TaskQueueType is not set, or of no task queue.") from error
        for update, what, label in (
            (request.update_queue_rate_limit, "rate limit", "UpdateQueueRateLimit"),
            (
                request.update_fairness_key_rate_limit_default,
                "fairness key rate limit",
                "UpdateFairnessKeyRateLimitDefault",
            ),
        ):
            if kind is TaskKind.WORKFLOW and update.HasField("rate_limit"):
                raise InvalidArgument(f"Setting {what} on workflow task queues is not allowed.")
            _check_rate(update, label, self._config.identifier_chars_max)
        if len(request.identity) > self._config.identifier_chars_max:
            raise InvalidArgument(
                f"Identity field too long (max {self._config.identifier_chars_max} characters)."
            )
        _check_weights(request, self._config.fairness_weights_max)
        return kind

    def _check_name(self, name: str) -> None:
        if not name:
            raise InvalidArgument("TaskQueue is not set on request.")
        if len(name) > self._config.identifier_chars_max:
            raise InvalidArgument("TaskQueue length exceeds limit.")

    # --- Descriptions -------------------------------------------------------------------------

    async def list_task_queue_partitions(
        self, request: ws.ListTaskQueuePartitionsRequest, call: Call
    ) -> ws.ListTaskQueuePartitionsResponse:
        """A queue has one partition, which is called like the queue."""
        self._namespaces.id_of(request.namespace)
        name = request.task_queue.name
        self._check_name(name)
        if name.startswith(RESERVED_PREFIX):
            raise InvalidArgument(
                f"task queue name cannot start with reserved prefix {RESERVED_PREFIX}"
            )
        partition = taskqueue.TaskQueuePartitionMetadata(key=name, owner_host_name=self._address())
        return ws.ListTaskQueuePartitionsResponse(
            activity_task_queue_partitions=[partition], workflow_task_queue_partitions=[partition]
        )

    async def describe_task_queue(
        self, request: ws.DescribeTaskQueueRequest, call: Call
    ) -> ws.DescribeTaskQueueResponse:
        namespace_id = self._namespaces.id_of(request.namespace)
        name = request.task_queue.name
        self._check_name(name)
        if request.api_mode == queue_enums.DESCRIBE_TASK_QUEUE_MODE_ENHANCED:
            return await self._enhanced(namespace_id, name, request)
        asked = request.task_queue_type
        kind = TaskKind(asked) if asked in KINDS else TaskKind.WORKFLOW
        key = QueueKey(namespace_id, kind, name)
        await self.load(key)
        response = ws.DescribeTaskQueueResponse(
            pollers=self._pollers(key, of_all=True), effective_rate_limit=self._effective_rate(key)
        )
        routing = self._executions.routes.of(key)
        if routing is not None:
            _show_routing(response.versioning_info, routing)
        if request.report_stats:
            elsewhere = await self._elsewhere_of(key)
            stats = self._matching.stats(key, of_all=True)
            response.stats.CopyFrom(shown_stats(self._with(stats, elsewhere.values())))
            levels = {*self._matching.levels(key, of_all=True), *elsewhere, priority.DEFAULT_LEVEL}
            for level in levels:
                stats = self._matching.stats(key, level, of_all=True)
                there = [elsewhere[level]] if level in elsewhere else []
                shown = shown_stats(self._with(stats, there))
                response.stats_by_priority_key[level].CopyFrom(shown)
        if request.report_config:
            config = await self._executions.store.queue_config(key)
            if config is not None:
                response.config.ParseFromString(config)
        if request.include_task_queue_status:
            status = response.task_queue_status
            status.backlog_count_hint = (await self._whole(key, of_all=True)).backlog
            status.rate_per_second = response.effective_rate_limit.requests_per_second
        return response

    async def _enhanced(
        self, namespace_id: str, name: str, request: ws.DescribeTaskQueueRequest
    ) -> ws.DescribeTaskQueueResponse:
        """By versions of workers: those that are asked for, or those without one."""
        asked = request.versions
        if request.report_task_reachability and len(asked.build_ids) > BUILD_IDS_ASKED_MAX:
            raise InvalidArgument(
                "Too many build ids queried at once with ReportTaskReachability==true,"
                f" limit: {BUILD_IDS_ASKED_MAX}"
            )
        if request.task_queue.kind == queue_enums.TASK_QUEUE_KIND_STICKY:
            raise InvalidArgument("enhanced mode is not for sticky queues")
        kinds = list(request.task_queue_types) or [
            queue_enums.TASK_QUEUE_TYPE_WORKFLOW,
            queue_enums.TASK_QUEUE_TYPE_ACTIVITY,
        ]
        keys = [QueueKey(namespace_id, TaskKind(kind), name) for kind in kinds if kind in KINDS]
        for key in keys:
            await self.load(key)
        response = ws.DescribeTaskQueueResponse()
        for shown, version in self._versions_asked_for(asked, namespace_id, name):
            info = response.versions_info[shown]
            for key in keys:
                part = replace(key, version=version)
                info.types_info[key.kind].CopyFrom(await self._type_info(part, request))
            if request.report_task_reachability:
                reachable = await self._reachable(namespace_id, name, shown)
                info.task_reachability = reachable
        return response

    def _versions_asked_for(
        self, asked: taskqueue.TaskQueueVersionSelection, namespace_id: str, name: str
    ) -> list[tuple[str, str]]:
        """(what it is called, the part of the queue): build ids of sets, or whole versions."""
        found: list[tuple[str, str]] = []
        sets = self._executions.routes.sets(namespace_id, name)
        if asked.unversioned or not (asked.build_ids or asked.all_active):
            found.append(("", ""))
        for build_id in asked.build_ids:
            at = find(sets, build_id)
            in_set = SET_PREFIX + (sets[at][0] if at >= 0 else build_id)
            found.append((build_id, build_id if SEPARATOR in build_id else in_set))
        if asked.all_active:
            found += [(builds[-1], SET_PREFIX + of) for of, builds in sets]
        return found

    async def _type_info(
        self, part: QueueKey, request: ws.DescribeTaskQueueRequest
    ) -> taskqueue.TaskQueueTypeInfo:
        return taskqueue.TaskQueueTypeInfo(
            pollers=self._pollers(part) if request.report_pollers else [],
            stats=shown_stats(await self._whole(part)) if request.report_stats else None,
        )

    async def _reachable(
        self, namespace_id: str, name: str, build_id: str
    ) -> queue_enums.BuildIdTaskReachability.ValueType:
        """Whether tasks of this queue may still come to workers of a build."""
        sets = self._executions.routes.sets(namespace_id, name)
        if not build_id or (sets and sets[-1][1][-1] == build_id):
            return queue_enums.BUILD_ID_TASK_REACHABILITY_REACHABLE
        for status, reached in (
            ("= 'Running'", queue_enums.BUILD_ID_TASK_REACHABILITY_REACHABLE),
            ("!= 'Running'", queue_enums.BUILD_ID_TASK_REACHABILITY_CLOSED_WORKFLOWS_ONLY),
        ):
            filter = (
                f"TaskQueue = {quoted(name)} AND ExecutionStatus {status}"
                f" AND BuildIds = {quoted(f'{VERSIONED}:{build_id}')}"
            )
            store = self._executions.store
            query = visibility_query.parse(filter, {}, dialect=store.dialect)
            groups = await store.count_executions(Kind.WORKFLOW, namespace_id, query)
            if any(count for _, count in groups):
                return reached
        return queue_enums.BUILD_ID_TASK_REACHABILITY_UNREACHABLE

    async def _whole(self, key: QueueKey, *, of_all: bool = False) -> Stats:
        """With the tasks that other servers have; rates are those of this server."""
        stats = self._matching.stats(key, of_all=of_all)
        return self._with(stats, (await self._elsewhere_of(key)).values())

    async def _elsewhere_of(self, key: QueueKey) -> dict[int, tuple[int, int]]:
        """Level -> how many tasks other servers have, or nobody; when the oldest was created."""
        nodes = self._executions.nodes
        if nodes is None or nodes.alone():
            return {}
        return await nodes.board.elsewhere(key, nodes.node)

    def _with(self, stats: Stats, elsewhere: Iterable[tuple[int, int]]) -> Stats:
        """Of this server, and of others."""
        now_ns = self._executions.clock()
        for count, oldest_ns in elsewhere:
            age_ns = max(stats.oldest_age_ns, now_ns - oldest_ns)
            stats = replace(stats, backlog=stats.backlog + count, oldest_age_ns=age_ns)
        return stats

    def _pollers(self, key: QueueKey, *, of_all: bool = False) -> list[taskqueue.PollerInfo]:
        """At all servers; `of_all`: of whatever version."""
        seen = self._matching.pollers(key, of_all=of_all)
        nodes = self._executions.nodes
        if nodes is not None:
            known = {each.identity for each in seen}
            others = nodes.pollers(key, of_all=of_all)
            seen += [each for each in others if each.identity not in known]
        return [_poller_info(each) for each in seen]

    def _effective_rate(self, key: QueueKey) -> EffectiveRate:
        queue = self._matching.queue(key)
        per_s, source = UNLIMITED_PER_S, queue_enums.RATE_LIMIT_SOURCE_SYSTEM
        if queue.limits.per_s is not None:
            per_s, source = queue.limits.per_s, queue_enums.RATE_LIMIT_SOURCE_API
        elif queue.worker_per_s is not None:
            per_s, source = queue.worker_per_s, queue_enums.RATE_LIMIT_SOURCE_WORKER
        return EffectiveRate(requests_per_second=per_s, rate_limit_source=source)


def _show_routing(shown: taskqueue.TaskQueueVersioningInfo, routing: QueueRouting) -> None:
    current, ramping = routing.current.version, routing.ramping.version
    shown.current_version = old_text(current)
    if current is not None:
        shown.current_deployment_version.CopyFrom(current.message)
    if ramping is not None:
        shown.ramping_deployment_version.CopyFrom(ramping.message)
    if ramping is not None or routing.percentage:
        shown.ramping_version = old_text(ramping)
        shown.ramping_version_percentage = routing.percentage
    set_time(shown.update_time, max(routing.current_changed_ns, routing.percentage_changed_ns))


def _decode(config: bytes | None) -> taskqueue.TaskQueueConfig:
    return taskqueue.TaskQueueConfig.FromString(config or b"")


def _limits(config: taskqueue.TaskQueueConfig) -> QueueLimits:
    return QueueLimits(
        per_s=_rate(config.queue_rate_limit),
        key_per_s=_rate(config.fairness_keys_rate_limit_default),
        weights={
            key: priority.weight(asked) for key, asked in config.fairness_weight_overrides.items()
        },
    )


def _rate(config: taskqueue.RateLimitConfig) -> float | None:
    return config.rate_limit.requests_per_second if config.HasField("rate_limit") else None


def _check_rate(update: RateUpdate, label: str, reason_chars_max: int) -> None:
    if not update.HasField("rate_limit"):
        return
    per_s = update.rate_limit.requests_per_second
    if not math.isfinite(per_s) or per_s < 0:
        raise InvalidArgument(f"RequestsPerSecond for {label} rate limit must be non-negative.")
    if len(update.reason) > reason_chars_max:
        raise InvalidArgument(f"{label}.Reason field too long (max {reason_chars_max} characters).")


def _check_weights(request: ws.UpdateTaskQueueConfigRequest, weights_max: int) -> None:
    wanted, unwanted = (
        request.set_fairness_weight_overrides,
        request.unset_fairness_weight_overrides,
    )
    if len(wanted) + len(unwanted) > weights_max:
        raise InvalidArgument(
            "too many fairness weight overrides in request:"
            f" got {len(wanted) + len(unwanted)}, maximum {weights_max}"
        )
    for key in (*wanted, *unwanted):
        if not key:
            raise InvalidArgument("fairness weight override key must not be empty")
        priority.check_fairness_key(key)
    for key, weight in wanted.items():
        if not weight > 0:
            raise InvalidArgument(
                f'invalid fairness weight weight for key "{key}": must be greater than zero'
            )
    for key in unwanted:
        if key in wanted:
            raise InvalidArgument(
                f'fairness weight override key "{key}" present in both set and unset lists'
            )


def shown_stats(found: Stats) -> taskqueue.TaskQueueStats:
    stats = taskqueue.TaskQueueStats(
        approximate_backlog_count=found.backlog,
        tasks_add_rate=found.added_per_s,
        tasks_dispatch_rate=found.given_per_s,
        rate_limiting_active=found.limited,
    )
    stats.approximate_backlog_age.FromNanoseconds(found.oldest_age_ns)
    return stats


def _poller_info(seen: PollerSeen) -> taskqueue.PollerInfo:
    request = seen.attributes
    rate = getattr(request, "task_queue_metadata", None)
    info = taskqueue.PollerInfo(identity=seen.identity)
    set_time(info.last_access_time, seen.at_ns)
    if rate is not None and rate.HasField("max_tasks_per_second"):
        info.rate_per_second = rate.max_tasks_per_second.value
    else:
        info.rate_per_second = UNLIMITED_PER_S
    if request.HasField("worker_version_capabilities"):
        info.worker_version_capabilities.CopyFrom(request.worker_version_capabilities)
    if request.HasField("deployment_options"):
        info.deployment_options.CopyFrom(request.deployment_options)
    return info
