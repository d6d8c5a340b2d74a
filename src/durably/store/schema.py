"""The numbered migrations of each database, and what is said of a store that does not fit them.

Rule 1: a migration that was released is never changed; the next number is added, for every database.
Rule 2: a migration only adds, so that servers of this version and of the one before work side by side.
"""

from importlib import resources

from durably.store.store import StoreTooNew


def migrations(folder: str = "") -> list[tuple[int, str]]:
    """(version, SQL) of every migration, in order; those of SQLite are in the folder itself."""
    place = resources.files("durably.store") / "migrations"
    files = (place / folder if folder else place).iterdir()
    found = sorted((f for f in files if f.name.endswith(".sql")), key=lambda f: f.name)
    return [(int(f.name.split("_")[0]), f.read_text()) for f in found]


def refuse_newer(present: int, known: int) -> None:
    """Raises StoreTooNew for a store that a newer version of this program has written."""
    if present > known:
        raise StoreTooNew(
            f"this store has schema {present}, and this version of durably knows {known}:"
            " upgrade durably"
        )
