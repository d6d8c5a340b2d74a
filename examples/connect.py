"""How the examples find their server: `--address`, DURABLY_ADDRESS, or 127.0.0.1:7233."""

import argparse
import os
import sys

from temporalio.client import Client


def arguments() -> argparse.ArgumentParser:
    """The options that every example has."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", default=os.environ.get("DURABLY_ADDRESS", "127.0.0.1:7233"))
    return parser


async def connect(options: argparse.Namespace) -> Client:
    """A client, or a line that says what to run."""
    try:
        return await Client.connect(options.address)
    except RuntimeError:
        sys.exit(f"nothing answers on {options.address}: run `durably serve` in another terminal")
