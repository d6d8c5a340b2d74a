"""Calls A2A agents by their URLs, as operations of Nexus endpoints.

    operation        request                         outcome
    --------------   -----------------------------   -------------------------------------------------
    send             SendMessage, then GetTask       a message: its result; a task: started, then its end
    durably.answer   SendMessage to the same task    goes on with what asked for something
    its cancel       CancelTask

Rule 1: a message has the id of its operation's request, and a context of its own unless the input names one.
        Before it is sent, also for the first time, the agent is asked for the task that it began: a reply
        that was lost begins no second task.
Rule 2: credentials go to the origin that the endpoint names, whatever its card says.

Facts: https://a2a-protocol.org/v1.0.0/specification.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from temporalio.api.nexus.v1 import message_pb2 as nexus
from yarl import URL

from durably.agents.convention import ELICITATION, OPERATION_ANSWER
from durably.background import json_rpc
from durably.background.json_rpc import RpcFailed
from durably.background.outbound_http import CallFailed, OutboundHttp
from durably.config import Config
from durably.engine.nexus_outcome import Ended, Refused, StartOutcome, refused
from durably.service import agent_outcomes
from durably.service.agent_outcomes import Unreadable
from durably.service.nexus_dispatch import AgentTarget, Look, Offered, StillRunning

SEND = "send"
CARD_PATH = "/.well-known/agent-card.json"
BINDING = "JSONRPC"
REVISION = "1.0"
REMEMBERED_S = 600.0
CARDS_MAX = 10_000
LISTED_MAX = 100
ONE_ANSWER = "answer"
"""The key of the question of an agent that does not name its questions."""
ANY_TEXT = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
}

TASK_NOT_CANCELABLE = -32002
KINDS = {
    -32001: "NOT_FOUND",
    TASK_NOT_CANCELABLE: "CONFLICT",
    -32003: "NOT_IMPLEMENTED",
    -32004: "NOT_IMPLEMENTED",
    -32005: "BAD_REQUEST",
    -32006: "INTERNAL",
    -32007: "NOT_IMPLEMENTED",
    -32008: "NOT_IMPLEMENTED",
    -32009: "NOT_IMPLEMENTED",
}
FAILURES = {"TASK_STATE_FAILED": "TaskFailed", "TASK_STATE_REJECTED": "TaskRejected"}


class _NoInterface(Exception):
    """The agent's card offers nothing that is spoken here."""


@dataclass(frozen=True, slots=True)
class _Agent:
    """What a card says, until a moment of the monotonic clock."""

    card: Mapping[str, Any]
    url: str
    tenant: str
    until_s: float


