"""BGPConfiguration and BGPPeer: which BGP sessions Calico's nodes have, and what they announce.

Source: projectcalico/calico api/pkg/apis/projectcalico/v3/{bgpconfig,bgppeer}.go (3.32); checks of
values: libcalico-go/lib/validator/v3/validator.go; docs.tigera.io, "BGP configuration".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, field

from kubenetlab.api.calico.as_numbers import ASNumber, with_as_numbers
from kubenetlab.api.calico.ip_pools import OTHER_API_VERSIONS
from kubenetlab.api.calico.selectors import parse_selector
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.meta import Labels, ObjectMeta, Record, Resource, Unmodelled
from kubenetlab.api.text.decode import Finding, found
from kubenetlab.api.text.documents import Path
from kubenetlab.api.values import ip
from kubenetlab.api.values.communities import community_fault
from kubenetlab.api.values.durations import duration_s

DEFAULT_NAME: Final = "default"
"""Name of the BGPConfiguration of all nodes."""
NODE_PREFIX: Final = "node."
"""Beginning of the name of a BGPConfiguration for one node; the name of the node follows."""
_NODE_FIELDS: Final = ("communities", "prefix_advertisements", "listen_port", "log_severity_screen")
"""Attributes that the BGPConfiguration of one node can have."""
PLUGIN_NAMESPACE: Final = "kube-system"
"""Namespace of the agents of most CNI plugins, and of the Secrets with their passwords."""
AS_NUMBER_ANNOTATION: Final = "projectcalico.org/ASNumber"
"""Annotation of a Node: its own autonomous system."""
CLUSTER_ID_ANNOTATION: Final = "projectcalico.org/RouteReflectorClusterID"
"""Annotation of a Node that reflects routes: the id of its cluster, in the form of an address."""
MAX_HOPS: Final = 255
MAX_RESTART_S: Final = 4095
"""Longest restart time that fits into a BGP message, in seconds (RFC 4724)."""


class SecretKey(Record, frozen=True):
    """A key of a Secret in kube-system."""

    name: str
    """Name of the Secret."""
    key: str
    """Key in its data."""


class BGPPassword(Record, frozen=True):
    """Source of the password of sessions, for signatures of TCP segments (RFC 2385)."""

    secret_key_ref: SecretKey | None = None
    """Key of a Secret in kube-system."""


class ServiceBlock(Record, frozen=True):
    """Range of Service addresses."""

    cidr: str
    """The range."""


class Community(Record, frozen=True):
    """Name of a BGP community."""

    name: str
    """The name, to which prefix advertisements can refer."""
    value: str
    """The community, such as 65000:120 or 65000:1:2."""


class PrefixAdvertisement(Record, frozen=True):
    """Communities of the routes in a range."""

    cidr: str
    """The range."""
    communities: tuple[str, ...]
    """Communities, or names of communities."""


class BGPConfigurationSpec(Record, frozen=True):
    """Desired state of a BGPConfiguration."""

    as_number: ASNumber | None = None
    """Autonomous system of nodes without one of their own. Defaults to the mode's, 64512."""
    node_to_node_mesh_enabled: bool | None = None
    """If true, each node has a session with each other node. Defaults to that of the mode."""
    node_mesh_password: BGPPassword | None = None
    """Password of the sessions between nodes of the mesh."""
    service_cluster_ips: tuple[ServiceBlock, ...] = ()
    """Ranges of cluster IPs that nodes announce."""
    service_external_ips: tuple[ServiceBlock, ...] = ()
    """Ranges from which nodes announce the external IPs of Services."""
    service_load_balancer_ips: tuple[ServiceBlock, ...] = ()
    """Ranges from which nodes announce the load balancers' addresses of Services."""
    communities: tuple[Community, ...] = ()
    """Names of communities."""
    prefix_advertisements: tuple[PrefixAdvertisement, ...] = ()
    """Communities of announced routes, by range."""
    bind_mode: Literal["None", "NodeIP"] = "None"
    """NodeIP: BIRD listens on the address of the node only; None: on all addresses."""
    node_mesh_max_restart_time: str = ""
    """Time in which other nodes of the mesh keep the routes of a BIRD that restarts (120s)."""
    log_severity_screen: Unmodelled = None
    listen_port: Unmodelled = None
    ignored_interfaces: Unmodelled = None
    service_load_balancer_aggregation: Unmodelled = None
    local_workload_peering_ip_v4: Unmodelled = field(default=None, name="localWorkloadPeeringIPV4")
    local_workload_peering_ip_v6: Unmodelled = field(default=None, name="localWorkloadPeeringIPV6")
    program_cluster_routes: Unmodelled = None
    ipv4_normal_route_priority: Unmodelled = None
    ipv6_normal_route_priority: Unmodelled = None

    @property
    def marks(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """(range, communities) of the prefix advertisements, with values in place of names."""
        values = {each.name: each.value for each in self.communities}
        return tuple(
            (each.cidr, tuple(values.get(name, name) for name in each.communities))
            for each in self.prefix_advertisements
        )


class BGPConfiguration(Resource, frozen=True):
    """BGP of all nodes with Calico (`default`), or the communities of one node (`node.NAME`)."""

    api_version = "projectcalico.org/v3"
    other_api_versions = OTHER_API_VERSIONS
    kind = "BGPConfiguration"
    plural = "bgpconfigurations"
    is_namespaced = False

    metadata: ObjectMeta
    spec: BGPConfigurationSpec = BGPConfigurationSpec()

    @classmethod
    def converted(cls, document: JsonMapping) -> JsonMapping:
        return with_as_numbers(document)

    @property
    def node(self) -> str:
        """Name of the only node that it concerns; empty for all nodes."""
        return self.name.removeprefix(NODE_PREFIX) if self.name.startswith(NODE_PREFIX) else ""


class BGPPeerSpec(Record, frozen=True):
    """Desired state of a BGPPeer."""

    node: str = ""
    """Name of the only node that has the session."""
    node_selector: str = ""
    """Selector of the nodes that have the session. All nodes if `node` is empty, too."""
    peer_ip: str = ""
    """Address of the router at the other end, with or without a port."""
    as_number: ASNumber | None = None
    """Autonomous system of this router. Required with `peerIP`."""
    peer_selector: str = ""
    """Selector of the nodes at the other end, in place of `peerIP`."""
    password: BGPPassword | None = None
    """Password of the sessions."""
    source_address: Literal["UseNodeIP", "None"] = "UseNodeIP"
    """Own address of the sessions; None: selected by the routes of the node."""
    keep_original_next_hop: bool = False
    """If true, next hops are announced unchanged."""
    next_hop_mode: Literal["Auto", "Self", "Keep"] | None = None
    """Next hop that is announced: BGP's default, always the node, or the original one."""
    num_allowed_local_as_numbers: Annotated[int, Meta(ge=0, le=MAX_HOPS)] | None = field(
        default=None, name="numAllowedLocalASNumbers"
    )
    """Maximum number of times that an accepted route may have the node's own AS in its path."""
    local_as_number: ASNumber | None = field(default=None, name="localASNumber")
    """Autonomous system of the node for these sessions."""
    ttl_security: Annotated[int, Meta(ge=0, le=MAX_HOPS)] | None = None
    """Number of hops to the router; packets from farther away are dropped (RFC 5082)."""
    filters: tuple[str, ...] = ()
    """Names of the BGPFilters of the sessions, in order."""
    max_restart_time: str = ""
    """Time in which the peer keeps the routes of a BIRD that restarts (120s)."""
    reverse_peering: Literal["Auto", "Manual"] = "Auto"
    """Auto: nodes that `peerSelector` selects get the reverse session; Manual: they do not."""
    keepalive_time: Unmodelled = None
    reachable_by: Unmodelled = None
    local_workload_selector: Unmodelled = None


class BGPPeer(Resource, frozen=True):
    """BGP sessions of nodes with a router, or with other nodes."""

    api_version = "projectcalico.org/v3"
    other_api_versions = OTHER_API_VERSIONS
    kind = "BGPPeer"
    plural = "bgppeers"
    is_namespaced = False

    metadata: ObjectMeta
    spec: BGPPeerSpec = BGPPeerSpec()

    @classmethod
    def converted(cls, document: JsonMapping) -> JsonMapping:
        return with_as_numbers(document)

    @property
    def address(self) -> str:
        """Address of the router, without the port."""
        return split_port(self.spec.peer_ip)[0]

    @property
    def port(self) -> int:
        """Port of the router; 0 for BGP's."""
        return split_port(self.spec.peer_ip)[1]

    def serves(self, node: str, labels: Labels) -> bool:
        """Return True if a node with this name and these labels has the sessions."""
        spec = self.spec
        if spec.node:
            return spec.node == node
        return not spec.node_selector or parse_selector(spec.node_selector).matches(labels)

    @property
    def is_global(self) -> bool:
        """True if all nodes have the sessions."""
        return not (self.spec.node or self.spec.node_selector)

    def is_reversed(self, labels: Labels) -> bool:
        """Return True if a node with these labels gets the reverse session."""
        return self.spec.reverse_peering == "Auto" and self.selects_peer(labels)

    def selects_peer(self, labels: Labels) -> bool:
        """Return True if a node with these labels is at the other end."""
        return bool(self.spec.peer_selector) and parse_selector(self.spec.peer_selector).matches(
            labels
        )


def split_port(text: str) -> tuple[str, int]:
    """Return address and port of `172.18.0.9`, `172.18.0.9:1790` or `[fd00::9]:1790`.

    The port is 0 if there is none. Parts that are not valid are returned as they are.
    """
    if text.startswith("["):
        address, _, port = text[1:].partition("]:")
        return address.removesuffix("]"), int(port) if port.isdigit() else 0
    address, colon, port = text.partition(":")
    return (address, int(port)) if colon and port.isdigit() and "." in address else (text, 0)


def validate_bgp_configuration(configuration: BGPConfiguration) -> Iterator[Finding]:
    """Validate a BGPConfiguration on its own, as Calico does; yield every finding."""
    spec = configuration.spec
    if configuration.name != DEFAULT_NAME and not configuration.node:
        yield Finding(
            ("metadata", "name"),
            f'only the BGPConfigurations "{DEFAULT_NAME}" and "{NODE_PREFIX}" with the name of a '
            f"node have an effect, found {found(configuration.name)}",
        )
    if configuration.node:
        yield from _node_findings(spec)
    for name, blocks in (
        ("serviceClusterIPs", spec.service_cluster_ips),
        ("serviceExternalIPs", spec.service_external_ips),
        ("serviceLoadBalancerIPs", spec.service_load_balancer_ips),
    ):
        for index, block in enumerate(blocks):
            try:
                ip.network(block.cidr)
            except ValueError:
                yield Finding(
                    ("spec", name, index, "cidr"),
                    f"expected a range of addresses, found {found(block.cidr)}",
                )
    yield from _community_findings(spec)
    yield from _password_findings(spec.node_mesh_password, ("spec", "nodeMeshPassword"))
    yield from _restart_findings(
        spec.node_mesh_max_restart_time, ("spec", "nodeMeshMaxRestartTime")
    )


def _node_findings(spec: BGPConfigurationSpec) -> Iterator[Finding]:
    """Yield the fields that the BGPConfiguration of one node cannot have."""
    default = BGPConfigurationSpec()
    for info in msgspec.structs.fields(spec):
        is_given = getattr(spec, info.name) != getattr(default, info.name)
        if is_given and info.name not in _NODE_FIELDS:
            yield Finding(
                ("spec", info.encode_name),
                f'only the BGPConfiguration "{DEFAULT_NAME}" has this field',
            )


def _community_findings(spec: BGPConfigurationSpec) -> Iterator[Finding]:
    for index, community in enumerate(spec.communities):
        if fault := community_fault(community.value):
            yield Finding(("spec", "communities", index, "value"), fault)
    names = [community.name for community in spec.communities]
    for index, entry in enumerate(spec.prefix_advertisements):
        path = ("spec", "prefixAdvertisements", index)
        try:
            ip.network(entry.cidr)
        except ValueError:
            message = f"expected a range of addresses, found {found(entry.cidr)}"
            yield Finding((*path, "cidr"), message)
        for number, name in enumerate(entry.communities):
            if name not in names and (fault := community_fault(name)):
                known = ", ".join(names) or "none"
                hint = f"names in spec.communities: {known}"
                yield Finding((*path, "communities", number), fault, hints=(hint,))


def _restart_findings(text: str, path: Path) -> Iterator[Finding]:
    seconds = duration_s(text)
    if text and (seconds is None or not 0.5 <= seconds <= MAX_RESTART_S):
        yield Finding(path, f"expected a duration from 1s to {MAX_RESTART_S}s, found {found(text)}")


def validate_bgp_peer(peer: BGPPeer) -> Iterator[Finding]:
    """Validate a BGPPeer on its own, as Calico does; yield every finding."""
    spec, path = peer.spec, ("spec",)
    for name, selector in (
        ("nodeSelector", spec.node_selector),
        ("peerSelector", spec.peer_selector),
    ):
        if selector:
            try:
                parse_selector(selector)
            except ValueError as error:
                yield Finding((*path, name), str(error))
    if spec.node and spec.node_selector:
        yield Finding((*path, "nodeSelector"), "cannot be combined with node")
    if bool(spec.peer_ip) == bool(spec.peer_selector):
        yield Finding(path, "expected either peerIP or peerSelector")
    if spec.peer_ip and not ip.is_address(peer.address):
        yield Finding(
            (*path, "peerIP"),
            f"expected an address, with or without a port, found {found(spec.peer_ip)}",
        )
    if spec.peer_ip and spec.as_number is None:
        yield Finding((*path, "asNumber"), "expected the AS number of the router, found nothing")
    if spec.peer_selector and spec.as_number is not None:
        yield Finding(
            (*path, "asNumber"), "cannot be combined with peerSelector: nodes have AS numbers"
        )
    if spec.keep_original_next_hop and spec.next_hop_mode is not None:
        yield Finding((*path, "nextHopMode"), "cannot be combined with keepOriginalNextHop")
    yield from _password_findings(spec.password, (*path, "password"))
    yield from _restart_findings(spec.max_restart_time, (*path, "maxRestartTime"))


def _password_findings(password: BGPPassword | None, path: Path) -> Iterator[Finding]:
    if password is not None and password.secret_key_ref is None:
        yield Finding((*path, "secretKeyRef"), "expected name and key of a Secret, found nothing")


def cluster_id_fault(text: str) -> str | None:
    """Return why the value of an annotation is not the id of a cluster, or None if it is one."""
    if ip.is_address(text) and ip.version_of(text) == 4:
        return None
    return f"expected an id in the form of an IPv4 address, found {found(text)}"
