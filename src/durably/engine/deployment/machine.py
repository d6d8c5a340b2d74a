"""The life of a worker deployment.

    input                    what happens
    ----------------------   -----------------------------------------------------------------
    a version polls a queue  the deployment, the version and the queue are known from now on
    set_current              the version gets new workflows, and those that upgrade
    set_ramping              it gets a share of them
    neither any more         the version drains: only workflows that are pinned to it go on there
    time passes              draining versions are looked at: without open pinned workflows they
                             are drained
    remove_version           the version is forgotten, if nobody polls for it
    remove                   the deployment is forgotten, if it has no versions

    version: created > inactive > current, ramping <> draining > drained

Rule 1: what a client sets carries its identity; a deployment with a manager takes changes from that
        one only.
Rule 2: a conflict token, if one is given, has to be the present one.
Rule 3: what only others know - who polls, what waits - comes in as functions.

Facts: temporal/api/deployment/v1/message.proto and the messages of SetWorkerDeploymentCurrentVersion
and its kin.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.deployment.v1 import message_pb2 as deployments

from durably.engine.deployment import records as r
from durably.engine.deployment.state import (
    CREATED,
    DRAINED,
    DRAINING,
    INACTIVE,
    DeploymentState,
    DeploymentVersion,
    PolledQueue,
)
from durably.engine.journal import Created
from durably.engine.transition import CheckDrainage, Transition
from durably.engine.versioning.version import old_text
from durably.errors import AlreadyExists, FailedPrecondition, NotFound, ResourceExhausted

Deployments = Transition[DeploymentState]
HasPollers = Callable[[DeploymentVersion], bool]
StillNeeded = Callable[[PolledQueue], bool]
"""Whether the present version's workers are still needed for a queue: others do not serve it, and
it has tasks."""


@dataclass(frozen=True, slots=True)
class Limits:
    versions_max: int
    queues_max: int
    """Of one version."""
    drainage_grace_ns: int
    """From when it begins to drain until it is looked at."""


# --- Made ---------------------------------------------------------------------------------------


def open_by_poller(t: Deployments) -> None:
    t.note(Created(namespace=t.state.namespace, request_id=""))
    t.note(r.DeploymentOpened(t.now_ns))
    t.visible = True


def create(t: Deployments, identity: str, request_id: str) -> None:
    """CreateWorkerDeployment."""
    t.note(Created(namespace=t.state.namespace, request_id=request_id))
    t.note(r.DeploymentOpened(t.now_ns, identity, request_id))
    t.visible = True


def polled(
    t: Deployments, build_id: str, queue: str, kind: int, limits: Limits, has_pollers: HasPollers
) -> None:
    """A worker polls. What is known already changes nothing."""
    ensure_open(t.state)
    if build_id not in t.state.versions:
        _add(t, build_id, limits, has_pollers)
    version = t.state.versions[build_id]
    polled_queue = PolledQueue(queue, kind)
    if polled_queue in version.queues:
        return
    if len({each.name for each in version.queues} | {queue}) > limits.queues_max:
        raise ResourceExhausted(
            f"cannot add task queue {queue} since maximum number of task queues"
            f" ({limits.queues_max}) have been registered in deployment"
        )
    t.note(r.VersionPolled(build_id, queue, kind))


def _add(
    t: Deployments,
    build_id: str,
    limits: Limits,
    has_pollers: HasPollers,
    status: int = INACTIVE,
    identity: str = "",
    request_id: str = "",
) -> None:
    if len(t.state.versions) >= limits.versions_max:
        _make_room(t, build_id, limits, has_pollers)
    t.note(r.VersionAdded(build_id, t.now_ns, status, identity, request_id))


def _make_room(t: Deployments, build_id: str, limits: Limits, has_pollers: HasPollers) -> None:
    """The oldest version that nobody needs goes."""
    for version in t.state.versions.values():
        if not version.active and version.status != DRAINING and not has_pollers(version):
            t.note(r.VersionRemoved(version.build_id, t.now_ns))
            return
    raise ResourceExhausted(
        f"cannot add version {old_text(t.state.version(build_id))} since maximum number of versions"
        f" ({limits.versions_max}) have been registered in the deployment"
    )


def create_version(
    t: Deployments,
    build_id: str,
    identity: str,
    request_id: str,
    limits: Limits,
    has_pollers: HasPollers,
) -> None:
    """CreateWorkerDeploymentVersion: a version that no worker has polled for yet."""
    ensure_open(t.state)
    present = t.state.versions.get(build_id)
    if present is not None:
        if present.create_request_id == request_id:
            return
        text = old_text(t.state.version(build_id))
        raise AlreadyExists(f'Worker Deployment Version "{text}" already exists')
    _add(t, build_id, limits, has_pollers, CREATED, identity, request_id)


# --- Routing ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks for a change of the routing, and on what terms."""

    identity: str
    conflict_token: bytes = b""
    ignore_missing_queues: bool = False
    allow_no_pollers: bool = False


