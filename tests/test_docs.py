"""The documentation, held to what is there."""

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from durably import cli

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src/durably"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def section(title: str) -> str:
    """A part of ARCHITECTURE.md, up to the next heading of its level."""
    return ARCHITECTURE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings have, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


def blocks(page: Path, language: str) -> list[str]:
    found = FENCE.findall(page.read_text())
    return [textwrap.dedent(text) for _, kind, text in found if kind == language]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:", target):
            continue
        path, _, fragment = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if fragment:
            assert fragment in anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_blocks_compile(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, name(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for shown in shown_commands(page):
        for target in re.findall(r"(?:^|&& |; )make ([a-z-]+)", shown):
            assert target in targets, shown
        for command, rest in re.findall(r"(?:^|&& |; |\w=\S+ )durably ([a-z]+)(.*)", shown):
            assert command in commands, shown
            options = {o for p in commands[command].params for o in (*p.opts, *p.secondary_opts)}
            for option in re.findall(r"(--[a-z-]+)", rest):
                assert option in options, shown


def shown_commands(page: Path) -> Iterator[str]:
    """Lines of shell blocks, and what stands in single backticks."""
    for block in blocks(page, "sh"):
        yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", prose(page))


def test_the_map_names_every_module_and_no_other() -> None:
    named = re.findall(r"^\| `([\w/]+\.py)` \|", section("Map"), re.MULTILINE)
    modules = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if path.name not in {"__init__.py", "__main__.py"}
    }
    assert len(named) == len(set(named))
    assert set(named) == modules


def test_every_function_that_the_flows_name_exists() -> None:
    flows = section("Flows") + section("Store schema") + section("Where to change what")
    modules: dict[str, list[ast.Module]] = {}
    for path in SOURCE.rglob("*.py"):
        modules.setdefault(path.stem, []).append(ast.parse(path.read_text()))
    named = [dotted.split(".") for dotted in re.findall(r"`([a-z_]+(?:\.\w+)+)`", flows)]
    functions = [(module, rest) for module, *rest in named if module in modules and rest != ["py"]]
    assert len(functions) > 30
    for module, rest in functions:
        assert any(defined(each, rest) for each in modules[module]), f"{module}.{'.'.join(rest)}"


def defined(node: ast.AST, path: list[str]) -> bool:
    """Whether a class or function is defined under this dotted name."""
    if not path:
        return True
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            child.name == path[0]
        ):
            return defined(child, path[1:])
    return False


def test_every_test_that_the_invariants_name_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", section("Invariants"))
    assert named
    for path, test in named:
        source = (ROOT / path).read_text()
        assert re.search(rf"^(?:async )?def {test}\(|^(?:class )?{test}\b", source, re.MULTILINE), (
            f"{path}::{test}"
        )


NOT_YET = {
    "the Schedule API": "CreateSchedule",
    "standalone activities": "StartActivityExecution",
    "Nexus": "PollNexusTaskQueue",
    "worker versioning and deployments": "SetWorkerDeploymentCurrentVersion",
    "batch operations": "StartBatchOperation",
    "pausing a workflow": "PauseWorkflowExecution",
    "workflow rules": "CreateWorkflowRule",
}
"""What README.md lists as not built, and an RPC that shows it; whatever is built leaves the list."""


def test_the_readme_says_what_is_not_built() -> None:
    readme = (ROOT / "README.md").read_text().split("\n## What works")[1].split("\n## ")[0]
    column = " ".join(re.findall(r"^\|[^|]*\|([^|]*)\|$", readme, re.MULTILINE))
    api = (ROOT / "docs/api.md").read_text()
    for phrase, rpc in NOT_YET.items():
        assert (f"| `{rpc}` | no |" in api) == (phrase in column), phrase


def test_the_schema_table_names_every_table() -> None:
    created: set[str] = set()
    tables = re.compile(r"^CREATE (?:UNLOGGED )?TABLE (\w+)", re.MULTILINE)
    for migration in (SOURCE / "store/migrations").rglob("*.sql"):
        created |= set(tables.findall(migration.read_text()))
    named = re.findall(r"^\| `(\w+)` \|", section("Store schema"), re.MULTILINE)
    assert set(named) == created


def test_the_defaults_that_are_documented_are_true() -> None:
    page = (ROOT / "docs/cli.md").read_text()
    serve = typer.main.get_command(cli.app).commands["serve"]  # type: ignore[attr-defined]
    for option in serve.params:
        if option.opts[0] in ("--help", "--set"):
            continue
        row = re.search(rf"^\| `{option.opts[0]}` \| `(\w+)` \| `([^`]*)` \|", page, re.MULTILINE)
        assert row is not None, option.opts
        assert row[1] == option.envvar
        default = "false" if option.default is False else option.default
        assert row[2] == str("default" if default is None else default)
