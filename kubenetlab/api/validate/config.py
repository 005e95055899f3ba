"""Validation of the Cluster document: ranges, nodes, pools, external hosts, port mappings."""

from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address

from kubenetlab import names
from kubenetlab.api.config import (
    INTERNET_SUBNETS,
    LOAD_BALANCER_SUBNETS,
    NODE_SUBNETS,
    ROUTED_NODE_SUBNETS,
    VERSIONS,
    ClusterConfig,
    ExternalHost,
    Network,
    Pool,
    networks,
)
from kubenetlab.api.segments import MAX_SEGMENTS, NODES_PER_SEGMENT
from kubenetlab.api.text.decode import Finding, found
from kubenetlab.api.text.documents import Path
from kubenetlab.api.validate.links import validate_links
from kubenetlab.api.validate.metadata import validate_labels
from kubenetlab.api.validate.node_ranges import range_faults
from kubenetlab.api.validate.syntax import address_fault, subdomain_fault
from kubenetlab.api.values.ip import version_of

MAX_NODES = 1000
"""Maximum number of nodes."""
_EXAMPLES = {
    (4,): "10.244.0.0/16",
    (6,): "fd00:10:244::/56",
    (4, 6): "10.244.0.0/16,fd00:10:244::/56",
}
"""IP versions of a cluster → example of a range."""
_SERVICE_SIZES = {4: (12, 28), 6: (108, 124)}
"""IP version → minimum and maximum prefix length of the Service range.

Source: cmd/kube-apiserver/app/options/validation.go (20 bits for Services).
"""
SWITCH_PORTS = (names.SWITCH_BRIDGE, "lo", "router")
"""Names of the lab's own links on a switch. All others are named after nodes or external hosts."""


def validate_config(config: ClusterConfig) -> Iterator[Finding]:
    """Validate a Cluster document; yield every finding."""
    if config.name and (fault := names.lab_name_fault(config.name)):
        yield Finding(("name",), fault)
    yield from _validate_nodes(config)
    yield from _validate_ranges(config)
    yield from _validate_pod_cidrs(config)
    yield from _validate_pools(config)
    yield from _validate_external(config)
    yield from _validate_port_mappings(config)
    if fault := subdomain_fault(config.networking.dns_domain):
        yield Finding(("networking", "dnsDomain"), fault)
    yield from _validate_segments(config)
    yield from validate_links(config)


def _validate_nodes(config: ClusterConfig) -> Iterator[Finding]:
    if len(config.nodes) > MAX_NODES:
        yield Finding(("nodes",), f"expected at most {MAX_NODES} nodes, found {len(config.nodes)}")
    node_names = config.node_names
    for index, (node, name) in enumerate(zip(config.nodes, node_names, strict=True)):
        if node.name and (fault := subdomain_fault(node.name)):
            yield Finding(("nodes", index, "name"), fault)
        if name in node_names[:index]:
            yield Finding(
                ("nodes", index, "name"), f"{found(name)} is already the name of another node"
            )
        if name in SWITCH_PORTS:
            yield Finding(
                ("nodes", index, "name"),
                f"{found(name)} is reserved for a link of the lab on the switch",
            )
        yield from validate_labels(node.labels, ("nodes", index, "labels"))


def _validate_segments(config: ClusterConfig) -> Iterator[Finding]:
    """Yield segments of a switched fabric, and more segments or nodes than there are addresses."""
    for index, node in enumerate(config.nodes):
        path: Path = ("nodes", index, "segment")
        if node.segment and (fault := names.label_problem(node.segment)):
            yield Finding(path, fault)
        if node.segment and config.fabric.topology == "switched":
            yield Finding(
                path,
                "expected no segment with fabric.topology switched, where all nodes are on one, "
                f"found {found(node.segment)}",
                hints=("set fabric.topology: routed",),
            )
    segments = Counter(config.segments)
    if len(segments) > MAX_SEGMENTS:
        yield Finding(
            ("nodes",),
            f"expected at most {MAX_SEGMENTS} segments with fabric.topology routed, "
            f"found {len(segments)}: a node without `segment` has one of its own",
        )
    limit = NODES_PER_SEGMENT - config.fabric.routers + 1
    for name, count in segments.items():
        if name and count > limit:
            yield Finding(
                ("nodes",), f"expected at most {limit} nodes on segment {name}, found {count}"
            )


