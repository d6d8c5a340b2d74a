"""Updates that meet the end of a run; the worker is played by hand."""

import asyncio

from temporalio.client import Client

from tests.differential.programs import Stage
from tests.differential.tasks_by_hand import (
    ByHand,
    accepts,
    carries,
    completes,
    continuing,
)


async def test_an_update_that_its_run_did_not_answer_reaches_the_next(client: Client) -> None:
    hand = await ByHand.start(Stage(client))
    asked = await hand.updating()
    await hand.complete(await hand.poll(), (), (continuing(hand),))
    following = await hand.poll()
    assert [message.id for message in following.messages] == ["u/request"]
    messages = (accepts(), completes())
    await hand.complete(following, messages, carries(*messages))
    reply = await asyncio.wait_for(asked, 60)
    assert reply.outcome.HasField("success")
    assert reply.update_ref.workflow_execution.run_id == following.workflow_execution.run_id
