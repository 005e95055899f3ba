"""The policy engine iptables: limits of names, of ports in a rule, and of sets."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.datapath.policy.iptables import Mode
from kubenetlab.datapath.policy.iptables_matches import MAX_MATCHED_PORTS
from kubenetlab.datapath.policy.members import PodGroup, PolicyPod
from kubenetlab.datapath.policy.rules import (
    IsolatingPolicy,
    PolicyRule,
    PortName,
    PortRange,
    merged_ports,
)
from kubenetlab.hoststate.rules.ipset import MAX_NAME, Member, Set
from kubenetlab.hoststate.rules.iptables import MAX_COMMENT, ChainEntry, IptablesChain
from kubenetlab.hoststate.rules.rulesets import RuleObject

MAX_CHAIN_NAME = 28
"""XT_EXTENSION_MAXNAMELEN without the terminating zero."""
LONG = f"{'n' * 63}/{'p' * 253}"
PODS = PodGroup("default", "{}")
ANYBODY = PolicyRule(0, True, (), (), True, (), ())


def policy(*rules: PolicyRule, name: str = "default/p") -> IsolatingPolicy:
    return IsolatingPolicy(name, "Ingress", PODS, rules)


def objects_of(policy: IsolatingPolicy, version: int = 4) -> list[RuleObject]:
    rules = Mode().policy(version, policy)
    return [obj for part in rules for obj in (*part.objects, *part.shared)]


def rules_of(policy: IsolatingPolicy, version: int = 4) -> list[str]:
    """Return the rules of the chain of a policy that mark packets."""
    chains = [obj for obj in objects_of(policy, version) if isinstance(obj, IptablesChain)]
    return [rule for chain in chains for rule in chain.rules if " -j MARK " in rule]


def test_names_and_comments_have_at_most_the_length_that_the_kernel_accepts() -> None:
    """Names of policies, pods and ports have their maximum lengths."""
    rule = PolicyRule(12, False, (PODS,), ("10.0.0.0/8",), False, (), (PortName("SCTP", "p" * 15),))
    pod = PolicyPod("n" * 63, "p" * 253, {}, ("10.244.1.2",), (("p" * 15, "SCTP", 80),))
    named = policy(rule, name=LONG)
    engine = Mode()
    subjects = [
        *engine.policy(4, named),
        *engine.isolated_pod(4, pod, [named]),
        *engine.group(4, PODS, [pod]),
        *engine.named_ports(4, rule.port_names[0], [pod]),
    ]
    texts: list[str] = []
    for obj in (obj for part in subjects for obj in (*part.objects, *part.shared)):
        match obj:
            case IptablesChain():
                assert len(obj.name) <= MAX_CHAIN_NAME
                texts += obj.rules
            case ChainEntry():
                texts.append(obj.rule)
            case Set():
                assert len(obj.name) <= MAX_NAME
    comments = [note for text in texts for note in re.findall(r'--comment "([^"]*)"', text)]
    assert max(map(len, comments)) <= MAX_COMMENT
    assert any(note.endswith(" Ingress rule 12") for note in comments)


@given(numbers=st.sets(st.integers(1, 200), min_size=1, max_size=80))
def test_a_rule_matches_at_most_fifteen_ports(numbers: set[int]) -> None:
    """The rules together match the ports of the policy; a range counts as two ports."""
    ports = tuple(merged_ports([PortRange("TCP", number, number) for number in numbers]))
    rule = PolicyRule(0, True, (), (), False, ports, ())
    matched: list[int] = []
    for text in rules_of(policy(rule)):
        parts = re.search(r"-p tcp -m multiport --dports (\S+) ", text)
        assert parts is not None
        ranges = [part.split(":") for part in parts[1].split(",")]
        assert sum(map(len, ranges)) <= MAX_MATCHED_PORTS
        matched += (number for ends in ranges for number in range(int(ends[0]), int(ends[-1]) + 1))
    assert matched == sorted(numbers)
    assert all(one < other for one, other in pairwise(matched))


def test_a_range_with_all_addresses_has_no_set() -> None:
    """A set of type hash:net cannot hold it. The other IP version is not matched by it."""
    everybody = policy(PolicyRule(0, False, (), ("0.0.0.0/0",), True, (), ()))
    assert rules_of(everybody) == rules_of(policy(ANYBODY))
    assert not any(isinstance(obj, Set) for obj in objects_of(everybody))
    assert rules_of(everybody, version=6) == []


def test_ranges_are_in_a_set_that_policies_share() -> None:
    blocks = PolicyRule(0, False, (), ("10.0.0.1/32", "10.1.0.0/16"), True, (), ())
    sets, others = (
        [obj for obj in objects_of(policy(blocks, name=name)) if isinstance(obj, Set | Member)]
        for name in ("default/a", "default/b")
    )
    assert sets == others
    assert [obj.item for obj in sets if isinstance(obj, Member)] == ["10.0.0.1", "10.1.0.0/16"]
