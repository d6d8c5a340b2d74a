"""The life of a worker deployment: what its journal says is what it is."""

from typing import Any

import pytest
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.deployment.v1 import message_pb2 as messages

from durably.engine import deadlines
from durably.engine.apply.entries import apply_record
from durably.engine.deployment import machine, view
from durably.engine.deployment.machine import Asked, Limits
from durably.engine.deployment.state import (
    CREATED,
    CURRENT,
    DRAINED,
    DRAINING,
    INACTIVE,
    RAMPING,
    DeploymentState,
)
from durably.engine.snapshot import decode_state, encode_state
from durably.engine.transition import CheckDrainage, Transition, outstanding
from durably.errors import AlreadyExists, FailedPrecondition, NotFound, ResourceExhausted

LIMITS = Limits(versions_max=3, queues_max=2, drainage_grace_ns=100)
ME = Asked("me")


def nobody(_: object) -> bool:
    return False


def everybody(_: object) -> bool:
    return True


class Life:
    """A deployment, and beside it a state that only ever sees the journal."""

    def __init__(self, opened: Any = machine.open_by_poller) -> None:
        self.now = 1_000
        self.state, self.copy = self.fresh(), self.fresh()
        self.effects: list[object] = []
        self.deadline_ns = 0
        self.step(opened)

    @staticmethod
    def fresh() -> DeploymentState:
        return DeploymentState(
            namespace_id="n", namespace="default", workflow_id="shop", run_id="run"
        )

    def step(self, decide: Any) -> Any:
        self.now += 10
        before = encode_state(self.state)
        t = Transition(self.state, self.now, lambda: "id")
        try:
            result = decide(t)
        except Exception:
            assert not t.changed
            assert encode_state(self.state) == before
            raise
        for _, record in t.records:
            apply_record(self.copy, record)
        assert encode_state(self.copy) == encode_state(self.state)
        self.copy = decode_state(encode_state(self.copy))  # type: ignore[assignment]
        self.effects, self.deadline_ns = t.effects, t.deadline_ns
        return result

    def polled(self, build_id: str, queue: str = "q", pollers: Any = nobody) -> None:
        self.step(lambda t: machine.polled(t, build_id, queue, 1, LIMITS, pollers))

    def current(self, build_id: str, asked: Asked = ME, needed: Any = nobody) -> None:
        self.step(lambda t: machine.set_current(t, build_id, asked, LIMITS, nobody, needed))

    def ramp(self, build_id: str, share: float, asked: Asked = ME, needed: Any = nobody) -> None:
        self.step(
            lambda t: machine.set_ramping(t, build_id, float(share), asked, LIMITS, nobody, needed)
        )

    def status(self, build_id: str) -> int:
        return self.state.versions[build_id].status


def two_versions() -> Life:
    life = Life()
    life.polled("1")
    life.polled("2")
    return life


def test_what_polls_is_known_once() -> None:
    life = Life()
    life.polled("1")
    assert life.status("1") == INACTIVE
    life.polled("1")
    life.polled("1", "other")
    assert [queue.name for queue in life.state.versions["1"].queues] == ["q", "other"]
    with pytest.raises(ResourceExhausted, match="maximum number of task queues"):
        life.polled("1", "third")
    assert life.state.by_poller
    assert outstanding(life.state) == []


def test_a_version_that_nobody_needs_makes_room() -> None:
    life = two_versions()
    life.polled("3")
    with pytest.raises(ResourceExhausted, match="maximum number of versions"):
        life.polled("4", pollers=everybody)
    life.current("1")
    life.polled("4")
    assert list(life.state.versions) == ["1", "3", "4"]
    assert life.state.modified_by == "me"


def test_a_client_makes_deployments_and_versions() -> None:
    life = Life(lambda t: machine.create(t, "me", "r1"))
    assert not life.state.by_poller
    assert life.state.create_request_id == "r1"

    def create(request_id: str) -> None:
        life.step(lambda t: machine.create_version(t, "1", "me", request_id, LIMITS, nobody))

    create("r2")
    create("r2")
    assert life.status("1") == CREATED
    with pytest.raises(AlreadyExists):
        create("r3")
    life.polled("1")
    assert life.status("1") == INACTIVE


