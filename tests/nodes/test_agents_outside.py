"""MCP and A2A with several servers: tasks begun at one of them; watched, answered and canceled at another."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx
import pytest
import pytest_asyncio
import temporalio.client
from a2a.client import Client, ClientConfig, ClientFactory
from a2a.client.card_resolver import A2ACardResolver
from a2a.types import a2a_pb2 as a2a
from a2a.utils.errors import A2AError
from google.protobuf.json_format import ParseDict
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably import Server
from durably.agents.convention import CALL_KEY, Exposed
from durably.agents.interaction import expose
from tests.callers import Caller, Events
from tests.conftest import eventually
from tests.postgres import PostgresServer
from tests.processes import ServerProcess
from tests.receivers import Receiver
from tests.teller import QUEUE, Teller, worker

ELICITS: dict[str, Any] = {"elicitation": {"form": {}}}
"""What a client can do that knows no tasks."""
RED = {"action": "accept", "content": {"answer": "red"}}
WAITS_S = 120.0
TOOL = Exposed(workflow="Teller", task_queue=QUEUE)
TASK = Exposed(workflow="Teller", task_queue=QUEUE, tasks="always")
AGENT = Exposed(workflow="Teller", task_queue=QUEUE, tool=False, agent=True)
LOOPBACK = {"callback_addresses": ("http://*",), "private_networks_allowed": ("127.0.0.0/8",)}
"""Push notifications go to receivers in the tests' own process."""


async def expose_all(client: temporalio.client.Client) -> None:
    for name, what in (("teller", TOOL), ("task_teller", TASK), ("agent", AGENT)):
        await expose(client, name, what)


@dataclass
class Place:
    """One of the servers, as its clients have it."""

    address: str
    temporal: temporalio.client.Client
    mcp: Caller
    http: httpx.AsyncClient

    async def tell(self, task_id: str, *words: str) -> None:
        for word in words:
            await self.temporal.get_workflow_handle(task_id).signal(Teller.tell, word)

    async def agent(self, *, streaming: bool) -> Client:
        card = await A2ACardResolver(
            self.http, f"http://{self.address}/a2a/default/agent"
        ).get_agent_card()
        config = ClientConfig(httpx_client=self.http, streaming=streaming)
        return ClientFactory(config).create(card)

    @contextlib.asynccontextmanager
    async def listening(self, **notifications: Any) -> AsyncIterator[Events]:
        """Once it is acknowledged."""
        params = {"notifications": notifications}
        async with self.mcp.stream("subscriptions/listen", params) as events:
            first = await events.next()
            assert first is not None
            assert first["data"]["method"] == "notifications/subscriptions/acknowledged"
            yield events


@contextlib.asynccontextmanager
async def place(address: str) -> AsyncIterator[Place]:
    async with httpx.AsyncClient(timeout=WAITS_S) as http:
        temporal = await temporalio.client.Client.connect(address)
        yield Place(address, temporal, Caller(address), http)


@contextlib.asynccontextmanager
async def two(url: str, **second: Any) -> AsyncIterator[tuple[Place, Place]]:
    """Of one store; `second`: settings of the second alone, which the worker polls."""
    async with contextlib.AsyncExitStack() as stack:
        places = []
        for more in ({}, second):
            settings: dict[str, Any] = {**LOOPBACK, "node_beat_s": 0.3, **more}
            server = await stack.enter_async_context(Server(store=url, port=0, **settings))
            places.append(await stack.enter_async_context(place(server.address)))
        here, there = places
        await stack.enter_async_context(worker(there.temporal))
        await expose_all(here.temporal)
        yield here, there


@pytest_asyncio.fixture
async def pair(postgres: PostgresServer) -> AsyncIterator[tuple[Place, Place]]:
    async with two(postgres.database()) as found:
        yield found


@pytest_asyncio.fixture
async def deaf(postgres: PostgresServer) -> AsyncIterator[tuple[Place, Place]]:
    """The second hears nothing of what the first says."""
    elsewhere = postgres.database()
    async with two(postgres.database(), postgres_listen=elsewhere) as found:
        yield found


def statuses(events: Iterable[dict[str, Any]]) -> list[str]:
    """Of tasks, as their notifications have them."""
    return [
        each["data"]["params"]["status"]
        for each in events
        if each["data"].get("method") == "notifications/tasks"
    ]


async def until(events: Events, status: str) -> None:
    """Until who listens is told of this status of a task."""
    while (each := await events.next()) is not None:
        if status in statuses([each]):
            return
    raise AssertionError(f"the stream has ended, and nothing was {status}")


