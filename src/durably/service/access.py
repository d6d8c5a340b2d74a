"""Who calls, and what they may: tokens, each with a role in some namespaces.

Rule 1: the token itself is kept nowhere: the file has its SHA-256. Tokens are made by `durably token`, of
        random bytes, so there is nothing to guess that a slow hash would protect.
Rule 2: how long a comparison takes says nothing of what was compared.
Rule 3: what a caller may is decided here, from the name of an RPC and the namespaces that its request names.
Rule 4: a file takes effect whole or not at all. What is not in it any more is revoked at once, also for
        who is being served.

    role     may
    ------   ----------------------------------------------------------------------------------------
    read     describe, list, get, count, query
    write    the same, and all that clients and workers do
    admin    the same; namespaces and their search attributes; with `namespaces = ["*"]` Nexus endpoints

Which RPC needs which role is as with Temporal's own server.
"""

import fnmatch
import hashlib
import hmac
import os
import re
import secrets
import tomllib
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from enum import IntEnum
from pathlib import Path
from typing import Any

import msgspec
from google.protobuf.message import Message
from msgspec import Struct
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.errors import PermissionDenied, Unauthenticated
from durably.store.store import Store, made_once

TOKEN_BYTES = 32
TOKEN_PREFIX = "durably_"
EVERYWHERE = "*"
SESSION_S = 12 * 3600
"""How long somebody stays logged in to the console."""
KEY_NAME = "session_key"
KEY_BYTES = 32

CHALLENGE = 'Bearer realm="durably"'
"""What a reply over HTTP says that has the status 401."""
MISSING = (
    "this server asks for a token: send the header `authorization: Bearer TOKEN` (in an SDK: api_key=...);"
    " `durably token` makes one"
)
UNKNOWN = "this token is not known here: it was revoked, or is another server's; `durably token` makes one"


class Role(IntEnum):
    READ = 1
    WRITE = 2
    ADMIN = 3


READING = ("Describe", "List", "Get", "Count", "Query", "Scan", "Validate", "Fetch")
"""So begin the names of RPCs that change nothing."""
READING_POLLS = frozenset(
    (
        "PollActivityExecution",
        "PollNexusOperationExecution",
        "PollWorkflowExecutionTimeSkipping",
        "PollWorkflowExecutionUpdate",
    )
)
ADMINISTERING = frozenset(
    (
        "AddOrUpdateRemoteCluster",
        "AddSearchAttributes",
        "CreateNexusEndpoint",
        "DeleteNamespace",
        "DeleteNexusEndpoint",
        "DeprecateNamespace",
        "RegisterNamespace",
        "RemoveRemoteCluster",
        "RemoveSearchAttributes",
        "UpdateNamespace",
        "UpdateNexusEndpoint",
    )
)
FOR_ALL = frozenset(("GetClusterInfo", "GetSearchAttributes", "GetSystemInfo", "ListNamespaces"))
"""What any caller may ask; the list of namespaces has those in which the caller may read."""
IDS_OF_NAMESPACES = {"DescribeNamespace": "id", "DeleteNamespace": "namespace_id"}
"""RPCs that name a namespace by its id, and the field."""


def needed(rpc: str) -> Role:
    """The role that an RPC needs, by its name."""
    if rpc in ADMINISTERING:
        return Role.ADMIN
    if rpc.startswith(READING) or rpc in READING_POLLS:
        return Role.READ
    return Role.WRITE


class Entry(Struct, frozen=True, forbid_unknown_fields=True):
    """One token, as the file has it."""

    name: str
    sha256: str
    """Of the token's text, in hexadecimal digits."""
    role: str
    namespaces: tuple[str, ...]
    """Names, or patterns with `*`; `*` alone: all, and what belongs to no namespace."""

    def fault(self) -> str:
        if not self.name or not self.name.isprintable() or "." in self.name:
            return "a name has printable characters, and no dot"
        if re.fullmatch("[0-9a-f]{64}", self.sha256) is None:
            return "sha256 is 64 hexadecimal digits, in lower case"
        if self.role.upper() not in Role.__members__:
            return "role is read, write or admin"
        return "" if self.namespaces else 'namespaces is empty: ["*"] is all of them'


