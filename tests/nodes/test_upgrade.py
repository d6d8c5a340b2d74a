"""Servers of two versions on one PostgreSQL, under load: the tables are brought up to date, servers of the
newer version join, both serve together and are killed, the older ones leave, and come back. Nothing that was
acknowledged is missing, and nothing happens twice.

`UPGRADE_FROM=REVISION make test-upgrade` begins with the servers of that revision of this repository; by
default with those of the last one before the newest migration. The other test ends with servers of a version
after this one, made of these sources and what a next version adds.
"""

import asyncio
import contextlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from temporalio.api.enums.v1 import task_queue_pb2 as enums
from temporalio.api.nexus.v1 import message_pb2 as nexus_messages
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import (
    ActivityExecutionStatus,
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleSpec,
    ScheduleState,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import (
    ActivityIDConflictPolicy,
    ActivityIDReusePolicy,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ActivityAlreadyStartedError, WorkflowAlreadyStartedError
from temporalio.service import RetryConfig, RPCError, RPCStatusCode
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from tests.conftest import eventually
from tests.crash import rules
from tests.crash.test_kill import OUTAGE, Run, WorkerProcess, check_history, send_signal, start_run
from tests.crash.workflows import SIGNALS, TASK_QUEUE, Half, Mixed, expected
from tests.nodes.upgrade_worker import ENDPOINT, SAID, Talk, shout
from tests.postgres import PostgresServer
from tests.processes import ServerProcess
from tests.stores import dump

pytestmark = [pytest.mark.upgrade, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
AT_ONCE = 8
DONE_IN_EACH_PHASE = 16
SCHEDULED = 5
SETTINGS = ("node_beat_s=0.5", "node_lost_after_s=2", "deadline_sweep_interval_s=2")
WORKFLOW = enums.TASK_QUEUE_TYPE_WORKFLOW
RETRY = RetryConfig(max_elapsed_time_millis=60_000, max_retries=1000)

R = TypeVar("R")


# --- Versions -----------------------------------------------------------------------------------


class Version:
    """Sources of durably in a folder, run with this Python and what is installed for it."""

    def __init__(self, sources: Path) -> None:
        self.environment = {**os.environ, "PYTHONPATH": f"{sources}{os.pathsep}{ROOT}"}

    def server(self, store: str, folder: Path) -> ServerProcess:
        options = [part for setting in SETTINGS for part in ("--set", setting)]
        return ServerProcess(store, *options, folder=folder, environment=self.environment)

    def migrate(self, store: str, *options: str) -> str:
        command = [sys.executable, "-m", "durably.cli", "migrate", "--store", store, *options]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def git(*arguments: str) -> bytes:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], check=True, capture_output=True
    ).stdout


def revision() -> str:
    """The one to begin with."""
    migrations = "src/durably/store/migrations"
    added = git("log", "--diff-filter=A", "--format=%H", "--", migrations).decode().split()
    return os.environ.get("UPGRADE_FROM") or f"{added[0]}^"


def earlier(folder: Path) -> Version:
    archive = git("archive", revision(), "src")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return Version(folder / "src")


def later(folder: Path, *, uses_it: bool = False) -> Version:
    """This version, and what one more may add: a migration, a field of a record that each activity writes,
    and one of a state. `uses_it`: that record says something in it, which it may not yet."""
    sources = folder / "src"
    shutil.copytree(ROOT / "src", sources)
    migrations = sources / "durably/store/migrations"
    number = max(int(file.name.split("_")[0]) for file in migrations.glob("*.sql")) + 1
    (migrations / f"{number:04}_next.sql").write_text("SELECT 1;\n")
    (migrations / f"postgres/{number:04}_next.sql").write_text(
        "ALTER TABLE executions ADD COLUMN tier INTEGER NOT NULL DEFAULT 0;\n"
        "CREATE TABLE tiers (tier INTEGER PRIMARY KEY);\n"
    )
    engine = sources / "durably/engine"
    add_field(engine / "records.py", "class ActivityStarted(", "version: Version | None = None")
    add_field(engine / "state.py", "class Timer(", "fire_at_ns: int")
    if uses_it:
        writer = engine / "activity.py"
        text = writer.read_text()
        assert "r.ActivityStarted(" in text
        writer.write_text(text.replace("r.ActivityStarted(", "r.ActivityStarted(tier=1, "))
    return Version(sources)


def add_field(file: Path, of: str, after: str) -> None:
    head, tail = file.read_text().split(of)
    assert after in tail
    added = tail.replace(after, after + "\n    tier: int = 0", 1)
    file.write_text(f"{head}{of}{added}")


# --- Servers ------------------------------------------------------------------------------------


class Site:
    """A server, a worker that polls it, and a client of it."""

    def __init__(self, version: Version, store: str, folder: Path) -> None:
        self.server = version.server(store, folder)
        log = folder / f"worker-{self.server.port}.log"
        self._worker = WorkerProcess(self.server.address, log, "tests.nodes.upgrade_worker")
        self.client: Client

    async def start(self) -> None:
        await asyncio.to_thread(self.server.start)
        self.client = await Client.connect(self.server.address, retry_config=RETRY)
        self._worker.start()

    async def leave(self) -> None:
        """In good order: as a load balancer sends nothing more there, its worker is elsewhere by then."""
        self._worker.kill()
        assert await asyncio.to_thread(self.server.terminate) == 0

    def kill(self) -> None:
        self._worker.kill()
        self.server.kill()


class Sites:
    """Those that serve, as a load balancer knows them."""

    def __init__(self) -> None:
        self.all: list[Site] = []
        self.serving: list[Site] = []

    async def join(self, *sites: Site) -> None:
        self.all += [site for site in sites if site not in self.all]
        await asyncio.gather(*(site.start() for site in sites))
        self.serving += sites

    async def leave(self, site: Site) -> None:
        self.serving.remove(site)
        await site.leave()

    def kill(self, site: Site) -> None:
        self.serving.remove(site)
        site.kill()

    async def anywhere(self, call: Callable[[Client], Awaitable[R]]) -> R:
        """Ask one server after the other until one acknowledges."""
        while True:
            try:
                async with asyncio.timeout(10):
                    return await call(random.choice(self.serving).client)
            except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
                continue
            except RPCError as error:
                if error.status not in OUTAGE:
                    raise
                await asyncio.sleep(0.05)


# --- Load ---------------------------------------------------------------------------------------


class Load:
    """Work that goes on until it is stopped, each step of it at any server."""

    def __init__(self, sites: Sites) -> None:
        self.runs: list[Run] = []
        self.talks: list[str] = []
        self.activities: list[str] = []
        self._sites = sites
        self._done = 0
        self._number = 0
        self._stopped = False

    async def one_after_the_other(self) -> None:
        kinds = (self._mixed, self._talk, self._activity, self._by_hand)
        while not self._stopped:
            self._number += 1
            await kinds[self._number % len(kinds)](self._number)
            self._done += 1

    def stop(self) -> None:
        self._stopped = True

    async def goes_on(self) -> None:
        """Until so many more are done that were begun after this call."""
        enough = self._done + AT_ONCE + DONE_IN_EACH_PHASE

        async def is_done() -> bool:
            return self._done >= enough

        await eventually(is_done, 240)

    async def _mixed(self, number: int) -> None:
        run = Run(number)
        self.runs.append(run)
        anywhere = self._sites.anywhere
        started = await anywhere(lambda client: start_run(client, run))
        for index in range(SIGNALS):
            await anywhere(lambda client: send_signal(client, run, index))  # noqa: B023
        handle = await anywhere(
            lambda client: client.get_workflow_handle(run.workflow_id, run_id=started).result()
        )
        assert handle == expected(number)

    async def _talk(self, number: int) -> None:
        talk, anywhere = f"talk-{number}", self._sites.anywhere
        self.talks.append(talk)

        async def start(client: Client) -> None:
            with contextlib.suppress(WorkflowAlreadyStartedError):
                await client.start_workflow(
                    Talk.run,
                    id=talk,
                    task_queue=TASK_QUEUE,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                )

        await anywhere(start)
        for index in range(SAID):
            said = await anywhere(
                lambda client: client.get_workflow_handle_for(Talk.run, talk).execute_update(
                    Talk.say,
                    f"u{index}",  # noqa: B023
                    id=f"u{index}",  # noqa: B023
                )
            )
            assert said == f"U{index}"
            heard = await anywhere(lambda client: client.get_workflow_handle(talk).query("all"))
            assert heard == [f"U{i}" for i in range(index + 1)]
        result = await anywhere(lambda client: client.get_workflow_handle(talk).result())
        last = f"U{SAID - 1}"
        assert result == [*(f"U{i}" for i in range(SAID)), f"{last}, {last}"]

    async def _start_activity(self, activity: str, queue: str) -> None:
        self.activities.append(activity)

        async def start(client: Client) -> None:
            with contextlib.suppress(ActivityAlreadyStartedError):
                await client.start_activity(
                    shout,
                    activity,
                    id=activity,
                    task_queue=queue,
                    start_to_close_timeout=timedelta(seconds=10),
                    id_reuse_policy=ActivityIDReusePolicy.REJECT_DUPLICATE,
                    id_conflict_policy=ActivityIDConflictPolicy.USE_EXISTING,
                )

        await self._sites.anywhere(start)

    async def _activity(self, number: int) -> None:
        activity = f"activity-{number}"
        await self._start_activity(activity, TASK_QUEUE)
        result = await self._sites.anywhere(
            lambda client: client.get_activity_handle(activity, result_type=str).result()
        )
        assert result == activity.upper()

    async def _by_hand(self, number: int) -> None:
        """The worker's part, too, each call at any server: what one says in a token the others understand."""
        activity, anywhere = f"by-hand-{number}", self._sites.anywhere
        await self._start_activity(activity, activity)
        poll = ws.PollActivityTaskQueueRequest(
            namespace="default", task_queue=taskqueue.TaskQueue(name=activity), identity="hand"
        )
        status = ActivityExecutionStatus.RUNNING
        while status == ActivityExecutionStatus.RUNNING:
            task = await anywhere(
                lambda client: client.workflow_service.poll_activity_task_queue(poll)
            )
            if not task.task_token:
                continue  # That server stops.
            done = ws.RespondActivityTaskCompletedRequest(
                namespace="default", task_token=task.task_token, result=task.input
            )
            beat = ws.RecordActivityTaskHeartbeatRequest(
                namespace="default", task_token=task.task_token, details=task.input
            )
            try:
                await anywhere(
                    lambda client: client.workflow_service.record_activity_task_heartbeat(beat)  # noqa: B023
                )
                await anywhere(
                    lambda client: client.workflow_service.respond_activity_task_completed(done)  # noqa: B023
                )
            except RPCError as error:
                # Nobody heard that it was done, or the attempt was given to a poll that had gone away.
                if error.status != RPCStatusCode.NOT_FOUND:
                    raise
            status = (
                await anywhere(lambda client: client.get_activity_handle(activity).describe())
            ).status
        assert status == ActivityExecutionStatus.COMPLETED


async def make_endpoint(client: Client) -> None:
    spec = nexus_messages.EndpointSpec(name=ENDPOINT)
    spec.target.worker.namespace, spec.target.worker.task_queue = "default", TASK_QUEUE
    await client.operator_service.create_nexus_endpoint(
        operator.CreateNexusEndpointRequest(spec=spec)
    )


async def schedule(sites: Sites, name: str) -> None:
    """Starts workflows from now on, whichever servers are there by then."""
    action = ScheduleActionStartWorkflow(Half.run, 21, id=f"{name}-half", task_queue=TASK_QUEUE)
    every = ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=1))])
    state = ScheduleState(limited_actions=True, remaining_actions=SCHEDULED)
    await sites.serving[0].client.create_schedule(
        name, Schedule(action=action, spec=every, state=state)
    )


