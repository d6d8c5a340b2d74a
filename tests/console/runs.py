"""Workflows whose runs the console's tests look at."""

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

from durably.agents.interaction import Declined, ask

QUEUE = "agents"
LIMIT = timedelta(seconds=30)
SOON = timedelta(milliseconds=20)


@activity.defn
async def search(words: str) -> list[str]:
    return [words, "found"]


@activity.defn
async def flaky(number: int) -> int:
    if activity.info().attempt < 3:
        raise ApplicationError("model overloaded", type="RateLimited")
    return number


@activity.defn
async def refused() -> None:
    activity.heartbeat({"done": 12, "of": 40})
    raise ApplicationError("tool server unreachable", type="ConnectionRefused")


@workflow.defn
class Child:
    @workflow.run
    async def run(self, word: str) -> str:
        await workflow.sleep(SOON)
        return word.upper()


@workflow.defn
class Research:
    """Two searches, a step that fails twice, a child, a wait for a person."""

    def __init__(self) -> None:
        self.approved_by = ""
        self.notes: list[str] = []

    @workflow.run
    async def run(self, topic: str) -> dict[str, Any]:
        retry = RetryPolicy(initial_interval=SOON, backoff_coefficient=1.0)
        found = await asyncio.gather(
            workflow.execute_activity(search, topic, start_to_close_timeout=LIMIT),
            workflow.execute_activity(search, f"{topic} again", start_to_close_timeout=LIMIT),
            workflow.execute_activity(flaky, 7, start_to_close_timeout=LIMIT, retry_policy=retry),
        )
        child = await workflow.execute_child_workflow(Child.run, topic)
        await workflow.wait_condition(lambda: bool(self.approved_by))
        return {"found": found[0], "child": child, "by": self.approved_by, "notes": self.notes}

    @workflow.signal(description="A person agrees.")
    def approve(self, by: str) -> None:
        self.approved_by = by

    @workflow.update
    def note(self, text: str) -> int:
        if not text:
            raise ApplicationError("a note has text")
        self.notes.append(text)
        return len(self.notes)

    @workflow.query
    def state(self, times: int) -> str:
        return self.approved_by or "waiting " * times


@workflow.defn
class Stuck:
    """Its activity fails again and again."""

    @workflow.run
    async def run(self) -> None:
        retry = RetryPolicy(initial_interval=timedelta(hours=1))
        await workflow.execute_activity(refused, start_to_close_timeout=LIMIT, retry_policy=retry)


@workflow.defn
class Fails:
    @workflow.run
    async def run(self) -> None:
        retry = RetryPolicy(maximum_attempts=1)
        try:
            await workflow.execute_activity(
                refused, start_to_close_timeout=LIMIT, retry_policy=retry
            )
        except Exception as error:
            raise ApplicationError("the plan failed", {"step": 3}, type="PlanFailed") from error


@workflow.defn
class Chain:
    """Two runs: the first is followed by the second."""

    @workflow.run
    async def run(self, left: int) -> int:
        if left:
            workflow.continue_as_new(left - 1)
        return left


@workflow.defn
class Waits:
    @workflow.run
    async def run(self) -> str:
        await workflow.sleep(timedelta(days=1))
        return "slept"


@activity.defn
async def call_model(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Answers as a provider's API does: with a call of a tool, then with text."""
    message: dict[str, Any] = {"role": "assistant", "content": "Otters eat urchins."}
    if messages[-1]["role"] == "user":
        function = {"name": "search", "arguments": '{"words": "otters"}'}
        call = {"id": "call_1", "type": "function", "function": function}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    usage = {"prompt_tokens": 1000 * len(messages), "completion_tokens": 10}
    return {
        "object": "chat.completion",
        "model": "gpt-4.1-mini",
        "choices": [{"message": message}],
        "usage": usage,
    }


@workflow.defn
class Agentic:
    """A plain agent: the model asks for a tool, a person agrees, the model answers."""

    def __init__(self) -> None:
        self.agreed = False

    @workflow.run
    async def run(self, question: str) -> str:
        said: list[dict[str, Any]] = [
            {"role": "system", "content": "Answer from what you find."},
            {"role": "user", "content": question},
        ]
        first = await workflow.execute_activity(call_model, said, start_to_close_timeout=LIMIT)
        found = await workflow.execute_activity(search, "otters", start_to_close_timeout=LIMIT)
        await workflow.wait_condition(lambda: self.agreed)
        said.append(first["choices"][0]["message"])
        said.append({"role": "tool", "tool_call_id": "call_1", "content": str(found)})
        last = await workflow.execute_activity(call_model, said, start_to_close_timeout=LIMIT)
        text: str = last["choices"][0]["message"]["content"]
        return text

    @workflow.signal
    def agree(self) -> None:
        self.agreed = True


@workflow.defn
class Team:
    """An agent that has another one work for it."""

    @workflow.run
    async def run(self, question: str) -> str:
        said = [{"role": "user", "content": question}]
        await workflow.execute_activity(call_model, said, start_to_close_timeout=LIMIT)
        child = await workflow.start_child_workflow(Agentic.run, question)
        await child.signal(Agentic.agree)
        return await child


PUBLISH = {
    "type": "object",
    "properties": {
        "verdict": {"type": "string", "enum": ["yes", "no"], "enumNames": ["Publish", "Keep"]},
        "copies": {"type": "integer", "title": "Copies"},
        "notify": {"type": "boolean", "title": "Tell the readers", "default": True},
        "remark": {"type": "string", "title": "Remark", "description": "For the record."},
    },
    "required": ["verdict", "copies"],
}


@workflow.defn
class Asks:
    """Asks a person, as `durably.agents` has it."""

    @workflow.run
    async def run(self, message: str, schema: dict[str, Any]) -> Any:
        try:
            return await ask(message, schema=schema)
        except Declined as declined:
            return declined.action


WORKFLOWS = [Asks, Agentic, Child, Team, Research, Stuck, Fails, Chain, Waits]
ACTIVITIES = [call_model, search, flaky, refused]
