"""FakeKernel: an in-memory kernel for tests of the layers above.

Creating a real namespace takes only 1.2 ms: use real ones where the kernel matters.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping

from kubenetlab.hoststate.diff import Changes
from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.state import Contents, contents_of
from kubenetlab.kernel.report import Failure, OnNetnsDone, Report, ignore


class FakeKernel:
    """Kernel that stores objects in a dict; `applied` lists all operations in order, as text."""

    def __init__(self) -> None:
        self._namespaces: dict[str, dict[Key, Object]] = {}
        self.applied: list[str] = []

    def observe(
        self, desired: Mapping[str, Contents], peers_only: Iterable[str] = ()
    ) -> dict[str, Contents]:
        """Return the stored objects of the namespaces."""
        return {
            netns: contents_of(self._namespaces[netns].values())
            for netns in desired
            if netns in self._namespaces
        }

    def apply(self, changes: Changes, done: OnNetnsDone = ignore) -> Report:
        """Store the changes; refuse to change or remove objects that are not stored as expected."""
        failures: list[Failure] = []
        for entry in changes.namespaces:
            objects = self._namespaces.setdefault(entry.netns, {})
            for operation in entry.operations:
                self.applied.append(f"{entry.netns} {operation}")
                key = operation.object.key
                if operation.verb != "add" and objects.get(key) != (
                    operation.before or operation.object
                ):
                    failures.append(
                        Failure(
                            entry.netns,
                            operation,
                            errno.ENOENT,
                            "it does not exist as expected",
                        )
                    )
                elif operation.verb == "remove":
                    del objects[key]
                else:
                    objects[key] = operation.object
            if entry.is_removed:
                del self._namespaces[entry.netns]
            done(entry.netns)
        return Report(len(changes) - len(failures), tuple(failures))