def _validate_port_mappings(config: ClusterConfig) -> Iterator[Finding]:
    mappings: dict[tuple[str, int], list[tuple[str, str]]] = {}
    """(protocol, port of the host) → (listen address, field) of each mapping."""
    for index, node in enumerate(config.nodes):
        for number, mapping in enumerate(node.extra_port_mappings):
            path: Path = ("nodes", index, "extraPortMappings", number)
            address, port = mapping.listen_address, mapping.host_port or mapping.container_port
            if address and (fault := address_fault(address)):
                yield Finding((*path, "listenAddress"), fault)
                continue
            if not _versions(address) & set(config.networking.versions):
                family = f"IPv{version_of(address)}"
                message = (
                    f"{address} is {family}, which this cluster does not have: port not opened"
                )
                yield Finding((*path, "listenAddress"), message, is_warning=True)
            others = mappings.setdefault((mapping.protocol, port), [])
            user = next((field for other, field in others if _overlap(address, other)), None)
            if user is not None:
                yield Finding(
                    (*path, "hostPort"),
                    f"{mapping.protocol} port {port} is already taken by {user}",
                )
            others.append((address, f"nodes[{index}].extraPortMappings[{number}]"))
    if mappings and not config.external:
        yield Finding(
            ("external",), "expected a host that publishes the nodes' extraPortMappings, found none"
        )


def _versions(listen_address: str) -> set[int]:
    return {version_of(listen_address)} if listen_address else {4, 6}


def _overlap(one: str, other: str) -> bool:
    """Return True if two listen addresses conflict: they are equal, or one is the wildcard."""
    is_any = bool({one, other} & {"", "0.0.0.0", "::"})
    return bool(_versions(one) & _versions(other)) and (one == other or is_any)


def _validate_ranges(config: ClusterConfig) -> Iterator[Finding]:
    versions = VERSIONS[config.networking.ip_family]
    ranges: list[tuple[Path, str, Network]] = [
        ((), owner, subnets[version])
        for owner, subnets in (
            (
                "the nodes",
                NODE_SUBNETS if config.fabric.topology == "switched" else ROUTED_NODE_SUBNETS,
            ),
            ("the internet", INTERNET_SUBNETS),
            ("load balancers", LOAD_BALANCER_SUBNETS),
        )
        for version in versions
    ]
    orders: dict[str, list[int]] = {}
    fields = (
        ("podSubnet", "pods", config.networking.pod_subnet),
        ("serviceSubnet", "Services", config.networking.service_subnet),
    )
    for field, owner, text in fields:
        path: Path = ("networking", field)
        try:
            parts = networks(text)
        except ValueError as error:
            yield Finding(
                path,
                f"expected a range such as {_EXAMPLES[versions]}, found {found(text)}",
                hints=(str(error),),
            )
            continue
        if sorted(part.version for part in parts) != sorted(versions):
            expected = " and ".join(f"one IPv{version} range" for version in versions)
            family = config.networking.ip_family
            yield Finding(path, f"expected {expected} with ipFamily {family}, found {found(text)}")
            continue
        orders[field] = [part.version for part in parts]
        for part in parts:
            if not _can_be_routed(part):
                yield Finding(
                    path, f"expected a range of unicast addresses, found {found(str(part))}"
                )
            for other_path, other, network in ranges:
                if part.version == network.version and part.overlaps(network):
                    prefix = f"{'.'.join(map(str, other_path))}: " if other_path else ""
                    yield Finding(path, f"{part} overlaps the range of {other} ({prefix}{network})")
            ranges.append((path, owner, part))
            yield from _validate_size(config, field, part)
    if len(orders) == 2 and orders["podSubnet"] != orders["serviceSubnet"]:
        yield Finding(
            ("networking", "serviceSubnet"),
            f"expected the families in the order of podSubnet ({config.networking.pod_subnet}), "
            f"found {config.networking.service_subnet}",
            hints=("the first is the primary family of the cluster",),
        )


def _can_be_routed(network: Network) -> bool:
    return not (
        network.is_loopback
        or network.is_link_local
        or network.is_multicast
        or network.is_reserved
        or network.is_unspecified
    )


def _validate_size(config: ClusterConfig, field: str, network: Network) -> Iterator[Finding]:
    path: Path = ("networking", field)
    mask_size = config.networking.node_mask_size(network.version)
    if field == "serviceSubnet":
        least, most = _SERVICE_SIZES[network.version]
        if not least <= network.prefixlen <= most:
            yield Finding(
                path, f"expected a prefix length from {least} to {most}, found {network.prefixlen}"
            )
    elif network.prefixlen > mask_size:
        yield Finding(
            path,
            f"expected a prefix length of at most {mask_size}, because each node gets a "
            f"/{mask_size}; found {network.prefixlen}",
            hints=(_size_hint(config, network, mask_size),),
        )
    elif (capacity := 2 ** (mask_size - network.prefixlen)) < len(config.nodes):
        yield Finding(
            path,
            f"expected a range of /{mask_size} for each of {len(config.nodes)} nodes; "
            f"{network} has {capacity}",
            hints=(_size_hint(config, network, mask_size),),
        )


