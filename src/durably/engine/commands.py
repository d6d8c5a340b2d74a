"""A worker's commands become calls on the machines.

Rule 1: all commands of a completed workflow task take effect in one transition, or none does: a bad
        command raises `BadCommand`, the transition is dropped, and the task fails with its cause.
Rule 2: what closes the run is refused while events wait in the buffer that the worker has not seen.
Rule 3: what comes after a closing command is ignored.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from temporalio.api.command.v1 import message_pb2 as command
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import command_type_pb2 as command_types
from temporalio.api.enums.v1 import failed_cause_pb2 as causes
from temporalio.api.history.v1 import message_pb2 as history
from temporalio.api.protocol.v1 import message_pb2 as protocol
from temporalio.api.sdk.v1 import user_metadata_pb2 as sdk
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.config import Config
from durably.engine import (
    activity,
    cron,
    external_workflow,
    nexus_operation,
    timer,
    update,
    workflow,
    workflow_rule,
    workflow_task,
)
from durably.engine import records as r
from durably.engine.callback import machine as callback
from durably.engine.refusals import BadCommand
from durably.engine.times import nanoseconds
from durably.engine.transition import Transition
from durably.engine.versioning import machine as versioning
from durably.engine.versioning.version import UNSPECIFIED, Version, Worker, of_options
from durably.engine.workflow_task import Completion, TaskReference, WorkflowTaskGrant
from durably.errors import FailedPrecondition, InvalidArgument, NamespaceNotFound, NotFound

NexusCommand = command.ScheduleNexusOperationCommandAttributes

CLOSING = frozenset(
    (
        command_types.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION,
        command_types.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION,
        command_types.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION,
        command_types.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION,
    )
)


@dataclass(frozen=True, slots=True)
class CommandContext:
    """What commands need to know beside the state; lookups must not depend on time."""

    config: Config
    namespace_id: Callable[[str], str]
    """Namespace name -> id; raises NamespaceNotFound."""
    check_search_attributes: Callable[[str, common.SearchAttributes], None]
    """Namespace name, attributes; raises InvalidArgument."""
    nexus_endpoint_id: Callable[[str, NexusCommand], str]
    """Namespace name, command -> the id of the endpoint it names; raises NotFound, InvalidArgument."""
    in_version: Callable[[str, str, Version], bool] = lambda namespace_id, queue, version: False
    """(namespace id, task queue, version) -> whether workers of the version poll the queue for
    workflows."""


@dataclass(slots=True)
class CompletedTask:
    """What the worker gets back at once, instead of polling for it."""

    new_task: WorkflowTaskGrant | None = None
    reset_event_id: int = 0
    """Not 0: the task was dropped, and the worker is to forget all that came after this event."""
    activities: list[activity.ActivityGrant] = field(default_factory=list)


def complete_workflow_task(
    t: Transition,
    reference: TaskReference,
    request: ws.RespondWorkflowTaskCompletedRequest,
    context: CommandContext,
) -> CompletedTask:
    """RespondWorkflowTaskCompleted: the task is done and its commands take effect.

    Raises NotFound for a task that is not in flight, BadCommand for a command that is wrong,
    FailedPrecondition if another task is asked for while the workflow is paused.
    """
    workflow_task.in_flight(t.state, reference)
    _check_versioning(t, request)
    if t.state.held and request.force_create_new_workflow_task:
        raise FailedPrecondition(
            "Workflow is paused and force create new workflow task is not allowed."
        )
    _refuse_early_close(t, request)
    _refuse_oversized(request, context.config)
    completed = CompletedTask()
    sent = [u.update_id for u in t.state.updates.values() if u.sent]
    messages = {message.id: message for message in request.messages}
    t.completing = True
    standing = versioning.standing(t.state)
    completed_event_id = 0
    if update.leaves_nothing(t.state, request) and not versioning.moving(t.state):
        completed.reset_event_id = workflow_task.drop(t, reference)
    else:
        completed_event_id = workflow_task.record_completed(t, reference, _completion(request))
    if versioning.moved(standing, versioning.standing(t.state)):
        activity.reroute(t)
    _note_sticky(t, request)
    for each in request.commands:
        if not t.state.running:
            break
        if each.command_type == command_types.COMMAND_TYPE_PROTOCOL_MESSAGE:
            _receive(t, each.protocol_message_command_attributes.message_id, messages)
        else:
            _execute(t, each, completed_event_id, request, context, completed)
    if t.state.running:
        for message_id in list(messages):
            _receive(t, message_id, messages)
        update.reject_unprocessed(t, sent)
    t.completing = False
    if t.state.running:
        _schedule_next(t, request, context, completed)
    return completed


def _refuse_oversized(request: ws.RespondWorkflowTaskCompletedRequest, config: Config) -> None:
    """A run whose worker sends too much can be mended by other code: its task fails, not the run."""
    limit = config.payload_bytes_max
    if request.ByteSize() <= limit:
        return
    names = [command_types.CommandType.Name(each.command_type) for each in request.commands]
    sizes = [each.ByteSize() for each in request.commands]
    names += [f"message {each.id}" for each in request.messages]
    sizes += [each.ByteSize() for each in request.messages]
    for name, size_bytes in zip(names, sizes, strict=True):
        if size_bytes > limit:
            raise BadCommand(
                causes.WORKFLOW_TASK_FAILED_CAUSE_PAYLOADS_TOO_LARGE,
                f"{name} of {size_bytes} bytes exceeds the limit of {limit} bytes"
                " (payload_bytes_max); keep large data elsewhere, and pass a reference to it",
            )


def _receive(t: Transition, message_id: str, messages: dict[str, protocol.Message]) -> None:
    """A message takes effect once: where its command stands, or else after all commands."""
    message = messages.pop(message_id, None)
    if message is None:
        raise BadCommand(
            causes.WORKFLOW_TASK_FAILED_CAUSE_BAD_UPDATE_WORKFLOW_EXECUTION_MESSAGE,
            f"ProtocolMessageCommand names a message that is not in the request: {message_id}",
        )
    update.receive(t, message)


def _check_versioning(t: Transition, request: ws.RespondWorkflowTaskCompletedRequest) -> None:
    if request.versioning_behavior != UNSPECIFIED and _version(request) is None:
        raise InvalidArgument(
            "versioning behavior cannot be specified without deployment options being set with"
            " versioned mode"
        )
    unversioned = versioning.standing(t.state)[1] == UNSPECIFIED
    if unversioned and versioning.compatible_build(t.state.worker_version):
        stays = request.worker_version_stamp.use_versioning or _version(request) is not None
        if not stays:
            raise InvalidArgument("Workflow using versioning must continue to use versioning.")


def _version(request: ws.RespondWorkflowTaskCompletedRequest) -> Version | None:
    return of_options(request.deployment_options)


def _worker(request: ws.RespondWorkflowTaskCompletedRequest) -> Worker:
    """The worker as the one that takes what the completion gives it at once."""
    stamp = request.worker_version_stamp.SerializeToString()
    return Worker(request.identity, _version(request), stamp)


def _completion(request: ws.RespondWorkflowTaskCompletedRequest) -> Completion:
    return Completion(
        identity=request.identity,
        binary_checksum=request.binary_checksum,
        worker_version=_worker_version(request),
        sdk_metadata=request.sdk_metadata if request.HasField("sdk_metadata") else None,
        metering_metadata=request.metering_metadata
        if request.HasField("metering_metadata")
        else None,
        deployment=request.deployment_options.deployment_name,
        version=_version(request),
        behavior=request.versioning_behavior,
    )


def _worker_version(
    request: ws.RespondWorkflowTaskCompletedRequest,
) -> common.WorkerVersionStamp | None:
    """The worker's build: older SDKs send it as a stamp, newer ones as deployment options."""
    if request.HasField("worker_version_stamp"):
        return request.worker_version_stamp
    if request.deployment_options.build_id:
        return common.WorkerVersionStamp(build_id=request.deployment_options.build_id)
    return None