def conflict_token(state: DeploymentState) -> bytes:
    return state.token_ns.to_bytes(8, "big")


def set_current(
    t: Deployments,
    build_id: str,
    asked: Asked,
    limits: Limits,
    has_pollers: HasPollers,
    still_needed: StillNeeded,
) -> None:
    """SetWorkerDeploymentCurrentVersion; an empty build: workers without versioning."""
    state = t.state
    ensure_open(state)
    if state.current == build_id and state.modified_by == asked.identity:
        return
    _check_token(state, asked)
    if build_id and build_id not in state.versions and not asked.allow_no_pollers:
        raise _unknown(state, build_id)
    _check_manager(state, asked.identity)
    if build_id and build_id not in state.versions:
        _add(t, build_id, limits, has_pollers)
    if state.current and build_id and not asked.ignore_missing_queues:
        _check_queues(state, build_id, "current", still_needed)
    if build_id == state.current:
        t.note(r.DeploymentTouched(t.now_ns, asked.identity))
        return
    # The version that ramps is promoted, or what ramps to no version becomes just that.
    promoted = state.ramping == build_id if build_id else state.unversioned_ramp
    t.note(
        r.RoutingSet(
            at_ns=t.now_ns,
            identity=asked.identity,
            current=build_id,
            ramping="" if promoted else state.ramping,
            unversioned_ramp=state.unversioned_ramp and not promoted,
            percentage=0.0 if promoted else state.percentage,
            current_changed=True,
            ramping_changed=promoted,
            check_at_ns=t.now_ns + limits.drainage_grace_ns,
        )
    )
    t.attend(next_deadline(t.state))


def set_ramping(
    t: Deployments,
    build_id: str,
    percentage: float,
    asked: Asked,
    limits: Limits,
    has_pollers: HasPollers,
    still_needed: StillNeeded,
) -> None:
    """SetWorkerDeploymentRampingVersion; an empty build with a percentage: workers without
    versioning; without one: nothing ramps any more."""
    state = t.state
    ensure_open(state)
    unversioned = not build_id and percentage > 0
    same = (build_id, unversioned) == (state.ramping, state.unversioned_ramp)
    if same and percentage == state.percentage and state.modified_by == asked.identity:
        return
    _check_token(state, asked)
    if (build_id and build_id == state.current) or (unversioned and not state.current):
        version = old_text(state.version(build_id))
        raise FailedPrecondition(f"requested ramping version {version} is already current")
    if build_id and build_id not in state.versions and not asked.allow_no_pollers:
        raise _unknown(state, build_id)
    _check_manager(state, asked.identity)
    if build_id and build_id not in state.versions:
        _add(t, build_id, limits, has_pollers)
    if build_id and state.current and not same and not asked.ignore_missing_queues:
        _check_queues(state, build_id, "ramping", still_needed)
    if same and percentage == state.percentage:
        t.note(r.DeploymentTouched(t.now_ns, asked.identity))
        return
    t.note(
        r.RoutingSet(
            at_ns=t.now_ns,
            identity=asked.identity,
            current=state.current,
            ramping=build_id,
            unversioned_ramp=unversioned,
            percentage=percentage,
            current_changed=False,
            ramping_changed=not same,
            check_at_ns=t.now_ns + limits.drainage_grace_ns,
        )
    )
    t.attend(next_deadline(t.state))


def set_manager(t: Deployments, manager: str, identity: str, token: bytes) -> None:
    """SetWorkerDeploymentManager; an empty manager: anybody may make changes."""
    state = t.state
    ensure_open(state)
    if state.manager == manager and state.modified_by == identity:
        return
    _check_token(state, Asked(identity, token))
    t.note(r.ManagerSet(t.now_ns, identity, manager))


def _check_token(state: DeploymentState, asked: Asked) -> None:
    if asked.conflict_token and asked.conflict_token != conflict_token(state):
        raise FailedPrecondition("conflict token mismatch")


def _check_manager(state: DeploymentState, identity: str) -> None:
    if state.manager and state.manager != identity:
        raise FailedPrecondition(
            f"ManagerIdentity '{state.manager}' is set and does not match user identity"
            f" '{identity}'; to proceed, set your own identity as the ManagerIdentity, remove the"
            " ManagerIdentity, or wait for the other client to do so"
        )


