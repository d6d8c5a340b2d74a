"""What a workflow knows of versions, what it passes on, and what overrides may say."""

from collections.abc import Callable
from typing import Any

import pytest
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.deployment.v1 import message_pb2 as deployments
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.workflow.v1 import message_pb2 as workflows

from durably.engine import workflow_options
from durably.engine.standalone.state import StandaloneActivityState
from durably.engine.state import Activity, WorkflowState
from durably.engine.transition import Transition
from durably.engine.versioning import apply, machine
from durably.engine.versioning.state import Notice, Versioning
from durably.engine.versioning.version import (
    ANY,
    AUTO_UPGRADE,
    FRESH,
    PINNED,
    UNSPECIFIED,
    VERSIONED,
    Route,
    Version,
    Worker,
    check,
    check_override,
    decode_route,
    encode_route,
    of_options,
    of_text,
    old_text,
    override_target,
    present_form,
    share,
    worker,
)
from durably.errors import FailedPrecondition, InvalidArgument

ONE, TWO = Version("shop", "1"), Version("shop", "2")
STAMP = common.WorkerVersionStamp(build_id="1", use_versioning=True)
Override = workflows.VersioningOverride
NEXT_IS_NEW = 1


def state(**versioning: Any) -> WorkflowState:
    made = WorkflowState(namespace_id="n", namespace="default", workflow_id="w", run_id="r")
    made.started = history.WorkflowExecutionStartedEventAttributes()
    made.started.task_queue.name = "q"
    made.versioning = Versioning(**versioning) if versioning else None
    return made


def pin(version: Version = TWO) -> Override:
    override = Override()
    override.pinned.behavior = Override.PINNED_OVERRIDE_BEHAVIOR_PINNED
    override.pinned.version.CopyFrom(version.message)
    return override


def once(version: Version = TWO) -> Override:
    override = Override()
    override.one_time.target_deployment_version.CopyFrom(version.message)
    return override


def polled(*known: tuple[str, Version]) -> Callable[[str, Version], bool]:
    return lambda queue, version: (queue, version) in known


def transition(of: WorkflowState) -> Transition[WorkflowState]:
    return Transition(of, 1_000, lambda: "id")


# --- Names --------------------------------------------------------------------------------------


def test_versions_are_written_in_two_ways() -> None:
    assert (str(ONE), ONE.old_text, old_text(None)) == ("shop:1", "shop.1", "__unversioned__")
    assert of_text("shop.1.2") == Version("shop", "1.2")
    assert of_text("shop:1.2") == Version("shop", "1.2")
    assert of_text("__unversioned__") is None
    for text in ("", "shop", ".1", "shop.", ":"):
        with pytest.raises(InvalidArgument, match="invalid version string"):
            of_text(text)


@pytest.mark.parametrize(
    ("deployment", "build", "said"),
    [
        ("", "1", "WorkerDeploymentName cannot be empty"),
        ("shop", "", "BuildID cannot be empty"),
        ("x" * 9, "1", "larger than the maximum"),
        ("__x", "1", "cannot start with '__'"),
        ("a.b", "1", "cannot contain '.'"),
        ("a:b", "1", "cannot contain ':'"),
    ],
)
def test_names_that_none_can_have(deployment: str, build: str, said: str) -> None:
    check(ONE, 8)
    with pytest.raises(InvalidArgument, match=said):
        check(Version(deployment, build), 8)


def test_what_a_worker_says_of_itself() -> None:
    options = deployments.WorkerDeploymentOptions(deployment_name="shop", build_id="1")
    nothing = common.WorkerVersionCapabilities()
    stamp = common.WorkerVersionCapabilities(build_id="1", use_versioning=True)
    assert of_options(options) is None
    assert worker("me", options, nothing) == Worker("me")
    assert machine.compatible_build(worker("me", options, stamp).stamp) == "1"
    options.worker_versioning_mode = VERSIONED
    assert worker("me", options, stamp) == Worker("me", ONE)


# --- Overrides ----------------------------------------------------------------------------------


