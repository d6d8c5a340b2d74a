"""What a server is made of, and what each part is handed.

Rule 1: every part is made here, by hand, in the order in which they stand on each other.
Rule 2: nothing runs yet and nothing listens: that is `server.py`'s.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass

from durably.background.a2a_agents import A2aAgents
from durably.background.callbacks import CallbackDeliveries
from durably.background.mcp_servers import McpServers
from durably.background.nexus import NexusDeliveries
from durably.background.nexus_external import ExternalCalls
from durably.background.nexus_watch import NexusWatch
from durably.background.outbound_http import OutboundHttp
from durably.config import Config
from durably.matching import Matching
from durably.service import admission, agent_targets
from durably.service.activity_control import ActivityControl
from durably.service.batches import Batches
from durably.service.breakers import CircuitBreakers
from durably.service.callback_tokens import CallbackTokens
from durably.service.deployments import Deployments
from durably.service.namespaces import Namespaces
from durably.service.nexus_calls import NexusCalls
from durably.service.nexus_completions import NexusCompletions
from durably.service.nexus_dispatch import AgentCaller, NexusDispatch
from durably.service.nexus_endpoints import NexusEndpoints
from durably.service.nexus_system import SystemOperations, endpoint_ids
from durably.service.nexus_tasks import NexusTasks
from durably.service.nodes import Nodes
from durably.service.queries import Queries
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
from durably.service.version_sets import VersionSets
from durably.service.visibility import Visibility
from durably.service.worker_tasks import WorkerTasks
from durably.service.workers import Heartbeats, OwnHeartbeats, SharedHeartbeats, Workers
from durably.service.workflow_options import WorkflowOptions
from durably.service.workflow_pause import WorkflowPause
from durably.service.workflow_rules import WorkflowRules
from durably.service.workflows import Workflows
from durably.store.store import Store, made_once

FOREVER_NS = 50 * 365 * 24 * 3600 * 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What everything stands on."""

    store: Store
    nodes: Nodes | None
    """The servers that share the store; None: it is this one's alone."""
    config: Config
    clock: Callable[[], int]
    address: Callable[[], str]
    """Where this server listens, as soon as it does."""
    skipping: TimeSkipping | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """What most services are handed."""

    namespaces: Namespaces
    executions: Executions
    deployments: Deployments
    version_sets: VersionSets
    breakers: CircuitBreakers
    workflows: Workflows
    queries: Queries
    task_queues: TaskQueues


