"""`durably query` and `durably export` after real runs: what they say equals a count made from the raw
histories, and what the model's endpoint served."""

import asyncio
import csv
import io
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet
import pytest
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from durably import Server
from durably.analytics.tables import SCHEMAS
from tests.agents import record
from tests.agents.endpoint import MODEL, Endpoint, endpoint
from tests.conftest import eventually
from tests.processes import free_port

SECRET = "what-nobody-may-read"
PLAIN_RUNS = 30
IDLE_RUNS = 201
"""More than a page of a list; nobody works on them."""


async def durably(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "durably.cli",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def rows(server: Server, sql: str, *options: str) -> list[dict[str, Any]]:
    asked = ("query", sql, "--address", server.address, "--format", "jsonl", *options)
    code, out, err = await durably(*asked)
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


@activity.defn
async def twice(secret: str) -> str:
    if activity.info().attempt == 1:
        raise ApplicationError("once more")
    return secret


@activity.defn
async def hopeless() -> None:
    raise ApplicationError("never", type="Hopeless", non_retryable=True)


@workflow.defn
class Plain:
    @workflow.run
    async def run(self, secret: str, fails: bool) -> str:
        result = await workflow.execute_activity(
            twice,
            secret,
            start_to_close_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10)),
        )
        if fails:
            await workflow.execute_activity(hopeless, start_to_close_timeout=timedelta(seconds=30))
        return result


@workflow.defn
class Waiting:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(
            twice, "x", task_queue="nobody", start_to_close_timeout=timedelta(seconds=30)
        )


async def run_plain(client: Client, number: int) -> None:
    fails = number % 10 == 0
    try:
        await client.execute_workflow(
            Plain.run, args=[SECRET, fails], id=f"plain-{number}", task_queue="q"
        )
    except WorkflowFailureError:
        assert fails