def test_an_override_says_one_thing_clearly() -> None:
    old = Override(behavior=PINNED, pinned_version="shop.1")
    series = Override(behavior=PINNED)
    series.deployment.series_name, series.deployment.build_id = "shop", "1"
    upgrade = Override(auto_upgrade=True)
    for good in (pin(), once(), upgrade, old, series, Override(behavior=AUTO_UPGRADE)):
        check_override(good)
    assert override_target(present_form(old)) == override_target(present_form(series)) == ONE
    assert present_form(Override(behavior=AUTO_UPGRADE)) == upgrade
    both = pin()
    both.behavior = PINNED
    assert present_form(both) == pin()
    assert present_form(Override()) == Override()
    assert [override_target(each) for each in (None, upgrade, pin(), once(ONE))] == [
        None,
        None,
        TWO,
        ONE,
    ]


@pytest.mark.parametrize(
    "override",
    [
        Override(),
        Override(auto_upgrade=False),
        Override(pinned=Override.PinnedOverride(behavior=1)),
        Override(pinned=Override.PinnedOverride(version=ONE.message)),
        Override(one_time=Override.OneTimeOverride()),
        Override(behavior=PINNED),
        Override(behavior=PINNED, pinned_version="x"),
        Override(behavior=AUTO_UPGRADE, pinned_version="shop.1"),
        Override(behavior=AUTO_UPGRADE, deployment={"build_id": "1"}),
        Override(behavior=9),  # type: ignore[arg-type]
    ],
)
def test_an_override_that_says_nothing_clear_is_refused(override: Override) -> None:
    with pytest.raises(InvalidArgument):
        check_override(override)


def test_an_override_goes_before_what_the_worker_said() -> None:
    found = Versioning(behavior=AUTO_UPGRADE, version=ONE, override=pin())
    assert (found.effective_behavior, found.effective_version) == (PINNED, TWO)
    found.moving, found.moving_to = True, None
    assert (found.effective_behavior, found.effective_version) == (AUTO_UPGRADE, None)
    assert (found.shown_behavior, found.shown_version) == (PINNED, TWO)
    assert Versioning().effective_version is None


def test_a_pin_without_a_version_means_the_present_one() -> None:
    asked = workflow_options.Options()
    asked.versioning_override.pinned.behavior = Override.PINNED_OVERRIDE_BEHAVIOR_PINNED
    found = workflow_options.completed(state(behavior=PINNED, version=ONE), asked)
    assert found.versioning_override == pin(ONE)
    assert workflow_options.completed(state(), found) is found
    for of in (state(), state(behavior=AUTO_UPGRADE, version=ONE)):
        with pytest.raises(FailedPrecondition, match="not yet pinned"):
            workflow_options.completed(of, asked)


def test_a_move_of_one_time_is_over_when_it_is_done() -> None:
    of = state(behavior=AUTO_UPGRADE, version=ONE, override=once())
    done = history.WorkflowTaskCompletedEventAttributes(versioning_behavior=AUTO_UPGRADE)
    done.deployment_version.CopyFrom(ONE.message)
    apply.task_completed(of, done)
    assert of.versioning is not None
    assert of.versioning.override == once()
    done.deployment_version.CopyFrom(TWO.message)
    apply.task_completed(of, done)
    assert of.versioning.override is None
    assert of.used_versions == ["shop:1", "shop:2"]


def test_a_worker_without_versioning_unversions_a_workflow() -> None:
    of = state(behavior=AUTO_UPGRADE, version=ONE, moving=True, moving_to=None)
    apply.task_completed(of, history.WorkflowTaskCompletedEventAttributes())
    assert machine.standing(of) == (False, UNSPECIFIED, None)
    old = history.WorkflowTaskCompletedEventAttributes(
        versioning_behavior=PINNED, worker_deployment_version="shop.1"
    )
    apply.task_completed(of, old)
    assert machine.standing(of) == (False, PINNED, ONE)


# --- Where its tasks go -------------------------------------------------------------------------