def _refuse_early_close(t: Transition, request: ws.RespondWorkflowTaskCompletedRequest) -> None:
    waiting = t.state.buffered or update.waiting_unsent(t.state)
    if waiting and any(c.command_type in CLOSING for c in request.commands):
        raise BadCommand(causes.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND, "UnhandledCommand")


def _note_sticky(t: Transition, request: ws.RespondWorkflowTaskCompletedRequest) -> None:
    sticky = request.sticky_attributes
    queue = sticky.worker_task_queue.name
    timeout_ns = nanoseconds(sticky.schedule_to_start_timeout)
    state = t.state
    if versioning.moving(state):
        return  # The worker has the workflow in its cache, but will not have its next task.
    if queue and (queue, timeout_ns) != (state.sticky_queue, state.sticky_timeout_ns):
        t.note(r.StickySet(queue, timeout_ns))
    elif not queue and state.sticky_queue:
        t.note(r.StickyCleared())


def _schedule_next(
    t: Transition,
    request: ws.RespondWorkflowTaskCompletedRequest,
    context: CommandContext,
    completed: CompletedTask,
) -> None:
    """Another task, if something happened that the worker has not seen, or it asked for one."""
    moves = versioning.moving(t.state)
    asked = t.task_wanted or request.force_create_new_workflow_task
    wanted = t.state.buffered or asked or moves
    if not (wanted or update.waiting_unsent(t.state)):
        return
    worker = _worker(request)
    returned = request.return_new_workflow_task and (
        versioning.standing(t.state)[2] == worker.version
    )
    workflow_task.schedule(t, dispatch=not returned, speculative=not wanted and returned)
    task = t.state.workflow_task
    if returned and task is not None:
        completed.new_task = workflow_task.start(
            t,
            task.scheduled_event_id,
            task.attempt,
            request.identity,
            t.new_id(),
            context.config,
            worker=worker if worker.version is None else Worker(worker.identity, worker.version),
        )
        # Whoever completes a task and is given the next has the workflow in its cache.
        completed.new_task.sticky = True


