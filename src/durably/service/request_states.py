"""What clients carry for us between two requests: signed, so that it comes back as it was.

Rule 1: what this store did not sign is refused.
Rule 2: a state is bound to the namespace and the tool that it was made for.
"""

import base64
import hashlib
import hmac
import os

from durably.errors import InvalidArgument
from durably.store.store import Store, made_once

KEY_NAME = "request_state_key"
KEY_BYTES = 32


class RequestStates:
    """Signs and verifies with the key of this store."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    async def of_store(cls, store: Store) -> "RequestStates":
        """The key is made once, and kept."""
        return cls(await made_once(store, KEY_NAME, os.urandom(KEY_BYTES)))

    def sign(self, namespace: str, tool: str, call_id: str) -> str:
        return f"{call_id}.{self._signature(namespace, tool, call_id)}"

    def verify(self, namespace: str, tool: str, text: str) -> str:
        """The id of the call. Raises InvalidArgument."""
        call_id, _, signature = text.rpartition(".")
        expected = self._signature(namespace, tool, call_id)
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            raise InvalidArgument("requestState was not made by this server for this tool")
        return call_id

    def _signature(self, *said: str) -> str:
        text = "\x00".join(said).encode()
        digest = hmac.digest(self._key, text, hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
