"""The scripted model of the framework examples, with the script of the recorded agents: they ask for the
weather, and answer when they have it."""

import importlib.util
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

PLACE = Path(__file__).parents[2] / "examples/frameworks/endpoint.py"


def _loaded() -> Any:
    """The examples are no package; their endpoint is a file by itself."""
    spec = importlib.util.spec_from_file_location("framework_examples_endpoint", PLACE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


scripted = _loaded()
Endpoint = scripted.Endpoint
MODEL = scripted.MODEL
ANSWER = "It rains in Oslo."
ARGUMENTS = {"city": "Oslo"}
SCRIPT = ((scripted.Ask("get_weather", ARGUMENTS),),)


def endpoint() -> AbstractContextManager[Any]:
    return scripted.endpoint(Endpoint(script=SCRIPT, answer=ANSWER))  # type: ignore[no-any-return]