def test_routes() -> None:
    fresh, begun = state(), state()
    begun.last_completed_event_id = 4
    assert (machine.route(fresh), machine.route(begun)) == (FRESH, ANY)
    begun.worker_version = common.WorkerVersionStamp(
        build_id="1", use_versioning=True
    ).SerializeToString()
    assert machine.route(begun) == Route(build_id="1")
    moved = state(behavior=AUTO_UPGRADE, version=ONE, revision=3)
    assert machine.route(moved) == Route(AUTO_UPGRADE, ONE, 3)
    asks = state(behavior=AUTO_UPGRADE, version=ONE, initial_behavior=machine.USE_RAMPING)
    assert machine.route(asks).ramping
    asks.last_completed_event_id = 4
    assert not machine.route(asks).ramping
    assert Route(PINNED, ONE).same(Route(PINNED, ONE, 7))


def test_an_activity_goes_with_its_workflow_or_to_the_newest() -> None:
    def scheduled(**fields: Any) -> Activity:
        made = history.ActivityTaskScheduledEventAttributes(**fields)
        return Activity(5, made, 0, 0)

    alone = StandaloneActivityState(namespace_id="n", namespace="d", workflow_id="a", run_id="r")
    assert machine.activity_route(alone, scheduled()) == FRESH
    upgrades = state(behavior=AUTO_UPGRADE, version=ONE)
    assert machine.activity_route(upgrades, scheduled()) == Route(AUTO_UPGRADE, ONE)
    compatible = state()
    compatible.worker_version = STAMP.SerializeToString()
    assert machine.activity_route(compatible, scheduled()) == FRESH
    within = scheduled(use_workflow_build_id=True)
    assert machine.activity_route(compatible, within) == Route(build_id="1")


def test_routes_are_stored() -> None:
    for route in (ANY, FRESH, Route(), Route(PINNED, ONE, 3), Route(build_id="1")):
        assert decode_route(encode_route(route)) == route
    assert encode_route(ANY) == b""


def test_an_id_has_its_place_in_the_ramp() -> None:
    places = [share(f"w{number}") for number in range(1000)]
    assert all(0 <= place < 100 for place in places)
    assert 400 < sum(place < 50 for place in places) < 600
    assert share("w1") == places[1]


def test_who_may_take_a_task() -> None:
    pinned = state(behavior=PINNED, version=ONE)
    assert machine.is_for(pinned, Worker("w", ONE))
    assert not machine.is_for(pinned, Worker("w", TWO))
    assert not machine.is_for(pinned, Worker("w"))
    for other in (state(), state(behavior=AUTO_UPGRADE, version=ONE)):
        assert machine.is_for(other, Worker("w", TWO))


@pytest.mark.parametrize(
    ("notified", "declined", "target", "wanted"),
    [
        (None, None, Notice(TWO, 2), (Notice(TWO, 2), None)),
        (Notice(TWO, 2), None, Notice(ONE, 3), (None, None)),
        (Notice(TWO, 2), None, Notice(ONE, 1), (Notice(TWO, 2), None)),
        (Notice(TWO, 2), None, Notice(TWO, 1), (Notice(TWO, 2), None)),
        (None, Notice(TWO, 2), Notice(TWO, 2), (None, Notice(TWO, 2))),
        (None, Notice(TWO, 2), Notice(TWO, 3), (Notice(TWO, 3), None)),
    ],
)
def test_a_pinned_workflow_is_told_of_its_target_once(
    notified: Notice | None, declined: Notice | None, target: Notice, wanted: object
) -> None:
    of = state(behavior=PINNED, version=ONE)
    of.notified, of.declined = notified, declined
    told = machine.task_starts(transition(of), target)
    assert (of.notified, of.declined) == wanted
    assert told == (of.notified is not None)


def test_who_is_not_told_of_a_target() -> None:
    assert not machine.task_starts(transition(state()), Notice(TWO, 2))
    upgrades = state(behavior=AUTO_UPGRADE, version=ONE)
    assert not machine.task_starts(transition(upgrades), Notice(TWO, 2))
    overridden = state(behavior=PINNED, version=ONE, override=pin(ONE))
    overridden.notified = Notice(TWO, 2)
    assert not machine.task_starts(transition(overridden), Notice(TWO, 3))
    assert overridden.notified is None


