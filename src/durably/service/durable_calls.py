"""Calls of agents outside: begun, watched, answered and canceled, whatever their protocol.

Rule 1: a call is an execution like any other, begun under an id that its protocol makes: what was
        acknowledged is on disk, and beginning it again under the same id begins nothing.
Rule 2: only what was begun here is found here: the memo of a workflow says so, and the prefix of the id
        of an operation.
Rule 3: all that is told of a call comes from its execution (`agents.convention`): nothing is kept here.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from google.protobuf.duration_pb2 import Duration
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import nexus_pb2 as nexus_enums
from temporalio.api.enums.v1 import update_pb2 as update_enums
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.failure.v1 import message_pb2 as failures
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.update.v1 import message_pb2 as updates
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.agents import convention
from durably.agents.convention import Exposed, Piece, Question
from durably.engine.callback import completion
from durably.engine.nexus_outcome import Ended, Succeeded, Unsuccessful
from durably.errors import (
    AlreadyExists,
    NexusOperationExecutionAlreadyStarted,
    NotFound,
    Refusal,
    Unavailable,
    WorkflowExecutionAlreadyStarted,
)
from durably.service import nexus_tokens
from durably.service.nexus_tokens import OfWorkflow
from durably.service.run_history import Answers, closing_event, page, piece_of
from durably.service.tokens import HistoryPageToken
from durably.waits import first_done

OPERATION_PREFIX = "durably-call-"
IDENTITY = "durably"

WORKING = "working"
INPUT_REQUIRED = "input_required"
COMPLETED = "completed"
FAILED = "failed"
TIMED_OUT = "timed_out"
CANCELED = "canceled"

WORKFLOW_PHASES = {
    workflow_enums.WORKFLOW_EXECUTION_STATUS_COMPLETED: COMPLETED,
    workflow_enums.WORKFLOW_EXECUTION_STATUS_FAILED: FAILED,
    workflow_enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT: TIMED_OUT,
    workflow_enums.WORKFLOW_EXECUTION_STATUS_CANCELED: CANCELED,
    workflow_enums.WORKFLOW_EXECUTION_STATUS_TERMINATED: CANCELED,
}
OPERATION_ENDS = {
    nexus_enums.NEXUS_OPERATION_EXECUTION_STATUS_COMPLETED: (COMPLETED, completion.SUCCEEDED),
    nexus_enums.NEXUS_OPERATION_EXECUTION_STATUS_FAILED: (FAILED, completion.FAILED),
    nexus_enums.NEXUS_OPERATION_EXECUTION_STATUS_TIMED_OUT: (TIMED_OUT, completion.FAILED),
    nexus_enums.NEXUS_OPERATION_EXECUTION_STATUS_CANCELED: (CANCELED, completion.CANCELED),
    nexus_enums.NEXUS_OPERATION_EXECUTION_STATUS_TERMINATED: (CANCELED, completion.FAILED),
}
"""The status of an operation that has ended -> its phase; its state, as completion callbacks have it."""


@dataclass(frozen=True, slots=True)
class Behind:
    """The workflow that an operation is made of; `place`: where what happens next will be."""

    namespace: str
    workflow_id: str
    first_run_id: str
    place: HistoryPageToken


@dataclass(frozen=True, slots=True)
class Seen:
    """A call as it is now. Times are nanoseconds since the epoch."""

    call_id: str
    begun: Mapping[str, Any]
    """What was noted when it was begun."""
    phase: str
    created_ns: int
    changed_ns: int
    place: HistoryPageToken | None = None
    """Where what happens next will be, of a workflow."""
    first_run_id: str = ""
    """Of a workflow, the run with which its chain began."""
    questions: Mapping[str, Question] = field(default_factory=dict)
    asks: str = ""
    """The workflow whose questions these are."""
    asks_in: str = ""
    """Its namespace."""
    output: Piece | None = None
    result: Any = None
    failure: failures.Failure | None = None
    end: Ended | None = None
    """How it ended, as the caller of a Nexus operation is told."""
    message: str = ""
    operation_id: str = ""
    """Of a standalone operation."""
    called: Mapping[str, str] = field(default_factory=dict)
    """Endpoint, service and operation of a standalone operation, and the id of its run."""
    is_started: bool = False
    """Its handler has answered the start of the operation; it has not ended with that."""
    behind: Behind | None = None
    """The workflow of an operation, where there is one that the caller may read."""

    @property
    def ended(self) -> bool:
        return self.phase not in (WORKING, INPUT_REQUIRED)


class DurableCalls:
    """Speaks to the server's own RPCs."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    # --- Beginning ----------------------------------------------------------------------------

    async def begin(
        self,
        namespace: str,
        call_id: str,
        what: Exposed,
        arguments: Any,
        noted: Mapping[str, Any],
        callbacks: tuple[common.Callback, ...] = (),
    ) -> None:
        """Begin, unless there is one of this id already. Raises Refusal."""
        try:
            if what.endpoint:
                await self._begin_operation(namespace, call_id, what, arguments, noted)
            else:
                await self._begin_workflow(namespace, call_id, what, arguments, noted, callbacks)
        except (
            WorkflowExecutionAlreadyStarted,
            NexusOperationExecutionAlreadyStarted,
            AlreadyExists,
        ):
            pass

    async def _begin_workflow(
        self,
        namespace: str,
        call_id: str,
        what: Exposed,
        arguments: Any,
        noted: Mapping[str, Any],
        callbacks: tuple[common.Callback, ...],
    ) -> None:
        request = ws.StartWorkflowExecutionRequest(
            namespace=namespace,
            workflow_id=call_id,
            request_id=call_id,
            identity=IDENTITY,
            workflow_id_reuse_policy=workflow_enums.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
            workflow_id_conflict_policy=workflow_enums.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
            completion_callbacks=callbacks,
        )
        request.workflow_type.name = what.workflow
        request.task_queue.name = what.task_queue
        request.input.payloads.append(json_payload(arguments))
        request.memo.fields[convention.MEMO_CALL].CopyFrom(json_payload(dict(noted)))
        if what.timeout_s:
            request.workflow_execution_timeout.CopyFrom(_duration(what.timeout_s))
        await self._answers("StartWorkflowExecution", request)

    async def _begin_operation(
        self,
        namespace: str,
        call_id: str,
        what: Exposed,
        arguments: Any,
        noted: Mapping[str, Any],
    ) -> None:
        request = ws.StartNexusOperationExecutionRequest(
            namespace=namespace,
            identity=IDENTITY,
            request_id=call_id,
            operation_id=OPERATION_PREFIX + call_id,
            endpoint=what.endpoint,
            service=what.service,
            operation=what.operation,
            input=json_payload(arguments),
            id_reuse_policy=nexus_enums.NEXUS_OPERATION_ID_REUSE_POLICY_REJECT_DUPLICATE,
            id_conflict_policy=nexus_enums.NEXUS_OPERATION_ID_CONFLICT_POLICY_FAIL,
        )
        request.user_metadata.details.CopyFrom(json_payload(dict(noted)))
        if what.timeout_s:
            request.schedule_to_close_timeout.CopyFrom(_duration(what.timeout_s))
        await self._answers("StartNexusOperationExecution", request)

    # --- Watching -----------------------------------------------------------------------------

    async def look(self, namespace: str, call_id: str) -> Seen:
        """Raises NotFound for what was not begun here."""
        try:
            seen = await self.look_at_workflow(namespace, call_id)
            if seen.begun:
                return seen
        except NotFound:
            pass
        try:
            seen = await self.look_at_operation(namespace, OPERATION_PREFIX + call_id)
        except NotFound as error:
            raise NotFound(f"there is no call {call_id}") from error
        return replace(seen, call_id=call_id)

    async def wait_for_news(self, namespace: str, seen: Seen) -> None:
        """Until something has happened since; or for as long as a long poll lasts."""
        if seen.place is not None:
            await self._events(namespace, seen.call_id, seen.place)
            return
        waiting = [self.wait_for_operation(namespace, seen)]
        if seen.behind is not None:
            waiting.append(self._news_behind(seen.behind))
        await first_done(*waiting)

    async def wait_for_operation(self, namespace: str, seen: Seen) -> None:
        """Until it has started, or ended; or for as long as a long poll lasts."""
        stages = nexus_enums.NexusOperationWaitStage
        request = ws.PollNexusOperationExecutionRequest(
            namespace=namespace,
            operation_id=seen.operation_id,
            wait_stage=stages.NEXUS_OPERATION_WAIT_STAGE_CLOSED
            if seen.is_started
            else stages.NEXUS_OPERATION_WAIT_STAGE_STARTED,
        )
        await self._answers("PollNexusOperationExecution", request)

    async def _news_behind(self, behind: Behind) -> None:
        await self._events(behind.namespace, behind.workflow_id, behind.place)

    async def pieces(
        self, namespace: str, seen: Seen
    ) -> tuple[list[Piece], HistoryPageToken | None]:
        """All that its run has published until now, and where more will be."""
        if seen.place is None:
            return [], None
        found: list[Piece] = []
        place = HistoryPageToken(seen.place.run_id, 1)
        while place.next_event_id < seen.place.next_event_id:
            events, following = await self._events(namespace, seen.call_id, place, waits=False)
            found += [piece for each in events if (piece := piece_of(each)) is not None]
            if following == place:
                break
            place = following
        return found, place

    async def listed(
        self, namespace: str, prefix: str, size: int, token: bytes
    ) -> tuple[list[Seen], bytes]:
        """A page of the calls whose id begins so, newest first, and where the next page is."""
        request = ws.ListWorkflowExecutionsRequest(
            namespace=namespace,
            page_size=size,
            next_page_token=token,
            query=f"WorkflowId STARTS_WITH {_quoted(prefix)}",
        )
        response = await self._answers("ListWorkflowExecutions", request)
        found = []
        for each in response.executions:
            try:
                found.append(await self.look(namespace, each.execution.workflow_id))
            except NotFound:
                pass  # It is not a call, or was removed meanwhile.
        return found, response.next_page_token

    async def counted(self, namespace: str, prefix: str) -> int:
        request = ws.CountWorkflowExecutionsRequest(
            namespace=namespace, query=f"WorkflowId STARTS_WITH {_quoted(prefix)}"
        )
        return int((await self._answers("CountWorkflowExecutions", request)).count)

    async def _events(
        self, namespace: str, call_id: str, place: HistoryPageToken, *, waits: bool = True
    ) -> tuple[list[history.HistoryEvent], HistoryPageToken]:
        """Those from a place on, and where the next will be."""
        events, _ = await page(self._answers, namespace, call_id, place, waits=waits)
        last = events[-1].event_id if events else place.next_event_id - 1
        return events, HistoryPageToken(place.run_id, last + 1)

    async def look_at_workflow(self, namespace: str, workflow_id: str) -> Seen:
        """At any workflow, whoever began it: `begun` is empty for what is no call. Raises NotFound."""
        described = await self._describe(namespace, workflow_id)
        info = described.workflow_execution_info
        noted = info.memo.fields.get(convention.MEMO_CALL)
        phase = WORKFLOW_PHASES.get(info.status, WORKING)
        questions: Mapping[str, Question] = {}
        if phase == WORKING:
            questions = questions_of(info.memo)
        shown = info.memo.fields.get(convention.MEMO_OUTPUT)
        ended = None
        if phase != WORKING:
            ended = await closing_event(
                self._answers, namespace, workflow_id, info.execution.run_id
            )
        piece = convention.piece(shown.data) if shown is not None else None
        return Seen(
            workflow_id,
            _noted(noted.data) if noted is not None else {},
            INPUT_REQUIRED if questions else phase,
            created_ns=info.start_time.ToNanoseconds(),
            changed_ns=(ended.event_time if ended else info.start_time).ToNanoseconds(),
            place=HistoryPageToken(info.execution.run_id, info.history_length + 1),
            first_run_id=info.first_run_id or info.execution.run_id,
            questions=questions,
            asks=workflow_id,
            asks_in=namespace,
            output=piece,
            result=_result_of(ended),
            failure=_failure_of(ended),
            end=_end(ended),
            message=_message(phase, questions, piece),
        )

    async def _describe(
        self, namespace: str, workflow_id: str
    ) -> ws.DescribeWorkflowExecutionResponse:
        request = ws.DescribeWorkflowExecutionRequest(namespace=namespace)
        request.execution.workflow_id = workflow_id
        found: ws.DescribeWorkflowExecutionResponse = await self._answers(
            "DescribeWorkflowExecution", request
        )
        return found

    async def look_at_operation(self, namespace: str, operation_id: str, run_id: str = "") -> Seen:
        """At any standalone operation, whoever began it. Raises NotFound."""
        request = ws.DescribeNexusOperationExecutionRequest(
            namespace=namespace, operation_id=operation_id, run_id=run_id, include_outcome=True
        )
        described = await self._answers("DescribeNexusOperationExecution", request)
        info = described.info
        phase, _ = OPERATION_ENDS.get(info.status, (WORKING, ""))
        asked = await self._behind(info.operation_token) if info.operation_token else None
        questions: Mapping[str, Question] = {}
        if phase == WORKING and asked is not None:
            questions = asked.questions
        output = asked.output if asked is not None else None
        last = info.close_time if info.HasField("close_time") else info.schedule_time
        attempt = f"attempt {info.attempt}" if info.attempt > 1 else ""
        if info.last_attempt_failure.message:
            attempt += f": {info.last_attempt_failure.message}"
        end: Ended | None = None
        if phase == COMPLETED:
            end = Succeeded(described.result)
        elif phase != WORKING:
            end = Unsuccessful(described.failure)
        return Seen(
            operation_id,
            _noted(info.user_metadata.details.data),
            INPUT_REQUIRED if questions else phase,
            created_ns=info.schedule_time.ToNanoseconds(),
            changed_ns=last.ToNanoseconds(),
            questions=questions,
            asks=asked.asks if asked is not None else "",
            asks_in=asked.asks_in if asked is not None else "",
            result=value_of(described.result) if described.HasField("result") else None,
            failure=described.failure if described.HasField("failure") else None,
            end=end,
            output=output,
            message=_message(phase, questions, output) or attempt,
            operation_id=operation_id,
            called={
                "runId": info.run_id,
                "endpoint": info.endpoint,
                "service": info.service,
                "operation": info.operation,
            },
            is_started=bool(info.operation_token),
            behind=_place_of(asked),
        )

    async def _behind(self, operation_token: str) -> Seen | None:
        """The workflow that an operation is made of, if its token names one that the caller may read."""
        named = nexus_tokens.made_of(operation_token)
        if not isinstance(named, OfWorkflow):
            return None
        try:
            return await self.look_at_workflow(named.namespace, named.workflow_id)
        except Refusal:
            return None

    # --- Acting -------------------------------------------------------------------------------

    async def answer(self, namespace: str, seen: Seen, key: str, response: Any) -> str:
        """Answer a question. Returns why the workflow refuses the answer; empty: it took it."""
        request = ws.UpdateWorkflowExecutionRequest(namespace=seen.asks_in or namespace)
        request.workflow_execution.workflow_id = seen.asks
        stages = update_enums.UpdateWorkflowExecutionLifecycleStage
        request.wait_policy.lifecycle_stage = (
            stages.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED
        )
        asked = updates.Request()
        asked.meta.update_id = f"answer-{key}"
        asked.meta.identity = IDENTITY
        asked.input.name = convention.UPDATE_ANSWER
        asked.input.args.payloads.extend((json_payload(key), json_payload(response)))
        request.request.CopyFrom(asked)
        answered = await self._answers("UpdateWorkflowExecution", request)
        if answered.stage < stages.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED:
            raise Unavailable(f"no worker has taken the answer to {key} yet: send it again")
        return str(answered.outcome.failure.message)

    async def cancel(self, namespace: str, seen: Seen) -> None:
        """Ask it to end; nothing happens if it has."""
        if seen.ended:
            return
        if seen.place is not None:
            request = ws.RequestCancelWorkflowExecutionRequest(
                namespace=namespace, identity=IDENTITY, request_id=f"cancel-{seen.call_id}"
            )
            request.workflow_execution.workflow_id = seen.call_id
            await self._answers("RequestCancelWorkflowExecution", request)
            return
        operation = ws.RequestCancelNexusOperationExecutionRequest(
            namespace=namespace,
            operation_id=seen.operation_id,
            identity=IDENTITY,
            request_id=f"cancel-{seen.call_id}",
        )
        await self._answers("RequestCancelNexusOperationExecution", operation)


