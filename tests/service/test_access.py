"""Tokens and what they may, without a server."""

import hashlib
from pathlib import Path

import pytest
from temporalio.api.command.v1 import message_pb2 as commands
from temporalio.api.workflowservice.v1 import request_response_pb2 as ws

from durably.errors import PermissionDenied, Unauthenticated
from durably.service import access
from durably.service.access import SESSION_S, Access, Caller, Entry, Role, add_entry

HASH = hashlib.sha256(b"word").hexdigest()


def caller(role: str, *namespaces: str) -> Caller:
    return Caller(Entry("Ada", HASH, role, namespaces))


@pytest.mark.parametrize(
    ("role", "namespaces", "needs", "namespace", "may"),
    [
        ("read", ("*",), Role.READ, "any", True),
        ("read", ("*",), Role.READ, "", True),
        ("read", ("*",), Role.WRITE, "any", False),
        ("write", ("a", "team-*"), Role.WRITE, "a", True),
        ("write", ("a", "team-*"), Role.WRITE, "team-b", True),
        ("write", ("a", "team-*"), Role.READ, "ab", False),
        ("write", ("a.b",), Role.READ, "axb", False),
        ("admin", ("a",), Role.READ, "", False),
        ("admin", ("*",), Role.ADMIN, "", True),
    ],
)
def test_what_a_caller_may(
    role: str, namespaces: tuple[str, ...], needs: Role, namespace: str, may: bool
) -> None:
    assert caller(role, *namespaces).may(needs, namespace) is may


def test_a_workflow_cannot_act_where_its_worker_may_not() -> None:
    request = ws.RespondWorkflowTaskCompletedRequest(namespace="a")
    child = commands.StartChildWorkflowExecutionCommandAttributes(workflow_id="c")
    request.commands.add(start_child_workflow_execution_command_attributes=child)
    caller("write", "a").check("RespondWorkflowTaskCompleted", request)
    for attributes in (
        "start_child_workflow_execution_command_attributes",
        "signal_external_workflow_execution_command_attributes",
        "request_cancel_external_workflow_execution_command_attributes",
    ):
        elsewhere = ws.RespondWorkflowTaskCompletedRequest()
        elsewhere.CopyFrom(request)
        getattr(elsewhere.commands.add(), attributes).namespace = "b"
        with pytest.raises(PermissionDenied, match="role write in the namespace b"):
            caller("write", "a").check("RespondWorkflowTaskCompleted", elsewhere)
        caller("write", "a", "b").check("RespondWorkflowTaskCompleted", elsewhere)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[token]", "cannot be used"),
        ("[[tokens]]\nname = 'a'\n", "unknown tokens"),
        (f"[[token]]\nname='a'\nsha256='{HASH}'\nrole='owner'\nnamespaces=['*']", "role is read"),
        (f"[[token]]\nname='a.b'\nsha256='{HASH}'\nrole='read'\nnamespaces=['*']", "no dot"),
        (
            f"[[token]]\nname='a'\nsha256='{HASH}'\nrole='read'\nnamespaces=[]",
            "namespaces is empty",
        ),
        ("[[token]]\nname='a'\nsha256='word'\nrole='read'\nnamespaces=['*']", "64 hexadecimal"),
        (f"[[token]]\nname='a'\nsha256='{HASH}'\nrole='read'\nnamespaces=['*']\nnote='x'", "note"),
        (f"[[token]]\nname='a'\nsha256='{HASH}'\nrole='read'\nnamespaces=['*']\n" * 2, "two of"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=said):
        access.read_entries(file)


def test_a_file_is_written_whole_and_names_nobody_twice(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    first = add_entry(file, 'Ada "the" \\', "write", ("default",))
    second = add_entry(file, "Bob", "read", ("team-*", "b"))
    assert first != second
    entries = access.read_entries(file)
    assert [each.name for each in entries] == ['Ada "the" \\', "Bob"]
    assert entries[1].namespaces == ("team-*", "b")
    for name, role in (("Bob", "read"), ("Eve", "owner")):
        with pytest.raises(ValueError, match="no token"):
            add_entry(file, name, role, ("*",))
    with pytest.raises(ValueError, match="cannot be written"):
        add_entry(tmp_path / "missing" / "tokens.toml", "a", "read", ("*",))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["tokens.toml"]


def test_sessions_end_with_their_time_and_with_their_token(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    now_ns = [1_000_000_000]
    token = add_entry(file, "Ada", "read", ("*",))
    other = add_entry(file, "Bob", "admin", ("*",))
    tokens = Access(file, b"key", lambda: now_ns[0])
    session = tokens.session(tokens.caller(token))
    assert tokens.caller_of_session(session) is tokens.caller(token)
    # Another server of the same store knows it too.
    assert Access(file, b"key", lambda: now_ns[0]).caller_of_session(session).name == "Ada"
    name, ends_s, signature = session.split(".")
    for wrong in (
        "",
        "a.b.c",
        f"{b'Bob'.hex()}.{ends_s}.{signature}",
        f"{name}.{int(ends_s) + 1}.{signature}",
        f"{name}.{ends_s}.{signature[:-1]}é",
    ):
        with pytest.raises(Unauthenticated):
            tokens.caller_of_session(wrong)
    now_ns[0] += SESSION_S * 1_000_000_000
    with pytest.raises(Unauthenticated):
        tokens.caller_of_session(session)
    fresh = tokens.session(tokens.caller(token))
    known = tokens.caller(token)
    file.write_text(file.read_text().replace(HASH, HASH).replace('"read"', '"write"'))
    assert tokens.load() == 2
    assert known.revoked, "who has another role now is asked again"
    with pytest.raises(Unauthenticated):
        known.need(Role.READ, "a")
    assert tokens.caller(token).role is Role.WRITE
    assert tokens.caller_of_session(fresh).role is Role.WRITE
    file.write_text("")
    assert tokens.load() == 0
    for gone in (token, other):
        with pytest.raises(Unauthenticated):
            tokens.caller(gone)
    with pytest.raises(Unauthenticated):
        tokens.caller_of_session(fresh)
