"""RPCs of workers: poll for tasks, answer them, report on them.

Rule 1: a task that a poller is handed has been started in a committed transition.
Rule 2: a row of the backlog whose task is stale is dropped, and the poll goes on.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from msgspec.structs import replace
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine import activity, commands, update, workflow_task
from durably.engine.refusals import BadCommand
from durably.engine.state import HistoryState, WorkflowState
from durably.engine.transition import Transition
from durably.engine.versioning import machine as versioning
from durably.engine.versioning.version import Worker
from durably.engine.workflow import ensure_running
from durably.engine.workflow_task import Completion
from durably.errors import InvalidArgument, NotFound, Unavailable, WrittenByNewer
from durably.histogram import Histogram
from durably.service import search_attributes, tokens
from durably.service.admission import Call, Learned
from durably.service.deployments import Deployments
from durably.service.dispatch import Granted, worker_of
from durably.service.execution import Execution
from durably.service.ids import new_id
from durably.service.namespaces import Namespaces
from durably.service.nodes import WorkerShutDown
from durably.service.queries import Queries
from durably.service.replies import (
    QueryTask,
    activity_task_reply,
    query_reply,
    workflow_task_reply,
)
from durably.service.standalone_activities import find_activity
from durably.service.task_queues import KINDS, TaskQueues
from durably.service.tokens import OTHER_NAMESPACE, TaskToken
from durably.service.transact import Decide, Executions, R
from durably.service.workers import Workers
from durably.service.workflows import check_execution, poll_seconds
from durably.store.store import Commit, QueueKey, TaskKind, TaskRow

Poll = ws.PollWorkflowTaskQueueRequest | ws.PollActivityTaskQueueRequest

Detailed = (
    ws.RecordActivityTaskHeartbeatRequest
    | ws.RecordActivityTaskHeartbeatByIdRequest
    | ws.RespondActivityTaskCanceledRequest
    | ws.RespondActivityTaskCanceledByIdRequest
)


class WorkerTasks:
    """Answers the RPCs of workers."""

    def __init__(
        self,
        executions: Executions,
        namespaces: Namespaces,
        queries: Queries,
        workers: Workers,
        task_queues: TaskQueues,
        deployments: Deployments,
        nexus_endpoint_id: Callable[[str, commands.NexusCommand], str],
    ) -> None:
        self._executions = executions
        self._deployments = deployments
        self._matching = executions.matching
        self._namespaces = namespaces
        self._queries = queries
        self._workers = workers
        self._task_queues = task_queues
        self.schedule_to_start = {
            TaskKind.WORKFLOW: Histogram(),
            TaskKind.ACTIVITY: Histogram(),
        }
        """Seconds that tasks waited until a worker had them; one that was waited for: 0."""
        self.learned: Learned | None = None
        """What other servers may have changed of what commands are about."""
        self._config = executions.config
        self._context = commands.CommandContext(
            config=executions.config,
            namespace_id=namespaces.id_of,
            check_search_attributes=self._check_search_attributes,
            in_version=executions.dispatch.in_version,
            nexus_endpoint_id=nexus_endpoint_id,
        )

    def _check_search_attributes(self, namespace: str, found: common.SearchAttributes) -> None:
        search_attributes.check(found, self._namespaces.by_name(namespace).search_attributes)

    def ids_of_token(self, task_token: bytes) -> dict[str, object]:
        """Whom a task token is about, for the log; nothing if it is none."""
        try:
            return self._executions.ids(tokens.read_task(task_token).execution_id)
        except InvalidArgument:
            return {}

    # --- Poll ---------------------------------------------------------------------------------

    async def poll_workflow_task_queue(
        self, request: ws.PollWorkflowTaskQueueRequest, call: Call
    ) -> ws.PollWorkflowTaskQueueResponse:
        came_ns = self._executions.clock()
        key = self._key(request, TaskKind.WORKFLOW)
        reply: ws.PollWorkflowTaskQueueResponse | None = None
        while reply is None:
            item = await self._poll(request, key, call)
            match item:
                case Granted(execution, workflow_task.WorkflowTaskGrant() as grant):
                    reply = await self._workflow_reply(execution, grant)
                case QueryTask():
                    if await self._queries.take(item):
                        reply = await query_reply(self._executions, item)
                case TaskRow():
                    reply = await self._start_workflow_task(item, worker_of(request))
                case _:
                    return ws.PollWorkflowTaskQueueResponse()
        part = self._deployments.part_of(request, key)
        reply.backlog_count_hint = self._matching.queue(part).backlog.count()
        self._hint(reply, part, came_ns, item)
        return reply

    async def poll_activity_task_queue(
        self, request: ws.PollActivityTaskQueueRequest, call: Call
    ) -> ws.PollActivityTaskQueueResponse:
        came_ns = self._executions.clock()
        key = self._key(request, TaskKind.ACTIVITY)
        reply: ws.PollActivityTaskQueueResponse | None = None
        while reply is None:
            item = await self._poll(request, key, call)
            match item:
                case Granted(execution, activity.ActivityGrant() as grant):
                    reply = self._activity_reply(execution, grant)
                case TaskRow():
                    reply = await self._start_activity(item, worker_of(request))
                case _:
                    return ws.PollActivityTaskQueueResponse()
        part = self._deployments.part_of(request, key)
        self._hint(reply, part, came_ns, item)
        return reply

    def _key(self, request: Poll, kind: TaskKind) -> QueueKey:
        namespace_id = self._namespaces.id_of(request.namespace)
        return QueueKey(namespace_id, kind, request.task_queue.name)

    def _hint(
        self,
        reply: ws.PollWorkflowTaskQueueResponse | ws.PollActivityTaskQueueResponse,
        key: QueueKey,
        came_ns: int,
        item: object,
    ) -> None:
        """Suggest more polls, or fewer, to a worker that scales them."""
        waited_ns = self._executions.clock() - came_ns
        more = self._matching.poller_hint(key, waited_ns, from_backlog=isinstance(item, TaskRow))
        if more:
            reply.poller_scaling_decision.poll_request_delta_suggestion = more

    async def _poll(self, request: Poll, key: QueueKey, call: Call) -> object:
        """The next item of a queue, or None when the long poll is over."""
        if not request.task_queue.name:
            raise InvalidArgument("TaskQueue is not set on request.")
        if len(request.task_queue.name) > self._config.identifier_chars_max:
            raise InvalidArgument("TaskQueue length exceeds limit.")
        if len(request.identity) > self._config.identifier_chars_max:
            raise InvalidArgument("Identity length exceeds limit.")
        self._deployments.check_poll(request)
        await self._task_queues.load(key)
        await self._deployments.register(request, key)
        part = self._deployments.part_of(request, key)
        await self._task_queues.fetch(part)
        # It may have been deleted meanwhile: nobody would end a poll that begins now.
        self._namespaces.id_of(request.namespace)
        seconds = poll_seconds(self._config.task_poll_timeout_s, call, self._executions.clock())
        if seconds <= 0:
            return None
        return await self._matching.poll(
            part,
            request.identity,
            request,
            seconds,
            request.worker_instance_key,
            _tasks_per_s(request),
        )

    async def _workflow_reply(
        self, execution: Execution, grant: workflow_task.WorkflowTaskGrant
    ) -> ws.PollWorkflowTaskQueueResponse:
        waited_ns = grant.started_ns - grant.scheduled_ns
        self.schedule_to_start[TaskKind.WORKFLOW].observe(waited_ns / 1e9)
        queries = self._queries.attach(execution.execution_id)
        return await workflow_task_reply(self._executions, execution, grant, queries)

    def _activity_reply(
        self, execution: Execution[Any], grant: activity.ActivityGrant
    ) -> ws.PollActivityTaskQueueResponse:
        waited_ns = grant.started_ns - grant.dispatched_ns
        self.schedule_to_start[TaskKind.ACTIVITY].observe(waited_ns / 1e9)
        return activity_task_reply(execution, grant)

    async def _start_workflow_task(
        self, row: TaskRow, worker: Worker
    ) -> ws.PollWorkflowTaskQueueResponse | None:
        def decide(t: Transition) -> workflow_task.WorkflowTaskGrant:
            if not row.route.same(versioning.route(t.state)):
                raise NotFound(workflow_task.TASK_NOT_FOUND)  # It waits somewhere else by now.
            return workflow_task.start(
                t,
                row.scheduled_event_id,
                row.stamp,
                worker.identity,
                request_id,
                self._config,
                worker=worker,
                target=self._executions.dispatch.target(t.state),
            )

        request_id = new_id()
        try:
            grant = await self._executions.transact(row.execution_id, decide, task_id=row.task_id)
            execution = await self._executions.known(row.execution_id)
        except NotFound:
            await self._drop(row)
            return None
        except BaseException as error:
            self._put_back(row, error)
            raise
        return await self._workflow_reply(execution, grant)

    async def _start_activity(
        self, row: TaskRow, worker: Worker
    ) -> ws.PollActivityTaskQueueResponse | None:
        request_id = new_id()

        def decide(t: Transition[HistoryState]) -> activity.ActivityGrant | None:
            state = t.state
            return activity.take(
                t,
                row.scheduled_event_id,
                row.stamp,
                worker.identity,
                request_id,
                worker=worker,
                target=self._executions.dispatch.target(state)
                if isinstance(state, WorkflowState)
                else None,
            )

        try:
            grant = await self._executions.transact(row.execution_id, decide, task_id=row.task_id)
            execution = await self._executions.known(row.execution_id)
        except NotFound:
            await self._drop(row)
            return None
        except BaseException as error:
            self._put_back(row, error)
            raise
        return self._activity_reply(execution, grant) if grant is not None else None

    def _put_back(self, row: TaskRow, error: BaseException) -> None:
        """The store could not be written to, or the worker went away meanwhile: the task waits for the next
        poll. If it was started all the same, that poll finds out, and drops it. One that fails for a reason
        of its own goes behind the others, so that it does not hold them up; one that only a newer server
        understands is let go of, where there may be one."""
        nodes = self._executions.nodes
        newer = isinstance(error, WrittenByNewer)
        if newer and nodes is not None:
            nodes.doubt([row.task_id])
            return
        away = isinstance(error, Unavailable) or not isinstance(error, Exception)
        part = self._executions.dispatch.place(row.queue.whole, row)
        self._matching.add(part, row, first=away and not newer)

    async def _drop(self, row: TaskRow) -> None:
        await self._executions.store.commit(Commit(writes=[], tasks_removed=[row.task_id]))

    # --- Workflow tasks -----------------------------------------------------------------------

    async def respond_workflow_task_completed(
        self, request: ws.RespondWorkflowTaskCompletedRequest, call: Call
    ) -> ws.RespondWorkflowTaskCompletedResponse:
        token = tokens.decode_task(request.task_token, self._namespaces.id_of(request.namespace))
        known = self.learned.generation if self.learned is not None else 0
        try:
            try:
                completed = await self._completed(token, request)
            except BadCommand:
                # What a command is refused for may not be so any more.
                if self.learned is None or await self.learned.refreshed() == known:
                    raise
                completed = await self._completed(token, request)
        except BadCommand as bad:
            await self._fail_for(token, bad, request)
            raise InvalidArgument(bad.message) from bad
        execution = await self._executions.known(token.execution_id)
        self._queries.answer_attached(execution, dict(request.query_results))
        response = ws.RespondWorkflowTaskCompletedResponse(
            activity_tasks=[self._activity_reply(execution, g) for g in completed.activities],
            reset_history_event_id=completed.reset_event_id,
        )
        if completed.new_task is not None:
            reply = await self._workflow_reply(execution, completed.new_task)
            response.workflow_task.CopyFrom(reply)
        return response

    def _completed(
        self, token: TaskToken, request: ws.RespondWorkflowTaskCompletedRequest
    ) -> Awaitable[commands.CompletedTask]:
        return self._transact(
            token,
            lambda t: commands.complete_workflow_task(t, token.reference, request, self._context),
        )

    async def _fail_for(
        self,
        token: TaskToken,
        bad: BadCommand,
        request: ws.RespondWorkflowTaskCompletedRequest,
    ) -> None:
        """A bad command fails its task. Nothing else of the completion has taken effect."""
        reason = failure.Failure(
            message=bad.message,
            source="Server",
            server_failure_info=failure.ServerFailureInfo(),
        )
        completion = Completion(request.identity, request.binary_checksum)

        def fail(t: Transition) -> None:
            workflow_task.in_flight(t.state, token.reference)
            update.abandon_sent(t)
            workflow_task.fail(t, token.reference, bad.cause, reason, completion)

        await self._transact(token, fail)

    def _transact(self, token: TaskToken, decide: Decide[R]) -> Awaitable[R]:
        """Decide for the execution of a token. Raises InvalidArgument if it is of another namespace than
        the token says: tokens are not signed, and who may call may do so in one namespace alone."""

        def checked(t: Transition) -> R:
            if t.state.namespace_id != token.namespace_id:
                raise InvalidArgument(OTHER_NAMESPACE)
            return decide(t)

        return self._executions.transact(token.execution_id, checked)

    async def _transact_attempt(self, token: TaskToken, decide: Decide[R]) -> R:
        """The same for an attempt of an activity, which may have begun before the store was copied."""
        try:
            return await self._transact(token, decide)
        except NotFound:
            renumbered = await self._executions.renumbered(token.execution_id)
            if renumbered is None:
                raise
        return await self._transact(replace(token, execution_id=renumbered), decide)

    async def respond_workflow_task_failed(
        self, request: ws.RespondWorkflowTaskFailedRequest, call: Call
    ) -> ws.RespondWorkflowTaskFailedResponse:
        token = tokens.decode_task(request.task_token, self._namespaces.id_of(request.namespace))
        cause = request.cause or causes.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE
        reason = request.failure if request.HasField("failure") else None
        completion = Completion(
            request.identity,
            request.binary_checksum,
            request.worker_version if request.HasField("worker_version") else None,
        )
        await self._transact(
            token,
            lambda t: workflow_task.fail(t, token.reference, cause, reason, completion),
        )
        return ws.RespondWorkflowTaskFailedResponse()

    async def reset_sticky_task_queue(
        self, request: ws.ResetStickyTaskQueueRequest, call: Call
    ) -> ws.ResetStickyTaskQueueResponse:
        namespace_id = self._namespaces.id_of(request.namespace)
        check_execution(request.execution)
        execution = await self._executions.find(
            namespace_id, request.execution.workflow_id, request.execution.run_id
        )
        await self._executions.transact(execution.execution_id, workflow_task.reset_sticky)
        return ws.ResetStickyTaskQueueResponse()

    async def respond_query_task_completed(
        self, request: ws.RespondQueryTaskCompletedRequest, call: Call
    ) -> ws.RespondQueryTaskCompletedResponse:
        await self._queries.answer_direct(self._namespaces.id_of(request.namespace), request)
        return ws.RespondQueryTaskCompletedResponse()

    async def shutdown_worker(
        self, request: ws.ShutdownWorkerRequest, call: Call
    ) -> ws.ShutdownWorkerResponse:
        """The worker leaves: its waiting polls end with nothing, so that no task goes to it any
        more, and its sticky queue is not waited for."""
        namespace_id = self._namespaces.id_of(request.namespace)
        if request.worker_instance_key and request.task_queue:
            self._matching.shut_down(request.worker_instance_key)
            for kind in request.task_queue_types or KINDS:
                if kind in KINDS:
                    key = QueueKey(namespace_id, TaskKind(kind), request.task_queue)
                    self._matching.forget_poller(key, request.identity)
        if request.HasField("worker_heartbeat"):
            await self._workers.record(namespace_id, request.worker_heartbeat)
        if request.sticky_task_queue:
            key = QueueKey(namespace_id, TaskKind.WORKFLOW, request.sticky_task_queue)
            self._matching.forget_pollers(key)
        if self._executions.nodes is not None:
            worker, sticky = request.worker_instance_key, request.sticky_task_queue
            self._executions.nodes.say(WorkerShutDown(namespace_id, worker, sticky))
        return ws.ShutdownWorkerResponse()

    def shut_down_elsewhere(self, word: WorkerShutDown) -> None:
        """A worker has told another server that it ends; it may wait here, too."""
        if word.worker:
            self._matching.shut_down(word.worker)
        if word.sticky_queue:
            key = QueueKey(word.namespace_id, TaskKind.WORKFLOW, word.sticky_queue)
            self._matching.forget_pollers(key)
            if self._executions.nodes is not None:
                self._executions.nodes.forget_pollers(key)

    # --- Activities, by token -----------------------------------------------------------------

    async def respond_activity_task_completed(
        self, request: ws.RespondActivityTaskCompletedRequest, call: Call
    ) -> ws.RespondActivityTaskCompletedResponse:
        token = tokens.decode_task(request.task_token, self._namespaces.id_of(request.namespace))
        await self._transact_attempt(
            token,
            lambda t: self._complete(t, token.scheduled_event_id, token.attempt, request),
        )
        return ws.RespondActivityTaskCompletedResponse()

    async def respond_activity_task_failed(
        self, request: ws.RespondActivityTaskFailedRequest, call: Call
    ) -> ws.RespondActivityTaskFailedResponse:
        token = tokens.decode_task(request.task_token, self._namespaces.id_of(request.namespace))
        _check_failure(request.failure)
        await self._transact_attempt(
            token,
            lambda t: self._fail(t, token.scheduled_event_id, token.attempt, request),
        )
        return ws.RespondActivityTaskFailedResponse()

    async def respond_activity_task_canceled(
        self, request: ws.RespondActivityTaskCanceledRequest, call: Call
    ) -> ws.RespondActivityTaskCanceledResponse:
        token = tokens.decode_task(request.task_token, self._namespaces.id_of(request.namespace))
        details = self._details(request)
        await self._transact_attempt(
            token,
            lambda t: activity.confirm_cancel(
                t, token.scheduled_event_id, token.attempt, details, request.identity
            ),
        )
        return ws.RespondActivityTaskCanceledResponse()

    async def record_activity_task_heartbeat(
        self, request: ws.RecordActivityTaskHeartbeatRequest, call: Call
    ) -> ws.RecordActivityTaskHeartbeatResponse:
        token = tokens.decode_task(request.task_token, self._namespaces.id_of(request.namespace))
        details = self._details(request)
        answer = await self._transact_attempt(
            token,
            lambda t: activity.heartbeat(t, token.scheduled_event_id, token.attempt, details),
        )
        return ws.RecordActivityTaskHeartbeatResponse(
            cancel_requested=answer.cancel_requested,
            activity_paused=answer.paused,
            activity_reset=answer.reset,
        )

    # --- Activities, by id --------------------------------------------------------------------

    async def respond_activity_task_completed_by_id(
        self, request: ws.RespondActivityTaskCompletedByIdRequest, call: Call
    ) -> ws.RespondActivityTaskCompletedByIdResponse:
        execution = await self._by_id(request)
        await self._executions.transact(
            execution.execution_id,
            lambda t: self._complete(t, _scheduled(t.state, request.activity_id), 0, request),
        )
        return ws.RespondActivityTaskCompletedByIdResponse()

    async def respond_activity_task_failed_by_id(
        self, request: ws.RespondActivityTaskFailedByIdRequest, call: Call
    ) -> ws.RespondActivityTaskFailedByIdResponse:
        _check_failure(request.failure)
        execution = await self._by_id(request)
        await self._executions.transact(
            execution.execution_id,
            lambda t: self._fail(t, _scheduled(t.state, request.activity_id), 0, request),
        )
        return ws.RespondActivityTaskFailedByIdResponse()

    async def respond_activity_task_canceled_by_id(
        self, request: ws.RespondActivityTaskCanceledByIdRequest, call: Call
    ) -> ws.RespondActivityTaskCanceledByIdResponse:
        details = self._details(request)
        execution = await self._by_id(request)
        await self._executions.transact(
            execution.execution_id,
            lambda t: activity.confirm_cancel(
                t,
                _scheduled(t.state, request.activity_id),
                0,
                details,
                request.identity,
            ),
        )
        return ws.RespondActivityTaskCanceledByIdResponse()

    async def record_activity_task_heartbeat_by_id(
        self, request: ws.RecordActivityTaskHeartbeatByIdRequest, call: Call
    ) -> ws.RecordActivityTaskHeartbeatByIdResponse:
        details = self._details(request)
        execution = await self._by_id(request)
        answer = await self._executions.transact(
            execution.execution_id,
            lambda t: activity.heartbeat(t, _scheduled(t.state, request.activity_id), 0, details),
        )
        return ws.RecordActivityTaskHeartbeatByIdResponse(
            cancel_requested=answer.cancel_requested,
            activity_paused=answer.paused,
            activity_reset=answer.reset,
        )

    async def _by_id(
        self,
        request: ws.RespondActivityTaskCompletedByIdRequest
        | ws.RespondActivityTaskFailedByIdRequest
        | ws.RespondActivityTaskCanceledByIdRequest
        | ws.RecordActivityTaskHeartbeatByIdRequest,
    ) -> Execution[Any]:
        """What has the activity: a workflow, or without a workflow id the activity itself."""
        namespace_id = self._namespaces.id_of(request.namespace)
        if not request.activity_id:
            raise InvalidArgument("ActivityId is not set on request.")
        if not request.workflow_id:
            return await find_activity(
                self._executions, namespace_id, request.activity_id, request.run_id
            )
        which = common.WorkflowExecution(workflow_id=request.workflow_id, run_id=request.run_id)
        check_execution(which)
        return await self._executions.find(namespace_id, which.workflow_id, which.run_id)

    def _complete(
        self,
        t: Transition,
        scheduled_event_id: int,
        attempt: int,
        request: ws.RespondActivityTaskCompletedRequest
        | ws.RespondActivityTaskCompletedByIdRequest,
    ) -> None:
        """A result over the limit fails the activity for good: another attempt would have it too."""
        over = self._over_limit("result", request.result.ByteSize())
        if over is None:
            result = request.result if request.HasField("result") else None
            activity.complete(t, scheduled_event_id, attempt, result, request.identity)
        else:
            activity.fail(t, scheduled_event_id, attempt, over, request.identity)

    def _fail(
        self,
        t: Transition,
        scheduled_event_id: int,
        attempt: int,
        request: ws.RespondActivityTaskFailedRequest | ws.RespondActivityTaskFailedByIdRequest,
    ) -> None:
        """A failure over the limit is replaced by one that says so."""
        over = self._over_limit("failure", request.failure.ByteSize())
        activity.fail(
            t,
            scheduled_event_id,
            attempt,
            over or request.failure,
            request.identity,
            request.last_heartbeat_details,
        )

    def _over_limit(self, what: str, size_bytes: int) -> failure.Failure | None:
        if size_bytes <= self._config.payload_bytes_max:
            return None
        return failure.Failure(
            message=f"the activity's {what} of {size_bytes} bytes exceeds the limit of"
            f" {self._config.payload_bytes_max} bytes (payload_bytes_max)",
            source="Server",
            server_failure_info=failure.ServerFailureInfo(non_retryable=True),
        )

    def _details(self, request: Detailed) -> common.Payloads | None:
        """Details of a heartbeat or a cancel, if there are any; over the limit they are refused."""
        if not request.HasField("details"):
            return None
        size_bytes = request.details.ByteSize()
        if size_bytes > self._config.payload_bytes_max:
            raise InvalidArgument(
                f"details of {size_bytes} bytes exceed the limit of"
                f" {self._config.payload_bytes_max} bytes (payload_bytes_max)."
            )
        return request.details


def _tasks_per_s(request: Poll) -> float | None:
    """What the worker asks for of its whole task queue: of activities alone."""
    if not isinstance(request, ws.PollActivityTaskQueueRequest):
        return None
    metadata = request.task_queue_metadata
    if not metadata.HasField("max_tasks_per_second"):
        return None
    asked = metadata.max_tasks_per_second.value
    return asked if asked > 0 else 0.0


def _check_failure(reason: failure.Failure) -> None:
    if reason.ByteSize() and not reason.HasField("application_failure_info"):
        raise InvalidArgument("Failure must have ApplicationFailureInfo.")


def _scheduled(state: HistoryState, activity_id: str) -> int:
    ensure_running(state)
    event_id = state.activity_ids.get(activity_id)
    if event_id is None:
        raise NotFound(f"cannot find pending activity with ActivityID {activity_id}")
    return event_id
