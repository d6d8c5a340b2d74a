"""Streams of what operations publish: in order, each piece once, from any of them on."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from google.protobuf.message import Message
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client

from durably import Server
from durably.agents.convention import UPDATE_ANSWER
from durably.edge import nexus_output
from durably.service import followers
from durably.service.admission import snake_case
from durably.service.durable_calls import DurableCalls, Seen
from durably.service.followers import Followers, Reader
from durably.service.nexus_operations import NexusOperations
from durably.service.nexus_tokens import OfWorkflow, for_workflow
from durably.service.operation_output import OutputStreams
from durably.service.tokens import HistoryPageToken
from tests import desk, teller
from tests.callers import Events, stream, until_cut, values
from tests.conftest import eventually
from tests.processes import ServerProcess
from tests.teller import Teller

OPERATIONS = "/namespaces/default/nexus/operations"
BASE = f"/namespaces/default/task-queues/{desk.QUEUE}/nexus-services"
BY_TOKEN = f"{BASE}/Desk/carry/output"


def by_token(kind: str) -> dict[str, str]:
    return {"nexus_operation_token": for_workflow("default", f"work-{kind}")}


async def begin(client: Client, kind: str) -> None:
    await client.start_workflow(desk.Work.run, kind, id=f"work-{kind}", task_queue=desk.QUEUE)


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    store = f"sqlite:///{tmp_path}/store.db"
    async with Server(store=store, port=0, output_readers_max=8) as running:
        yield running


@pytest_asyncio.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with desk.beside_worker(server.address) as found:
        yield found


async def test_pieces_come_in_order_and_a_reader_goes_on_where_it_was(
    server: Server, client: Client
) -> None:
    await begin(client, "publishes a")
    async with stream(server.address, BY_TOKEN, **by_token("publishes a")) as events:
        assert events.reply.status == 200
        assert events.reply.content_type == "text/event-stream"
        first = await events.next()
        assert first is not None
        assert (first["event"], first["data"]["state"], "id" in first) == (
            "state",
            "running",
            False,
        )
        for word in ("one", "two", "end"):
            await desk.tell(client, "publishes a", word)
        told = await events.rest()
    assert values(told) == ["begun", "one", "two", "end"]
    assert told[1]["data"] == {"value": "one", "kind": "artifact", "name": "draft"}
    assert told[2]["data"]["append"] is True
    assert [each["event"] for each in told] == ["output"] * 4 + ["end"]
    assert told[-1]["data"]["state"] == "succeeded"
    for index, each in enumerate(told[:-1]):
        named = {**by_token("publishes a"), "last_event_id": each["id"]}
        async with stream(server.address, BY_TOKEN, **named) as events:
            assert await events.rest() == told[index + 1 :]
    async with stream(
        server.address, BY_TOKEN, **by_token("publishes a"), last_event_id=told[-1]["id"]
    ) as events:
        assert (events.reply.status, await events.reply.read()) == (204, b"")
    lines = {**by_token("publishes a"), "accept": "application/x-ndjson"}
    async with stream(server.address, BY_TOKEN, **lines) as events:
        assert events.reply.content_type == "application/x-ndjson"
        read = [json.loads(line) for line in (await events.reply.read()).splitlines()]
    assert read == told
    now = f"{BY_TOKEN}?after=now"
    async with stream(server.address, now, **by_token("publishes a")) as events:
        assert [each["event"] for each in await events.rest()] == ["end"]


async def test_a_chain_of_runs_is_one_stream(server: Server, client: Client) -> None:
    kind = "continues 2 chain"
    await begin(client, kind)
    expected = [f"continues {number} chain begins" for number in (2, 1, 0)]
    async with stream(server.address, BY_TOKEN, **by_token(kind)) as events:
        told = [each for each in await events.rest() if each["event"] == "output"]
    assert values(told) == expected
    assert len({each["id"].partition("/")[0] for each in told}) == 3
    async with stream(server.address, BY_TOKEN, **by_token(kind)) as events:
        assert values(await events.rest()) == expected
    named = {**by_token(kind), "last_event_id": told[0]["id"]}
    async with stream(server.address, BY_TOKEN, **named) as events:
        assert values(await events.rest()) == expected[1:]


async def test_the_stream_of_a_standalone_operation_has_its_questions_and_its_end(
    server: Server, client: Client
) -> None:
    await desk.start(client, "asking", "asks s")
    async with (
        stream(server.address, f"{OPERATIONS}/asking/output") as events,
        aiohttp.ClientSession() as session,
    ):
        seen = []
        while not seen or seen[-1]["data"]["state"] != "input_required":
            each = await events.next()
            assert each is not None
            seen.append(each)
        assert list(seen[-1]["data"]["questions"]) == ["the colour"]
        url = f"http://{server.address}{OPERATIONS}/asking/questions/the%20colour"
        answer = {"action": "accept", "content": {"colour": "blue"}}
        async with session.post(url, json=answer) as reply:
            assert reply.status == 200
        told = await events.rest()
    assert (told[-1]["event"], told[-1]["data"]["state"]) == ("end", "succeeded")
    await desk.start(client, "publishing", "publishes s")
    for word in ("one", "end"):
        await desk.tell(client, "publishes s", word)
    for _ in range(2):  # While it goes on, and when it has ended.
        async with stream(server.address, f"{OPERATIONS}/publishing/output") as events:
            told = await events.rest()
        assert values(told) == ["begun", "one", "end"]
        assert told[-1]["event"] == "end"
    async with stream(
        server.address, f"{OPERATIONS}/publishing/output", last_event_id=told[-1]["id"]
    ) as events:
        assert events.reply.status == 204


async def test_an_operation_without_a_workflow_has_its_end_alone(
    server: Server, client: Client
) -> None:
    await desk.start(client, "quick", "hi", "echo")
    async with stream(server.address, f"{OPERATIONS}/quick/output") as events:
        told = await events.rest()
    assert told[-1]["event"] == "end"
    assert told[-1]["data"]["state"] == "succeeded"


async def test_a_run_that_was_reset_tells_its_output_again(server: Server, client: Client) -> None:
    await begin(client, "publishes r")
    handle = client.get_workflow_handle("work-publishes r")
    async with stream(server.address, BY_TOKEN, **by_token("publishes r")) as events:
        assert values(await events.pieces(1)) == ["begun"]
        request = ws.ResetWorkflowExecutionRequest(
            namespace="default", workflow_task_finish_event_id=4, request_id="r", reason="again"
        )
        request.workflow_execution.workflow_id = handle.id
        await client.workflow_service.reset_workflow_execution(request)
        await desk.tell(client, "publishes r", "end")
        told = await events.rest()
    assert values(told) == ["begun", "end"]


async def test_readers_of_a_run_share_a_follower_that_goes_with_the_last(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nexus_output, "STILL_THERE_S", 0.1)
    await begin(client, "publishes f")
    named = by_token("publishes f")

    def at_work() -> int:
        return sum(task.get_name() == "follower" for task in asyncio.all_tasks())

    async with (
        stream(server.address, BY_TOKEN, **named) as one,
        stream(server.address, BY_TOKEN, **named) as two,
        stream(server.address, BY_TOKEN, **named) as three,
    ):
        for events in (one, two, three):
            assert values(await events.pieces(1)) == ["begun"]
        await desk.tell(client, "publishes f", "word")
        for events in (one, two, three):
            assert values(await events.pieces(1)) == ["word"]
        assert at_work() == 1

    async def all_gone() -> bool:
        return at_work() == 0

    await eventually(all_gone, 60)


async def test_there_are_so_many_streams_at_a_time(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nexus_output, "STILL_THERE_S", 0.1)
    await begin(client, "publishes many")
    named = by_token("publishes many")

    async def reads(count: int) -> None:
        if not count:
            async with stream(server.address, BY_TOKEN, **named) as refused:
                assert refused.reply.status == 429
                told = await refused.reply.json()
                assert "output_readers_max" in told["message"]
                assert told["details"]["type"] == "RESOURCE_EXHAUSTED"
            return
        async with stream(server.address, BY_TOKEN, **named) as events:
            assert events.reply.status == 200
            await reads(count - 1)

    await reads(8)

    async def there_is_room() -> bool:
        async with stream(server.address, BY_TOKEN, **named) as events:
            return events.reply.status == 200

    await eventually(there_is_room, 60)


async def test_a_reader_that_falls_behind_misses_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a follower does not keep any more is read from the history."""
    monkeypatch.setattr(followers, "KEPT_MAX", 2)

    async def answers(name: str, request: Message) -> Any:
        return await getattr(client.workflow_service, snake_case(name))(request)

    await begin(client, "publishes slow")
    described = await client.get_workflow_handle("work-publishes slow").describe()
    shared = Followers(answers)
    place = HistoryPageToken(described.run_id, 1)
    quick, slow = (
        Reader(shared, answers, "default", "work-publishes slow", place) for _ in range(2)
    )
    read: dict[Reader, list[Any]] = {quick: [], slow: []}

    async def take(reader: Reader, count: int) -> None:
        while len(read[reader]) < count:
            batch = await reader.next()
            read[reader] += [each.piece.value for each in batch.news if each.piece]

    words = [f"word {number}" for number in range(10)]
    await asyncio.gather(take(quick, 1), take(slow, 1))
    waiting = asyncio.create_task(slow.next())  # It joins, and then is called away.
    await eventually(lambda: has_joined(shared), 60)
    waiting.cancel()
    for word in words:
        await desk.tell(client, "publishes slow", word)
    await take(quick, 11)
    await take(slow, 11)
    assert read[quick] == read[slow] == ["begun", *words]
    assert len(shared) == 1
    for reader in (quick, slow):
        reader.close()
    assert len(shared) == 0


