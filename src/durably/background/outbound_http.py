"""Calls to others over HTTP.

Rule 1: no address is called that `addresses` refuses, whatever name or redirect leads to it: names are
        resolved here, and the addresses that were checked are those that are connected to.
Rule 2: redirects are not followed, cookies are not kept, no proxy or credentials of the environment are
        used.
"""

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from durably.addresses import why_refused
from durably.config import Config

REPLY_BYTES_MAX = 1024 * 1024
"""So much of a reply is read; what follows is dropped."""


Enough = Callable[[str, bytes], bool]
"""(content type, what has come so far) -> whether the rest of the reply is of no use."""


class CallFailed(Exception):
    """Nobody has answered. `str()` says why."""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    reason: str
    headers: Mapping[str, str]
    """Found in any case of their names."""
    body: bytes
    links: tuple[str, ...] = ()
    """The values of all `Nexus-Link` headers."""


class _CheckedResolver(AbstractResolver):
    """Resolves names to those of their addresses that may be called."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._system = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._system.resolve(host, port, family)
        allowed = [each for each in found if not why_refused(each["host"], self._config)]
        if found and not allowed:
            raise OSError(0, why_refused(found[0]["host"], self._config))
        return allowed

    async def close(self) -> None:
        await self._system.close()


class OutboundHttp:
    """An HTTP client that keeps to the rules above. Use it within a running event loop."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._session: aiohttp.ClientSession | None = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=_CheckedResolver(self._config),
                use_dns_cache=False,
                limit=0,
                limit_per_host=self._config.calls_per_destination_max,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=True,
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float
    ) -> Reply:
        """Raises CallFailed if no reply comes, for whatever reason."""
        return await self.request("POST", url, headers, body, timeout_s)

    async def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        timeout_s: float,
        enough: Enough | None = None,
    ) -> Reply:
        """`enough`: says of the content type and what has come so far whether the rest is of use; a
        stream may have no end. Raises CallFailed if no reply comes, for whatever reason."""
        target = URL(url, encoded=True)
        refused = why_refused(target.host or "", self._config)
        if refused:
            raise CallFailed(refused)
        try:
            async with self._opened().request(
                method,
                target,
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
            ) as answer:
                return Reply(
                    answer.status,
                    answer.reason or "",
                    answer.headers,
                    await _read(answer, enough),
                    tuple(answer.headers.getall("Nexus-Link", ())),
                )
        except TimeoutError as error:
            raise CallFailed(f"no reply within {timeout_s:g} seconds") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise CallFailed(str(error) or type(error).__name__) from error


async def _read(answer: aiohttp.ClientResponse, enough: Enough | None) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) >= REPLY_BYTES_MAX:
            break
        if enough is not None and enough(answer.content_type, bytes(body)):
            break
    return bytes(body[:REPLY_BYTES_MAX])
