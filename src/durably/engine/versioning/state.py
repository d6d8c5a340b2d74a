"""What a workflow remembers of versions, and what follows from it now.

Rule 1: only `apply.py` here writes to it.
Rule 2: on its way to another version a workflow counts as one that upgrades, whatever it is else.
"""

from temporalio.api.workflow.v1 import message_pb2 as workflows

from durably.engine.stored import Stored, StoredValue
from durably.engine.versioning.version import (
    AUTO_UPGRADE,
    UNSPECIFIED,
    Version,
    override_behavior,
    override_target,
)


class Notice(StoredValue, frozen=True, array_like=True):
    """A version that a pinned workflow would have if it upgraded, and the routing that says so."""

    version: Version | None
    revision: int


class Versioning(Stored):
    behavior: int = UNSPECIFIED
    """What the worker of the last completed workflow task said of its workflow type."""
    version: Version | None = None
    """The version of that worker."""
    override: workflows.VersioningOverride | None = None
    moving: bool = False
    """A worker of another version has taken a workflow task, and has not completed it yet."""
    moving_to: Version | None = None
    revision: int = 0
    initial_behavior: int = 0
    """ContinueAsNewVersioningBehavior: how the run before wanted this one to begin."""

    @property
    def effective_behavior(self) -> int:
        if self.moving:
            return AUTO_UPGRADE
        return self.behavior if self.override is None else override_behavior(self.override)

    @property
    def effective_version(self) -> Version | None:
        if self.moving:
            return self.moving_to
        target = override_target(self.override)
        if target is not None:
            return target
        return self.version if self.effective_behavior != UNSPECIFIED else None

    @property
    def shown_behavior(self) -> int:
        """As search attributes have it: without a move that is under way."""
        return self.behavior if self.override is None else override_behavior(self.override)

    @property
    def shown_version(self) -> Version | None:
        return override_target(self.override) or self.version
