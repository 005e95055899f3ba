"""Network policies on nodes whose agent of the CNI plugin is stopped."""

from __future__ import annotations

import pytest

from kubenetlab.api.plugins.cni_agents import StoppedAgent
from kubenetlab.api.plugins.policy_snapshots import PolicySnapshot
from kubenetlab.api.policies.network_policy import NetworkPolicy
from kubenetlab.api.store import Cluster, Delete
from kubenetlab.controllers.cluster.policy_snapshots import SNAPSHOT_KINDS
from kubenetlab.datapath import faults, modes, plan
from kubenetlab.diagnostics import AGENT_STOPPED, diagnose
from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.rules.rulesets import NodeRules, RuleObject
from tests.clusters import applied, pod, running, settled, store
from tests.unit.datapath.test_cni_agents import PODS, decisions, manifest, stopped

ENFORCING = ("calico", "kube-router", "weave")
POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: quiet}
spec:
  podSelector: {}
  ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}]}]
---
"""
TIER = """\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: closed}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  egress: [{action: Deny, to: [{nodes: {}}]}]
---
"""


def rules(cluster: Cluster, node: str) -> dict[Key, Object]:
    """Return the rules of policies on a node."""
    state = plan(cluster, decisions(cluster))
    return {
        key: obj
        for key, obj in state[f"node/{node}"].items()
        if isinstance(obj, NodeRules | RuleObject)
        and (origin := state.origin(obj)) is not None
        and origin.component.startswith("policy ")
    }


@pytest.mark.parametrize("cni", ENFORCING)
@pytest.mark.parametrize("engine", ["iptables", "nftables"])
def test_a_stopped_agent_misses_policies_pods_and_labels(cni: str, engine: str) -> None:
    """Other nodes have the changes at once, and this one when its agent is back."""
    lab = manifest(cni).replace("networking: {", f"networking: {{policyEngine: {engine}, ")
    before = running(store(lab + PODS + POLICY + TIER))
    cut_off = stopped(before)
    assert rules(before, "worker")
    for node in ("worker", "worker2"):
        assert rules(cut_off, node) == rules(before, node)
    for change in (
        POLICY.replace("friend", "boss"),
        pod("b", meta=", labels: {role: friend}", spec=", nodeName: worker2"),
        POLICY.replace("quiet", "other"),
        pod("late", meta=", labels: {role: friend}", spec=", nodeName: worker2"),
        TIER.replace("Deny", "Accept"),
    ):
        after = running(applied(cut_off, change))
        assert rules(after, "worker") == rules(before, "worker"), change
        assert rules(after, "worker2") != rules(before, "worker2"), change
        healed = running(settled(faults.healed(after)))
        assert rules(healed, "worker") != rules(before, "worker"), change
    gone = settled(cut_off.with_changes([Delete(NetworkPolicy, "default", "quiet")]))
    assert rules(gone, "worker") == rules(before, "worker")


def test_an_agent_that_knew_no_policy_enforces_none() -> None:
    cut_off = stopped(running(store(manifest("calico") + PODS)))
    assert cut_off.all(PolicySnapshot) == ()
    after = running(applied(cut_off, POLICY))
    assert rules(after, "worker") == {}
    assert rules(after, "worker2") != {}


def test_a_node_keeps_its_former_engine() -> None:
    """The engine of the policies changes on the other nodes alone."""
    cut_off = stopped(running(store(manifest("calico") + PODS + POLICY)))
    other = manifest("calico").replace("networking: {", "networking: {policyEngine: nftables, ")
    after = running(applied(cut_off, other))
    assert rules(after, "worker") == rules(cut_off, "worker")
    assert not rules(after, "worker2").keys() & rules(cut_off, "worker2").keys()


@pytest.mark.parametrize("engine", ["nftables", "iptables"])
def test_agents_that_enforce_no_policies_do_not_matter(engine: str) -> None:
    """Flannel has no part in policies: another component enforces them."""
    lab = manifest("flannel").replace("networking: {", f"networking: {{policyEngine: {engine}, ")
    cut_off = stopped(running(store(lab + PODS)))
    after = running(applied(cut_off, POLICY))
    assert rules(after, "worker") != {}


def test_agents_that_stop_together_share_a_snapshot() -> None:
    """It exists as long as one of them is stopped."""
    before = running(store(manifest("calico") + PODS + POLICY))
    one = stopped(before)
    two = stopped(one, "worker2")
    assert len({state.policies for state in two.all(StoppedAgent)}) == 1
    assert len(two.all(PolicySnapshot)) == 1
    later = stopped(running(applied(one, POLICY.replace("friend", "boss"))), "worker2")
    assert len(later.all(PolicySnapshot)) == 2
    healed = running(settled(faults.healed(later)))
    assert healed.all(PolicySnapshot) == ()


def test_the_diagnostic_names_the_policies_that_differ() -> None:
    cut_off = stopped(running(store(manifest("calico") + PODS + POLICY)))

    def message(cluster: Cluster) -> str:
        (found,) = (each for each in diagnose(cluster) if each.code == AGENT_STOPPED)
        return found.message

    assert message(cut_off).endswith("also of network policies and of the pods that they select")
    after = applied(cut_off, POLICY.replace("friend", "boss") + POLICY.replace("quiet", "other"))
    assert message(after).endswith(
        ": NetworkPolicy default/other is new, NetworkPolicy default/quiet has changed"
    )
    gone = settled(after.with_changes([Delete(NetworkPolicy, "default", "quiet")]))
    assert "NetworkPolicy default/quiet was deleted" in message(gone)


def test_a_node_without_agent_keeps_the_network_sets_of_calico() -> None:
    """The diagnostic names a set whose ranges or labels have changed."""
    documents = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: partners}
spec: {selector: all(), ingress: [{action: Allow, source: {selector: role == "partner"}}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: partners, labels: {role: partner}}
spec: {nets: [198.51.100.0/24]}
---
"""
    cut_off = stopped(running(store(manifest("calico") + PODS + documents)))
    for change in (("198.51.100", "192.0.2"), ("{role: partner}", "{role: other}")):
        after = running(applied(cut_off, documents.replace(*change)))
        assert rules(after, "worker") == rules(cut_off, "worker")
        assert rules(after, "worker2") != rules(cut_off, "worker2")
        (found,) = (each for each in diagnose(after) if each.code == AGENT_STOPPED)
        assert found.message.endswith(": GlobalNetworkSet partners has changed")


