"""Addresses that the IPAM of CNI plugins has assigned, as internal objects of the lab."""

from __future__ import annotations

from collections.abc import Mapping

from kubenetlab.api.internal import Internal
from kubenetlab.api.meta import ObjectMeta


class HostLocalState(Internal, frozen=True):
    """Addresses that the IPAM `host-local` has assigned last, so that none is reused at once."""

    kind = "HostLocalState"
    plural = "hostlocalstates"
    is_namespaced = False

    metadata: ObjectMeta = ObjectMeta(name="host-local")
    last_addresses: Mapping[str, tuple[str, ...]] = {}
    """Node, or node and pool separated by a space → address allocated last, per IP family."""


class ClusterPoolState(Internal, frozen=True):
    """Ranges that Cilium's operator has assigned to nodes, with `ipam: cluster-pool`."""

    kind = "ClusterPoolState"
    plural = "clusterpoolstates"
    is_namespaced = False

    metadata: ObjectMeta = ObjectMeta(name="cluster-pool")
    ranges: Mapping[str, tuple[str, ...]] = {}
    """Node → its range of each IP family, the primary family first."""
    last: Mapping[str, str] = {}
    """Pool → range that was assigned last, so that none is reused at once."""


class AddressBlock(Internal, frozen=True):
    """Block of pod addresses that Calico's IPAM has taken from an IPPool for a node.

    The name is the range with `-` in place of `.`, `:` and `/`.
    """

    kind = "AddressBlock"
    plural = "addressblocks"
    is_namespaced = False

    metadata: ObjectMeta
    cidr: str
    """Range of the block."""
    node: str
    """Name of the node; empty if the node was removed while addresses are in use."""
    pool: str
    """Name of the IPPool."""
    last: int = -1
    """Number of the address that was assigned last, counted from the start of the block."""
    tunnels: Mapping[str, str] = {}
    """Kind of tunnel → address of the node's end: `vxlan`, `vxlan-v6` or `ipip`."""
    borrowers: tuple[str, ...] = ()
    """Names of other nodes that have assigned addresses of the block."""


class RingState(Internal, frozen=True):
    """Ownership of one range of pod addresses by nodes, as in Weave's IPAM.

    The name is `weave-ipv4` or `weave-ipv6`.
    """

    kind = "RingState"
    plural = "ringstates"
    is_namespaced = False

    metadata: ObjectMeta
    parts: tuple[tuple[int, str], ...] = ()
    """(number of the first address, node) of each part, which ends where the next one begins."""
    addresses: Mapping[str, str] = {}
    """Node → its own address, on its bridge."""
    last: Mapping[str, int] = {}
    """Node → number of the address that it assigned last."""
