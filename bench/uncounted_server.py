"""`durably serve` that counts nothing for `/metrics`: `python -m bench.uncounted_server serve ...`.

The setting `metrics` takes the page away, while parts go on counting what the page would show. To see what
that costs, the calls that count are replaced by nothing here, before anything of the server is built.
"""

import sys

from durably.cli import app
from durably.edge.traffic import Exchange, Traffic
from durably.errors import Status
from durably.histogram import Histogram


def _observe(self: Histogram, value: float) -> None:
    """Nothing."""


def _end(self: Traffic, exchange: Exchange, status: Status) -> None:
    self.pending -= 1  # Draining waits for it.


Histogram.observe = _observe  # type: ignore[method-assign]
Traffic.end = _end  # type: ignore[method-assign]

if __name__ == "__main__":
    app(sys.argv[1:])
