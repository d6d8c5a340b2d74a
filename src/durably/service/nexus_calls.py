"""Calls of operations that come from outside, and completions of those that went there.

Rule 1: who calls hears of it in the terms of Nexus: a `HandlerError` says what is refused, and why.
Rule 2: a completion needs the token that this server signed; a caller who names a namespace names the
        one that the token is for.

Facts: https://github.com/nexus-rpc/api/blob/main/SPEC.md.
"""

from collections.abc import Callable, Mapping

from temporalio.api.nexus.v1 import message_pb2 as nexus

from durably.config import Config
from durably.engine.nexus_outcome import Refused, StartOutcome, refused
from durably.errors import NamespaceDeleted, NamespaceNotFound, Refusal
from durably.service import access, nexus_dispatch, nexus_errors
from durably.service.access import Role
from durably.service.callback_tokens import CallbackTokens
from durably.service.namespaces import Namespaces
from durably.service.nexus_completions import Completion, NexusCompletions
from durably.service.nexus_dispatch import NexusDispatch, Target, WorkerTarget
from durably.service.nexus_endpoints import NexusEndpoints
from durably.service.nexus_failures import RETRY_BEHAVIORS

CALLING = "a Nexus operation"


class HandlerError(Exception):
    """The request is refused; `refused` says how Nexus has it."""

    def __init__(self, kind: str, message: str, *, final: bool = False) -> None:
        """`final`: it says itself that the same request is not to be made again."""
        super().__init__(message)
        self.refused: Refused = refused(kind, message)
        if final:
            info = self.refused.failure.nexus_handler_failure_info
            info.retry_behavior = RETRY_BEHAVIORS[False]


class NexusCalls:
    """Answers callers that speak Nexus."""

    def __init__(
        self,
        namespaces: Namespaces,
        endpoints: NexusEndpoints,
        dispatch: NexusDispatch,
        completions: NexusCompletions,
        tokens: CallbackTokens,
        clock: Callable[[], int],
        config: Config,
    ) -> None:
        self._namespaces = namespaces
        self._endpoints = endpoints
        self._dispatch = dispatch
        self._completions = completions
        self._tokens = tokens
        self._clock = clock
        self._config = config

    # --- Targets ------------------------------------------------------------------------------

    async def of_queue(self, namespace: str, task_queue: str, *, reads: bool = False) -> Target:
        """Workers that poll this queue; `reads`: nothing is asked of them. Raises HandlerError, and what
        `access.need` raises."""
        access.need(Role.READ if reads else Role.WRITE, namespace, CALLING)
        try:
            await self._namespaces.known_id(namespace)
        except NamespaceNotFound as error:
            raise HandlerError("NOT_FOUND", f'namespace not found: "{namespace}"') from error
        except NamespaceDeleted as error:
            raise HandlerError("BAD_REQUEST", error.message) from error
        return WorkerTarget(namespace, task_queue)

    async def of_endpoint(self, endpoint_id: str, *, reads: bool = False) -> Target:
        """Those behind an endpoint, by its id. Raises HandlerError; an endpoint that leads outside is
        for this server's own executions only."""
        found = await self._endpoints.known(endpoint_id)
        if found is None:
            raise HandlerError("NOT_FOUND", "nexus endpoint not found", final=True)
        target = nexus_dispatch.target_of(found.spec)
        if not isinstance(target, WorkerTarget):
            raise HandlerError("BAD_REQUEST", "invalid endpoint target")
        access.need(Role.READ if reads else Role.WRITE, target.namespace, CALLING)
        return target

    # --- Calls --------------------------------------------------------------------------------

    async def start(
        self,
        target: Target,
        request: nexus.StartOperationRequest,
        header: Mapping[str, str],
        timeout_s: float,
        *,
        failures: bool,
    ) -> StartOutcome:
        """`timeout_s` 0: as long as the server waits. `failures`: the caller understands whole ones."""
        if request.payload.ByteSize() > self._config.payload_bytes_max:
            raise HandlerError("BAD_REQUEST", "input exceeds size limit")
        return await self._dispatch.start_operation(
            target,
            request,
            header,
            timeout_s=self._seconds(timeout_s),
            now_ns=self._clock(),
            failures=failures,
        )

    async def cancel(
        self,
        target: Target,
        request: nexus.CancelOperationRequest,
        header: Mapping[str, str],
        timeout_s: float,
    ) -> Refused | None:
        return await self._dispatch.cancel_operation(
            target, request, header, timeout_s=self._seconds(timeout_s), now_ns=self._clock()
        )

    def _seconds(self, asked_s: float) -> float:
        longest_s = self._config.nexus_call_timeout_s
        return min(asked_s or longest_s, longest_s)

    # --- Completions --------------------------------------------------------------------------

    async def complete(self, namespace: str | None, token: str, completion: Completion) -> None:
        """`namespace`: the one in the URL, if there is one. Raises HandlerError."""
        try:
            named = self._tokens.verify(token)
        except Refusal as refusal:
            raise HandlerError("BAD_REQUEST", "invalid callback token") from refusal
        if namespace is not None and not self._is(namespace, named.namespace_id):
            raise HandlerError("BAD_REQUEST", "invalid callback token")
        try:
            await self._completions.complete_operation(token, completion)
        except Refusal as refusal:
            raise HandlerError(nexus_errors.of_refusal(refusal), refusal.message) from refusal

    def _is(self, namespace: str, namespace_id: str) -> bool:
        try:
            return self._namespaces.id_of(namespace) == namespace_id
        except (NamespaceNotFound, NamespaceDeleted):
            return False
