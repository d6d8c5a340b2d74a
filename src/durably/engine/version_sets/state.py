"""The sets of compatible builds of one task queue, and what changes them.

Rule 1: the last set is the default of the queue, the last build of a set the default of the set.
"""

from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums

from durably.engine import records as r
from durably.engine.state import RUNNING, ExecutionState, Kind

BuildSet = tuple[str, tuple[str, ...]]
"""Its id, which it has from its first build, and its builds."""


class VersionSetsState(ExecutionState, tag="version-sets"):
    """`workflow_id` is the name of the task queue."""

    KIND = Kind.VERSION_SETS

    sets: tuple[BuildSet, ...] = ()


def apply_version_sets(state: VersionSetsState, record: r.VersionSetsSet) -> None:
    """The only writer of this state. It stays open for ever."""
    assert state.status in (0, workflow_enums.WORKFLOW_EXECUTION_STATUS_RUNNING)
    state.start_ns = state.start_ns or record.at_ns
    state.status = RUNNING
    state.sets = record.sets
