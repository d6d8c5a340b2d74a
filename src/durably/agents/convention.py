"""What a workflow says of itself beside its history: questions, partial output; and how it is exposed.

Rule 1: everything is said with the API that is there: a memo that is upserted, an update that answers. Any
        SDK can follow the convention, and no worker is needed to read what was said.
Rule 2: names and shapes here are published (docs/durable-rpc.md): they are only ever added to.

Pure: shared by the server, which reads, and by `durably.agents.interaction`, which writes.
"""

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

MEMO_QUESTIONS = "durably.questions"
"""Memo: the open questions, by their key. Without any, the key is not there."""
MEMO_OUTPUT = "durably.output"
"""Memo: the last piece of output. Each event that upserts it is one piece, and its id the offset."""
MEMO_CALL = "durably.call"
"""Memo, given at the start: which protocol began the execution, and what for."""
UPDATE_ANSWER = "durably_answer"
"""Update with the arguments (key of a question, response)."""

EXPOSE_PREFIX = "durably.expose."
"""Prefix of the keys of a namespace's data that hold an `Exposed` as JSON; then comes its name."""

CALL_KEY = "io.durably/call-key"
"""In `_meta` of MCP's tools/call: a call with the key of an earlier one is that call, not another."""

INPUT_REQUIRED = "durably.InputRequired"
"""Type of the application failure by which an operation of an MCP server or an A2A agent ends that asks for
something. Its details: `{"call": ..., "questions": {KEY: {"method": ..., "params": ...}}}`."""
OPERATION_ANSWER = "durably.answer"
"""The operation that goes on with it: `{"call": ..., "answers": {KEY: response}}`, as the failure had it."""

OPERATION_DISCOVER = "durably.operations"
"""The operation that says which operations there are, with their JSON schemas."""

ELICITATION = "elicitation/create"
PROTOCOL_ERROR = "durably.ProtocolError"
"""Type of an application failure that MCP clients get as an error of the protocol, not of the tool."""


class Question(Struct, omit_defaults=True):
    """What a workflow waits for. `method` and `params` are those of MCP's requests to clients."""

    method: str
    params: dict[str, Any]

    @property
    def message(self) -> str:
        return str(self.params.get("message", self.method))


class Piece(Struct, omit_defaults=True):
    """One piece of output. A piece with `append` goes on where the last of its name ended."""

    value: Any
    kind: str = "text"
    """`text`, `artifact`, `message` or `status`."""
    name: str = ""
    append: bool = False


class Exposed(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A workflow type, or an operation of a Nexus endpoint, that agents outside may call."""

    workflow: str = ""
    task_queue: str = ""
    endpoint: str = ""
    service: str = ""
    operation: str = ""

    title: str = ""
    description: str = ""
    input_schema: dict[str, Any] = {}
    output_schema: dict[str, Any] | UnsetType = UNSET
    tags: list[str] = []

    tool: bool = True
    """It is an MCP tool."""
    agent: bool = False
    """It is an A2A agent."""
    tasks: str = "auto"
    """`auto`: a call that takes long becomes a task, for clients that know tasks; `always`: each call does;
    `required`: and other clients cannot call; `never`: none does."""
    asks_first: bool = False
    """It asks at its start: the client is asked in the reply to its call, before there is a task."""
    content: bool = False
    """The result is the `content` of an MCP result, or a whole one, and is passed on as it is."""
    timeout_s: float = 0.0
    """The execution may take so long; 0: as long as it likes."""

    def fault(self) -> str:
        """What is wrong with it; empty: nothing."""
        if bool(self.workflow) == bool(self.endpoint):
            return "name either a workflow or an endpoint"
        if self.workflow and not self.task_queue:
            return "a workflow needs its task_queue"
        if self.endpoint and not (self.service and self.operation):
            return "an endpoint needs a service and an operation"
        if self.tasks not in ("auto", "always", "required", "never"):
            return "tasks is auto, always, required or never"
        if self.agent and not self.workflow:
            return "an agent is a workflow: an operation has no messages"
        return ""


_exposed = msgspec.json.Decoder(Exposed)
_questions = msgspec.json.Decoder(dict[str, Question])
_piece = msgspec.json.Decoder(Piece)


def exposed(text: str | bytes) -> Exposed:
    """Raises ValueError that says what is wrong."""
    found = _exposed.decode(text)
    fault = found.fault()
    if fault:
        raise ValueError(fault)
    return found


def questions(data: bytes) -> dict[str, Question]:
    """Empty for what does not follow the convention."""
    try:
        return _questions.decode(data)
    except msgspec.MsgspecError:
        return {}


def piece(data: bytes) -> Piece | None:
    """None for what does not follow the convention."""
    try:
        return _piece.decode(data)
    except msgspec.MsgspecError:
        return None
