"""A coordinator of Citus and its workers, each a real PostgreSQL with a folder of its own."""

from concurrent.futures import ThreadPoolExecutor

from tests.postgres import PostgresServer

SETTINGS = """
shared_preload_libraries = 'citus'
citus.node_conninfo = 'sslmode=disable'
max_prepared_transactions = 200
wal_level = logical
"""
# Every statement, one a line that begins like this.
LOGGED = """
log_statement = all
log_min_messages = log
log_line_prefix = '=== '
"""


class CitusNode(PostgresServer):
    def create(self) -> "CitusNode":
        super().create()
        self.configure(SETTINGS)
        return self

    def start(self) -> "CitusNode":
        super().start()
        return self

    def log_statements(self) -> None:
        """From its next start."""
        self.configure(LOGGED)

    def statements(self, offset_bytes: int = 0) -> list[str]:
        """Those in its log after this place, as they were logged."""
        text = self.log.read_bytes()[offset_bytes:].decode()
        return [each for each in text.split("=== ") if each.startswith("LOG:  ")]


class CitusCluster(CitusNode):
    """The coordinator, which knows its workers. What is said of the server is said of all of them."""

    def __init__(self, *, fsync: bool = False, shards: int = 8, workers: int = 2) -> None:
        super().__init__(fsync=fsync, shards=shards)
        self.workers = [CitusNode(fsync=fsync) for _ in range(workers)]

    def create(self) -> "CitusCluster":
        super().create()
        for node in self.workers:
            node.create()
        return self

    def start(self) -> "CitusCluster":
        for node in self.workers:
            node.start()
        super().start()
        return self

    def stop(self, mode: str = "fast") -> None:
        super().stop(mode)
        for node in self.workers:
            if node.running():
                node.stop(mode)

    def remove(self) -> None:
        super().remove()
        for node in self.workers:
            node.remove()

    def make_database(self, name: str) -> None:
        """On every node, each of which has to know the extension before the coordinator adds it."""
        with ThreadPoolExecutor(1 + len(self.workers)) as threads:
            list(threads.map(lambda node: prepare(node, name), (self, *self.workers)))
        self.execute(f"SELECT citus_set_coordinator_host('127.0.0.1', {self.port})", name)
        for node in self.workers:
            self.add(node, name)

    def add(self, node: CitusNode, database: str) -> None:
        self.execute(f"SELECT citus_add_node('127.0.0.1', {node.port})", database)


def prepare(node: PostgresServer, name: str) -> None:
    """A node that is to be the coordinator or a worker of a new database."""
    PostgresServer.make_database(node, name)
    node.execute("CREATE EXTENSION citus", name)
