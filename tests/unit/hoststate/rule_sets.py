"""Rule sets for tests of differences and transactions."""

from __future__ import annotations

from kubenetlab.hoststate.rules.nftables import Chain, Element, Rule
from kubenetlab.hoststate.rules.rulesets import NodeRules, RuleSet, SubjectRules
from kubenetlab.versioned import VersionedMap


def service_rules(name: str, *endpoints: str) -> SubjectRules:
    """Return rules of a Service with a chain for each endpoint, and one that selects among them."""
    choice = Rule(f"numgen random mod {len(endpoints)} vmap {{ … }}")
    chains = [
        Chain("", "ip", "t", f"{name}-{endpoint}", (Rule(f"dnat to {endpoint}"),))
        for endpoint in endpoints
    ]
    return SubjectRules(
        "nftables",
        "ip",
        name,
        (
            Element("", "ip", "t", "ips", f"of {name}"),
            Chain("", "ip", "t", name, (choice,)),
            *chains,
        ),
    )


def node_rules(*rules: SubjectRules) -> NodeRules:
    return NodeRules("n", RuleSet("nftables", VersionedMap((item.key, item) for item in rules)))
