"""docs/api.md says of each RPC whether it is built; the running server agrees."""

from pathlib import Path

import grpc
import pytest

from durably import Server
from durably.service import admission

PAGE = (Path(__file__).parents[2] / "docs/api.md").read_text()


@pytest.mark.parametrize("path", sorted(admission.table(())))
async def test_the_page_is_true(path: str, durably_server: Server) -> None:
    row = admission.table(())[path]
    built = f"| `{row.name}` | yes |" in PAGE
    async with grpc.aio.insecure_channel(durably_server.address) as channel:
        call = channel.unary_unary(
            path,
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=row.response.FromString,
        )
        status, message = grpc.StatusCode.OK, ""
        try:
            await call(row.request(), timeout=5)
        except grpc.aio.AioRpcError as error:
            status, message = error.code(), error.details() or ""
    assert built or row.name in message
    assert (status is not grpc.StatusCode.UNIMPLEMENTED) == built
    assert status is not grpc.StatusCode.INTERNAL
