"""The numbered migrations of each database, and what is said of a store that does not fit them.

Rule 1: a migration that was released is never changed; the next number is added, for every database.
Rule 2: a migration only adds, so that servers of this version and of the one before work side by side: what
        they write must be complete, and what they say in ON CONFLICT must be there. What nobody uses any
        more is removed by a later version.
Rule 3: a store on PostgreSQL says from which schema on programs can serve it: those of the version before may
        be started on it, beside those that brought it up to date or in their place.
"""

from importlib import resources

from durably.store.store import StoreTooNew

SERVED_FROM = 7
"""Programs that know this schema or a later one can serve a store that has all migrations of this one. It is
raised with a migration after which the version before cannot work."""


def migrations(folder: str = "") -> list[tuple[int, str]]:
    """(version, SQL) of every migration, in order; those of SQLite are in the folder itself."""
    place = resources.files("durably.store") / "migrations"
    files = (place / folder if folder else place).iterdir()
    found = sorted((f for f in files if f.name.endswith(".sql")), key=lambda f: f.name)
    return [(int(f.name.split("_")[0]), f.read_text()) for f in found]


def refuse_newer(present: int, known: int, served_from: int | None = None) -> None:
    """Raises StoreTooNew for a store that a newer version of this program has brought up to date, unless
    that is said to leave it to programs with the schema `served_from`."""
    if present > known and (served_from is None or known < served_from):
        raise StoreTooNew(
            f"this store has schema {present}, and this version of durably knows {known}:"
            " upgrade durably"
        )
