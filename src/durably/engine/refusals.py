"""What a worker asks for and cannot have."""

from temporalio.api.enums.v1 import failed_cause_pb2 as causes


class BadCommand(Exception):
    """A command that fails its workflow task with `cause`; nothing of the completion takes effect."""

    def __init__(self, cause: causes.WorkflowTaskFailedCause.ValueType, message: str) -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message