def _execute(
    t: Transition,
    each: command.Command,
    completed_event_id: int,
    request: ws.RespondWorkflowTaskCompletedRequest,
    context: CommandContext,
    completed: CompletedTask,
) -> None:
    """One command. The API has 17 kinds; those not built yet fail the task by name."""
    metadata = each.user_metadata if each.HasField("user_metadata") else None
    kind = each.WhichOneof("attributes")
    attributes = getattr(each, kind) if kind else None
    match attributes:
        case command.ScheduleActivityTaskCommandAttributes():
            _schedule_activity(
                t, attributes, completed_event_id, metadata, request, context, completed
            )
        case command.RequestCancelActivityTaskCommandAttributes():
            activity.request_cancel(t, attributes.scheduled_event_id, completed_event_id)
        case command.StartTimerCommandAttributes():
            timer.start(t, attributes, completed_event_id, metadata)
        case command.CancelTimerCommandAttributes():
            timer.cancel(t, attributes, completed_event_id, request.identity)
        case command.RecordMarkerCommandAttributes():
            _record_marker(t, attributes, completed_event_id, metadata)
        case command.UpsertWorkflowSearchAttributesCommandAttributes():
            _upsert_search_attributes(t, attributes, completed_event_id, context)
        case command.ModifyWorkflowPropertiesCommandAttributes():
            _modify_properties(t, attributes, completed_event_id, context)
        case _:
            _execute_beyond(t, each, attributes, completed_event_id, metadata, context)


