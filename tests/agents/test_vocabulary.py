"""The vocabulary of outlines, held to what the decoders look for."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from durably.agents import (
    google_adk,
    langchain,
    openai_agents,
    plain,
    pydantic_ai,
    strands,
    vocabulary,
)

DECODERS = (google_adk, langchain, openai_agents, plain, pydantic_ai, strands)

NOT_IN_PAYLOADS = {"agent", "gemini"}
"""A group of a pattern of activity types; part of the names of models."""
WORD = re.compile(r"[A-Za-z][\w.-]+")


@pytest.mark.parametrize("module", DECODERS, ids=lambda module: module.__name__.split(".")[-1])
def test_every_word_that_a_decoder_looks_for_is_in_the_vocabulary(module: ModuleType) -> None:
    """Whatever a decoder compares, or takes by its name, and what `either` makes of it."""
    tree = ast.parse(Path(str(module.__file__)).read_text())
    looked_for: set[str] = set()
    for node in ast.walk(tree):
        looked_for |= {found.value for found in places_of(node) if isinstance(found.value, str)}
    found = {word for word in looked_for if WORD.fullmatch(word)} - NOT_IN_PAYLOADS
    assert found - vocabulary.WORDS == set()
    assert looked_for


def places_of(node: ast.AST) -> Iterator[ast.Constant]:
    """The constants by which something is found or compared: arguments of calls that look, both sides of
    comparisons, subscripts, and keys of tables."""
    inside: list[ast.AST] = []
    match node:
        case ast.Call(func=ast.Name(id="get")):
            inside = node.args[1:]
        case ast.Call(func=ast.Name(id="either")):
            inside = node.args[1:]
            for each in inside:
                if isinstance(each, ast.Constant):
                    first, *rest = each.value.split("_")
                    yield ast.Constant(first + "".join(map(str.title, rest)))
        case ast.Call(func=ast.Attribute(attr="get")):
            inside = node.args[:1]
        case ast.Compare():
            inside = [node.left, *node.comparators]
        case ast.Dict():
            inside = [key for key in node.keys if key is not None]
        case ast.Subscript():
            inside = [node.slice]
    for each in inside:
        elements = each.elts if isinstance(each, ast.Tuple | ast.Set | ast.List) else [each]
        yield from (found for found in elements if isinstance(found, ast.Constant))
