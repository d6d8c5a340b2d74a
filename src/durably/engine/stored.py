"""What is stored, and how it grows.

Rule 1: fields are only ever added, with defaults that are empty: 0, False, "", b"", (), None, a new dict or
        list. A field that is not there, and one that is empty, say the same.
Rule 2: who reads what is stored knows all of it, or refuses it: what a newer version has written is never
        left out, for the next snapshot would not have it.
"""

from collections.abc import Callable
from typing import TypeVar

import msgspec
from msgspec import Struct

K = TypeVar("K", bound=Struct)


class Stored(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Base of states, and of what they are made of."""


class StoredValue(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Base of what does not change: records, and parts of states."""


def reading(known: type[K], newer: type[K]) -> Callable[[bytes], K]:
    """Reads what is stored as `known`; as `newer`, as far as it is known here, if a newer version has added
    something to it. For what may be served like that, and is then not written."""
    whole, in_part = msgspec.msgpack.Decoder(known), msgspec.msgpack.Decoder(newer)

    def read(record: bytes) -> K:
        try:
            return whole.decode(record)
        except msgspec.ValidationError:
            return in_part.decode(record)

    return read
