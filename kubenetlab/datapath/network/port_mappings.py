"""extraPortMappings: ports of the lab's client host that lead to nodes.

They correspond to the ports that Docker publishes for kind's nodes on its machine.

    prerouting, output  →  ports: dnat to the node
    masquerading        →  every client is masqueraded to the host that publishes the port

Source: sigs.k8s.io/kind pkg/apis/config/v1alpha4/types.go (PortMapping, v0.27); Docker's bridge
driver for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.values import ip
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.nftables import NFT_FAMILIES, Chain, Hook, Table, rule
from kubenetlab.hoststate.rules.nftables.statements import Dnat, Masquerade, Match, jump
from kubenetlab.hoststate.sandbox import Sysctl
from kubenetlab.names import PORT_MAPPING_TABLE

_ANY = ("", "0.0.0.0", "::")


class PublishedPort(Struct, frozen=True):
    """A port of the outside host, and the node port that it leads to, in one address family."""

    node: str
    listen_address: str
    """Address of the host at which the port answers; empty for every address."""
    protocol: str
    """Protocol in lower case, as nft writes it."""
    port: int
    address: str
    """Address of the node."""
    node_port: int
    """Port of the node."""

    @property
    def version(self) -> int:
        return ip.version_of(self.address)

    @property
    def match(self) -> tuple[Match, Match]:
        """Match of the packets to this port."""
        destination = (
            Match(f"{NFT_FAMILIES[self.version]} daddr", self.listen_address)
            if self.listen_address
            else Match("fib daddr type", "local")
        )
        return destination, Match(f"{self.protocol} dport", str(self.port))


def published_ports(
    config: ClusterConfig, addresses: Mapping[str, Sequence[str]]
) -> tuple[PublishedPort, ...]:
    """Return every mapping of every node, once per family that both ends have.

    addresses: addresses of each node, by name.
    """
    return tuple(
        PublishedPort(
            name,
            "" if mapping.listen_address in _ANY else mapping.listen_address,
            mapping.protocol.lower(),
            mapping.host_port or mapping.container_port,
            address,
            mapping.container_port,
        )
        for node, name in zip(config.nodes, config.node_names, strict=True)
        for mapping in node.extra_port_mappings
        for address in addresses.get(name, ())
        if not mapping.listen_address
        or ip.version_of(mapping.listen_address) == ip.version_of(address)
    )


def rules(netns: str, ports: Sequence[PublishedPort]) -> Iterator[Object]:
    """Yield the objects of the host that publishes the ports, with one table per family."""
    if ports:
        yield Sysctl(netns, "net/ipv4/conf/all/route_localnet", "1")
    for version, family in NFT_FAMILIES.items():
        own = [port for port in ports if port.version == version]
        if not own:
            continue
        yield Table(netns, family, PORT_MAPPING_TABLE, "extraPortMappings of the nodes")
        forwards = tuple(
            rule(*port.match, Dnat(port.address, port.node_port), comment=f"Node {port.node}")
            for port in own
        )
        yield Chain(netns, family, PORT_MAPPING_TABLE, "ports", forwards)
        for hook in ("prerouting", "output"):
            yield Chain(
                netns,
                family,
                PORT_MAPPING_TABLE,
                hook,
                (rule(jump("ports")),),
                Hook("nat", hook, -100),
            )
        masquerade = rule(
            Match("ct status", "dnat"), Masquerade(), comment="replies return through this host"
        )
        yield Chain(
            netns,
            family,
            PORT_MAPPING_TABLE,
            "masquerading",
            (masquerade,),
            Hook("nat", "postrouting", 100),
        )
