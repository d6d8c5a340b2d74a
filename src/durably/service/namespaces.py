"""Namespaces and the search attributes that each has: records with no history.

Rule 1: the cache in memory is what the store has; a change is in it only after its commit.
"""

import asyncio
import re
import uuid
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec
from msgspec import Struct, field
from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.enums.v1 import namespace_pb2 as namespace_enums
from temporalio.api.namespace.v1 import message_pb2 as namespace_messages
from temporalio.api.operatorservice.v1 import request_response_pb2 as ops
from temporalio.api.replication.v1 import message_pb2 as replication
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.config import Config
from durably.engine.stored import reading
from durably.engine.times import SECOND_NS, nanoseconds
from durably.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NamespaceAlreadyExists,
    NamespaceDeleted,
    NamespaceNotFound,
    WrittenByNewer,
)
from durably.service.access import Role
from durably.service.admission import Call
from durably.service.shared import Shared
from durably.store.store import Conflict, NamespaceRow, Store
from durably.store.visibility_query import PREDEFINED, SYSTEM_COLUMNS

R = TypeVar("R")

SYSTEM_NAMESPACE = "temporal-system"
CLUSTER = "active"
RETENTION_MIN_NS = 3600 * SECOND_NS
DELETED_ID_CHARS = 5
"""So much of its id is in the name of a namespace that is being deleted, as with Temporal."""
NAME_PATTERN = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_\-.]{1,998}")

SYSTEM_TYPES = {
    "CloseTime": "Datetime",
    "ExecutionDuration": "Int",
    "ExecutionStatus": "Keyword",
    "ExecutionTime": "Datetime",
    "HistoryLength": "Int",
    "HistorySizeBytes": "Int",
    "ParentRunId": "Keyword",
    "ParentWorkflowId": "Keyword",
    "RootRunId": "Keyword",
    "RootWorkflowId": "Keyword",
    "RunId": "Keyword",
    "StartTime": "Datetime",
    "StateTransitionCount": "Int",
    "TaskQueue": "Keyword",
    "WorkflowId": "Keyword",
    "WorkflowType": "Keyword",
} | PREDEFINED


def type_value(name: str) -> common_enums.IndexedValueType.ValueType:
    """`KeywordList` -> INDEXED_VALUE_TYPE_KEYWORD_LIST."""
    screaming = re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()
    return common_enums.IndexedValueType.Value(f"INDEXED_VALUE_TYPE_{screaming}")


def type_name(value: int) -> str:
    screaming = common_enums.IndexedValueType.Name(value)  # type: ignore[arg-type]
    return screaming.removeprefix("INDEXED_VALUE_TYPE_").title().replace("_", "")


class StoredRule(Struct):
    """A workflow rule of a namespace: a serialized WorkflowRule, and the request that made it. What else there
    is to say of one becomes a field of its namespace."""

    rule: bytes
    request_id: str


