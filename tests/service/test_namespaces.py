"""What a server knows of namespaces while it reads them anew."""

import asyncio
import time

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.config import Config
from durably.service.admission import Call
from durably.service.namespaces import Namespaces
from durably.store.sqlite import SqliteStore
from durably.store.store import NamespaceRow

CALL = Call("test", {})


class SlowStore:
    """A store whose list of namespaces arrives late: after `go_on`."""

    def __init__(self, store: SqliteStore) -> None:
        self.read, self.go_on = asyncio.Event(), asyncio.Event()
        self._found = store.namespaces

    async def namespaces(self) -> list[NamespaceRow]:
        rows = await self._found()
        self.read.set()
        await self.go_on.wait()
        return rows


def registration(name: str) -> ws.RegisterNamespaceRequest:
    retention = Duration(seconds=86400)
    return ws.RegisterNamespaceRequest(
        namespace=name, workflow_execution_retention_period=retention
    )


async def test_what_is_made_and_removed_during_a_read_stays_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = SqliteStore.open("memory:")
    namespaces = Namespaces(store, Config(), time.time_ns)
    await namespaces.open()
    await namespaces.register_namespace(registration("old"), CALL)
    slow = SlowStore(store)
    monkeypatch.setattr(store, "namespaces", slow.namespaces)
    reading = asyncio.create_task(namespaces.refresh())
    await slow.read.wait()
    await namespaces.register_namespace(registration("new"), CALL)
    await namespaces.remove(namespaces.by_name("old"))
    slow.go_on.set()
    await reading
    assert {each.name for each in namespaces.existing()} >= {"default", "new"}
    assert "old" not in {each.name for each in namespaces.all()}
    await store.close()