# --- Reading ----------------------------------------------------------------------------------


def json_payload(value: Any) -> common.Payload:
    data = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    return common.Payload(metadata={"encoding": b"json/plain"}, data=data)


def value_of(payload: common.Payload) -> Any:
    """JSON as its value; anything else as base64 with its encoding: nothing is lost."""
    encoding = payload.metadata.get("encoding", b"")
    if encoding == b"binary/null":
        return None
    if encoding in (b"json/plain", b"json/protobuf"):
        try:
            return json.loads(payload.data)
        except ValueError:
            pass
    said = encoding.decode(errors="replace")
    return {"encoding": said, "data": base64.b64encode(payload.data).decode()}


def questions_of(memo: common.Memo) -> dict[str, Question]:
    """The open ones; none for a memo that says nothing of them."""
    asked = memo.fields.get(convention.MEMO_QUESTIONS)
    return convention.questions(asked.data) if asked is not None else {}


def _result_of(event: history.HistoryEvent | None) -> Any:
    if event is None or not event.HasField("workflow_execution_completed_event_attributes"):
        return None
    payloads = event.workflow_execution_completed_event_attributes.result.payloads
    return value_of(payloads[0]) if payloads else None


def _failure_of(event: history.HistoryEvent | None) -> failures.Failure | None:
    if event is None:
        return None
    if event.HasField("workflow_execution_failed_event_attributes"):
        return event.workflow_execution_failed_event_attributes.failure
    return None