# --- Tests --------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def loaded(sites: Sites, *first: Site) -> AsyncIterator[Load]:
    """Load on these servers, and on those that come; every process is killed at the end."""
    load = Load(sites)
    try:
        await sites.join(*first)
        await make_endpoint(first[0].client)
        async with asyncio.TaskGroup() as work:
            for _ in range(AT_ONCE):
                work.create_task(load.one_after_the_other())
            await load.goes_on()
            yield load
            load.stop()
    finally:
        for site in sites.all:
            site.kill()


@pytest.fixture
def store(postgres: PostgresServer) -> str:
    return postgres.database()


def folder_of(tmp_path: Path, name: str) -> Path:
    made = tmp_path / name
    made.mkdir()
    return made


async def test_servers_of_an_earlier_revision_are_replaced(store: str, tmp_path: Path) -> None:
    """Those are not started again: whether they may is theirs to know."""
    folders = folder_of(tmp_path, "earlier"), folder_of(tmp_path, "servers")
    old, new, sites = earlier(folders[0]), Version(ROOT / "src"), Sites()
    olds = [Site(old, store, folders[1]) for _ in range(2)]
    news = [Site(new, store, folders[1]) for _ in range(2)]
    print(f"UPGRADE_FROM={revision()}")
    async with loaded(sites, *olds) as load:
        await come_together(sites, load, new, store, news)
        sites.kill(olds[0])
        sites.kill(news[0])
        await sites.join(news[0])
        await load.goes_on()
        await sites.leave(olds[1])
        await load.goes_on()
        load.stop()
        await check(load, sites, store, quiet=news)


