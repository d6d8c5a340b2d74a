"""QueryWorkflow: a question to the worker that runs a workflow; it leaves no trace in history.

Rule 1: while a workflow task is pending, a query waits and travels with it, so that the answer
        reflects what was acknowledged before it was asked.
Rule 2: otherwise it goes to the worker directly: to the one that has the workflow in its cache, if
        that still polls, else to any.
Rule 3: a paused workflow is not asked: the query is rejected.
Rule 4: queries live in memory only; a caller that has gone away takes its query with it.
Rule 5: where servers share the store, a query that no worker takes here goes by letter to those at which
        workers waited lately, and if none takes it there, to all: a worker may poll another server each
        time. One server gives it to one worker; the answer comes back to the server that was asked,
        wherever the worker gives it.
"""

import asyncio
import uuid
from dataclasses import dataclass, replace

from temporalio.api.enums.v1 import query_pb2 as query_enums
from temporalio.api.enums.v1 import workflow_pb2 as workflow_enums
from temporalio.api.errordetails.v1 import message_pb2 as details
from temporalio.api.failure.v1 import message_pb2 as failure
from temporalio.api.query.v1 import message_pb2 as query
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.engine.state import PAUSED
from durably.engine.versioning import machine as versioning
from durably.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    QueryFailed,
    Refusal,
    ResourceExhausted,
)
from durably.service import tokens
from durably.service.admission import Call
from durably.service.execution import Execution
from durably.service.namespaces import Namespaces
from durably.service.nodes import QueryAnswered, QueryAsked, QueryOver, asked_at
from durably.service.replies import QueryTask
from durably.service.transact import Executions
from durably.service.workflows import check_execution
from durably.store.store import QueueKey, TaskKind

ASK_ALL_AFTER_S = 0.2
"""So long a query is left to the servers at which workers waited lately."""
ANSWER_ON_ITS_WAY_S = 0.05
"""A completion that was committed here brings its answers a moment after its commit."""
NO_POLLER = "no poller seen for task queue recently, worker may be down"
NO_POLLER_MARGIN_S = 1.0
"""How long before its deadline a query is told that there is no worker."""


@dataclass(slots=True, eq=False)
class PendingQuery:
    """A query whose caller waits. The answer is None when it has to go to a worker directly."""

    query_id: str
    question: query.WorkflowQuery
    answer: asyncio.Future[query.WorkflowQueryResult | None]


