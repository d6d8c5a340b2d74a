"""The state of one standalone Nexus operation; read-only questions.

Rule 1: only `apply.py` beside this file, and what all Nexus operations share in `engine/apply/nexus_operation.py`, write.
Rule 2: its one operation stays in `nexus_operations` after the end: a description shows it.

Times are nanoseconds since the epoch; 0 means "not set".
"""

from msgspec import field
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.failure.v1 import message_pb2 as failures

from durably.engine.state import HistoryState, Kind, NexusOperation
from durably.engine.stored import StoredValue

SCHEDULED_EVENT_ID = 1
"""The first event of the private journal schedules the operation."""


class NexusCancelRequest(StoredValue, frozen=True):
    """Who wants the operation canceled, and why."""

    identity: str
    reason: str
    request_id: str


class StandaloneNexusState(HistoryState, tag="nexus"):
    """`workflow_id` is the operation id; `status` is a NexusOperationExecutionStatus."""

    KIND = Kind.NEXUS_OPERATION

    identity: str = ""
    links: list[bytes] = field(default_factory=list)
    """Serialized Links that its handler gave."""
    cancel: NexusCancelRequest | None = None
    terminate_request_id: str = ""

    # How it ended: one of the two
    result: common.Payload | None = None
    failure: failures.Failure | None = None

    @property
    def operation(self) -> NexusOperation:
        return self.nexus_operations[SCHEDULED_EVENT_ID]
