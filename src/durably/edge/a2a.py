"""An A2A agent for each workflow that is exposed as one, at `/a2a/{namespace}/{agent}`.

    GET  .../.well-known/agent-card.json        the card
    POST ...                                    JSON-RPC; the same operations as REST below `.../v1`

Rule 1: a task is an execution of the agent's workflow, begun before anything is replied; the same message
        sent again is the same task. A message to a task answers the question that the workflow asks.
Rule 2: nothing is kept here: tasks, artifacts and streams come from the execution and its history.
Rule 3: the SDK `a2a-sdk` speaks the protocol. It is loaded when the first request comes.

Facts: https://a2a-protocol.org/v1.0.0/specification.
"""

import base64
import hashlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from a2a.server.context import ServerCallContext
from a2a.server.events.event_queue import Event
from a2a.server.request_handlers.request_handler import RequestHandler
from a2a.server.routes.agent_card_routes import create_agent_card_routes
from a2a.server.routes.jsonrpc_routes import create_jsonrpc_routes
from a2a.server.routes.rest_routes import create_rest_routes
from a2a.types import a2a_pb2 as a2a
from a2a.utils.errors import (
    ExtendedAgentCardNotConfiguredError,
    InternalError,
    InvalidParamsError,
    TaskNotCancelableError,
    TaskNotFoundError,
    UnsupportedOperationError,
)
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.routing import Mount

from durably.agents.convention import ELICITATION, Exposed, Piece
from durably.config import Config
from durably.edge.calls import Receive, Scope, Send
from durably.errors import InvalidArgument, NotFound, Refusal
from durably.service import a2a_tasks
from durably.service.a2a_tasks import BY
from durably.service.durable_calls import COMPLETED, INPUT_REQUIRED, DurableCalls, Seen
from durably.service.exposures import Exposures
from durably.service.operation_output import OutputStreams, Place, Told, call_of
from durably.service.push_configs import PushConfigs
from durably.version import VERSION

M = TypeVar("M", bound=Message)

REST = "/v1"
PROTOCOL_VERSION = "1.0"
APPS_MAX = 1_000
"""So many agents have their routes ready."""
PAGE_SIZE, PAGE_SIZE_MAX = 50, 100


class A2a:
    """Finds the agent that the path names."""

    def __init__(
        self,
        calls: DurableCalls,
        streams: OutputStreams,
        exposures: Exposures,
        pushes: PushConfigs,
        config: Config,
        address: Callable[[], str],
    ) -> None:
        self._calls = calls
        self._streams = streams
        self._exposures = exposures
        self._pushes = pushes
        self._config = config
        self._address = address
        self._apps: dict[tuple[str, str], Starlette] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        namespace, agent = (unquote(part) for part in scope["path"].split("/")[2:4])
        self._exposures.agent(namespace, agent)
        if (namespace, agent) not in self._apps:
            if len(self._apps) >= APPS_MAX:
                self._apps.clear()
            self._apps[namespace, agent] = self._app(namespace, agent)
        await self._apps[namespace, agent](scope, receive, send)

    def _app(self, namespace: str, agent: str) -> Starlette:
        path = f"/a2a/{namespace}/{agent}"
        url = (self._config.public_url or f"http://{self._address()}").rstrip("/")
        url += f"/a2a/{quote(namespace, safe='')}/{quote(agent, safe='')}"

        async def fresh(_: a2a.AgentCard) -> a2a.AgentCard:
            return _card(agent, url, self._exposures.agent(namespace, agent), self._config)

        parts = (self._calls, self._streams, self._exposures, self._pushes, self._config)
        handler = _Agent(*parts, namespace, agent)
        card = _card(agent, url, self._exposures.agent(namespace, agent), self._config)
        routes = [
            *create_agent_card_routes(card, card_modifier=fresh),
            *create_jsonrpc_routes(handler, "/", enable_v0_3_compat=False),
            Mount(REST, routes=create_rest_routes(handler)),
        ]
        app = Starlette(routes=[Mount(path, routes=routes)])
        app.router.redirect_slashes = False
        return app

    async def close(self) -> None:
        self._apps.clear()


