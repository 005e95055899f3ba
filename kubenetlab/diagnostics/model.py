"""Diagnostics and the connections that they concern."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from ipaddress import ip_address

from msgspec import Struct

from kubenetlab.api.meta import Resource
from kubenetlab.api.pods import Pod
from kubenetlab.api.policies.network_policy import Direction
from kubenetlab.api.policies.tiers import TierPolicy
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.decode import format_path
from kubenetlab.api.text.documents import Path
from kubenetlab.api.values.ip import network


class Connection(Struct, frozen=True):
    """Objects of the cluster at both ends of a connection. Names are `namespace/name`."""

    source: str = ""
    """Pod that connects; empty for nodes and external hosts."""
    services: AbstractSet[str] = frozenset()
    """Services whose name, address or node port is used.

    There are two if an ExternalName refers to another Service.
    """
    destinations: AbstractSet[str] = frozenset()
    """Pods that the connection may reach."""
    name_servers: AbstractSet[str] = frozenset()
    """Pods that resolve the name of the target."""
    port: int = 0
    """Port of the target, for a node port that of its Service; 0 for a ping."""
    is_from_outside: bool = False
    """True if the connection comes from outside of the cluster."""
    has_node_address: bool = False
    """True if the source is a node, or a pod with hostNetwork."""
    protocol: str = ""
    """ICMP, TCP, UDP or SCTP; empty if it is not known."""
    ports: AbstractSet[int] = frozenset()
    """Ports that the packets may have on their way; empty if they are not known."""
    addresses: AbstractSet[str] = frozenset()
    """Addresses that the packets may have on their way; empty if they are not known."""
    lookup: Connection | None = None
    """Connection to the name servers that resolve the name of the target."""


class Flow(Struct, frozen=True):
    """Connections that one rule of a policy matches: those that match all of the fields."""

    direction: Direction
    """Ingress: the subjects are destinations. Egress: they are sources."""
    subjects: tuple[str, ...]
    """Pods to which the policy applies."""
    peers: tuple[str, ...] | None = None
    """Pods at the other end; None for peers of every kind."""
    ranges: tuple[str, ...] = ()
    """Ranges of addresses of peers that are no pods."""
    ports: tuple[tuple[str, int, int], ...] | None = None
    """(protocol, first port, last port) of the destination; None for all protocols."""

    def matches(self, connection: Connection) -> bool:
        """Return True if the rule may match a connection.

        Packets of a pod to its own address do not leave it.
        """
        if not connection.services and connection.destinations == {connection.source}:
            return False
        if self.ports is not None and not any(
            connection.protocol in ("", protocol)
            and (not connection.ports or any(first <= each <= last for each in connection.ports))
            for protocol, first, last in self.ports
        ):
            return False
        if self.direction == "Ingress":
            return not connection.destinations.isdisjoint(self.subjects) and self._has_source(
                connection
            )
        return connection.source in self.subjects and self._has_destination(connection)

    def _has_source(self, connection: Connection) -> bool:
        """Return True if the source is a peer. On the way to a Service, nodes may replace it."""
        if self.peers is None or connection.source in self.peers:
            return True
        is_pod = bool(connection.source) and not connection.has_node_address
        return bool(self.ranges) and (not is_pod or bool(connection.services))

    def _has_destination(self, connection: Connection) -> bool:
        if self.peers is None or not connection.destinations.isdisjoint(self.peers):
            return True
        addresses = [ip_address(address) for address in connection.addresses]
        return bool(self.ranges) and (
            not addresses
            or any(address in network(cidr) for cidr in self.ranges for address in addresses)
        )


class Scope(Struct, frozen=True):
    """Connections that a diagnostic concerns: those that match any of the fields."""

    is_everything: bool = False
    """True for all connections."""
    services: tuple[str, ...] = ()
    """Connections to these Services."""
    port: int = 0
    """Port of the Services that is concerned; 0 for all ports."""
    into: tuple[str, ...] = ()
    """Connections to these pods."""
    out_of: tuple[str, ...] = ()
    """Connections from these pods."""
    is_outside_only: bool = False
    """True if only connections from outside of the cluster count."""
    flows: tuple[Flow, ...] = ()
    """Connections that rules of policies match."""

    def covers(self, connection: Connection) -> bool:
        """Return True if the diagnostic may affect the result of a connection."""
        return self.covers_target(connection) or (
            not self.is_outside_only
            and (
                connection.source in self.out_of
                or not connection.name_servers.isdisjoint(self.into)
                or any(
                    flow.matches(each)
                    for flow in self.flows
                    for each in (connection, connection.lookup)
                    if each is not None
                )
            )
        )

    def covers_target(self, connection: Connection) -> bool:
        """Return True if the diagnostic concerns the target of a connection."""
        if self.is_outside_only and not connection.is_from_outside:
            return False
        return (
            self.is_everything
            or (
                self.port in (0, connection.port)
                and not connection.services.isdisjoint(self.services)
            )
            or not connection.destinations.isdisjoint(self.into)
        )


def pods_of_nodes(cluster: Cluster, nodes: Iterable[str]) -> tuple[str, ...]:
    """Return `namespace/name` of the pods of some nodes that have addresses of their own."""
    return tuple(
        pod.full_name
        for node in nodes
        for pod in cluster.pods_on(node)
        if not pod.spec.host_network
    )


def subjects_of(cluster: Cluster, policy: TierPolicy) -> tuple[str, ...]:
    """Return `namespace/name` of the pods to which a policy of a tier applies."""
    labels = cluster.labels_of_namespaces
    return tuple(
        pod.full_name
        for pod in cluster.all(Pod)
        if not pod.spec.host_network
        and policy.spec.subject.matches(labels.get(pod.namespace, {}), pod.labels)
    )


class Diagnostic(Struct, frozen=True):
    """Property of an object that Kubernetes accepts and that makes a probe's result doubtful."""

    code: str
    """Stable code of the diagnostic, such as `selector-matches-no-pod`."""
    kind: str
    """Kind of the object."""
    namespace: str
    """Namespace of the object."""
    name: str
    """Name of the object."""
    path: Path
    """Field of the object's document that causes the diagnostic."""
    message: str
    hints: tuple[str, ...] = ()
    """Further lines: existing values, and actions to take."""
    scope: Scope = Scope()
    """Connections that the diagnostic concerns."""
    remedy: str = ""
    """Options of `kubenetlab up` with which the lab enforces the object; empty if none do."""
    is_effective: bool = True
    """False for an object that is not enforced, and has no effect in such a cluster either."""

    @classmethod
    def of(
        cls,
        obj: Resource,
        code: str,
        path: Path,
        message: str,
        *hints: str,
        scope: Scope = Scope(),
    ) -> Diagnostic:
        """Return a diagnostic of an object."""
        return cls(code, obj.kind, obj.namespace, obj.name, path, message, hints, scope)

    @property
    def title(self) -> str:
        """`Kind namespace/name` of the object."""
        return (
            f"{self.kind} {self.namespace}/{self.name}"
            if self.namespace
            else f"{self.kind} {self.name}"
        )

    @property
    def subject(self) -> str:
        """Title of the object, and the field if the diagnostic is about one."""
        path = format_path(self.path)
        return f"{self.title}: {path}" if path else self.title


