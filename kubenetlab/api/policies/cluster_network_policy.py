"""ClusterNetworkPolicy: ordered rules of administrators, before and after NetworkPolicies.

Source: kubernetes-sigs/network-policy-api apis/v1alpha2/clusternetworkpolicy_types.go (0.2.0).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta

from kubenetlab.api.containers import MAX_PORT, Port, Protocol
from kubenetlab.api.meta import Labels, LabelSelector, Record, Resource, Unmodelled
from kubenetlab.api.policies.network_policy import Direction

Tier = Literal["Admin", "Baseline"]
"""Admin: before NetworkPolicies. Baseline: after them, for pods that none of them isolates."""
Action = Literal["Accept", "Deny", "Pass"]
"""Pass: skip the further rules of the tier."""

MAX_PRIORITY: Final = 1000
_MAX_ENTRIES: Final = 25
"""Maximum number of rules, peers, protocols, networks and domain names in one list."""


class NamespacedPod(Record, frozen=True):
    """Pods by their labels, in namespaces by their labels. Fields are combined by AND."""

    pod_selector: LabelSelector
    """Pods. Empty: all of them."""
    namespace_selector: LabelSelector | None = None
    """Namespaces of the pods. Empty: all of them."""


def selects(
    namespaces: LabelSelector | None, pods: NamespacedPod | None, namespace: Labels, pod: Labels
) -> bool:
    """Return True if one of two fields, of which one is absent, selects a pod.

    namespace, pod: labels of the pod's namespace and of the pod.
    """
    if pods is None:
        return namespaces is not None and namespaces.matches(namespace)
    in_namespace = pods.namespace_selector is None or pods.namespace_selector.matches(namespace)
    return in_namespace and pods.pod_selector.matches(pod)


def matches_domain(pattern: str, name: str) -> bool:
    """Return True if a domain name of a policy matches the name of a host.

    `*.example.com` matches all names below example.com, with any number of labels.
    """
    pattern, name = (text.lower().removesuffix(".") for text in (pattern, name))
    if pattern.startswith("*."):
        return name.endswith(pattern[1:]) and len(name) > len(pattern) - 1
    return name == pattern


class ClusterNetworkPolicySubject(Record, frozen=True):
    """Pods to which a policy applies, by exactly one field. Pods with hostNetwork are left out."""

    namespaces: LabelSelector | None = None
    """All pods of the selected namespaces."""
    pods: NamespacedPod | None = None
    """Selected pods of the selected namespaces."""

    def matches(self, namespace: Labels, pod: Labels) -> bool:
        """Return True if a pod, by its namespace's labels and its own, is selected."""
        return selects(self.namespaces, self.pods, namespace, pod)


class ClusterNetworkPolicyIngressPeer(Record, frozen=True):
    """Source of connections, by exactly one field. Pods with hostNetwork are left out."""

    namespaces: LabelSelector | None = None
    """All pods of the selected namespaces."""
    pods: NamespacedPod | None = None
    """Selected pods of the selected namespaces."""


class ClusterNetworkPolicyEgressPeer(Record, frozen=True):
    """Destination of connections, by exactly one field. Pods with hostNetwork are part of nodes."""

    namespaces: LabelSelector | None = None
    """All pods of the selected namespaces."""
    pods: NamespacedPod | None = None
    """Selected pods of the selected namespaces."""
    nodes: LabelSelector | None = None
    """Addresses of the selected nodes. Empty: of all nodes."""
    networks: Annotated[tuple[str, ...], Meta(min_length=1, max_length=_MAX_ENTRIES)] = ()
    """Ranges of addresses. Those of pods and nodes count, too."""
    domain_names: Annotated[tuple[str, ...], Meta(min_length=1, max_length=_MAX_ENTRIES)] = ()
    """Names of external hosts, such as example.com or *.example.com. Only with Accept."""


class DestinationPortRange(Record, frozen=True):
    """Ports from `start` to `end`, which is larger."""

    start: Port
    """First port."""
    end: Port
    """Last port."""


class DestinationPort(Record, frozen=True):
    """Ports of the destination, by exactly one field."""

    number: Port | None = None
    """A port."""
    range: DestinationPortRange | None = None
    """Consecutive ports."""

    @property
    def limits(self) -> tuple[int, int]:
        """First and last port."""
        if self.range is not None:
            return self.range.start, self.range.end
        return (0, MAX_PORT) if self.number is None else (self.number, self.number)