def _end(event: history.HistoryEvent | None) -> Ended | None:
    """As the completion callback of the workflow says it."""
    if event is None:
        return None
    if event.HasField("workflow_execution_completed_event_attributes"):
        payloads = event.workflow_execution_completed_event_attributes.result.payloads
        return Succeeded(payloads[0] if payloads else None)
    return Unsuccessful(completion.unsuccessful(event)[1])


def with_piece(seen: Seen, piece: Piece) -> Seen:
    """The same call, once it has published this."""
    message = _message(seen.phase, seen.questions, piece) or seen.message
    return replace(seen, output=piece, message=message)


def _message(phase: str, questions: Mapping[str, Question], piece: Piece | None) -> str:
    if questions:
        return next(iter(questions.values())).message
    if phase == WORKING and piece is not None and piece.kind in ("status", "text"):
        return str(piece.value)
    return ""


def _place_of(asked: Seen | None) -> Behind | None:
    if asked is None or asked.place is None:
        return None
    return Behind(asked.asks_in, asked.asks, asked.first_run_id, asked.place)


def _noted(data: bytes) -> Mapping[str, Any]:
    """Empty for what was not noted by a protocol."""
    try:
        found = json.loads(data or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _quoted(text: str) -> str:
    """As a text of a List Filter."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _duration(seconds: float) -> Duration:
    found = Duration()
    found.FromNanoseconds(int(seconds * 1e9))
    return found
