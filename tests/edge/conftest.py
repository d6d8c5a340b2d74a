"""One server and one worker, in processes of their own, for all tests of calls from outside."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.outside import WorkerProcess
from tests.processes import ServerProcess

LOOPBACK = (
    "--set",
    "callback_addresses=http://*",
    "--set",
    "private_networks_allowed=127.0.0.0/8",
)
"""Push notifications go to receivers in the tests' own process."""


@pytest.fixture(scope="session")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Tests may kill it and start it again."""
    folder: Path = tmp_path_factory.mktemp("outside")
    server = ServerProcess(folder / "store.db", *LOOPBACK)
    worker = WorkerProcess(server.address, folder / "worker.log")
    try:
        server.start()
        worker.start()
        _warm(server.address)
        yield server
    finally:
        worker.kill()
        server.kill()


def _warm(address: str) -> None:
    """The SDKs are loaded now: it takes longer than their clients wait for a first reply."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}).encode()
    headers = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
    }
    tools = urllib.request.Request(f"http://{address}/mcp/default", data=body, headers=headers)
    card = f"http://{address}/a2a/default/writer/.well-known/agent-card.json"
    for request in (tools, card):
        with urllib.request.urlopen(request, timeout=120) as reply:
            reply.read()
