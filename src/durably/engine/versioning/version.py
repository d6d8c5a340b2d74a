"""Versions of worker deployments: their names, and which of them a task is for.

Rule 1: no version (None) is what workers without versioning have.
Rule 2: a `Route` is all that decides where a task goes, beside how its queue's traffic is divided now.

Facts: temporal/api/deployment/v1/message.proto and VersioningOverride in
temporal/api/workflow/v1/message.proto.
"""

import hashlib
from dataclasses import dataclass

import msgspec
from msgspec import Struct
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.deployment.v1 import message_pb2 as deployments
from temporalio.api.enums.v1 import deployment_pb2 as deployment_enums
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.workflow.v1 import message_pb2 as workflows

from durably.engine.stored import StoredValue
from durably.errors import InvalidArgument

UNSPECIFIED = workflow_enums.VERSIONING_BEHAVIOR_UNSPECIFIED
PINNED = workflow_enums.VERSIONING_BEHAVIOR_PINNED
AUTO_UPGRADE = workflow_enums.VERSIONING_BEHAVIOR_AUTO_UPGRADE
VERSIONED = deployment_enums.WORKER_VERSIONING_MODE_VERSIONED

UNVERSIONED_TEXT = "__unversioned__"
"""What older clients call no version."""
RESERVED = "__"
OLD_SEPARATOR, SEPARATOR = ".", ":"


class Version(StoredValue, frozen=True, array_like=True, order=True):
    """One version of a worker deployment: all workers of the same code."""

    deployment: str
    build_id: str

    def __str__(self) -> str:
        return f"{self.deployment}{SEPARATOR}{self.build_id}"

    @property
    def old_text(self) -> str:
        return f"{self.deployment}{OLD_SEPARATOR}{self.build_id}"

    @property
    def message(self) -> deployments.WorkerDeploymentVersion:
        return deployments.WorkerDeploymentVersion(
            deployment_name=self.deployment, build_id=self.build_id
        )


def of_message(found: deployments.WorkerDeploymentVersion) -> Version:
    return Version(found.deployment_name, found.build_id)


def old_text(version: Version | None) -> str:
    return version.old_text if version is not None else UNVERSIONED_TEXT


def of_text(text: str) -> Version | None:
    """A version as older clients write it, `deployment.build` or `deployment:build`; None: no version.

    Raises InvalidArgument.
    """
    if text == UNVERSIONED_TEXT:
        return None
    places = [place for place in (text.find(OLD_SEPARATOR), text.find(SEPARATOR)) if place >= 0]
    cut = min(places, default=0)
    if not cut or cut == len(text) - 1:
        raise InvalidArgument(
            f'invalid version string "{text}", expected format is "<deployment_name>.<build_id>"'
        )
    return Version(text[:cut], text[cut + 1 :])


def check(version: Version, chars_max: int) -> None:
    """Raises InvalidArgument for names that no deployment or build can have."""
    check_deployment(version.deployment, chars_max)
    _check_name("BuildID", version.build_id, chars_max)


def check_deployment(name: str, chars_max: int) -> None:
    _check_name("WorkerDeploymentName", name, chars_max)
    for separator in (OLD_SEPARATOR, SEPARATOR):
        if separator in name:
            raise InvalidArgument(f"worker deployment name cannot contain '{separator}'")


def _check_name(field: str, name: str, chars_max: int) -> None:
    if not name:
        raise InvalidArgument(f"{field} cannot be empty")
    if len(name) > chars_max:
        raise InvalidArgument(f"size of {field} larger than the maximum allowed")
    if name.startswith(RESERVED):
        raise InvalidArgument(f"{field} cannot start with '{RESERVED}'")


# --- Workers ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker says of itself when it takes a task."""

    identity: str
    version: Version | None = None
    stamp: bytes = b""
    """A serialized WorkerVersionStamp; empty: it says nothing of its build, or has a version."""


def of_options(options: deployments.WorkerDeploymentOptions) -> Version | None:
    """The version of a worker that uses versioning."""
    if options.worker_versioning_mode != VERSIONED:
        return None
    return Version(options.deployment_name, options.build_id)


def worker(
    identity: str,
    options: deployments.WorkerDeploymentOptions,
    capabilities: common.WorkerVersionCapabilities,
) -> Worker:
    """A worker, from what it says in its polls."""
    version = of_options(options)
    if version is not None or not capabilities.build_id:
        return Worker(identity, version)
    stamp = common.WorkerVersionStamp(
        build_id=capabilities.build_id, use_versioning=capabilities.use_versioning
    )
    return Worker(identity, None, stamp.SerializeToString())


# --- Overrides ----------------------------------------------------------------------------------


