"""nftables: verdict maps lead from a pod's address to the policies that apply to it.

    egress (hook forward)         →  replies and established connections: accept
                                  →  map egress-admin: rules of the tier Admin for the source
                                  →  map egress-pods: the chain of the source, if policies of the
                                     default tier isolate it
                                  →  map egress-baseline: rules of the tier Baseline
    ingress (hook forward, next)  →  likewise for the destination
    input (hook input)            →  as egress, with the map egress-to-node in place of egress-pods
    output-… (hook output)        →  packets of the node itself: accept; others: likewise

    isolated-…  →  policy-… (one for each policy): a rule matches: accept, or drop
                →  a pod to itself, by a Service: accept
                →  drop
    admin-…     →  the rules of all policies of a tier that apply to a pod, in order: accept, drop,
    baseline-…     or return for the action Pass. Other tiers of Calico, and policies of the default
                   tier with this action, have such chains, too

The rules are in the tables `ip network-policy` and `ip6 network-policy`. `accept` in the chain
egress ends this chain alone: ingress follows. Pods to which the same policies apply share a chain.
Pods that the same selector matches are one set, whatever policies have it, so a packet passes the
same number of rules with ten pods as with a thousand. Each rule has the name of its policy, and its
number there, as comment.

Packets between a node and its own pods are not forwarded, so no NetworkPolicy applies to them.
Rules for egress of tiers and of Calico's policies do, in the chain input. Packets of pods to
Services pass the hook output where IPVS forwards them. Neighbour discovery of IPv6, which conntrack
does not track, always passes.

ICMP, which `ping` sends, passes to or from an isolated pod only by a rule without ports, or by one
that names ICMP, as Calico's policies can. ICMP errors about a connection always pass.

A connection that a policy once allowed goes on when the policy changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
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
from kubenetlab.datapath.policy.members import PodGroup, PolicyPod
from kubenetlab.datapath.policy.nftables_matches import ENDS, group_set, matches, port_set
from kubenetlab.datapath.policy.rules import DEFAULT, IsolatingPolicy, PolicyRule, PortName
from kubenetlab.datapath.policy.stages import Stage, after, at, before, stages
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.nftables import (
    NFT_FAMILIES,
    Chain,
    Collection,
    Element,
    Hook,
    InTable,
    NftObject,
    Rule,
    SetType,
    Table,
    TableRules,
    rule,
)
from kubenetlab.hoststate.rules.nftables.datatypes import VERDICT
from kubenetlab.hoststate.rules.nftables.statements import (
    AnyStatement,
    Counter,
    InSet,
    Log,
    MapVerdict,
    Match,
    Verdict,
    accept,
    drop,
    goto,
    jump,
    return_,
)
from kubenetlab.hoststate.rules.rulesets import RuleObject, SubjectRules
from kubenetlab.names import NETWORK_POLICY_TABLE, POLICY_LOG_GROUP, POLICY_TRACE_GROUP

TABLE: Final = NETWORK_POLICY_TABLE
_PAIRS: Final = "own-addresses"
_ADDRESS_TYPES: Final = {"ip": "ipv4_addr", "ip6": "ipv6_addr"}
_DIRECTIONS: Final[tuple[Direction, ...]] = ("Egress", "Ingress")
_STAGES: Final[Mapping[str, str]] = {
    "admin": "rules of the tier Admin for the {} of pods",
    "pods": "pods whose {} is isolated",
    "baseline": "rules of the tier Baseline for the {} of pods",
}
"""Last part of the names of maps → comment."""
_TO_NODE: Final = "egress-to-node"
"""Map of the pods whose connections to their own node are isolated."""
_OF_EGRESS: Final = ("egress-admin", "egress-pods", "egress-baseline")
_OF_INGRESS: Final = ("ingress-admin", "ingress-pods", "ingress-baseline")
_BASE_CHAINS: Final[Mapping[str, tuple[Hook, Sequence[str]]]] = {
    "egress": (Hook("filter", "forward", 0), _OF_EGRESS),
    "ingress": (Hook("filter", "forward", 1), _OF_INGRESS),
    # Behind IPVS (98 and 99), which takes packets to addresses of Services away.
    "input": (Hook("filter", "input", 110), ("egress-admin", _TO_NODE, "egress-baseline")),
    "output-egress": (Hook("filter", "output", 0), _OF_EGRESS),
    "output-ingress": (Hook("filter", "output", 1), _OF_INGRESS),
}
"""Base chain → its hook, and the maps in which it looks up the pod."""


class Mode(ModeOptions, frozen=True):
    """Options: none."""

    needs = Needs(programs=("nft",), features=("nft vmap", "nft log"))
    enforced_kinds = (NetworkPolicy, *TIER_KINDS, *CALICO_POLICY_KINDS)

    def node(self, node: NodeView, network: PodNetwork) -> Iterator[Object]:
        for family in node.families:
            yield from base(FamilyTable.of(family.version, node.netns))

    def isolated_pod(
        self, version: int, pod: PolicyPod, policies: Sequence[IsolatingPolicy]
    ) -> Iterator[SubjectRules[RuleObject]]:
        yield isolation_rules(FamilyTable.of(version), pod, policies)

    def group(
        self, version: int, group: PodGroup, pods: Sequence[PolicyPod]
    ) -> Iterator[SubjectRules[RuleObject]]:
        yield group_rules(FamilyTable.of(version), group, pods)

    def named_ports(
        self, version: int, port: PortName, pods: Sequence[PolicyPod]
    ) -> Iterator[SubjectRules[RuleObject]]:
        yield port_rules(FamilyTable.of(version), port, pods)

    def policy(self, version: int, policy: IsolatingPolicy) -> Iterator[SubjectRules[RuleObject]]:
        if _has_chain(policy):
            yield policy_rules(FamilyTable.of(version), policy)


class FamilyTable(Struct, frozen=True):
    """Table of one address family on a node; creates objects of that table."""

    family: str
    netns: str = ""

    @classmethod
    def of(cls, version: int, netns: str = "") -> FamilyTable:
        return cls(NFT_FAMILIES[version], netns)

    @property
    def version(self) -> int:
        return {family: version for version, family in NFT_FAMILIES.items()}[self.family]

    def type(self, *parts: str, value: tuple[str, ...] = ()) -> SetType:
        """Return the type of a set whose keys begin with an address."""
        return SetType((_ADDRESS_TYPES[self.family], *parts), value)

    def chain(self, name: str, rules: Sequence[Rule], hook: Hook | None = None) -> Chain:
        return Chain(self.netns, self.family, TABLE, name, tuple(rules), hook)

    def collection(self, name: str, type_: SetType, comment: str) -> Collection:
        return Collection(self.netns, self.family, TABLE, name, type_, comment)

    def element(
        self,
        name: str,
        type_: SetType,
        item: tuple[str, ...],
        comment: str = "",
        verdict: Verdict | None = None,
    ) -> Element:
        return Element(self.netns, self.family, TABLE, name, type_, item, verdict, comment=comment)

    def rules(self, subject: str, objects: Sequence[InTable]) -> TableRules:
        return TableRules("nftables", self.family, subject, tuple(objects))


def base(table: FamilyTable) -> Iterator[NftObject]:
    """Yield the table without any policy, in which every packet is accepted."""
    verdicts, pairs = table.type(value=VERDICT), table.type(_ADDRESS_TYPES[table.family])
    yield Table(table.netns, table.family, TABLE, "network policies of pods")
    yield table.collection(_PAIRS, pairs, "isolated pods to themselves")
    established = rule(Match("ct state", "established,related,untracked"), accept)
    lookups: dict[str, Rule] = {}
    for direction in _DIRECTIONS:
        for stage, comment in _STAGES.items():
            name = _map(direction, stage)
            address = f"{table.family} {ENDS[direction][0]}"
            yield table.collection(name, verdicts, comment.format(direction.lower()))
            lookups[name] = rule(MapVerdict((address,), name))
    yield table.collection(_TO_NODE, verdicts, "pods whose egress to their own node is isolated")
    lookups[_TO_NODE] = rule(MapVerdict((f"{table.family} saddr",), _TO_NODE))
    own = rule(Match("fib saddr type", "local"), accept, comment="packets of the node itself")
    for chain, (hook, maps) in _BASE_CHAINS.items():
        first = (own, established) if hook.name == "output" else (established,)
        yield table.chain(chain, (*first, *(lookups[name] for name in maps)), hook)


def isolation_rules(
    table: FamilyTable, pod: PolicyPod, policies: Sequence[IsolatingPolicy]
) -> TableRules:
    """Return the elements and chains of a pod on its node.

    policies: all policies that apply to it.
    """
    chains: dict[str, Chain] = {}
    elements: list[InTable] = []
    own = tuple(addresses([pod], table.version))
    verdicts, pairs = table.type(value=VERDICT), table.type(_ADDRESS_TYPES[table.family])
    spares_itself = False
    for direction in _DIRECTIONS:
        of_pod = stages(policies, direction)
        for slot, in_slot in (
            (_map(direction, "admin"), before(DEFAULT, of_pod)),
            (_map(direction, "pods"), default := at(DEFAULT, of_pod)),
            (_map(direction, "baseline"), after(DEFAULT, of_pod)),
            (_TO_NODE, () if direction == "Ingress" else default),
        ):
            if not in_slot or (slot == _TO_NODE and in_slot[0].spares_own_node):
                continue
            of_slot = _slot_chains(table, in_slot)
            chains |= {chain.name: chain for chain in of_slot}
            verdict = (goto if in_slot[-1].is_final else jump)(of_slot[0].name)
            elements += (
                table.element(slot, verdicts, (address,), pod.full_name, verdict) for address in own
            )
        spares_itself |= any(stage.spares_own_node for stage in default)
    if spares_itself:
        elements += (table.element(_PAIRS, pairs, (address, address)) for address in own)
    objects = tuple(elements), tuple(chains.values())
    return TableRules("nftables", table.family, pod.full_name, *objects)


def _map(direction: Direction, stage: str) -> str:
    """Return the name of the map from pods to their chains in a stage."""
    return f"{direction.lower()}-{stage}"


@lru_cache(1024)
def _slot_chains(table: FamilyTable, in_slot: tuple[Stage, ...]) -> tuple[Chain, ...]:
    """Return the chains of consecutive stages; the first leads to the others."""
    chains = tuple(_stage_chain(table, stage) for stage in in_slot)
    if len(chains) == 1:
        return chains
    name = f"tiers-{in_slot[0].policies[0].direction.lower()}-{digest(*(c.name for c in chains))}"
    return table.chain(name, [rule(jump(chain.name)) for chain in chains]), *chains


def _stage_chain(table: FamilyTable, stage: Stage) -> Chain:
    """Return the chain of the pods to which the policies of a stage apply.

    Pass ends the stage, so the rules of policies with this action have to be in the chain itself.
    A chain with rules of policies has a name that changes with them.
    """
    policies = stage.policies
    rules: list[Rule] = []
    for policy in policies:
        rules += [rule(jump(policy_chain(policy)))] if _has_chain(policy) else _rules(table, policy)
    if stage.spares_own_node:
        pair = (f"{table.family} saddr", f"{table.family} daddr")
        rules.append(rule(InSet(pair, _PAIRS), accept, comment="a pod to itself"))
    if stage.isolates:
        log = Log(POLICY_LOG_GROUP, log_prefix(isolation_reason(policies)))
        rules.append(rule(Counter(), log, drop, comment=ISOLATED))
    if all(map(_has_chain, policies)) and stage.isolates:
        return table.chain(isolated_chain(policies), rules)
    tier = "isolated" if stage.tier == DEFAULT else stage.tier.name.lower()
    name = f"{tier}-{policies[0].direction.lower()}-{digest(*map(str, rules))}"
    return table.chain(name, rules)


def _has_chain(policy: IsolatingPolicy) -> bool:
    """Return True for a policy with a chain of its own, to which the chains of its pods jump."""
    return policy.tier == DEFAULT and not policy.passes


def group_rules(table: FamilyTable, group: PodGroup, pods: Sequence[PolicyPod]) -> TableRules:
    """Return the set of the pods that a selector matches."""
    name, type_ = group_set(group), table.type()
    return table.rules(
        name,
        (
            table.collection(name, type_, str(group)),
            *(table.element(name, type_, (address,)) for address in addresses(pods, table.version)),
        ),
    )


def port_rules(table: FamilyTable, port: PortName, pods: Sequence[PolicyPod]) -> TableRules:
    """Return the set of the ports of all pods that have a name."""
    name, type_ = port_set(port), table.type("inet_proto", "inet_service")
    return table.rules(
        name,
        (
            table.collection(name, type_, f"ports with the name {port.name}"),
            *(
                table.element(name, type_, (address, protocol, str(number)))
                for address, protocol, number in named_port_keys(port, pods, table.version)
            ),
        ),
    )


def policy_rules(table: FamilyTable, policy: IsolatingPolicy) -> TableRules:
    """Return the chain of a policy in one direction."""
    name = policy_chain(policy)
    return table.rules(name, (table.chain(name, [*_rules(table, policy)]),))


def _rules(table: FamilyTable, policy: IsolatingPolicy) -> Iterator[Rule]:
    """Yield the rules of a policy in one direction, in order."""
    for entry in policy.rules:
        comment = rule_comment(policy, entry)
        for match in matches(table.version, policy.direction, entry):
            yield rule(*match, *_action(entry, rule_title(policy, entry)), comment=comment)


def _action(entry: PolicyRule, title: str) -> tuple[AnyStatement, ...]:
    """Return the statements for packets that match a rule. Those that are dropped are logged."""
    match entry.action:
        case "Accept":
            return (accept,)
        case "Deny":
            return (Counter(), Log(POLICY_LOG_GROUP, log_prefix(title)), drop)
        case "Pass":
            return (return_,)
        case "Log":
            return (Log(POLICY_TRACE_GROUP, log_prefix(title)),)


def policy_chain(policy: IsolatingPolicy) -> str:
    """Return the name of the chain of a policy in one direction."""
    text = f"policy-{policy.direction.lower()}-{digest(policy.title)}-{policy.name}"
    return text[:MAX_CHAIN_NAME]


def isolated_chain(policies: Sequence[IsolatingPolicy]) -> str:
    """Return the name of the chain of the pods that some policies isolate in one direction."""
    direction = policies[0].direction.lower()
    return f"isolated-{direction}-{digest(*(policy.title for policy in policies))}"


MAX_CHAIN_NAME: Final = 120
"""Maximum length of the names of chains, in characters; the kernel's is 127 in older versions."""
