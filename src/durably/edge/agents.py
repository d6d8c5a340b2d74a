"""Where agents outside call: MCP and A2A, whose SDKs are loaded by the first request for them.

Rule 1: the server runs without those SDKs: then such a request is told how to install them.
"""

import asyncio
import importlib
import json
import logging
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from durably.config import Config
from durably.edge.calls import (
    ClientGone,
    Receive,
    Scope,
    Send,
    unless_gone,
)
from durably.errors import HTTP_STATUS, Refusal
from durably.service.access import Role, need
from durably.service.durable_calls import DurableCalls
from durably.service.exposures import Exposures
from durably.service.operation_output import OutputStreams
from durably.service.push_configs import PushConfigs
from durably.service.request_states import RequestStates

logger = logging.getLogger(__name__)

PATHS = re.compile(r"/(mcp)/([^/]+)/?|/(a2a)/([^/]+)/[^/]+(?:/.*)?")
NOT_INSTALLED = 501


class Agents:
    """Routes to the protocol that the path names."""

    def __init__(
        self,
        calls: DurableCalls,
        streams: OutputStreams,
        exposures: Exposures,
        pushes: PushConfigs,
        states: RequestStates,
        config: Config,
        address: Callable[[], str],
    ) -> None:
        """`address`: host and port on which this server can be called."""
        self._calls = calls
        self._streams = streams
        self._exposures = exposures
        self._pushes = pushes
        self._states = states
        self._config = config
        self._address = address
        self._made: dict[str, Any] = {}

    def serves(self, scope: Scope) -> bool:
        return PATHS.fullmatch(scope["path"]) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        send = unless_gone(send)
        found = PATHS.fullmatch(scope["path"])
        assert found is not None
        try:
            try:
                name = found[1] or found[3]
                need(Role.READ, unquote(found[2] or found[4]), name)
                await self._exposures.refreshed()
                protocol = await self._protocol(name)
            except Refusal as refusal:
                await _refuse(send, HTTP_STATUS[refusal.status], refusal.message)
                return
            except ImportError:
                logger.exception("%s cannot be served", scope["path"])
                message = "this needs the optional SDKs: pip install 'durably[agents]'"
                await _refuse(send, NOT_INSTALLED, message)
                return
            try:
                await protocol(scope, receive, send)
            except Refusal as refusal:
                await _refuse(send, HTTP_STATUS[refusal.status], refusal.message)
        except ClientGone:
            pass

    async def _protocol(self, name: str) -> Any:
        """Raises ImportError without its SDK, which takes seconds to load: meanwhile others are served."""
        if name not in self._made:
            module = await asyncio.to_thread(importlib.import_module, f"durably.edge.{name}")
            if name in self._made:
                return self._made[name]
            if name == "mcp":
                made = module.Mcp(
                    self._calls, self._streams, self._exposures, self._states, self._config
                )
            else:
                made = module.A2a(
                    self._calls,
                    self._streams,
                    self._exposures,
                    self._pushes,
                    self._config,
                    self._address,
                )
            self._made[name] = made
        return self._made[name]

    async def load(self) -> None:
        """Have the SDKs ready before the first request, where something is exposed already."""
        if not self._exposures.any():
            return
        for name in ("mcp", "a2a"):
            try:
                await self._protocol(name)
            except ImportError:
                logger.warning("pip install 'durably[agents]' to serve what is exposed by %s", name)

    async def close(self) -> None:
        for each in self._made.values():
            await each.close()


async def _refuse(send: Send, status: int, message: str) -> None:
    body = json.dumps({"message": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"x-content-type-options", b"nosniff")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
