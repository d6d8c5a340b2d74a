"""Runs an example as `python FILE ARGUMENTS` does, and ends the process with its last line.

An interpreter that is torn down while a thread of the SDK's core still answers it can crash (SIGSEGV,
SIGABRT), after all the work was done. Whether it does is a race inside the SDK that says nothing of
the example, so the interpreter is not torn down here.
"""

import os
import runpy
import sys
import traceback
from pathlib import Path


def ran(file: str) -> int:
    """The exit code of a program that ended by itself, as the interpreter would give it."""
    sys.path.insert(0, str(Path(file).parent))
    try:
        runpy.run_path(file, run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return ended.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    code = ran(sys.argv[0])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
