"""Lists and counts: groups, lists of keywords, and which builds have worked on what."""

import json
from typing import Any

import pytest
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.enums.v1 import common_pb2 as enums
from temporalio.api.operatorservice.v1 import request_response_pb2 as ops
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

QUEUE = taskqueue.TaskQueue(name="looked-at")
COLOR = SearchAttributeKey.for_keyword("Color")
COUNT = SearchAttributeKey.for_int("Count")
READY = SearchAttributeKey.for_bool("Ready")
TAGS = SearchAttributeKey.for_keyword_list("Tags")


async def prepare(client: Client) -> None:
    await client.operator_service.add_search_attributes(
        ops.AddSearchAttributesRequest(
            namespace="default",
            search_attributes={
                "Color": enums.INDEXED_VALUE_TYPE_KEYWORD,
                "Count": enums.INDEXED_VALUE_TYPE_INT,
                "Ready": enums.INDEXED_VALUE_TYPE_BOOL,
                "Tags": enums.INDEXED_VALUE_TYPE_KEYWORD_LIST,
            },
        )
    )
    for number, pairs in enumerate(
        (
            (SearchAttributePair(COLOR, "red"), SearchAttributePair(TAGS, ["apple", "pear"])),
            (SearchAttributePair(COLOR, "red"), SearchAttributePair(COUNT, 2)),
            (SearchAttributePair(COLOR, "blue"), SearchAttributePair(READY, True)),
            (),
        )
    ):
        await client.start_workflow(
            f"Type{number % 2}",
            id=f"w{number}",
            task_queue=QUEUE.name,
            search_attributes=TypedSearchAttributes(list(pairs)),
        )


async def groups(client: Client, query: str) -> dict[Any, int]:
    request = ws.CountWorkflowExecutionsRequest(namespace="default", query=query)
    counted = await client.workflow_service.count_workflow_executions(request)
    assert counted.count == sum(group.count for group in counted.groups)
    return {
        (each.group_values[0].metadata["type"].decode(), each.group_values[0].data.decode()): (
            each.count
        )
        for each in counted.groups
    }


async def listed(client: Client, query: str) -> set[str]:
    return {each.id async for each in client.list_workflows(query)}


async def test_counts_are_grouped_by_any_attribute(client: Client) -> None:
    await prepare(client)
    assert await groups(client, "GROUP BY ExecutionStatus") == {("Keyword", '"Running"'): 4}
    assert await groups(client, "WorkflowId != 'w3' GROUP BY WorkflowType") == {
        ("Keyword", '"Type0"'): 2,
        ("Keyword", '"Type1"'): 1,
    }
    assert await groups(client, "GROUP BY Color") == {
        ("Keyword", '"red"'): 2,
        ("Keyword", '"blue"'): 1,
        ("Keyword", "null"): 1,
    }
    assert await groups(client, "GROUP BY Count") == {("Int", "2"): 1, ("Int", "null"): 3}
    assert await groups(client, "GROUP BY Ready") == {("Bool", "true"): 1, ("Bool", "null"): 3}
    assert await groups(client, "GROUP BY CloseTime") == {("Datetime", "null"): 4}
    tags = await groups(client, "GROUP BY Tags")
    assert {json.dumps(json.loads(data)) for _, data in tags} == {'["apple", "pear"]', "null"}
    counted = await client.count_workflows("GROUP BY Color")
    assert {group.group_values[0] for group in counted.groups} >= {"red", "blue"}


async def test_a_value_of_a_list_begins_with_a_text(client: Client) -> None:
    await prepare(client)
    assert await listed(client, "Tags STARTS_WITH 'pea'") == {"w0"}
    assert await listed(client, "Tags STARTS_WITH 'each'") == set()
    assert await listed(client, "Tags NOT STARTS_WITH 'pea'") == {"w1", "w2", "w3"}