async def test_servers_of_a_later_version_come_and_go(store: str, tmp_path: Path) -> None:
    """And back again: these serve a store that has the tables of the later version."""
    folders = folder_of(tmp_path, "later"), folder_of(tmp_path, "servers")
    old, new, sites = Version(ROOT / "src"), later(folders[0]), Sites()
    olds = [Site(old, store, folders[1]) for _ in range(2)]
    news = [Site(new, store, folders[1]) for _ in range(2)]
    async with loaded(sites, *olds) as load:
        await come_together(sites, load, new, store, news)
        for site in (olds[0], news[0]):
            sites.kill(site)
        await sites.join(olds[0], news[0])
        await load.goes_on()
        for site in olds:
            await sites.leave(site)
        await load.goes_on()
        await sites.join(*olds)
        for site in news:
            await sites.leave(site)
        await load.goes_on()
        load.stop()
        await check(load, sites, store, quiet=sites.all)


async def test_what_only_a_later_version_can_read_waits_for_it(store: str, tmp_path: Path) -> None:
    """Every execution with an activity that a server of the later version has started: it goes on there, and
    the others lose nothing of it."""
    folders = folder_of(tmp_path, "later"), folder_of(tmp_path, "servers")
    old, new, sites = Version(ROOT / "src"), later(folders[0], uses_it=True), Sites()
    olds = [Site(old, store, folders[1]) for _ in range(2)]
    news = [Site(new, store, folders[1]) for _ in range(2)]
    async with loaded(sites, *olds) as load:
        await come_together(sites, load, new, store, news)

        async def is_refused() -> bool:
            return bool(await refused(olds[0].client, load.runs))

        await eventually(is_refused, 120)
        sites.kill(news[0])
        await sites.join(news[0])
        for site in olds:
            await sites.leave(site)
        await load.goes_on()
        load.stop()
        await check(load, sites, store, quiet=sites.all)


