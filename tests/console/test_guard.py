"""Which requests of browsers are answered."""

import pytest

from durably.config import Config
from durably.edge.console.guard import headers, known_host, refusal, same_origin


@pytest.mark.parametrize(
    ("host", "listens_on", "names", "known"),
    [
        ("localhost:7233", "127.0.0.1", (), True),
        ("app.localhost", "127.0.0.1", (), True),
        ("127.0.0.1:7233", "127.0.0.1", (), True),
        ("[::1]:7233", "::1", (), True),
        ("evil.example", "127.0.0.1", (), False),
        ("localhost.evil.example", "127.0.0.1", (), False),
        ("Durably.Example:443", "127.0.0.1", ("durably.example",), True),
        ("durably.example.", "127.0.0.1", ("durably.example",), True),
        ("any.example", "0.0.0.0", (), True),
        ("any.example", "0.0.0.0", ("durably.example",), False),
        ("box.local", "box.local", ("durably.example",), True),
        ("evil.example", "localhost", (), False),
        ("", "0.0.0.0", (), False),
        ("[", "0.0.0.0", (), False),
    ],
)
def test_which_names_are_answered(
    host: str, listens_on: str, names: tuple[str, ...], known: bool
) -> None:
    assert known_host(host, Config(host=listens_on, console_hosts=names)) is known


@pytest.mark.parametrize(
    ("headers", "same"),
    [
        ({"host": "localhost:1", "origin": "http://localhost:1"}, True),
        ({"host": "a.example", "origin": "https://A.example"}, True),
        ({"host": "localhost:1", "origin": "http://localhost:2"}, False),
        ({"host": "localhost:1", "origin": "null"}, False),
        (
            {
                "host": "localhost:1",
                "origin": "http://evil.example",
                "sec-fetch-site": "same-origin",
            },
            False,
        ),
        ({"host": "localhost:1", "sec-fetch-site": "same-origin"}, True),
        ({"host": "localhost:1", "sec-fetch-site": "same-site"}, False),
        ({"host": "localhost:1"}, False),
    ],
)
def test_where_a_form_may_come_from(headers: dict[str, str], same: bool) -> None:
    assert same_origin(headers) is same


def test_reading_needs_no_origin() -> None:
    headers = {"host": "localhost:7233"}
    assert refusal("GET", headers, Config()) == ""
    assert refusal("HEAD", headers, Config()) == ""
    assert "not sent from a page" in refusal("POST", headers, Config())
    assert "console_hosts" in refusal("GET", {"host": "x.example"}, Config())


def test_only_the_codec_server_that_is_named_may_be_asked() -> None:
    assert "connect-src 'self';" in headers(Config())["content-security-policy"]
    config = Config(console_codec_endpoint="https://codec.example:8443/{namespace}")
    assert (
        "connect-src 'self' https://codec.example:8443;"
        in headers(config)["content-security-policy"]
    )
    for wrong in (
        "codec.example",
        "ftp://a",
        "https://a;script-src *",
        "https://a b",
        "javascript:1",
    ):
        with pytest.raises(ValueError, match="console_codec_endpoint"):
            headers(Config(console_codec_endpoint=wrong))
