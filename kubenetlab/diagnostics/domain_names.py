"""Diagnostics of domain names in policies that the lab does not enforce."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.policies.tiers import TIER_KINDS, TierPolicy, tier_policy
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.documents import Path
from kubenetlab.datapath.cluster_modes import enforced_kinds_of
from kubenetlab.diagnostics.model import NOT_ENFORCED, Diagnostic, Scope, subjects_of
from kubenetlab.diagnostics.templates import Templates


def check_domain_names(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Yield a diagnostic for each domain name that means addresses the lab does not know.

    The lab knows the external hosts. Names of Services, and with an uplink those of the machine's
    DNS, have other addresses. Kinds that the policy engine does not know are reported as a whole.
    """
    config = cluster.config
    enforced = enforced_kinds_of(cluster)
    inside = f".{config.networking.dns_domain}"
    for kind in TIER_KINDS:
        if kind not in enforced:
            continue
        for policy in cluster.all(kind):
            in_tier = tier_policy(policy)
            for path, name in _names(in_tier):
                if name.lower().removesuffix(".").endswith(inside):
                    reason = "names of Services and pods are not resolved"
                elif config.uplink:
                    reason = "only names of external hosts are resolved"
                else:
                    continue
                yield Diagnostic.of(
                    policy,
                    NOT_ENFORCED,
                    path,
                    f"not enforced by this lab, although a cluster allows {name}: {reason}",
                    scope=Scope(out_of=subjects_of(cluster, in_tier)),
                )


def _names(policy: TierPolicy) -> Iterator[tuple[Path, str]]:
    """Yield (path, value) of each domain name."""
    for index, rule in enumerate(policy.spec.egress):
        for number, peer in enumerate(rule.to):
            for entry, name in enumerate(peer.domain_names):
                yield ("spec", "egress", index, "to", number, "domainNames", entry), name
