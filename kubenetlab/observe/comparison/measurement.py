"""Measurement of a pod network between three pods: two on one node, one on another node.

All sockets belong to one process, which has joined the lab (`enter_lab`): it sends a packet in one
namespace, receives it in another one, and sees it leave the node in a third one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from ipaddress import ip_address
from typing import NamedTuple

from msgspec import Struct

from kubenetlab.errors import LabError
from kubenetlab.kernel.node_state import count_routes, count_rules
from kubenetlab.kernel.syscalls import open_namespace
from kubenetlab.observe.comparison.datagrams import Capture, path_mtu, send
from kubenetlab.observe.comparison.sockets import inside
from kubenetlab.observe.comparison.streams import (
    best_gbit_per_s,
    is_blocked,
    median_connect_ms,
)
from kubenetlab.observe.targets.locations import Location


class Measurement(Struct, frozen=True):
    """Properties of a pod network."""

    routes: int
    """Number of routes in the main table of the first pods' node."""
    rules: int
    """Number of nftables rules on that node, those of iptables and of kube-proxy included."""
    hops_same_node: int
    """Number of routers between two pods of the node, as the TTL shows."""
    hops_other_node: int
    """Number of routers between pods of two nodes."""
    overhead_bytes: int | None
    """Bytes that a packet between nodes is larger on the fabric; None if it cannot be found there.
    """
    mtu: int
    """MTU of a pod for packets to the other node in bytes: of its link, or of its route."""
    connect_ms: float
    """Median time of a TCP connection to a pod of the other node, in milliseconds."""
    gbit_per_s: float
    """Best second of one TCP stream to that pod, in Gbit/s."""
    source_at_pod: str
    """Source address that a pod of the other node sees: pod, node, or an address."""
    source_at_node: str
    """Source address that the other node sees, likewise."""
    encrypted: bool = False
    """True if the content of packets between nodes cannot be read on the fabric."""


class Subjects(NamedTuple):
    """Pods and nodes between which packets are sent."""

    source: Location
    neighbour: Location
    """Another pod of the same node."""
    remote: Location
    """Pod of another node."""
    node: Location
    remote_node: Location


def subjects(pods: Sequence[Location], nodes: Sequence[Location], version: int) -> Subjects:
    """Choose the pods between which packets are sent, and their nodes.

    Pods in the network of their node do not count. Raises LabError if no node has two pods, or no
    other node has one.
    """
    by_node: dict[str, list[Location]] = {}
    for pod in pods:
        if not pod.is_host_network and version in pod.versions:
            by_node.setdefault(pod.node, []).append(pod.of_version(version))
    places = {node.name: node.of_version(version) for node in nodes if version in node.versions}
    for name, (first, *others) in by_node.items():
        remote = next((pods[0] for other, pods in by_node.items() if other != name), None)
        if others and remote is not None:
            return Subjects(first, others[0], remote, places[name], places[remote.node])
    raise LabError(
        f"there must be two pods with IPv{version} on one node and one on another node, "
        f"but there are: {', '.join(f'{len(own)} on {name}' for name, own in by_node.items())}"
    )


def measure(ends: Subjects) -> Measurement:
    """Measure a pod network. Takes about three seconds.

    Raises LabError if a packet does not arrive.
    """
    home = open_namespace("net")
    try:
        return _measure(ends, home)
    finally:
        os.close(home)


def _measure(ends: Subjects, home: int) -> Measurement:
    version = ip_address(ends.source.address).version
    near = send(ends.source, ends.neighbour, home)
    with inside(ends.node, home):
        fabric = Capture()
    with fabric:
        far = send(ends.source, ends.remote, home)
        grown = fabric.growth(far)
    to_node = send(ends.source, ends.remote_node, home)
    connect_ms = median_connect_ms(ends.source, ends.remote, home)
    gbit_per_s = best_gbit_per_s(ends.source, ends.remote, home)
    with inside(ends.node, home):  # last: the kernel has all routes of BIRD by now
        routes, rules = count_routes(version), count_rules()
    return Measurement(
        routes=routes,
        rules=rules,
        hops_same_node=near.hops,
        hops_other_node=far.hops,
        overhead_bytes=grown.bytes,
        encrypted=grown.is_encrypted,
        mtu=path_mtu(ends.source, ends.remote, home),
        connect_ms=connect_ms,
        gbit_per_s=gbit_per_s,
        source_at_pod=_owner(far.source, ends),
        source_at_node=_owner(to_node.source, ends),
    )


def _owner(address: str, ends: Subjects) -> str:
    """Return the word for an address of the source or of its node."""
    if address in ends.source.addresses:
        return "pod"
    return "node" if address in ends.node.addresses else address


def is_isolated(ends: Subjects) -> bool:
    """Return True if the pod of the other node does not accept connections of the source."""
    home = open_namespace("net")
    try:
        return is_blocked(ends.source, ends.remote, home)
    finally:
        os.close(home)
