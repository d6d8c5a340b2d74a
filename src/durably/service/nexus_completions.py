"""Completions of Nexus operations: what a handler's callback says, wherever it comes from.

Rule 1: a completion takes effect once. One that comes again finds no operation: NotFound, which ends its
        delivery.
"""

from dataclasses import dataclass
from typing import Any

from temporalio.api.common.v1 import message_pb2 as common

from durably.config import Config
from durably.engine import nexus_operation
from durably.engine.nexus_outcome import Ended, Succeeded
from durably.engine.state import HistoryState, Kind
from durably.engine.transition import Transition
from durably.errors import InvalidArgument, NotFound
from durably.service.callback_tokens import CallbackToken, CallbackTokens
from durably.service.execution import Execution
from durably.service.transact import Executions


@dataclass(frozen=True, slots=True)
class Completion:
    """How an operation ended; the rest is of use only if its start was never answered."""

    ended: Ended
    operation_token: str = ""
    started_ns: int = 0
    """Nanoseconds since the epoch; 0: not known."""
    links: tuple[common.Link, ...] = ()


class NexusCompletions:
    """Receives completions."""

    def __init__(self, executions: Executions, tokens: CallbackTokens) -> None:
        self._executions = executions
        self._config: Config = executions.config
        self._tokens = tokens

    async def complete_operation(self, token: str, completion: Completion) -> None:
        """The operation that the token was made for has ended.

        InvalidArgument for a token that is not ours, and for what is too large; NotFound for an
        operation that is not there any more: what the token says is of no use then.
        """
        named = self._tokens.verify(token)
        self._check(completion)
        try:
            await self._complete(named, named.run_id, completion)
        except NotFound:
            if named.kind != Kind.WORKFLOW:
                raise
            # The run may have been reset: the one that goes on has the operation then.
            await self._complete(named, "", completion)

    def _check(self, completion: Completion) -> None:
        limit = self._config.nexus_token_bytes_max
        size = len(completion.operation_token.encode())
        if size > limit:
            raise InvalidArgument(f"operation token length exceeds allowed limit ({size}/{limit})")
        ended = completion.ended
        message = ended.payload if isinstance(ended, Succeeded) else ended.failure
        if message is not None and message.ByteSize() > self._config.payload_bytes_max:
            raise InvalidArgument("result exceeds size limit")

    async def _complete(self, named: CallbackToken, run_id: str, completion: Completion) -> None:
        execution: Execution[Any] | None = await self._executions.find_of_kind(
            Kind(named.kind), named.namespace_id, named.workflow_id, run_id
        )
        if execution is None:
            raise NotFound("operation not found")

        def decide(t: Transition[HistoryState]) -> None:
            nexus_operation.complete(
                t,
                named.scheduled_event_id,
                named.request_id,
                completion.ended,
                token=completion.operation_token,
                started_ns=completion.started_ns,
                links=completion.links,
            )

        await self._executions.transact(execution.execution_id, decide)
