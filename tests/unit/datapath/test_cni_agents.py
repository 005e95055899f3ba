"""Agents of CNI plugins: their pods, and the state that a stopped one keeps and misses."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from msgspec import structs

from kubenetlab.api.apps import DaemonSet, Deployment
from kubenetlab.api.core import Event, Node
from kubenetlab.api.environment import ConfigMap
from kubenetlab.api.faults import Fault
from kubenetlab.api.lab import Attachment, Decisions, NetworkFacts, NodeReport
from kubenetlab.api.plugins.cni_agents import StoppedAgent
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster, Delete, deletion
from kubenetlab.controllers.cluster.cni_agents import is_agent
from kubenetlab.datapath import faults, modes, plan
from kubenetlab.diagnostics import (
    AGENT_STOPPED,
    PLUGINS_NOT_READY,
    UNREACHABLE_PODS,
    diagnose,
)
from kubenetlab.hoststate.daemons import Daemon
from kubenetlab.hoststate.files import File
from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.rules.rulesets import NodeRules
from tests.clusters import NOW, applied, deployment, pod, running, service, settled, store

WITH_AGENTS = ("calico", "cilium", "flannel", "kube-router", "weave")
LATE = pod("late", spec=", nodeName: worker")
PODS = pod("a", spec=", nodeName: worker") + pod("b", spec=", nodeName: worker2")


def manifest(cni: str, workers: int = 2, family: str = "dual") -> str:
    nodes = ", ".join(["{role: control-plane}", *["{role: worker}"] * workers])
    return (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"nodes: [{nodes}]\nnetworking: {{cni: {cni}, ipFamily: {family}}}\n---\n"
    )


def decisions(cluster: Cluster) -> Decisions:
    name, options = cluster.config.networking.cni_mode
    return Decisions(cni_mode=name, cni_options=options, neighbors="dynamic")


def objects(cluster: Cluster, node: str) -> dict[Key, Object]:
    return dict(plan(cluster, decisions(cluster))[f"node/{node}"])


def stopped(cluster: Cluster, node: str = "worker") -> Cluster:
    """Return the store after the agent of a node has been stopped by a fault."""
    changes = faults.break_changes(cluster, "cni-agent", {"node": node}, NOW)
    return running(settled(cluster.with_changes(changes)))


def agents(cluster: Cluster) -> list[Pod]:
    facts = cluster.get(NetworkFacts, "", "network")
    assert facts is not None
    return [each for each in cluster.all(Pod) if is_agent(facts.agent, each)]


def differing(before: dict[Key, Object], after: dict[Key, Object]) -> set[Key]:
    keys = before.keys() | after.keys()
    return {key for key in keys if before.get(key) != after.get(key)}


@pytest.mark.parametrize("cni", modes.known("cni"))
def test_modes_with_agents_install_one_on_each_node(cni: str) -> None:
    cluster = running(store(manifest(cni, family="ipv4")))
    pods = agents(cluster)
    if cni not in WITH_AGENTS:
        assert pods == []
        return
    assert {each.spec.node_name for each in pods} == {node.name for node in cluster.all(Node)}
    (owner,) = {each.metadata.owner_references[0].name for each in pods}
    agent = modes.load("cni", cni, {}).facts.agent
    assert agent is not None
    assert owner == agent.daemon_set
    assert cluster.get(DaemonSet, agent.namespace, owner) is not None
    assert all(each.is_ready for each in pods)


@pytest.mark.parametrize(
    ("cni", "namespace", "name", "key"),
    [
        ("flannel", "kube-flannel", "kube-flannel-cfg", "net-conf.json"),
        ("calico", "kube-system", "calico-config", "calico_backend"),
        ("cilium", "kube-system", "cilium-config", "routing-mode"),
        ("kube-router", "kube-system", "kube-router-cfg", "cni-conf.json"),
    ],
)
def test_config_maps_have_upstreams_names(cni: str, namespace: str, name: str, key: str) -> None:
    config = store(manifest(cni)).get(ConfigMap, namespace, name)
    assert config is not None
    assert config.data[key]


def test_another_mode_replaces_the_daemon_set() -> None:
    """The pods of the former agent go, and no node counts as being without an agent."""
    before = running(store(manifest("calico")))
    after = running(applied(before, manifest("flannel")))
    names = {each.name for each in after.all(DaemonSet)}
    assert names == {"kube-proxy", "kube-flannel-ds"}
    assert after.all(StoppedAgent) == ()
    assert {each.namespace for each in agents(after)} == {"kube-flannel"}


@pytest.mark.parametrize("cni", WITH_AGENTS)
def test_a_stopped_agent_changes_nothing_by_itself(cni: str) -> None:
    before = running(store(manifest(cni) + PODS))
    after = stopped(before)
    for node in ("worker", "worker2"):
        assert differing(objects(before, node), objects(after, node)) == set()


@pytest.mark.parametrize("cni", WITH_AGENTS)
def test_a_stopped_agent_misses_a_new_node(cni: str) -> None:
    """The objects of its node stay as they are until the fault is healed."""
    before = running(store(manifest(cni) + PODS))
    cut_off = stopped(before)
    grown = running(applied(cut_off, manifest(cni, workers=3)))
    rules = {key for key, obj in objects(grown, "worker").items() if isinstance(obj, NodeRules)}
    changed = differing(objects(before, "worker"), objects(grown, "worker"))
    assert changed - rules == set()
    assert differing(objects(before, "worker2"), objects(grown, "worker2")) - rules
    healed = running(settled(faults.healed(grown)))
    assert differing(objects(before, "worker"), objects(healed, "worker")) - rules
    assert healed.all(StoppedAgent) == ()


@pytest.mark.parametrize("cni", ["calico", "kube-router"])
def test_no_node_waits_for_routes_that_a_stopped_agent_does_not_announce(cni: str) -> None:
    """BIRD of a new node has no session with the node, whose configuration is the old one."""
    text = manifest(cni)
    grown = running(applied(stopped(running(store(text + PODS))), manifest(cni, workers=3)))

    def provided(of: str) -> tuple[str, ...]:
        (daemon,) = [obj for obj in objects(grown, of).values() if isinstance(obj, Daemon)]
        return daemon.provides

    before = running(store(text + PODS))
    (bird,) = [obj for obj in objects(before, "worker").values() if isinstance(obj, Daemon)]
    assert provided("worker") == bird.provides
    (bird,) = [obj for obj in objects(before, "worker2").values() if isinstance(obj, Daemon)]
    of_worker = set(bird.provides) - set(provided("worker"))
    assert of_worker
    assert of_worker.isdisjoint(provided("worker3"))
    healed = running(settled(faults.healed(grown)))
    (bird,) = [obj for obj in objects(healed, "worker3").values() if isinstance(obj, Daemon)]
    assert of_worker < set(bird.provides)
    config = objects(grown, "worker")["File", "/etc/bird/bird.conf"]
    assert isinstance(config, File)
    new_node = grown.node("worker3")
    assert new_node is not None
    assert new_node.addresses[0] not in config.content


PEER = """\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 172.18.0.99, asNumber: 64999}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {serviceClusterIPs: [{cidr: 10.96.0.0/12}]}
---
"""
PEER_WITH_PASSWORD = """\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 172.18.0.99, asNumber: 64999, password: {secretKeyRef: {name: bgp, key: tor}}}
---
"""


def test_confd_misses_changes_of_the_bgp_configuration() -> None:
    """BIRD keeps its sessions and the prefixes that it announces, with all their settings."""
    key = ("File", "/etc/bird/bird.conf")
    for earlier, later in (("", PEER), (PEER, PEER.replace("64999", "64998"))):
        before = running(store(manifest("calico", family="ipv4") + PODS + earlier))
        cut_off = stopped(before)
        assert objects(cut_off, "worker")[key] == objects(before, "worker")[key]
        after = running(applied(cut_off, later))
        assert objects(after, "worker")[key] == objects(before, "worker")[key]
        assert objects(after, "worker2")[key] != objects(before, "worker2")[key]
        healed = running(settled(faults.healed(after)))
        assert objects(healed, "worker")[key] != objects(before, "worker")[key]


def password(name: str, key: str, value: str) -> str:
    """Return the manifest of a Secret that agents read."""
    return (
        "apiVersion: v1\nkind: Secret\n"
        f"metadata: {{name: {name}, namespace: kube-system}}\nstringData: {{{key}: {value}}}\n---\n"
    )


@pytest.mark.parametrize(
    ("cni", "earlier", "later"),
    [
        ("weave", password("weave-passwd", "weave-passwd", "old"), "new"),
        ("calico", PEER_WITH_PASSWORD + password("bgp", "tor", "old"), "new"),
        ("calico", PEER_WITH_PASSWORD, password("bgp", "tor", "old")),
    ],
    ids=["weave", "calico", "calico: new Secret"],
)
def test_an_agent_misses_a_changed_password(cni: str, earlier: str, later: str) -> None:
    """The keys of ESP, and the password of BIRD, are those of when the agent was stopped."""
    mode = "{type: weave, passwordSecret: weave-passwd}" if cni == "weave" else cni
    changed = earlier.replace("old", later) if later == "new" else later
    before = running(store(manifest(mode, family="ipv4") + PODS + earlier))
    cut_off = stopped(before)
    assert objects(cut_off, "worker") == objects(before, "worker")
    after = running(applied(cut_off, changed))
    assert differing(objects(before, "worker"), objects(after, "worker")) == set()
    assert differing(objects(before, "worker2"), objects(after, "worker2"))
    for cluster, is_told in ((cut_off, False), (after, cni == "weave")):
        (found,) = [each for each in diagnose(cluster) if each.code == AGENT_STOPPED]
        assert ("the former password of the Secret" in found.message) == is_told
    healed = running(settled(faults.healed(after)))
    assert differing(objects(before, "worker"), objects(healed, "worker"))


def test_kube_router_misses_addresses_of_new_services() -> None:
    """Its BIRD announces those of the Services that it knew."""
    key = ("File", "/etc/bird/bird.conf")
    announced = (
        "apiVersion: v1\nkind: Service\nmetadata: {name: web, annotations: "
        '{kube-router.io/service.advertise.clusterip: "true"}}\nspec: {ports: [{port: 80}]}\n---\n'
    )
    before = running(store(manifest("kube-router", family="ipv4") + announced))
    cut_off = stopped(before)
    assert objects(cut_off, "worker")[key] == objects(before, "worker")[key]
    after = running(applied(cut_off, announced.replace("name: web", "name: late")))
    assert objects(after, "worker")[key] == objects(before, "worker")[key]
    assert objects(after, "worker2")[key] != objects(before, "worker2")[key]


def test_felix_adds_the_route_to_a_new_pod() -> None:
    cluster = stopped(running(store(manifest("calico") + PODS)))
    late = running(applied(cluster, LATE))
    attachment = late.get(Attachment, "default", "late")
    assert attachment is not None
    key = ("Route", f"{attachment.addresses[0]}/32")
    assert key not in objects(late, "worker")
    assert key in objects(running(settled(faults.healed(late))), "worker")


@pytest.mark.parametrize("cni", WITH_AGENTS)
def test_a_new_pod_waits_only_if_the_plugin_calls_the_agent(cni: str) -> None:
    cluster = stopped(running(store(manifest(cni) + PODS)))
    late = running(applied(cluster, LATE))
    is_attached = late.get(Attachment, "default", "late") is not None
    assert is_attached == (cni not in ("weave", "cilium"))
    messages = [each.message for each in late.all(Event) if each.involved_object.name == "late"]
    assert any("failed (add): " in message for message in messages) != is_attached
    healed = running(settled(faults.healed(late)))
    assert healed.get(Attachment, "default", "late") is not None


def test_cilium_keeps_the_identities_of_the_pods_that_it_knew() -> None:
    cluster = stopped(running(store(manifest("cilium") + PODS)))
    late = running(applied(cluster, LATE.replace("worker", "worker2")))

    def known(node: str) -> Iterable[str]:
        (rules,) = [
            obj.rules
            for obj in objects(late, node).values()
            if isinstance(obj, NodeRules) and obj.rules.backend == "cilium"
        ]
        return {subject[-1] for subject in rules.by_subject}

    assert set(known("worker2")) - set(known("worker")) == {"default/late"}


def rules_in(cluster: Cluster, node: str) -> set[str]:
    """Return the names of the Services for which a node has rules."""
    return {
        subject[-1]
        for obj in objects(cluster, node).values()
        if isinstance(obj, NodeRules)
        for subject in obj.rules.by_subject
        if subject[-1].startswith("default/")
    }


@pytest.mark.parametrize("cni", ["cilium", "{type: kube-router, serviceProxy: true}"])
def test_an_agent_that_implements_services_misses_new_ones(cni: str) -> None:
    """With a kube-proxy beside it, the rules are those of kube-proxy."""
    web = deployment(replicas=2) + service()
    late = service("late").replace("app: late", "app: web")
    for proxy, is_missed in (("", True), (", kubeProxyMode: nftables", False)):
        chosen = cni.replace(", serviceProxy: true", "") if proxy else cni
        text = manifest(chosen).replace("ipFamily: dual", f"ipFamily: dual{proxy}") + web
        before = running(store(text))
        cut_off = stopped(before)
        assert rules_in(cut_off, "worker") == rules_in(before, "worker")
        after = running(applied(cut_off, late))
        assert (rules_in(after, "worker") == rules_in(before, "worker")) == is_missed
        assert rules_in(after, "worker2") > rules_in(before, "worker2")


def test_without_the_daemon_set_a_new_node_is_not_ready() -> None:
    """Old nodes keep what they have; nothing of the plugin is on the new one."""
    before = running(store(manifest("flannel") + PODS))
    (daemon_set,) = [each for each in before.all(DaemonSet) if each.name == "kube-flannel-ds"]
    gone = [deletion(daemon_set), *(deletion(each) for each in agents(before))]
    after = running(settled(before.with_changes(gone)))
    assert {state.name: state.has_run for state in after.all(StoppedAgent)} == {
        node.name: True for node in before.all(Node)
    }
    assert differing(objects(before, "worker"), objects(after, "worker")) == set()
    text = manifest("flannel", workers=3) + LATE.replace("worker", "worker3")
    grown = running(applied(after, text))
    new = grown.node("worker3")
    assert new is not None
    assert not new.is_ready
    assert grown.get(Attachment, "default", "late") is None
    assert not [key for key in objects(grown, "worker3") if "cni0" in key]
    again = running(settled(grown.with_changes([daemon_set])))
    assert again.all(StoppedAgent) == ()
    assert again.get(Attachment, "default", "late") is not None


def test_a_node_that_is_removed_leaves_nothing() -> None:
    cluster = stopped(running(store(manifest("flannel", workers=3))), "worker3")
    assert [state.name for state in cluster.all(StoppedAgent)] == ["worker3"]
    smaller = running(applied(cluster, manifest("flannel")))
    assert smaller.all(StoppedAgent) == ()


def test_a_node_whose_plugins_fail_is_reported() -> None:
    cluster = running(store(manifest("bridge")))
    report = cluster.get(NodeReport, "", "worker")
    assert report is not None
    assert [each for each in diagnose(cluster) if each.code == PLUGINS_NOT_READY] == []
    failing = cluster.with_changes([structs.replace(report, network_error="no agent (code 50)")])
    (found,) = [each for each in diagnose(failing) if each.code == PLUGINS_NOT_READY]
    assert (found.kind, found.name) == ("Node", "worker")
    assert "no agent (code 50)" in found.message
    assert PLUGINS_NOT_READY in UNREACHABLE_PODS


def test_each_node_without_an_agent_is_reported() -> None:
    cluster = running(store(manifest("flannel")))
    assert [each for each in diagnose(cluster) if each.code == AGENT_STOPPED] == []
    (found,) = [each for each in diagnose(stopped(cluster)) if each.code == AGENT_STOPPED]
    assert (found.kind, found.name) == ("Node", "worker")
    assert found.hints == ("kubenetlab heal 1",)
    facts = cluster.get(NetworkFacts, "", "network")
    assert facts is not None
    assert facts.agent is not None
    without = settled(
        cluster.with_changes(
            [
                Delete(DaemonSet, facts.agent.namespace, facts.agent.daemon_set),
                *(deletion(each) for each in agents(cluster)),
            ]
        )
    )
    found_hints = {each.hints for each in diagnose(without) if each.code == AGENT_STOPPED}
    assert found_hints == {
        ("the DaemonSet does not exist: apply its manifest again, or make the lab again",)
    }


@pytest.mark.parametrize("cni", ["bridge", "ptp", "none"])
def test_the_fault_is_refused_without_agents(cni: str) -> None:
    fault = faults.load("cni-agent", {"node": "worker"})
    assert "has no program on nodes" in fault.why_impossible(store(manifest(cni)))
    assert "no node" in faults.load("cni-agent", {"node": "x"}).why_impossible(
        store(manifest("flannel"))
    )


@pytest.mark.parametrize(
    ("cni", "before", "now", "former"),
    [
        ("flannel", "vni: 1", "vni: 7", "vni 1"),
        ("flannel", "backend: vxlan", "backend: host-gw", 'backend "vxlan"'),
        ("calico", "wireguard: false", "wireguard: true", "wireguard false"),
        ("weave", "port: 6784", "port: 7000", "port 6784"),
        ("cilium", "enableWireguard: false", "enableWireguard: true", "enableWireguard false"),
        (
            "kube-router",
            "bgpGracefulRestart: true",
            "bgpGracefulRestart: false",
            "bgpGracefulRestart true",
        ),
    ],
)
def test_a_stopped_agent_misses_other_options_of_its_mode(
    cni: str, before: str, now: str, former: str
) -> None:
    """Its node keeps the objects of the former options; others, and it later, have the new ones."""

    def document(options: str) -> str:
        return manifest(f"{{type: {cni}, {options}}}", family="ipv4").removesuffix("---\n")

    initial = store(document(before))
    dns = [each for each in initial.all(Deployment) if each.name == "coredns"]
    first = running(settled(initial.with_changes(map(deletion, dns))))  # no pod gets a new sandbox
    other = running(settled(applied(first, document(now))))
    assert differing(objects(first, "worker"), objects(other, "worker"))
    cluster = running(settled(applied(stopped(first), document(now))))
    assert not differing(objects(first, "worker"), objects(cluster, "worker"))
    assert not differing(objects(other, "worker2"), objects(cluster, "worker2"))
    (message,) = (each.message for each in diagnose(cluster) if each.code == AGENT_STOPPED)
    assert f"has the former options of the CNI mode: {former}" in message
    (fault,) = cluster.all(Fault)
    healed = running(settled(cluster.with_changes([deletion(fault)])))
    assert not differing(objects(other, "worker"), objects(healed, "worker"))
