"""apply(state, record) for sets of compatible builds. Rules: see `engine/apply/entries.py`."""

from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums

from durably.engine.journal import Changes
from durably.engine.state import RUNNING
from durably.engine.version_sets import records as r
from durably.engine.version_sets.state import VersionSetsState


def _apply(state: VersionSetsState, record: r.VersionSetsSet) -> None:
    """They stay open for ever."""
    assert state.status in (0, workflow_enums.WORKFLOW_EXECUTION_STATUS_RUNNING)
    state.start_ns = state.start_ns or record.at_ns
    state.status = RUNNING
    state.sets = record.sets


RECORDS: Changes = {r.VersionSetsSet: _apply}
