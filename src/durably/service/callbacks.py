"""Completion callbacks: what requests may bring, and how they are shown.

Facts: Callback in temporal/api/common/v1/message.proto, CallbackInfo in temporal/api/callback/v1.
"""

from collections.abc import Sequence

from google.protobuf.message import Message
from temporalio.api.callback.v1 import message_pb2 as callback_messages
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.workflow.v1 import message_pb2 as workflow_messages

from durably.addresses import check_url, destination_of
from durably.config import Config
from durably.engine.callback.state import SCHEDULED, Callback
from durably.engine.state import AwaitedState
from durably.errors import InvalidArgument, Unimplemented
from durably.service import a2a_tasks
from durably.service.breakers import OPEN, IsBlocked

INTERNAL_URLS = ("temporal://system", "temporal://internal")
"""The operation that is to be completed is on this very server."""


def check(callbacks: Sequence[common.Callback], config: Config) -> None:
    """Raises InvalidArgument or Unimplemented for callbacks that cannot be called; the names of their
    headers become lower case."""
    if len(callbacks) > config.callbacks_max:
        raise InvalidArgument(
            f"cannot attach more than {config.callbacks_max} callbacks to an execution"
        )
    for callback in callbacks:
        kind = callback.WhichOneof("variant")
        if kind == "internal":
            raise InvalidArgument("unsupported callback variant: internal")
        if kind != "nexus":
            raise Unimplemented(f"unknown callback variant: {kind or 'none'}")
        _check_nexus(callback.nexus, config)


def _check_nexus(target: common.Callback.Nexus, config: Config) -> None:
    if target.url not in INTERNAL_URLS:
        check_url(target.url, config)
    size = sum(len(name) + len(value) for name, value in target.header.items())
    if size > config.callback_header_bytes_max:
        raise InvalidArgument(
            "invalid header: header size longer than max allowed size of"
            f" {config.callback_header_bytes_max}"
        )
    lowered = {name.lower(): value for name, value in target.header.items()}
    target.header.clear()
    target.header.update(lowered)
    if a2a_tasks.PUSH_HEADER in lowered:
        a2a_tasks.check_push(target.url, lowered[a2a_tasks.PUSH_HEADER])


# --- Shown ------------------------------------------------------------------------------------


def info(
    state: AwaitedState, callback: Callback, is_blocked: IsBlocked
) -> callback_messages.CallbackInfo:
    """One callback as descriptions show it; BLOCKED where its destination gets no calls now."""
    shown = callback_messages.CallbackInfo(
        callback=common.Callback.FromString(callback.callback),
        state=callback.state,  # type: ignore[arg-type]
        attempt=callback.attempt,
    )
    if callback.last_failure:
        shown.last_attempt_failure.CopyFrom(failure.Failure.FromString(callback.last_failure))
    for time, ns in (
        (shown.registration_time, callback.registered_ns),
        (shown.last_attempt_complete_time, callback.last_attempt_ns),
        (shown.next_attempt_schedule_time, callback.next_attempt_ns),
    ):
        if ns:
            time.FromNanoseconds(ns)
    destination = destination_of(shown.callback.nexus.url)
    if callback.state == SCHEDULED and is_blocked(state.namespace_id, destination):
        shown.state = common_enums.CALLBACK_STATE_BLOCKED
        shown.blocked_reason = OPEN
    return shown


def of_workflow(state: AwaitedState, is_blocked: IsBlocked) -> list[workflow_messages.CallbackInfo]:
    return [_of_workflow(state, each, is_blocked) for each in state.callbacks.values()]


def _of_workflow(
    state: AwaitedState, callback: Callback, is_blocked: IsBlocked
) -> workflow_messages.CallbackInfo:
    shown = workflow_messages.CallbackInfo()
    for field, value in info(state, callback, is_blocked).ListFields():
        if isinstance(value, Message):
            getattr(shown, field.name).CopyFrom(value)
        else:
            setattr(shown, field.name, value)
    if callback.update_id:
        shown.trigger.update_workflow_execution_completed.update_id = callback.update_id
    else:
        shown.trigger.workflow_closed.SetInParent()
    return shown
