"""Records that only standalone Nexus operations have. Rules: see `engine/journal.py`."""

from durably.engine.journal import Record


class NexusOpened(Record, frozen=True, tag="no"):
    """What a start asked for beside the operation; the event that schedules it follows."""

    identity: str
    search_attributes: bytes


class NexusAttached(Record, frozen=True, tag="na"):
    """The completion callbacks of a start request, serialized."""

    request_id: str
    at_ns: int
    callbacks: tuple[bytes, ...]


class NexusCancelAsked(Record, frozen=True, tag="nc"):
    """Who wants it canceled; the event of the request follows."""

    identity: str
    reason: str
    request_id: str


class NexusTerminated(Record, frozen=True, tag="nt"):
    at_ns: int
    identity: str
    reason: str
    request_id: str


StandaloneNexusRecord = NexusOpened | NexusAttached | NexusCancelAsked | NexusTerminated