NOT_ENFORCED_ALTHOUGH = "not enforced by this lab, although"
"""Beginning of messages about objects that have an effect in a cluster with the same CNI plugin."""
NOT_ENFORCED = "not-enforced"
"""Code of an object, or of a field, that the lab stores without enforcing it."""
GATEWAY_UNREACHABLE = "gateway-unreachable"
"""Code of a CNI mode whose routes need gateways on other segments. Commands end with status 1."""
POOL_NOT_ROUTED = "pool-not-routed"
"""Code of an IPPool whose addresses other nodes cannot reach. Commands end with status 1."""
DUPLICATE_ADDRESS = "duplicate-address"
"""Code of an address that two pods, or a pod and a node, have. Commands end with status 1."""
PLUGINS_NOT_READY = "cni-plugins-not-ready"
"""Code of a node whose CNI plugins have failed STATUS. Commands end with status 1."""
AGENT_STOPPED = "cni-agent-stopped"
"""Code of a node without a running agent of the CNI plugin. Commands end with status 1."""
BGP_PEER_UNUSED = "bgp-peer-unused"
"""Code of a BGPPeer that leads to no session. Commands end with status 1."""
BGP_PEER_ABSENT = "bgp-peer-absent"
"""Code of a BGPPeer with a router that is not part of the lab."""
BGP_PASSWORD_MISSING = "bgp-password-missing"  # noqa: S105 - not a password
"""Code of a password whose Secret is missing. Commands end with status 1."""
BGP_ROUTE_MISSING = "bgp-route-missing"
"""Code of nodes without a way by BGP to each other. Commands end with status 1."""
BGP_SETTING_UNUSED = "bgp-setting-unused"
"""Code of an object or an annotation of BGP without effect in a cluster. Commands end with status
1."""
CREDENTIAL_MISSING = "password-missing"
"""Code of a CNI mode whose password is missing, so that it has no tunnels. Commands end with status
1."""
ORDER_UNDEFINED = "policy-order-undefined"
"""Code of policies of a tier with the same priority for the same pods."""
PORT_NOT_SERVED = "port-not-served"
"""Code of a numeric target port on which no container listens."""
POLICY_SELECTS_NOTHING = "policy-selects-no-pod"
"""Code of a policy that isolates no pod."""
POLICY_PEER_UNMATCHED = "policy-peer-unmatched"
"""Code of a peer of a policy's rule that matches no pod."""
POLICY_PORT_UNKNOWN = "policy-port-unknown"
"""Code of a port of a policy's rule that no destination has: a name, or the port of a Service."""
POLICY_RULE_REDUNDANT = "policy-rule-redundant"
"""Code of a rule that allows nothing new in its policy."""
POLICY_SHADOWED = "policy-shadowed"
"""Code of a policy that allows nothing new beside the other policies of its pods."""
POLICY_PEERS_EMPTY = "policy-peers-empty"
"""Code of a list of peers that is written and empty, which means all peers."""
POLICY_SPEC_MISSING = "policy-spec-missing"
"""Code of a policy without a specification, which isolates all pods of its namespace."""
NETWORK_SET_UNUSED = "network-set-unused"
"""Code of a set of ranges to which no rule of a policy refers."""
RANGE_AMBIGUOUS = "range-ambiguous"
"""Code of a range with bits after its prefix, which are ignored."""

ADVICE = (
    POLICY_SELECTS_NOTHING,
    POLICY_PEER_UNMATCHED,
    POLICY_PORT_UNKNOWN,
    POLICY_RULE_REDUNDANT,
    POLICY_SHADOWED,
    POLICY_PEERS_EMPTY,
    POLICY_SPEC_MISSING,
    NETWORK_SET_UNUSED,
    RANGE_AMBIGUOUS,
)
"""Codes of advice: a cluster works with such objects, and no exit status depends on them."""