class Caller:
    """Whoever has a token."""

    def __init__(self, entry: Entry) -> None:
        self.name = entry.name
        self.entry = entry
        self.revoked = False
        self.role = Role[entry.role.upper()]
        self.everywhere = EVERYWHERE in entry.namespaces
        patterns = (fnmatch.translate(each) for each in entry.namespaces)
        self._namespaces = re.compile("|".join(patterns))

    def may(self, role: Role, namespace: str = "") -> bool:
        """Without a namespace: in what belongs to none."""
        if self.revoked or self.role < role:
            return False
        return self.everywhere or bool(namespace and self._namespaces.fullmatch(namespace))

    def need(self, role: Role, namespace: str = "", what: str = "this") -> None:
        """Raises PermissionDenied, Unauthenticated for a token that was revoked meanwhile."""
        if self.may(role, namespace):
            return
        if self.revoked:
            raise Unauthenticated(UNKNOWN)
        where = f"in the namespace {namespace[:200]}" if namespace else 'in all namespaces ("*")'
        raise PermissionDenied(
            f"{what} needs the role {role.name.lower()} {where}; the token {self.name!r} has the role"
            f" {self.role.name.lower()} in {', '.join(self.entry.namespaces)[:500]}"
        )

    def check(self, rpc: str, request: Message) -> None:
        """Whether this may be asked. Raises as `need` does."""
        if self.revoked:
            raise Unauthenticated(UNKNOWN)
        if rpc in FOR_ALL:
            return
        role = needed(rpc)
        fields = request.DESCRIPTOR.fields_by_name
        namespace: str = getattr(request, "namespace", "") if "namespace" in fields else ""
        by_id = IDS_OF_NAMESPACES.get(rpc)
        if by_id is not None and getattr(request, by_id):
            namespace = ""  # The id goes before the name; whose it is only the handler knows.
        self.need(role, namespace, rpc)
        if not self.everywhere and isinstance(request, ws.RespondWorkflowTaskCompletedRequest):
            for other in _namespaces_of_commands(request):
                self.need(role, other, "a command of this workflow")


def _namespaces_of_commands(request: ws.RespondWorkflowTaskCompletedRequest) -> Iterable[str]:
    """Other namespaces in which a workflow starts, signals or cancels something."""
    for command in request.commands:
        kind = command.WhichOneof("attributes")
        if kind is not None:
            namespace = getattr(getattr(command, kind), "namespace", "")
            if namespace and namespace != request.namespace:
                yield namespace


CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""Who makes the request that is being answered. The edge sets it; None where no tokens are asked for, and
in the server's own work, which nobody asks for."""


def need(role: Role, namespace: str = "", what: str = "this") -> None:
    """Whoever calls must have this role. Raises PermissionDenied, Unauthenticated."""
    caller = CALLER.get()
    if caller is not None:
        caller.need(role, namespace, what)


