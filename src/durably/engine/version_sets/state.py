"""The sets of compatible builds of one task queue, as they are kept.

Rule 1: the last set is the default of the queue, the last build of a set the default of the set.
"""

from durably.engine.state import ExecutionState, Kind

BuildSet = tuple[str, tuple[str, ...]]
"""Its id, which it has from its first build, and its builds."""


class VersionSetsState(ExecutionState, tag="version-sets"):
    """`workflow_id` is the name of the task queue."""

    KIND = Kind.VERSION_SETS

    sets: tuple[BuildSet, ...] = ()
