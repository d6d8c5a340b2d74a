"""Endpoints whose operations no worker handles, but an MCP server or an A2A agent, found by its URL.

    mcp+https://host/path      the tools of an MCP server are operations
    a2a+https://host/path      an A2A agent, whose card is below that path

The API's endpoints have external targets with a URL: the part before `+` says what is spoken there. Without
it the target speaks Nexus.

Rule 1: credentials are in the configuration, never in a URL: descriptions and histories show it.
"""

import re
from urllib.parse import urlsplit

from durably.addresses import why_refused
from durably.config import Config

NEXUS, MCP, A2A = "nexus", "mcp", "a2a"
PREFIX = re.compile(r"(mcp|a2a)\+(https?://.*)", re.DOTALL | re.IGNORECASE)


def parse(url: str) -> tuple[str, str]:
    """(what is spoken there, the URL to call)."""
    found = PREFIX.fullmatch(url)
    return (found[1].lower(), found[2]) if found is not None else (NEXUS, url)


def issues(url: str, config: Config) -> list[str]:
    """What is wrong with the URL of an MCP server or an A2A agent."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        return [f"invalid target URL: {error}"]
    if re.search(r"[\x00-\x20\x7f]", url):
        return ["invalid target URL: it has a space or a control character in it"]
    if not parts.hostname:
        return ["invalid target URL: missing host"]
    if parts.username is not None or parts.password is not None:
        return ["invalid target URL: credentials belong into the setting endpoint_credentials"]
    if parts.query or parts.fragment:
        return ["invalid target URL: it has a query or a fragment"]
    refused = why_refused(parts.hostname, config)
    return [f"invalid target URL: {refused}"] if refused else []
