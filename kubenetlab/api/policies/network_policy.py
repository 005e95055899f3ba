"""NetworkPolicy: which connections some pods of a namespace accept and make.

Source: k8s.io/api networking/v1/types.go (1.33).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta

from kubenetlab.api.containers import Port, PortOrName, Protocol
from kubenetlab.api.meta import LabelSelector, Record, Resource, Unmodelled

Direction = Literal["Ingress", "Egress"]
"""Direction of a connection, as the selected pod sees it."""
DIRECTIONS: Final[tuple[Direction, ...]] = ("Ingress", "Egress")


class IPBlock(Record, frozen=True):
    """Range of addresses, without some parts of it."""

    cidr: str
    """The range, such as 192.168.1.0/24."""
    except_: tuple[str, ...] = ()
    """Ranges within `cidr` that do not belong to the peer. Other peers may have them."""


class NetworkPolicyPeer(Record, frozen=True):
    """Other end of a connection: pods by their labels, or addresses. Fields are combined by AND."""

    pod_selector: LabelSelector | None = None
    """Pods, of the policy's own namespace if there is no `namespaceSelector`."""
    namespace_selector: LabelSelector | None = None
    """Namespaces of the pods; all their pods if there is no `podSelector`."""
    ip_block: IPBlock | None = None
    """Addresses, without other fields. Those of pods count, too."""


class NetworkPolicyPort(Record, frozen=True):
    """Ports of the destination pod."""

    protocol: Protocol = "TCP"
    """Protocol of the ports."""
    port: PortOrName | None = None
    """Number, or name of a container port of the destination pod. Defaults to all ports."""
    end_port: Port | None = None
    """Last port of a range that begins with `port`, which must be a number."""


PeersAndPorts = tuple[Sequence[NetworkPolicyPeer], Sequence[NetworkPolicyPort]]
"""Peers and ports of a rule; without peers or ports, it allows all of them."""


class NetworkPolicyIngressRule(Record, frozen=True):
    """Connections to the selected pods that match one entry of `from` and one of `ports`."""

    from_: tuple[NetworkPolicyPeer, ...] = ()
    """Sources. Empty: all sources, also outside the cluster."""
    ports: tuple[NetworkPolicyPort, ...] = ()
    """Ports of the selected pods. Empty: all ports and protocols."""


class NetworkPolicyEgressRule(Record, frozen=True):
    """Connections from the selected pods that match one entry of `to` and one of `ports`."""

    to: tuple[NetworkPolicyPeer, ...] = ()
    """Destinations. Empty: all destinations, also outside the cluster."""
    ports: tuple[NetworkPolicyPort, ...] = ()
    """Ports of the destinations. Empty: all ports and protocols."""


class NetworkPolicySpec(Record, frozen=True):
    """Desired state of a NetworkPolicy."""

    pod_selector: LabelSelector = LabelSelector()
    """Pods of the policy's namespace that it isolates. Empty: all of them."""
    ingress: tuple[NetworkPolicyIngressRule, ...] = ()
    """Connections that the selected pods accept, in addition to those of other policies."""
    egress: tuple[NetworkPolicyEgressRule, ...] = ()
    """Connections that the selected pods make, in addition to those of other policies."""
    policy_types: Annotated[tuple[Direction, ...], Meta(max_length=2)] = ()
    """Directions in which the pods are isolated.

    Defaults to Ingress, and to Egress as well if there are egress rules.
    """

    def rules(self, direction: Direction) -> Iterator[PeersAndPorts]:
        """Yield the peers and ports of the rules of one direction."""
        if direction == "Ingress":
            return ((rule.from_, rule.ports) for rule in self.ingress)
        return ((rule.to, rule.ports) for rule in self.egress)


class NetworkPolicy(Resource, frozen=True):
    """Isolation of pods, and the connections that are allowed nevertheless."""

    api_version = "networking.k8s.io/v1"
    kind = "NetworkPolicy"
    plural = "networkpolicies"
    short_names = ("netpol",)

    spec: NetworkPolicySpec = NetworkPolicySpec()
    """Desired state of the policy."""
    status: Unmodelled = None

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Directions in which the policy isolates the pods that it selects."""
        if self.spec.policy_types:
            return self.spec.policy_types
        return ("Ingress", "Egress") if self.spec.egress else ("Ingress",)
