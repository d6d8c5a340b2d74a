"""Fetch uv into .uv/ with nothing but Python's standard library.

For a machine that has python3 and make and neither pip nor venv. The wheel comes from the package
index (PIP_INDEX_URL or UV_INDEX_URL, else PyPI) and is checked against the hash that the index gives.
"""

import hashlib
import html.parser
import io
import os
import platform
import re
import stat
import sys
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

TARGET = Path(".uv")
INDEX = (
    os.environ.get("UV_INDEX_URL") or os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple"
)


class Links(html.parser.HTMLParser):
    """The addresses on an index page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if tag == "a" and href:
            self.found.append(href)


def wheel_pattern() -> "re.Pattern[str]":
    machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    if sys.platform == "darwin":
        kind = f"macosx_.*{'arm64' if machine == 'aarch64' else 'x86_64'}"
    else:
        kind = f"manylinux.*{machine}.*"
    return re.compile(rf"/uv-(\d+)\.(\d+)\.(\d+)-py3-none-{kind}\.whl")


def newest_wheel() -> str:
    page = f"{INDEX.rstrip('/')}/uv/"
    with urllib.request.urlopen(page, timeout=60) as response:
        links = Links()
        links.feed(response.read().decode())
    pattern = wheel_pattern()
    found: list[tuple[tuple[int, ...], str]] = []
    for link in links.found:
        match = pattern.search(link.split("#")[0])
        if match and "#sha256=" in link:
            version = tuple(int(part) for part in match.groups()[:3])
            found.append((version, urllib.parse.urljoin(page, link)))
    if not found:
        sys.exit(f"no uv wheel for this machine at {page}: install uv by hand, then run make again")
    return max(found)[1]


def main() -> None:
    address, _, expected = newest_wheel().partition("#sha256=")
    print(f"fetching {address.rsplit('/', 1)[1]} ...", file=sys.stderr)
    with urllib.request.urlopen(address, timeout=300) as response:
        wheel = response.read()
    if hashlib.sha256(wheel).hexdigest() != expected:
        sys.exit("the wheel of uv is not what the index says it is; nothing was installed")
    binary = TARGET / "bin" / "uv"
    binary.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        name = next(n for n in archive.namelist() if n.endswith("scripts/uv"))
        binary.write_bytes(archive.read(name))
    binary.chmod(binary.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


if __name__ == "__main__":
    main()
