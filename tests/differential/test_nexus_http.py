"""Every request to the Nexus routes has the same reply from durably and from Temporal's own server."""

from collections.abc import AsyncIterator, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.api.operatorservice.v1 import request_response_pb2 as ops
from temporalio.client import Client

from tests.conftest import eventually
from tests.differential.nexus_http import QUEUE, REQUESTS, Request, send, worker
from tests.differential.test_differential import connect, differences, durably, peer
from tests.processes import free_port

Place = tuple[Iterator[str], str]
"""Host and port of the HTTP routes, those of the next server each time; the id of an endpoint."""


async def endpoint(client: Client) -> str:
    request = ops.CreateNexusEndpointRequest()
    request.spec.name = "desk"
    request.spec.target.worker.namespace = "default"
    request.spec.target.worker.task_queue = QUEUE
    return (await client.operator_service.create_nexus_endpoint(request)).endpoint.id


async def reply(place: Place, request: Request) -> list[Any]:
    addresses, endpoint_id = place
    return await send(next(addresses), endpoint_id, request)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def places(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Place, Place]]:
    """Both servers, each with a worker: ours, theirs."""
    folder: Path = tmp_path_factory.mktemp("nexus")
    http_port = free_port()
    async with (
        durably(request, folder) as addresses,
        peer(folder / "peer.log", "--http-port", str(http_port)) as address,
    ):
        ours, theirs = await connect(addresses[0]), await connect(address)
        found = (
            (cycle(addresses), await endpoint(ours)),
            (cycle([f"127.0.0.1:{http_port}"]), await endpoint(theirs)),
        )
        async with worker(ours), worker(theirs):
            for place in found:

                async def answers(place: Place = place) -> bool:
                    by_endpoint = Request("Desk/nothing", by_endpoint=True)
                    return (await reply(place, by_endpoint))[0] == 200

                await eventually(answers)
            yield found


@pytest.mark.peer
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", REQUESTS)
async def test_both_reply_the_same(places: tuple[Place, Place], name: str) -> None:
    ours, theirs = [await reply(place, REQUESTS[name]) for place in places]
    found = list(differences("", ours, theirs))
    assert not found, "\n".join(found)


def test_there_are_requests_enough() -> None:
    assert len(REQUESTS) >= 30
