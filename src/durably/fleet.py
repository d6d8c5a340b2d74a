"""Several servers on one machine behind one port, each in a process of its own.

Rule 1: the processes share nothing but the store and the port: the system gives each new connection to
        one of them (SO_REUSEPORT).
Rule 2: one that dies is started again; if this process dies, they end by themselves.
"""

import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from durably.config import Config

logger = logging.getLogger(__name__)

START_AGAIN_S = 1.0
LOOK_INTERVAL_S = 0.25

Member = Callable[[Config, Connection], None]
"""Serves until the connection is closed at the other end; sends its address when it is ready."""


class MemberFailed(Exception):
    """A server could not start; it has said why."""


def serve(config: Config, workers: int, member: Member, announce: Callable[[str], None]) -> None:
    """Run so many servers until SIGTERM or SIGINT. Raises ValueError for a store that cannot be shared,
    MemberFailed."""
    if not config.store.startswith(("postgresql://", "postgres://")):
        raise ValueError(
            f"--workers {workers} needs a store that servers can share: --store postgresql://..."
        )
    with socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET) as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        place.bind((config.host, config.port))
        config = replace(config, port=place.getsockname()[1], reuse_port=True)
        _Fleet(config, workers, member).run(announce)


class _Fleet:
    def __init__(self, config: Config, workers: int, member: Member) -> None:
        self._config = config
        self._member = member
        self._context = multiprocessing.get_context("spawn")
        self._members: dict[Connection, BaseProcess] = {}
        self._workers = workers
        self._stopping = False

    def run(self, announce: Callable[[str], None]) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._tell_members)
        try:
            started = [self._start() for _ in range(self._workers)]
            addresses = [self._ready(each) for each in started]
            if self._stopping:
                return
            announce(addresses[0])
            while not self._stopping:
                self._start_again()
        finally:
            self._end()

    def _stop(self, *_: Any) -> None:
        self._stopping = True

    def _tell_members(self, number: int, _: Any) -> None:
        """SIGHUP: each reads its tokens again."""
        for process in self._members.values():
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    def _start(self) -> Connection:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=self._member, args=(self._config, theirs))
        process.start()
        theirs.close()
        self._members[ours] = process
        return ours

    def _ready(self, connection: Connection) -> str:
        while not self._stopping:
            if connection.poll(LOOK_INTERVAL_S):
                try:
                    return str(connection.recv())
                except EOFError:
                    raise MemberFailed("a server could not start") from None
        return ""

    def _start_again(self) -> None:
        """Whoever has died meanwhile."""
        wait([process.sentinel for process in self._members.values()], LOOK_INTERVAL_S)
        for connection, process in list(self._members.items()):
            if process.is_alive() or self._stopping:
                continue
            logger.error("a server ended with code %s, and is started again", process.exitcode)
            del self._members[connection]
            connection.close()
            time.sleep(START_AGAIN_S)
            self._start()

    def _end(self) -> None:
        """They drain; who does not end is killed."""
        give_up = time.monotonic() + self._config.shutdown_drain_s + 10
        for connection in self._members:
            connection.close()
        for process in self._members.values():
            process.join(max(0.1, give_up - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
