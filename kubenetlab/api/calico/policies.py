"""Calico's network policies, and the sets of networks that their selectors match.

Source: projectcalico/calico api/pkg/apis/projectcalico/v3/{policy_common,networkpolicy,
globalnetworkpolicy,networkset,globalnetworkset,tier}.go (3.30).
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from msgspec import Meta, field

from kubenetlab.api.calico.ip_pools import OTHER_API_VERSIONS
from kubenetlab.api.containers import PortOrName
from kubenetlab.api.meta import Record, Resource, Unmodelled
from kubenetlab.api.policies.network_policy import Direction

Action = Literal["Allow", "Deny", "Log", "Pass"]
"""Log: the packet is logged, and the next rule follows. Pass: the next tier follows."""
End = Literal["source", "destination"]
"""End of a connection."""
ENDS: Final[tuple[End, ...]] = ("source", "destination")

PROTOCOLS: Final = {"ICMP": 1, "TCP": 6, "UDP": 17, "ICMPv6": 58, "SCTP": 132, "UDPLite": 136}
"""Name of a protocol → its number."""
Order = Annotated[int, Meta(title="a number")] | Annotated[float, Meta(title="a number")]
"""Place of a policy or a tier, shown as it was given."""
DEFAULT_TIER: Final = "default"
Protocol = (
    Annotated[int, Meta(ge=1, le=255, title="a protocol number")]
    | Annotated[str, Meta(min_length=1, title="a protocol")]
)
_PORT_RANGE: Final = re.compile(r"(\d+)(?::(\d+))?", re.ASCII)
_MAX_RULES: Final = 1024
_MAX_NETS: Final = 256
_MAX_PORTS: Final = 50


def protocol_number(protocol: int | str | None) -> int | None:
    """Return the number of a protocol; None without one."""
    return PROTOCOLS.get(protocol) if isinstance(protocol, str) else protocol


def port_range(port: int | str) -> tuple[int, int] | None:
    """Return the first and the last port of `80` or `80:90`; None for the name of a port.

    Source: projectcalico/calico api/pkg/lib/numorstring/port.go (3.30).
    """
    if isinstance(port, int):
        return port, port
    match = _PORT_RANGE.fullmatch(port)
    return None if match is None else (int(match[1]), int(match[2] or match[1]))


class CalicoICMP(Record, frozen=True):
    """Type and code of ICMP messages."""

    type: Annotated[int, Meta(ge=0, le=254, title="a type of ICMP")] | None = None
    """Type, such as 8 for echo requests of IPv4. Absent: all types."""
    code: Annotated[int, Meta(ge=0, le=255, title="a code of ICMP")] | None = None
    """Code. Only with `type`."""


class CalicoServiceMatch(Record, frozen=True):
    """Endpoints of a Service."""

    name: str = ""
    """Name of the Service."""
    namespace: str = ""
    """Namespace of the Service. Defaults to that of the policy."""


class CalicoServiceAccountMatch(Record, frozen=True):
    """Pods by their service account. Fields are combined by AND."""

    names: tuple[str, ...] = ()
    """Names of service accounts. Absent: all."""
    selector: str = ""
    """Selector of service accounts."""


class CalicoEntityRule(Record, frozen=True):
    """Conditions about one end of a connection. All of them have to be met."""

    nets: Annotated[tuple[str, ...], Meta(max_length=_MAX_NETS)] = ()
    """Ranges, of which one has to contain the address."""
    not_nets: Annotated[tuple[str, ...], Meta(max_length=_MAX_NETS)] = ()
    """Ranges, none of which may contain the address."""
    selector: str = ""
    """Selector of pods and network sets, in the policy's namespace if it has one."""
    not_selector: str = ""
    """Selector of pods and network sets that do not match, in all namespaces."""
    namespace_selector: str = ""
    """Selector of the namespaces of pods and network sets; global(): those without a namespace."""
    service_accounts: CalicoServiceAccountMatch | None = None
    """Service accounts of pods."""
    services: CalicoServiceMatch | None = None
    """Endpoints of a Service, as destination with their ports. Without the fields above."""
    ports: Annotated[tuple[PortOrName, ...], Meta(max_length=_MAX_PORTS)] = ()
    """Ports: numbers, ranges such as "80:90", and names of container ports."""
    not_ports: Annotated[tuple[PortOrName, ...], Meta(max_length=_MAX_PORTS)] = ()
    """Ports that do not match."""