# --- MCP --------------------------------------------------------------------------------------


async def make_namespace(client: temporalio.client.Client, name: str) -> None:
    request = ws.RegisterNamespaceRequest(namespace=name)
    request.workflow_execution_retention_period.seconds = 86400
    await client.workflow_service.register_namespace(request)


async def begun(at: Place, tool: str = "task_teller") -> str:
    """The id of a task."""
    task = await at.mcp.result("tools/call", {"name": tool, "arguments": {}})
    assert task["resultType"] == "task"
    return str(task["taskId"])


async def test_a_task_begun_here_is_watched_answered_and_read_there(
    pair: tuple[Place, Place],
) -> None:
    here, there = pair
    task_id = await begun(here)
    async with here.listening(taskIds=[task_id]) as one, there.listening(taskIds=[task_id]) as two:
        await here.tell(task_id, "ask")
        for events in (one, two):
            await until(events, "input_required")
        for place in pair:
            asking = await place.mcp.result("tasks/get", {"taskId": task_id})
            assert list(asking["inputRequests"]) == ["colour 0"]
        answer = {"taskId": task_id, "inputResponses": {"colour 0": RED}}
        await there.mcp.result("tasks/update", answer)
        await here.mcp.result("tasks/update", answer)
        await there.tell(task_id, "end")
        told = [statuses(await events.rest()) for events in (one, two)]
    assert [each[-1] for each in told] == ["completed"] * 2
    done = [await place.mcp.result("tasks/get", {"taskId": task_id}) for place in pair]
    assert done[0] == done[1]
    assert done[0]["result"]["content"] == [{"type": "text", "text": "painted red"}]


async def test_a_task_begun_here_is_canceled_there(pair: tuple[Place, Place]) -> None:
    here, there = pair
    task_id = await begun(here)
    await there.mcp.result("tasks/cancel", {"taskId": task_id})
    await here.mcp.result("tasks/cancel", {"taskId": task_id})
    for place in pair:
        assert (await place.mcp.until(task_id, "cancelled"))["statusMessage"]


async def test_a_call_goes_on_there_with_what_it_was_given_here(pair: tuple[Place, Place]) -> None:
    """The question that one server asked is answered at the other; the key of a call is one call's."""
    here, there = pair
    key = {"_meta": {CALL_KEY: "the one call", "progressToken": "p"}}
    call = {"name": "teller", "arguments": {}, **key}
    asking = asyncio.create_task(here.mcp("tools/call", call, ELICITS))

    async def ids() -> list[str]:
        return [each.id async for each in there.temporal.list_workflows("")]

    async def is_there() -> bool:
        return len(await ids()) == 1

    await eventually(is_there, 60)
    (call_id,) = await ids()
    await there.tell(call_id, "one", "ask")
    asked = (await asking)["result"]
    assert asked["resultType"] == "input_required"
    answers = {"requestState": asked["requestState"], "inputResponses": {"colour 1": RED}}
    going_on = asyncio.create_task(there.mcp("tools/call", {**call, **answers}, ELICITS))
    again = asyncio.create_task(here.mcp("tools/call", call, ELICITS))

    async def answered() -> bool:
        """By the first of the two; the other is asked no more."""
        shown = await here.temporal.get_workflow_handle(call_id).describe()
        return (await shown.memo()).get("durably.output", {}).get("value") == "painted red"

    await eventually(answered, 60)
    await here.tell(call_id, "end")
    result = (await going_on)["result"]
    assert result["content"] == [{"type": "text", "text": "one, painted red"}]
    told = [each["params"]["message"] for each in there.mcp.frames[:-1]]
    assert told == ["one", "painted red"], "each piece once, in order"
    second = (await again)["result"]
    assert second["resultType"] == "input_required" or second["content"] == result["content"]
    last = (await there.mcp("tools/call", call, ELICITS))["result"]
    assert last["content"] == result["content"]
    assert await ids() == [call_id]


