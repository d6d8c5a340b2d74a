"""Records of batch operations. Rules: see `engine/journal.py`."""

from durably.engine.journal import Record
from durably.engine.state import BatchTarget


class BatchStarted(Record, frozen=True, tag="bs"):
    """`request`: the StartBatchOperationRequest; `total`: how many executions it is about."""

    request: bytes
    total: int
    at_ns: int


class BatchPageTaken(Record, frozen=True, tag="bg"):
    """What is done next, to which executions; the next page begins at `cursor` (empty: none does)."""

    targets: tuple[BatchTarget, ...]
    cursor: bytes = b""


class BatchPageDone(Record, frozen=True, tag="bw"):
    """It was tried with every execution of the page."""

    completed: int
    failed: int


class BatchEnded(Record, frozen=True, tag="be"):
    """The last page is done."""

    at_ns: int


class BatchFailed(Record, frozen=True, tag="bz"):
    """Its executions cannot be found any more."""

    reason: str
    at_ns: int


class BatchStopped(Record, frozen=True, tag="bh"):
    """An operator stopped it."""

    identity: str
    reason: str
    at_ns: int


BatchRecord = (
    BatchStarted | BatchPageTaken | BatchPageDone | BatchEnded | BatchFailed | BatchStopped
)
