"""calico-ipam: nodes take blocks of addresses from pools, and assign addresses from their blocks.

A node takes a block when it needs one. The search starts at a number that follows from the node's
name, so that nodes seldom want the same block. When no block is left, a node assigns single
addresses from the blocks of others. The blocks of a removed node are given back as soon as none of
their addresses is in use. An address is not reused before the rest of its block has been.

A pod can request its addresses by `cni.projectcalico.org/ipAddrs`, and its pools by
`cni.projectcalico.org/ipv4pools` and `ipv6pools`, which can be annotations of its namespace, too.
Source: projectcalico/calico libcalico-go/lib/ipam/{ipam,ipam_block,ipam_block_reader_writer}.go,
cni-plugin/pkg/ipamplugin/ipam_plugin.go (3.30).
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Sequence
from ipaddress import ip_address, ip_interface
from itertools import chain
from typing import ClassVar, Final

from msgspec import structs

from kubenetlab.api.annotation_values import names_in
from kubenetlab.api.calico.ip_pools import IPPool
from kubenetlab.api.config import Network
from kubenetlab.api.core import Namespace, Node
from kubenetlab.api.lab import Attachment, NetworkFacts
from kubenetlab.api.meta import Labels, ObjectMeta
from kubenetlab.api.plugins.allocations import AddressBlock
from kubenetlab.api.pods import CALICO_POOLS_ANNOTATIONS, POOL_ANNOTATION, Pod
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.api.values import ip
from kubenetlab.controllers.nodes.ipam.allocator import (
    AllocationFailure,
    NodeRanges,
    addresses_of_pods,
    requested_address,
)
from kubenetlab.controllers.nodes.ipam.duplicates import duplicate_addresses

WIREGUARD: Final = "wireguard"
"""Kind of the tunnels that encrypt packets between nodes."""


class Blocks:
    """Allocator of addresses from blocks of the IPPools."""

    watches: ClassVar[tuple[Kind, ...]] = (IPPool, AddressBlock, Namespace)
    request_kinds: ClassVar[tuple[Kind, ...]] = ()
    has_node_ranges: ClassVar[bool] = False

    def __init__(self, cluster: Cluster, waiting: Collection[str]) -> None:
        self._cluster = cluster
        self._pools = sorted(cluster.all(IPPool), key=lambda pool: pool.name)
        self._before = {block.cidr: block for block in cluster.all(AddressBlock)}
        self._blocks = dict(self._before)
        self._taken = dict(cluster.index(Attachment, addresses_of_pods))
        for block in self._before.values():
            self._taken |= {
                address: f"node {block.node}, for its end of {kind} tunnels"
                for kind, address in block.tunnels.items()
            }
        self._release(cluster)
        for node in cluster.all(Node):
            self._assign_tunnels(node)

    def can_provide(self, pod: Pod, node: Node) -> bool:
        return True

    @classmethod
    def ranges(cls, cluster: Cluster, node: Node) -> tuple[NodeRanges, ...]:
        """Return the blocks of a node, and its addresses from blocks of other nodes."""
        blocks = cluster.all(AddressBlock)
        own = [block for block in blocks if block.node == node.name]
        cidrs = [block.cidr for block in own]
        addresses = list(_announced_duplicates(cluster, node.name))
        if any(node.name in block.borrowers for block in blocks):
            addresses += cluster.index(Attachment, _addresses_by_node).get(node.name, ())
        if addresses:
            networks = [ip.network(cidr) for cidr in cidrs]
            cidrs += [
                str(ip.network(address))
                for address in addresses
                if not any(_contains(network, address) for network in networks)
            ]
        tunnels = {kind: text for block in own for kind, text in block.tunnels.items()}
        return tuple(
            NodeRanges(
                ip.of_version(cidrs, version),
                {
                    kind: address
                    for kind, address in tunnels.items()
                    if ip.version_of(address) == version
                },
            )
            for version in cluster.config.networking.versions
        )

    def allocate(self, pod: Pod, node: Node) -> tuple[str, ...] | AllocationFailure:
        addresses = []
        for version in self._cluster.config.networking.versions:
            address = (
                self._requested(pod, node, version)
                if pod.requested_addresses
                else self._from_pools(pod, node, version)
            )
            if isinstance(address, AllocationFailure):
                return address
            addresses.append(address)
        self._taken |= dict.fromkeys(addresses, f"pod {pod.full_name}")
        return tuple(addresses)

    def changes(self) -> Iterator[Change]:
        for cidr, block in self._blocks.items():
            if self._before.get(cidr) != block:
                yield block
        for cidr, block in self._before.items():
            if cidr not in self._blocks:
                yield deletion(block)

    def _release(self, cluster: Cluster) -> None:
        """Give back the blocks of removed nodes, and empty blocks of removed pools."""
        nodes = {node.name for node in cluster.all(Node)}
        pools = {pool.name for pool in self._pools}
        for cidr, block in list(self._blocks.items()):
            if block.node in nodes and block.pool in pools:
                continue
            used = [address for address in self._taken if _contains(ip.network(cidr), address)]
            if not set(used) - set(block.tunnels.values()):
                for address in block.tunnels.values():
                    del self._taken[address]
                del self._blocks[cidr]
            elif block.node and block.node not in nodes:
                self._blocks[cidr] = structs.replace(block, node="", tunnels={})

    def _assign_tunnels(self, node: Node) -> None:
        """Assign the addresses of a node's ends of tunnels, for pools that have tunnels."""
        has = {
            kind
            for block in self._blocks.values()
            if block.node == node.name
            for kind in block.tunnels
        }
        for version in self._cluster.config.networking.versions:
            pools = [
                pool
                for pool in self._pools
                if pool.spec.network.version == version
                and not pool.spec.disabled
                and "Tunnel" in pool.spec.allowed_uses
                and pool.serves_node(node.labels)
            ]
            for kind in self._tunnel_kinds:
                users = [pool for pool in pools if kind in (*pool.spec.tunnels, WIREGUARD)]
                name = kind if version == 4 else f"{kind}-v6"
                if not users or name in has:
                    continue
                address = self._free(users, node, version)
                if isinstance(address, str):
                    block = self._block_of(address)
                    self._taken[address] = f"node {node.name}, for its end of {kind} tunnels"
                    tunnels = {**block.tunnels, name: address}
                    self._blocks[block.cidr] = structs.replace(block, tunnels=tunnels)

    @property
    def _tunnel_kinds(self) -> tuple[str, ...]:
        """Kinds of tunnels; those that encrypt packets carry the packets of all pools."""
        facts = self._cluster.get(NetworkFacts, "", "network") or NetworkFacts()
        return ("vxlan", "ipip", *((WIREGUARD,) if facts.has_encrypted_tunnels else ()))

    def _block_of(self, address: str) -> AddressBlock:
        return next(
            block for block in self._blocks.values() if _contains(ip.network(block.cidr), address)
        )

    def _requested(self, pod: Pod, node: Node, version: int) -> str | AllocationFailure:
        """Return the requested address of one IP family, and take its block if it is free."""
        requested = requested_address(pod, version)
        if isinstance(requested, AllocationFailure):
            return requested
        address = str(requested)
        pool = next((pool for pool in self._pools if _contains(pool.spec.network, address)), None)
        if pool is None:
            return AllocationFailure(
                f"requested address {address} is in no IPPool; there are: "
                f"{_names(self._pools) or 'none'}"
            )
        if address in self._taken:
            return AllocationFailure(
                f"requested address {address} is in use by {self._taken[address]}"
            )
        cidr = str(ip_interface(f"{address}/{pool.spec.block_length}").network)
        block = self._blocks.get(cidr) or _new_block(cidr, node.name, pool)
        self._blocks[cidr] = _used_by(block, node.name)
        return address

    def _from_pools(self, pod: Pod, node: Node, version: int) -> str | AllocationFailure:
        namespace = self._cluster.get(Namespace, "", pod.namespace)
        pools = self._pools_of(pod, namespace, node, version)
        if isinstance(pools, AllocationFailure):
            return pools
        if not pools:
            return AllocationFailure(f"no configured Calico pools for node {node.name}")
        return self._free(pools, node, version)

    def _pools_of(
        self, pod: Pod, namespace: Namespace | None, node: Node, version: int
    ) -> Sequence[IPPool] | AllocationFailure:
        """Return the pools that a pod may use: those it requests, or else all automatic ones."""
        pools = [pool for pool in self._pools if pool.spec.network.version == version]
        labels: Labels = namespace.labels if namespace is not None else {}
        requested = _requested_pools(pod, namespace, version)
        if requested is None:
            return [
                pool
                for pool in pools
                if pool.is_automatic
                and pool.serves_node(node.labels)
                and pool.serves_namespace(labels)
            ]
        chosen = [pool for pool in pools if {pool.name, pool.spec.cidr} & set(requested)]
        if len(chosen) < len(requested):
            known = _names(pools) or "none"
            missing = ", ".join(
                name
                for name in requested
                if not any(name in (pool.name, pool.spec.cidr) for pool in chosen)
            )
            return AllocationFailure(
                f"error getting IPPools for the pod: no enabled pool {missing}; there are: {known}"
            )
        return [pool for pool in chosen if not pool.spec.disabled and pool.serves_node(node.labels)]

    def _free(self, pools: Sequence[IPPool], node: Node, version: int) -> str | AllocationFailure:
        """Return a free address of the node's blocks, of a new block, or of another's block."""
        names = {pool.name for pool in pools}
        own = [
            block
            for block in self._blocks.values()
            if block.node == node.name and block.pool in names
        ]
        others = (
            block
            for block in self._blocks.values()
            if block.node != node.name and block.pool in names
        )
        for block in chain(own, self._new_blocks(pools, node), others):
            if (address := self._next_free(block)) is not None:
                ordinal = int(ip_address(address)) - int(ip.network(block.cidr).network_address)
                self._blocks[block.cidr] = structs.replace(_used_by(block, node.name), last=ordinal)
                return address
        return AllocationFailure(
            f"Assigned 0 out of 1 requested IPv{version} addresses; No IPs available in pools: "
            f"{_names(pools)}"
        )

    def _new_blocks(self, pools: Sequence[IPPool], node: Node) -> Iterator[AddressBlock]:
        """Yield blocks that no node has, in the order in which this node looks for one."""
        for pool in pools:
            network, length = pool.spec.network, pool.spec.block_length
            count = 2 ** (length - network.prefixlen)
            size = 2 ** (network.max_prefixlen - length)
            start = zlib.crc32(node.name.encode()) % count
            for step in range(count):
                first = network[(start + step) % count * size]
                cidr = f"{first}/{length}"
                if cidr not in self._blocks:
                    yield _new_block(cidr, node.name, pool)
                    break

    def _next_free(self, block: AddressBlock) -> str | None:
        """Return the first free address after the one that was assigned last."""
        network = ip.network(block.cidr)
        size = network.num_addresses
        candidates = (str(network[(block.last + 1 + step) % size]) for step in range(size))
        return next((address for address in candidates if address not in self._taken), None)


