"""Interfaces of the rule backends; the type checker compares every module with them."""

from __future__ import annotations

import pkgutil
from typing import Final

from kubenetlab.hoststate import rules
from kubenetlab.hoststate.rules import (
    bpf,
    bpf_updates,
    cilium,
    conntrack,
    ipset,
    iptables,
    ipvs,
    nftables,
)
from kubenetlab.hoststate.rules.bpf_listing import BpfListing
from kubenetlab.hoststate.rules.rulesets import (
    ExactBackend,
    RewritingBackend,
    RuleBackend,
    rule_backend,
)

_NFTABLES: Final[RuleBackend[nftables.NftRules]] = nftables
_IPTABLES: Final[RuleBackend[iptables.Ruled]] = iptables
_IPSET: Final[RuleBackend[ipset.IpsetRules]] = ipset
_IPVS: Final[RuleBackend[ipvs.IpvsRules]] = ipvs
_BPF: Final[RuleBackend[bpf_updates.Ruled]] = bpf
_CILIUM: Final[RuleBackend[bpf_updates.Ruled]] = cilium
_CONNTRACK: Final[RuleBackend[conntrack.Ruled]] = conntrack
_REWRITING: Final[
    tuple[
        RewritingBackend[list[str | None]],
        RewritingBackend[list[tuple[str, str]]],
        RewritingBackend[str],
    ]
] = (nftables, iptables, ipset)
_EXACT: Final[
    tuple[
        ExactBackend[ipvs.IpvsRules, object],
        ExactBackend[bpf_updates.Ruled, BpfListing],
        ExactBackend[bpf_updates.Ruled, BpfListing],
        ExactBackend[conntrack.Ruled, object],
    ]
] = (ipvs, bpf, cilium, conntrack)


def test_each_backend_is_compared_in_one_way() -> None:
    """Each backend is listed as one of the two kinds: compared by listings, or by its objects."""
    checked = {nftables, iptables, ipset, ipvs, bpf, cilium, conntrack}
    names = {info.name for info in pkgutil.iter_modules(rules.__path__)}
    backends = {name for name in names if hasattr(rule_backend(name), "failed_object")}
    assert backends == {module.__name__.rpartition(".")[2] for module in checked}
    assert {*_REWRITING, *_EXACT} == checked
    assert all(isinstance(module, ExactBackend) for module in _EXACT)
    assert not any(isinstance(module, ExactBackend) for module in _REWRITING)