class A2aAgents:
    """The calls of this node."""

    def __init__(self, http: OutboundHttp, config: Config) -> None:
        self._http = http
        self._config = config
        self._agents: dict[str, _Agent] = {}

    # --- Operations ---------------------------------------------------------------------------

    async def start_operation(
        self,
        target: AgentTarget,
        request: nexus.StartOperationRequest,
        header: Mapping[str, str],
        timeout_s: float,
    ) -> StartOutcome:
        passed = {name: header[name] for name in agent_outcomes.TRACING if name in header}
        try:
            value = agent_outcomes.input_of(request.payload)
            if request.operation == SEND:
                return await self._send(target, value, request.request_id, passed, timeout_s)
            if request.operation == OPERATION_ANSWER:
                return await self._answer(target, value, request.request_id, passed, timeout_s)
            message = f"the operations of an A2A agent are {SEND} and {OPERATION_ANSWER}"
            return refused("NOT_FOUND", message)
        except Unreadable as error:
            return refused("BAD_REQUEST", str(error))
        except (RpcFailed, CallFailed, _NoInterface) as error:
            return _refusal(error)

    async def _send(
        self,
        target: AgentTarget,
        value: Any,
        request_id: str,
        passed: Mapping[str, str],
        timeout_s: float,
    ) -> StartOutcome:
        message = _message(value, request_id)
        own_context = "contextId" not in message
        if own_context:
            message["contextId"] = f"durably-{request_id}"
        task = await self._begun(target, message, own_context, timeout_s)
        if task is not None:
            return self._outcome(task)
        return await self._said(target, message, passed, timeout_s)

    async def _answer(
        self,
        target: AgentTarget,
        value: Any,
        request_id: str,
        passed: Mapping[str, str],
        timeout_s: float,
    ) -> StartOutcome:
        """Tell a task what it asked for: a message for each answer."""
        call, answers = agent_outcomes.answer_of(value)
        task_id = call.get("task")
        if not isinstance(task_id, str):
            raise Unreadable("the call names no task")
        task = await self._ask(target, "GetTask", {"id": task_id}, timeout_s)
        heard = _messages_of(task)
        outcome: StartOutcome | None = None
        for key, response in sorted(answers.items()):
            if not _accepts(response):
                await self._ask(target, "CancelTask", {"id": task_id}, timeout_s)
                break
            message: dict[str, Any] = {
                "messageId": f"{request_id}-{_short(key)}",
                "taskId": task_id,
                "contextId": str(call.get("context", "")),
                "role": "ROLE_USER",
                "parts": [_part(_content(response))],
            }
            if key != ONE_ANSWER:
                message["metadata"] = {"durably.question": key}
            if message["messageId"] not in heard:
                outcome = await self._said(
                    target, message, passed, timeout_s, seen=str(call.get("seen", ""))
                )
        if outcome is not None:
            return outcome
        known = {"task": task_id, "seen": str(call.get("seen", ""))}
        return agent_outcomes.started(known, self._config.nexus_token_bytes_max)

    async def _said(
        self,
        target: AgentTarget,
        message: Mapping[str, Any],
        passed: Mapping[str, str],
        timeout_s: float,
        seen: str = "",
    ) -> StartOutcome:
        params = {"message": message, "configuration": {"returnImmediately": True}}
        found = await self._ask(target, "SendMessage", params, timeout_s, passed)
        if isinstance(found, dict) and isinstance(found.get("task"), dict):
            return self._outcome(found["task"], seen)
        if isinstance(found, dict) and isinstance(found.get("message"), dict):
            return agent_outcomes.succeeded(_value(found["message"].get("parts")))
        return refused("INTERNAL", "the reply of the agent is neither a task nor a message")

    async def _begun(
        self, target: AgentTarget, message: Mapping[str, Any], own_context: bool, timeout_s: float
    ) -> Mapping[str, Any] | None:
        """The task that this message has begun before, if its reply was lost."""
        params = {
            "contextId": message["contextId"],
            "pageSize": LISTED_MAX,
            "includeArtifacts": True,
        }
        try:
            found = await self._ask(target, "ListTasks", params, timeout_s)
        except RpcFailed as failed:
            if failed.status in json_rpc.BY_STATUS or failed.status >= 500:
                raise
            return None  # It does not list tasks: then nobody can know.
        tasks = found.get("tasks") if isinstance(found, dict) else None
        for task in tasks or ():
            if own_context or message["messageId"] in _messages_of(task):
                return dict(task)
        return None

    def _outcome(self, task: Mapping[str, Any], seen: str = "") -> StartOutcome:
        looked = _looked(task, seen)
        if not isinstance(looked, StillRunning):
            return looked
        if not isinstance(task.get("id"), str):
            return refused("INTERNAL", "the task of the agent has no id")
        known = {"task": task["id"]} | ({"seen": seen} if seen else {})
        return agent_outcomes.started(known, self._config.nexus_token_bytes_max)

    async def look(self, target: AgentTarget, known: Mapping[str, Any], timeout_s: float) -> Look:
        try:
            task = await self._ask(target, "GetTask", {"id": known["task"]}, timeout_s)
        except (RpcFailed, CallFailed, _NoInterface) as error:
            return _refusal(error)
        if not isinstance(task, dict):
            return refused("INTERNAL", "the task is no object")
        return _looked(task, str(known.get("seen", "")))

    async def cancel_operation(
        self, target: AgentTarget, known: Mapping[str, Any], timeout_s: float
    ) -> Refused | None:
        try:
            await self._ask(target, "CancelTask", {"id": known["task"]}, timeout_s)
        except RpcFailed as failed:
            if failed.code == TASK_NOT_CANCELABLE:
                return None  # It has ended, and its end is asked for.
            return _refusal(failed)
        except (CallFailed, _NoInterface) as error:
            return _refusal(error)
        return None

    async def offered(self, target: AgentTarget, timeout_s: float) -> list[Offered] | Refused:
        try:
            agent = await self._agent(target, timeout_s)
        except (RpcFailed, CallFailed, _NoInterface) as error:
            return _refusal(error)
        skills = [each for each in agent.card.get("skills") or () if isinstance(each, dict)]
        told = [str(agent.card.get("description") or "")]
        told += [f"{each.get('name', '')}: {each.get('description', '')}" for each in skills]
        return [Offered(SEND, "\n".join(each for each in told if each))]

    # --- Requests -----------------------------------------------------------------------------

    async def _ask(
        self,
        target: AgentTarget,
        method: str,
        params: Mapping[str, Any],
        timeout_s: float,
        passed: Mapping[str, str] | None = None,
    ) -> Any:
        """Raises RpcFailed, CallFailed, _NoInterface."""
        agent = await self._agent(target, timeout_s)
        headers = {"a2a-version": REVISION, **(passed or {})} | self._credentials(target, agent.url)
        told = {**params, "tenant": agent.tenant} if agent.tenant else params
        try:
            return (
                await json_rpc.call(self._http, agent.url, method, told, headers, timeout_s)
            ).result
        except (RpcFailed, CallFailed):
            self._agents.pop(target.url, None)  # It may be elsewhere now.
            raise

    async def _agent(self, target: AgentTarget, timeout_s: float) -> _Agent:
        known = self._agents.get(target.url)
        if known is not None and time.monotonic() < known.until_s:
            return known
        url = target.url if target.url.endswith(".json") else target.url.rstrip("/") + CARD_PATH
        headers = {"accept": "application/json", "user-agent": "durably"}
        headers |= self._credentials(target, url)
        reply = await self._http.request("GET", url, headers, b"", timeout_s)
        if reply.status != 200:
            message = f"the card of the agent: {reply.status} {reply.reason}"
            raise RpcFailed(reply.status, 0, message)
        try:
            card = json.loads(reply.body)
            interface = _interface(card)
        except (ValueError, AttributeError, TypeError) as error:
            raise _NoInterface(f"the card of the agent cannot be read: {error}") from error
        if len(self._agents) >= CARDS_MAX:
            self._agents.clear()
        found = _Agent(
            card,
            str(interface.get("url", "")),
            str(interface.get("tenant") or ""),
            time.monotonic() + REMEMBERED_S,
        )
        self._agents[target.url] = found
        return found

    def _credentials(self, target: AgentTarget, url: str) -> dict[str, str]:
        credentials = self._config.endpoint_credentials.get(target.endpoint)
        if credentials is None or URL(url).origin() != URL(target.url).origin():
            return {}
        return {"authorization": credentials}