def _check_queues(
    state: DeploymentState, build_id: str, what: str, still_needed: StillNeeded
) -> None:
    """Tasks of a queue that the new version's workers do not poll would be left to workers without
    versioning."""
    has = state.versions[build_id].queues
    missing = [each for each in state.versions[state.current].queues if each not in has]
    if any(still_needed(each) for each in missing):
        raise FailedPrecondition(
            f"proposed {what} version '{state.version(build_id)}' is missing active task queues from"
            f" the current version; these would become unversioned if it is set as the {what} version"
        )


def ensure_open(state: DeploymentState) -> None:
    if not state.running:
        raise not_found(state.workflow_id)


def not_found(name: str) -> NotFound:
    return NotFound(
        f"no Worker Deployment found with name '{name}'; does your Worker Deployment have pollers?"
    )


def _unknown(state: DeploymentState, build_id: str) -> NotFound:
    return NotFound(f"build ID '{build_id}' not found in Worker Deployment '{state.workflow_id}'")


# --- Versions -----------------------------------------------------------------------------------


def known_version(state: DeploymentState, build_id: str) -> DeploymentVersion:
    ensure_open(state)
    found = state.versions.get(build_id)
    if found is None:
        raise _unknown(state, build_id)
    return found


def update_metadata(
    t: Deployments,
    build_id: str,
    upsert: Mapping[str, common.Payload],
    remove: list[str],
    identity: str,
) -> deployments.VersionMetadata:
    """UpdateWorkerDeploymentVersionMetadata: the metadata that the version now has."""
    metadata = deployments.VersionMetadata()
    metadata.CopyFrom(known_version(t.state, build_id).metadata)
    for name, payload in upsert.items():
        metadata.entries[name].CopyFrom(payload)
    for name in remove:
        metadata.entries.pop(name, None)
    t.note(r.VersionMetadataSet(build_id, metadata.SerializeToString(), identity))
    return metadata


def remove_version(
    t: Deployments, build_id: str, identity: str, *, skip_drainage: bool, has_pollers: HasPollers
) -> None:
    """DeleteWorkerDeploymentVersion; of one that is not there nothing is left to do."""
    state = t.state
    ensure_open(state)
    version = state.versions.get(build_id)
    if version is None:
        return
    cannot = f"version '{state.version(build_id)}' cannot be deleted since it"
    if version.active:
        raise FailedPrecondition(f"{cannot} is current or ramping")
    _check_manager(state, identity)
    if version.status == DRAINING and not skip_drainage:
        raise FailedPrecondition(f"{cannot} is draining")
    if has_pollers(version):
        raise FailedPrecondition(f"{cannot} has active pollers")
    t.note(r.VersionRemoved(build_id, t.now_ns, identity))


def remove(t: Deployments) -> None:
    """DeleteWorkerDeployment."""
    if not t.state.running:
        return
    if t.state.versions:
        raise FailedPrecondition("deployment has versions, can't be deleted")
    t.note(r.DeploymentRemoved(t.now_ns))
    t.visible = True


# --- Drainage -----------------------------------------------------------------------------------


def reactivate(t: Deployments, build_id: str, grace_ns: int) -> None:
    """A workflow was pinned to the version; one that nobody expects workflows on drains again."""
    version = t.state.versions.get(build_id)
    if t.state.running and version is not None and version.status in (INACTIVE, DRAINED):
        t.note(r.VersionReactivated(build_id, t.now_ns, t.now_ns + grace_ns))
        t.attend(next_deadline(t.state))


def next_deadline(state: DeploymentState) -> int:
    """When the first of the draining versions is to be looked at; 0: none drains."""
    draining = (v for v in state.versions.values() if v.status == DRAINING and not v.checking)
    return min((v.check_at_ns for v in draining), default=0)


def fire_due(t: Deployments) -> None:
    for version in t.state.versions.values():
        if version.status == DRAINING and not version.checking and version.check_at_ns <= t.now_ns:
            t.note(r.DrainageDue(version.build_id))
            t.emit(CheckDrainage(version.build_id))


def checked(t: Deployments, build_id: str, drained: bool, interval_ns: int) -> None:
    """The workflows that are pinned to a version were counted."""
    version = t.state.versions.get(build_id)
    if version is not None and version.status == DRAINING and version.checking:
        t.note(r.DrainageChecked(build_id, drained, t.now_ns, t.now_ns + interval_ns))
        t.attend(next_deadline(t.state))
