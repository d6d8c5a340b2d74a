"""Which forms are taken, and what pages may do."""

import pytest

from durably.config import Config
from durably.edge.console.guard import from_own_page, headers, refusal


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
    assert from_own_page(headers) is same


def test_reading_needs_no_origin() -> None:
    headers = {"host": "localhost:7233"}
    assert refusal("GET", headers) == ""
    assert refusal("HEAD", headers) == ""
    assert "not sent from a page" in refusal("POST", headers)


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