def test_a_node_without_agent_keeps_the_groups_of_cilium() -> None:
    """The diagnostic names a group whose ranges or labels have changed."""
    documents = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: partners}
spec:
  endpointSelector: {}
  ingress: [{fromCIDRSet: [{cidrGroupSelector: {matchLabels: {role: partner}}}]}]
---
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: {name: partners, labels: {role: partner}}
spec: {externalCIDRs: [198.51.100.0/24]}
---
"""
    cut_off = stopped(running(store(manifest("cilium") + PODS + documents)))
    for change in (("198.51.100", "192.0.2"), ("labels: {role: partner}", "labels: {role: x}")):
        after = running(applied(cut_off, documents.replace(*change)))
        assert rules(after, "worker") == rules(cut_off, "worker")
        assert rules(after, "worker2") != rules(cut_off, "worker2")
        (found,) = (each for each in diagnose(after) if each.code == AGENT_STOPPED)
        assert found.message.endswith(": CiliumCIDRGroup partners has changed")


def test_modes_whose_agents_enforce_policies() -> None:
    """calico-node and kube-router do; weave-npc is in the pod of weave-net."""
    agents = {name: modes.load("cni", name, {}).facts.agent for name in modes.known("cni")}
    enforcing = {name for name, agent in agents.items() if agent and agent.enforces_policies}
    assert enforcing == {*ENFORCING, "cilium"}


@pytest.mark.parametrize("engine", modes.known("policy"))
def test_snapshots_have_every_kind_of_policy(engine: str) -> None:
    """Else a stopped agent would lose the rules of such policies."""
    kinds = modes.load("policy", engine, {}).enforced_kinds
    assert set(kinds) <= set(SNAPSHOT_KINDS)


CALICO = """\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: offices, labels: {is: office}}
spec: {nets: [198.51.100.0/24]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: offices}
spec:
  selector: all()
  order: 10
  ingress: [{action: Deny, source: {selector: is == 'office'}}]
---
"""


def test_policies_of_calico_are_kept_with_their_sets() -> None:
    """A set of networks, which is an object of its own, changes on other nodes alone."""
    before = running(store(manifest("calico") + PODS + CALICO))
    cut_off = stopped(before)
    assert rules(before, "worker")
    assert rules(cut_off, "worker") == rules(before, "worker")
    after = running(applied(cut_off, CALICO.replace("198.51.100.0/24", "203.0.113.0/24")))
    assert rules(after, "worker") == rules(before, "worker")
    assert rules(after, "worker2") != rules(before, "worker2")
