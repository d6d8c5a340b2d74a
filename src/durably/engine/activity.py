"""The activity machine (being written): the signatures others build on."""

from dataclasses import dataclass

from durably.engine.state import Activity


@dataclass(slots=True)
class ActivityGrant:
    """What a poller is told of the activity attempt it has started.

    Copies of what may change before the reply is built; `activity.scheduled` never changes.
    """

    activity: Activity
    attempt: int
    dispatched_ns: int
    started_ns: int
