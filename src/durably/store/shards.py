"""Which part of a store an execution lies in.

Rule 1: all runs of a workflow id lie in one shard, whatever their kind: what one commit writes does, too.
Rule 2: the ids of executions and tasks say their shard, so that who has only an id knows where to look.
Rule 3: how many shards a store has is fixed when its tables are made: ids that are out rest on it.
"""

from dataclasses import dataclass
from hashlib import blake2b

SHARDS_MAX = 1024
"""Ids have 20 random bits; these take up to 10 of them."""


@dataclass(frozen=True, slots=True)
class Shards:
    """The shards of a store, from 0 to `count` - 1."""

    count: int = 1

    def of_workflow(self, namespace_id: str, workflow_id: str) -> int:
        if self.count == 1:
            return 0
        name = f"{namespace_id}\0{workflow_id}".encode()
        return int.from_bytes(blake2b(name, digest_size=8).digest(), "big") % self.count

    def of_id(self, number: int) -> int:
        """Of the id of an execution or a task."""
        return number % self.count

    def id_from(self, lowest: int, shard: int) -> int:
        """The first id of a shard that is not below `lowest`."""
        return lowest + (shard - lowest) % self.count


ONE_SHARD = Shards()
