"""Operations over HTTP that go on as standalone activities and as updates, by the tokens that the SDK makes."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import nexusrpc
import pytest_asyncio
from nexusrpc.handler import service_handler
from temporalio import activity, nexus, workflow
from temporalio.client import Client, WorkflowUpdateStage
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.nexus._token import OperationToken, OperationTokenType
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably import Server
from tests.conftest import eventually

QUEUE = "errands"
BASE = f"/namespaces/default/task-queues/{QUEUE}/nexus-services/Errands"
WAITS = {"Durably-Wait": "60s"}
LINES = {"Accept": "application/x-ndjson"}


class Errands:
    """The activity; it goes on when `told` is set."""

    def __init__(self) -> None:
        self.told = asyncio.Event()

    @activity.defn
    async def run_errand(self, kind: str) -> str:
        if kind == "fails":
            raise ApplicationError("as expected", type="Expected", non_retryable=True)
        if kind == "fails once" and activity.info().attempt == 1:
            raise ApplicationError("not yet")
        while not self.told.is_set():
            activity.heartbeat()
            await asyncio.sleep(0.05)
        return f"{kind}: done"


@workflow.defn
class Listens:
    """Its update ends when the word is said that it is for."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: "end" in self.said)

    @workflow.signal
    def say(self, word: str) -> None:
        self.said.append(word)

    @workflow.update(unfinished_policy=workflow.HandlerUnfinishedPolicy.ABANDON)
    async def hear(self, word: str) -> str:
        if word == "refused":
            raise ApplicationError("as expected", type="Expected")
        await workflow.wait_condition(lambda: word in self.said)
        return f"heard {word}"


@nexusrpc.service(name="Errands")
class ErrandService:
    errand: nexusrpc.Operation[str, str]


@service_handler(service=ErrandService)
class Handler:
    @nexus.temporal_operation
    async def errand(
        self,
        ctx: nexus.TemporalStartOperationContext,
        client: nexus.TemporalNexusClient,
        kind: str,
    ) -> nexus.TemporalOperationResult[str]:
        return await client.start_activity(
            Errands.run_errand,
            kind,
            id=f"errand-{kind}",
            schedule_to_close_timeout=timedelta(minutes=5),
            heartbeat_timeout=timedelta(minutes=1),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10)),
        )