async def refused(client: Client, runs: list[Run]) -> list[Run]:
    """Those that this server will not read."""
    found = []
    for run in runs:
        request = ws.DescribeWorkflowExecutionRequest(namespace="default")
        request.execution.workflow_id = run.workflow_id
        try:
            await client.workflow_service.describe_workflow_execution(request)
        except RPCError as error:
            if "was written by a newer version" in error.message:
                found.append(run)
    return found


async def sees_workers(client: Client, count: int) -> bool:
    """Whether a server knows of so many that poll, here and at others."""
    request = ws.DescribeTaskQueueRequest(
        namespace="default",
        task_queue=taskqueue.TaskQueue(name=TASK_QUEUE),
        task_queue_type=WORKFLOW,
    )
    return len((await client.workflow_service.describe_task_queue(request)).pollers) == count


async def come_together(
    sites: Sites, load: Load, new: Version, store: str, news: list[Site]
) -> None:
    """Tables are brought up to date under load, and servers of the new version join."""
    await schedule(sites, "before")
    assert "Missing: migrations" in await asyncio.to_thread(new.migrate, store, "--dry-run")
    assert "Done: migrations" in await asyncio.to_thread(new.migrate, store)
    await load.goes_on()
    await sites.join(*news)
    for site in sites.serving:
        await eventually(lambda: sees_workers(site.client, len(sites.serving)), 120)  # noqa: B023
    await schedule(sites, "together")
    await load.goes_on()


async def check(load: Load, sites: Sites, store: str, quiet: list[Site]) -> None:
    """All that was acknowledged is there, by every server; and the tables agree with it. `quiet`: servers
    whose code is here, which may have met nothing that they cannot work with."""
    client = sites.serving[0].client
    for name in ("before", "together"):
        handle = client.get_schedule_handle(name)

        async def is_over() -> bool:
            info = (await handle.describe()).info  # noqa: B023
            return info.num_actions == SCHEDULED and not info.running_actions

        await eventually(is_over, 120)
        await handle.delete()

    async def is_quiet() -> bool:
        return (await client.count_workflows("ExecutionStatus = 'Running'")).count == 0

    await eventually(is_quiet, 120)
    replayer = Replayer(workflows=[Mixed, Half], workflow_runner=UnsandboxedWorkflowRunner())
    for number, run in enumerate(load.runs):
        serving = sites.serving[number % len(sites.serving)]
        await check_history(serving.client, run, replayer)
    for talk in load.talks:
        rules.check((await client.get_workflow_handle(talk).fetch_history()).events)
    for site in sites.serving:
        counted = (await site.client.count_workflows()).count
        assert counted == 2 * len(load.runs) + len(load.talks) + 2 * SCHEDULED
        assert (await site.client.count_activities()).count == len(load.activities)
    rules.check_tables(dump(store))
    print(f"{len(load.runs)} mixed, {len(load.talks)} talks, {len(load.activities)} activities")
    for site in quiet:
        assert "Traceback" not in site.server.log.read_text(), (
            "no server met what it cannot work with"
        )