def test_an_activity_brings_a_move_about() -> None:
    def moves(of: WorkflowState, who: Version | None, target: Notice | None) -> bool:
        return machine.activity_moves(transition(of), Worker("w", who), target)

    upgrades = state(behavior=AUTO_UPGRADE, version=ONE)
    assert not moves(upgrades, TWO, None)
    assert not moves(upgrades, ONE, Notice(TWO, 2))
    assert not moves(upgrades, Version("mall", "1"), Notice(TWO, 2))
    assert not moves(state(behavior=PINNED, version=ONE), TWO, Notice(TWO, 2))
    assert moves(upgrades, TWO, Notice(TWO, 2))
    assert machine.standing(upgrades) == (True, AUTO_UPGRADE, TWO)
    assert machine.moving(upgrades)
    assert not machine.moving(state())


# --- What other runs take over ------------------------------------------------------------------


def child_of(of: WorkflowState, queue: str = "q", **options: Any) -> machine.Inherited:
    initiated = history.StartChildWorkflowExecutionInitiatedEventAttributes(
        namespace_id=options.pop("namespace_id", "n"), **options
    )
    initiated.task_queue.name = queue
    return machine.for_child(of, initiated, polled(("known", ONE)))


def started(inherited: machine.Inherited) -> history.WorkflowExecutionStartedEventAttributes:
    attributes = history.WorkflowExecutionStartedEventAttributes()
    inherited.set(attributes)
    return attributes


def test_what_a_child_has_from_its_parent() -> None:
    pinned = state(behavior=PINNED, version=ONE)
    for queue in ("q", "known"):
        assert started(child_of(pinned, queue)).inherited_pinned_version == ONE.message
    nothing = history.WorkflowExecutionStartedEventAttributes()
    assert started(child_of(pinned, "unknown")) == nothing
    assert started(child_of(pinned, namespace_id="other")) == nothing
    upgrades = state(behavior=AUTO_UPGRADE, version=ONE, revision=3)
    info = started(child_of(upgrades)).inherited_auto_upgrade_info
    assert info.source_deployment_version == ONE.message
    assert info.source_deployment_revision_number == 3
    assert started(child_of(state(behavior=AUTO_UPGRADE, version=ONE))) == nothing
    overridden = state(behavior=AUTO_UPGRADE, version=ONE, override=pin(ONE))
    found = started(child_of(overridden))
    assert (found.versioning_override, found.inherited_pinned_version) == (pin(ONE), ONE.message)
    own = history.WorkflowExecutionStartedEventAttributes(versioning_override=pin(TWO))
    child_of(overridden).set(own)
    assert own == history.WorkflowExecutionStartedEventAttributes(versioning_override=pin(TWO))


def test_a_child_is_compatible_with_its_parent_if_it_asks_for_it() -> None:
    parent = state()
    stamp = common.WorkerVersionStamp(build_id="1", use_versioning=True)
    parent.worker_version = stamp.SerializeToString()
    assert started(child_of(parent, inherit_build_id=True)).source_version_stamp == stamp
    assert not child_of(parent).stamp


def following(
    of: WorkflowState, initial: int = 0, inherit: bool = False, queue: str = "q"
) -> history.WorkflowExecutionStartedEventAttributes:
    made = history.WorkflowExecutionStartedEventAttributes()
    made.inherited_pinned_version.build_id = "of the run before"
    made.task_queue.name = queue
    machine.continue_from(of, made, initial, inherit, polled(("known", ONE)))
    made.ClearField("task_queue")
    return made


def test_what_a_run_that_continues_has_from_the_one_before() -> None:
    nothing = history.WorkflowExecutionStartedEventAttributes()
    pinned = state(behavior=PINNED, version=ONE, revision=2)
    for queue in ("q", "known"):
        assert following(pinned, queue=queue).inherited_pinned_version == ONE.message
    assert following(pinned, queue="unknown") == nothing
    assert following(state()) == nothing
    new = following(pinned, NEXT_IS_NEW)
    assert not new.HasField("inherited_pinned_version")
    info = new.inherited_auto_upgrade_info
    assert info.continue_as_new_initial_versioning_behavior == NEXT_IS_NEW
    pinned.notified = Notice(TWO, 5)
    declined = following(pinned).declined_target_version_upgrade
    assert (declined.deployment_version, declined.revision_number) == (TWO.message, 5)
    pinned.notified = Notice(None, 6)
    declined = following(pinned).declined_target_version_upgrade
    assert not declined.HasField("deployment_version")
    overridden = state(behavior=AUTO_UPGRADE, version=ONE, override=pin())
    assert following(overridden).versioning_override == pin()
    moved_once = state(behavior=AUTO_UPGRADE, version=ONE, override=once())
    assert not following(moved_once).HasField("versioning_override")
    assert following(state(behavior=AUTO_UPGRADE, version=ONE)) == nothing, "no routing brought it"
    compatible = state()
    stamp = common.WorkerVersionStamp(build_id="1", use_versioning=True)
    compatible.worker_version = stamp.SerializeToString()
    assert following(compatible, inherit=True).source_version_stamp == stamp
    assert following(compatible) == nothing


