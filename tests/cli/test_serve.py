"""`durably serve` as a person meets it: a real process, its output, its exit code."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client

from tests.processes import ServerProcess, free_port
from tests.stores import dump


def durably(
    *arguments: str, folder: Path, **environment: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "durably.cli", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_it_says_where_it_serves_and_what_it_keeps(server_process: ServerProcess) -> None:
    server_process.start()
    await Client.connect(server_process.address)
    assert server_process.terminate() == 0
    said = server_process.log.read_text()
    assert server_process.address in said
    assert "temporal --address" in said
    assert "Client.connect" in said
    assert "h2corn" not in said
    assert dump(server_process.store)["namespaces"]


def test_a_second_server_on_the_same_store_is_refused(server_process: ServerProcess) -> None:
    server_process.start()
    store, folder = server_process.store, server_process.log.parent
    ended = durably("serve", "--store", store, "--port", str(free_port()), folder=folder)
    assert ended.returncode == 1
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "Traceback" not in ended.stderr


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = durably("serve", "--store", "memory:", "--port", port, folder=tmp_path)
    assert ended.returncode == 1
    assert port in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("serve", "--store", "nosuch://x"), "nosuch"),
        (("serve", "--set", "no_such_setting=1"), "no_such_setting"),
        (("serve", "--set", "message_bytes_max=many"), "message_bytes_max"),
    ],
)
def test_a_mistake_is_one_clear_line(
    tmp_path: Path, arguments: tuple[str, ...], shown: str
) -> None:
    ended = durably(*arguments, folder=tmp_path)
    assert ended.returncode in (1, 2)
    assert shown in ended.stderr
    assert "Traceback" not in ended.stderr


def test_version_and_help(tmp_path: Path) -> None:
    assert durably("--version", folder=tmp_path).stdout.startswith("durably ")
    assert "--store" in durably("serve", "--help", folder=tmp_path).stdout


async def test_the_environment_sets_it_up(tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(  # noqa: ASYNC220  nothing else runs in this loop meanwhile
        [sys.executable, "-m", "durably.cli", "serve"],
        cwd=tmp_path,
        env={
            **os.environ,
            "DURABLY_STORE": "memory:",
            "DURABLY_PORT": str(port),
            "DURABLY_NAMESPACES": "one, two,three",
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert f"127.0.0.1:{port}" in process.stdout.readline()
        client = await Client.connect(f"127.0.0.1:{port}")
        listed = await client.workflow_service.list_namespaces(ws.ListNamespacesRequest())
        assert {n.namespace_info.name for n in listed.namespaces} >= {"one", "two", "three"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        process.stdout.close()
    finally:
        process.kill()