class CalicoRule(Record, frozen=True):
    """Action for connections that meet all conditions."""

    action: Action
    """Allow or deny the connection, log it, or pass it to the next tier."""
    ip_version: Literal[4, 6] | None = None
    """IP version. Absent: both."""
    protocol: Protocol | None = None
    """TCP, UDP, SCTP, UDPLite, ICMP, ICMPv6 or a number. Required with ports by number."""
    not_protocol: Protocol | None = None
    """Protocol that does not match."""
    icmp: CalicoICMP | None = None
    """Messages of ICMP or ICMPv6. Only with this protocol."""
    not_icmp: CalicoICMP | None = field(default=None, name="notICMP")
    """Messages of ICMP or ICMPv6 that do not match."""
    source: CalicoEntityRule = CalicoEntityRule()
    """Conditions about the source."""
    destination: CalicoEntityRule = CalicoEntityRule()
    """Conditions about the destination."""
    http: Unmodelled = None
    metadata: Unmodelled = None

    @property
    def protocol_number(self) -> int | None:
        """Number of the protocol that a connection must have; None if any may match."""
        return protocol_number(self.protocol)

    @property
    def not_protocol_number(self) -> int | None:
        """Number of the protocol that a connection must not have; None if any may match."""
        return protocol_number(self.not_protocol)

    def end(self, name: End) -> CalicoEntityRule:
        """Return the conditions about one end."""
        return self.source if name == "source" else self.destination


_Rules = Annotated[tuple[CalicoRule, ...], Meta(max_length=_MAX_RULES)]
_Types = Annotated[tuple[Direction, ...], Meta(min_length=1, max_length=2)]


class CalicoNetworkPolicySpec(Record, frozen=True):
    """Desired state of Calico's NetworkPolicy."""

    tier: str = DEFAULT_TIER
    """Tier of the policy."""
    order: Order | None = None
    """Place in the tier: policies with lower numbers come first. Absent: last."""
    selector: str = ""
    """Pods to which the policy applies. Empty: all of its namespace."""
    types: _Types = ()
    """Directions to which the policy applies. Defaults to those with rules, or Ingress."""
    ingress: _Rules = ()
    """Rules for connections to the pods. The first that matches decides in the tier."""
    egress: _Rules = ()
    """Rules for connections of the pods. The first that matches decides in the tier."""
    service_account_selector: str = ""
    """Selector of the pods' service accounts."""
    performance_hints: Unmodelled = None

    def rules(self, direction: Direction) -> tuple[CalicoRule, ...]:
        """Return the rules of one direction."""
        return self.ingress if direction == "Ingress" else self.egress


class GlobalNetworkPolicySpec(CalicoNetworkPolicySpec, frozen=True):
    """Desired state of a GlobalNetworkPolicy."""

    namespace_selector: str = ""
    """Selector of the pods' namespaces. Empty: all of them."""
    do_not_track: bool = False
    """Apply the policy before connection tracking. Only for host endpoints."""
    pre_dnat: bool = field(default=False, name="preDNAT")
    """Apply the policy before addresses are translated. Only for host endpoints."""
    apply_on_forward: bool = False
    """Apply the policy to packets that hosts forward. Only for host endpoints."""


def _directions(spec: CalicoNetworkPolicySpec) -> tuple[Direction, ...]:
    """Return the directions to which a policy applies."""
    if spec.types:
        return tuple(dict.fromkeys(spec.types))
    if not spec.egress:
        return ("Ingress",)
    return ("Ingress", "Egress") if spec.ingress else ("Egress",)