def test_a_version_becomes_current_and_the_other_drains() -> None:
    life = two_versions()
    life.current("1")
    assert life.status("1") == CURRENT
    assert life.state.revision == 1
    life.current("1")
    assert life.state.revision == 1
    life.current("1", Asked("somebody"))
    assert (life.state.revision, life.state.modified_by) == (1, "somebody")
    life.current("2")
    first = life.state.versions["1"]
    assert (first.status, first.current_since_ns) == (DRAINING, 0)
    assert first.last_deactivated_ns == life.now
    assert life.deadline_ns == life.now + LIMITS.drainage_grace_ns
    life.current("1")
    assert first.drainage_changed_ns == 0
    assert first.first_activated_ns < first.last_current_ns


def test_a_ramp_grows_and_is_promoted() -> None:
    life = two_versions()
    life.current("1")
    life.ramp("2", 10)
    second = life.state.versions["2"]
    since_ns = second.ramping_since_ns
    assert (second.status, second.percentage) == (RAMPING, 10)
    life.ramp("2", 10)
    life.ramp("2", 60)
    assert (second.ramping_since_ns, second.percentage) == (since_ns, 60)
    assert life.state.ramping_changed_ns < life.state.percentage_changed_ns
    life.ramp("2", 60, Asked("somebody"))
    assert life.state.revision == 3
    life.current("2")
    assert second.status == CURRENT
    assert (life.state.ramping, life.state.percentage) == ("", 0)
    assert life.status("1") == DRAINING


def test_a_ramp_ends_or_goes_to_workers_without_versions() -> None:
    life = two_versions()
    with pytest.raises(FailedPrecondition, match="__unversioned__ is already current"):
        life.ramp("", 5)
    life.current("1")
    with pytest.raises(FailedPrecondition, match=r"shop\.1 is already current"):
        life.ramp("1", 5)
    life.ramp("2", 0)
    life.ramp("", 0)
    assert life.status("2") == DRAINING
    life.ramp("", 5)
    assert life.state.unversioned_ramp
    assert view.routing_config(life.state).ramping_version == "__unversioned__"
    life.current("")
    assert not life.state.unversioned_ramp
    assert life.state.percentage == 0


def test_what_is_not_known_needs_leave() -> None:
    life = two_versions()
    with pytest.raises(NotFound, match="build ID '9' not found"):
        life.current("9")
    with pytest.raises(NotFound):
        life.ramp("9", 1)
    life.ramp("9", 1, Asked("me", allow_no_pollers=True))
    assert life.status("9") == RAMPING
    life.current("9", Asked("me", allow_no_pollers=True))
    one = two_versions()
    one.current("9", Asked("me", allow_no_pollers=True))
    assert one.status("9") == CURRENT


def test_tokens_and_managers_are_minded() -> None:
    life = two_versions()
    token = machine.conflict_token(life.state)
    life.step(lambda t: machine.set_manager(t, "boss", "boss", token))
    life.step(lambda t: machine.set_manager(t, "boss", "boss", token))
    for change in (life.current, lambda build, asked: life.ramp(build, 5, asked)):
        with pytest.raises(FailedPrecondition, match="conflict token mismatch"):
            change("1", Asked("boss", token))
        with pytest.raises(FailedPrecondition, match="ManagerIdentity 'boss'"):
            change("1", ME)
    with pytest.raises(FailedPrecondition, match="conflict token mismatch"):
        life.step(lambda t: machine.set_manager(t, "", "me", token))
    life.current("1", Asked("boss", machine.conflict_token(life.state)))
    with pytest.raises(FailedPrecondition, match="ManagerIdentity"):
        life.step(
            lambda t: machine.remove_version(t, "2", "me", skip_drainage=False, has_pollers=nobody)
        )


