"""RPCs about standalone activities: start, poll, describe, list, count, cancel, terminate, delete.

Facts: temporal/api/workflowservice/v1/request_response.proto, temporal/api/activity/v1/message.proto.

    the activity is   policy                                    outcome of a start
    ---------------   ---------------------------------------   ------------------------------------
    any               (the same request id)                     it is returned, not started
    running           conflict FAIL, or none given              refused
    running           conflict USE_EXISTING                     returned; on_conflict_options attach
    closed            reuse ALLOW_DUPLICATE, or none given      started
    closed            reuse ALLOW_DUPLICATE_FAILED_ONLY         started if it did not complete
    closed            reuse REJECT_DUPLICATE                    refused
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from temporalio.api.enums.v1 import activity_pb2 as activity_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.config import Config
from durably.engine import priority
from durably.engine.retry import validate_policy
from durably.engine.standalone import machine
from durably.engine.standalone.state import StandaloneActivityState
from durably.engine.state import Kind
from durably.engine.times import nanoseconds
from durably.errors import (
    ActivityExecutionAlreadyStarted,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from durably.service import activity_description, callbacks, links, search_attributes, tokens
from durably.service.admission import Call
from durably.service.breakers import IsBlocked
from durably.service.execution import Execution
from durably.service.ids import new_id
from durably.service.namespaces import Namespace, Namespaces
from durably.service.transact import CONFLICT_RETRIES, Executions
from durably.service.visibility import group_payload
from durably.service.workflows import RUN_ID, poll_seconds
from durably.store import visibility_query
from durably.store.store import Conflict
from durably.store.visibility_query import ACTIVITY_COLUMNS, Query

StandaloneExecution = Execution[StandaloneActivityState]

OneActivityRequest = (
    ws.DescribeActivityExecutionRequest
    | ws.PollActivityExecutionRequest
    | ws.RequestCancelActivityExecutionRequest
    | ws.TerminateActivityExecutionRequest
    | ws.DeleteActivityExecutionRequest
    | ws.PauseActivityExecutionRequest
    | ws.UnpauseActivityExecutionRequest
    | ws.ResetActivityExecutionRequest
    | ws.UpdateActivityExecutionOptionsRequest
)


class StandaloneActivities:
    """Answers RPCs about standalone activities."""

    def __init__(
        self, executions: Executions, namespaces: Namespaces, is_blocked: IsBlocked
    ) -> None:
        self._executions = executions
        self._namespaces = namespaces
        self._is_blocked = is_blocked
        self._config = executions.config

    # --- Start --------------------------------------------------------------------------------

    async def start_activity_execution(
        self, request: ws.StartActivityExecutionRequest, call: Call
    ) -> ws.StartActivityExecutionResponse:
        namespace = self._namespaces.by_name(request.namespace)
        check_start(request, namespace, self._config)
        for _ in range(CONFLICT_RETRIES):
            try:
                run_id, started = await self._start(namespace.namespace_id, request)
            except Conflict:
                continue
            response = ws.StartActivityExecutionResponse(run_id=run_id, started=started)
            response.link.activity.namespace = request.namespace
            response.link.activity.activity_id = request.activity_id
            response.link.activity.run_id = run_id
            return response
        raise Unavailable("this activity id is too busy; try again")

    async def _start(
        self, namespace_id: str, request: ws.StartActivityExecutionRequest
    ) -> tuple[str, bool]:
        """(run id, whether this request started it)."""
        existing: StandaloneExecution | None = await self._executions.find_of_kind(
            Kind.ACTIVITY, namespace_id, request.activity_id
        )
        if existing is not None:
            await self._executions.settled(existing)
            if returned(existing.state, request):
                await self._attach(existing, request)
                return existing.state.run_id, False
        state = StandaloneActivityState(
            namespace_id=namespace_id,
            namespace=request.namespace,
            workflow_id=request.activity_id,
            run_id=new_id(),
        )
        execution = self._executions.create(state, existing.execution_id if existing else 0)
        t = self._executions.begin(state)
        machine.start(t, request, self._config)
        await self._executions.commit([(execution, t)])
        return state.run_id, True

    async def _attach(
        self, existing: StandaloneExecution, request: ws.StartActivityExecutionRequest
    ) -> None:
        """What `on_conflict_options` ask for, unless this very request started it."""
        asked = request.on_conflict_options
        brought = request.completion_callbacks if asked.attach_completion_callbacks else []
        linked = request.links if asked.attach_links else []
        if not (brought or linked) or existing.state.create_request_id == request.request_id:
            return
        try:
            await self._executions.transact(
                existing.execution_id,
                lambda t: machine.attach(t, request.request_id, brought, linked, self._config),
            )
        except FailedPrecondition as refusal:
            if existing.state.closed:
                raise Conflict from refusal  # It closed meanwhile: look again.
            raise

    # --- Describe and poll --------------------------------------------------------------------

    async def describe_activity_execution(
        self, request: ws.DescribeActivityExecutionRequest, call: Call
    ) -> ws.DescribeActivityExecutionResponse:
        """With a token of an earlier description: once there is something newer, or empty."""
        namespace = self._namespaces.by_name(request.namespace)
        self._check_one(request)
        if request.long_poll_token and not request.run_id:
            raise InvalidArgument("run id is required when long poll token is provided")
        execution = await self._find(request)
        if request.long_poll_token:
            seen = tokens.decode_change(request.long_poll_token, execution.state.run_id)
            if not await self._wait(
                execution, lambda state: state.transitions > seen.transitions, call
            ):
                return ws.DescribeActivityExecutionResponse()
        response = await self._executions.read(
            execution.execution_id,
            lambda state: activity_description.describe(state, request, self._is_blocked),
        )
        found = response.info.search_attributes
        search_attributes.with_types(found, namespace.search_attributes)
        return response

    async def poll_activity_execution(
        self, request: ws.PollActivityExecutionRequest, call: Call
    ) -> ws.PollActivityExecutionResponse:
        """The outcome, once there is one; an empty response asks to poll again."""
        self._check_one(request)
        execution = await self._find(request)
        if not await self._wait(execution, lambda state: state.closed, call):
            return ws.PollActivityExecutionResponse()
        return await self._executions.read(
            execution.execution_id,
            lambda state: ws.PollActivityExecutionResponse(
                run_id=state.run_id, outcome=activity_description.outcome(state)
            ),
        )

    async def _wait(
        self,
        execution: StandaloneExecution,
        come: Callable[[StandaloneActivityState], bool],
        call: Call,
    ) -> bool:
        """Whether it came within the time that a long poll lasts."""
        loop = asyncio.get_running_loop()
        longest_s = self._config.activity_poll_timeout_s
        give_up = loop.time() + poll_seconds(longest_s, call, self._executions.clock())
        while not come(execution.state):
            left = give_up - loop.time()
            if left <= 0 or not await self._executions.wait_for_change(execution, left):
                return False
            execution = await self._executions.get(execution.execution_id)
        return True

    # --- List and count -----------------------------------------------------------------------

    async def list_activity_executions(
        self, request: ws.ListActivityExecutionsRequest, call: Call
    ) -> ws.ListActivityExecutionsResponse:
        namespace = self._namespaces.by_name(request.namespace)
        types = namespace.search_attributes
        query = self._query(request.query, types)
        if query.group_by:
            raise InvalidArgument("invalid query: operation is not supported: 'GROUP BY' clause")
        size_max = self._config.list_page_size_max
        size = min(request.page_size, size_max) if request.page_size > 0 else size_max
        rows, token = await self._executions.store.list_executions(
            Kind.ACTIVITY, namespace.namespace_id, query, size, request.next_page_token
        )
        shown = [activity_description.listed(row) for row in rows]
        for info in shown:
            search_attributes.with_types(info.search_attributes, types)
        return ws.ListActivityExecutionsResponse(executions=shown, next_page_token=token)

    async def count_activity_executions(
        self, request: ws.CountActivityExecutionsRequest, call: Call
    ) -> ws.CountActivityExecutionsResponse:
        namespace = self._namespaces.by_name(request.namespace)
        query = self._query(request.query, namespace.search_attributes)
        groups = await self._executions.store.count_executions(
            Kind.ACTIVITY, namespace.namespace_id, query
        )
        response = ws.CountActivityExecutionsResponse(count=sum(count for _, count in groups))
        if query.group_by:
            response.groups.extend(
                ws.CountActivityExecutionsResponse.AggregationGroup(
                    group_values=[group_payload(value, query.group_type)], count=count
                )
                for value, count in groups
            )
        return response

    def _query(self, text: str, types: Mapping[str, str]) -> Query:
        dialect = self._executions.store.dialect
        return visibility_query.parse(text, types, ACTIVITY_COLUMNS, dialect)

    # --- Cancel, terminate, delete ------------------------------------------------------------

    async def request_cancel_activity_execution(
        self, request: ws.RequestCancelActivityExecutionRequest, call: Call
    ) -> ws.RequestCancelActivityExecutionResponse:
        self._check_one(request)
        self._check_command(request)
        execution = await self._find(request)
        await self._executions.transact(
            execution.execution_id,
            lambda t: machine.request_cancel(
                t, request.identity, request.reason, request.request_id
            ),
        )
        return ws.RequestCancelActivityExecutionResponse()

    async def terminate_activity_execution(
        self, request: ws.TerminateActivityExecutionRequest, call: Call
    ) -> ws.TerminateActivityExecutionResponse:
        self._check_one(request)
        self._check_command(request)
        execution = await self._find(request)
        await self._executions.transact(
            execution.execution_id,
            lambda t: machine.terminate(t, request.identity, request.reason, request.request_id),
        )
        return ws.TerminateActivityExecutionResponse()

    async def delete_activity_execution(
        self, request: ws.DeleteActivityExecutionRequest, call: Call
    ) -> ws.DeleteActivityExecutionResponse:
        """A running activity is terminated first."""
        self._check_one(request)
        execution = await self._find(request)
        await self._executions.transact(execution.execution_id, _terminate_if_running)
        await self._executions.delete(execution)
        return ws.DeleteActivityExecutionResponse()

    def _check_one(self, request: OneActivityRequest) -> None:
        check_which(request.activity_id, request.run_id, self._config)

    def _check_command(
        self,
        request: ws.RequestCancelActivityExecutionRequest | ws.TerminateActivityExecutionRequest,
    ) -> None:
        check_request(request, self._config)
        if len(request.reason) > self._config.payload_bytes_max:
            raise InvalidArgument("reason exceeds length limit")

    async def _find(self, request: OneActivityRequest) -> StandaloneExecution:
        namespace_id = self._namespaces.id_of(request.namespace)
        return await find_activity(
            self._executions, namespace_id, request.activity_id, request.run_id
        )


async def find_activity(
    executions: Executions, namespace_id: str, activity_id: str, run_id: str = ""
) -> StandaloneExecution:
    """The activity with this run id, or the latest; NotFound if there is none."""
    found: Execution[Any] | None = None
    if not run_id or RUN_ID.fullmatch(run_id):
        found = await executions.find_of_kind(Kind.ACTIVITY, namespace_id, activity_id, run_id)
    if found is None:
        raise NotFound(f"activity not found for ID: {activity_id}")
    return found


def _terminate_if_running(t: machine.StandaloneTransition) -> None:
    if t.state.running:
        machine.terminate(t, "", "Delete activity execution", t.new_id())


def returned(existing: StandaloneActivityState, request: ws.StartActivityExecutionRequest) -> bool:
    """Whether a start gives back the activity that there is, by the table above; raises
    ActivityExecutionAlreadyStarted where it is refused."""
    if existing.create_request_id == request.request_id or existing.attached_by(request.request_id):
        return True
    if existing.running:
        wanted = activity_enums.ACTIVITY_ID_CONFLICT_POLICY_USE_EXISTING
        if request.id_conflict_policy == wanted:
            return True
        raise _already_started(existing)
    completed = existing.status == activity_enums.ACTIVITY_EXECUTION_STATUS_COMPLETED
    match request.id_reuse_policy:
        case activity_enums.ACTIVITY_ID_REUSE_POLICY_REJECT_DUPLICATE:
            raise _already_started(existing)
        case activity_enums.ACTIVITY_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY if completed:
            raise _already_started(existing)
    return False


def _already_started(existing: StandaloneActivityState) -> ActivityExecutionAlreadyStarted:
    return ActivityExecutionAlreadyStarted(existing.create_request_id, existing.run_id)


# --- Well formed ------------------------------------------------------------------------------


def check_which(activity_id: str, run_id: str, config: Config) -> None:
    if not activity_id:
        raise InvalidArgument("activity ID is required")
    check_length(activity_id, "activity ID", config)
    if run_id and not RUN_ID.fullmatch(run_id):
        raise InvalidArgument("invalid run id: must be a valid UUID")


def check_request(request: Any, config: Config) -> None:
    """The identity and the request id; one is given where the caller gave none."""
    check_length(request.request_id, "request ID", config)
    check_length(request.identity, "identity", config)
    if not request.request_id:
        request.request_id = new_id()


def check_length(text: str, name: str, config: Config) -> None:
    limit = config.identifier_chars_max
    if len(text) > limit:
        raise InvalidArgument(f"{name} exceeds length limit. Length={len(text)} Limit={limit}")


TIMEOUTS = {
    "start_delay": "StartDelay",
    "schedule_to_close_timeout": "ScheduleToCloseTimeout",
    "schedule_to_start_timeout": "ScheduleToStartTimeout",
    "start_to_close_timeout": "StartToCloseTimeout",
    "heartbeat_timeout": "HeartbeatTimeout",
}


def check_start(
    request: ws.StartActivityExecutionRequest, namespace: Namespace, config: Config
) -> None:
    if not request.task_queue.name:
        raise InvalidArgument("missing task queue name")
    if len(request.task_queue.name) > config.identifier_chars_max:
        raise InvalidArgument("taskQueue length exceeds limit")
    for value, name in (
        (request.activity_id, "activityId"),
        (request.activity_type.name, "activityType"),
    ):
        if not value:
            raise InvalidArgument(f"{name} is not set")
        check_length(value, name, config)
    _check_options(request)
    check_request(request, config)
    search_attributes.check(request.search_attributes, namespace.search_attributes)
    if request.input.ByteSize() > config.payload_bytes_max:
        raise InvalidArgument(
            f"input exceeds length limit of {config.payload_bytes_max} bytes (payload_bytes_max)"
        )
    _check_policies(request)
    _check_attachments(request, config)


def _check_options(request: ws.StartActivityExecutionRequest) -> None:
    validate_policy(request.retry_policy)
    try:
        priority.check(request.priority)
    except InvalidArgument as error:
        raise InvalidArgument(f"invalid priorities: {error.message}") from error
    for field, name in TIMEOUTS.items():
        if nanoseconds(getattr(request, field)) < 0:
            raise InvalidArgument(f"invalid {name}: negative duration")
    if not nanoseconds(request.start_to_close_timeout) and not nanoseconds(
        request.schedule_to_close_timeout
    ):
        raise InvalidArgument(
            "a valid StartToCloseTimeout or ScheduleToCloseTimeout must be set on the activity."
            f" ActivityId={request.activity_id} ActivityType={request.activity_type.name}"
        )


def _check_policies(request: ws.StartActivityExecutionRequest) -> None:
    if request.id_reuse_policy not in activity_enums.ActivityIdReusePolicy.values():
        raise InvalidArgument(f"unsupported ID reuse policy: {request.id_reuse_policy}")
    if request.id_conflict_policy not in activity_enums.ActivityIdConflictPolicy.values():
        raise InvalidArgument(f"unsupported ID conflict policy: {request.id_conflict_policy}")


def _check_attachments(request: ws.StartActivityExecutionRequest, config: Config) -> None:
    brought = request.completion_callbacks
    callbacks.check(brought, config)
    links.check(request.links, brought, config)
    asked = request.on_conflict_options
    if asked.attach_completion_callbacks and not asked.attach_request_id:
        raise InvalidArgument(
            "on_conflict_options: attach_completion_callbacks requires attach_request_id to be set"
        )
    if asked.attach_request_id and not brought and not request.links:
        raise InvalidArgument(
            "on_conflict_options: attach_request_id requires at least one completion callback or"
            " link"
        )
