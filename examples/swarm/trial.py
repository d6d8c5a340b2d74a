"""Code and its test, run in a process of their own. It is kept apart from here, not from the machine:
let real agents do this in a container."""

import subprocess
import sys
import tempfile
from pathlib import Path

TIMEOUT_S = 30.0
OUTPUT_CHARS_MAX = 2000


def trial(code: str, test: str) -> str:
    """What running the test of a module `solution` said; ends in OK if it passed."""
    with tempfile.TemporaryDirectory(prefix="trial-") as folder:
        (Path(folder) / "solution.py").write_text(code)
        (Path(folder) / "test_solution.py").write_text(test)
        command = [sys.executable, "-m", "unittest", "-v", "test_solution"]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            return f"FAILED: it did not end within {TIMEOUT_S:.0f} s"
    return (done.stdout + done.stderr).strip()[-OUTPUT_CHARS_MAX:]


def passed(output: str) -> bool:
    return output.endswith("OK")
