"""Records that only standalone activities have. Rules: see `engine/journal.py`."""

from durably.engine.journal import Record


class StandaloneOpened(Record, frozen=True, tag="xo"):
    """What a start asked for beside the activity; the event that schedules it follows."""

    start_delay_ns: int
    search_attributes: bytes


class StandaloneAttached(Record, frozen=True, tag="xa"):
    """Callbacks and links that came with a start request: serialized Callbacks and Links."""

    request_id: str
    at_ns: int
    callbacks: tuple[bytes, ...]
    links: tuple[bytes, ...]


class StandaloneCancelAsked(Record, frozen=True, tag="xc"):
    """Who wants it canceled; the event of the request follows."""

    identity: str
    reason: str
    request_id: str


class StandaloneTerminated(Record, frozen=True, tag="xt"):
    at_ns: int
    identity: str
    reason: str
    request_id: str


class StandaloneRequestSeen(Record, frozen=True, tag="xr"):
    """An operator's command with this request id was carried out, and must not be again."""

    command: str
    request_id: str


class StandaloneDelayed(Record, frozen=True, tag="xd"):
    """The first attempt waits for another time than was asked for at the start."""

    start_delay_ns: int


StandaloneRecord = (
    StandaloneOpened
    | StandaloneAttached
    | StandaloneCancelAsked
    | StandaloneTerminated
    | StandaloneRequestSeen
    | StandaloneDelayed
)
