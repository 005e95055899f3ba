"""Diagnostics of domain names in policies: the lab knows only those of its external hosts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.policies.cluster_network_policy import matches_domain
from kubenetlab.api.policies.tiers import TIER_KINDS, TierPolicy, tier_policy
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.documents import Path
from kubenetlab.datapath.cluster_modes import enforced_kinds_of
from kubenetlab.diagnostics.model import (
    NOT_ENFORCED,
    NOT_ENFORCED_ALTHOUGH,
    POLICY_PEER_UNMATCHED,
    Diagnostic,
    Scope,
    subjects_of,
)
from kubenetlab.diagnostics.policy_pods import is_given, unknown_host
from kubenetlab.diagnostics.templates import Templates


def check_domain_names(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Yield a diagnostic for each domain name that means no addresses, or some that are not known.

    The lab knows the external hosts. Names of Services, and with an uplink those of the machine's
    DNS, have other addresses. Kinds that the policy engine does not know are reported as a whole.
    """
    enforced = enforced_kinds_of(cluster)
    for kind in TIER_KINDS:
        if kind not in enforced:
            continue
        for policy in cluster.all(kind):
            in_tier = tier_policy(policy)
            for path, name in _names(in_tier):
                if reason := _unresolved(cluster.config, name):
                    message = f"{NOT_ENFORCED_ALTHOUGH} a cluster allows {name}: {reason}"
                    scope = Scope(out_of=subjects_of(cluster, in_tier))
                    yield Diagnostic.of(policy, NOT_ENFORCED, path, message, scope=scope)
                elif is_given(cluster, policy) and (
                    message := unknown_host(cluster, name, partial(matches_domain, name))
                ):
                    yield Diagnostic.of(policy, POLICY_PEER_UNMATCHED, path, message)


def _unresolved(config: ClusterConfig, name: str) -> str:
    """Return why a lab does not know the addresses of a name that it may have in a cluster."""
    if name.lower().removesuffix(".").endswith(f".{config.networking.dns_domain}"):
        return "names of Services and pods are not resolved"
    return "only names of external hosts are resolved" if config.uplink else ""


def _names(policy: TierPolicy) -> Iterator[tuple[Path, str]]:
    """Yield (path, value) of each domain name."""
    for index, rule in enumerate(policy.spec.egress):
        for number, peer in enumerate(rule.to):
            for entry, name in enumerate(peer.domain_names):
                yield ("spec", "egress", index, "to", number, "domainNames", entry), name
