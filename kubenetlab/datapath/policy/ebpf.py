"""ebpf: the programs of cilium decide by maps about the packets of pods.

    packet ──▶ cilium_policed   endpoint and direction → policies; none: it passes
           ──▶ cilium_cidr      address of the peer → identity
           ──▶ cilium_ipcache   the same, if there is no entry
           ──▶ cilium_policy    policies, identity, protocol, port → verdict

The program at a pod's link (cil_from_container) decides about egress, and the program that sends a
packet to a pod about ingress.

It needs the CNI mode cilium, whose packets between pods netfilter does not see. Pods to which the
same policies apply share the entries of cilium_policy, so a packet needs at most five lookups in
each direction, whatever the number of policies and pods. A shorter prefix covers more: port ranges
are prefixes of ports, and entries without a port, or without protocol and port, are for all of
them. Identity 0 stands for every peer about which the policies have no entry of its own.

The identity of a pod is that of its labels. Ranges of ipBlock, networks and nodes have identities
of their own in cilium_cidr, from 16777216 on, and so do pods that have an address in such a range,
or that policies distinguish from others with the same labels. cilium_rules has the text of each
rule that an entry refers to, and cilium_drops the number of packets that it has dropped.

A packet that starts or continues a connection in the direction in which it was opened is decided
each time, so a change also applies to open connections. Replies, and ICMP errors about a
connection, always pass.

ICMP, which `ping` sends, passes to or from an isolated pod only by a rule without ports, or by one
that names ICMP, as Cilium's policies can with `icmps`.

Packets of a node to its own pods pass, and those of a pod to itself by a Service and to its own
node, except by rules of tiers. Policies of Cilium also apply to packets to the own node. The port
of an ICMP message is its type. Policies see the endpoint of a Service instead of its address.

A change is complete for each packet: a pod is switched to other policies by one map entry, after
these are loaded. An identity is known only while the verdicts about it are.

Beside a kube-proxy the stack translates addresses of Services. Egress is then decided where packets
leave the stack, by the identity of their sender. There a masqueraded packet between two pods with
the same labels is one of a pod to itself. Rules of tiers about the own node see packets before
translation.

The maps of a node hold 131,072 addresses and ranges (cilium_cidr), 1,048,576 verdicts
(cilium_policy), 65,536 rules (cilium_rules), and 16,384 sets of policies of pods (cilium_policed).
Rules that need more are refused as a whole, and those in force stay.

Differences to Cilium: pods share entries instead of having a map each; entries have verdicts with
all tiers resolved instead of a precedence; ranges of NetworkPolicies and ClusterNetworkPolicies
apply to addresses of pods and nodes, too, and other nodes have no access by themselves; the
identity of a sender on another node follows from its address, and not from the tunnel.

Needs: the CNI mode cilium.  As in: Cilium.
Source: cilium/cilium bpf/lib/policy.h, pkg/policy/mapstate.go, pkg/identity (1.17).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from kubenetlab.api.policies.cilium_rules import CILIUM_KINDS
from kubenetlab.api.policies.network_policy import Direction, NetworkPolicy
from kubenetlab.api.policies.tiers import TIER_KINDS
from kubenetlab.datapath.modes import ModeOptions, Needs, PodNetwork
from kubenetlab.datapath.policy.identity_rules import PeerVerdicts
from kubenetlab.datapath.policy.members import PodGroup, PolicyPod
from kubenetlab.datapath.policy.rules import IsolatingPolicy, PortName
from kubenetlab.datapath.policy.verdicts import ICMP_NAMES, Exemption, PolicySet, PortVerdict
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.bpf_entries import PROTOCOL_NUMBERS
from kubenetlab.hoststate.rules.cilium import POD_LINK_PREFIX
from kubenetlab.hoststate.rules.cilium_entries import (
    ANY_PORT_PREFIX,
    ANY_PREFIX,
    BY_IDENTITY,
    EGRESS,
    INGRESS,
    IS_EXEMPT,
    IS_IPV6,
    TO_OWN_NODE,
)
from kubenetlab.hoststate.rules.cilium_policies import (
    CiliumPeer,
    CiliumPoliced,
    CiliumPolicies,
    CiliumRange,
    CiliumRule,
    PolicyPorts,
)
from kubenetlab.hoststate.rules.rulesets import RuleObject, SubjectRules

_BACKEND: Final = "cilium"
_EXEMPTIONS: Final[dict[Exemption, int]] = {
    None: 0,
    "itself": IS_EXEMPT,
    "own node": IS_EXEMPT | TO_OWN_NODE,
}
_PROTOCOLS: Final = {**PROTOCOL_NUMBERS, ICMP_NAMES[4]: 1, ICMP_NAMES[6]: 58}
_SCOPES: Final[dict[Direction, int]] = {"Ingress": INGRESS, "Egress": EGRESS}

_NO_RANGE_OF_IPV4: Final = ("0.0.0.0/0", 0)
"""A map holds both families, and IPv4 addresses are part of ::/1 there."""


class Mode(ModeOptions, frozen=True):
    """Options: none."""

    needs = Needs(programs=("libbpf.so.1",), own_features=("tc programs",), root="eBPF programs")
    enforced_kinds = (NetworkPolicy, *TIER_KINDS, *CILIUM_KINDS)

    def node(self, node: NodeView, network: PodNetwork) -> Iterator[Object]:
        return iter(())

    def peer(self, address: str, identity: int) -> SubjectRules[RuleObject]:
        cidr = f"{address}/{128 if ':' in address else 32}"
        return SubjectRules(_BACKEND, "", f"peer {address}", (CiliumPeer("", cidr, identity),))

    def ranges(self, version: int, ranges: tuple[tuple[str, int], ...]) -> SubjectRules[RuleObject]:
        if version == 6:
            ranges = (_NO_RANGE_OF_IPV4, *ranges)
        objects = tuple(CiliumRange("", cidr, identity) for cidr, identity in ranges)
        return SubjectRules(_BACKEND, "", f"ranges of IPv{version}", objects)

    def verdicts(
        self, policies: PolicySet, verdicts: tuple[PeerVerdicts, ...]
    ) -> tuple[RuleObject, ...]:
        direction = _SCOPES[policies.direction]
        texts = dict.fromkeys(
            port.verdict.rule for each in verdicts for port in each.ports if port.verdict.rule
        )
        return (
            *(CiliumRule("", text) for text in texts),
            *(
                CiliumPolicies(
                    "",
                    policies.text,
                    direction | (IS_IPV6 if each.version == 6 else 0) | _EXEMPTIONS[each.exemption],
                    each.identity,
                    tuple(map(_ports, each.ports)),
                )
                for each in verdicts
            ),
        )

    def endpoint(
        self, name: str, link: str, identity: int, sets: tuple[PolicySet, ...]
    ) -> tuple[tuple[RuleObject, ...], tuple[RuleObject, ...]]:
        number = int(link.removeprefix(POD_LINK_PREFIX), 16)
        own = (
            CiliumPoliced(
                "",
                name,
                number,
                _SCOPES[each.direction],
                each.text,
                each.has_tiers,
                each.knows_own_node,
            )
            for each in sets
        )
        by_identity = (
            CiliumPoliced(
                "",
                f"identity {identity}",
                identity,
                EGRESS | BY_IDENTITY,
                each.text,
                each.has_tiers,
            )
            for each in sets
            if each.direction == "Egress"
        )
        return tuple(own), tuple(by_identity)

    def isolated_pod(
        self, version: int, pod: PolicyPod, policies: Sequence[IsolatingPolicy]
    ) -> Iterator[SubjectRules[RuleObject]]:
        return iter(())

    def group(
        self, version: int, group: PodGroup, pods: Sequence[PolicyPod]
    ) -> Iterator[SubjectRules[RuleObject]]:
        return iter(())

    def named_ports(
        self, version: int, port: PortName, pods: Sequence[PolicyPod]
    ) -> Iterator[SubjectRules[RuleObject]]:
        return iter(())

    def policy(self, version: int, policy: IsolatingPolicy) -> Iterator[SubjectRules[RuleObject]]:
        return iter(())


def _ports(entry: PortVerdict) -> PolicyPorts:
    protocol = entry.protocol
    length = ANY_PREFIX if protocol is None else ANY_PORT_PREFIX + entry.prefix_length
    number = _PROTOCOLS[protocol] if protocol is not None else 0
    return PolicyPorts(length, number, entry.port, *entry.verdict)
