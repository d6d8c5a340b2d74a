"""Payloads that are really encrypted, and a codec server for them, as the SDKs' documentation describes one."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf import json_format
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.converter import PayloadCodec

KEY = bytes(range(32))
NONCE_BYTES = 12


def encrypted(payload: Payload, key: bytes = KEY) -> Payload:
    nonce = os.urandom(NONCE_BYTES)
    data = nonce + AESGCM(key).encrypt(nonce, payload.SerializeToString(), None)
    return Payload(metadata={"encoding": b"binary/encrypted", "key-id": b"test"}, data=data)


def decrypted(payload: Payload) -> Payload:
    if payload.metadata.get("encoding") != b"binary/encrypted":
        return payload
    nonce, data = payload.data[:NONCE_BYTES], payload.data[NONCE_BYTES:]
    return Payload.FromString(AESGCM(KEY).decrypt(nonce, data, None))


class Encryption(PayloadCodec):
    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [encrypted(each) for each in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [decrypted(each) for each in payloads]


class Handler(BaseHTTPRequestHandler):
    def do_OPTIONS(self) -> None:
        self._answer(200, b"")

    def do_POST(self) -> None:
        given = self.rfile.read(int(self.headers["content-length"]))
        asked = json_format.Parse(given, Payloads())
        try:
            found = Payloads(payloads=[decrypted(each) for each in asked.payloads])
        except InvalidTag:
            self._answer(400, b"encrypted with another key")
            return
        self._answer(200, json_format.MessageToJson(found).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("access-control-allow-origin", "*")
        self.send_header("access-control-allow-headers", "content-type, x-namespace")
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def codec_server() -> Iterator[str]:
    """Its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