def _size_hint(config: ClusterConfig, network: Network, mask_size: int) -> str:
    """Return a hint with prefix lengths that leave a part of the pods' range for each node."""
    bits = (len(config.nodes) - 1).bit_length()
    field = f"networking.nodeCIDRMaskSizeIPv{network.version}"
    larger = f"set podSubnet to a /{mask_size - bits} or larger"
    longest = network.max_prefixlen - 2
    smaller = f", or {field} to {network.prefixlen + bits} or more"
    return larger + (smaller if network.prefixlen + bits <= longest else "")


def _validate_pod_cidrs(config: ClusterConfig) -> Iterator[Finding]:
    node_names = config.node_names
    given = {name: node.pod_cidrs for node, name in zip(config.nodes, node_names, strict=True)}
    for fault in range_faults(config, given):
        path: Path = (
            ("nodes", node_names.index(fault.node), "podCIDRs")
            if fault.node
            else ("networking", "podSubnet")
        )
        yield Finding(path, fault.message, hints=fault.hints)


def _validate_pools(config: ClusterConfig) -> Iterator[Finding]:
    pools = config.networking.ipam.pools
    for index, pool in enumerate(pools):
        path: Path = ("networking", "ipam", "pools", index)
        yield from _validate_pool(config, pool, path)
        for other in pools[:index]:
            if other.name == pool.name:
                yield Finding(
                    (*path, "name"), f"{found(pool.name)} is already the name of another pool"
                )
            shares_node = any(
                pool.serves(node) and other.serves(node) for node in config.node_names
            )
            if shares_node and pool.first <= other.last and other.first <= pool.last:
                yield Finding(
                    path,
                    f"{pool.first} to {pool.last} overlaps pool {other.name} "
                    f"({other.first} to {other.last})",
                )


def _validate_pool(config: ClusterConfig, pool: Pool, path: Path) -> Iterator[Finding]:
    if fault := subdomain_fault(pool.name):
        yield Finding((*path, "name"), fault)
    last_number = _last_number(config)
    if pool.last < pool.first:
        yield Finding(
            (*path, "last"),
            f"expected at least {pool.first}, where the pool begins, found {pool.last}",
        )
    elif _uses_allocated_range(config, pool) and pool.last > last_number:
        yield Finding(
            (*path, "last"),
            f"expected at most {last_number}, the last number in a node's range, found {pool.last}",
        )
    for name in pool.nodes:
        if name not in config.node_names:
            nodes = ", ".join(config.node_names)
            yield Finding(
                (*path, "nodes"), f"there is no node {found(name)}; the nodes are: {nodes}"
            )


def _last_number(config: ClusterConfig) -> int:
    """Return the number of the last usable address in the smallest allocated node range."""
    mask_sizes = {
        version: config.networking.node_mask_size(version)
        for version in VERSIONS[config.networking.ip_family]
    }
    host_bits = min(
        (32 if version == 4 else 128) - mask_size for version, mask_size in mask_sizes.items()
    )
    return (1 << host_bits) - 2


def _uses_allocated_range(config: ClusterConfig, pool: Pool) -> bool:
    """Return True if the pool serves a node whose range the cluster allocates."""
    return any(
        pool.serves(name) and not node.pod_cidrs
        for node, name in zip(config.nodes, config.node_names, strict=True)
    )


def _validate_external(config: ClusterConfig) -> Iterator[Finding]:
    owners: dict[str, str] = {}
    for index, host in enumerate(config.external):
        path: Path = ("external", index)
        if fault := subdomain_fault(host.name):
            yield Finding((*path, "name"), fault)
        if host.name in SWITCH_PORTS:
            yield Finding(
                (*path, "name"),
                f"{found(host.name)} is reserved for a link of the lab on the internet's switch",
            )
        yield from _validate_addresses(config, host, path)
        for field, value in (
            ("name", host.name),
            *(("address", text) for text in host.given_addresses),
        ):
            if value in owners:
                yield Finding((*path, field), f"{found(value)} already belongs to {owners[value]}")
            owners[value] = f"external[{index}]"


def _validate_addresses(config: ClusterConfig, host: ExternalHost, path: Path) -> Iterator[Finding]:
    address_path = (*path, "address")
    versions: list[int] = []
    for text in host.given_addresses:
        if fault := address_fault(text):
            yield Finding(address_path, fault)
            continue
        address = ip_address(text)
        internet = INTERNET_SUBNETS[address.version]
        if address not in internet or address in (internet[0], internet[1], internet[-1]):
            yield Finding(
                address_path,
                f"expected a free address of {internet} ({internet[1]} is the router's), "
                f"found {text}",
            )
        if address.version in versions:
            yield Finding(
                address_path, f"expected one address per family, found {found(host.address)}"
            )
        versions.append(address.version)
    if versions == [6] and config.networking.ip_family == "ipv4":
        yield Finding(
            address_path, f"expected an IPv4 address with ipFamily ipv4, found {host.address}"
        )
