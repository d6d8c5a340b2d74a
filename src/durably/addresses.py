"""Which addresses the server may call on behalf of its users.

Rule 1: an address that only this network can reach (loopback, private, link-local) is refused, unless
        it is in a network that a setting allows: a URL from a user must not open what is behind the
        firewall.
Rule 2: what is checked is the address that is called, after its name was resolved.
"""

import ipaddress
import re
from functools import lru_cache
from urllib.parse import SplitResult, urlsplit

from durably.config import Config
from durably.errors import InvalidArgument

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses whose last four bytes are an IPv4 address."""


def check_url(url: str, config: Config) -> None:
    """Raises InvalidArgument for a URL that must not be called."""
    if len(url) > config.callback_url_chars_max:
        raise InvalidArgument(
            "invalid url: url length longer than max length allowed of"
            f" {config.callback_url_chars_max}"
        )
    parts = _split(url)
    if parts.scheme not in ("http", "https"):
        raise InvalidArgument(f"invalid url: unknown scheme: {url}")
    if not parts.hostname:
        raise InvalidArgument("invalid url: missing host")
    destination = destination_of(url)
    if not any(_pattern(each).fullmatch(destination) for each in config.callback_addresses):
        raise InvalidArgument(
            f"invalid url: url does not match any configured callback address: {url}"
            " (callback_addresses)"
        )
    refused = why_refused(parts.hostname, config)
    if refused:
        raise InvalidArgument(f"invalid url: {refused}")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise InvalidArgument(f"invalid callback url: {error}") from error
    if re.search(r"[\x00-\x20\x7f]", url):
        raise InvalidArgument("invalid callback url: it has a space or a control character in it")
    return parts


@lru_cache(maxsize=256)
def _pattern(text: str) -> re.Pattern[str]:
    """`*` stands for any characters."""
    return re.compile(".*".join(re.escape(part) for part in text.split("*")), re.IGNORECASE)


def destination_of(url: str) -> str:
    """The part of a URL that says whom to call: scheme, host and port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def why_refused(host: str, config: Config) -> str:
    """Why an address is not called; empty: it is, or `host` is a name that is to be resolved first."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return ""
    address = _as_routed(address)
    if address.is_global and not address.is_multicast:
        return ""
    if any(address in ipaddress.ip_network(each) for each in config.private_networks_allowed):
        return ""
    return f"{host} is a private address, and is in no network of private_networks_allowed"


def _as_routed(address: Address) -> Address:
    """The IPv4 address that an IPv6 address leads to, if it does."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in TRANSLATED:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_loopback(host: str) -> bool:
    """Whether what listens there is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