async def test_what_the_follower_has_not_heard_of_is_not_left_out(client: Client) -> None:
    """Who is told of an end is told before it of all that is in the history."""
    held = asyncio.Event()

    async def answers(name: str, request: Message) -> Any:
        return await getattr(client.workflow_service, snake_case(name))(request)

    async def later(name: str, request: Message) -> Any:
        await held.wait()
        return await answers(name, request)

    await begin(client, "publishes late")
    handle = client.get_workflow_handle("work-publishes late")
    place = HistoryPageToken((await handle.describe()).run_id, 1)
    shared = Followers(later)
    reader = Reader(shared, answers, "default", handle.id, place)
    read = []

    async def take() -> bool:
        batch = await reader.next(waits=False)
        read.extend(each.piece.value for each in batch.news if each.piece)
        return batch.ended

    async def has_begun() -> bool:
        await take()
        return bool(read)

    await eventually(has_begun, 60)
    waiting = asyncio.create_task(reader.next())
    await eventually(lambda: has_joined(shared), 60)
    waiting.cancel()
    for word in ("one", "end"):
        await desk.tell(client, "publishes late", word)
    await handle.result()
    while not await take():
        pass
    assert read == ["begun", "one", "end"]
    assert not await take()
    held.set()
    reader.close()
    await shared.close()