async def test_builds_that_have_worked_on_a_workflow_are_found(client: Client) -> None:
    await prepare(client)
    poll = ws.PollWorkflowTaskQueueRequest(namespace="default", task_queue=QUEUE)
    task = await client.workflow_service.poll_workflow_task_queue(poll)
    await client.workflow_service.respond_workflow_task_completed(
        ws.RespondWorkflowTaskCompletedRequest(
            namespace="default",
            task_token=task.task_token,
            worker_version_stamp=common.WorkerVersionStamp(build_id="b1"),
        )
    )
    worked_on = {task.workflow_execution.workflow_id}
    assert await listed(client, "BuildIds = 'unversioned'") == worked_on
    assert await listed(client, "BuildIds IN ('unversioned:b1', 'x')") == worked_on
    assert len(await listed(client, "BuildIds IS NULL")) == 3
    described = await client.get_workflow_handle(*worked_on).describe()
    shown = described.raw_info.search_attributes.indexed_fields["BuildIds"]
    assert json.loads(shown.data) == ["unversioned", "unversioned:b1"]
    assert shown.metadata["type"] == b"KeywordList"


async def test_a_value_that_names_no_type_has_that_of_its_attribute(client: Client) -> None:
    await client.operator_service.add_search_attributes(
        ops.AddSearchAttributesRequest(
            namespace="default",
            search_attributes={"Due": enums.INDEXED_VALUE_TYPE_DATETIME},
        )
    )
    noon_there = common.Payload(
        metadata={"encoding": b"json/plain"}, data=b'"2030-01-01T12:00:00+09:00"'
    )
    await client.workflow_service.start_workflow_execution(
        ws.StartWorkflowExecutionRequest(
            namespace="default",
            workflow_id="due",
            workflow_type=common.WorkflowType(name="Any"),
            task_queue=QUEUE,
            request_id="due",
            search_attributes=common.SearchAttributes(indexed_fields={"Due": noon_there}),
        )
    )
    found = [each.id async for each in client.list_workflows("Due = '2030-01-01T03:00:00Z'")]
    assert found == ["due"]
    (started,) = (await client.get_workflow_handle("due").fetch_history()).events[:1]
    kept = started.workflow_execution_started_event_attributes.search_attributes
    assert kept.indexed_fields["Due"].metadata["type"] == b"Datetime"


async def test_texts_are_found_by_their_words(client: Client) -> None:
    note = SearchAttributeKey.for_text("Note")
    await client.operator_service.add_search_attributes(
        ops.AddSearchAttributesRequest(
            namespace="default", search_attributes={"Note": enums.INDEXED_VALUE_TYPE_TEXT}
        )
    )
    for name, text in (
        ("cafe", "Ein Café, am Rand der Stadt"),
        ("town", "downtown; not far"),
        ("other", "nothing of the kind"),
    ):
        attributes = TypedSearchAttributes([SearchAttributePair(note, text)])
        await client.start_workflow(
            "Type0", id=name, task_queue=QUEUE.name, search_attributes=attributes
        )

    async def found(query: str) -> list[str]:
        return sorted([each.id async for each in client.list_workflows(query)])

    assert await found("Note = 'cafe'") == ["cafe"]
    assert await found("Note = 'STADT'") == ["cafe"]
    assert await found("Note = 'town'") == []
    assert await found("Note = 'far, kind'") == ["other", "town"]
    assert await found("Note IN ('rand', 'far')") == ["cafe", "town"]
    assert await found("Note != 'not'") == ["cafe", "other"]
    assert await found("Note = 'far' AND WorkflowId STARTS_WITH 't'") == ["town"]
    described = await client.get_workflow_handle("cafe").describe()
    assert described.typed_search_attributes[note] == "Ein Café, am Rand der Stadt"
    with pytest.raises(RPCError, match="there is no word in it") as refused:
        await found("Note = '--'")
    assert refused.value.status is RPCStatusCode.INVALID_ARGUMENT