class Namespace(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One namespace as it is stored; it grows as `engine/stored.py` says."""

    namespace_id: str
    name: str
    version: int = 1
    state: int = namespace_enums.NAMESPACE_STATE_REGISTERED
    description: str = ""
    owner_email: str = ""
    data: dict[str, str] = field(default_factory=dict)
    retention_ns: int = 0
    search_attributes: dict[str, str] = field(default_factory=dict)
    """Custom search attributes: name -> type name."""
    search_attribute_fields: dict[str, str] = field(default_factory=dict)
    """Which field of its type each of them is, as the API shows them: name -> `Keyword01`."""
    remove_after_ns: int = 0
    """Of one that is deleted: until then it can still be described."""
    workflow_rules: dict[str, StoredRule] = field(default_factory=dict)
    """By rule id."""

    @property
    def deleted(self) -> bool:
        return self.state == namespace_enums.NAMESPACE_STATE_DELETED


class NewerNamespace(Namespace, forbid_unknown_fields=False):
    """One to which a newer version has added something. It is served as far as it is known here, and not
    written: that would be lost."""


_decoder = msgspec.msgpack.Decoder(Namespace)
_read = reading(Namespace, NewerNamespace)


FIELD_PATTERN = re.compile(r"(Bool|Datetime|Double|Int|Keyword|KeywordList|Text)\d\d+")


def name_fields(namespace: Namespace) -> None:
    """Give each search attribute that has none a field: the first of its type that is free."""
    fields = namespace.search_attribute_fields
    for name in [name for name in fields if name not in namespace.search_attributes]:
        del fields[name]
    taken = set(fields.values())
    for name, kind in namespace.search_attributes.items():
        if name in fields:
            continue
        number = 1
        while f"{kind}{number:02}" in taken:
            number += 1
        fields[name] = f"{kind}{number:02}"
        taken.add(fields[name])


def _change_aliases(namespace: Namespace, aliases: Mapping[str, str]) -> None:
    """Field -> name: a search attribute is added; without a name it is removed."""
    by_field = {each: name for name, each in namespace.search_attribute_fields.items()}
    for each, name in aliases.items():
        found = FIELD_PATTERN.fullmatch(each)
        if found is None:
            raise InvalidArgument(
                f"{each} is no field of a search attribute: expected a type and two digits, as in"
                " Keyword01"
            )
        if not name:
            removed = by_field.pop(each, None)
            namespace.search_attributes.pop(removed or "", None)
        elif name in namespace.search_attributes:
            continue
        elif each in by_field:
            raise InvalidArgument(
                f"the field {each} is that of {by_field[each]}: its name cannot be changed;"
                " take another field, or remove it first"
            )
        elif name in SYSTEM_COLUMNS or name in PREDEFINED:
            raise InvalidArgument(f"Search attribute {name} is reserved by system.")
        else:
            namespace.search_attributes[name] = found[1]
            namespace.search_attribute_fields[name] = each
            by_field[each] = name


def _update(namespace: Namespace, request: ws.UpdateNamespaceRequest) -> None:
    _change_aliases(namespace, request.config.custom_search_attribute_aliases)
    info = request.update_info
    namespace.description = info.description or namespace.description
    namespace.owner_email = info.owner_email or namespace.owner_email
    namespace.data.update(info.data)
    namespace.state = info.state or namespace.state
    if request.config.HasField("workflow_execution_retention_ttl"):
        retention_ns = nanoseconds(request.config.workflow_execution_retention_ttl)
        _check_retention(retention_ns)
        namespace.retention_ns = retention_ns


def _add_search_attributes(namespace: Namespace, request: ops.AddSearchAttributesRequest) -> None:
    if not request.search_attributes:
        raise InvalidArgument("SearchAttributes are not set on request.")
    for name, value in request.search_attributes.items():
        if name in SYSTEM_COLUMNS or name in PREDEFINED:
            raise InvalidArgument(f"Search attribute {name} is reserved by system.")
        if value == common_enums.INDEXED_VALUE_TYPE_UNSPECIFIED:
            raise InvalidArgument(f"Unknown search attribute type: {value}.")
        kind = type_name(value)
        if namespace.search_attributes.get(name, kind) != kind:
            raise AlreadyExists(f"Search attribute {name} already exists with another type.")
        namespace.search_attributes[name] = kind


def _remove_search_attributes(
    namespace: Namespace, request: ops.RemoveSearchAttributesRequest
) -> None:
    if not request.search_attributes:
        raise InvalidArgument("SearchAttributes are not set on request.")
    for name in request.search_attributes:
        if name in SYSTEM_TYPES:
            raise InvalidArgument(f"Unable to remove non-custom search attributes: {name}.")
        # One that is not there is no error, as with Temporal's server: the call can be repeated.
        namespace.search_attributes.pop(name, None)


def _check_update(request: ws.UpdateNamespaceRequest) -> None:
    """What this server, one cluster without other ones, cannot do to a namespace."""
    if request.promote_namespace:
        raise InvalidArgument(
            "global namespace is not enabled on this cluster, cannot update global namespace or"
            f" promote local namespace: {request.namespace}"
        )
    wanted = request.replication_config
    if wanted.state == namespace_enums.REPLICATION_STATE_HANDOVER:
        raise InvalidArgument("Handover can only be set for global namespace")
    unknown = {wanted.active_cluster_name, *(each.cluster_name for each in wanted.clusters)}
    if unknown - {"", CLUSTER}:
        raise InvalidArgument(
            f"this server has one cluster, {CLUSTER}; a namespace cannot be on another"
        )
    if request.delete_bad_binary:
        raise InvalidArgument(f"Bad binary checksum {request.delete_bad_binary} doesn't exists.")
    if request.config.bad_binaries.binaries:
        raise InvalidArgument(
            "bad binaries are not supported: versions of worker deployments take their place"
        )


class Namespaces(Shared):
    """All namespaces of this store, and the RPCs about them."""

    def __init__(self, store: Store, config: Config, clock: Callable[[], int]) -> None:
        super().__init__()
        self._store = store
        self._clock = clock
        self._config = config
        self._by_name: dict[str, Namespace] = {}
        self._by_id: dict[str, Namespace] = {}
        self.removal_wanted = asyncio.Event()

    async def open(self) -> None:
        """Read what the store has, and make the namespaces that the configuration names."""
        await self.refresh()
        wanted = {SYSTEM_NAMESPACE: "", **dict.fromkeys(self._config.namespaces, "")}
        for name in wanted:
            if name not in self._by_name:
                retention_ns = int(self._config.retention_default_s * SECOND_NS)
                made = Namespace(str(uuid.uuid4()), name, retention_ns=retention_ns)
                made.search_attributes = dict(self._config.search_attributes)
                try:
                    await self._put(made, 0)
                except Conflict:
                    # Another server that shares the store has just made it.
                    await self.refresh()

    async def refresh(self) -> None:
        """Read what the store has."""
        found = {row.namespace_id: row for row in await self._newest(self._store.namespaces)}
        news = False
        for known in list(self._by_id.values()):
            if known.namespace_id not in found:
                self._drop(known)
                news = True
        for row in found.values():
            before = self._by_id.get(row.namespace_id)
            if before is None or before.version < row.version:
                if before is not None:
                    self._drop(before)
                self._keep(_read(row.record))
                news = True
        if news:
            self.generation += 1
            self.removal_wanted.set()

    # --- For other services -------------------------------------------------------------------

    def by_name(self, name: str) -> Namespace:
        found = self._described(name)
        if found.deleted:
            raise NamespaceDeleted(name)
        return found

    def find(self, namespace_id: str) -> Namespace | None:
        return self._by_id.get(namespace_id)

    async def change(self, name: str, change: Callable[[Namespace], R]) -> R:
        """Change a namespace: `change` is done to a copy, again if another change came first."""
        return await self._change(lambda: self.by_name(name), change)

    def all(self) -> list[Namespace]:
        return list(self._by_id.values())

    def id_of(self, name: str) -> str:
        return self.by_name(name).namespace_id

    async def known_id(self, name: str) -> str:
        """The same, also if another server has made it a moment ago."""
        try:
            return self.id_of(name)
        except (NamespaceNotFound, NamespaceDeleted):
            await self.refreshed()
            return self.id_of(name)

    def existing(self) -> list[Namespace]:
        return [each for each in self._by_id.values() if not each.deleted]

    def retention_ns(self, namespace_id: str) -> int:
        found = self._by_id.get(namespace_id)
        return found.retention_ns if found else int(self._config.retention_default_s * SECOND_NS)

    def deleted(self) -> list[Namespace]:
        """Those whose executions are to be removed, and then they themselves."""
        return [each for each in self._by_id.values() if each.deleted]

    async def remove(self, namespace: Namespace) -> None:
        """A deleted namespace whose executions are gone goes too."""
        await self._store.delete_namespace(namespace.namespace_id)
        self._drop(namespace)
        self._wrote()

    # --- RPCs ---------------------------------------------------------------------------------

    async def register_namespace(
        self, request: ws.RegisterNamespaceRequest, call: Call
    ) -> ws.RegisterNamespaceResponse:
        if not NAME_PATTERN.fullmatch(request.namespace):
            raise InvalidArgument(
                "Namespace name must be 2 to 999 letters, digits, '-', '_' or '.',"
                " and begin with a letter or digit."
                if request.namespace
                else "Namespace not set on request."
            )
        if request.namespace in self._by_name:
            raise NamespaceAlreadyExists("Namespace already exists.")
        retention_ns = nanoseconds(request.workflow_execution_retention_period)
        _check_retention(retention_ns)
        made = Namespace(
            namespace_id=str(uuid.uuid4()),
            name=request.namespace,
            description=request.description,
            owner_email=request.owner_email,
            data=dict(request.data),
            retention_ns=retention_ns,
            search_attributes=dict(self._config.search_attributes),
        )
        try:
            await self._put(made, 0)
        except Conflict as error:
            raise NamespaceAlreadyExists("Namespace already exists.") from error
        return ws.RegisterNamespaceResponse()

    async def describe_namespace(
        self, request: ws.DescribeNamespaceRequest, call: Call
    ) -> ws.DescribeNamespaceResponse:
        return self._describe(self._named(request.namespace, request.id))

    async def list_namespaces(
        self, request: ws.ListNamespacesRequest, call: Call
    ) -> ws.ListNamespacesResponse:
        """Those in which the caller may read."""
        names = sorted(
            name
            for name in self._by_name
            if call.caller is None or call.caller.may(Role.READ, name)
        )
        after = request.next_page_token.decode("utf-8", "replace")
        size = request.page_size or 100
        page = [name for name in names if name > after][:size]
        token = page[-1].encode() if len(page) == size and page[-1] != names[-1] else b""
        return ws.ListNamespacesResponse(
            namespaces=[self._describe(self._by_name[name]) for name in page],
            next_page_token=token,
        )

    async def update_namespace(
        self, request: ws.UpdateNamespaceRequest, call: Call
    ) -> ws.UpdateNamespaceResponse:
        if not request.namespace:
            raise InvalidArgument("Namespace not set on request.")

        def change(changed: Namespace) -> Namespace:
            _check_update(request)
            _update(changed, request)
            return changed

        described = self._describe(await self.change(request.namespace, change))
        return ws.UpdateNamespaceResponse(
            namespace_info=described.namespace_info,
            config=described.config,
            replication_config=described.replication_config,
            failover_version=described.failover_version,
            is_global_namespace=described.is_global_namespace,
        )

    async def deprecate_namespace(
        self, request: ws.DeprecateNamespaceRequest, call: Call
    ) -> ws.DeprecateNamespaceResponse:
        def change(changed: Namespace) -> None:
            changed.state = namespace_enums.NAMESPACE_STATE_DEPRECATED

        await self.change(request.namespace, change)
        return ws.DeprecateNamespaceResponse()

    async def delete_namespace(
        self, request: ops.DeleteNamespaceRequest, call: Call
    ) -> ops.DeleteNamespaceResponse:
        """Its name is free at once; its executions are removed afterwards, and then it itself."""
        if request.namespace and request.namespace_id:
            raise InvalidArgument("Only one of namespace name or Id should be set on request.")

        def find() -> Namespace:
            return self._named(request.namespace, request.namespace_id)

        def delete(changed: Namespace) -> str:
            if changed.name == SYSTEM_NAMESPACE:
                raise FailedPrecondition("unable to delete system namespace")
            if not changed.deleted:
                changed.name = f"{changed.name}-deleted-{changed.namespace_id[:DELETED_ID_CHARS]}"
                changed.state = namespace_enums.NAMESPACE_STATE_DELETED
                changed.remove_after_ns = self._clock() + nanoseconds(
                    request.namespace_delete_delay
                )
            return changed.name

        name = await self._change(find, delete)
        self.removal_wanted.set()
        return ops.DeleteNamespaceResponse(deleted_namespace=name)

    async def list_search_attributes(
        self, request: ops.ListSearchAttributesRequest, call: Call
    ) -> ops.ListSearchAttributesResponse:
        custom = self.by_name(request.namespace).search_attributes
        return ops.ListSearchAttributesResponse(
            custom_attributes={name: type_value(kind) for name, kind in custom.items()},
            system_attributes={name: type_value(kind) for name, kind in SYSTEM_TYPES.items()},
        )

    async def get_search_attributes(
        self, request: ws.GetSearchAttributesRequest, call: Call
    ) -> ws.GetSearchAttributesResponse:
        keys = {name: type_value(kind) for name, kind in SYSTEM_TYPES.items()}
        for each in self._by_name.values():
            keys.update({name: type_value(kind) for name, kind in each.search_attributes.items()})
        return ws.GetSearchAttributesResponse(keys=keys)

    async def add_search_attributes(
        self, request: ops.AddSearchAttributesRequest, call: Call
    ) -> ops.AddSearchAttributesResponse:
        def add(changed: Namespace) -> None:
            _add_search_attributes(changed, request)

        await self.change(request.namespace, add)
        return ops.AddSearchAttributesResponse()

    async def remove_search_attributes(
        self, request: ops.RemoveSearchAttributesRequest, call: Call
    ) -> ops.RemoveSearchAttributesResponse:
        def remove(changed: Namespace) -> None:
            _remove_search_attributes(changed, request)

        await self.change(request.namespace, remove)
        return ops.RemoveSearchAttributesResponse()

    # --- Inside -------------------------------------------------------------------------------

    def _named(self, name: str, namespace_id: str) -> Namespace:
        if namespace_id:
            found = self._by_id.get(namespace_id)
            if found is None:
                raise NamespaceNotFound(namespace_id)
            return found
        if not name:
            raise InvalidArgument("Namespace not set on request.")
        return self._described(name)

    def _described(self, name: str) -> Namespace:
        """A namespace by its name, even if it is being deleted."""
        found = self._by_name.get(name)
        if found is None:
            raise NamespaceNotFound(name)
        return found

    def _copy(self, namespace: Namespace) -> Namespace:
        """To be changed. Raises WrittenByNewer."""
        if isinstance(namespace, NewerNamespace):
            raise WrittenByNewer(f"namespace {namespace.name}")
        return _decoder.decode(msgspec.msgpack.encode(namespace))

    async def _change(self, find: Callable[[], Namespace], change: Callable[[Namespace], R]) -> R:
        """Change what `find` finds, found anew each time that another change came first."""
        while True:
            before = find()
            changed = self._copy(before)
            result = change(changed)
            changed.version += 1
            try:
                await self._put(changed, before.version)
            except Conflict:
                await self.refresh()
                continue
            return result

    async def _put(self, namespace: Namespace, expected_version: int) -> None:
        name_fields(namespace)
        row = NamespaceRow(
            namespace.namespace_id,
            namespace.name,
            namespace.version,
            msgspec.msgpack.encode(namespace),
        )
        done = self._store.put_namespace(row, expected_version)
        done.add_done_callback(lambda done: self._written(namespace, done))
        # What is written is kept in memory too, even if the caller has gone away meanwhile.
        await asyncio.shield(done)
        await self.settled()

    def _written(self, namespace: Namespace, done: "asyncio.Future[None]") -> None:
        if done.cancelled() or done.exception() is not None:
            return
        before = self._by_id.get(namespace.namespace_id)
        if before is not None:
            self._drop(before)
        self._keep(namespace)
        self._wrote()

    def _drop(self, namespace: Namespace) -> None:
        if self._by_name.get(namespace.name) is namespace:
            del self._by_name[namespace.name]
        self._by_id.pop(namespace.namespace_id, None)

    def _keep(self, namespace: Namespace) -> None:
        self._by_name[namespace.name] = namespace
        self._by_id[namespace.namespace_id] = namespace

    def _describe(self, namespace: Namespace) -> ws.DescribeNamespaceResponse:
        response = ws.DescribeNamespaceResponse(
            namespace_info=namespace_messages.NamespaceInfo(
                name=namespace.name,
                state=namespace.state,  # type: ignore[arg-type]
                description=namespace.description,
                owner_email=namespace.owner_email,
                data=namespace.data,
                id=namespace.namespace_id,
                capabilities=namespace_messages.NamespaceInfo.Capabilities(
                    eager_workflow_start=True,
                    sync_update=True,
                    async_update=True,
                    poller_autoscaling=True,
                    reported_problems_search_attribute=True,
                    workflow_pause=True,
                    worker_heartbeats=True,
                    worker_poll_complete_on_shutdown=True,
                    standalone_activities=True,
                    standalone_activity_start_delay=True,
                    standalone_activity_operator_commands=True,
                    standalone_activity_batch_operations=True,
                ),
                limits=namespace_messages.NamespaceInfo.Limits(
                    blob_size_limit_error=self._config.payload_bytes_max,
                    memo_size_limit_error=self._config.memo_bytes_max,
                ),
                supports_schedules=True,
            ),
            replication_config=replication.NamespaceReplicationConfig(
                active_cluster_name=CLUSTER,
                clusters=[replication.ClusterReplicationConfig(cluster_name=CLUSTER)],
            ),
        )
        config = response.config
        seconds, nanos = divmod(namespace.retention_ns, SECOND_NS)
        config.workflow_execution_retention_ttl.seconds = seconds
        config.workflow_execution_retention_ttl.nanos = nanos
        fields = namespace.search_attribute_fields
        config.custom_search_attribute_aliases.update({each: n for n, each in fields.items()})
        config.history_archival_state = namespace_enums.ARCHIVAL_STATE_DISABLED
        config.visibility_archival_state = namespace_enums.ARCHIVAL_STATE_DISABLED
        return response


def _check_retention(retention_ns: int) -> None:
    if retention_ns < RETENTION_MIN_NS:
        raise InvalidArgument(
            "A minimum retention period of 1h0m0s is required: set WorkflowExecutionRetentionPeriod."
        )