@pytest.fixture
async def served(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Endpoint]:
    """A store with plain runs, one that waits, many that nobody works on, and two of an agent."""
    client = await Client.connect(server.address)
    async with Worker(
        client,
        task_queue="q",
        workflows=[Plain, Waiting],
        activities=[twice, hopeless],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        await asyncio.gather(*(run_plain(client, number) for number in range(PLAIN_RUNS)))
        waiting = await client.start_workflow(Waiting.run, id="waiting", task_queue="q")

        async def scheduled() -> bool:
            return bool((await waiting.describe()).raw_description.pending_activities)

        await eventually(scheduled)
    starts = (
        client.start_workflow("Idle", id=f"idle-{number}", task_queue="nobody")
        for number in range(IDLE_RUNS)
    )
    await asyncio.gather(*starts)
    with endpoint() as found:
        monkeypatch.setenv("OPENAI_BASE_URL", found.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        found.refusals = 1
        for _ in range(2):
            await record.pydantic_ai(server.address)
        yield found


async def raw_events(client: Client) -> Counter[str]:
    """How often each kind of event is in all histories."""
    found: Counter[str] = Counter()
    async for run in client.list_workflows():
        handle = client.get_workflow_handle(run.id, run_id=run.run_id)
        async for event in handle.fetch_history_events():
            found[event.WhichOneof("attributes") or ""] += 1
    return found


async def test_sql_agrees_with_raw_histories_and_with_the_endpoint(
    server: Server, served: Endpoint, tmp_path: Path
) -> None:
    client = await Client.connect(server.address)
    events = await raw_events(client)

    by_status = await rows(
        server, "SELECT status, count(*) AS n FROM workflows GROUP BY status ORDER BY status"
    )
    assert by_status == [
        {"status": "completed", "n": PLAIN_RUNS - PLAIN_RUNS // 10 + 2},
        {"status": "failed", "n": PLAIN_RUNS // 10},
        {"status": "running", "n": 1 + IDLE_RUNS},
    ]
    (activities,) = await rows(
        server,
        "SELECT count(*) AS n, count(*) FILTER (status = 'completed') AS completed,"
        " count(*) FILTER (status = 'failed') AS failed, sum(attempts) AS attempts,"
        " count(*) FILTER (status = 'pending') AS pending,"
        " count(*) FILTER (failure_type = 'Hopeless') AS hopeless,"
        " bool_and(run_s >= 0 AND schedule_to_start_s >= 0) FILTER (status <> 'pending') AS sane"
        " FROM activities",
    )
    assert activities == {
        "n": events["activity_task_scheduled_event_attributes"],
        "completed": events["activity_task_completed_event_attributes"],
        "failed": events["activity_task_failed_event_attributes"],
        # Each `twice` is tried twice; the first model call was refused once.
        "attempts": 2 * PLAIN_RUNS + PLAIN_RUNS // 10 + 6 + 1,
        "pending": 1,
        "hopeless": PLAIN_RUNS // 10,
        "sane": True,
    }
    (calls,) = await rows(
        server,
        "SELECT count(*) AS n, sum(input_tokens) AS i, sum(output_tokens) AS o,"
        " sum(cache_read_tokens) AS c, sum(tools_asked) AS t, min(model) AS model, min(agent) AS a,"
        " min(framework) AS f, sum(cost_usd) AS cost FROM model_calls",
    )
    price = sum(
        ((s.input_tokens - s.cached_tokens) * 0.4 + s.cached_tokens * 0.1 + s.output_tokens * 1.6)
        / 1e6
        for s in served.served
    )
    assert calls.pop("cost") == pytest.approx(price)
    assert calls == {
        "n": len(served.served),
        "i": sum(each.input_tokens for each in served.served),
        "o": sum(each.output_tokens for each in served.served),
        "c": sum(each.cached_tokens for each in served.served),
        "t": sum(len(each.asked) for each in served.served),
        "model": MODEL,
        "a": "forecaster",
        "f": "pydantic_ai",
    }
    tools = await rows(server, "SELECT tool, count(*) AS n FROM tool_calls GROUP BY tool")
    assert tools == [{"tool": "get_weather", "n": 2}]

    # The same in files, all of it.
    folder = tmp_path / "out"
    code, out, err = await durably("export", str(folder), "--address", server.address)
    assert code == 0, err
    assert f"{PLAIN_RUNS + IDLE_RUNS + 3}  {folder}/workflows.parquet" in out
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{n}.parquet" for n in SCHEMAS)
    files = {n: pyarrow.parquet.read_table(folder / f"{n}.parquet") for n in SCHEMAS}
    assert files["activities"].num_rows == activities["n"]
    assert files["model_calls"].schema.equals(SCHEMAS["model_calls"])
    assert sum(files["model_calls"]["input_tokens"].to_pylist()) == calls["i"]
    assert not any(SECRET.encode() in path.read_bytes() for path in folder.iterdir())


async def test_other_formats_say_the_same(server: Server, client: Client, tmp_path: Path) -> None:
    for number in range(3):
        await client.start_workflow("W", id=f"a,\n{number}", task_queue="nobody", memo={"m": 1})
    ids = {f"a,\n{number}" for number in range(3)}
    for kind in ("csv", "jsonl"):
        options = ("--address", server.address, "--format", kind)
        code, _, err = await durably("export", str(tmp_path), *options)
        assert code == 0, err
        text = (tmp_path / f"workflows.{kind}").read_text()
        lines = text.splitlines()
        found: list[dict[str, Any]] = (
            list(csv.DictReader(io.StringIO(text)))
            if kind == "csv"
            else [json.loads(line) for line in lines]
        )
        assert {row["workflow_id"] for row in found} == ids
        with duckdb.connect() as database:
            path = tmp_path / f"workflows.{kind}"
            read = "read_csv" if kind == "csv" else "read_json"
            assert database.sql(f"SELECT count(*) FROM {read}('{path}')").fetchall() == [(3,)]
    code, out, _ = await durably(
        "query", "SELECT workflow_id FROM workflows ORDER BY 1", "--format", "csv", "--address",
        server.address,
    )  # fmt: skip
    assert [row[0] for row in csv.reader(io.StringIO(out))] == ["workflow_id", *sorted(ids)]
    code, out, _ = await durably(
        "query", "SELECT count(*) AS how_many FROM workflows", "--address", server.address
    )
    assert code == 0
    assert "how_many" in out
    assert "3" in out


async def test_only_the_runs_that_are_asked_for_are_read(server: Server, client: Client) -> None:
    for kind in ("A", "A", "B"):
        await client.start_workflow(kind, id=f"{kind}-{free_port()}", task_queue="nobody")
    found = await rows(
        server, "SELECT count(*) AS n FROM workflows", "--where", "WorkflowType = 'A'"
    )
    assert found == [{"n": 2}]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("query", "SELEC 1"), 2, "syntax error"),
        (("query", "SELECT * FROM nothing"), 2, "The tables: workflows, activities"),
        (("query", "SELECT nothing FROM workflows"), 2, "nothing"),
        (("query", "SELECT 1 FROM workflows", "--where", "Nope = 1"), 1, "refuses"),
        (("query", "SELECT 1 FROM workflows", "--namespace", "nobody"), 1, "refuses"),
    ],
)
async def test_mistakes_end_in_a_sentence(
    server: Server, arguments: tuple[str, ...], code: int, message: str
) -> None:
    found, _, err = await durably(*arguments, "--address", server.address)
    assert (found, "Traceback" in err) == (code, False)
    assert message in err


async def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    code, _, err = await durably("export", str(tmp_path / "x"), "--address", address)
    assert code == 1
    assert f"no server answers on {address}" in err


async def test_what_was_exported_before_stays_until_the_new_is_whole(
    server: Server, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "workflows.jsonl").write_text("old\n")
    options = ("--address", server.address, "--format", "jsonl", "--where", "Nope = 1")
    code, _, _ = await durably("export", str(tmp_path), *options)
    assert code == 1
    assert (tmp_path / "workflows.jsonl").read_text() == "old\n"
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]
