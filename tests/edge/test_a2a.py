"""Agents of A2A, called by the SDK's own client: real processes, which are killed."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterable
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

from tests.conftest import eventually
from tests.outside import restart
from tests.processes import ServerProcess
from tests.receivers import Receiver

AGENT = "/a2a/default/writer"
WAITS = 120.0


@pytest_asyncio.fixture
async def client(outside: ServerProcess) -> AsyncIterator[Client]:
    async with httpx.AsyncClient(timeout=WAITS) as http:
        card = await A2ACardResolver(http, f"http://{outside.address}{AGENT}").get_agent_card()
        yield ClientFactory(ClientConfig(httpx_client=http, streaming=False)).create(card)


def message(text: str, **more: Any) -> a2a.SendMessageRequest:
    said = a2a.Message(
        message_id=str(uuid.uuid4()), role=a2a.ROLE_USER, parts=[a2a.Part(text=text)], **more
    )
    return a2a.SendMessageRequest(message=said)


async def send(client: Client, request: a2a.SendMessageRequest) -> a2a.Task:
    last = [each async for each in client.send_message(request)][-1]
    return last.task


def result_of(task: a2a.Task) -> str:
    found = {each.artifact_id: each.parts[0].text for each in task.artifacts}
    return found["result"]


async def test_the_card_says_what_there_is(outside: ServerProcess) -> None:
    async with aiohttp.ClientSession() as http:
        base = f"http://{outside.address}/a2a/default"
        async with http.get(f"{base}/writer/.well-known/agent-card.json") as reply:
            card = await reply.json()
        assert card["name"] == "writer"
        assert card["capabilities"] == {"streaming": True, "pushNotifications": True}
        assert [each["protocolBinding"] for each in card["supportedInterfaces"]] == [
            "JSONRPC",
            "HTTP+JSON",
        ]
        async with http.get(f"{base}/greet/.well-known/agent-card.json") as reply:
            assert reply.status == 404  # A tool, and no agent.


async def test_a_message_is_worked_on_once(client: Client) -> None:
    request = message("write")
    task = await send(client, request)
    assert task.status.state == a2a.TASK_STATE_COMPLETED
    assert result_of(task) == "done: write"
    assert [each.artifact_id for each in task.artifacts] == ["draft", "result"]
    assert task.history[0].parts[0].text == "write"
    assert (await send(client, request)).id == task.id
    listed = await client.list_tasks(a2a.ListTasksRequest(context_id=task.context_id))
    assert [each.id for each in listed.tasks] == [task.id]
    with pytest.raises(A2AError):
        await client.cancel_task(a2a.CancelTaskRequest(id=task.id))


async def test_an_agent_asks_and_goes_on_after_a_kill(
    outside: ServerProcess, client: Client
) -> None:
    task = await send(client, message("ask me"))
    assert task.status.state == a2a.TASK_STATE_INPUT_REQUIRED
    assert task.status.message.parts[0].text == "Which colour?"
    await asyncio.to_thread(restart, outside)
    answer = message("red", task_id=task.id, context_id=task.context_id)
    done = await send(client, answer)
    assert done.id == task.id
    assert result_of(done) == "painted red"
    with pytest.raises(A2AError):
        await send(client, answer)


async def test_a_message_that_is_sent_again_after_a_kill_gets_the_one_result(
    outside: ServerProcess, client: Client
) -> None:
    request = message("write slowly", context_id="c1")
    request.configuration.return_immediately = True
    begun = await send(client, request)
    assert begun.status.state in (a2a.TASK_STATE_WORKING, a2a.TASK_STATE_COMPLETED)
    await asyncio.to_thread(restart, outside)
    request.configuration.return_immediately = False
    done = await send(client, request)
    assert done.id == begun.id
    assert result_of(done) == "done: write slowly"


async def test_a_message_whose_reply_a_kill_takes_is_sent_again_and_has_the_one_result(
    outside: ServerProcess, client: Client
) -> None:
    request = message("write patiently", context_id="patient")
    temporal = await temporalio.client.Client.connect(outside.address)
    first = asyncio.create_task(send(client, request))

    async def tasks() -> list[a2a.Task]:
        listed = await client.list_tasks(a2a.ListTasksRequest(context_id="patient"))
        return list(listed.tasks)

    async def begun() -> bool:
        return len(await tasks()) == 1

    await eventually(begun, 60)
    await asyncio.to_thread(restart, outside)
    lost = (await asyncio.gather(first, return_exceptions=True))[0]
    assert isinstance(lost, BaseException)
    done = await send(client, request)
    assert result_of(done) == "done: write patiently"
    assert [each.id for each in await tasks()] == [done.id]
    assert result_of(await send(client, request)) == result_of(done)
    described = await temporal.get_workflow_handle(done.id).describe()
    assert described.workflow_type == "Agent"
    assert (await temporal.count_workflows(f"WorkflowId = '{done.id}'")).count == 1


async def test_a_stream_that_a_kill_cuts_is_taken_up_again_and_shows_the_one_end(
    outside: ServerProcess,
) -> None:
    async with httpx.AsyncClient(timeout=WAITS) as http:
        card = await A2ACardResolver(http, f"http://{outside.address}{AGENT}").get_agent_card()
        client = ClientFactory(ClientConfig(httpx_client=http, streaming=True)).create(card)
        stream = client.send_message(message("stream held"))
        task = (await anext(stream)).task
        await asyncio.to_thread(restart, outside)
        with pytest.raises((A2AError, httpx.HTTPError)):
            async for _ in stream:
                pass
        temporal = await temporalio.client.Client.connect(outside.address)
        again = []
        async for each in client.subscribe(a2a.SubscribeToTaskRequest(id=task.id)):
            if not again:
                await temporal.get_workflow_handle(task.id).signal("go_on")
            again.append(each)
    assert again[0].task.id == task.id
    assert again[-1].status_update.status.state == a2a.TASK_STATE_COMPLETED
    shown = [each.artifact_id for each in again[0].task.artifacts]
    shown += [each.artifact_update.artifact.artifact_id for each in again[1:]]
    assert [each for each in shown if each] == ["draft", "result"]


async def test_a_stream_shows_everything_in_order(outside: ServerProcess) -> None:
    async with httpx.AsyncClient(timeout=WAITS) as http:
        card = await A2ACardResolver(http, f"http://{outside.address}{AGENT}").get_agent_card()
        client = ClientFactory(ClientConfig(httpx_client=http, streaming=True)).create(card)
        seen = [each async for each in client.send_message(message("stream"))]
    kinds = [each.WhichOneof("payload") for each in seen]
    assert kinds[0] == "task"
    assert kinds[-1] == "status_update"
    assert seen[-1].status_update.status.state == a2a.TASK_STATE_COMPLETED
    artifacts = [each.artifact_update.artifact.artifact_id for each in seen[1:]]
    shown = [each.artifact_id for each in seen[0].task.artifacts] + [
        each for each in artifacts if each
    ]
    assert shown == ["draft", "result"]


async def test_a_task_is_canceled(client: Client) -> None:
    request = message("wait")
    request.configuration.return_immediately = True
    task = await send(client, request)
    await client.cancel_task(a2a.CancelTaskRequest(id=task.id))

    async def canceled() -> bool:
        found = await client.get_task(a2a.GetTaskRequest(id=task.id))
        return found.status.state == a2a.TASK_STATE_CANCELED

    await eventually(canceled, 60)


async def test_what_is_no_task_of_the_agent_is_not_found(client: Client) -> None:
    for task_id in ("secret", "a2a-writer-0"):
        with pytest.raises(A2AError):
            await client.get_task(a2a.GetTaskRequest(id=task_id))


# --- Push notifications -----------------------------------------------------------------------


def pushed_to(receiver: Receiver, path: str, **more: Any) -> a2a.TaskPushNotificationConfig:
    url = f"http://127.0.0.1:{receiver.port}/{path}"
    return a2a.TaskPushNotificationConfig(url=url, **more)


def notifications(receiver: Receiver, path: str) -> dict[str, a2a.StreamResponse]:
    """What was told, by the ids of the calls, in the order in which each came first."""
    found = {}
    for call in receiver.to(path):
        told = ParseDict(json.loads(call.body), a2a.StreamResponse())
        assert found.setdefault(call.callback_id, told) == told, "the same call says the same"
    return found


def states(told: Iterable[a2a.StreamResponse]) -> list[str]:
    """The state that each notification tells; of an artifact its name."""
    found = []
    for each in told:
        if each.HasField("artifact_update"):
            found.append(each.artifact_update.artifact.artifact_id)
            continue
        status = each.task.status if each.HasField("task") else each.status_update.status
        found.append(a2a.TaskState.Name(status.state).removeprefix("TASK_STATE_"))
    return found


async def test_each_change_is_pushed_in_order_through_refusals_and_a_kill(
    outside: ServerProcess, client: Client
) -> None:
    async with Receiver() as receiver:
        receiver.answers["pushed"] = [503, 200, 0]
        request = message("ask me")
        request.configuration.task_push_notification_config.CopyFrom(
            pushed_to(receiver, "pushed", token="secret")
        )
        task = await send(client, request)

        async def told(count: int) -> bool:
            return len(notifications(receiver, "pushed")) == count

        await eventually(lambda: told(3), 90)
        await asyncio.to_thread(restart, outside)
        answer = message("red", task_id=task.id, context_id=task.context_id)
        assert result_of(await send(client, answer)) == "painted red"
        await eventually(lambda: told(5), 90)
        found = list(notifications(receiver, "pushed").values())
        assert states(found) == ["WORKING", "draft", "INPUT_REQUIRED", "WORKING", "COMPLETED"]
        first, draft, asks, answered, end = found
        assert first.status_update.status.message.parts[0].text == "read: ask me"
        assert draft.artifact_update.artifact.parts[0].text == "a first part"
        said = asks.status_update.status
        assert said.message.parts[0].text == "Which colour?"
        assert "colour" in said.message.metadata["durably.questions"]
        assert said.timestamp.ToNanoseconds() > 0
        assert not answered.status_update.status.HasField("message")
        assert {each.status_update.task_id for each in (first, asks, answered)} == {task.id}
        assert {each.status_update.context_id for each in (first, asks)} == {task.context_id}
        assert end.task.id == task.id
        assert result_of(end.task) == "painted red"
        assert len(receiver.to("pushed")) >= 7, "what was refused or lost is told again"
        for call in receiver.to("pushed"):
            assert call.headers["x-a2a-notification-token"] == "secret"
            assert not [name for name in call.headers if "durably-a2a" in name or "follows" in name]


async def test_push_configs_are_set_shown_replaced_and_deleted(client: Client) -> None:
    async with Receiver() as receiver:
        request = message("ask me")
        request.configuration.task_push_notification_config.CopyFrom(pushed_to(receiver, "first"))
        task = await send(client, request)

        async def create(path: str, **more: Any) -> a2a.TaskPushNotificationConfig:
            config = pushed_to(receiver, path, task_id=task.id, **more)
            return await client.create_task_push_notification_config(config)

        async def listed(**more: Any) -> a2a.ListTaskPushNotificationConfigsResponse:
            return await client.list_task_push_notification_configs(
                a2a.ListTaskPushNotificationConfigsRequest(task_id=task.id, **more)
            )

        def get(config_id: str) -> a2a.GetTaskPushNotificationConfigRequest:
            return a2a.GetTaskPushNotificationConfigRequest(task_id=task.id, id=config_id)

        def delete(config_id: str) -> a2a.DeleteTaskPushNotificationConfigRequest:
            return a2a.DeleteTaskPushNotificationConfigRequest(task_id=task.id, id=config_id)

        who = a2a.AuthenticationInfo(scheme="Bearer", credentials="word")
        made = await create("second", id="mine", token="secret", authentication=who)
        assert made == await create("second", id="mine", token="secret", authentication=who)
        assert await client.get_task_push_notification_config(get("mine")) == made
        await create("gone", id="unwanted")
        paths = [each.url.rsplit("/", 1)[1] for each in (await listed()).configs]
        assert paths == ["first", "second", "gone"]
        page = await listed(page_size=2)
        assert [each.id for each in page.configs][1] == "mine"
        rest = await listed(page_size=2, page_token=page.next_page_token)
        assert [each.id for each in rest.configs] == ["unwanted"]
        assert not rest.next_page_token
        replaced = await create("other", id="mine")
        assert await client.get_task_push_notification_config(get("mine")) == replaced
        for _ in range(2):
            await client.delete_task_push_notification_config(delete("unwanted"))
        with pytest.raises(A2AError):
            await client.get_task_push_notification_config(get("unwanted"))
        assert [each.id for each in (await listed()).configs][1:] == ["mine"]
        await create("gone", id="unwanted")
        await client.delete_task_push_notification_config(delete("unwanted"))

        await send(client, message("red", task_id=task.id, context_id=task.context_id))

        async def told() -> bool:
            ends = [receiver.to(path)[-1:] for path in ("first", "other")]
            return all(each and b"COMPLETED" in each[0].body for each in ends)

        await eventually(told, 90)
        assert states(notifications(receiver, "other").values()) == ["WORKING", "COMPLETED"]
        assert receiver.to("gone") == []
        assert receiver.to("second") == []
        with pytest.raises(A2AError):
            await create("late")
        await client.delete_task_push_notification_config(delete("mine"))
        assert len((await listed()).configs) == 1


async def test_a_push_config_that_cannot_be_called_is_refused(client: Client) -> None:
    request = message("ask me", context_id="refused")
    request.configuration.return_immediately = True
    task = await send(client, request)
    for url in ("", "ftp://example.com/", "http://10.0.0.1/", "temporal://system"):
        bad = a2a.TaskPushNotificationConfig(task_id=task.id, url=url)
        with pytest.raises(A2AError):
            await client.create_task_push_notification_config(bad)
    with pytest.raises(A2AError):
        await client.list_task_push_notification_configs(
            a2a.ListTaskPushNotificationConfigsRequest(task_id=task.id, page_token="x!")
        )
    configs = await client.list_task_push_notification_configs(
        a2a.ListTaskPushNotificationConfigsRequest(task_id=task.id)
    )
    assert not configs.configs


async def test_an_answer_may_bring_a_push_config(client: Client) -> None:
    async with Receiver() as receiver:
        task = await send(client, message("ask me"))
        answer = message("red", task_id=task.id, context_id=task.context_id)
        answer.configuration.task_push_notification_config.CopyFrom(pushed_to(receiver, "late"))
        await send(client, answer)

        async def told() -> bool:
            return len(notifications(receiver, "late")) == 2

        await eventually(told, 90)
        assert states(notifications(receiver, "late").values()) == ["WORKING", "COMPLETED"]