async def test_what_was_published_before_a_question_is_told_before_it(client: Client) -> None:
    """Also if all of it happens while the reader looks how the operation stands."""
    words = ["one", "two", "ask"]
    looks = 0

    async def answers(name: str, request: Message) -> Any:
        nonlocal looks
        if name == "DescribeWorkflowExecution":
            looks += 1
            if looks == 2:
                await answer("colour 0")
                for word in words:
                    await handle.signal(Teller.tell, word)
                await eventually(asks_again, 60)
        return await getattr(client.workflow_service, snake_case(name))(request)

    async def answer(key: str) -> None:
        response = {"action": "accept", "content": {"answer": "red"}}
        await handle.execute_update(UPDATE_ANSWER, args=[key, response])

    async def asks_again() -> bool:
        return "colour 3" in (await seen()).questions

    calls = DurableCalls(answers)

    async def seen() -> Seen:
        return await DurableCalls(answers).look_at_workflow("default", "teller")

    async with teller.worker(client):
        handle = await client.start_workflow(
            Teller.run,
            {},
            id="teller",
            task_queue=teller.QUEUE,
            start_signal="tell",
            start_signal_args=["ask"],
        )
        shared = Followers(answers)
        streams = OutputStreams(NexusOperations(calls, answers), calls, shared, answers, 1)
        told: list[Any] = []
        async with aclosing(
            streams.stream(OfWorkflow("default", "teller"), None, from_now=False)
        ) as stream:
            async for each in stream:
                told.append(each.piece.value if each.piece else list(each.standing.questions))
                if told[-1] == ["colour 3"]:
                    break
        await shared.close()
        await answer("colour 3")
        await handle.signal(Teller.tell, "end")
        await handle.result()
    assert told[-4:] == ["painted red", "one", "two", ["colour 3"]]