class Asking:
    """An HTTP client of one server, about operations by their tokens."""

    def __init__(self, address: str, session: aiohttp.ClientSession) -> None:
        self._address = address
        self._session = session

    async def __call__(
        self, method: str, path: str, token: str = "", body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        sent = {"Content-Type": "application/json", **headers}
        if token:
            sent["Nexus-Operation-Token"] = token
        url = f"http://{self._address}{BASE}{path}"
        data = json.dumps(body).encode() if method == "POST" else None
        async with self._session.request(method, url, headers=sent, data=data) as reply:
            said = {name.lower(): value for name, value in reply.headers.items()}
            return reply.status, said, (await reply.read()).decode()

    async def started(self, kind: str) -> str:
        status, _, told = await self("POST", "/errand", body=kind)
        assert status == 201, told
        return str(json.loads(told)["token"])

    async def seen(self, token: str, path: str = "", **headers: str) -> tuple[int, str, Any]:
        """(status, state, body)."""
        status, said, told = await self("GET", f"/errand{path}", token, **headers)
        return status, said.get("nexus-operation-state", ""), json.loads(told)


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with Server(store=f"sqlite:///{tmp_path}/store.db", port=0) as running:
        yield running


@pytest_asyncio.fixture
async def ask(server: Server) -> AsyncIterator[Asking]:
    async with aiohttp.ClientSession() as session:
        yield Asking(server.address, session)


@asynccontextmanager
async def working(client: Client) -> AsyncIterator[Errands]:
    errands = Errands()
    async with Worker(
        client,
        task_queue=QUEUE,
        workflows=[Listens],
        activities=[errands.run_errand],
        nexus_service_handlers=[Handler()],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        yield errands


async def is_waiting() -> bool:
    """Whether the server, which is in this process, waits for news of an operation."""
    return any("moved" in repr(task.get_coro()) for task in asyncio.all_tasks())


async def test_how_a_standalone_activity_stands_is_had_by_its_token(
    server: Server, ask: Asking
) -> None:
    client = await Client.connect(server.address)
    async with working(client) as errands:
        token = await ask.started("walk")
        status, state, told = await ask.seen(token)
        assert (status, state) == (200, "running")
        assert told["created"]
        assert (told["activityId"], told["activityType"]) == ("errand-walk", "run_errand")
        assert (await ask.seen(token, "/result"))[:2] == (202, "running")
        waiting = asyncio.create_task(ask.seen(token, "/result", **WAITS))
        await eventually(is_waiting)
        errands.told.set()
        assert await waiting == (200, "succeeded", "walk: done")
        status, state, told = await ask.seen(token)
        assert (status, state) == (200, "succeeded")
        assert told["closed"]
        again = await ask.started("fails once")
        assert (await ask.seen(again, "/result", **WAITS))[2] == "fails once: done"


async def test_an_activity_that_did_not_succeed_says_why(server: Server, ask: Asking) -> None:
    """As its completion callback would."""
    client = await Client.connect(server.address)
    async with working(client):
        failed = await ask.started("fails")
        status, state, told = await ask.seen(failed, "/result", **WAITS)
        assert (status, state, told["message"]) == (424, "failed", "as expected")
        canceled, terminated = await ask.started("walk"), await ask.started("run")
        await client.get_activity_handle("errand-walk").cancel()
        await client.get_activity_handle("errand-run").terminate(reason="enough")
        assert (await ask.seen(canceled, "/result", **WAITS))[:2] == (424, "canceled")
        status, state, told = await ask.seen(terminated, "/result", **WAITS)
        assert (status, state) == (424, "failed")
        assert "enough" in told["message"]


async def test_a_token_names_one_run_of_an_activity(server: Server, ask: Asking) -> None:
    client = await Client.connect(server.address)
    async with working(client) as errands:
        first = await ask.started("walk")
        await client.get_activity_handle("errand-walk").terminate(reason="enough")
        second = await ask.started("walk")
        errands.told.set()
        assert (await ask.seen(second, "/result", **WAITS))[:2] == (200, "succeeded")
        assert (await ask.seen(first, "/result"))[:2] == (424, "failed")


def of_update(workflow_id: str, update_id: str, run_id: str | None = None) -> str:
    return OperationToken(
        type=OperationTokenType.UPDATE_WORKFLOW,
        namespace="default",
        workflow_id=workflow_id,
        update_id=update_id,
        run_id=run_id,
    ).encode()


async def test_how_an_update_stands_is_had_by_its_token(server: Server, ask: Asking) -> None:
    client = await Client.connect(server.address)
    async with working(client):
        listener = await client.start_workflow(Listens.run, id="listener", task_queue=QUEUE)
        for word in ("go", "refused", "never"):
            await listener.start_update(
                Listens.hear,
                word,
                id=f"hear-{word}",
                wait_for_stage=WorkflowUpdateStage.ACCEPTED,
            )
        run_id = listener.first_execution_run_id
        go, refused = (
            of_update("listener", "hear-go", run_id),
            of_update("listener", "hear-refused"),
        )
        never = of_update("listener", "hear-never", run_id)
        assert await ask.seen(go) == (
            200,
            "running",
            {
                "state": "running",
                "workflowId": "listener",
                "runId": run_id,
                "updateId": "hear-go",
            },
        )
        assert (await ask.seen(go, "/result"))[:2] == (202, "running")
        waiting = asyncio.create_task(ask.seen(go, "/result", **WAITS))
        await eventually(is_waiting)
        await listener.signal(Listens.say, "go")
        assert await waiting == (200, "succeeded", "heard go")
        assert (await ask.seen(go))[2]["state"] == "succeeded"
        status, state, told = await ask.seen(refused, "/result", **WAITS)
        assert (status, state, told["message"]) == (424, "failed", "as expected")
        waiting = asyncio.create_task(ask.seen(never, "/result", **WAITS))
        await eventually(is_waiting)
        await listener.signal(Listens.say, "end")
        await listener.result()
        for ended in (await waiting, await ask.seen(never, "/result")):
            assert ended[:2] == (424, "failed")
            assert "completed" in ended[2]["message"]


async def test_states_are_streamed_and_nothing_is_asked(server: Server, ask: Asking) -> None:
    client = await Client.connect(server.address)
    async with working(client) as errands:
        token = await ask.started("walk")
        reading = asyncio.create_task(ask("GET", "/errand/output", token, **LINES))
        await eventually(is_waiting)
        errands.told.set()
        status, _, told = await reading
        events = [json.loads(line) for line in told.splitlines() if line]
        assert (status, [each["event"] for each in events]) == (200, ["state", "end"])
        assert events[-1]["data"]["state"] == "succeeded"
        after = {"Last-Event-ID": events[-1]["id"]}
        assert (await ask("GET", "/errand/output", token, **after))[0] == 204
        answer = {"action": "accept", "content": {}}
        status, _, told = await ask("POST", "/errand/questions/k", token, answer)
        assert (status, json.loads(told)["details"]["type"]) == (409, "CONFLICT")


async def test_what_a_token_names_and_is_not_there(server: Server, ask: Asking) -> None:
    client = await Client.connect(server.address)
    await client.start_workflow("Nobody", id="w", task_queue=QUEUE)

    def of_activity(activity_id: str, run_id: str | None = None, namespace: str = "default") -> str:
        return OperationToken(
            type=OperationTokenType.ACTIVITY,
            namespace=namespace,
            activity_id=activity_id,
            run_id=run_id,
        ).encode()

    faults = [
        (of_activity("a"), 404, "activity not found for ID: a"),
        (of_activity("a", "no-run"), 400, "invalid run id: must be a valid UUID"),
        (of_activity("x" * 1001), 400, "exceeds length limit"),
        (of_activity("a", namespace="other"), 404, "of another namespace"),
        (of_update("w", "u"), 404, 'update "u" not found'),
        (of_update("nobody", "u"), 404, "(?i)workflow.*not found"),
        (of_update("w", "u", "no-run"), 400, "(?i)invalid runid"),
    ]
    for token, expected, message in faults:
        for path in ("", "/result", "/output"):
            status, _, told = await ask.seen(token, path)
            assert status == expected, (path, told)
            assert re.search(message, told["message"]), told
