"""Records of the sets of compatible builds of a task queue. Rules: see `engine/journal.py`."""

from durably.engine.journal import Record


class VersionSetsSet(Record, frozen=True, tag="bv"):
    """The sets of a task queue, whole: of each its id, then its builds, the default last."""

    at_ns: int
    sets: tuple[tuple[str, tuple[str, ...]], ...]
