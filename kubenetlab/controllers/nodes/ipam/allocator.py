"""Allocator: interface of the IPAM of a CNI plugin."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import ClassVar, Protocol

from msgspec import Struct

from kubenetlab.api.core import Node
from kubenetlab.api.lab import Attachment
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.api.values import ip
from kubenetlab.controllers.allocation.addresses import Address


class AllocationFailure(Struct, frozen=True):
    """Reason why a pod gets no address, in the plugin's words."""

    message: str


def addresses_of_pods(attachments: Iterable[Attachment]) -> dict[str, str]:
    """Return address → owner, such as `pod default/web`, for all attached pods."""
    return {
        address: f"pod {attachment.full_name}"
        for attachment in attachments
        for address in attachment.addresses
    }


def requested_address(pod: Pod, version: int) -> Address | AllocationFailure:
    """Return the address of one IP version that a pod requests."""
    requested = (ip_address(text) for text in pod.requested_addresses)
    address = next((one for one in requested if one.version == version), None)
    if address is not None:
        return address
    shown = ", ".join(pod.requested_addresses)
    return AllocationFailure(f"the pod asks for {shown}, and for no IPv{version} address")


def contain_request(cidrs: Iterable[str], pod: Pod) -> bool:
    """Return True if ranges contain all addresses that a pod requests."""
    cidrs = tuple(cidrs)
    return all(any(ip.is_in(text, cidr) for cidr in cidrs) for text in pod.requested_addresses)


class NodeRanges(Struct, frozen=True):
    """Pod addresses of one IP family that a node has."""

    cidrs: tuple[str, ...]
    """Ranges, in the order in which the node got them."""
    tunnels: Mapping[str, str] = {}
    """Kind of tunnel, such as `vxlan` → address of the node's end, where tunnels have addresses."""


class Allocator(Protocol):
    """IPAM of a CNI plugin, for one run of the controller."""

    watches: ClassVar[tuple[Kind, ...]]
    """Kinds that the allocator reads, beside those of the controller."""
    request_kinds: ClassVar[tuple[Kind, ...]]
    """Kinds of `watches` on which it depends where a pod gets the addresses that it requests."""
    has_node_ranges: ClassVar[bool]
    """True if a node has one range of each IP family, in which its pods have their gateway."""

    def __init__(self, cluster: Cluster, waiting: Collection[str]) -> None:
        """Read the state of the allocator from the store.

        waiting: names of the nodes on which pods wait for addresses.
        """

    def can_provide(self, pod: Pod, node: Node) -> bool:
        """Return True if the node may have the addresses that the pod requests.

        An address of the node's ranges counts even if it is in use, or reserved: then the pod waits
        on this node, and its events say why.
        """

    @classmethod
    def ranges(cls, cluster: Cluster, node: Node) -> tuple[NodeRanges, ...]:
        """Return the ranges of a node, one entry per IP family, the primary family first."""

    def allocate(self, pod: Pod, node: Node) -> tuple[str, ...] | AllocationFailure:
        """Return an address of each IP family, the primary family first, and mark them as used."""

    def changes(self) -> Iterator[Change]:
        """Yield the changes of the allocator's state in the store."""