@dataclass(frozen=True, slots=True, kw_only=True)
class NexusParts:
    """What is there for the sake of Nexus, and of callbacks."""

    http: OutboundHttp
    endpoints: NexusEndpoints
    tasks: NexusTasks
    system: SystemOperations
    calls: NexusCalls
    dispatch: NexusDispatch
    deliveries: NexusDeliveries
    watch: NexusWatch
    callbacks: CallbackDeliveries


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A whole server, but for what runs and what listens."""

    core: Core
    nexus: NexusParts
    worker_tasks: WorkerTasks
    batches: Batches
    table: dict[str, admission.Rpc]


async def build(ground: Ground) -> Parts:
    """Raises Unavailable if the store cannot be read."""
    core = await _core(ground)
    nexus = await _nexus(ground, core)
    workers = Workers(core.namespaces, _heartbeats(ground))
    worker_tasks = WorkerTasks(
        core.executions,
        core.namespaces,
        core.queries,
        workers,
        core.task_queues,
        core.deployments,
        endpoint_ids(nexus.endpoints, nexus.system),
    )
    batches = Batches(core.executions, core.namespaces)
    system = System(await _cluster_id(ground.store), ground.store.name, ground.address)
    handlers = (worker_tasks, workers, batches, system, *_services(core, nexus))
    learned = None
    if ground.nodes is not None:
        learned = admission.LearnedTogether(core.namespaces, nexus.endpoints)
        worker_tasks.learned = learned
    table = admission.table(handlers, learned=learned)
    if ground.skipping is not None:
        table |= admission.table((ground.skipping,), admission.TEST_SERVICES)
    return Parts(core=core, nexus=nexus, worker_tasks=worker_tasks, batches=batches, table=table)


def _heartbeats(ground: Ground) -> Heartbeats:
    if ground.nodes is None:
        return OwnHeartbeats(ground.clock, ground.config)
    return SharedHeartbeats(ground.nodes.workers, ground.config)


async def _core(ground: Ground) -> Core:
    config, clock = ground.config, ground.clock
    namespaces = Namespaces(ground.store, config, clock)
    await namespaces.open()
    executions = Executions(
        ground.store,
        Matching(clock),
        clock,
        config,
        # Nothing is removed because its time was skipped.
        namespaces.retention_ns if ground.skipping is None else lambda _: FOREVER_NS,
        ground.nodes,
    )
    deployments = Deployments(executions, namespaces)
    await deployments.open()
    version_sets = VersionSets(executions, namespaces)
    await version_sets.open()
    breakers = CircuitBreakers(clock, config.nexus_breaker_failures, config.nexus_breaker_open_s)
    return Core(
        namespaces=namespaces,
        executions=executions,
        deployments=deployments,
        version_sets=version_sets,
        breakers=breakers,
        workflows=Workflows(executions, namespaces, deployments, breakers.is_blocked),
        queries=Queries(executions, namespaces),
        task_queues=TaskQueues(executions, namespaces, ground.address),
    )


async def _nexus(ground: Ground, core: Core) -> NexusParts:
    config, clock = ground.config, ground.clock
    executions, namespaces = core.executions, core.namespaces
    endpoints = NexusEndpoints(ground.store, namespaces, clock, config)
    await endpoints.open()
    http = OutboundHttp(config)
    tasks = NexusTasks(executions, namespaces, core.task_queues, core.deployments)
    system = SystemOperations(core.workflows)
    tokens = await CallbackTokens.of_store(ground.store)
    agents: dict[str, AgentCaller] = {
        agent_targets.MCP: McpServers(http, config),
        agent_targets.A2A: A2aAgents(http, config),
    }
    external = ExternalCalls(http, config, ground.address)
    dispatch = NexusDispatch(tasks, namespaces, external, agents)
    completions = NexusCompletions(executions, tokens)
    return NexusParts(
        http=http,
        endpoints=endpoints,
        tasks=tasks,
        system=system,
        calls=NexusCalls(namespaces, endpoints, dispatch, completions, tokens, clock, config),
        dispatch=dispatch,
        deliveries=NexusDeliveries(executions, endpoints, dispatch, tokens, core.breakers, system),
        watch=NexusWatch(executions, endpoints, dispatch, core.breakers),
        callbacks=CallbackDeliveries(executions, http, core.breakers, completions),
    )


def _services(core: Core, nexus: NexusParts) -> tuple[object, ...]:
    """Who answers the RPCs, beside the parts that others are handed too."""
    executions, namespaces = core.executions, core.namespaces
    is_blocked = core.breakers.is_blocked
    activity_control = ActivityControl(executions, namespaces)
    rules = WorkflowRules(executions, namespaces)
    executions.rule_for = rules.pausing
    return (
        core.workflows,
        core.queries,
        core.task_queues,
        core.deployments,
        core.version_sets,
        core.namespaces,
        nexus.endpoints,
        nexus.tasks,
        StandaloneNexus(executions, namespaces, nexus.endpoints, is_blocked),
        WorkflowOptions(executions, namespaces, core.deployments),
        WorkflowPause(executions, namespaces),
        activity_control,
        rules,
        StandaloneActivities(executions, namespaces, is_blocked),
        StandaloneControl(executions, namespaces, activity_control),
        Resets(executions, namespaces, core.deployments),
        Updates(executions, namespaces, core.workflows),
        Visibility(executions, namespaces),
        Schedules(executions, namespaces, core.workflows),
    )


async def _cluster_id(store: Store) -> str:
    return (await made_once(store, "cluster_id", str(uuid.uuid4()).encode())).decode()
