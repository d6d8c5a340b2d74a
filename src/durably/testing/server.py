"""`durably-test-server PORT`: a server whose time can be skipped, started as SDKs start theirs.

    WorkflowEnvironment.start_time_skipping(test_server_existing_path=shutil.which("durably-test-server"))

Everything is kept in memory. It ends with SIGTERM or SIGINT.
"""

import argparse

from durably.cli import serve


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="durably-test-server",
        description="A Temporal API server for tests, in memory, whose time can be skipped.",
    )
    parser.add_argument("port", type=int, help="port to listen on, on 127.0.0.1")
    options, _others = parser.parse_known_args()
    serve(
        store="memory:",
        host="127.0.0.1",
        port=options.port,
        namespace=None,
        time_skipping=True,
        setting=None,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