def _refusal(error: RpcFailed | CallFailed | _NoInterface) -> Refused:
    if isinstance(error, _NoInterface):
        return refused("NOT_IMPLEMENTED", str(error))
    return json_rpc.refusal(error, KINDS)


def _interface(card: Mapping[str, Any]) -> Mapping[str, Any]:
    """Raises _NoInterface, and ValueError or a like of it for what is no card."""
    offered = card.get("supportedInterfaces") or []
    for each in offered:
        version = str(each.get("protocolVersion") or REVISION)
        if each.get("protocolBinding") == BINDING and version.partition(".")[0] == "1":
            if URL(each["url"]).scheme not in ("http", "https"):
                raise ValueError(f"its interface has no URL of HTTP: {each['url']}")
            return dict(each)
    names = [f"{each.get('protocolBinding')} {each.get('protocolVersion')}" for each in offered]
    raise _NoInterface(
        f"the agent offers no {BINDING} of A2A 1.x, but: {', '.join(names) or 'nothing'}"
    )


# --- Messages ---------------------------------------------------------------------------------


def _message(value: Any, request_id: str) -> dict[str, Any]:
    """A text, a message with its parts, or any other value as data."""
    message: dict[str, Any] = {"parts": [_part(value)]}
    if isinstance(value, dict) and isinstance(value.get("parts"), list):
        message = dict(value)
    if value is None or not message["parts"]:
        raise Unreadable("the input must be a text, a message with parts, or a value")
    return message | {"messageId": request_id, "role": "ROLE_USER"}


