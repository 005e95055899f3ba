"""Rules of Cilium's policies in a common form: sections by direction, peers, and ports.

A policy has one specification in `spec`, and others in `specs`. Each has four lists of rules, the
sections: connections that are allowed and denied, in both directions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from kubenetlab.api.containers import MAX_PORT, Protocol
from kubenetlab.api.meta import LabelSelector
from kubenetlab.api.policies.cilium_cidr_group import CiliumCIDRGroup
from kubenetlab.api.policies.cilium_network_policy import (
    CiliumCIDRRule,
    CiliumClusterwideNetworkPolicy,
    CiliumEgressDenyRule,
    CiliumEgressRule,
    CiliumICMPField,
    CiliumIngressDenyRule,
    CiliumIngressRule,
    CiliumNetworkPolicy,
    CiliumPolicy,
    CiliumPortProtocol,
    CiliumRule,
)
from kubenetlab.api.policies.network_policy import Direction
from kubenetlab.api.text.documents import Path

CILIUM_KINDS: Final[tuple[type[CiliumPolicy], ...]] = (
    CiliumNetworkPolicy,
    CiliumClusterwideNetworkPolicy,
)
"""Kinds of policies of the CNI plugin Cilium."""
CILIUM_GROUP_KINDS: Final[tuple[type[CiliumCIDRGroup], ...]] = (CiliumCIDRGroup,)
"""Kinds to which Cilium's policies refer."""

AnyCiliumRule = CiliumIngressRule | CiliumIngressDenyRule | CiliumEgressRule | CiliumEgressDenyRule
CONTROL_PLANE_LABEL: Final = "node-role.kubernetes.io/control-plane"
"""Label of the nodes that the entity `kube-apiserver` means."""
_PROTOCOLS: Final[tuple[Protocol, ...]] = ("TCP", "UDP", "SCTP")

ICMP_TYPES: Final = {
    "IPv4": {
        "EchoReply": 0,
        "DestinationUnreachable": 3,
        "Redirect": 5,
        "Echo": 8,
        "EchoRequest": 8,
        "RouterAdvertisement": 9,
        "RouterSelection": 10,
        "TimeExceeded": 11,
        "ParameterProblem": 12,
        "Timestamp": 13,
        "TimestampReply": 14,
        "Photuris": 40,
        "ExtendedEchoRequest": 42,
        "ExtendedEchoReply": 43,
    },
    "IPv6": {
        "DestinationUnreachable": 1,
        "PacketTooBig": 2,
        "TimeExceeded": 3,
        "ParameterProblem": 4,
        "EchoRequest": 128,
        "EchoReply": 129,
        "MulticastListenerQuery": 130,
        "MulticastListenerReport": 131,
        "MulticastListenerDone": 132,
        "RouterSolicitation": 133,
        "RouterAdvertisement": 134,
        "NeighborSolicitation": 135,
        "NeighborAdvertisement": 136,
        "RedirectMessage": 137,
        "RouterRenumbering": 138,
        "ICMPNodeInformationQuery": 139,
        "ICMPNodeInformationResponse": 140,
        "InverseNeighborDiscoverySolicitation": 141,
        "InverseNeighborDiscoveryAdvertisement": 142,
        "HomeAgentAddressDiscoveryRequest": 144,
        "HomeAgentAddressDiscoveryReply": 145,
        "MobilePrefixSolicitation": 146,
        "MobilePrefixAdvertisement": 147,
        "DuplicateAddressRequestCodeSuffix": 157,
        "DuplicateAddressConfirmationCodeSuffix": 158,
        "ExtendedEchoRequest": 160,
        "ExtendedEchoReply": 161,
    },
}
"""IP version → name of a type of ICMP messages → its number."""