def _execute_beyond(
    t: Transition,
    each: command.Command,
    attributes: object,
    completed_event_id: int,
    metadata: sdk.UserMetadata | None,
    context: CommandContext,
) -> None:
    """Commands that close this run or reach other executions."""
    config = context.config
    match attributes:
        case command.CompleteWorkflowExecutionCommandAttributes():
            workflow.complete(t, attributes, completed_event_id, metadata)
        case command.FailWorkflowExecutionCommandAttributes():
            workflow.fail(t, attributes, completed_event_id, metadata)
        case command.CancelWorkflowExecutionCommandAttributes():
            workflow.cancel(t, attributes, completed_event_id, metadata)
        case command.ContinueAsNewWorkflowExecutionCommandAttributes():
            cause = causes.WORKFLOW_TASK_FAILED_CAUSE_BAD_CONTINUE_AS_NEW_ATTRIBUTES
            _check_search_attributes(t, context, t.state.namespace, attributes.search_attributes)
            _check_cron(t, attributes.cron_schedule, cause)
            workflow.continue_as_new(
                t, attributes, completed_event_id, metadata, config, context.in_version
            )
        case command.StartChildWorkflowExecutionCommandAttributes():
            namespace_id = _namespace_id(
                t, context, attributes.namespace, external_workflow.BAD_CHILD
            )
            name = attributes.namespace or t.state.namespace
            _check_search_attributes(t, context, name, attributes.search_attributes)
            _check_cron(t, attributes.cron_schedule, external_workflow.BAD_CHILD)
            external_workflow.start_child(
                t, attributes, completed_event_id, metadata, namespace_id, config
            )
        case command.SignalExternalWorkflowExecutionCommandAttributes():
            namespace_id = _namespace_id(
                t, context, attributes.namespace, external_workflow.BAD_SIGNAL
            )
            external_workflow.signal(
                t, attributes, completed_event_id, metadata, namespace_id, config
            )
        case command.RequestCancelExternalWorkflowExecutionCommandAttributes():
            namespace_id = _namespace_id(
                t, context, attributes.namespace, external_workflow.BAD_CANCEL
            )
            external_workflow.request_cancel(
                t, attributes, completed_event_id, metadata, namespace_id, config
            )
        case command.ScheduleNexusOperationCommandAttributes():
            endpoint_id = _nexus_endpoint_id(t, context, attributes)
            nexus_operation.schedule(
                t, attributes, completed_event_id, metadata, endpoint_id, config
            )
        case command.RequestCancelNexusOperationCommandAttributes():
            nexus_operation.request_cancel(t, attributes, completed_event_id, metadata)
        case _:
            name = command_types.CommandType.Name(each.command_type)
            raise BadCommand(
                causes.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND,
                f"{name} is not supported by this server, or its attributes are not set",
            )


def _schedule_activity(
    t: Transition,
    attributes: command.ScheduleActivityTaskCommandAttributes,
    completed_event_id: int,
    metadata: sdk.UserMetadata | None,
    request: ws.RespondWorkflowTaskCompletedRequest,
    context: CommandContext,
    completed: CompletedTask,
) -> None:
    """Schedule; if the worker has room for it, it starts in the same transition."""
    queue = attributes.task_queue.name or t.state.task_queue
    worker = _worker(request)
    eager = (
        attributes.request_eager_execution
        and queue == t.state.task_queue
        and not t.state.held
        and _has_version(t, worker, attributes)
    )
    pending = activity.schedule(
        t, attributes, completed_event_id, metadata, context.config, dispatch=not eager
    )
    if eager and not workflow_rule.pauses(t, pending):
        completed.activities.append(
            activity.start(
                t,
                pending.scheduled_event_id,
                pending.stamp,
                request.identity,
                t.new_id(),
                worker=worker,
            )
        )


def _has_version(
    t: Transition, worker: Worker, attributes: command.ScheduleActivityTaskCommandAttributes
) -> bool:
    """Whether the activity is for workers like this one, which its workflow is for."""
    moves, behavior, version = versioning.standing(t.state)
    if behavior != UNSPECIFIED:
        return not moves and version == worker.version
    return attributes.use_workflow_build_id or not versioning.compatible_build(worker.stamp)


