"""Diagnostics of Calico's policies: policies and parts of them that the lab does not enforce.

The lab has no host endpoints, no service accounts with labels, and no proxy that reads HTTP
requests. A policy of a kind that is not enforced at all is reported as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.calico.policies import (
    CALICO_POLICY_KINDS,
    DEFAULT_TIER,
    ENDS,
    CalicoPolicy,
    GlobalNetworkPolicy,
    Tier,
)
from kubenetlab.api.calico.selectors import labels_in, parse_selector
from kubenetlab.api.core import Namespace
from kubenetlab.api.pods import Pod
from kubenetlab.api.policies.network_policy import DIRECTIONS
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.documents import Path
from kubenetlab.datapath.cluster_modes import enforced_kinds_of
from kubenetlab.datapath.policy.calico_labels import (
    labels_of,
    namespace_labels,
    subject_selector,
)
from kubenetlab.diagnostics.model import NOT_ENFORCED, Diagnostic, Scope
from kubenetlab.diagnostics.templates import Templates
from kubenetlab.errors import did_you_mean

_CLUSTER = "not enforced by this lab, although in a cluster"
_KNOWN_LABELS = ("projectcalico.org/name",)
"""Labels that service accounts have in the lab."""


def check_calico_policies(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Yield a diagnostic for each part of Calico's policies that is not enforced."""
    enforced = enforced_kinds_of(cluster)
    tiers = (DEFAULT_TIER, *(tier.name for tier in cluster.all(Tier)))
    for kind in CALICO_POLICY_KINDS:
        for policy in cluster.all(kind) if kind in enforced else ():
            scope = calico_scope(cluster, policy)
            if policy.spec.tier not in tiers:
                guess = did_you_mean(policy.spec.tier, tiers)
                message = (
                    f'not enforced by this lab: there is no tier "{policy.spec.tier}"{guess}; '
                    "Calico refuses such a policy"
                )
                yield Diagnostic.of(policy, NOT_ENFORCED, ("spec", "tier"), message, scope=scope)
            for path, effect in (*_of_hosts(policy), *_of_accounts(policy), *_of_requests(policy)):
                yield Diagnostic.of(policy, NOT_ENFORCED, path, f"{_CLUSTER} {effect}", scope=scope)


def calico_scope(cluster: Cluster, policy: CalicoPolicy) -> Scope:
    """Return the connections of the pods to which a policy applies."""
    selector = subject_selector(policy)
    of_namespaces = cluster.index(Namespace, namespace_labels)
    pods = tuple(
        pod.full_name
        for pod in cluster.all(Pod)
        if not pod.spec.host_network and selector.matches(labels_of(pod, of_namespaces))
    )
    return Scope(
        into=pods if "Ingress" in policy.directions else (),
        out_of=pods if "Egress" in policy.directions else (),
    )


def _of_hosts(policy: CalicoPolicy) -> Iterator[tuple[Path, str]]:
    """Yield (path, effect) of the fields about host endpoints."""
    if not isinstance(policy, GlobalNetworkPolicy):
        return
    for field, is_set in (
        ("doNotTrack", policy.spec.do_not_track),
        ("preDNAT", policy.spec.pre_dnat),
    ):
        if is_set:
            yield ("spec", field), "the policy applies to host endpoints"
    if policy.spec.apply_on_forward:
        yield (
            ("spec", "applyOnForward"),
            "the policy also applies to packets that host endpoints forward",
        )


def _of_accounts(policy: CalicoPolicy) -> Iterator[tuple[Path, str]]:
    """Yield (path, effect) of the selectors of labels that service accounts lack in the lab."""
    selectors: list[tuple[Path, str]] = [
        (("spec", "serviceAccountSelector"), policy.spec.service_account_selector)
    ]
    for direction in DIRECTIONS:
        for index, rule in enumerate(policy.spec.rules(direction)):
            for end in ENDS:
                if (accounts := rule.end(end).service_accounts) is not None:
                    path: Path = ("spec", direction.lower(), index, end, "serviceAccounts")
                    selectors.append(((*path, "selector"), accounts.selector))
    for path, selector in selectors:
        if any(label not in _KNOWN_LABELS for label in labels_in(parse_selector(selector))):
            yield path, "service accounts have labels"


def _of_requests(policy: CalicoPolicy) -> Iterator[tuple[Path, str]]:
    """Yield (path, effect) of the matches of HTTP requests, whose rules are left out."""
    for direction in DIRECTIONS:
        for index, rule in enumerate(policy.spec.rules(direction)):
            if rule.http is not None:
                yield (
                    ("spec", direction.lower(), index, "http"),
                    "the rule allows some HTTP requests; the lab leaves the rule out",
                )
