"""Workers of the framework examples, in processes and environments of their own."""

import asyncio
import os
from asyncio.subprocess import Process
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/frameworks"
QUIET = {
    # These would call home, or look for a list of prices on the network.
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
}


def python_of(name: str) -> Path:
    found = ROOT / ".frameworks" / name / "bin/python"
    if not found.exists():
        pytest.fail(f"{name} is not installed: `make install-frameworks`")
    return found


T = TypeVar("T")


class FrameworkWorker:
    """`python with_NAME.py`, which is killed at the end."""

    def __init__(self, name: str, address: str, scripted: Any, log: Path) -> None:
        self._log = log
        example = EXAMPLES / f"with_{name.replace('-', '_')}.py"
        self._command = (python_of(name), example, "--address", address)
        self._environment = {
            **os.environ,
            **QUIET,
            "OPENAI_BASE_URL": scripted.url,
            "OPENAI_API_KEY": "none",
            "CITIES_URL": scripted.cities_url,
        }
        # The second process of a framework reads what the first has compiled.
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self._process: Process | None = None

    async def __aenter__(self) -> "FrameworkWorker":
        with self._log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        """SIGKILL: no chance to finish anything."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def until(self, done: Awaitable[T]) -> T:
        """What is waited for; raises with the worker's log if the worker ends before that."""
        assert self._process is not None
        wanted = asyncio.ensure_future(done)
        ended = asyncio.ensure_future(self._process.wait())
        await asyncio.wait({wanted, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not wanted.done():
            wanted.cancel()
            raise RuntimeError(self._log.read_text())
        return wanted.result()
