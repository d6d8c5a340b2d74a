"""Operations over HTTP with several servers: begun at one of them, and asked for at another."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest_asyncio
from temporalio.client import Client, WorkflowUpdateStage

from durably import Server
from durably.agents.convention import Exposed
from durably.agents.interaction import expose
from durably.service.nexus_tokens import for_workflow
from tests import desk
from tests.callers import DESK, OPERATIONS, PATIENT, Asking, stream, until_cut, values
from tests.edge.test_nexus_backing import BASE as ERRANDS
from tests.edge.test_nexus_backing import QUEUE as ERRANDS_QUEUE
from tests.edge.test_nexus_backing import Listens, of_update, working
from tests.postgres import PostgresServer
from tests.processes import ServerProcess

SERVICES = "/namespaces/default/nexus/services"
OUTPUT = f"{DESK}/carry/output"
WAITS = {"Durably-Wait": "60s"}
ACCEPT = {"action": "accept", "content": {"colour": "red"}}
LINES = {"accept": "application/x-ndjson"}


class Pair:
    """Two servers of one store: the worker of the desk polls the second."""

    def __init__(self, clients: list[Client], askings: list[Asking], addresses: list[str]) -> None:
        self.here, self.there = clients
        self.ask_here, self.ask_there = askings
        self.addresses = addresses


@pytest_asyncio.fixture
async def pair(postgres: PostgresServer) -> AsyncIterator[Pair]:
    url = postgres.database()
    async with contextlib.AsyncExitStack() as stack:
        servers = []
        for _ in range(2):
            server = Server(store=url, port=0, node_beat_s=0.3)
            servers.append(await stack.enter_async_context(server))
        addresses = [server.address for server in servers]
        session = await stack.enter_async_context(aiohttp.ClientSession())
        clients = [await Client.connect(address) for address in addresses]
        await desk.make_endpoint(clients[0])
        await stack.enter_async_context(desk.worker(clients[1]))
        yield Pair(clients, [Asking(address, session) for address in addresses], addresses)


async def test_what_began_here_is_looked_at_and_has_its_result_there(pair: Pair) -> None:
    """Who waits at one server is told of an end that the other committed."""
    await desk.start(pair.here, "one", "waits one")
    token = {"Nexus-Operation-Token": await pair.ask_here.started("waits two")}
    for path, named, kind in (
        (f"{OPERATIONS}/one", {}, "waits one"),
        (f"{DESK}/carry", token, "waits two"),
    ):
        asks = (pair.ask_here, pair.ask_there)
        looked = [await ask("GET", path, **named) for ask in asks]
        assert [(status, told["state"]) for status, _, told in looked] == [(200, "running")] * 2
        assert looked[0][2] == looked[1][2]
        waiting = [
            asyncio.create_task(ask("GET", f"{path}/result", **named, **WAITS)) for ask in asks
        ]
        await desk.tell(pair.here, kind, "go")
        for status, said, body in await asyncio.gather(*waiting):
            assert (status, said["nexus-operation-state"], body) == (
                200,
                "succeeded",
                f"{kind}: go",
            )
        ended = [await ask("GET", path, **named) for ask in asks]
        assert ended[0][2] == ended[1][2]
        assert ended[0][2]["state"] == "succeeded"
    lists = [(await ask("GET", OPERATIONS))[2] for ask in (pair.ask_here, pair.ask_there)]
    assert lists[0] == lists[1]
    assert [each["id"] for each in lists[0]["operations"]] == ["one"]


async def test_what_began_here_is_canceled_there(pair: Pair) -> None:
    await desk.start(pair.here, "long", "waits long")
    waiting = asyncio.create_task(pair.ask_here("GET", f"{OPERATIONS}/long/result", **WAITS))
    assert (await pair.ask_there("POST", f"{OPERATIONS}/long/cancel"))[0] == 202
    assert (await pair.ask_here("POST", f"{OPERATIONS}/long/cancel"))[0] == 202
    status, said, _ = await waiting
    assert (status, said["nexus-operation-state"]) == (424, "canceled")
    token = {"Nexus-Operation-Token": await pair.ask_here.started("waits token")}
    assert (await pair.ask_there("POST", f"{DESK}/carry/cancel", **token, **PATIENT))[0] == 202
    status, said, _ = await pair.ask_here("GET", f"{DESK}/carry/result", **token, **WAITS)
    assert (status, said["nexus-operation-state"]) == (424, "canceled")


async def test_a_question_is_answered_there_once(pair: Pair) -> None:
    await desk.start(pair.here, "asking", "asks standalone")
    token = {"Nexus-Operation-Token": await pair.ask_here.started("asks token")}
    for path, named in ((f"{OPERATIONS}/asking", {}), (f"{DESK}/carry", token)):
        result = f"{path}/result"
        asked = await asyncio.gather(
            pair.ask_here("GET", result, **named, **WAITS),
            pair.ask_there("GET", result, **named, **WAITS),
        )
        for status, said, told in asked:
            assert (status, said["nexus-operation-state"]) == (202, "input_required")
            assert list(told["questions"]) == ["the colour"]
        known = {**named, **WAITS, "Durably-Known-Questions": "the%20colour"}
        waiting = asyncio.create_task(pair.ask_here("GET", result, **known))
        answers = [
            ask("POST", f"{path}/questions/the%20colour", ACCEPT, **named)
            for ask in (pair.ask_there, pair.ask_here)
        ]
        assert [status for status, _, _ in [await each for each in answers]] == [200, 409]
        assert (await waiting)[::2] == (200, "painted red")


async def test_readers_at_both_servers_are_told_the_same_and_change_places(pair: Pair) -> None:
    """Each goes on at the other where he was; a reader of any place is told the rest of it."""
    token = {"nexus_operation_token": for_workflow("default", "work-publishes a")}
    await desk.start(pair.here, "publishing", "publishes a")
    paths = [(OUTPUT, token), (f"{OPERATIONS}/publishing/output", {})]
    await desk.tell(pair.here, "publishes a", "one")
    read: list[list[dict[str, Any]]] = [[], [], [], []]
    readers = [(path, named, server) for path, named in paths for server in (0, 1)]

    async def take(count: int, turn: int) -> None:
        for found, (path, named, server) in zip(read, readers, strict=True):
            after = {**named, "last_event_id": found[-1]["id"]} if found else named
            async with stream(pair.addresses[(server + turn) % 2], path, **after) as events:
                found += await events.pieces(count)

    await take(2, 0)
    await desk.tell(pair.there, "publishes a", "two")
    await take(1, 1)
    reading = asyncio.create_task(take(1, 0))  # It waits while that is published.
    for word in ("three", "four"):
        await desk.tell(pair.here, "publishes a", word)
    await reading
    await desk.tell(pair.there, "publishes a", "end")
    for found, (path, named, server) in zip(read, readers, strict=True):
        after = {**named, "last_event_id": found[-1]["id"]}
        async with stream(pair.addresses[1 - server], path, **after) as events:
            found += [each for each in await events.rest() if "id" in each]
        assert values(found) == ["begun", "one", "two", "three", "four", "end"]
        assert (found[-1]["event"], found[-1]["data"]["state"]) == ("end", "succeeded")
        for index, each in enumerate(found):
            after = {**named, **LINES, "last_event_id": each["id"]}
            async with stream(pair.addresses[server], path, **after) as events:
                rest = [json.loads(line) for line in (await events.reply.read()).splitlines()]
            assert rest == found[index + 1 :]
    assert [each["id"] for each in read[0]] == [each["id"] for each in read[1]]
    assert [each["id"] for each in read[2]] == [each["id"] for each in read[3]]


async def test_a_stream_there_has_the_questions_and_the_chain_of_what_began_here(
    pair: Pair,
) -> None:
    await desk.start(pair.here, "asking", "asks s")
    async with stream(pair.addresses[1], f"{OPERATIONS}/asking/output") as events:
        seen = [await events.next()]
        while seen[-1] is not None and seen[-1]["data"]["state"] != "input_required":
            seen.append(await events.next())
        question = f"{OPERATIONS}/asking/questions/the%20colour"
        assert (await pair.ask_here("POST", question, ACCEPT))[0] == 200
        told = await events.rest()
    assert (told[-1]["event"], told[-1]["data"]["state"]) == ("end", "succeeded")
    kind = "continues 2 chain"
    await desk.start(pair.here, "chain", kind)
    expected = [f"continues {number} chain begins" for number in (2, 1, 0)]
    for address in pair.addresses:
        async with stream(address, f"{OPERATIONS}/chain/output") as events:
            found = [each for each in await events.rest() if each["event"] == "output"]
        assert values(found) == expected
        after = {"last_event_id": found[0]["id"]}
        async with stream(address, f"{OPERATIONS}/chain/output", **after) as events:
            assert values(await events.rest()) == expected[1:]


async def test_activities_and_updates_that_began_here_are_waited_for_there(pair: Pair) -> None:
    async with working(pair.here) as errands:
        status, _, told = await pair.ask_here("POST", f"{ERRANDS}/errand", "walk", **PATIENT)
        assert status == 201
        listener = await pair.here.start_workflow(
            Listens.run, id="listener", task_queue=ERRANDS_QUEUE
        )
        accepted = WorkflowUpdateStage.ACCEPTED
        await listener.start_update(Listens.hear, "go", id="hear", wait_for_stage=accepted)
        tokens = (told["token"], of_update("listener", "hear", listener.first_execution_run_id))
        waiting = []
        for token in tokens:
            named = {"Nexus-Operation-Token": token}
            _, _, seen = await pair.ask_there("GET", f"{ERRANDS}/errand", **named)
            assert seen["state"] == "running"
            asked = pair.ask_there("GET", f"{ERRANDS}/errand/result", **named, **WAITS)
            waiting.append(asyncio.create_task(asked))
        errands.told.set()
        await listener.signal(Listens.say, "go")
        results = [body for _, _, body in await asyncio.gather(*waiting)]
        assert results == ["walk: done", "heard go"]
        for token in tokens:
            named = {"nexus_operation_token": token}
            async with stream(pair.addresses[1], f"{ERRANDS}/errand/output", **named) as events:
                assert (await events.rest())[-1]["data"]["state"] == "succeeded"
        await listener.signal(Listens.say, "end")


async def test_what_there_is_to_call_is_the_same_at_both(pair: Pair) -> None:
    await expose(pair.here, "greet", Exposed(workflow="Greet", task_queue="q", description="Hi"))
    echo = Exposed(endpoint=desk.ENDPOINT, service="Desk", operation="echo")
    await expose(pair.there, "echo", echo)
    shown = [(await ask("GET", SERVICES))[2] for ask in (pair.ask_here, pair.ask_there)]
    assert shown[0] == shown[1]
    status, _, told = await pair.ask_there("GET", f"{SERVICES}/{desk.ENDPOINT}")
    (service,) = told["services"]
    assert status == 200
    for ask in (pair.ask_here, pair.ask_there):
        assert (await ask("POST", f"{service['path']}/echo", "hi", **PATIENT))[2] == "hi, hi"


async def test_a_reader_goes_on_at_the_other_when_his_server_is_killed(
    processes: tuple[ServerProcess, ServerProcess],
) -> None:
    """No gap, nothing twice; and nothing is lost of the operation, whoever began it."""
    first, second = processes
    here = await Client.connect(first.address)
    await desk.make_endpoint(here)
    there = await Client.connect(second.address)
    read: list[dict[str, Any]] = []
    path = f"{OPERATIONS}/publishing/output"
    async with desk.worker(there):
        await desk.start(here, "publishing", "publishes k")
        async with stream(first.address, path) as events:
            await desk.tell(there, "publishes k", "one")
            read += await events.pieces(2)
            await asyncio.to_thread(first.kill)
            await desk.tell(there, "publishes k", "two")
            await until_cut(events)
        async with stream(second.address, path, last_event_id=read[-1]["id"]) as events:
            read += await events.pieces(1)
            await desk.tell(there, "publishes k", "three")
            read += await events.pieces(1)
            await desk.tell(there, "publishes k", "end")
            read += await events.rest()
        assert values(read) == ["begun", "one", "two", "three", "end"]
        assert (read[-1]["event"], read[-1]["data"]["state"]) == ("end", "succeeded")
        async with stream(second.address, path) as events:
            assert values(await events.rest()) == values(read)
