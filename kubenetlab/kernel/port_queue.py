"""Operations that wait for the veth pairs of other namespaces during one apply."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from kubenetlab.hoststate.diff import Changes, NetnsChanges, Operation

OnComplete = Callable[[str, Sequence[Operation], Sequence[str]], None]
"""Called with a namespace, its new ports, and the namespaces that created veths into it."""


class PortQueue:
    """New ports per namespace, released when every veth that becomes such a port exists.

    A pod's veth pair is created from the pod's namespace; its peer in the node's namespace can be
    attached to the bridge only afterwards. All ports of a namespace are attached in one batch.
    """

    def __init__(self, changes: Changes, on_complete: OnComplete) -> None:
        """Wait for the veth pairs that `changes` creates.

        on_complete: called once per namespace, after its own changes and those of all namespaces
            that create veths into it were added to the queue.
        """
        self._on_complete = on_complete
        self._peers = {entry.netns: connected_namespaces(entry) for entry in changes.namespaces}
        self._remaining = Counter(peer for peers in self._peers.values() for peer in peers)
        """Number of namespaces that have yet to create veths into a namespace."""
        self._connected: dict[str, list[str]] = {}
        """Namespaces that have created veths into a namespace."""
        self._ports: dict[str, Sequence[Operation]] = {}

    def is_awaited(self, netns: str) -> bool:
        """Return True if other namespaces have yet to create veths into this one."""
        return self._remaining[netns] > 0

    def add(self, netns: str, ports: Sequence[Operation]) -> None:
        """Record that the changes of a namespace were made, except its new ports."""
        self._ports[netns] = ports
        self._release(netns)
        for peer in self._peers[netns]:
            self._remaining[peer] -= 1
            self._connected.setdefault(peer, []).append(netns)
            self._release(peer)

    def _release(self, netns: str) -> None:
        if netns in self._ports and not self._remaining[netns]:
            self._on_complete(netns, self._ports.pop(netns), self._connected.pop(netns, ()))


def connected_namespaces(entry: NetnsChanges) -> set[str]:
    """Return the namespaces that hold the peers of links created in this namespace."""
    return {
        peer_end[0]
        for operation in entry.operations
        if operation.verb != "remove" and (peer_end := operation.object.peer_end) is not None
    }
