"""Where tasks go: the routing as deployments and sets of builds say it."""

import pytest

from durably.engine.deployment.state import DeploymentState
from durably.engine.versioning.state import Notice
from durably.engine.versioning.version import (
    ANY,
    AUTO_UPGRADE,
    FRESH,
    PINNED,
    Route,
    Version,
    decode_route,
    encode_route,
)
from durably.errors import NewerBuildExists
from durably.routing import UNROUTED, DeploymentRouting, Routes, gone, routing_of
from durably.store.store import QueueKey, TaskKind

KEY = QueueKey("n", TaskKind.WORKFLOW, "q")
OTHER = QueueKey("n", TaskKind.ACTIVITY, "q")
ONE, TWO, ELSE = Version("shop", "1"), Version("shop", "2"), Version("mall", "1")
IDS = [f"order-{number}" for number in range(1000)]


def says(
    current: Version | None = None,
    ramping: Version | None = None,
    percentage: float = 0,
    *,
    name: str = "shop",
    revision: int = 1,
    changed_ns: int = 1,
    builds: frozenset[str] = frozenset({"1", "2"}),
) -> DeploymentRouting:
    return DeploymentRouting(
        "n", name, current, changed_ns, ramping, percentage, changed_ns, revision, {KEY: builds}
    )


def after(*routings: DeploymentRouting) -> Routes:
    routes = Routes()
    for each in routings:
        routes.deployment_changed(each)
    return routes


def version_of(routes: Routes, route: Route = FRESH, name: str = "w") -> str:
    return routes.place(KEY, route, name).version


def test_a_queue_that_no_version_polls_is_whole() -> None:
    routes = Routes()
    assert routes.place(KEY, FRESH, "w") is KEY
    assert routes.target(KEY, FRESH, "w") == UNROUTED
    assert routes.stays(KEY, ANY, "w")
    assert routes.of(KEY) is None
    assert not routes.has(KEY, ONE)
    assert after(says()).place(OTHER, FRESH, "w") is OTHER


def test_new_workflows_go_to_the_current_version() -> None:
    routes = after(says())
    assert version_of(routes) == ""
    assert routes.deployment_changed(says(ONE)) == [KEY]
    assert version_of(routes) == "shop:1"
    upgrading = Route(AUTO_UPGRADE, TWO, 1)
    assert version_of(routes, upgrading) == "shop:1"
    assert not routes.stays(KEY, upgrading, "w")
    assert routes.stays(KEY, Route(AUTO_UPGRADE, ONE, 1), "w")
    assert routes.has(KEY, TWO)
    assert not routes.has(KEY, ELSE)


def test_a_pinned_workflow_waits_for_its_version() -> None:
    pinned = Route(PINNED, TWO)
    routes = after(says(ONE))
    assert version_of(routes, pinned) == "shop:2"
    assert routes.stays(KEY, pinned, "w")
    gone = Route(PINNED, Version("shop", "9"))
    assert version_of(routes, gone) == "shop:9"
    # An activity whose queue does not belong to the version goes where the queue's traffic goes.
    assert routes.place(OTHER, gone, "w") is OTHER


def test_the_same_workflow_goes_the_same_way() -> None:
    def ramped(percentage: float) -> set[str]:
        routes = after(says(ONE, TWO, percentage))
        return {name for name in IDS if version_of(routes, name=name) == "shop:2"}

    sets = [ramped(percentage) for percentage in (0, 10, 10, 50, 100)]
    assert sets[1] == sets[2]
    assert [len(each) for each in sets] == pytest.approx([0, 100, 100, 500, 1000], abs=40)
    assert sets[0] < sets[1] < sets[3] < sets[4]


def test_a_ramp_may_lead_to_workers_without_versions() -> None:
    routes = after(says(ONE, None, 100))
    assert version_of(routes) == ""


def test_a_workflow_may_ask_for_the_ramp() -> None:
    asks = Route(AUTO_UPGRADE, ONE, 1, ramping=True)
    assert version_of(after(says(ONE, TWO, 0)), asks) == "shop:2"
    assert version_of(after(says(ONE)), asks) == "shop:1"


def test_a_queue_that_lags_behind_sends_nobody_back() -> None:
    routes = after(says(ONE, revision=3))
    assert routes.target(KEY, Route(AUTO_UPGRADE, TWO, 4), "w") == Notice(TWO, 4)
    assert routes.target(KEY, Route(AUTO_UPGRADE, TWO, 3), "w") == Notice(ONE, 3)
    assert routes.target(KEY, Route(AUTO_UPGRADE, ELSE, 9), "w") == Notice(ONE, 3)


def test_of_two_deployments_the_last_one_changed_has_the_word() -> None:
    mall = says(ELSE, name="mall", builds=frozenset({"1"}), changed_ns=5)
    routes = after(says(ONE), mall)
    assert version_of(routes) == "mall:1"
    routes.deployment_changed(says(TWO, changed_ns=6))
    assert version_of(routes) == "shop:2"
    # No version is less than any; a version whose workers do not poll here says nothing.
    routes.deployment_changed(says(None, changed_ns=7))
    assert version_of(routes) == "mall:1"
    routes.deployment_changed(says(Version("shop", "9"), changed_ns=8))
    assert version_of(routes) == "mall:1"
    routes.deployment_changed(says(TWO, changed_ns=9))
    nothing = routing_of(DeploymentState("n", "default", "mall", "run"))
    assert routes.deployment_changed(nothing) == [KEY]
    assert version_of(routes) == "shop:2"


def test_a_deployment_without_queues_is_forgotten_and_so_is_a_namespace() -> None:
    routes = after(says(ONE))
    routes.deployment_changed(routing_of(DeploymentState("n", "default", "shop", "run")))
    assert routes.of(KEY) is None
    routes = after(says(ONE), says(ELSE, name="mall", builds=frozenset({"1"})))
    assert routes.deployments() == {("n", "shop"), ("n", "mall")}
    routes.deployment_changed(gone("n", "mall"))
    assert routes.deployments() == {("n", "shop")}
    routes = after(says(ONE))
    routes.sets_changed("n", "q", (("1", ("1",)),))
    routes.forget_namespace("other")
    assert version_of(routes) == "shop:1"
    routes.forget_namespace("n")
    assert routes.of(KEY) is None
    assert routes.sets("n", "q") == ()


def test_sets_of_compatible_builds() -> None:
    routes = Routes()
    keys = routes.sets_changed("n", "q", (("1", ("1", "1.1")), ("2", ("2",))))
    assert KEY in keys
    assert version_of(routes, FRESH) == ":2"
    assert version_of(routes, ANY) == ""
    assert version_of(routes, Route(build_id="1")) == version_of(routes, Route(build_id="1.1"))
    assert version_of(routes, Route(build_id="9")) == ":9"
    assert routes.place(QueueKey("n", TaskKind.WORKFLOW, "r"), FRESH, "w").version == ""
    assert routes.part_of_build(KEY, "1.1").version == ":1"
    assert routes.part_of_build(KEY, "9").version == ":9"
    with pytest.raises(NewerBuildExists):
        routes.part_of_build(KEY, "1")
    assert routes.stays(KEY, Route(build_id="1.1"), "w")
    assert not routes.stays(KEY, Route(build_id="1"), "w")
    assert list(routes.queues_with_sets("n")) == ["q"]


def test_routes_are_kept_in_rows() -> None:
    assert encode_route(ANY) == b""
    for route in (ANY, FRESH, Route(PINNED, ONE), Route(AUTO_UPGRADE, TWO, 7), Route(build_id="1")):
        assert decode_route(encode_route(route)) == route
