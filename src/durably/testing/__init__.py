"""Tests of workflows in which time is skipped: `WorkflowEnvironment`.

It takes the place of the SDK's `temporalio.testing.WorkflowEnvironment.start_time_skipping()`, and
downloads nothing. For the other SDKs there is the program `durably-test-server`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durably.testing.environment import WorkflowEnvironment

__all__ = ["WorkflowEnvironment"]


def __getattr__(name: str) -> Any:
    """The environment brings the SDK's client and worker along, which `durably-test-server` does not
    need: SDKs give it five seconds to start."""
    if name == "WorkflowEnvironment":
        from durably.testing.environment import WorkflowEnvironment

        return WorkflowEnvironment
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
