"""iptables: chains of Calico's iptables data plane, and IP sets of peers.

    FORWARD  →  cali-FORWARD: replies and established connections return
             →  cali-from-wl-dispatch: by the source, to the chain of a pod with policies
             →  cali-to-wl-dispatch: by the destination, likewise
    INPUT    →  cali-INPUT  →  cali-wl-to-host: by the source, to the chain of a pod
    OUTPUT   →  cali-OUTPUT: packets of the node itself return; others: as in cali-FORWARD,
                because packets of pods to Services pass it where IPVS forwards them

    cali-fw-cali…  (one for each pod with policies for egress)
             →  clear the marks 0x10000 (accepted) and 0x20000 (passed)
             →  cali-po-… of each policy of the tier Admin, until one of them sets a mark
             →  cali-po-… of each policy of the default tier, such as NetworkPolicies, likewise;
                if there is one: to the pod itself: return; drop what no rule has passed
             →  cali-po-… of each policy of the tier Baseline, if connections can reach it
    cali-tw-cali…, cali-pi-…: likewise for ingress
    cali-wh-cali…: likewise, for packets of a pod to its own node, without NetworkPolicies

The rules are in the table `filter` of iptables and of ip6tables. A packet of a pod passes the
policies of the pod one after another until a rule sets the mark 0x10000, or drops the packet. If
there are policies for both ends, the packet has to get the mark twice. A packet that is allowed
returns to FORWARD, where the rules of kube-proxy follow. Each rule has the name of its policy, and
its number there, as comment.

Peers are IP sets: `cali40s:…` has the pods that a selector matches (hash:ip), `cali40b:…` ranges of
addresses (hash:net), and `cali40n:…` the ports with a name (hash:ip,port); `cali60…` has the same
for IPv6. Policies with the same selector share a set. A set of type hash:net cannot hold a range
with all addresses, so a rule with such a range has no match of addresses. A rule matches at most 15
ports, so a policy with more ports has several rules.

Packets between a node and its own pods are not forwarded, so no NetworkPolicy applies to them.
Rules for egress of tiers and of Calico's policies do; beside IPVS they also see packets to a
cluster IP, before an endpoint is chosen. Neighbour discovery of IPv6 between pods on a bridge
always passes. A connection that a policy once allowed goes on when the policy changes.

ICMP, which `ping` sends, passes to or from an isolated pod only by a rule without ports, or by one
that names ICMP, as Calico's policies can. ICMP errors about a connection always pass.

Calico's action Pass sets the mark 0x20000, with which the rest of the tier is skipped; Log sends
packets to nflog group 101, which `policy log -w` shows.

Differences from Calico: the dispatch chains match the addresses of pods, as those of kube-router
do, because pods may share a bridge, and netfilter sees only the bridge. Allowed and established
packets return instead of being accepted, so that rules of others still apply. Only pods with
policies have chains.

Source: projectcalico/calico felix/rules/{static.go,dispatch.go,endpoints.go,policy.go,
rule_defs.go}, felix/ipsets (3.30); cloudnativelabs/kube-router pkg/controllers/netpol (2.5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from kubenetlab.api.calico.policies import CALICO_POLICY_KINDS
from kubenetlab.api.policies.network_policy import Direction, NetworkPolicy
from kubenetlab.api.policies.tiers import TIER_KINDS
from kubenetlab.datapath.modes import ModeOptions, Needs, PodNetwork
from kubenetlab.datapath.policy.common import (
    ISOLATED,
    addresses,
    digest,
    isolation_reason,
    log_prefix,
    named_port_keys,
    rule_comment,
    rule_title,
)
from kubenetlab.datapath.policy.iptables_matches import (
    FamilyTable,
    block_set,
    group_set,
    matches,
    port_set,
    ranges_in,
)
from kubenetlab.datapath.policy.members import PodGroup, PolicyPod
from kubenetlab.datapath.policy.rules import IsolatingPolicy, PortName, RuleAction
from kubenetlab.datapath.policy.stages import Stage, stages
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.ipset import range_item
from kubenetlab.hoststate.rules.iptables import (
    IptablesObject,
    Jump,
    comment,
)
from kubenetlab.hoststate.rules.rulesets import RuleObject, SubjectRules
from kubenetlab.names import POLICY_LOG_GROUP, POLICY_TRACE_GROUP, workload_id

ACCEPTED: Final = "0x10000"
"""Mark of packets that a rule accepts."""
PASSED: Final = "0x20000"
"""Mark of packets that a rule passes to the next tier."""
_BOTH: Final = "0x30000"
_NOT_PASSED: Final = f"-m mark --mark 0x0/{PASSED} "
_RETURN_IF_ACCEPTED: Final = f"-m mark --mark {ACCEPTED}/{ACCEPTED} -j RETURN"
_ACTIONS: Final[Mapping[RuleAction, tuple[str, str]]] = {
    "Accept": (f"MARK --set-xmark {ACCEPTED}/{ACCEPTED}", _RETURN_IF_ACCEPTED),
    "Pass": (f"MARK --set-xmark {PASSED}/{PASSED}", f"-m mark --mark {PASSED}/{PASSED} -j RETURN"),
    "Deny": ("DROP", ""),
    "Log": ("", ""),
}
"""Action → target of the rules that match, and the rule that ends the chain after them."""
_LOG_GROUPS: Final[Mapping[RuleAction, int]] = {
    "Deny": POLICY_LOG_GROUP,
    "Log": POLICY_TRACE_GROUP,
}
"""Action of rules that log packets → group of listeners."""
_NEIGHBOR_DISCOVERY: Final = (135, 136)
"""Types of ICMPv6 messages that pods on one bridge need to find each other."""
_TO_HOST: Final = "cali-wl-to-host"
_TO_HOST_OF_POD: Final = "cali-wh-cali"
"""Prefix of the chains of pods for packets to their own node."""


class _End(Struct, frozen=True):
    """Names and options for one end of a connection."""

    dispatch: str
    """Chain that leads to those of pods."""
    pod: str
    """Prefix of the chains of pods."""
    policy: str
    """Prefix of the chains of policies."""
    option: str
    """Option that matches the address of the pod to which policies apply."""
    peer_option: str


_ENDS: Final[Mapping[Direction, _End]] = {
    "Egress": _End("cali-from-wl-dispatch", "cali-fw-cali", "cali-po-", "-s", "-d"),
    "Ingress": _End("cali-to-wl-dispatch", "cali-tw-cali", "cali-pi-", "-d", "-s"),
}
_BASE_CHAINS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "FORWARD": ("cali-FORWARD", tuple(end.dispatch for end in _ENDS.values())),
    "INPUT": ("cali-INPUT", (_TO_HOST,)),
    "OUTPUT": ("cali-OUTPUT", tuple(end.dispatch for end in _ENDS.values())),
}
"""Built-in chain → chain to which it jumps, and the dispatch chains to which that jumps."""


_OWN: Final = f"{comment('packets of the node itself')} -m addrtype --src-type LOCAL -j RETURN"


class Mode(ModeOptions, frozen=True):
    """Options: none."""

    needs = Needs(programs=("iptables-nft-restore", "ipset"), own_features=("iptables", "ipset"))
    enforced_kinds = (NetworkPolicy, *TIER_KINDS, *CALICO_POLICY_KINDS)

    def node(self, node: NodeView, network: PodNetwork) -> Iterator[Object]:
        for family in node.families:
            yield from base(FamilyTable(family.version, node.netns))

    def isolated_pod(
        self, version: int, pod: PolicyPod, policies: Sequence[IsolatingPolicy]
    ) -> Iterator[SubjectRules[RuleObject]]:
        table = FamilyTable(version)
        yield table.rules("iptables", pod.full_name, tuple(isolation(table, pod, policies)))

    def group(
        self, version: int, group: PodGroup, pods: Sequence[PolicyPod]
    ) -> Iterator[SubjectRules[RuleObject]]:
        """Yield the set of the pods."""
        table = FamilyTable(version)
        name, items = group_set(table, group), dict.fromkeys(addresses(pods, version))
        yield table.rules("ipset", name, tuple(table.set(name, "hash:ip", tuple(items))))

    def named_ports(
        self, version: int, port: PortName, pods: Sequence[PolicyPod]
    ) -> Iterator[SubjectRules[RuleObject]]:
        """Yield the set of the ports."""
        table = FamilyTable(version)
        name = port_set(table, port)
        items = [
            f"{address},{protocol}:{number}"
            for address, protocol, number in named_port_keys(port, pods, version)
        ]
        yield table.rules("ipset", name, tuple(table.set(name, "hash:ip,port", items)))

    def policy(self, version: int, policy: IsolatingPolicy) -> Iterator[SubjectRules[RuleObject]]:
        """Yield the chain of the policy, and the sets of its ranges of addresses."""
        table = FamilyTable(version)
        name, rules = policy_chain(policy), tuple(policy_rules(table, policy))
        yield table.rules("iptables", name, (table.chain(name, rules),))
        blocks = tuple(
            obj
            for ranges in dict.fromkeys(
                ranges for entry in policy.rules for ranges in ranges_in(version, entry)
            )
            for obj in table.set(
                block_set(table, ranges), "hash:net", tuple(map(range_item, ranges))
            )
        )
        if blocks:
            yield table.rules("ipset", name, (), blocks)


def base(table: FamilyTable) -> Iterator[RuleObject]:
    """Yield the chains without any policy, in which no packet is dropped."""
    always = [
        f"{comment('replies and established connections')} "
        "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"
    ]
    if table.version == 6:
        always += (
            f"-p ipv6-icmp {comment('neighbor discovery')} -m icmp6 --icmpv6-type {type_} -j RETURN"
            for type_ in _NEIGHBOR_DISCOVERY
        )
    for built_in, (chain, dispatch_chains) in _BASE_CHAINS.items():
        for name in dispatch_chains if built_in != "OUTPUT" else ():
            yield table.chain(name, ())
        first = [*always, _OWN] if built_in == "OUTPUT" else always
        yield table.chain(chain, (*first, *(f"-j {name}" for name in dispatch_chains)))
        jump = f"{comment('network policies')} -j {chain}"
        yield Jump(table.netns, table.family, "filter", built_in, jump, is_first=True)


def isolation(
    table: FamilyTable, pod: PolicyPod, policies: Sequence[IsolatingPolicy]
) -> Iterator[IptablesObject]:
    """Yield the chains of a pod on its node, and the rules that lead to them.

    policies: all policies that apply to it.
    """
    own = tuple(addresses([pod], table.version))
    if not own:
        return
    workload = workload_id(pod.namespace, pod.name)
    for direction, end in _ENDS.items():
        of_pod = stages(policies, direction)
        itself = [f"{end.peer_option} {address}" for address in own]
        chains = [(end.dispatch, f"{end.pod}{workload}", _stage_rules(of_pod, itself))]
        if direction == "Egress":
            others = [stage for stage in of_pod if not stage.spares_own_node]
            chains.append((_TO_HOST, f"{_TO_HOST_OF_POD}{workload}", _stage_rules(others, ())))
        for dispatch, chain, rules in chains:
            if not rules:
                continue
            yield table.chain(chain, (f"-j MARK --set-xmark 0x0/{_BOTH}", *rules))
            for address in own:
                yield table.entry(
                    dispatch, f"{end.option} {address} {comment(pod.full_name)} -g {chain}"
                )


def _stage_rules(of_pod: Sequence[Stage], itself: Sequence[str]) -> list[str]:
    """Return the rules of the stages of a pod in one direction, without the initial marks.

    itself: matches of packets from the pod to itself.
    """
    rules: list[str] = []
    for number, stage in enumerate(of_pod):
        if number and of_pod[number - 1].passes:
            rules.append(f"-j MARK --set-xmark 0x0/{PASSED}")
        is_passed = False
        for policy in stage.policies:
            rules += (f"{_NOT_PASSED if is_passed else ''}{_jump(policy)}", _RETURN_IF_ACCEPTED)
            is_passed |= policy.passes
        if stage.isolates:
            match = _NOT_PASSED if is_passed else ""
            if stage.spares_own_node:
                rules += (f"{match}{own} {comment('a pod to itself')} -j RETURN" for own in itself)
            rules.append(f"{match}{_log(log_prefix(isolation_reason(stage.policies)))}")
            rules.append(f"{match}{comment(ISOLATED)} -j DROP")
    return rules


def _log(prefix: str, group: int = POLICY_LOG_GROUP) -> str:
    """Return the target that logs packets for the listeners of a node."""
    return f'-j NFLOG --nflog-prefix "{prefix}" --nflog-group {group}'


def _jump(policy: IsolatingPolicy) -> str:
    return f"{comment(policy.title)} -j {policy_chain(policy)}"


def policy_rules(table: FamilyTable, policy: IsolatingPolicy) -> Iterator[str]:
    """Yield the rules of a policy in one direction."""
    for entry in policy.rules:
        note = comment(rule_comment(policy, entry))
        target, end = _ACTIONS[entry.action]
        actions = [f"-j {target}"] if target else []
        if (group := _LOG_GROUPS.get(entry.action)) is not None:
            actions.insert(0, _log(log_prefix(rule_title(policy, entry)), group))
        rules = [
            f"{before}{note}{after} {action}"
            for before, after in matches(table, policy.direction, entry)
            for action in actions
        ]
        yield from rules
        if rules and end:
            yield end


def policy_chain(policy: IsolatingPolicy) -> str:
    """Return the name of the chain of a policy in one direction."""
    return f"{_ENDS[policy.direction].policy}{digest(policy.title)}"
