"""The programs about Nexus. Rules: see `programs.py`."""

from typing import Any

from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.nexus.v1 import message_pb2 as nexus
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator

from tests.conftest import eventually
from tests.differential.programs import CAUGHT, Stage, program, refusal, result, script
from tests.differential.worker import QUEUE, Step

PEER_SETTINGS = ('system.system.refreshNexusEndpointsMinWait="0s"',)
"""An endpoint is known at once there, too."""

script("nexus_done_at_once", ["nexus", "echo", {"a": [1]}, {"summary": "an echo"}])
script("nexus_with_headers", ["nexus", "echo", 1, {"headers": {"Tone": "loud"}, "close": 60000}])
script("nexus_three_in_turn", *(["nexus", "echo", n, {}] for n in range(3)))
script(
    "nexus_and_an_activity",
    ["together", [["nexus", "echo", 1, {}], ["sleep", 200]]],
    ["activity", "echo", [2], {}],
)
for kind in ("BAD_REQUEST", "NOT_FOUND", "INTERNAL", "UNAVAILABLE", "application"):
    script(f"nexus_refused_{kind.lower()}", ["nexus", "refuse", kind, CAUGHT])
for state in ("FAILED", "CANCELED"):
    script(f"nexus_operation_{state.lower()}", ["nexus", "fail", state, CAUGHT])
script("nexus_refused_and_not_caught", ["nexus", "refuse", "BAD_REQUEST", {}])
script("nexus_no_such_operation", ["nexus", "nothing", 1, {"service": "Desk", **CAUGHT}])
script("nexus_no_such_service", ["nexus", "echo", 1, {"service": "Nothing", **CAUGHT}])
script("nexus_too_slow", ["nexus", "slow", 10000, {"close": 2000, **CAUGHT}])
script("nexus_started_too_late", ["nexus", "slow", 10000, {"start": 2000, **CAUGHT}])


def carried_out(
    name: str,
    steps: list[Step],
    options: dict[str, Any],
    *then: Step,
    ends: bool = True,
) -> None:
    """An operation that a workflow carries out, whose history is compared too; and what its caller
    does then. `ends`: the handler does, sooner or later."""

    async def run(stage: Stage) -> Any:
        handler = stage.id("handler")
        told = await stage.run(["nexus", "do", [handler, steps], options], *then)
        if ends:
            await result(stage.client.get_workflow_handle(handler))
        return told

    run.__name__ = name
    program(run)


carried_out("nexus_by_a_workflow", [["activity", "echo", [1], {}]], {})
carried_out("nexus_by_a_workflow_that_fails", [["fail", "Bad"]], CAUGHT)
carried_out("nexus_by_a_workflow_for_too_long", [["forever"]], {"run": 300, **CAUGHT}, ends=False)
for how in ("WAIT_COMPLETED", "WAIT_REQUESTED", "TRY_CANCEL", "ABANDON"):
    carried_out(
        f"nexus_canceled_{how.lower()}",
        [["reluctantly"]],
        {"cancel": how, "after": 300, **CAUGHT},
        *([["sleep", 1500]] if how == "TRY_CANCEL" else []),
        ends=how != "ABANDON",
    )


@program
async def nexus_operations_are_described(stage: Stage) -> Any:
    handler = stage.id("handler")
    handle = await stage.start(["nexus", "do", [handler, [["forever"]]], {}])
    await stage.idle(handle, 2)
    described = (await handle.describe()).raw_description
    shown = list(described.pending_nexus_operations)
    await handle.terminate()
    await stage.client.get_workflow_handle(handler).terminate()
    return shown


@program
async def nexus_of_nobody(stage: Stage) -> Any:
    """A workflow task with an operation that cannot be scheduled fails."""
    handle = await stage.start(["nexus", "echo", 1, {"endpoint": "nowhere"}])
    failed = event_types.EVENT_TYPE_WORKFLOW_TASK_FAILED

    async def refused() -> bool:
        events = (await handle.fetch_history()).events
        return any(event.event_type == failed for event in events)

    await eventually(refused)
    events = (await handle.fetch_history()).events
    causes = [
        e.workflow_task_failed_event_attributes.cause for e in events if e.event_type == failed
    ]
    await handle.terminate()
    stage.names.clear()  # How often it was tried by then is chance.
    return causes[0]


@program
async def nexus_endpoints(stage: Stage) -> Any:
    service = stage.client.operator_service
    worker_target = nexus.EndpointTarget.Worker(namespace="default", task_queue=QUEUE)
    target = nexus.EndpointTarget(worker=worker_target)
    name = stage.id("endpoint")
    told: list[Any] = []
    for wrong in (
        nexus.EndpointSpec(target=target),
        nexus.EndpointSpec(name="a"),
        nexus.EndpointSpec(name="-a", target=target),
        nexus.EndpointSpec(name="a" * 201, target=target),
        nexus.EndpointSpec(name=name, target={"worker": {"namespace": "default"}}),
        nexus.EndpointSpec(name=name, target={"worker": {"task_queue": QUEUE}}),
        nexus.EndpointSpec(name=name, target={"worker": {"namespace": "no", "task_queue": "q"}}),
        nexus.EndpointSpec(name=name, target={"external": {"url": "ftp://a"}}),
    ):
        request = operator.CreateNexusEndpointRequest(spec=wrong)
        told.append(await refusal(service.create_nexus_endpoint(request)))
    spec = nexus.EndpointSpec(name=name, target=target)
    request = operator.CreateNexusEndpointRequest(spec=spec)
    made = (await service.create_nexus_endpoint(request)).endpoint
    told += [made.version, made.spec, await refusal(service.create_nexus_endpoint(request))]
    update = operator.UpdateNexusEndpointRequest(id=made.id, version=9, spec=spec)
    told.append(await refusal(service.update_nexus_endpoint(update)))
    update.version = 1
    told.append((await service.update_nexus_endpoint(update)).endpoint.version)
    for which in ("", made.id):
        delete = operator.DeleteNexusEndpointRequest(id=which, version=2)
        told.append(await refusal(service.delete_nexus_endpoint(delete)))
    get = operator.GetNexusEndpointRequest(id=made.id)
    told.append(await refusal(service.get_nexus_endpoint(get)))
    return told
