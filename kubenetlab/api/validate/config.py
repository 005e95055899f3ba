"""The Cluster document: ranges that fit and do not overlap, nodes and hosts with addresses to be had."""

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

from kubenetlab import names
from kubenetlab.api.config import INTERNET_SUBNET, LOAD_BALANCER_SUBNET, NODE_CIDR_MASK_SIZE, NODE_SUBNET, ClusterConfig, Network, networks
from kubenetlab.api.decode import Finding, found
from kubenetlab.api.documents import Path
from kubenetlab.api.validate.metadata import subdomain_fault, validate_labels
from kubenetlab.api.validate.pods import is_address

MAX_NODES = 1000
SWITCH_PORTS = (names.SWITCH_BRIDGE, "lo", "router")
"""What is on a switch beside the ports named after nodes and external hosts."""


def validate_config(config: ClusterConfig) -> Iterator[Finding]:
    """What speaks against a Cluster document."""
    if config.name and (fault := names.lab_name_fault(config.name)):
        yield Finding(("name",), fault)
    yield from _validate_nodes(config)
    yield from _validate_ranges(config)
    yield from _validate_external(config)
    if config.networking.ip_family != "ipv4":
        yield Finding(
            ("networking", "ipFamily"), f"wanted ipv4 (the other families are not modelled yet), found {config.networking.ip_family}"
        )
    if fault := subdomain_fault(config.networking.dns_domain):
        yield Finding(("networking", "dnsDomain"), fault)
    if config.fabric.topology != "switched":
        yield Finding(("fabric", "topology"), f"wanted switched (routed is not modelled yet), found {config.fabric.topology}")


def _validate_nodes(config: ClusterConfig) -> Iterator[Finding]:
    if len(config.nodes) > MAX_NODES:
        yield Finding(("nodes",), f"wanted at most {MAX_NODES} nodes, found {len(config.nodes)}")
    node_names = config.node_names
    for index, (node, name) in enumerate(zip(config.nodes, node_names, strict=True)):
        if node.name and (fault := subdomain_fault(node.name)):
            yield Finding(("nodes", index, "name"), fault)
        if name in node_names[:index]:
            yield Finding(("nodes", index, "name"), f"{found(name)} is the name of another node already")
        if name in SWITCH_PORTS:
            yield Finding(("nodes", index, "name"), f"{found(name)} is the name of a link of the lab's own on the switch")
        yield from validate_labels(node.labels, ("nodes", index, "labels"))


def _validate_ranges(config: ClusterConfig) -> Iterator[Finding]:
    ranges: list[tuple[Path, str, Network]] = [
        ((), "the nodes", ip_network(NODE_SUBNET)),
        ((), "the internet", ip_network(INTERNET_SUBNET)),
        ((), "load balancers", ip_network(LOAD_BALANCER_SUBNET)),
    ]
    fields = (("podSubnet", "pods", config.networking.pod_subnet), ("serviceSubnet", "Services", config.networking.service_subnet))
    for field, whose, text in fields:
        path: Path = ("networking", field)
        try:
            parts = networks(text)
        except ValueError as error:
            yield Finding(path, f"wanted a range such as 10.244.0.0/16, found {found(text)}", hints=(str(error),))
            continue
        if len(parts) != 1 or parts[0].version != 4:
            yield Finding(path, f"wanted one IPv4 range with ipFamily ipv4, found {found(text)}")
            continue
        if not _can_be_routed(parts[0]):
            yield Finding(path, f"wanted a range of unicast addresses, found {found(text)}")
        for other_path, other, network in ranges:
            if parts[0].overlaps(network):
                named = f"{other} ({'.'.join(map(str, other_path)) + ': ' if other_path else ''}{network})"
                yield Finding(path, f"{text} overlaps the range of {named}")
        ranges.append((path, whose, parts[0]))
        yield from _validate_size(config, field, parts[0])


def _can_be_routed(network: Network) -> bool:
    return not (network.is_loopback or network.is_link_local or network.is_multicast or network.is_reserved or network.is_unspecified)


def _validate_size(config: ClusterConfig, field: str, network: Network) -> Iterator[Finding]:
    path: Path = ("networking", field)
    if field == "serviceSubnet":
        if not 12 <= network.prefixlen <= 28:
            yield Finding(path, f"wanted a prefix length from 12 to 28, found {network.prefixlen}")
    elif network.prefixlen > NODE_CIDR_MASK_SIZE:
        yield Finding(path, f"wanted room for a /{NODE_CIDR_MASK_SIZE} per node, found a /{network.prefixlen}")
    elif 2 ** (NODE_CIDR_MASK_SIZE - network.prefixlen) < len(config.nodes):
        yield Finding(
            path,
            f"{network} holds {2 ** (NODE_CIDR_MASK_SIZE - network.prefixlen)} ranges of /{NODE_CIDR_MASK_SIZE}, one per node, for {len(config.nodes)} nodes",
        )


def _validate_external(config: ClusterConfig) -> Iterator[Finding]:
    internet = ip_network(INTERNET_SUBNET)
    seen: dict[str, str] = {}
    for index, host in enumerate(config.external):
        path: Path = ("external", index)
        if fault := subdomain_fault(host.name):
            yield Finding((*path, "name"), fault)
        if host.name in SWITCH_PORTS:
            yield Finding((*path, "name"), f"{found(host.name)} is the name of a link of the lab's own on the internet's switch")
        if not is_address(host.address):
            yield Finding((*path, "address"), f"wanted an IP address, found {found(host.address)}")
        elif ip_address(host.address) not in internet or ip_address(host.address) in (internet[0], internet[1], internet[-1]):
            yield Finding((*path, "address"), f"wanted a free address of {internet} ({internet[1]} is the router's), found {host.address}")
        for field, value in (("name", host.name), ("address", host.address)):
            if value in seen:
                yield Finding((*path, field), f"{found(value)} belongs to {seen[value]} already")
            seen[value] = f"external[{index}]"