def _record_marker(
    t: Transition,
    attributes: command.RecordMarkerCommandAttributes,
    completed_event_id: int,
    metadata: sdk.UserMetadata | None,
) -> None:
    if not attributes.marker_name:
        raise BadCommand(
            causes.WORKFLOW_TASK_FAILED_CAUSE_BAD_RECORD_MARKER_ATTRIBUTES,
            "MarkerName is not set on RecordMarkerCommand.",
        )
    event = history.MarkerRecordedEventAttributes(
        marker_name=attributes.marker_name,
        details=attributes.details,
        workflow_task_completed_event_id=completed_event_id,
        header=attributes.header if attributes.HasField("header") else None,
        failure=attributes.failure if attributes.HasField("failure") else None,
    )
    t.record(event, user_metadata=metadata)


def _upsert_search_attributes(
    t: Transition,
    attributes: command.UpsertWorkflowSearchAttributesCommandAttributes,
    completed_event_id: int,
    context: CommandContext,
) -> None:
    cause = causes.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES
    if not attributes.search_attributes.indexed_fields:
        raise BadCommand(
            cause, "IndexedFields is not set on UpsertWorkflowSearchAttributesCommand."
        )
    _check_search_attributes(t, context, t.state.namespace, attributes.search_attributes)
    t.record(
        history.UpsertWorkflowSearchAttributesEventAttributes(
            workflow_task_completed_event_id=completed_event_id,
            search_attributes=attributes.search_attributes,
        )
    )
    t.visible = True


def _modify_properties(
    t: Transition,
    attributes: command.ModifyWorkflowPropertiesCommandAttributes,
    completed_event_id: int,
    context: CommandContext,
) -> None:
    cause = causes.WORKFLOW_TASK_FAILED_CAUSE_BAD_MODIFY_WORKFLOW_PROPERTIES_ATTRIBUTES
    if not attributes.HasField("upserted_memo"):
        raise BadCommand(cause, "UpsertedMemo is not set on ModifyWorkflowPropertiesCommand.")
    if attributes.upserted_memo.ByteSize() > context.config.memo_bytes_max:
        raise BadCommand(
            cause,
            f"the upserted memo exceeds the limit of {context.config.memo_bytes_max} bytes",
        )
    t.record(
        history.WorkflowPropertiesModifiedEventAttributes(
            workflow_task_completed_event_id=completed_event_id,
            upserted_memo=attributes.upserted_memo,
        )
    )
    t.visible = True
    callback.invoke_due(t)


def _check_search_attributes(
    t: Transition,
    context: CommandContext,
    namespace: str,
    found: common.SearchAttributes,
) -> None:
    if not found.indexed_fields:
        return
    try:
        context.check_search_attributes(namespace, found)
    except InvalidArgument as error:
        cause = causes.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES
        raise BadCommand(cause, error.message) from error


def _check_cron(
    t: Transition, schedule: str, cause: causes.WorkflowTaskFailedCause.ValueType
) -> None:
    try:
        cron.check(schedule, t.now_ns)
    except InvalidArgument as error:
        raise BadCommand(cause, error.message) from error


def _nexus_endpoint_id(t: Transition, context: CommandContext, attributes: NexusCommand) -> str:
    try:
        return context.nexus_endpoint_id(t.state.namespace, attributes)
    except (InvalidArgument, NotFound) as error:
        raise nexus_operation.bad_schedule(error.message) from error


def _namespace_id(
    t: Transition,
    context: CommandContext,
    name: str,
    cause: causes.WorkflowTaskFailedCause.ValueType,
) -> str:
    if not name or name == t.state.namespace:
        return t.state.namespace_id
    try:
        return context.namespace_id(name)
    except NamespaceNotFound as error:
        raise BadCommand(cause, error.message) from error
