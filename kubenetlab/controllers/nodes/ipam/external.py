"""external: programs outside the lab assign the addresses, as the plugins of `cni: conflist` do.

The controller writes an Attachment without addresses, for which the pod gets a sandbox. The agent
adds the addresses when the plugins have attached the sandbox.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import ClassVar

from kubenetlab.api.core import Node
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.controllers.nodes.ipam.allocator import (
    AllocationFailure,
    NodeRanges,
    contain_request,
)


class External:
    """Allocator that leaves the addresses to others."""

    watches: ClassVar[tuple[Kind, ...]] = ()
    request_kinds: ClassVar[tuple[Kind, ...]] = ()
    has_node_ranges: ClassVar[bool] = False

    def __init__(self, cluster: Cluster, waiting: Collection[str]) -> None:
        facts = cluster.get(NetworkFacts, "", "network") or NetworkFacts()
        self._has_requests_of_ranges = facts.has_requests_of_ranges

    def can_provide(self, pod: Pod, node: Node) -> bool:
        return not self._has_requests_of_ranges or contain_request(node.spec.pod_cidrs, pod)

    @classmethod
    def ranges(cls, cluster: Cluster, node: Node) -> tuple[NodeRanges, ...]:
        return tuple(NodeRanges(()) for _ in node.spec.pod_cidrs)

    def allocate(self, pod: Pod, node: Node) -> tuple[str, ...] | AllocationFailure:
        return ()

    def changes(self) -> Iterator[Change]:
        return iter(())
