"""Which workflows and operations agents outside may call, by name: what namespaces' data say.

Rule 1: nothing can be called that nobody exposed.
Rule 2: an entry that cannot be read is left out, with a line in the log: the others stand.
"""

import logging

from durably.agents.convention import EXPOSE_PREFIX, Exposed, exposed
from durably.errors import NotFound
from durably.service.access import Role, need
from durably.service.namespaces import Namespaces

logger = logging.getLogger(__name__)

LOOKING = "to see what is exposed"
UNREADABLE_MAX = 1_000
"""So many faulty entries are remembered, to complain of each once."""


class Exposures:
    """Reads entries, and remembers what it read."""

    def __init__(self, namespaces: Namespaces) -> None:
        self._namespaces = namespaces
        self._read: dict[str, Exposed | None] = {}

    async def refreshed(self) -> None:
        """What another server has exposed a moment ago is exposed here, too, and what it took back is not."""
        await self._namespaces.refreshed()

    def of(self, namespace: str) -> dict[str, Exposed]:
        """By name, in the order of names. Raises NamespaceNotFound, NamespaceDeleted, and what
        `access.need` raises."""
        need(Role.READ, namespace, LOOKING)
        data = self._namespaces.by_name(namespace).data
        found: dict[str, Exposed] = {}
        for key in sorted(data):
            if key.startswith(EXPOSE_PREFIX) and data[key]:
                entry = self._entry(key, data[key])
                if entry is not None:
                    found[key.removeprefix(EXPOSE_PREFIX)] = entry
        return found

    def any(self) -> bool:
        """Is there anything in any namespace?"""
        return any(
            value and key.startswith(EXPOSE_PREFIX)
            for namespace in self._namespaces.existing()
            for key, value in namespace.data.items()
        )

    def tools(self, namespace: str) -> dict[str, Exposed]:
        return {name: each for name, each in self.of(namespace).items() if each.tool}

    def agent(self, namespace: str, name: str) -> Exposed:
        """Raises NotFound, and what `access.need` raises."""
        need(Role.READ, namespace, LOOKING)
        text = self._namespaces.by_name(namespace).data.get(EXPOSE_PREFIX + name, "")
        entry = self._entry(EXPOSE_PREFIX + name, text) if text else None
        if entry is None or not entry.agent:
            raise NotFound(f"no agent {name} is exposed in {namespace}")
        return entry

    def _entry(self, key: str, text: str) -> Exposed | None:
        if text not in self._read:
            if len(self._read) > UNREADABLE_MAX:
                self._read.clear()
            try:
                self._read[text] = exposed(text)
            except ValueError as error:
                logger.warning("%s is left out: %s", key, error)
                self._read[text] = None
        return self._read[text]
