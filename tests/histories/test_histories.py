"""Histories that this server has written replay in the official SDK, now and later."""

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from tests.histories.record import FOLDER
from tests.histories.workflows import GOLDEN, WORKFLOWS, Golden


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)
async def test_a_golden_history_replays(golden: Golden) -> None:
    text = (FOLDER / f"{golden.name}.json").read_text()
    replayer = Replayer(workflows=WORKFLOWS, workflow_runner=UnsandboxedWorkflowRunner())
    await replayer.replay_workflow(WorkflowHistory.from_json(golden.name, text))


def test_every_history_has_its_workflow() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == {golden.name for golden in GOLDEN}
