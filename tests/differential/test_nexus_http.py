"""Every request to the Nexus routes has the same reply from durably and from Temporal's own server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.api.operatorservice.v1 import request_response_pb2 as ops
from temporalio.client import Client

from durably import Server
from tests.conftest import eventually
from tests.differential.nexus_http import QUEUE, REQUESTS, Request, send, worker
from tests.differential.test_differential import connect, differences, peer
from tests.processes import free_port

Place = tuple[str, str]
"""Host and port of the HTTP routes; the id of an endpoint."""


async def endpoint(client: Client) -> str:
    request = ops.CreateNexusEndpointRequest()
    request.spec.name = "desk"
    request.spec.target.worker.namespace = "default"
    request.spec.target.worker.task_queue = QUEUE
    return (await client.operator_service.create_nexus_endpoint(request)).endpoint.id


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def places(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Place, Place]]:
    """Both servers, each with a worker: ours, theirs."""
    folder: Path = tmp_path_factory.mktemp("nexus")
    http_port = free_port()
    async with (
        Server(store=f"sqlite:///{folder}/store.db", port=0) as server,
        peer(folder / "peer.log", "--http-port", str(http_port)) as address,
    ):
        ours, theirs = await connect(server.address), await connect(address)
        found = (
            (server.address, await endpoint(ours)),
            (f"127.0.0.1:{http_port}", await endpoint(theirs)),
        )
        async with worker(ours), worker(theirs):
            for place in found:

                async def answers(place: Place = place) -> bool:
                    by_endpoint = Request("Desk/nothing", by_endpoint=True)
                    return (await send(*place, by_endpoint))[0] == 200

                await eventually(answers)
            yield found


@pytest.mark.peer
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", REQUESTS)
async def test_both_reply_the_same(places: tuple[Place, Place], name: str) -> None:
    ours, theirs = [await send(*place, REQUESTS[name]) for place in places]
    found = list(differences("", ours, theirs))
    assert not found, "\n".join(found)


def test_there_are_requests_enough() -> None:
    assert len(REQUESTS) >= 30