def override_target(override: workflows.VersioningOverride | None) -> Version | None:
    """The version that an override, in its present form, sends a workflow to."""
    match override.WhichOneof("override") if override is not None else None:
        case "pinned":
            assert override is not None
            return of_message(override.pinned.version)
        case "one_time":
            assert override is not None
            return of_message(override.one_time.target_deployment_version)
        case _:
            return None


def override_behavior(override: workflows.VersioningOverride) -> int:
    """A move of one time routes like a pin."""
    return AUTO_UPGRADE if override.WhichOneof("override") == "auto_upgrade" else PINNED


def present_form(override: workflows.VersioningOverride) -> workflows.VersioningOverride:
    """What older clients say of a checked override, in the fields of the present ones."""
    found = workflows.VersioningOverride()
    if override.WhichOneof("override") is not None:
        found.CopyFrom(override)
        for field in ("behavior", "deployment", "pinned_version"):
            found.ClearField(field)
    elif override.behavior == AUTO_UPGRADE:
        found.auto_upgrade = True
    elif override.behavior == PINNED:
        found.pinned.behavior = workflows.VersioningOverride.PINNED_OVERRIDE_BEHAVIOR_PINNED
        version = of_text(override.pinned_version) if override.pinned_version else None
        if version is None:
            version = Version(override.deployment.series_name, override.deployment.build_id)
        found.pinned.version.CopyFrom(version.message)
    return found


def check_override(override: workflows.VersioningOverride) -> None:
    """Raises InvalidArgument for an override that says nothing clear."""
    match override.WhichOneof("override"):
        case "auto_upgrade":
            if not override.auto_upgrade:
                raise InvalidArgument("auto-upgrade override must be true")
        case "pinned":
            if not override.pinned.HasField("version"):
                raise InvalidArgument("must provide version if override is pinned.")
            if not override.pinned.behavior:
                raise InvalidArgument(
                    "must specify pinned override behavior if override is pinned."
                )
        case "one_time":
            if not override.one_time.HasField("target_deployment_version"):
                raise InvalidArgument(
                    "must provide target deployment version if override is one-time."
                )
        case _:
            _check_old_override(override)


def _check_old_override(override: workflows.VersioningOverride) -> None:
    named = override.HasField("deployment"), bool(override.pinned_version)
    match override.behavior:
        case workflow_enums.VERSIONING_BEHAVIOR_PINNED:
            if not any(named):
                raise InvalidArgument(
                    "must provide deployment (deprecated) or pinned version if behavior is 'PINNED'"
                )
            if override.pinned_version:
                of_text(override.pinned_version)
        case workflow_enums.VERSIONING_BEHAVIOR_AUTO_UPGRADE:
            if named[0]:
                raise InvalidArgument("only provide deployment if behavior is 'PINNED'")
            if named[1]:
                raise InvalidArgument("only provide pinned version if behavior is 'PINNED'")
        case workflow_enums.VERSIONING_BEHAVIOR_UNSPECIFIED:
            raise InvalidArgument("override behavior is required")
        case unknown:
            raise InvalidArgument(f"override behavior {unknown} not recognized")


# --- Routes -------------------------------------------------------------------------------------


class Route(Struct, frozen=True, array_like=True, omit_defaults=True):
    """For which workers a task is, as far as its execution says."""

    behavior: int = 0
    """Effective VersioningBehavior."""
    version: Version | None = None
    """Effective version; what a pinned workflow is pinned to."""
    revision: int = 0
    """Of the routing by which it came to its version."""
    build_id: str = ""
    """With sets of compatible builds: the build it has to be compatible with."""
    fresh: bool = False
    """With such sets: no build has worked on it yet, so the default set takes it."""
    ramping: bool = False
    """It asks for the ramping version, whatever share of the traffic that has."""

    def same(self, other: "Route") -> bool:
        """Whether both are for the same workers."""
        return self.behavior == other.behavior and self.version == other.version


ANY = Route()
FRESH = Route(fresh=True)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Route)
_ENCODED: dict[int, bytes] = {id(ANY): b"", id(FRESH): _encoder.encode(FRESH)}


def encode_route(route: Route) -> bytes:
    """Empty for a task that is for any worker: most are."""
    found = _ENCODED.get(id(route))
    return _encoder.encode(route) if found is None else found


def decode_route(encoded: bytes) -> Route:
    return _decoder.decode(encoded) if encoded else ANY


def share(workflow_id: str) -> float:
    """Where in 0 to 100 a workflow id stands: one whose share is below the percentage of a ramp
    follows the ramp. The same id is always at the same place."""
    digest = hashlib.blake2b(workflow_id.encode(), digest_size=8).digest()
    return 100.0 * int.from_bytes(digest) / 2**64