def _used_by(block: AddressBlock, node: str) -> AddressBlock:
    """Return a block of which a node assigns an address."""
    if node in (block.node, *block.borrowers):
        return block
    return structs.replace(block, borrowers=(*block.borrowers, node))


def _new_block(cidr: str, node: str, pool: IPPool) -> AddressBlock:
    name = cidr.replace(".", "-").replace(":", "-").replace("/", "-")
    return AddressBlock(ObjectMeta(name=name), cidr, node, pool.name)


def _requested_pools(pod: Pod, namespace: Namespace | None, version: int) -> tuple[str, ...] | None:
    """Return the names or ranges of the pools that a pod or its namespace requests, or None."""
    annotation = CALICO_POOLS_ANNOTATIONS[version]
    if name := pod.metadata.annotations.get(POOL_ANNOTATION):
        return (name,)
    for meta in (pod.metadata, *([namespace.metadata] if namespace is not None else [])):
        if text := meta.annotations.get(annotation):
            return names_in(text)
    return None


def _addresses_by_node(attachments: Sequence[Attachment]) -> dict[str, tuple[str, ...]]:
    addresses: dict[str, list[str]] = {}
    for attachment in attachments:
        if not attachment.duplicate_of:
            addresses.setdefault(attachment.node, []).extend(attachment.addresses)
    return {node: tuple(texts) for node, texts in addresses.items()}


def _announced_duplicates(cluster: Cluster, node: str) -> Iterator[str]:
    """Yield the addresses of other pods that pods of a node have, and that the node announces.

    BIRD announces every address to which the node has a route. Routes by tunnels follow from the
    blocks, which do not know of such pods.
    """
    for address in duplicate_addresses(cluster).get(node, ()):
        pools = (pool for pool in cluster.all(IPPool) if _contains(pool.spec.network, address))
        if any(not pool.spec.tunnels for pool in pools):
            yield address


def _contains(network: Network, address: str) -> bool:
    parsed = ip_address(address)
    return parsed.version == network.version and parsed in network


def _names(pools: Sequence[IPPool]) -> str:
    return ", ".join(pool.name for pool in pools)
