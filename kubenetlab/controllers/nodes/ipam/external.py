"""external: programs outside the lab assign the addresses, as the plugins of `cni: conflist` do.

The controller writes an Attachment without addresses, for which the pod gets a sandbox. The agent
adds the addresses when the plugins have attached the sandbox.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import ClassVar

from kubenetlab.api.core import Node
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.controllers.nodes.ipam.allocator import AllocationFailure, NodeRanges


class External:
    """Allocator that leaves the addresses to others."""

    watches: ClassVar[tuple[Kind, ...]] = ()
    has_node_ranges: ClassVar[bool] = False

    def __init__(self, cluster: Cluster, waiting: Collection[str]) -> None:
        pass

    @classmethod
    def can_provide(cls, pod: Pod, node: Node) -> bool:
        return True

    @classmethod
    def ranges(cls, cluster: Cluster, node: Node) -> tuple[NodeRanges, ...]:
        return tuple(NodeRanges(()) for _ in node.spec.pod_cidrs)

    def allocate(self, pod: Pod, node: Node) -> tuple[str, ...] | AllocationFailure:
        return ()

    def changes(self) -> Iterator[Change]:
        return iter(())
