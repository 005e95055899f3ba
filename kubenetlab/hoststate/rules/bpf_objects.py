"""Objects of the rule backend bpf: programs on links, and entries of their maps."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import ClassVar, Final

from msgspec import Struct

from kubenetlab.hoststate.object import Key
from kubenetlab.hoststate.rules.bpf_entries import (
    AT_ADDRESS,
    AT_NODE,
    ENDPOINT,
    FRONT,
    FRONT_KEY,
    HOME_KEY,
    IS_DIRECT,
    IS_FENCED,
    IS_HIDING,
    IS_LOCAL,
    IS_OUTSIDE,
    OVERLAY,
    OVERLAY_KEY,
    PROTOCOLS,
    SETTINGS_COUNTS,
    SLOT,
    SOURCE_KEY,
    UNSPECIFIED,
    packed_address,
    packed_id,
    packed_port,
    packed_prefix,
    packed_range,
)
from kubenetlab.hoststate.rules.rulesets import RuleObject

LOOPBACK: Final = "lo"
COMING, GOING = "coming", "going"
"""Names of the programs at tc ingress and at tc egress."""

Entry = tuple[str, bytes]
"""Map, and key in it."""
EndpointList = tuple[str, int]
"""Name of a list of endpoints, and its length."""
NOWHERE: Final[EndpointList] = ("", 0)


class BpfObject(RuleObject, frozen=True):
    """Base class of the objects of backends with BPF programs."""

    is_base: ClassVar[bool] = False
    """True for the object that stands for the programs themselves."""

    @property
    def backend(self) -> str:
        return "bpf"

    @property
    def links(self) -> tuple[str, ...]:
        """Links to which the programs are attached."""
        return ()

    @property
    def link_entries(self) -> Mapping[str, Entry]:
        """Map entries whose value is the index of a link, by the name of the link."""
        return {}

    @abstractmethod
    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        """Yield the map entries of the object."""


class FamilyConfig(Struct, frozen=True):
    """Settings of a node for one address family."""

    node: str
    """Address of the node."""
    pod_cidr: str
    """CIDR block of the cluster's pods."""
    service_cidr: str
    """CIDR block of the cluster IPs."""
    node_port_addresses: tuple[str, ...] = ()
    """Addresses of the node at which node ports are reached."""
    local_cidr: str | None = None
    """CIDR block of sources that count as pods for traffic policies; empty: no source does; None:
    local traffic is not detected."""


class BpfPrograms(BpfObject, frozen=True):
    """The programs with their maps, on the links that every node has."""

    is_base = True
    rank = 100

    ranges: tuple[FamilyConfig, ...]
    uplink: str
    overlay_count: int = 0
    """Number of `OverlayLink` objects of the node."""
    bare_count: int = 0
    """Number of those without Ethernet headers."""

    @property
    def key(self) -> Key:
        return ("BpfPrograms",)

    @property
    def links(self) -> tuple[str, ...]:
        return (self.uplink, LOOPBACK)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        configs = {ip_address(config.node).version: config for config in self.ranges}
        both = [
            configs.get(version, FamilyConfig(UNSPECIFIED[version], "", "")) for version in (4, 6)
        ]
        value = b"".join(packed_address(config.node) for config in both)
        range_groups = (
            [config.pod_cidr for config in both],
            [config.service_cidr for config in both],
            [config.local_cidr or "" for config in both],
        )
        value += b"".join(packed_range(cidr) for ranges in range_groups for cidr in ranges)
        yield (
            ("settings", bytes(4)),
            value
            + SETTINGS_COUNTS.pack(
                any(config.local_cidr is not None for config in both),
                self.overlay_count,
                self.bare_count,
            ),
        )
        for address in (
            address for config in self.ranges for address in config.node_port_addresses
        ):
            yield ("doors", packed_address(address)), b"\1"

    def __str__(self) -> str:
        return f"bpf programs {COMING} and {GOING} on {self.uplink}, {GOING} on {LOOPBACK}"


class PodLink(BpfObject, frozen=True):
    """A link of a pod on its node, to which the programs are attached, too."""

    rank = 140

    link: str

    @property
    def key(self) -> Key:
        return ("PodLink", self.link)

    @property
    def links(self) -> tuple[str, ...]:
        return (self.link,)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        return iter(())

    def __str__(self) -> str:
        return f"bpf programs {COMING} and {GOING} on {self.link}"


class OverlayLink(BpfObject, frozen=True):
    """A link to pods of other nodes in addition to the uplink, to which the programs are attached.

    Masqueraded packets to endpoints behind it have the node's own address on it as source.
    """

    rank = 105

    number: int
    """Number from 0 on; links without Ethernet headers have the first numbers."""
    link: str
    addresses: tuple[str, ...]
    """Own addresses of the node on the link, at most one for each family."""
    bridge: str = ""
    """Bridge of which the link is a port, which then has the addresses and the routes to pods."""

    @property
    def key(self) -> Key:
        return ("OverlayLink", str(self.number))

    @property
    def links(self) -> tuple[str, ...]:
        return (self.link,)

    @property
    def link_entries(self) -> Mapping[str, Entry]:
        return {self.bridge or self.link: ("overlay_links", OVERLAY_KEY.pack(self.number))}

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        own = {ip_address(address).version: packed_address(address) for address in self.addresses}
        value = OVERLAY.pack(*(own.get(version, b"") for version in (4, 6)))
        yield ("overlays", OVERLAY_KEY.pack(self.number)), value

    def __str__(self) -> str:
        own = f", own {', '.join(self.addresses)}" if self.addresses else ""
        return f"bpf programs {COMING} and {GOING} on {self.link}{own}"