class Queries:
    """Queries that are under way on this node."""

    def __init__(self, executions: Executions, namespaces: Namespaces) -> None:
        self._executions = executions
        self._matching = executions.matching
        self._namespaces = namespaces
        self._buffered: dict[int, dict[str, PendingQuery]] = {}
        self._direct: dict[str, PendingQuery] = {}
        self._for_others: dict[str, tuple[QueueKey, QueryTask]] = {}
        """Queries that other servers have asked this one to offer."""

    # --- The caller's side --------------------------------------------------------------------

    async def query_workflow(
        self, request: ws.QueryWorkflowRequest, call: Call
    ) -> ws.QueryWorkflowResponse:
        namespace_id = self._namespaces.id_of(request.namespace)
        check_execution(request.execution)
        if not request.query.query_type:
            raise InvalidArgument("QueryType is not set on request.")
        execution = await self._executions.find(
            namespace_id, request.execution.workflow_id, request.execution.run_id
        )
        await self._executions.settled(execution)
        rejected = _rejected(execution, request.query_reject_condition)
        if rejected is not None:
            return ws.QueryWorkflowResponse(query_rejected=rejected)
        seconds = call.seconds_left(self._executions.clock())
        limit_s = self._executions.config.query_timeout_s if seconds is None else seconds
        try:
            async with asyncio.timeout(limit_s) as limit:
                result = await self._ask(execution, request.query, limit.when() or 0.0)
        except TimeoutError as error:
            raise DeadlineExceeded("query timed out before a worker could process it") from error
        return _response(result)

    async def _ask(
        self, execution: Execution, question: query.WorkflowQuery, ends: float
    ) -> query.WorkflowQueryResult:
        """The answer; `ends`: when the caller stops waiting, in the time of the event loop."""
        execution = await self._first_task_done(execution)
        state = execution.state
        if state.running and state.workflow_task is not None:
            result = await self._with_next_task(execution, question)
            if result is not None:
                return result
            execution = await self._executions.get(execution.execution_id)
        return await self._directly(execution, question, ends)

    async def _first_task_done(self, execution: Execution) -> Execution:
        """A workflow can answer only after its first workflow task."""
        while execution.state.running and not execution.state.last_completed_event_id:
            await self._executions.wait_for_change(execution, 60.0)
            execution = await self._executions.get(execution.execution_id)
        return execution

    async def _with_next_task(
        self, execution: Execution, question: query.WorkflowQuery
    ) -> query.WorkflowQueryResult | None:
        waiting = self._buffered.setdefault(execution.execution_id, {})
        if len(waiting) >= self._executions.config.buffered_queries_max:
            raise ResourceExhausted("too many queries wait for this workflow; try again")
        pending = self._pending(question)
        waiting[pending.query_id] = pending
        elsewhere = self._unless_done_elsewhere(execution, pending)
        try:
            return await pending.answer
        finally:
            if elsewhere is not None:
                elsewhere.cancel()
            waiting.pop(pending.query_id, None)
            if not waiting:
                self._buffered.pop(execution.execution_id, None)

    def _unless_done_elsewhere(
        self, execution: Execution, pending: PendingQuery
    ) -> "asyncio.Task[None] | None":
        """The task that is pending now may go to a worker at another server, which knows nothing of
        the query: when it is over, the query goes to a worker directly."""
        if self._executions.nodes is None:
            return None
        task = execution.state.workflow_task
        scheduled_event_id = task.scheduled_event_id if task is not None else 0

        async def watch() -> None:
            found = execution
            while found.state.running and (task := found.state.workflow_task) is not None:
                if task.scheduled_event_id != scheduled_event_id:
                    break
                await self._executions.wait_for_change(found, 60.0)
                found = await self._executions.get(execution.execution_id)
            await asyncio.sleep(ANSWER_ON_ITS_WAY_S)
            if not pending.answer.done():
                pending.answer.set_result(None)

        return asyncio.create_task(watch())

    async def _directly(
        self, execution: Execution, question: query.WorkflowQuery, ends: float
    ) -> query.WorkflowQueryResult:
        pending = self._pending(question)
        self._direct[pending.query_id] = pending
        try:
            state = execution.state
            sticky = QueueKey(state.namespace_id, TaskKind.WORKFLOW, state.sticky_queue)
            within_ns = int(self._executions.config.sticky_poller_unavailable_s * 1e9)
            route = versioning.route(state)
            seconds = max(state.sticky_timeout_ns / 1e9, 0.1)
            kept = state.sticky_queue and self._executions.dispatch.stays(state, route)
            if kept and self._polled_within(sticky, within_ns):
                task = QueryTask(pending.query_id, execution, question, sticky=True, route=route)
                result = await self._offer(sticky, task, pending, seconds)
                if result is not None:
                    return result
            return await self._any_worker(execution, pending, ends)
        finally:
            self._direct.pop(pending.query_id, None)

    async def _any_worker(
        self, execution: Execution, pending: PendingQuery, ends: float
    ) -> query.WorkflowQueryResult:
        """A worker may just be starting: that there is none is said when the wait is nearly over."""
        state = execution.state
        route = versioning.route(state)
        key = QueueKey(state.namespace_id, TaskKind.WORKFLOW, state.task_queue)
        within_ns = int(self._executions.config.query_poller_unavailable_s * 1e9)
        key = self._executions.routes.place(key, route, state.workflow_id)
        task = QueryTask(pending.query_id, execution, pending.question, sticky=False, route=route)
        wait_s = ends - NO_POLLER_MARGIN_S - asyncio.get_running_loop().time()
        result = await self._offer(key, task, pending, max(wait_s, 0.0))
        if result is None:
            if not self._polled_lately(key, within_ns):
                raise FailedPrecondition(NO_POLLER)
            again = replace(task, taken=False, ticket=0)
            result = await self._offer(key, again, pending, None)
            assert result is not None
        return result

    async def _offer(
        self,
        key: QueueKey,
        task: QueryTask,
        pending: PendingQuery,
        untaken_s: float | None,
    ) -> query.WorkflowQueryResult | None:
        """Queue the task; None if no worker takes it within `untaken_s`."""
        self._matching.add(key, task)
        elsewhere = self._offered_elsewhere(key, task, pending, untaken_s)
        try:
            if untaken_s is not None:
                await asyncio.wait([pending.answer], timeout=untaken_s)
                if not pending.answer.done() and await self.take(task):
                    return None
            return await asyncio.shield(pending.answer)
        finally:
            self._matching.withdraw(key, task)
            if elsewhere is not None:
                elsewhere.cancel()

    # --- Other servers ------------------------------------------------------------------------

    def _polled_within(self, key: QueueKey, within_ns: int) -> bool:
        """Whether a worker waits for the queue, or did lately, at any server."""
        return self._matching.polled_within(key, within_ns) or bool(
            self._polled_elsewhere(key, within_ns)
        )

    def _polled_lately(self, key: QueueKey, within_ns: int) -> bool:
        """The same, even if it has left since."""
        return self._matching.polled_lately(key, within_ns) or bool(
            self._polled_elsewhere(key, within_ns)
        )

    def _polled_elsewhere(self, key: QueueKey, within_ns: int) -> set[int]:
        nodes = self._executions.nodes
        now_ns = self._executions.clock()
        return set() if nodes is None else nodes.polled_within(key, within_ns, now_ns)

    def _offered_elsewhere(
        self, key: QueueKey, task: QueryTask, pending: PendingQuery, untaken_s: float | None
    ) -> "asyncio.Task[None] | None":
        """What no worker takes at once goes to other servers too, as long as this is not cancelled."""
        nodes = self._executions.nodes
        if nodes is None or nodes.alone() or task.taken:
            return None
        config = self._executions.config
        offered_s = config.query_timeout_s if untaken_s is None else untaken_s
        lately_ns = int(config.sticky_poller_unavailable_s * 1e9)

        async def offer() -> None:
            asked: set[int] = set()
            to_ask: set[int] = set()
            letter: QueryAsked | None = None
            if not self._matching.polled_within(key, lately_ns):
                to_ask = self._polled_elsewhere(key, lately_ns)
            try:
                while not task.taken:
                    asked |= to_ask
                    try:
                        if to_ask:
                            letter = letter or await self._letter(key, task, offered_s)
                        if letter is not None and not task.taken:
                            await nodes.send_all(to_ask, letter)
                    except Refusal:
                        asked -= to_ask  # The database is away: again in a moment.
                    await asyncio.sleep(ASK_ALL_AFTER_S)
                    to_ask = set(nodes.others) - asked
            finally:
                if asked:
                    nodes.say(QueryOver(pending.query_id))

        return asyncio.create_task(offer())

    async def _letter(self, key: QueueKey, task: QueryTask, offered_s: float) -> QueryAsked:
        """From now on whoever gives the query to a worker, here too, takes its ticket first."""
        assert self._executions.nodes is not None
        ticket = await self._executions.nodes.board.put_ticket()
        task.ticket = ticket
        execution_id, question = task.execution.execution_id, task.query.SerializeToString()
        return QueryAsked(
            task.query_id, execution_id, question, key.name, task.sticky, offered_s, ticket
        )

    async def take(self, task: QueryTask) -> bool:
        """For a worker that waits, or so that none gets it any more; False if it is taken, here or by another
        server."""
        if task.taken:
            return False
        task.taken = True
        if not task.ticket:
            return True
        assert self._executions.nodes is not None
        return await self._executions.nodes.board.take_ticket(task.ticket)

    def answered_elsewhere(self, letter: QueryAnswered) -> None:
        """A worker has given the answer to another server."""
        self._answer(letter.query_id, query.WorkflowQueryResult.FromString(letter.result))

    async def offer_for_another(self, asked: QueryAsked) -> None:
        """Another server asks a worker that polls here."""
        execution = await self._executions.get(asked.execution_id)
        key = QueueKey(execution.state.namespace_id, TaskKind.WORKFLOW, asked.queue)
        question = query.WorkflowQuery.FromString(asked.question)
        route = versioning.route(execution.state)
        if not asked.sticky:
            key = self._executions.routes.place(key, route, execution.state.workflow_id)
        task = QueryTask(
            asked.query_id, execution, question, asked.sticky, route, ticket=asked.ticket
        )
        self.over_elsewhere(asked.query_id)
        self._for_others[asked.query_id] = key, task
        self._matching.add(key, task)
        end = asyncio.get_running_loop().call_later
        end(asked.untaken_s, self._withdraw_for_other, asked.query_id, task)

    def _withdraw_for_other(self, query_id: str, task: QueryTask) -> None:
        _, offered = self._for_others.get(query_id, (None, None))
        if offered is task:
            self.over_elsewhere(query_id)

    def over_elsewhere(self, query_id: str) -> None:
        """Nobody waits any more for what another server asked this one to offer."""
        if query_id in self._for_others:
            key, task = self._for_others.pop(query_id)
            self._matching.withdraw(key, task)

    def _answer(self, query_id: str, result: query.WorkflowQueryResult) -> None:
        pending = self._direct.get(query_id)
        if pending is not None and not pending.answer.done():
            pending.answer.set_result(result)

    # --- The worker's side --------------------------------------------------------------------

    def attach(self, execution_id: int) -> dict[str, query.WorkflowQuery]:
        """The queries that travel with a workflow task, by id."""
        waiting = self._buffered.get(execution_id, {})
        return {query_id: pending.question for query_id, pending in waiting.items()}

    def answer_attached(
        self, execution: Execution, results: dict[str, query.WorkflowQueryResult]
    ) -> None:
        """A workflow task is completed: hand out its answers. What it did not answer goes with the
        next task, or, if none is pending, to a worker directly."""
        for query_id, pending in list(self._buffered.get(execution.execution_id, {}).items()):
            if pending.answer.done():
                continue
            if query_id in results:
                pending.answer.set_result(results[query_id])
            elif execution.state.workflow_task is None:
                pending.answer.set_result(None)

    async def answer_direct(
        self, namespace_id: str, request: ws.RespondQueryTaskCompletedRequest
    ) -> None:
        """RespondQueryTaskCompleted; one whose caller has gone away is dropped."""
        token = tokens.decode_query(request.task_token, namespace_id)
        result = query.WorkflowQueryResult(
            result_type=request.completed_type,
            answer=request.query_result if request.HasField("query_result") else None,
            error_message=request.error_message,
            failure=request.failure if request.HasField("failure") else None,
        )
        nodes, node = self._executions.nodes, asked_at(token.query_id)
        if nodes is None or node == nodes.node:
            self._answer(token.query_id, result)
        elif node in nodes.others:
            await nodes.send(node, QueryAnswered(token.query_id, result.SerializeToString()))

    def _pending(self, question: query.WorkflowQuery) -> PendingQuery:
        """Its id says where the answer is waited for."""
        nodes = self._executions.nodes
        query_id = nodes.new_id() if nodes is not None else str(uuid.uuid4())
        return PendingQuery(query_id, question, asyncio.get_running_loop().create_future())


