"""Tokens that a handler's callback gives back: which operation it completes, signed.

Rule 1: a token that this server, or a former one of the same store, did not sign is refused: nobody can
        complete an operation of which he knows no more than its names.
Rule 2: a token is bound to one request: the operation's execution, its scheduling event and its
        request id. Which run of a workflow has the operation by now is decided when it comes back.
"""

import base64
import hashlib
import hmac
import os

import msgspec
from msgspec import Struct

from durably.errors import InvalidArgument
from durably.store.store import Store, made_once

HEADER = "temporal-callback-token"
"""The header that carries a token to the handler and back."""
SYSTEM_URL = "temporal://system"
"""The callback address of handlers that work for this server: the server itself."""

KEY_NAME = "callback_key"
KEY_BYTES = 32


class CallbackToken(Struct, frozen=True, array_like=True, tag="k"):
    """One operation; `kind` is an `engine.state.Kind`."""

    kind: int
    namespace_id: str
    workflow_id: str
    run_id: str
    scheduled_event_id: int
    request_id: str


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(CallbackToken)


class CallbackTokens:
    """Signs and verifies with the key of this store."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    async def of_store(cls, store: Store) -> "CallbackTokens":
        """The key is made once, and kept."""
        return cls(await made_once(store, KEY_NAME, os.urandom(KEY_BYTES)))

    def sign(self, token: CallbackToken) -> str:
        said = _encoder.encode(token)
        return f"{_text(said)}.{_text(self._signature(said))}"

    def verify(self, text: str) -> CallbackToken:
        """Raises InvalidArgument for what was not signed here."""
        said, _, signature = text.partition(".")
        try:
            data = _bytes(said)
            if not hmac.compare_digest(self._signature(data), _bytes(signature)):
                raise InvalidArgument("invalid callback token: it was not made by this server")
            return _decoder.decode(data)
        except (ValueError, msgspec.MsgspecError) as error:
            raise InvalidArgument("invalid callback token") from error

    def _signature(self, data: bytes) -> bytes:
        return hmac.digest(self._key, data, hashlib.sha256)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    """Raises ValueError for what is not base64."""
    padded = text.encode("ascii", "strict") + b"=" * (-len(text) % 4)
    return base64.b64decode(padded, altchars=b"-_", validate=True)
