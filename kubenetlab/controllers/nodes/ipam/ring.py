"""Weave's IPAM: one range for all nodes, of which each owns parts that move between nodes.

The first nodes divide the range evenly. A node without a free address gets half of the largest free
part of the node that has most. The parts of a removed node go to the node before them. An address
is not reused before the rest of the node's parts has been. Each node has an address itself.
Source: weaveworks/weave ipam/{ring/ring.go,space/space.go,allocator.go}.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, summarize_address_range
from itertools import chain
from typing import ClassVar, Final, NamedTuple

from msgspec import structs

from kubenetlab.api.config import Network
from kubenetlab.api.core import Node
from kubenetlab.api.lab import Attachment
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.plugins.allocations import RingState
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.api.values import ip
from kubenetlab.controllers.nodes.ipam.allocator import (
    AllocationFailure,
    NodeRanges,
    addresses_of_pods,
    requested_address,
)

BRIDGE: Final = "bridge"
"""Key of a node's own address among its addresses for tunnels."""
_MAX_SEARCH: Final = 4096
"""Number of addresses of a part that are looked at for a free one."""


class Part(NamedTuple):
    """Consecutive addresses that one node owns, as numbers in the range."""

    first: int
    end: int
    node: str


class Ring:
    """Allocator of addresses from the parts of nodes."""

    watches: ClassVar[tuple[Kind, ...]] = (RingState,)
    request_kinds: ClassVar[tuple[Kind, ...]] = ()
    has_node_ranges: ClassVar[bool] = False

    def __init__(self, cluster: Cluster, waiting: Collection[str]) -> None:
        self._networks = cluster.config.networking.pod_networks
        self._nodes = [node.name for node in cluster.all(Node)]
        self._before = {state.name: state for state in cluster.all(RingState)}
        self._taken = dict(cluster.index(Attachment, addresses_of_pods))
        self._states: dict[Network, RingState] = {}
        for network in self._networks if self._nodes else ():
            self._states[network] = self._without_removed_nodes(network)
            self._assign_to_nodes(network)

    def can_provide(self, pod: Pod, node: Node) -> bool:
        return True

    @classmethod
    def ranges(cls, cluster: Cluster, node: Node) -> tuple[NodeRanges, ...]:
        ranges = []
        for network in cluster.config.networking.pod_networks:
            state = cluster.get(RingState, "", _name(network)) or RingState(ObjectMeta())
            own = [part for part in _parts(network, state) if part.node == node.name]
            address = state.addresses.get(node.name, "")
            ranges.append(
                NodeRanges(
                    tuple(cidr for part in own for cidr in _cidrs(network, part)),
                    {BRIDGE: address} if address else {},
                )
            )
        return tuple(ranges)

    def allocate(self, pod: Pod, node: Node) -> tuple[str, ...] | AllocationFailure:
        addresses = []
        for network in self._networks:
            address = (
                self._requested(pod, network)
                if pod.requested_addresses
                else self._free(network, node.name)
            )
            if isinstance(address, AllocationFailure):
                return address
            addresses.append(address)
        self._taken |= dict.fromkeys(addresses, f"pod {pod.full_name}")
        return tuple(addresses)

    def changes(self) -> Iterator[Change]:
        for state in self._states.values():
            if self._before.get(state.name) != state:
                yield state

    def _without_removed_nodes(self, network: Network) -> RingState:
        """Return the state without the parts and addresses of nodes that are gone."""
        state = self._before.get(_name(network))
        if state is None:
            state = RingState(ObjectMeta(name=_name(network)), _even_parts(network, self._nodes))
        owners = [owner for _, owner in state.parts]
        if gone := set(owners) - set(self._nodes):
            state = structs.replace(state, parts=_inherited(state.parts, gone, self._nodes))
        return structs.replace(
            state,
            addresses={
                node: address for node, address in state.addresses.items() if node in self._nodes
            },
            last={node: number for node, number in state.last.items() if node in self._nodes},
        )

    def _assign_to_nodes(self, network: Network) -> None:
        """Assign an address to each node that has none."""
        known = self._states[network].addresses
        self._taken |= {address: f"node {node}, for its bridge" for node, address in known.items()}
        for node in self._nodes:
            address = known.get(node) or self._free(network, node)
            if node not in known and isinstance(address, str):
                state = self._states[network]
                self._taken[address] = f"node {node}, for its bridge"
                self._states[network] = structs.replace(
                    state, addresses={**state.addresses, node: address}
                )

    def _requested(self, pod: Pod, network: Network) -> str | AllocationFailure:
        address = requested_address(pod, network.version)
        if isinstance(address, AllocationFailure):
            return address
        if address not in network or address in (network[0], network[-1]):
            return AllocationFailure(f"requested address {address} is not one of {network}")
        if str(address) in self._taken:
            return AllocationFailure(
                f"requested address {address} is in use by {self._taken[str(address)]}"
            )
        return str(address)

    def _free(self, network: Network, node: str) -> str | AllocationFailure:
        """Return a free address of the node's parts, which may get one of another node first."""
        number = self._next_free(network, node)
        if number is None:
            if not self._donate(network, node):
                return AllocationFailure(f"no free address is left in {network}")
            number = self._next_free(network, node)
        if number is None:
            return AllocationFailure(f"no free address is left in {network}")
        state = self._states[network]
        self._states[network] = structs.replace(state, last={**state.last, node: number})
        return str(network[number])

    def _next_free(self, network: Network, node: str) -> int | None:
        state = self._states[network]
        own = [part for part in _parts(network, state) if part.node == node]
        last = state.last.get(node, -1)
        after = [Part(max(part.first, last + 1), part.end, node) for part in own if part.end > last]
        for part in chain(after, own):
            for number in range(part.first, min(part.end, part.first + _MAX_SEARCH)):
                if self._is_free(network, number):
                    return number
        return None

    def _is_free(self, network: Network, number: int) -> bool:
        return 0 < number < network.num_addresses - 1 and str(network[number]) not in self._taken

    def _donate(self, network: Network, node: str) -> bool:
        """Move half of the largest free piece of another node to a node; False without any."""
        pieces = [
            piece
            for part in _parts(network, self._states[network])
            if part.node != node
            for piece in self._free_pieces(network, part)
        ]
        if not pieces:
            return False
        piece = max(pieces, key=lambda piece: (piece.end - piece.first, -piece.first))
        middle = piece.first + (piece.end - piece.first) // 2
        state = self._states[network]
        parts: list[tuple[int, str]] = []
        for part in _parts(network, state):
            parts.append((part.first, part.node))
            if part.first <= middle < part.end:
                if middle == part.first:
                    parts.pop()
                parts.append((middle, node))
                if piece.end < part.end:
                    parts.append((piece.end, part.node))
        self._states[network] = structs.replace(state, parts=tuple(parts))
        return True

    def _free_pieces(self, network: Network, part: Part) -> Iterator[Part]:
        """Yield the consecutive free addresses of a part, between those that are taken."""
        taken = sorted(
            number
            for text in self._taken
            if ip.version_of(text) == network.version
            and part.first <= (number := _number(network, text)) < part.end
        )
        start = max(part.first, 1)
        end = min(part.end, network.num_addresses - 1)
        for number in (*taken, end):
            if number > start:
                yield Part(start, min(number, end), part.node)
            start = max(start, number + 1)


