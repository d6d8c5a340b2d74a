"""A durable execution server for AI agents that speaks the Temporal API.

`async with durably.Server(store="memory:", port=0) as server:` serves inside this process.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durably.config import Config
    from durably.server import Server

__all__ = ["Config", "Server"]


def __getattr__(name: str) -> Any:
    """Import the server only when it is asked for, so that the parts stay light."""
    if name == "Server":
        from durably.server import Server

        return Server
    if name == "Config":
        from durably.config import Config

        return Config
    raise AttributeError(f"module 'durably' has no attribute {name!r}")
