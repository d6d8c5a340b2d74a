"""The documents that the agent reads: real files, cut into passages and indexed for full text.

A passage is a paragraph with the file and line where it begins.
"""

import re
import sqlite3
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = {".md", ".rst", ".txt"}
NAMES = {"METADATA", "README"}
DULL = re.compile(r"licen[sc]e|copying|notice|authors|top_level|entry_points|requirements", re.I)
FILES_MAX = 400
FILE_BYTES_MAX = 400_000
PASSAGE_CHARS = (60, 900)


@dataclass(frozen=True)
class Passage:
    path: str
    line: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.path}:{self.line}"


def default_folder() -> Path:
    """Python's installed packages: their documentation and metadata."""
    return Path(sysconfig.get_paths()["purelib"])


def documents(folder: Path) -> list[Path]:
    """The text and Markdown files below a folder, shortest paths first; licences are left out."""
    found = [
        path
        for path in folder.rglob("*")
        if (path.suffix.lower() in SUFFIXES or path.name in NAMES)
        and not DULL.search(path.name)
        and path.is_file()
        and 200 < path.stat().st_size < FILE_BYTES_MAX
    ]
    return sorted(found, key=lambda path: (len(path.parts), str(path)))[:FILES_MAX]


def passages(path: Path, folder: Path) -> Iterator[Passage]:
    """The paragraphs of a file that are worth quoting."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    begin, block = 0, list[str]()
    for number, line in enumerate([*lines, ""], start=1):
        if line.strip():
            if not block:
                begin = number
            block.append(line)
            continue
        text = "\n".join(block)
        block = []
        low, high = PASSAGE_CHARS
        if low <= len(text) <= high and text.count(" ") > 8:
            yield Passage(str(path.relative_to(folder)), begin, text)


def build_index(folder: Path, database: Path) -> int:
    """Index a folder; how many documents it has."""
    found = documents(folder)
    with sqlite3.connect(database) as connection:
        connection.execute("DROP TABLE IF EXISTS passages")
        connection.execute(
            "CREATE VIRTUAL TABLE passages USING fts5(text, path UNINDEXED, line UNINDEXED)"
        )
        for path in found:
            connection.executemany(
                "INSERT INTO passages VALUES (?, ?, ?)",
                [(p.text, p.path, p.line) for p in passages(path, folder)],
            )
    connection.close()
    return len(found)


def search(database: Path, query: str, limit: int = 5) -> list[Passage]:
    """The passages that match best, by BM25; any of the words may match."""
    words = [word for word in re.findall(r"\w+", query.lower()) if len(word) > 2]
    if not words:
        return []
    connection = sqlite3.connect(database)
    rows = connection.execute(
        "SELECT path, line, text FROM passages WHERE passages MATCH ? ORDER BY rank LIMIT ?",
        (" OR ".join(f'"{word}"' for word in words), limit),
    ).fetchall()
    connection.close()
    return [Passage(path, int(line), text) for path, line, text in rows]
