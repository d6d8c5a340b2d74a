"""Runs the published conformance suite of MCP against a server with the workers of our tests.

    python scripts/mcp_conformance.py        needs npm; everything is fetched into .conformance/

Exit code 1 if a scenario fails that is not in NOT_APPLICABLE, or if one of those passes.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.outside import WorkerProcess  # noqa: E402
from tests.processes import ServerProcess  # noqa: E402

PLACE = ROOT / ".conformance"
PACKAGES = ("node@22", "@modelcontextprotocol/conformance@0.2.0-alpha.12")
REVISION = "2026-07-28"

NO_PROMPTS = "the server offers tools alone: no prompts"
NO_RESOURCES = "the server offers tools alone: no resources"
NOT_APPLICABLE = {
    "completion-complete": "completion is for arguments of prompts and resources",
    "resources-list": NO_RESOURCES,
    "resources-read-text": NO_RESOURCES,
    "resources-read-binary": NO_RESOURCES,
    "resources-templates-read": NO_RESOURCES,
    "prompts-list": NO_PROMPTS,
    "prompts-get-simple": NO_PROMPTS,
    "prompts-get-with-args": NO_PROMPTS,
    "prompts-get-embedded-resource": NO_PROMPTS,
    "prompts-get-with-image": NO_PROMPTS,
    "caching": "its checks of tools pass; three are about lists of prompts and resources",
    "input-required-result-non-tool-request": "it asks for a prompt",
}


def install() -> tuple[Path, Path]:
    """(node, the suite's program)"""
    suite = PLACE / "node_modules/@modelcontextprotocol/conformance/dist/index.js"
    node = PLACE / "node_modules/node/bin/node"
    if not (suite.exists() and node.exists()):
        PLACE.mkdir(exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(PLACE), *PACKAGES]
        subprocess.run(command, check=True, cwd=PLACE)
    return node, suite


def main() -> int:
    node, suite = install()
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder) / "store.db").start()
        worker = WorkerProcess(server.address, Path(folder) / "worker.log")
        try:
            worker.start()
            url = f"http://{server.address}/mcp/default"
            command = [str(node), str(suite), "server", "--url", url, "--requirements", REVISION]
            ran = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=900, check=False
            )
        finally:
            worker.kill()
            server.kill()
    scenarios = re.findall(
        r"^([✓✗]) ([\w.-]+): (\d+) passed, (\d+) failed", ran.stdout, re.MULTILINE
    )
    if not scenarios:
        print(ran.stdout, ran.stderr)
        return 1
    surprises = 0
    for mark, name, passed, failed in scenarios:
        expected = "✗" if name in NOT_APPLICABLE else "✓"
        surprises += mark != expected
        reason = f"  {NOT_APPLICABLE[name]}" if name in NOT_APPLICABLE else ""
        print(f"{'' if mark == expected else 'UNEXPECTED '}{mark} {name} {passed}/{failed}{reason}")
    applicable = len(scenarios) - len(NOT_APPLICABLE)
    print(f"{len(scenarios)} scenarios, {applicable} applicable, {surprises} not as expected")
    return 1 if surprises else 0


if __name__ == "__main__":
    sys.exit(main())