def test_a_version_has_to_serve_the_queues_that_are_needed() -> None:
    life = Life()
    life.polled("1", "a")
    life.polled("1", "b")
    life.polled("2", "a")
    life.current("1")
    with pytest.raises(FailedPrecondition, match="proposed current version 'shop:2' is missing"):
        life.current("2", needed=everybody)
    with pytest.raises(FailedPrecondition, match="proposed ramping version 'shop:2' is missing"):
        life.ramp("2", 5, needed=everybody)
    life.ramp("2", 5, Asked("me", ignore_missing_queues=True), everybody)
    life.current("2")
    assert life.status("2") == CURRENT


def test_metadata_is_merged() -> None:
    life = two_versions()

    def update(build_id: str, upsert: dict[str, common.Payload], remove: list[str]) -> Any:
        return life.step(lambda t: machine.update_metadata(t, build_id, upsert, remove, "me"))

    update("1", {"a": common.Payload(data=b"1"), "b": common.Payload(data=b"2")}, [])
    found = update("1", {}, ["a", "none"])
    assert found == messages.VersionMetadata(entries={"b": common.Payload(data=b"2")})
    assert life.state.versions["1"].modified_by == "me"
    with pytest.raises(NotFound):
        update("9", {}, ["a"])


def test_a_draining_version_is_looked_at_until_it_is_drained() -> None:
    life = two_versions()
    assert deadlines.next_deadline(life.state) == 0
    life.current("1")
    life.current("2")
    life.step(deadlines.fire_due)
    assert outstanding(life.state) == []
    life.now = deadlines.next_deadline(life.state)
    life.step(deadlines.fire_due)
    assert life.effects == outstanding(life.state) == [CheckDrainage("1")]
    assert deadlines.next_deadline(life.state) == 0
    life.step(lambda t: machine.checked(t, "1", drained=False, interval_ns=50))
    assert life.status("1") == DRAINING
    assert deadlines.next_deadline(life.state) == life.now + 50
    life.now += 50
    life.step(deadlines.fire_due)
    life.step(lambda t: machine.checked(t, "1", drained=True, interval_ns=50))
    life.step(lambda t: machine.checked(t, "1", drained=True, interval_ns=50))
    assert life.status("1") == DRAINED
    assert view.summary(life.state, life.state.versions["1"]).drainage_info.status == 2
    life.step(lambda t: machine.reactivate(t, "1", 100))
    life.step(lambda t: machine.reactivate(t, "9", 100))
    assert life.status("1") == DRAINING


def test_versions_and_deployments_are_removed() -> None:
    life = two_versions()
    life.current("1")
    life.current("2")

    def remove(build_id: str, pollers: Any = nobody, *, skip: bool = False) -> None:
        life.step(
            lambda t: machine.remove_version(
                t, build_id, "me", skip_drainage=skip, has_pollers=pollers
            )
        )

    with pytest.raises(FailedPrecondition, match="is current or ramping"):
        remove("2")
    with pytest.raises(FailedPrecondition, match="is draining"):
        remove("1")
    with pytest.raises(FailedPrecondition, match="has active pollers"):
        remove("1", everybody, skip=True)
    remove("1", skip=True)
    remove("1")
    with pytest.raises(FailedPrecondition, match="has versions"):
        life.step(machine.remove)
    life.current("")
    remove("2", skip=True)
    life.step(machine.remove)
    life.step(machine.remove)
    assert life.state.closed
    assert outstanding(life.state) == []
    with pytest.raises(NotFound, match="no Worker Deployment found"):
        life.polled("1")


def test_what_those_who_ask_see() -> None:
    life = two_versions()
    assert view.list_summary(Life().state).name == "shop"
    life.current("1")
    life.ramp("2", 25)
    info = view.deployment_info(life.state)
    assert [each.version for each in info.version_summaries] == ["shop.2", "shop.1"]
    assert info.routing_config.ramping_deployment_version.build_id == "2"
    row = view.list_summary(life.state)
    assert row.current_version_summary.version == "shop.1"
    assert row.latest_version_summary == row.ramping_version_summary
    shown = view.version_info(life.state, life.state.versions["2"])
    assert (shown.ramp_percentage, shown.task_queue_infos[0].name) == (25, "q")
    assert not shown.HasField("metadata")
