"""The version of this program, and that of the API server whose behaviour it has."""

from importlib import metadata

VERSION = metadata.version("durably")
API_SERVER_VERSION = "1.32.0"
"""The release of the API's own server that this one is compared with; clients may look at it."""
