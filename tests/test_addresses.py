"""Which addresses the server calls for its users."""

import pytest

from durably.addresses import check_url, destination_of, why_refused
from durably.config import Config
from durably.errors import InvalidArgument

OPEN = Config(callback_addresses=("http://*", "https://*"))


@pytest.mark.parametrize(
    "host", ["8.8.8.8", "[2001:4860:4860::8888]", "a.example", "64:ff9b::8.8.8.8"]
)
def test_public_addresses_and_names_are_called(host: str) -> None:
    assert why_refused(host, OPEN) == ""


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "[::1]",
        "fe80::1%eth0",
        "fc00::1",
        "::ffff:127.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::10.0.0.1",
    ],
)
def test_others_are_not(host: str) -> None:
    assert "private_networks_allowed" in why_refused(host, OPEN)


def test_a_network_can_be_allowed() -> None:
    config = Config(private_networks_allowed=("10.1.0.0/16", "::1/128"))
    assert why_refused("10.1.2.3", config) == why_refused("::1", config) == ""
    assert why_refused("10.2.0.1", config)


@pytest.mark.parametrize(
    ("pattern", "url", "allowed"),
    [
        ("https://*", "https://a.example/x", True),
        ("https://*", "http://a.example/x", False),
        ("https://*.example", "https://a.b.example/x?y=z", True),
        ("https://*.example", "https://a.example.evil.test/x", False),
        ("https://a.example:8443", "https://A.example:8443/x", True),
        ("https://a.example", "https://a.example:8443/x", False),
        ("https://a.example", "https://a.example@b.example/", False),
    ],
)
def test_a_pattern_is_one_of_scheme_host_and_port(pattern: str, url: str, allowed: bool) -> None:
    config = Config(callback_addresses=(pattern,))
    if allowed:
        check_url(url, config)
    else:
        with pytest.raises(InvalidArgument, match="callback_addresses"):
            check_url(url, config)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "unknown scheme"),
        ("ftp://a.example", "unknown scheme"),
        ("http:///x", "missing host"),
        ("http://a.example:port/", "invalid callback url"),
        ("http://a b/", "a space"),
        ("http://[::1/", "invalid callback url"),
        ("https://a.example/" + "x" * 1000, "longer than"),
    ],
)
def test_what_is_no_address_is_refused(url: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        check_url(url, OPEN)


def test_a_destination_has_no_path_and_no_user() -> None:
    assert destination_of("https://user:word@a.example:1/b?c") == "https://a.example:1"
