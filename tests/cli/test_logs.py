"""Lines of the log: what is in them, and what never is."""

import asyncio
import json
import logging
import re
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably.logs import FORMATTERS, LogFormat, without_password
from durably.store.schema import migrations
from tests.conftest import eventually
from tests.processes import ServerProcess

SECRET = "what-nobody-may-read"


@activity.defn
async def whisper(secret: str) -> str:
    return secret


@workflow.defn
class Whisper:
    @workflow.run
    async def run(self, secret: str) -> str:
        return await workflow.execute_activity(
            whisper, secret, start_to_close_timeout=timedelta(seconds=30)
        )


def lines(server: ServerProcess) -> list[dict[str, Any]]:
    """The JSON lines; what the command prints for people is beside them."""
    return [
        json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")
    ]


async def test_each_call_has_a_line_with_ids_and_without_payloads(tmp_path: Path) -> None:
    options = ("--log-format", "json", "--log-level", "debug")
    server = ServerProcess(tmp_path / "store.db", *options).start()
    try:
        client = await Client.connect(server.address, rpc_metadata={"authorization": SECRET})
        async with Worker(
            client,
            task_queue="q",
            workflows=[Whisper],
            activities=[whisper],
            disable_eager_activity_execution=True,
            workflow_runner=UnsandboxedWorkflowRunner(),
        ):
            handle = await client.start_workflow(
                Whisper.run, SECRET, id="w\nforged=1", task_queue="q", memo={"m": SECRET}
            )
            assert await handle.result() == SECRET
        with pytest.raises(RPCError):
            await client.get_workflow_handle("nobody").describe()
        assert server.terminate() == 0
    finally:
        server.kill()
    found = lines(server)
    assert SECRET not in server.log.read_text()

    calls: dict[str, list[dict[str, Any]]] = {}
    for line in found:
        if line["message"] == "call":
            calls.setdefault(line["rpc"], []).append(line)
    about = {"workflow_id": "w\nforged=1", "run_id": handle.first_execution_run_id}
    (start,) = calls["StartWorkflowExecution"]
    assert start.items() >= {"status": "OK", "namespace": "default", "task_queue": "q"}.items()
    for rpc in (
        "StartWorkflowExecution",
        "RespondWorkflowTaskCompleted",
        "RespondActivityTaskCompleted",
    ):
        assert all(line.items() >= about.items() for line in calls[rpc]), rpc
        assert all(line["ms"] >= 0 for line in calls[rpc])
    taken = [line for line in calls["PollActivityTaskQueue"] if "workflow_id" in line]
    assert [line["workflow_id"] for line in taken] == ["w\nforged=1"]
    (refused,) = calls["DescribeWorkflowExecution"]
    assert (refused["status"], refused["workflow_id"]) == ("NOT_FOUND", "nobody")


async def test_a_life_is_told_at_info(tmp_path: Path) -> None:
    options = ("--log-format", "json", "--log-level", "info")
    server = ServerProcess(tmp_path / "store.db", *options)
    try:
        server.start()
        server.kill()
        server.log.unlink()
        server.start()

        async def recovered() -> bool:
            return any(line["message"] == "recovered" for line in lines(server))

        await eventually(recovered)
        assert server.terminate() == 0
    finally:
        server.kill()
    found = [line["message"] for line in lines(server)]
    assert found[0] == "the store is open"
    assert {"recovered", "listening"} <= set(found)
    assert found[-2:] == [
        "draining: no new connections, long polls are answered",
        "stopped: all that was acknowledged is in the store",
    ]
    listening = next(line for line in lines(server) if line["message"] == "listening")
    assert listening["address"] == server.address


def test_a_migration_is_told(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "s.db", "--log-format", "json", "--log-level", "info")
    try:
        server.start()
        assert server.terminate() == 0
    finally:
        server.kill()
    schemas = [line["schema"] for line in lines(server) if "schema" in line]
    assert schemas == list(range(1, len(migrations()) + 1))


def test_it_is_quiet_unless_it_is_asked(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "store.db", "--log-format", "json")
    try:
        server.start()
        assert server.terminate() == 0
    finally:
        server.kill()
    assert lines(server) == []


def formatted(log_format: LogFormat, log: Callable[[logging.Logger], None]) -> str:
    """What a logger of its own writes."""
    kept: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(self.format(record))

    handler = Kept()
    handler.setFormatter(FORMATTERS[log_format]())
    logger = logging.Logger("test.logs")
    logger.addHandler(handler)
    log(logger)
    (line,) = kept
    return line


def hostile(logger: logging.Logger) -> None:
    fields = {"workflow_id": 'a b="c"\n2026 forged', "run_id": "r-1", "ms": 1.5}
    logger.warning("one\ntwo", extra={"fields": fields})


def test_what_comes_from_outside_stays_in_its_field() -> None:
    text = formatted(LogFormat.TEXT, hostile)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT[\d:.]+Z WARNING test\.logs: one two"
        r' workflow_id="a b=\\"c\\"\\n2026 forged" run_id=r-1 ms=1\.5',
        text,
    )
    logfmt = formatted(LogFormat.LOGFMT, hostile)
    assert "\n" not in logfmt
    assert ' message="one\\ntwo" workflow_id="a b=' in logfmt
    found = json.loads(formatted(LogFormat.JSON, hostile))
    assert found["workflow_id"] == 'a b="c"\n2026 forged'
    assert (found["level"], found["logger"], found["ms"]) == ("warning", "test.logs", 1.5)


@pytest.mark.parametrize("log_format", list(LogFormat))
def test_an_exception_is_told_with_its_trace(log_format: LogFormat) -> None:
    def failing(logger: logging.Logger) -> None:
        try:
            raise KeyError("lost")
        except KeyError:
            logger.exception("it failed")

    line = formatted(log_format, failing)
    assert "KeyError" in line
    assert "Traceback" in line
    assert ("\n" in line) == (log_format is LogFormat.TEXT)


def test_a_password_is_not_shown() -> None:
    assert without_password("postgresql://u:p@host/db") == "postgresql://host/db"
    assert without_password("postgresql://u:p@ss/w@a:1,b:2/db") == "postgresql://a:1,b:2/db"
    assert (
        without_password("postgresql://u@host/db?sslmode=require&password=p@ss&sslpassword=x")
        == "postgresql://host/db?sslmode=require&password=***&sslpassword=***"
    )
    assert without_password("sqlite:////var/a@b.db") == "sqlite:////var/a@b.db"


async def test_a_wrong_level_is_a_mistake_of_the_user() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "durably.cli",
        "serve",
        "--log-level",
        "loud",
        stderr=asyncio.subprocess.PIPE,
    )
    _, error = await process.communicate()
    assert process.returncode == 2
    assert b"LOUD" in error
