"""The registry of Nexus endpoints: names under which operations are called, wherever they are handled.

Rule 1: the cache in memory is what the store has; a change is in it only after its commit.
Rule 2: a name is one endpoint's; the id stays when the name changes.
"""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct
from temporalio.api.nexus.v1 import message_pb2 as nexus
from temporalio.api.operatorservice.v1 import request_response_pb2 as ops

from durably.config import Config
from durably.engine.stored import reading
from durably.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NamespaceDeleted,
    NamespaceNotFound,
    NotFound,
    WrittenByNewer,
)
from durably.service import agent_targets
from durably.service.admission import Call
from durably.service.describe import set_time
from durably.service.ids import new_id
from durably.service.namespaces import Namespaces
from durably.service.shared import Shared
from durably.store.store import Conflict, NexusEndpointRow, Store

NAME_PATTERN = re.compile(r"[a-zA-Z][a-zA-Z0-9\-]*[a-zA-Z0-9]")
ID_PATTERN = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
RESERVED_PREFIX = "/_sys/"
URL_PREFIX = "/nexus/endpoints/{}/services"


class StoredEndpoint(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One endpoint as it is stored; it grows as `engine/stored.py` says. `spec`: a serialized EndpointSpec."""

    endpoint_id: str
    version: int
    spec: bytes
    created_ns: int
    modified_ns: int = 0


class NewerEndpoint(StoredEndpoint, frozen=True, forbid_unknown_fields=False):
    """One to which a newer version has added something. It is used as far as it is known here, and not
    written: that would be lost."""


_read = reading(StoredEndpoint, NewerEndpoint)


class Endpoint:
    """One endpoint, ready for use."""

    __slots__ = ("spec", "stored")

    def __init__(self, stored: StoredEndpoint) -> None:
        self.stored = stored
        self.spec = nexus.EndpointSpec.FromString(stored.spec)

    @property
    def endpoint_id(self) -> str:
        return self.stored.endpoint_id

    @property
    def name(self) -> str:
        return self.spec.name

    def shown(self) -> nexus.Endpoint:
        stored = self.stored
        shown = nexus.Endpoint(
            version=stored.version,
            id=stored.endpoint_id,
            spec=self.spec,
            url_prefix=URL_PREFIX.format(stored.endpoint_id),
        )
        set_time(shown.created_time, stored.created_ns)
        set_time(shown.last_modified_time, stored.modified_ns)
        return shown


class NexusEndpoints(Shared):
    """All endpoints of this store, and the RPCs about them."""

    def __init__(
        self, store: Store, namespaces: Namespaces, clock: Callable[[], int], config: Config
    ) -> None:
        super().__init__()
        self._store = store
        self._namespaces = namespaces
        self._clock = clock
        self._config = config
        self._by_id: dict[str, Endpoint] = {}
        self._by_name: dict[str, Endpoint] = {}

    async def open(self) -> None:
        """Read what the store has."""
        await self.refresh()

    async def refresh(self) -> None:
        """Read what the store has."""
        rows = await self._newest(self._store.nexus_endpoints)
        found = [_read(row.record) for row in rows]
        if {each.endpoint_id: each.version for each in found} == {
            each.endpoint_id: each.stored.version for each in self._by_id.values()
        }:
            return
        self.generation += 1
        for known in list(self._by_id.values()):
            self._drop(known)
        for stored in found:
            self._keep(Endpoint(stored))

    # --- For other services -------------------------------------------------------------------

    def id_of(self, name: str) -> str:
        """Raises NotFound."""
        found = self._by_name.get(name)
        if found is None:
            raise NotFound(f'endpoint "{name}" not found')
        return found.endpoint_id

    def find(self, endpoint_id: str, name: str = "") -> Endpoint | None:
        """By its id; one that was deleted may have been made again under its name."""
        return self._by_id.get(endpoint_id) or self._by_name.get(name)

    async def known(self, endpoint_id: str, name: str = "") -> Endpoint | None:
        """The same, also if another server has made it a moment ago."""
        found = self.find(endpoint_id, name)
        if found is None:
            await self.refreshed()
            found = self.find(endpoint_id, name)
        return found

    async def current(self) -> list[Endpoint]:
        """All of them, those too that another server has made a moment ago."""
        await self.refreshed()
        return list(self._by_id.values())

    # --- RPCs ---------------------------------------------------------------------------------

    async def create_nexus_endpoint(
        self, request: ops.CreateNexusEndpointRequest, call: Call
    ) -> ops.CreateNexusEndpointResponse:
        self._check_spec(request.spec)
        taken = AlreadyExists(
            "error creating Nexus endpoint. Endpoint with name"
            f" {request.spec.name} already registered"
        )
        if request.spec.name in self._by_name:
            raise taken
        spec = request.spec.SerializeToString()
        made = Endpoint(StoredEndpoint(new_id(), 1, spec, self._clock()))
        try:
            await self._put(made, 0)
        except Conflict as error:
            raise taken from error
        return ops.CreateNexusEndpointResponse(endpoint=made.shown())

    async def update_nexus_endpoint(
        self, request: ops.UpdateNexusEndpointRequest, call: Call
    ) -> ops.UpdateNexusEndpointResponse:
        self._check_spec(request.spec)
        former = self._by_id.get(request.id)
        if former is None:
            raise NotFound(f"error updating Nexus endpoint. endpoint ID {request.id} not found")
        self._check_version(former, request.version)
        holder = self._by_name.get(request.spec.name)
        if holder is not None and holder is not former:
            raise AlreadyExists(
                f"error updating Nexus endpoint. Endpoint with name {request.spec.name} already"
                " registered"
            )
        stored = former.stored
        if isinstance(stored, NewerEndpoint):
            raise WrittenByNewer(f"endpoint {former.name}")
        changed = Endpoint(
            StoredEndpoint(
                stored.endpoint_id,
                stored.version + 1,
                request.spec.SerializeToString(),
                stored.created_ns,
                self._clock(),
            )
        )
        try:
            await self._put(changed, stored.version)
        except Conflict as error:
            raise FailedPrecondition(
                "the endpoint, or another with its new name, changed meanwhile: get it and try again"
            ) from error
        return ops.UpdateNexusEndpointResponse(endpoint=changed.shown())

    async def delete_nexus_endpoint(
        self, request: ops.DeleteNexusEndpointRequest, call: Call
    ) -> ops.DeleteNexusEndpointResponse:
        issues = _id_issues(request.id)
        if request.version <= 0:
            issues.append("endpoint version is non-positive")
        _refuse(issues)
        former = self._by_id.get(request.id)
        if former is None:
            raise NotFound(f"error deleting nexus endpoint with ID: {request.id}")
        await self._store.delete_nexus_endpoint(request.id)
        self._drop(former)
        self._wrote()
        await self.settled()
        return ops.DeleteNexusEndpointResponse()

    async def get_nexus_endpoint(
        self, request: ops.GetNexusEndpointRequest, call: Call
    ) -> ops.GetNexusEndpointResponse:
        _refuse(_id_issues(request.id))
        found = self._by_id.get(request.id)
        if found is None:
            raise NotFound(f"Nexus endpoint with ID `{request.id}` not found")
        return ops.GetNexusEndpointResponse(endpoint=found.shown())

    async def list_nexus_endpoints(
        self, request: ops.ListNexusEndpointsRequest, call: Call
    ) -> ops.ListNexusEndpointsResponse:
        """In the order of their ids; a page's token is the id of the first of the next."""
        if request.name:
            named = self._by_name.get(request.name)
            found = [named.shown()] if named is not None else []
            return ops.ListNexusEndpointsResponse(endpoints=found)
        size_max = self._config.list_page_size_max
        if request.page_size < 0:
            raise InvalidArgument("page_size is negative")
        if request.page_size > size_max:
            raise InvalidArgument(f"page_size exceeds limit of {size_max}")
        size = request.page_size or size_max
        first = request.next_page_token.decode("utf-8", "replace")
        if first and not ID_PATTERN.fullmatch(first):
            raise InvalidArgument("Invalid NextPageToken.")
        ids = sorted(each for each in self._by_id if each >= first)
        return ops.ListNexusEndpointsResponse(
            endpoints=[self._by_id[each].shown() for each in ids[:size]],
            next_page_token=ids[size].encode() if len(ids) > size else b"",
        )

    # --- Inside -------------------------------------------------------------------------------

    async def _put(self, endpoint: Endpoint, expected_version: int) -> None:
        stored = endpoint.stored
        record = msgspec.msgpack.encode(stored)
        row = NexusEndpointRow(stored.endpoint_id, endpoint.name, stored.version, record)
        await self._store.put_nexus_endpoint(row, expected_version)
        former = self._by_id.get(stored.endpoint_id)
        if former is not None:
            self._drop(former)
        self._keep(endpoint)
        self._wrote()
        await self.settled()

    def _keep(self, endpoint: Endpoint) -> None:
        self._by_id[endpoint.endpoint_id] = endpoint
        self._by_name[endpoint.name] = endpoint

    def _drop(self, endpoint: Endpoint) -> None:
        self._by_id.pop(endpoint.endpoint_id, None)
        if self._by_name.get(endpoint.name) is endpoint:
            del self._by_name[endpoint.name]

    def _check_version(self, former: Endpoint, version: int) -> None:
        if version != former.stored.version:
            raise FailedPrecondition(
                f"nexus endpoint version mismatch. received: {version} expected"
                f" {former.stored.version}"
            )

    # --- Well formed --------------------------------------------------------------------------

    def _check_spec(self, spec: nexus.EndpointSpec) -> None:
        """All that is wrong, in one refusal."""
        issues = self._name_issues(spec.name)
        match spec.target.WhichOneof("variant"):
            case "worker":
                issues += self._worker_issues(spec.target.worker)
            case "external":
                issues += self._url_issues(spec.target.external.url)
            case _:
                _refuse([*issues, "empty target variant"])
        limit = self._config.nexus_endpoint_description_bytes_max
        if spec.description.ByteSize() > limit:
            issues.append(f"description size exceeds limit of {limit}")
        _refuse(issues)

    def _name_issues(self, name: str) -> list[str]:
        if not name:
            return ["endpoint name not set"]
        issues = []
        limit = self._config.nexus_endpoint_name_chars_max
        if len(name) > limit:
            issues.append(f"endpoint name exceeds length limit of {limit}")
        if not NAME_PATTERN.fullmatch(name):
            pattern = f"^{NAME_PATTERN.pattern}$".replace("\\", "\\\\")
            issues.append(f'endpoint name must match the regex: "{pattern}"')
        return issues

    def _worker_issues(self, worker: nexus.EndpointTarget.Worker) -> list[str]:
        issues = []
        if not worker.namespace:
            issues.append("target namespace not set")
        else:
            try:
                self._namespaces.by_name(worker.namespace)
            except (NamespaceNotFound, NamespaceDeleted) as error:
                raise FailedPrecondition(
                    f"could not verify namespace referenced by target exists: {error.message}"
                ) from error
        reason = ""
        if not worker.task_queue:
            reason = "taskQueue is not set"
        elif len(worker.task_queue) > self._config.identifier_chars_max:
            reason = "taskQueue length exceeds limit"
        elif worker.task_queue.startswith(RESERVED_PREFIX):
            reason = f"task queue name cannot start with reserved prefix {RESERVED_PREFIX}"
        if reason:
            issues.append(f'invalid target task queue: "{reason}"')
        return issues

    def _url_issues(self, url: str) -> list[str]:
        limit = self._config.nexus_endpoint_url_chars_max
        if not url:
            return ["empty target URL"]
        if len(url) > limit:
            return [f"target URL length exceeds limit of {limit}"]
        protocol, plain = agent_targets.parse(url)
        if protocol != agent_targets.NEXUS:
            return agent_targets.issues(plain, self._config)
        try:
            scheme = urlsplit(url).scheme
        except ValueError as error:
            return [f"invalid target URL: {error}"]
        if scheme not in ("http", "https"):
            return [f'invalid target URL scheme: "{scheme}", expected http or https']
        return []


def _id_issues(endpoint_id: str) -> list[str]:
    if not endpoint_id:
        return ["endpoint ID not set"]
    if not ID_PATTERN.fullmatch(endpoint_id):
        return [f'malformed endpoint ID: "{endpoint_id[:100]}" is not a UUID']
    return []


def _refuse(issues: list[str]) -> None:
    if issues:
        raise InvalidArgument(", ".join(issues))
