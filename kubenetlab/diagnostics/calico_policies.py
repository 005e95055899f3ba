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
    PROTOCOLS,
    CalicoPolicy,
    CalicoRule,
    GlobalNetworkPolicy,
    Tier,
    port_range,
)
from kubenetlab.api.calico.selectors import labels_in, parse_selector
from kubenetlab.api.containers import MAX_PORT
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
from kubenetlab.diagnostics.model import (
    NOT_ENFORCED,
    NOT_ENFORCED_ALTHOUGH,
    Diagnostic,
    Flow,
    Scope,
)
from kubenetlab.diagnostics.templates import Templates
from kubenetlab.errors import did_you_mean

_CLUSTER = f"{NOT_ENFORCED_ALTHOUGH} in a cluster"
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
            for path, effect in (*_of_hosts(policy), *_of_accounts(policy)):
                yield Diagnostic.of(policy, NOT_ENFORCED, path, f"{_CLUSTER} {effect}", scope=scope)
            yield from _of_requests(policy, scope)


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


def _of_requests(policy: CalicoPolicy, scope: Scope) -> Iterator[Diagnostic]:
    """Yield a diagnostic for each match of HTTP requests, whose rules are left out.

    scope: connections of the pods to which the policy applies.
    """
    for direction in policy.directions:
        subjects = scope.into if direction == "Ingress" else scope.out_of
        for index, rule in enumerate(policy.spec.rules(direction)):
            if rule.http is not None:
                yield Diagnostic.of(
                    policy,
                    NOT_ENFORCED,
                    ("spec", direction.lower(), index, "http"),
                    f"{_CLUSTER} the rule allows some HTTP requests; the lab leaves the rule out",
                    scope=Scope(flows=(Flow(direction, subjects, ports=_ports(rule)),)),
                )


def _ports(rule: CalicoRule) -> tuple[tuple[str, int, int], ...] | None:
    """Return (protocol, first, last port) that a rule can match; None for all protocols."""
    if rule.protocol_number != PROTOCOLS["TCP"]:
        return None
    ranges = [port_range(port) for port in rule.destination.ports]
    everything = (0, MAX_PORT)
    return tuple(("TCP", *(each or everything)) for each in ranges or [everything])