def _services(spec: CalicoNetworkPolicySpec, namespace: str) -> tuple[tuple[str, str], ...]:
    """Return (namespace, name) of the Services that rules name."""
    services = (
        entity.services
        for rule in (*spec.ingress, *spec.egress)
        for entity in (rule.source, rule.destination)
        if entity.services is not None
    )
    return tuple((service.namespace or namespace, service.name) for service in services)


class CalicoNetworkPolicy(Resource, frozen=True):
    """Ordered rules for connections of pods in one namespace. Its kind in Calico: NetworkPolicy."""

    api_version = "projectcalico.org/v3"
    other_api_versions = OTHER_API_VERSIONS
    kind = "CalicoNetworkPolicy"
    manifest_kind = "NetworkPolicy"
    plural = "caliconetworkpolicies"
    words_in_group = ("networkpolicy", "networkpolicies")

    spec: CalicoNetworkPolicySpec = CalicoNetworkPolicySpec()
    """Desired state of the policy."""

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Directions to which the policy applies."""
        return _directions(self.spec)

    @property
    def services(self) -> tuple[tuple[str, str], ...]:
        """(namespace, name) of the Services that its rules name."""
        return _services(self.spec, self.namespace)


class GlobalNetworkPolicy(Resource, frozen=True):
    """Ordered rules for connections of pods in all namespaces."""

    api_version = "projectcalico.org/v3"
    other_api_versions = OTHER_API_VERSIONS
    kind = "GlobalNetworkPolicy"
    plural = "globalnetworkpolicies"
    short_names = ("gnp",)
    is_namespaced = False

    spec: GlobalNetworkPolicySpec = GlobalNetworkPolicySpec()
    """Desired state of the policy."""

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Directions to which the policy applies."""
        return _directions(self.spec)

    @property
    def services(self) -> tuple[tuple[str, str], ...]:
        """(namespace, name) of the Services that its rules name."""
        return _services(self.spec, self.namespace)


class NetworkSetSpec(Record, frozen=True):
    """Desired state of a set of networks."""

    nets: tuple[str, ...] = ()
    """Ranges of addresses."""


class NetworkSet(Resource, frozen=True):
    """Ranges of addresses that selectors of policies match by labels, in one namespace."""

    api_version = "projectcalico.org/v3"
    other_api_versions = OTHER_API_VERSIONS
    kind = "NetworkSet"
    plural = "networksets"
    short_names = ("netset",)

    spec: NetworkSetSpec = NetworkSetSpec()
    """Desired state of the set."""


class GlobalNetworkSet(Resource, frozen=True):
    """Ranges of addresses that selectors of policies match by labels."""

    api_version = "projectcalico.org/v3"
    other_api_versions = OTHER_API_VERSIONS
    kind = "GlobalNetworkSet"
    plural = "globalnetworksets"
    short_names = ("gns",)
    is_namespaced = False

    spec: NetworkSetSpec = NetworkSetSpec()
    """Desired state of the set."""


class TierSpec(Record, frozen=True):
    """Desired state of a tier."""

    order: Order | None = None
    """Place among the tiers: those with lower numbers come first. Absent: last."""
    default_action: Literal["Deny", "Pass"] = "Deny"
    """Action for connections of pods to which a policy of the tier applies, if no rule matches."""


class Tier(Resource, frozen=True):
    """Group of policies that are evaluated together."""

    api_version = "projectcalico.org/v3"
    other_api_versions = OTHER_API_VERSIONS
    kind = "Tier"
    plural = "tiers"
    is_namespaced = False

    spec: TierSpec = TierSpec()
    """Desired state of the tier."""
    status: Unmodelled = None


CalicoPolicy = CalicoNetworkPolicy | GlobalNetworkPolicy
CALICO_POLICY_KINDS: Final[tuple[type[CalicoPolicy], ...]] = (
    CalicoNetworkPolicy,
    GlobalNetworkPolicy,
)
"""Calico's policies."""
CALICO_GROUP_KINDS: Final[tuple[type[Resource], ...]] = (NetworkSet, GlobalNetworkSet, Tier)
"""Kinds to which Calico's policies refer."""