def _name(network: Network) -> str:
    return f"weave-ipv{network.version}"


def _number(network: Network, address: str) -> int:
    parsed: IPv4Address | IPv6Address = ip_address(address)
    return int(parsed) - int(network.network_address)


def _even_parts(network: Network, nodes: Sequence[str]) -> tuple[tuple[int, str], ...]:
    size = network.num_addresses // len(nodes)
    return tuple((index * size, node) for index, node in enumerate(nodes))


def _parts(network: Network, state: RingState) -> list[Part]:
    ends = [first for first, _ in state.parts[1:]] + [network.num_addresses]
    return (
        [Part(first, end, node) for (first, node), end in zip(state.parts, ends, strict=True)]
        if state.parts
        else []
    )


def _inherited(
    parts: Sequence[tuple[int, str]], gone: Collection[str], nodes: Sequence[str]
) -> tuple[tuple[int, str], ...]:
    """Return the parts after those of removed nodes have gone to the nodes before them."""
    heirs: list[tuple[int, str]] = []
    remaining = [node for _, node in parts if node not in gone]
    heir = remaining[-1] if remaining else nodes[0]
    for first, node in parts:
        heir = heir if node in gone else node
        if not heirs or heirs[-1][1] != heir:
            heirs.append((first, heir))
    return tuple(heirs)


def _cidrs(network: Network, part: Part) -> Iterator[str]:
    for cidr in summarize_address_range(network[part.first], network[part.end - 1]):
        yield str(cidr)
