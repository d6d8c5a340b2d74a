"""Every program does the same on durably as on Temporal's own server: replies, refusals, histories.

With `--store=postgres` durably is three servers, and each call of a program goes to the next one.

What is compared where; each has programs in which it fails, or is refused:

    activities, retries, timeouts, heartbeats, local ones    programs.py: activity_*, local_activity*
    timers, patches, memos, search attributes, details       programs.py: timer*, patch, memo_*, attribute_*
    ends, retries, timeouts, continue-as-new, cron           programs.py: workflow_*, run_*, a_cron_chain
    starts and ids, start delay, options, eager start        programs.py: a_*_id_*; operations.py: *_eagerly
    signals, queries, children, external workflows           programs.py: signal*, child_*, another_*
    updates, speculative tasks, rejections                   programs.py: updates; tasks_by_hand.py
    updates with a start                                     operations.py: an_update_*
    failing workers, sticky queues                           tasks_by_hand.py: a_task_*, a_worker_*
    resets                                                   programs.py: reset_*; operations.py: a_reset_*
    batch operations                                         operations.py: a_batch_*, batches_*
    schedules                                                operations.py: a_schedule_*, schedules_*
    pausing, resetting, changing activities                  operations.py: an_activity_*, activities_*
    paused workflows, workflow rules                         operations.py: a_workflow_is_paused_*, rules_*
    standalone activities                                    operations.py: a_standalone_*, standalone_*
    priorities, task queue configuration                     operations.py: *_priority, a_task_queue_*
    lists, counts, archived, search attributes               programs.py: lists_*; operations.py: counts_*
    namespaces, user metadata, time skipping                 operations.py: a_namespace_*, *_about, time_*
    deletes, histories backwards, refusals of starts         programs.py: deleted, history_*, bad_*
"""

import asyncio
import contextlib
import subprocess
import sysconfig
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from temporalio.api.nexus.v1 import message_pb2 as nexus
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator
from temporalio.client import Client
from temporalio.service import RPCError

from durably import Server
from tests.differential import nexus_programs, operations, tasks_by_hand
from tests.differential.normalise import Normaliser
from tests.differential.programs import Program, Stage
from tests.differential.versions import PROGRAMS
from tests.differential.worker import ENDPOINT, QUEUE, worker
from tests.processes import free_port, wait_for_port
from tests.spread import servers, spread

assert operations.program, "its programs are among PROGRAMS"
assert tasks_by_hand.program, "and so are these"
TEMPORAL = Path(sysconfig.get_path("scripts")) / "temporal"


ANY_ADDRESS = '[{"Pattern":"*","AllowInsecure":true}]'
PEER_SETTINGS = (
    "system.forceSearchAttributesCacheRefreshOnRead=true",
    "frontend.WorkflowPauseEnabled=true",
    "frontend.workflowRulesAPIsEnabled=true",
    f"callback.allowedAddresses={ANY_ADDRESS}",
    f"component.callbacks.allowedAddresses={ANY_ADDRESS}",
    "history.enableUpdateCallbacks=true",
    "history.enableCHASMSignalBacklinks=true",
    "activity.enableStandalone=true",
    "activity.enableCallbacks=true",
    "frontend.workerVersioningDataAPIs=true",
    *nexus_programs.PEER_SETTINGS,
)
OUR_SETTINGS: dict[str, Any] = {
    "callback_addresses": ("http://*", "https://*"),
    "private_networks_allowed": ("127.0.0.0/8",),
}
"""What durably does without being asked to, but for calling private addresses."""


@contextlib.asynccontextmanager
async def peer(log: Path, *options: str) -> AsyncIterator[str]:
    """Temporal's dev server, in memory; its address."""
    port = free_port()
    command = [str(TEMPORAL), "server", "start-dev", "--headless", "--ip", "127.0.0.1"]
    command += ["--port", str(port), "--log-level", "error", *options]
    for setting in PEER_SETTINGS:
        command += ["--dynamic-config-value", setting]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: ASYNC220  nothing else runs in this loop meanwhile
            command, stdout=output, stderr=output
        )
    try:
        await asyncio.to_thread(wait_for_port, port, process, 60.0)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