async def test_what_was_exposed_here_is_called_there_at_once(deaf: tuple[Place, Place]) -> None:
    """Also by a server that hears nothing: it looks before it says that there is no such thing."""
    here, there = deaf
    async with there.listening(toolsListChanged=True) as events:
        for number in range(3):
            await expose(here.temporal, f"another_{number}", TASK)
            tools = (await there.mcp.result("tools/list", {}))["tools"]
            assert f"another_{number}" in {tool["name"] for tool in tools}
            await expose(here.temporal, f"called_{number}", TASK)
            await begun(there, f"called_{number}")
            await expose(here.temporal, f"agent_{number}", AGENT)
            card = f"http://{there.address}/a2a/default/agent_{number}/.well-known/agent-card.json"
            assert (await there.http.get(card)).status_code == 200
            await expose(here.temporal, f"offered_{number}", TOOL)
            services = f"http://{there.address}/namespaces/default/nexus/services"
            (service,) = (await there.http.get(services)).json()["services"]
            assert f"offered_{number}" in {each["name"] for each in service["operations"]}
            await make_namespace(here.temporal, f"made-{number}")
            called = f"http://{there.address}/namespaces/made-{number}/task-queues/q/nexus-services"
            answer = await there.http.post(f"{called}/s/o", headers={"Request-Timeout": "10ms"})
            assert "namespace" not in answer.json()["message"]
        changed = await events.next()
        assert changed is not None
        assert changed["data"]["method"] == "notifications/tools/list_changed"


# --- A2A --------------------------------------------------------------------------------------


def message(text: str, **more: Any) -> a2a.SendMessageRequest:
    said = a2a.Message(
        message_id=str(uuid.uuid4()), role=a2a.ROLE_USER, parts=[a2a.Part(text=text)], **more
    )
    request = a2a.SendMessageRequest(message=said)
    request.configuration.return_immediately = True
    return request


async def send(client: Client, request: a2a.SendMessageRequest) -> a2a.Task:
    last = [each async for each in client.send_message(request)][-1]
    return last.task


def words(told: Iterable[a2a.StreamResponse]) -> list[str]:
    """What was published, each word in a part; and states, as they change."""
    found = []
    for each in told:
        if each.HasField("task"):
            parts = [part for shown in each.task.artifacts for part in shown.parts]
            found += [part.text for part in parts]
        elif each.HasField("artifact_update"):
            found += [part.text for part in each.artifact_update.artifact.parts]
        else:
            state = a2a.TaskState.Name(each.status_update.status.state)
            found.append(state.removeprefix("TASK_STATE_"))
    return found


class Subscription:
    """Reads the stream of a task beside what a test does."""

    def __init__(self, client: Client, task_id: str) -> None:
        self.told: list[a2a.StreamResponse] = []
        self._reading = asyncio.create_task(self._read(client, task_id))

    async def _read(self, client: Client, task_id: str) -> None:
        async for each in client.subscribe(a2a.SubscribeToTaskRequest(id=task_id)):
            self.told.append(each)

    async def has(self, word: str) -> None:
        async def is_told() -> bool:
            if self._reading.done():
                self._reading.result()
            return word in words(self.told)

        await eventually(is_told, 60)

    async def begins(self) -> None:
        async def is_there() -> bool:
            return bool(self.told)

        await eventually(is_there, 60)

    async def end(self) -> list[str]:
        await self._reading
        return words(self.told)

    async def cut(self) -> list[str]:
        """What was told before its server went."""
        with pytest.raises((A2AError, httpx.HTTPError)):
            await self._reading
        return words(self.told)


async def test_who_subscribes_there_is_told_the_same_as_here(pair: tuple[Place, Place]) -> None:
    """And who subscribes again at the other is told the rest: no gap, nothing twice."""
    here, there = pair
    clients = [await place.agent(streaming=True) for place in pair]
    request = message("begin")
    task = await send(await here.agent(streaming=False), request)
    await here.tell(task.id, "one")
    first = [Subscription(client, task.id) for client in clients]
    for each in first:
        await each.begins()
        await each.has("one")
    await there.tell(task.id, "two", "ask")
    assert [await each.end() for each in first] == [["one", "two", "INPUT_REQUIRED"]] * 2
    answer = message("red", task_id=task.id, context_id=task.context_id)
    assert (await send(await there.agent(streaming=False), answer)).id == task.id
    again = [Subscription(client, task.id) for client in reversed(clients)]
    for each in again:
        await each.has("painted red")
    await here.tell(task.id, "three", "end")
    whole = "one, two, painted red, three"
    expected = ["one", "two", "painted red", "three", whole, "COMPLETED"]
    assert [await each.end() for each in again] == [expected] * 2
    for place in pair:
        client = await place.agent(streaming=False)
        found = await client.get_task(a2a.GetTaskRequest(id=task.id))
        assert [part.text for part in found.artifacts[-1].parts] == [whole]
        assert (await send(client, request)).id == task.id
        listed = await client.list_tasks(a2a.ListTasksRequest(context_id=task.context_id))
        assert [each.id for each in listed.tasks] == [task.id]
        with pytest.raises(A2AError):
            await client.cancel_task(a2a.CancelTaskRequest(id=task.id))