NOT_CLEAN = frozenset(
    (
        workflow_enums.WORKFLOW_EXECUTION_STATUS_FAILED,
        workflow_enums.WORKFLOW_EXECUTION_STATUS_CANCELED,
        workflow_enums.WORKFLOW_EXECUTION_STATUS_TERMINATED,
        workflow_enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT,
        workflow_enums.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW,
    )
)


def _rejected(
    execution: Execution, condition: query_enums.QueryRejectCondition.ValueType
) -> query.QueryRejected | None:
    state = execution.state
    if state.held:
        return query.QueryRejected(status=PAUSED)
    not_open = condition == query_enums.QUERY_REJECT_CONDITION_NOT_OPEN and not state.running
    not_clean = (
        condition == query_enums.QUERY_REJECT_CONDITION_NOT_COMPLETED_CLEANLY
        and state.status in NOT_CLEAN
    )
    if not_open or not_clean:
        return query.QueryRejected(status=state.status)  # type: ignore[arg-type]
    return None


def _response(result: query.WorkflowQueryResult) -> ws.QueryWorkflowResponse:
    if result.result_type == query_enums.QUERY_RESULT_TYPE_FAILED:
        reason = result.failure if result.HasField("failure") else failure.Failure()
        raise QueryFailed(result.error_message, details.QueryFailedFailure(failure=reason))
    response = ws.QueryWorkflowResponse()
    response.query_result.CopyFrom(result.answer)
    return response