def _part(value: Any) -> dict[str, Any]:
    return {"text": value} if isinstance(value, str) else {"data": value}


def _messages_of(task: Any) -> set[str]:
    """The ids of the messages that a task has got."""
    history = task.get("history") if isinstance(task, dict) else None
    return {str(each.get("messageId")) for each in history or () if isinstance(each, dict)}


def _accepts(response: Any) -> bool:
    return not isinstance(response, dict) or response.get("action", "accept") == "accept"


def _content(response: Any) -> Any:
    """What a response says: a text if it is nothing more."""
    content = response
    if isinstance(response, dict) and "action" in response:
        content = response.get("content") or {}
    if isinstance(content, dict) and set(content) == {ONE_ANSWER}:
        return content[ONE_ANSWER]
    return content


def _short(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]


# --- Tasks ------------------------------------------------------------------------------------


def _looked(task: Mapping[str, Any], seen: str = "") -> StillRunning | Ended:
    """`seen`: what it asked for before, which has been answered."""
    status = task.get("status")
    status = status if isinstance(status, dict) else {}
    said = status.get("message")
    said = said if isinstance(said, dict) else {}
    text = _text(said.get("parts"))
    match status.get("state"):
        case "TASK_STATE_COMPLETED":
            artifacts = [each for each in task.get("artifacts") or () if isinstance(each, dict)]
            if len(artifacts) > 1:
                return agent_outcomes.succeeded({"artifacts": artifacts})
            parts = artifacts[0].get("parts") if artifacts else said.get("parts")
            return agent_outcomes.succeeded(_value(parts))
        case "TASK_STATE_CANCELED":
            return agent_outcomes.canceled(text)
        case "TASK_STATE_FAILED" | "TASK_STATE_REJECTED" as state:
            return agent_outcomes.failed(FAILURES[state], text or f"the agent: {state}", said)
        case "TASK_STATE_INPUT_REQUIRED" | "TASK_STATE_AUTH_REQUIRED" as state:
            asks = f"{status.get('timestamp', '')} {said.get('messageId', '')}"
            if asks == seen:
                return StillRunning()  # It has not come to what it was told yet.
            call = {"task": task.get("id"), "context": task.get("contextId", ""), "seen": asks}
            if state == "TASK_STATE_AUTH_REQUIRED":
                message = text or "the agent asks for authentication"
                return agent_outcomes.failed("AuthRequired", message, {"call": call})
            return agent_outcomes.input_required(call, _questions(said, text), text)
        case _:
            return StillRunning()


def _questions(said: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Agents that are durably name their questions in the metadata; of others the message is one."""
    named = (said.get("metadata") or {}).get("durably.questions")
    if isinstance(named, dict) and named:
        return {key: {"method": ELICITATION, "params": each} for key, each in named.items()}
    message = text or "The agent asks for more."
    params = {"mode": "form", "message": message, "requestedSchema": ANY_TEXT}
    return {ONE_ANSWER: {"method": ELICITATION, "params": params}}


def _text(parts: Any) -> str:
    return "\n".join(
        each["text"] for each in parts or () if isinstance(each, dict) and "text" in each
    )


def _value(parts: Any) -> Any:
    """The text or data of the only part; of more, all of them."""
    found = [each for each in parts or () if isinstance(each, dict)]
    if not found:
        return None
    if len(found) == 1:
        if "text" in found[0]:
            return found[0]["text"]
        if "data" in found[0]:
            return found[0]["data"]
    return {"parts": found}
