"""FakeKernel: a machine made of a dict, for tests of everything above the kernel. Real namespaces cost 1.2 ms: prefer them there."""

from __future__ import annotations

from collections.abc import Mapping

from kubenetlab.hoststate.diff import Changes
from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.state import Contents, contents_of


class FakeKernel:
    """Does what it is told and remembers it. `applied` lists every operation, in order, as text."""

    def __init__(self) -> None:
        self._namespaces: dict[str, dict[Key, Object]] = {}
        self.applied: list[str] = []

    def observe(self, wanted: Mapping[str, Contents]) -> dict[str, Contents]:
        """What was made in the namespaces named."""
        return {netns: contents_of(self._namespaces[netns].values()) for netns in wanted if netns in self._namespaces}

    def apply(self, changes: Changes) -> None:
        """Raises KeyError for a change or removal of what is not there, as Linux would refuse it."""
        for entry in changes.namespaces:
            here = self._namespaces.setdefault(entry.netns, {})
            for operation in entry.operations:
                self.applied.append(f"{entry.netns} {operation}")
                if operation.verb == "remove":
                    del here[operation.object.key]
                else:
                    if operation.before is not None and here[operation.object.key] != operation.before:
                        raise KeyError(operation.object.key)
                    here[operation.object.key] = operation.object
            if entry.is_removed:
                del self._namespaces[entry.netns]
