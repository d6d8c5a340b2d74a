"""The server is killed with SIGKILL while callbacks are made: each is taken, and known when it comes again."""

import asyncio
import random
from collections import defaultdict
from pathlib import Path

from aiohttp import web
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.api.test_callbacks import QUEUE, Told, start
from tests.conftest import eventually
from tests.crash.test_kill import through_outages
from tests.processes import ServerProcess
from tests.receivers import Call, Receiver

WORKFLOWS = 30
KILLS = 4
SETTINGS = (
    *("--set", "callback_addresses=http://*"),
    *("--set", "private_networks_allowed=127.0.0.0/8"),
)


async def test_each_is_taken_and_says_the_same_each_time(tmp_path: Path) -> None:
    chance = random.Random(7)
    process = ServerProcess(tmp_path / "store.db", *SETTINGS).start()
    taken: dict[str, set[str]] = defaultdict(set)
    """Workflow -> the calls that have taken effect, by the ids by which a receiver knows them."""
    bodies: dict[str, set[bytes]] = defaultdict(set)

    async def answer(call: Call) -> web.Response | None:
        """Takes it or not; loses the reply to what it has taken, too."""
        bodies[call.callback_id].add(call.body)
        await asyncio.sleep(chance.uniform(0, 0.2))
        if chance.random() < 0.2:
            return web.Response(status=503)
        taken[call.path].add(call.callback_id)
        return None if chance.random() < 0.3 else web.Response()

    try:
        async with Receiver(answer=answer) as receiver:
            client = await Client.connect(process.address)
            async with Worker(
                client,
                task_queue=QUEUE,
                workflows=[Told],
                workflow_runner=UnsandboxedWorkflowRunner(),
            ):
                names = [f"w{number}" for number in range(WORKFLOWS)]
                for name in names:
                    callback = receiver.callback(name)
                    await start(client, name, callback, workflow_id=name, request_id=f"rq-{name}")
                for _ in range(KILLS):
                    await asyncio.sleep(chance.uniform(0.2, 0.8))
                    await asyncio.to_thread(process.kill)
                    await asyncio.to_thread(process.start)

                async def all_are_done() -> bool:
                    query = "ExecutionStatus = 'Running'"
                    running = await through_outages(lambda: client.count_workflows(query))
                    return running.count == 0 and set(taken) == set(names)

                await eventually(all_are_done, 120)
    finally:
        process.kill()
    assert all(len(ids) == 1 for ids in taken.values()), "one end, one call, however often made"
    assert all(len(said) == 1 for said in bodies.values())
    for name, (callback_id,) in taken.items():
        assert bodies[callback_id] == {f'"{name}"'.encode()}