async def connect(address: str) -> Client:
    """A client, when the server has its namespace and the attribute that programs use."""
    async with asyncio.timeout(60):
        while True:
            try:
                client = await Client.connect(address)
                attributes = operator.AddSearchAttributesRequest(
                    namespace="default", search_attributes={"Colour": 2}
                )
                await client.operator_service.add_search_attributes(attributes)
                await have_endpoint(client)
            except (RPCError, RuntimeError, OSError):
                await asyncio.sleep(0.1)
            else:
                return client


async def have_endpoint(client: Client) -> None:
    """The Nexus endpoint that programs call."""
    named = operator.ListNexusEndpointsRequest(name=ENDPOINT)
    if not (await client.operator_service.list_nexus_endpoints(named)).endpoints:
        spec = nexus.EndpointSpec(name=ENDPOINT)
        spec.target.worker.namespace, spec.target.worker.task_queue = "default", QUEUE
        request = operator.CreateNexusEndpointRequest(spec=spec)
        await client.operator_service.create_nexus_endpoint(request)


@contextlib.asynccontextmanager
async def durably(
    request: pytest.FixtureRequest, folder: Path, **settings: Any
) -> AsyncIterator[list[str]]:
    """One server on SQLite, or several on PostgreSQL; their addresses."""
    if request.config.getoption("--store") == "sqlite":
        async with Server(store=f"sqlite:///{folder}/store.db", port=0, **settings) as server:
            yield [server.address]
    else:
        async with servers(request.getfixturevalue("postgres"), **settings) as addresses:
            yield addresses


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clients(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Client, Client]]:
    """Clients of both servers, each with a worker: ours, theirs."""
    folder = tmp_path_factory.mktemp("differential")
    async with (
        durably(request, folder, **OUR_SETTINGS) as addresses,
        peer(folder / "peer.log") as address,
    ):
        await connect(addresses[0])
        ours, theirs = await spread(addresses), await connect(address)
        async with worker(ours), worker(theirs):
            yield ours, theirs


async def outcome(run: Program, client: Client) -> dict[str, Any]:
    """What a program gave, and the histories of the workflows that it named."""
    stage = Stage(client)
    given = plain(await run(stage))
    normaliser = Normaliser(stage.names)
    told: dict[str, Any] = {"given": normaliser.value(given)}
    for workflow_id, label in stage.names.items():
        with contextlib.suppress(RPCError):
            fetched = await client.get_workflow_handle(workflow_id).fetch_history()
            told[label] = normaliser.history(fetched.events)
    return told


def plain(value: Any) -> Any:
    """Messages within what a program gave, as JSON."""
    if isinstance(value, Message):
        return MessageToDict(value)
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def differences(place: str, ours: Any, theirs: Any) -> Iterator[str]:
    """A line for each place where two outcomes differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted({*ours, *theirs}):
            yield from differences(f"{place}.{key}", ours.get(key), theirs.get(key))
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(f"{place}[{index}]", one, other)
    elif ours != theirs:
        yield f"{place}: ours {_short(ours)}, theirs {_short(theirs)}"


def _short(value: Any) -> str:
    """A history of another length is told by the kinds of its events."""
    if isinstance(value, list) and value and all(isinstance(e, dict) for e in value):
        value = [each.get("eventType", each) for each in value]
    return repr(value)


@pytest.mark.peer
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", PROGRAMS)
async def test_both_do_the_same(clients: tuple[Client, Client], name: str) -> None:
    run = PROGRAMS[name]
    ours, theirs = await asyncio.gather(*(outcome(run, client) for client in clients))
    found = list(differences("", ours, theirs))
    assert not found, "\n".join(found)


def test_there_are_programs_enough() -> None:
    assert len(PROGRAMS) >= 120