async def test_an_agents_task_begun_here_is_canceled_there(pair: tuple[Place, Place]) -> None:
    here, there = [await place.agent(streaming=False) for place in pair]
    request = message("begin")
    task = await send(here, request)
    request.configuration.return_immediately = False
    waiting = asyncio.create_task(send(here, request))
    canceled = await there.cancel_task(a2a.CancelTaskRequest(id=task.id))
    assert canceled.status.state == a2a.TASK_STATE_CANCELED
    assert (await waiting).status.state == a2a.TASK_STATE_CANCELED


def pushed(receiver: Receiver, path: str) -> list[str]:
    """As `words`, each notification once, however often it was sent."""
    found: dict[str, a2a.StreamResponse] = {}
    for call in receiver.to(path):
        told = ParseDict(json.loads(call.body), a2a.StreamResponse())
        assert found.setdefault(call.callback_id, told) == told
    return words(found.values())


def push(receiver: Receiver, task: a2a.Task, path: str) -> a2a.TaskPushNotificationConfig:
    url = f"http://127.0.0.1:{receiver.port}/{path}"
    return a2a.TaskPushNotificationConfig(task_id=task.id, id=path, url=url)


async def test_push_notifications_are_ordered_and_ended_wherever_one_asks(
    pair: tuple[Place, Place],
) -> None:
    here, there = [await place.agent(streaming=False) for place in pair]
    async with Receiver() as receiver:
        task = await send(here, message("begin"))
        for client, path in ((here, "here"), (there, "there"), (there, "unwanted")):
            await client.create_task_push_notification_config(push(receiver, task, path))
        gone = a2a.DeleteTaskPushNotificationConfigRequest(task_id=task.id, id="unwanted")
        await here.delete_task_push_notification_config(gone)
        for client in (here, there):
            listed = await client.list_task_push_notification_configs(
                a2a.ListTaskPushNotificationConfigsRequest(task_id=task.id)
            )
            assert [each.id for each in listed.configs] == ["here", "there"]
        for place, word in zip((*pair, *pair), ("one", "two", "three", "end"), strict=True):
            await place.tell(task.id, word)

        async def told() -> bool:
            return all("one, two, three" in pushed(receiver, path) for path in ("here", "there"))

        await eventually(told, 60)
        for path in ("here", "there"):
            assert pushed(receiver, path) == ["one", "two", "three", "one, two, three"]
        assert receiver.to("unwanted") == []


# --- Kills ------------------------------------------------------------------------------------


async def test_who_watches_goes_on_at_the_other_when_his_server_is_killed(
    processes: tuple[ServerProcess, ServerProcess],
) -> None:
    """Tasks of both protocols, begun at the server that dies; what is published then is pushed by the other."""
    async with (
        place(processes[0].address) as here,
        place(processes[1].address) as there,
        Receiver() as receiver,
    ):
        await expose_all(here.temporal)
        async with worker(there.temporal):
            await goes_on(processes[0], here, there, receiver)


async def goes_on(dies: ServerProcess, here: Place, there: Place, receiver: Receiver) -> None:
    task_id = await begun(here)
    task = await send(await here.agent(streaming=False), message("begin"))
    config = push(receiver, task, "told")
    await (await here.agent(streaming=False)).create_task_push_notification_config(config)
    reading = Subscription(await here.agent(streaming=True), task.id)
    async with here.listening(taskIds=[task_id]) as events:
        await until(events, "working")
        await there.tell(task.id, "one")
        await reading.has("one")
        await asyncio.to_thread(dies.kill)
        await there.tell(task.id, "two")
        with contextlib.suppress(aiohttp.ClientError):
            assert "completed" not in statuses(await events.rest())
    assert await reading.cut() == ["one"]
    again = Subscription(await there.agent(streaming=True), task.id)
    async with there.listening(taskIds=[task_id]) as events:
        await again.has("two")
        await there.tell(task.id, "three", "end")
        await there.tell(task_id, "end")
        assert statuses(await events.rest())[-1] == "completed"
    whole = ["one", "two", "three", "one, two, three"]
    assert await again.end() == [*whole, "COMPLETED"]

    async def told() -> bool:
        return whole[-1] in pushed(receiver, "told")

    await eventually(told, 60)
    assert pushed(receiver, "told") == whole