class RemoteRange(BpfObject, frozen=True):
    """The node on which the addresses of a CIDR block are, if that is another node."""

    rank = 110

    cidr: str
    node: str

    @property
    def key(self) -> Key:
        return ("RemoteRange", self.cidr)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        length, address = packed_prefix(self.cidr)
        yield ("homes", HOME_KEY.pack(length, address)), packed_address(self.node)

    def __str__(self) -> str:
        return f"bpf home of {self.cidr}: {self.node}"


class BpfEndpoints(BpfObject, frozen=True):
    """A list of endpoints, of which a program selects one at random."""

    rank = 110

    name: str
    endpoints: tuple[tuple[str, int], ...]

    @property
    def key(self) -> Key:
        return ("BpfEndpoints", self.name)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        list_id = packed_id(self.name)
        for index, (address, port) in enumerate(self.endpoints):
            endpoint = ENDPOINT.pack(packed_address(address), packed_port(port))
            yield ("endpoints", SLOT.pack(list_id, index, 0)), endpoint
            yield ("members", list_id + endpoint), b"\1"

    def __str__(self) -> str:
        endpoints = ", ".join(f"{address} {port}" for address, port in self.endpoints)
        return f"bpf endpoints {self.name}: {endpoints}"


class AllowedSource(BpfObject, frozen=True):
    """A CIDR block from which a Service may be reached at its load balancer's address."""

    rank = 110

    service: str
    cidr: str

    @property
    def key(self) -> Key:
        return ("AllowedSource", self.service, self.cidr)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        length, address = packed_prefix(self.cidr)
        yield ("sources", SOURCE_KEY.pack(64 + length, packed_id(self.service), address)), b"\1"

    def __str__(self) -> str:
        return f"bpf source {self.cidr} of {self.service}"


class ClusterIp(BpfObject, frozen=True):
    """A cluster IP; connections to ports that its Service does not have are rejected."""

    rank = 120

    address: str

    @property
    def key(self) -> Key:
        return ("ClusterIp", self.address)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        yield (
            ("fronts", FRONT_KEY.pack(packed_address(self.address), bytes(2), 0, AT_ADDRESS)),
            bytes(FRONT.size),
        )

    def __str__(self) -> str:
        return f"bpf cluster IP {self.address}"


class Frontend(BpfObject, frozen=True):
    """An address and port at which a Service port is reached.

    A node port has the address 0.0.0.0 or ::, and is reached at the `doors` of the node.
    """

    rank = 120

    address: str
    port: int
    protocol: str
    service: str
    """`namespace/name:port/protocol`; session affinity applies to all addresses of the Service."""
    cluster_endpoints: EndpointList
    """Endpoints by the traffic policy Cluster."""
    local_endpoints: EndpointList = NOWHERE
    """Endpoints by the traffic policy Local."""
    affinity_s: int = 0
    """Timeout of session affinity, in seconds; 0: no affinity."""
    is_external: bool = False
    """True for an external address or a node port, to which the external traffic policy applies."""
    is_local: bool = False
    """True if the traffic policy is Local."""
    has_source_ranges: bool = False
    """True if only clients in an `AllowedSource` may connect."""
    masquerades_all: bool = False
    """True if all clients are masqueraded, so that endpoints see the address of the node."""
    is_direct: bool = False
    """True if endpoints see the clients' addresses, and answer them from their own nodes."""

    @property
    def key(self) -> Key:
        return ("Frontend", self.address, str(self.port), self.protocol)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        kind = AT_NODE if self.address in UNSPECIFIED.values() else AT_ADDRESS
        key = FRONT_KEY.pack(
            packed_address(self.address), packed_port(self.port), PROTOCOLS[self.protocol], kind
        )
        flags = (
            self.is_external * IS_OUTSIDE
            | self.is_local * IS_LOCAL
            | self.has_source_ranges * IS_FENCED
        )
        flags |= self.masquerades_all * IS_HIDING | self.is_direct * IS_DIRECT
        lists = (
            packed_id(self.cluster_endpoints[0]),
            packed_id(self.local_endpoints[0]),
            packed_id(self.service),
        )
        yield (
            ("fronts", key),
            FRONT.pack(
                *lists, self.cluster_endpoints[1], self.local_endpoints[1], self.affinity_s, flags
            ),
        )

    def __str__(self) -> str:
        policy = "Local" if self.is_local else "Cluster"
        _, count = self.local_endpoints if self.is_local else self.cluster_endpoints
        place = f"{self.address} {self.port}/{self.protocol}"
        return f"bpf front {place} of {self.service}: {policy} {count}"


Bpf = (
    BpfPrograms
    | PodLink
    | OverlayLink
    | RemoteRange
    | BpfEndpoints
    | AllowedSource
    | ClusterIp
    | Frontend
)


def endpoints(service: str, policy: str, chosen: Sequence[tuple[str, int]]) -> BpfEndpoints:
    """Return the endpoint list of a Service port for one policy, named by its digest.

    chosen: address and port of each endpoint.
    """
    digest = hashlib.sha256(repr(chosen).encode()).hexdigest()[:8]
    return BpfEndpoints("", f"{service} {policy} {digest}", tuple(chosen))