class ProtocolMatch(Record, frozen=True):
    """Packets of a protocol."""

    destination_port: DestinationPort | None = None
    """Ports of the destination. Required."""


class ClusterNetworkPolicyProtocol(Record, frozen=True):
    """Protocol and ports of the destination, by exactly one field."""

    tcp: ProtocolMatch | None = None
    """TCP ports."""
    udp: ProtocolMatch | None = None
    """UDP ports."""
    sctp: ProtocolMatch | None = None
    """SCTP ports."""
    destination_named_port: str = ""
    """Name of a container port of the destination pod, whatever its protocol."""

    @property
    def match(self) -> tuple[Protocol, ProtocolMatch] | None:
        """Protocol and its ports; None for a named port."""
        protocols: tuple[tuple[Protocol, ProtocolMatch | None], ...] = (
            ("TCP", self.tcp),
            ("UDP", self.udp),
            ("SCTP", self.sctp),
        )
        return next(((name, match) for name, match in protocols if match is not None), None)


_Protocols = Annotated[
    tuple[ClusterNetworkPolicyProtocol, ...], Meta(min_length=1, max_length=_MAX_ENTRIES)
]


class ClusterNetworkPolicyIngressRule(Record, frozen=True):
    """Action for connections to the subjects that match an entry of `from` and of `protocols`."""

    action: Action
    """Accept or deny the connection, or pass it to the next tier."""
    from_: Annotated[
        tuple[ClusterNetworkPolicyIngressPeer, ...], Meta(min_length=1, max_length=_MAX_ENTRIES)
    ]
    """Sources."""
    protocols: _Protocols = ()
    """Protocols and ports of the subjects. Absent: all protocols, also those without ports."""
    name: str = ""
    """Name of the rule, at most 100 characters."""


class ClusterNetworkPolicyEgressRule(Record, frozen=True):
    """Action for connections of the subjects that match an entry of `to` and of `protocols`."""

    action: Action
    """Accept or deny the connection, or pass it to the next tier."""
    to: Annotated[
        tuple[ClusterNetworkPolicyEgressPeer, ...], Meta(min_length=1, max_length=_MAX_ENTRIES)
    ]
    """Destinations."""
    protocols: _Protocols = ()
    """Protocols and ports of the destinations. Absent: all, also protocols without ports."""
    name: str = ""
    """Name of the rule, at most 100 characters."""


class ClusterNetworkPolicySpec(Record, frozen=True):
    """Desired state of a ClusterNetworkPolicy."""

    tier: Tier
    """Admin: before NetworkPolicies. Baseline: after them, for pods that none of them isolates."""
    priority: Annotated[int, Meta(ge=0, le=MAX_PRIORITY, title="a priority")]
    """Order of the policies of a tier. The policy with the lowest number is evaluated first."""
    subject: ClusterNetworkPolicySubject
    """Pods to which the policy applies."""
    ingress: Annotated[
        tuple[ClusterNetworkPolicyIngressRule, ...], Meta(max_length=_MAX_ENTRIES)
    ] = ()
    """Rules for connections to the subjects. The first rule that matches decides in the tier."""
    egress: Annotated[
        tuple[ClusterNetworkPolicyEgressRule, ...], Meta(max_length=_MAX_ENTRIES)
    ] = ()
    """Rules for connections of the subjects. The first rule that matches decides in the tier."""

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Directions for which the policy has rules."""
        rules: tuple[tuple[Direction, int], ...] = (
            ("Ingress", len(self.ingress)),
            ("Egress", len(self.egress)),
        )
        return tuple(direction for direction, count in rules if count)


class ClusterNetworkPolicy(Resource, frozen=True):
    """Ordered rules for connections of pods in all namespaces."""

    api_version = "policy.networking.k8s.io/v1alpha2"
    kind = "ClusterNetworkPolicy"
    plural = "clusternetworkpolicies"
    short_names = ("cnp",)
    is_namespaced = False

    spec: ClusterNetworkPolicySpec
    """Desired state of the policy."""
    status: Unmodelled = None
