"""Rule sets for tests of differences and transactions."""

from __future__ import annotations

from kubenetlab.hoststate.rules.nftables import Chain, Element, NftObject, SetType, rule
from kubenetlab.hoststate.rules.nftables.statements import Dnat, RandomVerdict
from kubenetlab.hoststate.rules.rulesets import NodeRules, RuleSet, SubjectRules
from kubenetlab.versioned import VersionedMap


def service_rules(name: str, *endpoints: str) -> SubjectRules[NftObject]:
    """Return rules of a Service with a chain for each endpoint, and one that selects among them."""
    choice = rule(RandomVerdict(tuple(f"{name}-{endpoint}" for endpoint in endpoints)))
    chains = [
        Chain("", "ip", "t", f"{name}-{endpoint}", (rule(Dnat(endpoint, 80)),))
        for endpoint in endpoints
    ]
    return SubjectRules(
        "nftables",
        "ip",
        name,
        (
            Element("", "ip", "t", "ips", SetType(("ipv4_addr",)), (f"of {name}",)),
            Chain("", "ip", "t", name, (choice,)),
            *chains,
        ),
    )


def node_rules(*rules: SubjectRules[NftObject]) -> NodeRules[NftObject]:
    return NodeRules("n", RuleSet("nftables", VersionedMap((item.key, item) for item in rules)))
