"""`durably serve` under cProfile: `python -m bench.profiled_server PROFILE serve ...`.

Rule 1: time is the thread's own CPU time, so that waiting (polls, fsync) costs nothing; imports
are done before the profile starts.
Rule 2: every thread of Python's is profiled where the interpreter allows one profiler per thread
(before 3.12); after, the main thread alone, which runs the event loop. Threads of Rust are not
seen by it: the kernel's CPU time per thread, which the benchmark prints beside it, shows them.
"""

import cProfile
import os
import pstats
import sys
import threading
import time
from pathlib import Path

import durably.server  # noqa: F401  imported before the profile, not in it
from durably.cli import app

ONE_PROFILER_PER_THREAD = sys.version_info < (3, 12)


def profile_threads() -> list[cProfile.Profile]:
    """From now on each new thread runs under a profile of its own, which joins the list."""
    profiles: list[cProfile.Profile] = []
    run = threading.Thread.run

    def profiled_run(self: threading.Thread) -> None:
        profile = cProfile.Profile(time.thread_time)
        profiles.append(profile)
        profile.runcall(run, self)

    threading.Thread.run = profiled_run  # type: ignore[method-assign]
    return profiles


def main() -> None:
    path, arguments = Path(sys.argv[1]), sys.argv[2:]
    profiles = profile_threads() if ONE_PROFILER_PER_THREAD else []
    main_profile = cProfile.Profile(time.thread_time)
    try:
        main_profile.runcall(app, arguments, standalone_mode=False)
    finally:
        statistics = pstats.Stats(main_profile)
        for profile in profiles:
            profile.create_stats()
            statistics.add(profile)
        statistics.dump_stats(path)
        # A thread that still runs must not keep a measured server alive.
        os._exit(0)


if __name__ == "__main__":
    main()
