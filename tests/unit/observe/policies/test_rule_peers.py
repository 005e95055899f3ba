"""Hosts that the rules of policies mean, with tiers, of Calico and of Cilium."""

from __future__ import annotations

from collections.abc import Sequence

from kubenetlab.api.calico.policies import CalicoNetworkPolicy
from kubenetlab.api.policies.cilium_network_policy import CiliumNetworkPolicy
from kubenetlab.api.policies.tiers import tier_policies
from kubenetlab.api.text.decode import format_path
from kubenetlab.observe.policies.rule_peers import RulePeers, RulePeersOfLab
from tests.unit.observe.policies.worlds import EVERY_PEER, TIER, world

CLUSTER_POLICY = """
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: egress}
spec:
  tier: Baseline
  priority: 1
  subject: {namespaces: {}}
  egress:
  - {action: Accept, to: [{networks: [198.51.100.0/24]}, {nodes: {}}]}
  - {action: Deny, to: [{namespaces: {matchLabels: {team: none}}}]}
---
"""
CALICO = """
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: web}
spec:
  selector: app == 'web'
  types: [Ingress, Egress]
  ingress:
  - {action: Allow, protocol: TCP, source: {selector: app == 'client'}, destination: {ports: [80]}}
  - {action: Allow, protocol: TCP, destination: {ports: [81]}}
  egress:
  - {action: Allow, destination: {nets: [172.18.0.0/16], notNets: [172.18.0.3/32]}}
  - {action: Allow, destination: {services: {name: web}}}
---
"""
CILIUM = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEntities: [host]
  - {fromEndpoints: [{matchLabels: {app: client}}], toPorts: [{ports: [{port: '80'}]}]}
  - toPorts: [{ports: [{port: '81'}]}]
  - fromEndpoints: []
  egressDeny:
  - toCIDR: [198.51.100.10/32]
---
"""
LAB = world(EVERY_PEER + TIER + CLUSTER_POLICY + CALICO + CILIUM)
PEERS = RulePeersOfLab(LAB.cluster, LAB.seen)


def names(rules: Sequence[RulePeers]) -> dict[str, list[str] | None]:
    """Return the names of the hosts by the path of the rule."""
    return {
        format_path(rule.path): None if rule.hosts is None else [each.name for each in rule.hosts]
        for rule in rules
    }


def test_peers_of_policies_of_tiers() -> None:
    admin, baseline = tier_policies(LAB.cluster)
    assert names(PEERS.of_tier(admin)) == {
        "spec.ingress[0]": ["default/far"],
        "spec.ingress[1]": ["default/client"],
    }
    nodes = ["node:control-plane", "node:worker", "node:worker2"]
    assert names(PEERS.of_tier(baseline)) == {
        "spec.egress[0]": [*nodes, "ext:client"],
        "spec.egress[1]": [],
    }


def test_peers_of_calicos_policies() -> None:
    """The ports of a rule do not matter; a rule without peers means every host."""
    (policy,) = LAB.cluster.all(CalicoNetworkPolicy)
    assert names(PEERS.of_calico(policy)) == {
        "spec.ingress[0]": ["default/client"],
        "spec.ingress[1]": None,
        "spec.egress[0]": ["node:control-plane", "node:worker2"],
        "spec.egress[1]": ["default/web"],
    }


def test_peers_of_ciliums_policies() -> None:
    """`host` is the node of the selected pod; an empty list of peers means none."""
    (policy,) = LAB.cluster.all(CiliumNetworkPolicy)
    assert names(PEERS.of_cilium(policy)) == {
        "spec.ingress[0]": ["node:worker"],
        "spec.ingress[1]": ["default/client"],
        "spec.ingress[2]": None,
        "spec.ingress[3]": [],
        "spec.egressDeny[0]": ["ext:client"],
    }


def test_hosts_have_the_addresses_that_are_meant() -> None:
    (policy,) = LAB.cluster.all(CalicoNetworkPolicy)
    first, *_ = PEERS.of_calico(policy)
    assert first.hosts is not None
    assert [str(host) for host in first.hosts] == [
        f"default/client ({LAB.places['client'].address})"
    ]
