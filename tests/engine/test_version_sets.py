"""Sets of compatible builds: what each operation makes of them."""

from typing import Any

import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine.apply.entries import apply_record
from durably.engine.snapshot import decode_state, encode_state
from durably.engine.transition import Transition
from durably.engine.version_sets import machine
from durably.engine.version_sets.machine import Limits
from durably.engine.version_sets.state import VersionSetsState
from durably.errors import FailedPrecondition, InvalidArgument, NotFound

Request = ws.UpdateWorkerBuildIdCompatibilityRequest


class Life:
    def __init__(self) -> None:
        self.state, self.copy = self.fresh(), self.fresh()
        self.changes = 0

    @staticmethod
    def fresh() -> VersionSetsState:
        return VersionSetsState(
            namespace_id="n", namespace="default", workflow_id="q", run_id="run"
        )

    def update(self, **operation: Any) -> tuple[tuple[str, ...], ...]:
        """The builds of each set afterwards."""
        t = Transition(self.state, 1_000, lambda: "id")
        machine.update(t, Request(namespace="default", **operation), Limits(3, 5))
        for _, record in t.records:
            apply_record(self.copy, record)
        self.changes += bool(t.records)
        assert encode_state(self.copy) == encode_state(self.state)
        self.copy = decode_state(encode_state(self.copy))  # type: ignore[assignment]
        return tuple(builds for _, builds in self.state.sets)

    def add(self, build: str, to: str, default: bool = False) -> tuple[tuple[str, ...], ...]:
        return self.update(
            add_new_compatible_build_id=Request.AddNewCompatibleVersion(
                new_build_id=build, existing_compatible_build_id=to, make_set_default=default
            )
        )


def three() -> Life:
    life = Life()
    life.update(add_new_build_id_in_new_default_set="1.0")
    life.add("1.1", "1.0")
    life.update(add_new_build_id_in_new_default_set="2.0")
    return life


def test_sets_grow() -> None:
    life = three()
    assert life.update(add_new_build_id_in_new_default_set="2.0") == (("1.0", "1.1"), ("2.0",))
    assert life.changes == 3
    assert life.add("1.1", "1.0") == (("1.0", "1.1"), ("2.0",))
    assert life.add("1.2", "1.1", default=True) == (("2.0",), ("1.0", "1.1", "1.2"))
    assert [name for name, _ in life.state.sets] == ["2.0", "1.0"]


def test_what_contradicts_is_refused() -> None:
    life = three()
    for build in ("1.0", "1.1"):
        with pytest.raises(InvalidArgument, match="already exists"):
            life.update(add_new_build_id_in_new_default_set=build)
    with pytest.raises(NotFound, match="targeted compatible_version 9 not found"):
        life.add("3", "9")
    with pytest.raises(InvalidArgument, match="are incompatible"):
        life.add("2.0", "1.0")
    with pytest.raises(InvalidArgument, match="not default for queue"):
        life.add("1.1", "1.0", default=True)
    with pytest.raises(InvalidArgument, match="not default in set"):
        life.add("1.0", "1.1")
    for operation in ("promote_set_by_build_id", "promote_build_id_within_set"):
        with pytest.raises(NotFound, match="targeted version 9 not found"):
            life.update(**{operation: "9"})
    assert life.changes == 3


def test_sets_and_builds_are_promoted() -> None:
    life = three()
    assert life.update(promote_build_id_within_set="1.0") == (("1.1", "1.0"), ("2.0",))
    assert life.update(promote_set_by_build_id="1.1") == (("2.0",), ("1.1", "1.0"))
    life.update(promote_set_by_build_id="1.1")
    assert life.changes == 5


def test_sets_are_merged_and_the_primary_keeps_its_default() -> None:
    life = three()
    life.update(promote_set_by_build_id="1.0")
    merge = Request.MergeSets(primary_set_build_id="2.0", secondary_set_build_id="1.0")
    assert life.update(merge_sets=merge) == (("1.0", "1.1", "2.0"),)
    assert life.update(merge_sets=merge) == (("1.0", "1.1", "2.0"),)
    merge.secondary_set_build_id = "9"
    with pytest.raises(NotFound, match="targeted secondary version 9 not found"):
        life.update(merge_sets=merge)


def test_there_are_limits() -> None:
    life = three()
    life.update(add_new_build_id_in_new_default_set="3.0")
    with pytest.raises(FailedPrecondition, match=r"sets permitted \(4/3\)"):
        life.update(add_new_build_id_in_new_default_set="4.0")
    life.add("1.2", "1.0")
    with pytest.raises(FailedPrecondition, match=r"build IDs permitted \(6/5\)"):
        life.add("1.3", "1.0")
