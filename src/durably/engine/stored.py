"""What is stored, and how it grows.

Rule 1: fields are only ever added, with defaults that are empty: 0, False, "", b"", (), None, a new dict or
        list. A field that is not there, and one that is empty, say the same.
Rule 2: who reads what is stored knows all of it, or refuses it: what a newer version has written is never
        left out, for the next snapshot would not have it.
"""

from msgspec import Struct


class Stored(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Base of states, and of what they are made of."""


class StoredValue(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Base of what does not change: records, and parts of states."""
