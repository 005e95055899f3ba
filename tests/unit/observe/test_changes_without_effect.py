"""Policies that change, and about which a comparison says nothing because they select no pod."""

from __future__ import annotations

import pytest

from kubenetlab.observe.changes.changes import compare
from kubenetlab.observe.changes.without_effect import policies_without_effect
from tests.unit.observe.test_changes import cluster, policy

TIER = """\
apiVersion: policy.networking.k8s.io/{version}
kind: {kind}
metadata: {{name: {name}}}
spec: {{{spec}subject: {{namespaces: {{matchLabels: {{team: {team}}}}}}}}}
---
"""
CALICO = """\
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {{name: deny, namespace: shop}}
spec: {{selector: app == '{app}', types: [Ingress]}}
---
"""
CILIUM = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: deny, namespace: shop}}
spec: {{endpointSelector: {{matchLabels: {{app: {app}}}}}, ingress: [{{}}]}}
---
"""


def tier(kind: str, team: str) -> str:
    version, spec = {
        "ClusterNetworkPolicy": ("v1alpha2", "tier: Admin, priority: 5, "),
        "AdminNetworkPolicy": ("v1alpha1", "priority: 5, "),
        "BaselineAdminNetworkPolicy": ("v1alpha1", ""),
    }[kind]
    name = "default" if kind == "BaselineAdminNetworkPolicy" else "deny"
    return TIER.format(version=version, kind=kind, name=name, spec=spec, team=team)


NOTHING = {
    "NetworkPolicy shop/p": policy("{podSelector: {matchLabels: {app: nobody}}}"),
    "NetworkPolicy other/p": policy("{podSelector: {}}", namespace="other"),
    "ClusterNetworkPolicy deny": tier("ClusterNetworkPolicy", "nobody"),
    "AdminNetworkPolicy deny": tier("AdminNetworkPolicy", "nobody"),
    "BaselineAdminNetworkPolicy default": tier("BaselineAdminNetworkPolicy", "nobody"),
    "CalicoNetworkPolicy shop/deny": CALICO.format(app="nobody"),
    "CiliumNetworkPolicy shop/deny": CILIUM.format(app="nobody"),
}
SOMETHING = (
    policy("{podSelector: {matchLabels: {app: web}}}"),
    tier("ClusterNetworkPolicy", "shop"),
    tier("AdminNetworkPolicy", "shop"),
    tier("BaselineAdminNetworkPolicy", "shop"),
    CALICO.format(app="web"),
    CILIUM.format(app="web"),
)


@pytest.mark.parametrize("title", NOTHING)
def test_a_policy_that_selects_no_pod_is_named(title: str) -> None:
    """Whether it is added or removed; and not where both versions have it."""
    without, with_policy = cluster(), cluster(NOTHING[title])
    assert compare(without, with_policy) == []
    for old, new, change in (
        (without, with_policy, "added"),
        (with_policy, without, "removed"),
    ):
        (message,) = policies_without_effect(old, new)
        name, _, rest = message.partition(" (")
        assert name == title
        assert f") is {change}, and selects no pod of the compared manifests" in rest
    assert policies_without_effect(with_policy, with_policy) == []


@pytest.mark.parametrize("text", SOMETHING)
def test_a_policy_that_selects_a_pod_is_compared(text: str) -> None:
    assert policies_without_effect(cluster(), cluster(text)) == []
    assert policies_without_effect(cluster(text), cluster()) == []


def test_a_change_of_a_policy_has_an_effect_if_one_version_selects_pods() -> None:
    nobody = cluster(policy("{podSelector: {matchLabels: {app: nobody}}}"))
    web = cluster(policy("{podSelector: {matchLabels: {app: web}}}"))
    nothing = cluster(policy("{podSelector: {matchLabels: {app: nothing}}}"))
    assert policies_without_effect(nobody, web) == []
    assert policies_without_effect(web, nobody) == []
    (message,) = policies_without_effect(nobody, nothing)
    assert " is changed, and selects no pod" in message


def test_pods_with_the_network_of_their_node_are_not_selected() -> None:
    pods = (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: agent, namespace: shop}\n"
        "spec: {hostNetwork: true, containers: [{name: c, image: agnhost}]}\n---\n"
    )
    added = cluster(policy("{podSelector: {}}"), pods)
    assert len(policies_without_effect(cluster(pods=pods), added)) == 1
