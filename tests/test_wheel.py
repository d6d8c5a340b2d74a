"""What `pip install` gives: the wheel, alone in a fresh environment, is a server that works."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from temporalio.client import Client

from durably.version import VERSION
from tests.processes import ServerProcess

ROOT = Path(__file__).parent.parent
UV = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
# Whatever tells this Python where the sources are would hide that the wheel lacks something.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("PYTHONPATH", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")
}


def run(*command: str, folder: Path) -> str:
    ended = subprocess.run(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
    return ended.stdout


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The `bin` folder of an environment that holds the wheel and what it depends on."""
    run(UV, "build", "--wheel", "--out-dir", str(tmp_path), str(ROOT), folder=tmp_path)
    environment = tmp_path / "environment"
    run(UV, "venv", "--python", sys.executable, str(environment), folder=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    python = environment / "bin" / "python"
    run(UV, "pip", "install", "--python", str(python), str(wheel), folder=tmp_path)
    return environment / "bin"


async def test_the_wheel_serves_workflows(installed: Path, tmp_path: Path) -> None:
    assert run(str(installed / "durably"), "--version", folder=tmp_path) == f"durably {VERSION}\n"
    place = run(
        str(installed / "python"), "-c", "import durably; print(durably.__file__)", folder=tmp_path
    )
    assert Path(place).is_relative_to(installed.parent)
    server = ServerProcess(
        tmp_path / "store.db",
        program=[str(installed / "durably")],
        environment=ENVIRONMENT,
    )
    try:
        server.start()
        client = await Client.connect(server.address)
        handle = await client.start_workflow("W", id="w", task_queue="q")
        assert (await handle.describe()).workflow_type == "W"
        assert server.terminate() == 0
    finally:
        server.kill()