class CiliumSection(Struct, frozen=True):
    """One list of rules of a policy."""

    rule: CiliumRule
    """The specification with the list."""
    path: Path
    """Path of the list, such as `("spec", "ingressDeny")`."""
    direction: Direction
    is_deny: bool
    rules: tuple[AnyCiliumRule, ...]

    @property
    def subjects(self) -> LabelSelector:
        """Pods to which the list applies."""
        return self.rule.endpoint_selector or LabelSelector()

    @property
    def suffix(self) -> str:
        """Text that distinguishes the list from others of the same direction in its policy.

        It begins with `_`, which no name of an object has.
        """
        number = f"_specs{self.path[1]}" if self.path[0] == "specs" else ""
        return number + ("_deny" if self.is_deny else "")

    @property
    def isolates(self) -> bool:
        """True if other connections of the subjects in this direction are denied.

        This is a property of the list of allowed connections, even if it is empty.
        """
        if self.is_deny:
            return False
        rule, default = self.rule, self.rule.enable_default_deny
        if self.direction == "Ingress":
            own, has_rules = default.ingress, bool(rule.ingress or rule.ingress_deny)
        else:
            own, has_rules = default.egress, bool(rule.egress or rule.egress_deny)
        return has_rules if own is None else own


def specifications(policy: CiliumPolicy) -> Iterator[tuple[Path, CiliumRule]]:
    """Yield (path, value) of each specification of a policy."""
    if policy.spec is not None:
        yield ("spec",), policy.spec
    for index, rule in enumerate(policy.specs):
        yield ("specs", index), rule


def sections(policy: CiliumPolicy) -> Iterator[CiliumSection]:
    """Yield the lists of rules that apply to pods, and empty ones that isolate them."""
    for path, rule in specifications(policy):
        if rule.endpoint_selector is None:
            continue  # a policy of nodes
        of_rule = (
            CiliumSection(rule, (*path, "ingressDeny"), "Ingress", True, rule.ingress_deny),
            CiliumSection(rule, (*path, "ingress"), "Ingress", False, rule.ingress),
            CiliumSection(rule, (*path, "egressDeny"), "Egress", True, rule.egress_deny),
            CiliumSection(rule, (*path, "egress"), "Egress", False, rule.egress),
        )
        for section in of_rule:
            if section.rules or section.isolates:
                yield section


def has_peers(rule: AnyCiliumRule) -> bool | None:
    """Return True if a rule names peers, False if it means none, None if it means all.

    A rule with an empty list of peers means none, and so does one without any field.
    """
    present = [peers for peers in rule.peer_fields.values() if peers is not None]
    if present:
        return all(present)
    return None if has_traffic(rule) else False


def has_traffic(rule: AnyCiliumRule) -> bool:
    """Return True if a rule names ports or types of ICMP messages."""
    return bool(rule.to_ports or rule.icmps)


def cidr_rules(rule: AnyCiliumRule) -> tuple[str, tuple[CiliumCIDRRule, ...]]:
    """Return the name of the field with ranges and exceptions of a rule, and its entries."""
    if isinstance(rule, CiliumEgressRule | CiliumEgressDenyRule):
        return "toCIDRSet", rule.to_cidr_set or ()
    return "fromCIDRSet", rule.from_cidr_set or ()


def ports(rule: AnyCiliumRule) -> Iterator[CiliumPortProtocol]:
    """Yield the ports of a rule, of which one has to match."""
    for entry in rule.to_ports:
        yield from entry.ports


def protocols_of(entry: CiliumPortProtocol) -> tuple[Protocol, ...]:
    """Return the protocols of an entry with ports."""
    return _PROTOCOLS if entry.protocol == "ANY" else (entry.protocol,)


def numbers_of(entry: CiliumPortProtocol) -> tuple[int, int] | None:
    """Return the first and the last port of an entry; None for a named port."""
    if not entry.port.isdecimal():
        return None
    first = int(entry.port)
    if first == 0:
        return 0, MAX_PORT
    return first, max(first, entry.end_port)


def icmp_fields(rule: AnyCiliumRule) -> Iterator[CiliumICMPField]:
    """Yield the types of ICMP messages of a rule, of which one has to match."""
    for entry in rule.icmps:
        yield from entry.fields


def icmp_type(field: CiliumICMPField) -> int | None:
    """Return the number of a type of ICMP messages; None for an unknown name."""
    if isinstance(field.type, str):
        if field.type.isdecimal():
            return int(field.type)
        return ICMP_TYPES[field.family].get(field.type)
    return field.type
