"""The kinds of execution there are, and their states as bytes.

Rule 1: `AnyState` is closed: a new kind is added here, and in each `match` that then fails to type.
Rule 2: snapshots are stored, and grow as `stored.py` says; a tag is never used again.
"""

from typing import Any

import msgspec
from google.protobuf.message import Message

from durably.engine.batch.state import BatchState
from durably.engine.deployment.state import DeploymentState
from durably.engine.schedule.state import ScheduleState
from durably.engine.standalone.state import StandaloneActivityState
from durably.engine.standalone_nexus.state import StandaloneNexusState
from durably.engine.state import Kind, WorkflowState
from durably.engine.version_sets.state import VersionSetsState
from durably.errors import WrittenByNewer

AnyState = (
    WorkflowState
    | ScheduleState
    | StandaloneActivityState
    | BatchState
    | StandaloneNexusState
    | DeploymentState
    | VersionSetsState
)

STATES: dict[Kind, type[AnyState]] = {
    Kind.WORKFLOW: WorkflowState,
    Kind.ACTIVITY: StandaloneActivityState,
    Kind.SCHEDULE: ScheduleState,
    Kind.BATCH: BatchState,
    Kind.DEPLOYMENT: DeploymentState,
    Kind.VERSION_SETS: VersionSetsState,
    Kind.NEXUS_OPERATION: StandaloneNexusState,
}


def _encode_message(value: Any) -> Any:
    if isinstance(value, Message):
        return value.SerializeToString()
    raise NotImplementedError(f"cannot store a {type(value).__name__}")


def _decode_message(kind: Any, value: bytes) -> Any:
    """Every type in a state that msgspec does not know is a message."""
    return kind.FromString(value)


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_message)
_decoder: msgspec.msgpack.Decoder[AnyState] = msgspec.msgpack.Decoder(
    AnyState, dec_hook=_decode_message
)


def encode_state(state: AnyState) -> bytes:
    """A snapshot: `decode_state` gives an equal state back."""
    return _encoder.encode(state)


def decode_state(snapshot: bytes) -> AnyState:
    """Raises WrittenByNewer."""
    try:
        return _decoder.decode(snapshot)
    except msgspec.ValidationError as error:
        raise WrittenByNewer(f"the state of this execution ({error})") from error


def new_state(kind: int, namespace_id: str, workflow_id: str, run_id: str) -> AnyState:
    """What an execution is before the first entry of its journal. Raises WrittenByNewer."""
    try:
        made = STATES[Kind(kind)]
    except ValueError as error:
        raise WrittenByNewer(f"an execution of kind {kind}") from error
    return made(namespace_id=namespace_id, namespace="", workflow_id=workflow_id, run_id=run_id)
