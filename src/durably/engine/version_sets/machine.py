"""What UpdateWorkerBuildIdCompatibility does to the sets of compatible builds of a task queue.

Rule 1: what is so already changes nothing; what contradicts what is there is refused.
Rule 2: a set has the id that its first build gave it, however its builds are ordered later.

Facts: UpdateWorkerBuildIdCompatibilityRequest in temporal/api/workflowservice/v1/request_response.proto.
"""

from dataclasses import dataclass

from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine.journal import Created
from durably.engine.transition import Transition
from durably.engine.version_sets import records as r
from durably.engine.version_sets.state import BuildSet, VersionSetsState
from durably.errors import FailedPrecondition, InvalidArgument, NotFound

Sets = tuple[BuildSet, ...]
Update = ws.UpdateWorkerBuildIdCompatibilityRequest


@dataclass(frozen=True, slots=True)
class Limits:
    sets_max: int
    builds_max: int
    """Of one task queue, in all its sets."""


def update(t: Transition[VersionSetsState], request: Update, limits: Limits) -> None:
    if not t.state.status:
        t.note(Created(namespace=request.namespace, request_id=""))
    sets = _changed(t.state.sets, request)
    if sets == t.state.sets and t.state.status:
        return
    if len(sets) > limits.sets_max:
        raise FailedPrecondition(
            "update would exceed number of compatible version sets permitted"
            f" ({len(sets)}/{limits.sets_max})"
        )
    builds = sum(len(each) for _, each in sets)
    if builds > limits.builds_max:
        raise FailedPrecondition(
            f"update would exceed number of build IDs permitted ({builds}/{limits.builds_max})"
        )
    t.note(r.VersionSetsSet(t.now_ns, sets))
    t.visible = True


def _changed(sets: Sets, request: Update) -> Sets:
    match request.WhichOneof("operation"):
        case "add_new_build_id_in_new_default_set":
            return _add_set(sets, request.add_new_build_id_in_new_default_set)
        case "add_new_compatible_build_id":
            return _add_build(sets, request.add_new_compatible_build_id)
        case "promote_set_by_build_id":
            at = _find(sets, request.promote_set_by_build_id, "targeted version")
            return _last(sets, at)
        case "promote_build_id_within_set":
            build = request.promote_build_id_within_set
            at = _find(sets, build, "targeted version")
            name, builds = sets[at]
            rest = tuple(each for each in builds if each != build)
            return _replaced(sets, at, (name, (*rest, build)))
        case _:
            return _merge(sets, request.merge_sets)


def find(sets: Sets, build: str) -> int:
    """In which set a build is; -1: in none."""
    return next((at for at, (_, builds) in enumerate(sets) if build in builds), -1)


def _find(sets: Sets, build: str, what: str) -> int:
    at = find(sets, build)
    if at < 0:
        raise NotFound(f"{what} {build} not found")
    return at


def _replaced(sets: Sets, at: int, by: BuildSet) -> Sets:
    return (*sets[:at], by, *sets[at + 1 :])


def _last(sets: Sets, at: int) -> Sets:
    """This set is the default of the queue."""
    return (*sets[:at], *sets[at + 1 :], sets[at])


def _add_set(sets: Sets, build: str) -> Sets:
    if find(sets, build) < 0:
        return (*sets, (build, (build,)))
    if sets[-1][1] == (build,):
        return sets
    raise InvalidArgument(f"version {build} already exists")


def _add_build(sets: Sets, asked: Update.AddNewCompatibleVersion) -> Sets:
    build = asked.new_build_id
    at = _find(sets, asked.existing_compatible_build_id, "targeted compatible_version")
    present = find(sets, build)
    if present < 0:
        name, builds = sets[at]
        added = _replaced(sets, at, (name, (*builds, build)))
        return _last(added, at) if asked.make_set_default else added
    if present != at:
        raise InvalidArgument(
            f"{build} requested to be made compatible with {asked.existing_compatible_build_id} but"
            " both versions exist and are incompatible"
        )
    if asked.make_set_default and at != len(sets) - 1:
        raise InvalidArgument(f"version {build} already exists and is not default for queue")
    if sets[at][1][-1] != build:
        raise InvalidArgument(f"version {build} already exists and is not default in set")
    return sets


def _merge(sets: Sets, asked: Update.MergeSets) -> Sets:
    """The primary set takes the other's builds in; its default stays the default."""
    primary = _find(sets, asked.primary_set_build_id, "targeted primary version")
    secondary = _find(sets, asked.secondary_set_build_id, "targeted secondary version")
    if primary == secondary:
        return sets
    name, builds = sets[primary]
    merged = (name, (*sets[secondary][1], *builds))
    # It stands where the newer of the two stood.
    kept = [
        merged if at == max(primary, secondary) else each
        for at, each in enumerate(sets)
        if at != min(primary, secondary)
    ]
    return tuple(kept)