class Access:
    """The tokens of this server."""

    def __init__(self, file: Path, key: bytes, clock: Callable[[], int]) -> None:
        """Raises ValueError for a file that cannot be used. `key` signs the sessions of the console."""
        self._file = file
        self._key = key
        self._clock = clock
        self._salt = os.urandom(32)
        self._callers: dict[bytes, Caller] = {}
        self.load()

    @classmethod
    async def of_store(cls, file: str, store: Store, clock: Callable[[], int]) -> "Access":
        """The key is made once, and kept: sessions go on after a restart, and at other servers."""
        key = await made_once(store, KEY_NAME, os.urandom(KEY_BYTES))
        return cls(Path(file), key, clock)

    def load(self) -> int:
        """Read the file again; returns how many tokens it has. Raises ValueError, and changes nothing."""
        entries = read_entries(self._file)
        kept = {caller.entry: caller for caller in self._callers.values()}
        callers: dict[bytes, Caller] = {}
        for each in entries:
            same = kept.pop(each) if each in kept else Caller(each)
            callers[self._digest(each.sha256)] = same
        for caller in kept.values():
            caller.revoked = True
        self._callers = callers
        return len(callers)

    def caller(self, token: str) -> Caller:
        """Raises Unauthenticated."""
        found = self._callers.get(self._digest(hash_of(token)))
        if found is None:
            raise Unauthenticated(UNKNOWN)
        return found

    def _digest(self, sha256: str) -> bytes:
        """Where it is looked up: keyed by what only this process knows, so that nobody can choose how far
        two of them agree."""
        return hmac.digest(self._salt, sha256.encode(), hashlib.sha256)

    # --- Sessions -----------------------------------------------------------------------------

    def session(self, caller: Caller) -> str:
        """What a browser keeps instead of the token. It ends with the token, and after SESSION_S."""
        ends_s = self._clock() // 1_000_000_000 + SESSION_S
        return f"{caller.name.encode().hex()}.{ends_s}.{self._signature(caller, ends_s)}"

    def caller_of_session(self, text: str) -> Caller:
        """Raises Unauthenticated."""
        name, _, rest = text.partition(".")
        ends, _, signature = rest.partition(".")
        if ends.isascii() and ends.isdigit() and int(ends) * 1_000_000_000 > self._clock():
            for caller in self._callers.values():
                if caller.name.encode().hex() != name:
                    continue
                expected = self._signature(caller, int(ends))
                if hmac.compare_digest(expected.encode(), signature.encode()):
                    return caller
        raise Unauthenticated(UNKNOWN)

    def _signature(self, caller: Caller, ends_s: int) -> str:
        said = f"{caller.entry.sha256}.{ends_s}".encode()
        return hmac.new(self._key, said, hashlib.sha256).hexdigest()


# --- The file ---------------------------------------------------------------------------------


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def read_entries(file: Path) -> list[Entry]:
    """Raises ValueError that says what is wrong."""
    try:
        told = tomllib.loads(file.read_text())
        entries = msgspec.convert(told.get("token", []), list[Entry])
    except (OSError, UnicodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"the tokens in {file} cannot be used: {error}") from error
    unknown = sorted(set(told) - {"token"})
    if unknown:
        raise ValueError(f"the tokens in {file} cannot be used: unknown {', '.join(unknown)}")
    names: set[str] = set()
    for each in entries:
        fault = each.fault() or ("there are two of this name" if each.name in names else "")
        if fault:
            raise ValueError(f"the token {each.name!r} in {file} cannot be used: {fault}")
        names.add(each.name)
    return entries


def add_entry(file: Path, name: str, role: str, namespaces: tuple[str, ...]) -> str:
    """Make a token, and add it to the file, which only its owner can read. Returns the token, which is
    written down nowhere. Raises ValueError."""
    token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    made = Entry(name, hash_of(token), role, namespaces)
    present = read_entries(file) if file.exists() else []
    fault = made.fault() or (
        "there is one of this name" if name in {each.name for each in present} else ""
    )
    if fault:
        raise ValueError(f"no token {name!r} was made: {fault}")
    before = file.read_text() if file.exists() else ""
    written = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(before + ("\n" if before else "") + _text_of(made))
            out.flush()
            os.fsync(out.fileno())
        written.replace(file)
    except OSError as error:
        written.unlink(missing_ok=True)
        raise ValueError(f"{file} cannot be written: {error}") from error
    return token


def _text_of(entry: Entry) -> str:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    fields: dict[str, Any] = {
        "name": quoted(entry.name),
        "sha256": quoted(entry.sha256),
        "role": quoted(entry.role),
        "namespaces": f"[{', '.join(map(quoted, entry.namespaces))}]",
    }
    return "[[token]]\n" + "".join(f"{name} = {value}\n" for name, value in fields.items())
