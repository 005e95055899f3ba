"""FakeKernel: a machine made of a dict, for tests of everything above the kernel. Real namespaces cost 1.2 ms: prefer them there."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping

from kubenetlab.hoststate.diff import Changes
from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.state import Contents, contents_of
from kubenetlab.kernel.report import Done, Failure, Report, nobody_asks


class FakeKernel:
    """Does what it is told and remembers it. `applied` lists every operation, in order, as text."""

    def __init__(self) -> None:
        self._namespaces: dict[str, dict[Key, Object]] = {}
        self.applied: list[str] = []

    def observe(
        self, wanted: Mapping[str, Contents], far: Iterable[str] = ()
    ) -> dict[str, Contents]:
        """What was made in the namespaces named."""
        return {
            netns: contents_of(self._namespaces[netns].values())
            for netns in wanted
            if netns in self._namespaces
        }

    def apply(self, changes: Changes, done: Done = nobody_asks) -> Report:
        """A change or removal of what is not there is refused, as by Linux."""
        failures: list[Failure] = []
        for entry in changes.namespaces:
            here = self._namespaces.setdefault(entry.netns, {})
            for operation in entry.operations:
                self.applied.append(f"{entry.netns} {operation}")
                key = operation.object.key
                if operation.verb != "add" and here.get(key) != (
                    operation.before or operation.object
                ):
                    failures.append(
                        Failure(
                            entry.netns,
                            operation,
                            errno.ENOENT,
                            "it is not as it was thought to be",
                        )
                    )
                elif operation.verb == "remove":
                    del here[key]
                else:
                    here[key] = operation.object
            if entry.is_removed:
                del self._namespaces[entry.netns]
            done(entry.netns)
        return Report(len(changes) - len(failures), tuple(failures))