def test_what_a_retry_has_from_the_one_before() -> None:
    def retry(of: WorkflowState) -> history.WorkflowExecutionStartedEventAttributes:
        made = history.WorkflowExecutionStartedEventAttributes()
        machine.retry_from(of, made)
        return made

    nothing = history.WorkflowExecutionStartedEventAttributes()
    pinned = state(behavior=PINNED, version=ONE)
    assert retry(pinned) == nothing
    pinned.started.inherited_pinned_version.CopyFrom(ONE.message)
    assert not retry(pinned).HasField("declined_target_version_upgrade")
    pinned.started.declined_target_version_upgrade.revision_number = 5
    found = retry(pinned)
    assert found.inherited_pinned_version == ONE.message
    assert found.declined_target_version_upgrade.revision_number == 5
    upgrades = state(behavior=AUTO_UPGRADE, version=ONE, revision=2)
    assert retry(upgrades).inherited_auto_upgrade_info.source_deployment_revision_number == 2
    assert retry(state(behavior=AUTO_UPGRADE, version=ONE)) == nothing
    compatible = state()
    stamp = common.WorkerVersionStamp(build_id="1", use_versioning=True)
    compatible.worker_version = stamp.SerializeToString()
    assert retry(compatible).source_version_stamp == stamp
    made = history.WorkflowExecutionStartedEventAttributes()
    machine.cron_from(pinned, made)
    assert made == nothing
    machine.cron_from(state(behavior=AUTO_UPGRADE, version=ONE, override=pin(), revision=2), made)
    assert made == history.WorkflowExecutionStartedEventAttributes(versioning_override=pin())


def test_what_a_run_begins_with() -> None:
    def begun(**fields: Any) -> WorkflowState:
        of = state()
        apply.workflow_started(of, history.WorkflowExecutionStartedEventAttributes(**fields))
        return of

    assert begun().versioning is None
    pinned = begun(
        inherited_pinned_version=ONE.message,
        declined_target_version_upgrade=history.DeclinedTargetVersionUpgrade(revision_number=5),
    )
    assert machine.standing(pinned) == (False, PINNED, ONE)
    assert pinned.declined == Notice(None, 5)
    assert pinned.build_ids == ["pinned:shop:1"]
    assert pinned.deployment == "shop"
    assert begun(inherited_pinned_version=ONE.message).declined is None
    info = deployments.InheritedAutoUpgradeInfo(
        source_deployment_version=ONE.message, source_deployment_revision_number=3
    )
    assert machine.route(begun(inherited_auto_upgrade_info=info)) == Route(AUTO_UPGRADE, ONE, 3)
    assert machine.standing(begun(versioning_override=pin())) == (False, PINNED, TWO)
    stamp = common.WorkerVersionStamp(build_id="1", use_versioning=True)
    assert machine.route(begun(source_version_stamp=stamp)) == Route(build_id="1")


def test_the_last_builds_are_shown() -> None:
    of = state()
    for number in range(60):
        apply.note_builds(of, common.WorkerVersionStamp(build_id=str(number)))
    assert of.build_ids[0] == "unversioned"
    assert of.build_ids[-1] == "unversioned:59"
    assert len(of.build_ids) == apply.BUILD_IDS_MAX
    of.versioning = Versioning(behavior=PINNED, version=ONE)
    apply.note_builds(of, None)
    assert of.build_ids[0] == "pinned:shop:1"
    assert "unversioned" not in of.build_ids
