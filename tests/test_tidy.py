"""The habits of this project, checked."""

import ast
import dataclasses
import re
import subprocess
from pathlib import Path

import pytest

from durably.config import Config
from durably.service import admission

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
FUNCTION_LINES_MAX = 70


def tracked() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / line for line in listing.stdout.splitlines()]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_functions_are_short(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{node.name}: {length} lines"


def test_every_module_says_its_rules() -> None:
    for path in SOURCES:
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_no_module_is_a_drawer() -> None:
    names = {path.stem for path in SOURCES}
    assert not names & {"util", "utils", "common", "helpers", "helper", "manager", "misc"}


def test_the_engine_asks_no_clock() -> None:
    banned = {"now", "utcnow", "today", "time", "time_ns", "monotonic", "uuid4", "random"}
    for path in (ROOT / "src/durably/engine").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                assert node.func.attr not in banned, f"{path.name}:{node.lineno}"


MUTATORS = {
    *{"add", "append", "clear", "discard", "extend", "insert", "pop", "remove", "setdefault"},
    *{"update", "CopyFrom", "MergeFrom", "ParseFromString"},
}


def written(node: ast.AST) -> list[ast.expr]:
    """What a statement or a call changes in place."""
    if isinstance(node, ast.Assign | ast.Delete):
        return [
            each
            for target in node.targets
            for each in (target.elts if isinstance(target, ast.Tuple) else [target])
        ]
    if isinstance(node, ast.AugAssign | ast.AnnAssign):
        return [node.target]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return [node.func] if node.func.attr in MUTATORS else []
    return []


def is_part_of_a_state(node: ast.expr) -> bool:
    """Whether it is reached from something that is called `state`."""
    reached = node
    while isinstance(reached, ast.Attribute | ast.Subscript):
        reached = reached.value
        name = getattr(reached, "attr", getattr(reached, "id", ""))
        if name == "state":
            return True
    return False


def test_a_state_is_written_where_entries_are_applied_and_nowhere_else() -> None:
    written_in = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if any(is_part_of_a_state(each) for each in written(node)):
                written_in.add(path)
                applies = path.name == "apply.py" or path.parent.name == "apply"
                # How many commits there were is known by the commit alone.
                counts = ast.unparse(node).startswith("state.transitions =")
                assert applies or counts, f"{path}:{node.lineno}: {ast.unparse(node)}"
    assert len(written_in) > 10


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    for setting in dataclasses.fields(Config):
        assert f"`{setting.name}`" in page, setting.name


def test_every_rpc_has_a_row_and_its_state_is_documented() -> None:
    page = (ROOT / "docs/api.md").read_text()
    rows = admission.table(())
    assert len(rows) == sum(len(service.methods) for service in admission.SERVICES)
    for row in rows.values():
        assert f"`{row.name}`" in page, row.name


def test_every_target_has_a_sentence() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z-]+):(.*)$", makefile, re.MULTILINE)
    assert targets
    for name, rest in targets:
        assert "## " in rest, f"make {name}"


def test_the_project_speaks_of_itself_alone() -> None:
    forbidden = re.compile(r"issue #?\d|/work/|\bsubagent\b", re.IGNORECASE)
    for path in tracked():
        if path.suffix in {".py", ".md", ".toml", ".sql"} and path != Path(__file__):
            found = forbidden.search(path.read_text())
            assert found is None, f"{path}: {found.group(0) if found else ''}"