def _card(agent: str, url: str, what: Exposed, config: Config) -> a2a.AgentCard:
    description = what.description or f"The workflow {what.workflow}, durably"
    bindings = (("JSONRPC", url + "/"), ("HTTP+JSON", url + REST))
    card = a2a.AgentCard(
        name=what.title or agent,
        description=description,
        version=VERSION,
        supported_interfaces=[
            a2a.AgentInterface(
                url=each, protocol_binding=binding, protocol_version=PROTOCOL_VERSION
            )
            for binding, each in bindings
        ],
        capabilities=a2a.AgentCapabilities(streaming=True, push_notifications=True),
        default_input_modes=["text/plain", "application/json"],
        default_output_modes=["text/plain", "application/json"],
        skills=[
            a2a.AgentSkill(
                id=agent,
                name=what.title or agent,
                description=description,
                tags=what.tags or [what.workflow],
            )
        ],
    )
    if config.auth_tokens:
        card.security_schemes["token"].http_auth_security_scheme.scheme = "bearer"
        card.security_requirements.add().schemes["token"].SetInParent()
    return card


class _Agent(RequestHandler):
    """The operations of one agent."""

    def __init__(
        self,
        calls: DurableCalls,
        streams: OutputStreams,
        exposures: Exposures,
        pushes: PushConfigs,
        config: Config,
        namespace: str,
        agent: str,
    ) -> None:
        self._calls = calls
        self._streams = streams
        self._exposures = exposures
        self._pushes = pushes
        self._config = config
        self._namespace = namespace
        self._agent = agent

    # --- Messages -----------------------------------------------------------------------------

    async def on_message_send(
        self, params: a2a.SendMessageRequest, context: ServerCallContext
    ) -> a2a.Task | a2a.Message:
        with _refusals():
            task_id = await self._take(params)
            seen = await self._calls.look(self._namespace, task_id)
            if not params.configuration.return_immediately:
                seen = await self._streams.settled(self._namespace, seen, None)
            return await self._shown(seen, _length(params.configuration))

    async def on_message_send_stream(
        self, params: a2a.SendMessageRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event, None]:
        with _refusals():
            task_id = await self._take(params)
        async for event in self._events(task_id):
            yield event

    async def on_subscribe_to_task(
        self, params: a2a.SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event, None]:
        with _refusals():
            seen = await self._found(params.id)
        if seen.ended:
            raise UnsupportedOperationError(message="the task has ended: get it instead")
        async for event in self._events(params.id):
            yield event

    async def _take(self, params: a2a.SendMessageRequest) -> str:
        """Begin a task, or answer one. Returns its id."""
        message = params.message
        if not message.message_id or not message.parts:
            raise InvalidParamsError(message="a message needs a messageId and parts")
        told = MessageToDict(message)
        push = params.configuration.task_push_notification_config
        if message.task_id:
            seen = await self._found(message.task_id)
            self._check_context(seen, message)
            if push.url and not seen.ended:
                callback = _callback(seen.call_id, str(seen.begun.get("context", "")), push)
                await self._pushes.put(self._namespace, seen.call_id, callback)
            await self._answer(seen, message)
            return str(message.task_id)
        context_id = message.context_id or str(uuid.uuid4())
        task_id = self._task_id(context_id if message.context_id else "", message.message_id)
        callbacks = [_callback(task_id, context_id, push)] if push.url else []
        begun = {"by": BY, "name": self._agent, "context": context_id, "message": told}
        what = self._exposures.agent(self._namespace, self._agent)
        await self._calls.begin(self._namespace, task_id, what, told, begun, tuple(callbacks))
        return task_id

    def _task_id(self, context_id: str, message_id: str) -> str:
        said = "\x00".join((self._namespace, self._agent, context_id, message_id))
        return f"{self._prefix}{hashlib.sha256(said.encode()).hexdigest()[:32]}"

    @property
    def _prefix(self) -> str:
        return f"{BY}-{self._agent}-"

    def _check_context(self, seen: Seen, message: a2a.Message) -> None:
        if message.context_id and message.context_id != seen.begun.get("context"):
            raise InvalidParamsError(message="the task is of another context")

    async def _answer(self, seen: Seen, message: a2a.Message) -> None:
        """To the question that the message names, or the first."""
        if seen.ended:
            raise UnsupportedOperationError(message="the task has ended: begin another")
        if not seen.questions:
            raise UnsupportedOperationError(message="the task asks for nothing now")
        named = MessageToDict(message.metadata).get("durably.question")
        key = str(named) if named else next(iter(seen.questions))
        question = seen.questions.get(key)
        if question is None:
            raise InvalidParamsError(message=f"{key} is not asked")
        response: Any = _content(message, question.params.get("requestedSchema") or {})
        if question.method == ELICITATION:
            response = {"action": "accept", "content": response}
        refused = await self._calls.answer(self._namespace, seen, key, response)
        if refused:
            raise InvalidParamsError(message=refused)

    async def _events(self, task_id: str) -> AsyncIterator[Event]:
        """The task as it is, then what happens to it, until it ends or asks for something."""
        with _refusals():
            seen = await self._found(task_id)
            pieces, place = await self._calls.pieces(self._namespace, seen)
            yield _parsed(a2a_tasks.task(seen, pieces), a2a.Task())
            if seen.ended:
                return
            assert place is not None
            after = Place(place.run_id, place.next_event_id - 1)
            which = call_of(self._namespace, seen)
            stream = self._streams.stream(which, after, from_now=False, seen=seen)
            async with aclosing(stream):
                async for told in stream:
                    before, seen = seen, told.seen(seen)
                    for event in _told(told, before, seen):
                        yield event
                    if told.standing is not None and seen.phase == INPUT_REQUIRED:
                        return

    # --- Tasks --------------------------------------------------------------------------------

    async def on_get_task(
        self, params: a2a.GetTaskRequest, context: ServerCallContext
    ) -> a2a.Task | None:
        with _refusals():
            return await self._shown(await self._found(params.id), _length(params))

    async def on_list_tasks(
        self, params: a2a.ListTasksRequest, context: ServerCallContext
    ) -> a2a.ListTasksResponse:
        size = _page_size(params.page_size)
        response = a2a.ListTasksResponse(page_size=size)
        with _refusals():
            token = _page(params.page_token)
            found, token = await self._calls.listed(self._namespace, self._prefix, size, token)
            for seen in found:
                shown = await self._listed(seen, params)
                if shown is not None:
                    response.tasks.append(shown)
            response.total_size = await self._calls.counted(self._namespace, self._prefix)
        response.next_page_token = _page_token(token)
        return response

    async def _listed(self, seen: Seen, params: a2a.ListTasksRequest) -> a2a.Task | None:
        if params.context_id and seen.begun.get("context") != params.context_id:
            return None
        state = a2a.TaskState.Name(params.status)
        if params.status and a2a_tasks.STATES[seen.phase] != state:
            return None
        after = params.status_timestamp_after
        if after.ToNanoseconds() and seen.changed_ns < after.ToNanoseconds():
            return None
        shown = await self._shown(seen, _length(params))
        if not params.include_artifacts:
            del shown.artifacts[:]
        return shown

    async def on_cancel_task(
        self, params: a2a.CancelTaskRequest, context: ServerCallContext
    ) -> a2a.Task | None:
        with _refusals():
            seen = await self._found(params.id)
            if seen.ended:
                raise TaskNotCancelableError(message="the task has ended")
            await self._calls.cancel(self._namespace, seen)
            seen = await self._calls.look(self._namespace, params.id)
            seen = await self._streams.settled(self._namespace, seen, self._config.call_wait_s)
            return await self._shown(seen, None)

    async def _found(self, task_id: str) -> Seen:
        if not task_id.startswith(self._prefix):
            raise TaskNotFoundError
        try:
            seen = await self._calls.look(self._namespace, task_id)
        except NotFound as refusal:
            raise TaskNotFoundError from refusal
        if seen.begun.get("by") != BY or seen.begun.get("name") != self._agent:
            raise TaskNotFoundError
        return seen

    async def _shown(self, seen: Seen, history_length: int | None) -> a2a.Task:
        pieces, _ = await self._calls.pieces(self._namespace, seen)
        return _parsed(a2a_tasks.task(seen, pieces, history_length), a2a.Task())

    # --- Push notifications -------------------------------------------------------------------

    async def on_create_task_push_notification_config(
        self, params: a2a.TaskPushNotificationConfig, context: ServerCallContext
    ) -> a2a.TaskPushNotificationConfig:
        if not params.url:
            raise InvalidParamsError(message="a push notification config needs a url")
        with _refusals():
            seen = await self._found(params.task_id)
            if seen.ended:
                raise UnsupportedOperationError(message="the task has ended: nothing follows")
            made = a2a.TaskPushNotificationConfig()
            made.CopyFrom(params)
            made.id = made.id or _config_id(params)
            callback = _callback(seen.call_id, str(seen.begun.get("context", "")), made)
            await self._pushes.put(self._namespace, seen.call_id, callback)
        return made

    async def on_get_task_push_notification_config(
        self, params: a2a.GetTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> a2a.TaskPushNotificationConfig:
        for each in await self._configs(params.task_id):
            if each.id == params.id:
                return each
        raise TaskNotFoundError(message="there is no such push notification config")

    async def on_list_task_push_notification_configs(
        self, params: a2a.ListTaskPushNotificationConfigsRequest, context: ServerCallContext
    ) -> a2a.ListTaskPushNotificationConfigsResponse:
        size = _page_size(params.page_size)
        begin = _place(params.page_token)
        found = await self._configs(params.task_id)
        response = a2a.ListTaskPushNotificationConfigsResponse(configs=found[begin : begin + size])
        if begin + size < len(found):
            response.next_page_token = _page_token(str(begin + size).encode())
        return response

    async def _configs(self, task_id: str) -> list[a2a.TaskPushNotificationConfig]:
        with _refusals():
            seen = await self._found(task_id)
            found = await self._pushes.of(self._namespace, seen.call_id)
        return [_parsed(each, a2a.TaskPushNotificationConfig()) for each in found]

    async def on_delete_task_push_notification_config(
        self, params: a2a.DeleteTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> None:
        with _refusals():
            seen = await self._found(params.task_id)
            await self._pushes.remove(self._namespace, seen.call_id, params.id)

    async def on_get_extended_agent_card(
        self, params: a2a.GetExtendedAgentCardRequest, context: ServerCallContext
    ) -> a2a.AgentCard:
        raise ExtendedAgentCardNotConfiguredError


# --- Reading and writing ----------------------------------------------------------------------


@contextmanager
def _refusals() -> Any:
    """Refusals of the server as errors of the protocol."""
    try:
        yield
    except InvalidArgument as refusal:
        raise InvalidParamsError(message=refusal.message) from refusal
    except NotFound as refusal:
        raise TaskNotFoundError(message=refusal.message) from refusal
    except Refusal as refusal:
        raise InternalError(message=refusal.message) from refusal


def _parsed(shown: Mapping[str, Any], message: M) -> M:
    ParseDict(dict(shown), message)
    return message


def _length(params: Any) -> int | None:
    return params.history_length if params.HasField("history_length") else None


def _page_size(asked: int) -> int:
    if asked and not 1 <= asked <= PAGE_SIZE_MAX:
        raise InvalidParamsError(message=f"pageSize is 1 to {PAGE_SIZE_MAX}")
    return asked or PAGE_SIZE


def _page(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text)
    except ValueError as error:
        raise InvalidParamsError(message="pageToken is not one of this server") from error


def _page_token(place: bytes) -> str:
    return base64.urlsafe_b64encode(place).decode()


def _place(text: str) -> int:
    """Of a list that is in memory."""
    place = _page(text) or b"0"
    if not place.isdigit():
        raise InvalidParamsError(message="pageToken is not one of this server")
    return int(place)


def _content(message: a2a.Message, schema: Mapping[str, Any]) -> Any:
    """The data of a message; or its text, as the only or first thing that the schema asks for."""
    texts = []
    for part in MessageToDict(message).get("parts", []):
        if "data" in part:
            return part["data"]
        texts.append(part.get("text", ""))
    names = schema.get("required") or list(schema.get("properties") or {})
    return {names[0] if names else "answer": "\n".join(texts)}


def _callback(task_id: str, context_id: str, push: a2a.TaskPushNotificationConfig) -> Any:
    authorization = ""
    if push.authentication.scheme:
        authorization = f"{push.authentication.scheme} {push.authentication.credentials}".strip()
    return a2a_tasks.push_callback(
        task_id, context_id, push.url, push.id or _config_id(push), push.token, authorization
    )


def _config_id(push: a2a.TaskPushNotificationConfig) -> str:
    """Of one that has none: the same for the same address."""
    return hashlib.sha256(push.url.encode()).hexdigest()[:16]


def _status_event(seen: Seen, status: Mapping[str, Any]) -> a2a.TaskStatusUpdateEvent:
    shown = a2a_tasks.status_update(seen.begun, seen.call_id, dict(status))
    return _parsed(shown, a2a.TaskStatusUpdateEvent())


def _told(told: Told, before: Seen, seen: Seen) -> Iterator[Event]:
    """What a stream says of a task, which stood so before, as events of the protocol."""
    if told.piece is not None:
        assert told.place is not None
        yield _of_piece(seen, told.place, told.piece)
        return
    if seen.phase == COMPLETED:
        result = a2a_tasks.result_artifact(seen)
        shown = a2a_tasks.artifact_update(seen.begun, seen.call_id, result)
        yield _parsed(shown, a2a.TaskArtifactUpdateEvent())
    if seen.phase != before.phase or seen.ended:
        yield _status_event(seen, a2a_tasks.status(seen))


def _of_piece(seen: Seen, place: Place, piece: Piece) -> Event:
    name = f"{place.run_id}-{place.event_id}"
    shown = a2a_tasks.piece_update(seen.begun, seen.call_id, piece, name)
    if "artifactUpdate" in shown:
        return _parsed(shown["artifactUpdate"], a2a.TaskArtifactUpdateEvent())
    return _parsed(shown["statusUpdate"], a2a.TaskStatusUpdateEvent())
