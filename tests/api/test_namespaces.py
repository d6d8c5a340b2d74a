"""Namespaces: what they are described by, and what an update of one does."""

import asyncio

import pytest
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from tests.processes import ServerProcess

KEYWORD = common_enums.INDEXED_VALUE_TYPE_KEYWORD
INT = common_enums.INDEXED_VALUE_TYPE_INT


async def describe(client: Client) -> ws.DescribeNamespaceResponse:
    request = ws.DescribeNamespaceRequest(namespace="default")
    return await client.workflow_service.describe_namespace(request)


async def aliases(client: Client) -> dict[str, str]:
    return dict((await describe(client)).config.custom_search_attribute_aliases)


async def set_aliases(client: Client, **wanted: str) -> None:
    request = ws.UpdateNamespaceRequest(namespace="default")
    request.config.custom_search_attribute_aliases.update(wanted)
    await client.workflow_service.update_namespace(request)


async def add(client: Client, **attributes: int) -> None:
    await client.operator_service.add_search_attributes(
        operator.AddSearchAttributesRequest(
            namespace="default",
            search_attributes=attributes,  # type: ignore[arg-type]
        )
    )


async def remove(client: Client, *names: str) -> None:
    await client.operator_service.remove_search_attributes(
        operator.RemoveSearchAttributesRequest(namespace="default", search_attributes=names)
    )


async def attributes(client: Client) -> dict[str, int]:
    request = operator.ListSearchAttributesRequest(namespace="default")
    listed = await client.operator_service.list_search_attributes(request)
    return dict(listed.custom_attributes)


async def test_it_says_what_it_can_do(client: Client) -> None:
    info = (await describe(client)).namespace_info
    assert info.supports_schedules
    able = info.capabilities
    assert able.sync_update
    assert able.async_update
    assert able.eager_workflow_start
    assert able.workflow_pause
    assert able.standalone_activities


async def test_search_attributes_have_fields_as_aliases(client: Client) -> None:
    await add(client, Colour=KEYWORD)
    await add(client, Size=INT, Shape=KEYWORD)
    assert await aliases(client) == {"Keyword01": "Colour", "Keyword02": "Shape", "Int01": "Size"}
    for _ in range(2):
        await remove(client, "Colour")
    assert await aliases(client) == {"Keyword02": "Shape", "Int01": "Size"}
    await add(client, Weight=KEYWORD)
    assert (await aliases(client))["Keyword01"] == "Weight"


async def test_changes_at_the_same_time_are_all_made(client: Client) -> None:
    names = [f"Trait{number}" for number in range(8)]
    await asyncio.gather(*(add(client, **{name: KEYWORD}) for name in names))
    assert sorted(await attributes(client)) == names


async def test_aliases_add_and_remove_search_attributes(client: Client) -> None:
    await set_aliases(client, Keyword03="Colour", Int01="Size")
    assert await attributes(client) == {"Colour": KEYWORD, "Size": INT}
    # The same again changes nothing.
    await set_aliases(client, Keyword03="Colour")
    with pytest.raises(RPCError, match="Keyword03 is that of Colour") as refused:
        await set_aliases(client, Keyword03="Shade")
    assert refused.value.status is RPCStatusCode.INVALID_ARGUMENT
    await set_aliases(client, Keyword03="")
    assert await attributes(client) == {"Size": INT}


async def test_aliases_outlive_the_server(server_process: ServerProcess) -> None:
    client = await Client.connect(server_process.start().address)
    await set_aliases(client, Keyword07="Colour")
    server_process.kill()
    client = await Client.connect(server_process.start().address)
    assert await aliases(client) == {"Keyword07": "Colour"}