async def has_joined(shared: Followers) -> bool:
    return len(shared) == 1


async def test_a_stream_goes_on_after_a_kill(server_process: ServerProcess) -> None:
    address = server_process.start().address
    named = by_token("publishes k")
    read: list[dict[str, Any]] = []
    client = await Client.connect(address)
    async with stream_of_a_new_run(client, address, "publishes k") as events:
        async with desk.worker(client):
            read += await events.pieces(1)
            await desk.tell(client, "publishes k", "one")
            read += await events.pieces(1)
        server_process.kill()
        await until_cut(events)
    server_process.start()
    client = await Client.connect(address)
    named["last_event_id"] = read[-1]["id"]
    async with stream(address, BY_TOKEN, **named) as events, desk.worker(client):
        await desk.tell(client, "publishes k", "two")
        read += await events.pieces(1)
        await desk.tell(client, "publishes k", "end")
        read += await events.rest()
    assert values(read) == ["begun", "one", "two", "end"]
    assert read[-1]["event"] == "end"


@asynccontextmanager
async def stream_of_a_new_run(client: Client, address: str, kind: str) -> AsyncIterator[Events]:
    await begin(client, kind)
    async with stream(address, BY_TOKEN, **by_token(kind)) as events:
        yield events


async def test_a_stream_ends_when_the_server_stops() -> None:
    async with Server(store="memory:", port=0) as server:
        client = await Client.connect(server.address)
        await client.start_workflow("Nobody", id="work-nobody", task_queue="q")
        async with stream(server.address, BY_TOKEN, **by_token("nobody")) as events:
            assert await events.next() is not None
            stopping = asyncio.create_task(server.__aexit__(None, None, None))
            assert await events.rest() == []
            await stopping


@pytest.mark.parametrize(
    ("path", "headers", "status", "message"),
    [
        (BY_TOKEN, {"last_event_id": "nonsense"}, 400, "RUN/EVENT"),
        (BY_TOKEN, {"last_event_id": "run/-1"}, 400, "RUN/EVENT"),
        (BY_TOKEN, {"last_event_id": "/3"}, 400, "RUN/EVENT"),
        (f"{BY_TOKEN}?after=run/", {}, 400, "RUN/EVENT"),
        (BY_TOKEN, {"last_event_id": "run/3"}, 400, "Invalid RunId"),
        (BY_TOKEN, {"last_event_id": "1d6c1a0e-3f4b-4f6a-9d53-0c6b1b1f8f00/3"}, 404, "not found"),
        (BY_TOKEN, by_token("nothing"), 404, "not found"),
        (f"{OPERATIONS}/nobody/output", {}, 404, "operation not found for ID: nobody"),
        (f"{OPERATIONS}/nobody/output", {"last_event_id": "run/end"}, 404, "operation not found"),
    ],
)
async def test_faults_of_a_reader(
    server: Server, path: str, headers: dict[str, str], status: int, message: str
) -> None:
    client = await Client.connect(server.address)
    await client.start_workflow("Nobody", id="work-nobody", task_queue="q")
    async with stream(server.address, path, **{**by_token("nobody"), **headers}) as events:
        assert events.reply.status == status
        told = await events.reply.json()
    assert message in told["message"]
