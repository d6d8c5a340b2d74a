"""Journal entries that the API keeps out of history: what they have in common.

Rule 1: a change of state is either a `HistoryEvent` or a record; there is no third way.
Rule 2: a record carries all that `apply` needs; applying it never asks the clock or the world.
Rule 3: records are stored, and grow as `stored.py` says; a tag is never used again. A record is written with
        all its fields, so one that has more of them than are known is read if those are empty.

Times are nanoseconds since the epoch. Bytes fields hold serialized API messages.
"""

from collections.abc import Callable
from typing import Any

from durably.engine.state import ScheduledBy
from durably.engine.stored import StoredValue


class Record(StoredValue, frozen=True, tag=True, tag_field="t", array_like=True):
    """Base of all records."""


class Created(Record, frozen=True, tag="cr"):
    """The first entry of every journal: what the first event does not say."""

    namespace: str
    request_id: str
    attached_request_ids: tuple[str, ...] = ()
    scheduled_by: ScheduledBy | None = None
    started_by: str = ""
    """The request that started the first event, where that is another: of a run that was reset."""


Changes = dict[type[Record], Callable[[Any, Any], None]]
"""Record -> what it changes of a state."""
