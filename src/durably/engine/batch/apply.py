"""apply(state, record) for batch operations: the only writer of their state."""

from typing import assert_never, get_args

from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine.batch import records as r
from durably.engine.batch.state import BatchState
from durably.engine.journal import Changes
from durably.engine.state import RUNNING


def _apply(state: BatchState, record: r.BatchRecord) -> None:
    match record:
        case r.BatchStarted():
            state.request = ws.StartBatchOperationRequest.FromString(record.request)
            state.total = record.total
            state.start_ns = record.at_ns
            state.status = RUNNING
        case r.BatchPageTaken():
            state.page = record.targets
            state.cursor = record.cursor
        case r.BatchPageDone():
            state.page = ()
            state.completed += record.completed
            state.failed += record.failed
        case r.BatchEnded():
            state.status = workflow_enums.WORKFLOW_EXECUTION_STATUS_COMPLETED
            state.total = state.completed + state.failed
            state.close_ns = record.at_ns
        case r.BatchFailed():
            state.status = workflow_enums.WORKFLOW_EXECUTION_STATUS_FAILED
            state.close_ns = record.at_ns
        case r.BatchStopped():
            state.status = workflow_enums.WORKFLOW_EXECUTION_STATUS_TERMINATED
            state.stopped_by = record.identity
            state.stop_reason = record.reason
            state.close_ns = record.at_ns
        case _:
            assert_never(record)


RECORDS: Changes = dict.fromkeys(get_args(r.BatchRecord), _apply)
