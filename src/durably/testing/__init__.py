"""Tests of workflows in which time is skipped: `WorkflowEnvironment`.

It takes the place of the SDK's `temporalio.testing.WorkflowEnvironment.start_time_skipping()`, and
downloads nothing. For the other SDKs there is the program `durably-test-server`.
"""

from durably.testing.environment import WorkflowEnvironment

__all__ = ["WorkflowEnvironment"]
