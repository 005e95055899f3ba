"""Faults: their effect while they last, and that healing leaves nothing behind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeGuard

import pytest
from msgspec import structs

from kubenetlab import controllers
from kubenetlab.api.faults import Fault
from kubenetlab.api.lab import SYNC_PERIOD_S, Attachment, ProxySnapshot
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster, deletion
from kubenetlab.controllers.cluster.kube_proxy import is_kube_proxy
from kubenetlab.controllers.states import ControllerStates
from kubenetlab.controllers.support.termination import deletion_changes
from kubenetlab.datapath import faults, plan
from kubenetlab.datapath.identities import cluster_pods
from kubenetlab.datapath.network.bird import CONFIG_PATH, is_bird, learned_routes
from kubenetlab.datapath.network.load_balancers import node_number
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.errors import UsageError
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.files import File
from kubenetlab.hoststate.links.veth import Veth
from kubenetlab.hoststate.nexthop import NexthopGroup
from kubenetlab.hoststate.programs import ProgramRun
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.rules.cilium_objects import CiliumEndpoint
from kubenetlab.hoststate.rules.nftables import Chain
from kubenetlab.hoststate.rules.rulesets import members
from kubenetlab.lab.agent.status_reports import replaced_sandboxes
from kubenetlab.observe.settled import verdict
from tests.clusters import (
    DUAL,
    NOW,
    applied,
    decided,
    deployment,
    pod,
    running,
    service,
    settled,
    store,
)
from tests.unit.datapath.test_kube_proxy import config_of

WEB = service() + deployment(replicas=2)
DECISIONS = decided("onlink", "dynamic")


def broken(cluster: Cluster, how: str, node: str = "worker", now: float = NOW) -> Cluster:
    return settled(
        cluster.with_changes(
            faults.break_changes(cluster, "kube-proxy", {"node": node, "how": how}, now)
        ),
        now,
    )


def healed(cluster: Cluster, now: float = NOW) -> Cluster:
    return running(
        settled(cluster.with_changes(deletion(fault) for fault in cluster.all(Fault)), now), now=now
    )


def endpoints(cluster: Cluster, node: str) -> set[str]:
    """Return the endpoints in a node's rules for the Service `web`."""
    chains = (
        obj
        for obj in members(plan(cluster, DECISIONS)[f"node/{node}"].values())
        if isinstance(obj, Chain)
    )
    return {
        chain.name.partition("__")[2]
        for chain in chains
        if chain.name.startswith("endpoint-") and "/web/" in chain.name
    }


def rules(cluster: Cluster, node: str) -> list[str]:
    """Return all rules of a node."""
    return sorted(
        repr(obj)
        for obj in members(plan(cluster, DECISIONS)[f"node/{node}"].values())
        if obj.applier == "rules"
    )


def pods_of(cluster: Cluster) -> set[str]:
    return {
        f"{address}/8080"
        for pod in cluster.select("default", {"app": "web"})
        for address in pod.addresses
    }


def kube_proxy(cluster: Cluster, node: str) -> Pod:
    return next(
        pod for pod in cluster.all(Pod) if is_kube_proxy(pod) and pod.spec.node_name == node
    )


@pytest.mark.parametrize("how", ["stopped", "stop", "stale"])
def test_a_kube_proxy_without_watch_keeps_the_last_rules(how: str) -> None:
    """Other nodes follow the changes; after healing every node has the same rules."""
    before = running(store(WEB))
    cluster = running(applied(broken(before, how), WEB.replace("replicas: 2", "replicas: 4")))
    assert endpoints(cluster, "worker") == pods_of(before)
    assert endpoints(cluster, "worker2") == pods_of(cluster) != pods_of(before)
    cluster = healed(cluster)
    assert endpoints(cluster, "worker") == pods_of(cluster)
    assert (*cluster.all(ProxySnapshot), *cluster.all(Fault)) == ()


def test_breaking_changes_no_rules_at_first() -> None:
    """The stored view is the one that was in force."""
    before = running(store(DUAL + WEB))
    after = broken(before, "stale")
    assert plan(after, DECISIONS)["node/worker"] == plan(before, DECISIONS)["node/worker"]


def test_a_stopped_kube_proxy_keeps_its_mode() -> None:
    """Its node keeps the rules of the old mode until healed; other nodes have the new rules."""
    before = running(store(WEB))
    switched = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {kubeProxyMode: "
        "iptables}\n---\n"
    )
    cluster = running(applied(broken(before, "stopped"), switched))
    assert rules(cluster, "worker") == rules(before, "worker")
    assert rules(cluster, "worker2") == rules(running(store(switched + WEB)), "worker2")
    assert rules(healed(cluster), "worker") == rules(running(store(switched + WEB)), "worker")


@pytest.mark.parametrize("family", ["", DUAL], ids=["ipv4", "dual"])
def test_a_misconfigured_kube_proxy_uses_addresses_that_do_not_exist(family: str) -> None:
    """They are in the range that follows the pod range; addresses outside the pod range stay."""
    before = running(store(family + WEB))
    cluster = broken(before, "misconfigured")
    targets = endpoints(cluster, "worker")
    assert len(targets) == len(endpoints(before, "worker"))
    assert targets.isdisjoint(endpoints(before, "worker"))
    assert all(name.startswith(("10.245.", "fd00.10.244.100.")) for name in targets)
    assert endpoints(cluster, "worker2") == endpoints(before, "worker2")


def test_a_stopped_kube_proxy_is_not_restarted() -> None:
    """Its pod is in Error but never Failed, and runs again when it is healed."""
    cluster = broken(running(store()), "stopped")
    pod = kube_proxy(cluster, "worker")
    (status,) = pod.container_statuses
    assert (
        status.state.terminated and status.state.terminated.reason,
        pod.is_ready,
        pod.status.phase,
    ) == ("Error", False, "Running")
    assert verdict(cluster, pod).state == "unready"
    assert not any(
        isinstance(obj, ProgramRun)
        for obj in plan(cluster, DECISIONS)[f"pod/kube-system/{pod.name}/{pod.uid[:8]}"].values()
    )
    assert all(kube_proxy(cluster, node).is_ready for node in ("control-plane", "worker2"))
    cluster = healed(settled(cluster, NOW + 1000), NOW + 1000)
    after = kube_proxy(cluster, "worker")
    assert (after.uid, after.is_ready, after.container_statuses[0].restart_count) == (
        pod.uid,
        True,
        1,
    )


def test_a_stale_kube_proxy_is_unhealthy_after_two_periods() -> None:
    """Before that it is healthy; its log has a line for each event."""
    cluster = broken(running(store()), "stale")
    _, states = controllers.run(cluster, ControllerStates(), NOW)
    assert states.wake_at == NOW + 2 * SYNC_PERIOD_S

    def options(at: float) -> Mapping[str, Any]:
        return config_of(settled(cluster, at), "worker").options

    assert options(NOW + 2 * SYNC_PERIOD_S - 1)["healthy"] is True
    late = options(NOW + 2 * SYNC_PERIOD_S)
    assert (late["healthy"], len(late["log"])) == (False, 2)
    assert config_of(settled(cluster, NOW + 60), "worker2").options["healthy"] is True


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_load_balancers_leave_a_node_with_an_unhealthy_kube_proxy(policy: str) -> None:
    """They use other nodes, with the policy Local those with endpoints of their own."""
    text = service(
        "web", 80, "http", type="LoadBalancer", externalTrafficPolicy=policy
    ) + deployment(replicas=6)
    before = running(store(text))

    def next_hops(cluster: Cluster) -> set[int]:
        (group,) = [
            obj
            for obj in plan(cluster, DECISIONS)["fabric/router"].values()
            if isinstance(obj, NexthopGroup)
        ]
        return set(group.members)

    both = {node_number("172.18.0.3"), node_number("172.18.0.4")}
    assert next_hops(before) == both
    node, other = "worker", {node_number("172.18.0.4")}
    assert next_hops(broken(before, "stopped", node)) == other
    assert next_hops(settled(broken(before, "stale", node), NOW + 60)) == other
    assert next_hops(broken(before, "misconfigured", node)) == next_hops(before)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("kube-prox", {}, "did you mean kube-proxy?"),
        ("kube-proxy", {}, "node: required, but missing"),
        ("kube-proxy", {"node": "wrker"}, 'there is no node "wrker"; did you mean worker?'),
        (
            "kube-proxy",
            {"node": "worker", "how": "gone"},
            "expected one of misconfigured, stale, stopped",
        ),
        ("kube-proxy", {"node": "worker", "mode": "x"}, "mode: unknown field"),
    ],
)
def test_an_invalid_fault_is_refused(name: str, options: dict[str, str], message: str) -> None:
    """The message lists the known values."""
    with pytest.raises(UsageError) as refused:
        faults.break_changes(store(), name, options, NOW)
    assert message in str(refused.value)


def test_a_node_is_not_broken_twice() -> None:
    """A fault on another node is independent; a cluster without kube-proxy cannot be broken."""
    cluster = broken(broken(store(), "stale"), "stopped", "worker2")
    assert [fault.name for fault in cluster.all(Fault)] == ["1", "2"]
    with pytest.raises(
        UsageError, match="already broken on worker, by fault 1; first: kubenetlab heal 1"
    ):
        broken(cluster, "stopped")
    with pytest.raises(UsageError, match="has no kube-proxy"):
        broken(
            store(
                "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: "
                "{kubeProxyMode: none}\n"
            ),
            "stopped",
        )


def test_a_fault_is_deleted_with_its_node() -> None:
    """The remembered state is deleted, too."""
    config = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnodes: [{role: control-plane}, "
        "{role: worker}%s]\n---\n"
    )
    cluster = broken(running(store(config % ", {role: worker}")), "stale", "worker2")
    cluster = applied(cluster, config % "")
    assert (*cluster.all(ProxySnapshot), *cluster.all(Fault)) == ()


def with_cni(cni: str) -> Cluster:
    """Return a cluster with a CNI mode."""
    return running(
        store(
            "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
            f"networking: {{ipFamily: dual, cni: {cni}}}\n---\n{WEB}"
        )
    )


def break_node(cluster: Cluster, fault: str, **options: str) -> Cluster:
    """Return the cluster with a fault of the node `worker`."""
    given = {"node": "worker", **options}
    return settled(cluster.with_changes(faults.break_changes(cluster, fault, given, NOW)))


def changed_objects(before: Cluster, after: Cluster, netns: str) -> tuple[set[str], set[str]]:
    """Return the objects that only the first cluster's plan has, and those of the second.

    The routes for which a node waits do not count.
    """
    objects = [
        {
            repr(structs.replace(obj, provides=()) if is_bird(obj) else obj): str(obj)
            for obj in plan(cluster, DECISIONS)[netns].values()
        }
        for cluster in (before, after)
    ]
    return (
        {text for key, text in objects[0].items() if key not in objects[1]},
        {text for key, text in objects[1].items() if key not in objects[0]},
    )


@pytest.mark.parametrize(
    ("cni", "match"),
    [
        ("{type: flannel, port: 4000}", "udp dport 4000"),
        ("{type: calico, backend: vxlan}", "udp dport 4789"),
        ("{type: calico, backend: ipip}", "meta l4proto ipencap"),
        ("{type: flannel, backend: wireguard}", "udp dport 51820|udp dport 51821"),
        ("weave", "udp dport 6784"),
        ("{type: cilium, tunnelPort: 8473}", "udp dport 8473"),
    ],
)
def test_packets_of_tunnels_are_dropped_on_one_node(cni: str, match: str) -> None:
    """The mode says what its outer packets look like; nothing else changes."""
    before = with_cni(cni)
    after = break_node(before, "overlay")
    assert changed_objects(before, after, "node/worker2") == (set(), set())
    gone, new = changed_objects(before, after, "node/worker")
    assert gone == set()
    assert all("kubenetlab-fault-overlay" in text for text in new)
    chains = [
        obj
        for obj in plan(after, DECISIONS)["node/worker"].values()
        if isinstance(obj, Chain) and obj.table == "kubenetlab-fault-overlay"
    ]
    assert {str(rule) for chain in chains for rule in chain.rules} == {
        f'{direction} "eth0" {packets} drop'
        for direction in ("iifname", "oifname")
        for packets in match.split("|")
    }
    assert plan(healed(after), DECISIONS)["node/worker"] == plan(before, DECISIONS)["node/worker"]


@pytest.mark.parametrize("how", ["missing", "blackhole"])
@pytest.mark.parametrize(
    ("cni", "is_learned"),
    [
        ("bridge", False),
        ("flannel", False),
        ("{type: calico, backend: vxlan}", False),
        ("calico", True),
        ("kube-router", True),
    ],
)
def test_a_node_lacks_the_routes_to_the_pods_of_another_one(
    cni: str, is_learned: bool, how: str
) -> None:
    """BIRD refuses what it would learn; other routes and other nodes stay as they are."""
    before = with_cni(cni)
    after = break_node(before, "route", to="worker2", how=how)
    assert changed_objects(before, after, "node/worker2") == (set(), set())
    gone, new = changed_objects(before, after, "node/worker")
    gone_routes = {text for text in gone if text.startswith("route ")}
    new_routes = {text for text in new if text.startswith("route ")}
    assert len(new_routes) == (2 if how == "blackhole" else 0)
    assert all(text.startswith("route blackhole ") for text in new_routes)
    if is_learned:
        assert gone_routes == set()
        config = bird_config_of(after)
        assert config.count("import where net !~ [ 10.244.") == 2  # one for each other node
        assert "import all" not in config
        assert bird_config_of(before).count("import all") == 4
    else:
        assert len(gone_routes) == 2
        assert len(gone | new) == len(gone_routes | new_routes)
    assert plan(healed(after), DECISIONS)["node/worker"] == plan(before, DECISIONS)["node/worker"]


@pytest.mark.parametrize(
    ("cni", "size", "is_df_set"),
    [
        ("bridge", 1400, False),
        ("flannel", 1479, True),
        ("weave", 1425, True),
        ("calico", 1280, False),
    ],
)
def test_the_link_of_a_node_has_a_smaller_mtu(cni: str, size: int, is_df_set: bool) -> None:
    """Messages about it are lost; outer packets must not be cut."""
    before = with_cni(cni)
    after = break_node(before, "mtu", size=str(size))
    assert changed_objects(before, after, "node/worker2") == (set(), set())
    assert changed_objects(before, after, "fabric/switch") == (set(), set())
    gone, new = changed_objects(before, after, "node/worker")
    (link,) = gone
    assert link.replace("mtu 1500", f"mtu {size}") in new
    assert all("kubenetlab-fault-mtu" in text or "veth eth0" in text for text in new)
    rules = {
        str(rule)
        for obj in plan(after, DECISIONS)["node/worker"].values()
        if isinstance(obj, Chain) and obj.table == "kubenetlab-fault-mtu"
        for rule in obj.rules
    }
    assert {"icmp code frag-needed drop", "icmpv6 type packet-too-big drop"} <= rules
    assert any("frag-off" in rule for rule in rules) == is_df_set
    assert plan(healed(after), DECISIONS)["node/worker"] == plan(before, DECISIONS)["node/worker"]


@pytest.mark.parametrize("cni", ["calico", "kube-router"])
def test_the_sessions_of_a_node_are_blocked(cni: str) -> None:
    """Both ends of sessions are; other nodes only stop to wait for routes."""
    before = with_cni(cni)
    after = break_node(before, "bgp")
    assert changed_objects(before, after, "node/worker2") == (set(), set())
    gone, new = changed_objects(before, after, "node/worker")
    assert gone == set()
    assert all("kubenetlab-fault-bgp" in text for text in new)
    rules = [
        str(rule)
        for obj in plan(after, DECISIONS)["node/worker"].values()
        if isinstance(obj, Chain) and obj.table == "kubenetlab-fault-bgp"
        for rule in obj.rules
    ]
    assert sorted(rules) == sorted(
        f'{direction} "eth0" tcp {end} 179 drop'
        for direction in ("iifname", "oifname")
        for end in ("sport", "dport")
        for _ in ("ip", "ip6")
    )
    for node in ("worker", "worker2"):
        assert learned_routes(plan(before, DECISIONS)[f"node/{node}"].values())
        assert not learned_routes(plan(after, DECISIONS)[f"node/{node}"].values())
        assert (
            plan(healed(after), DECISIONS)[f"node/{node}"]
            == plan(before, DECISIONS)[f"node/{node}"]
        )


def bird_config_of(cluster: Cluster) -> str:
    """Return bird.conf of the node `worker`."""
    (config,) = [
        obj
        for obj in plan(cluster, DECISIONS)["node/worker"].values()
        if isinstance(obj, File) and obj.path == CONFIG_PATH
    ]
    return config.content


@pytest.mark.parametrize(
    ("cni", "fault", "options", "message"),
    [
        ("bridge", "overlay", {}, "this lab has no tunnels: the CNI mode bridge"),
        ("{type: flannel, backend: host-gw}", "overlay", {}, "this lab has no tunnels"),
        ("calico", "overlay", {}, "this lab has no tunnels"),
        ("flannel", "overlay", {"node": "wrker"}, "did you mean worker?"),
        ("bridge", "bgp", {}, "this lab has no BGP: the CNI mode bridge"),
        ("{type: calico, backend: vxlan}", "bgp", {}, "this lab has no BGP"),
        ("bridge", "mtu", {"size": "1500"}, "at most 1500 bytes on the fabric"),
        ("weave", "mtu", {"size": "1446"}, "at most 1426 bytes on the fabric"),
        ("bridge", "mtu", {"size": "1000"}, "size: "),
        ("flannel", "route", {"to": "wrker2"}, "did you mean worker2?"),
        ("flannel", "route", {"to": "worker"}, "node and to are the same node worker"),
        ("weave", "route", {"to": "worker2"}, "finds the node of a pod in another way"),
        ("cilium", "route", {"to": "worker2"}, "finds the node of a pod in another way"),
    ],
)
def test_an_impossible_fault_is_refused(
    cni: str, fault: str, options: dict[str, str], message: str
) -> None:
    """The message gives the reason."""
    with pytest.raises(UsageError) as refused:
        break_node(with_cni(cni), fault, **options)
    assert message in str(refused.value)


IN_EVERY_MODE = (
    "bridge",
    "ptp",
    "flannel",
    "kube-router",
    "calico",
    "{type: calico, backend: vxlan}",
    "{type: calico, backend: ipip, crossSubnet: true}",
    "weave",
    "cilium",
    "{type: cilium, routingMode: native}",
)


def with_pods(cni: str) -> Cluster:
    """Return a cluster with the pods a and b on one node, and c on another one."""
    pods = "".join(
        "---\n" + pod(name, f", nodeName: {node}")
        for name, node in (("a", "worker"), ("b", "worker"), ("c", "worker2"))
    )
    return running(
        store(
            "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
            f"networking: {{ipFamily: dual, cni: {cni}}}\n{pods}"
        )
    )


def sharing(cluster: Cluster, owner: str, other: str) -> Cluster:
    """Return the cluster in which a pod has got the addresses of another one."""
    options = {"pod": owner, "with": other}
    cluster = settled(cluster.with_changes(faults.break_changes(cluster, "ipam", options, NOW)))
    return with_new_sandboxes(cluster)


def with_new_sandboxes(cluster: Cluster) -> Cluster:
    """Return the cluster after the agent has removed the sandboxes of stale attachments."""
    return settled(cluster.with_changes(replaced_sandboxes(cluster, ())))


def addresses_of(cluster: Cluster, name: str) -> tuple[str, ...]:
    attachment = cluster.get(Attachment, "default", name)
    assert attachment is not None
    return attachment.addresses


@pytest.mark.parametrize("neighbors", ["dynamic", "permanent"])
@pytest.mark.parametrize("other", ["b", "c"])
@pytest.mark.parametrize("cni", IN_EVERY_MODE)
def test_two_pods_with_one_address_have_a_plan(
    cni: str, other: str, neighbors: Literal["dynamic", "permanent"]
) -> None:
    """Both have the address; their links differ, and healing restores the plan."""
    decisions = decided("onlink", neighbors)
    before = with_pods(cni)
    after = sharing(before, "a", other)
    shared = addresses_of(before, "a")
    assert addresses_of(after, "a") == addresses_of(after, other) == shared
    desired = plan(after, decisions)
    for name in ("a", other):
        (netns,) = (netns for netns in desired.namespaces if f"/default/{name}/" in netns)
        own = {obj.address.partition("/")[0] for obj in desired[netns].values() if is_address(obj)}
        assert set(shared) <= own
    macs = [obj.mac for obj in desired.objects() if isinstance(obj, Veth)]
    assert len(set(macs)) == len(macs)
    after = after.with_changes(deletion(fault) for fault in after.all(Fault))
    after = with_new_sandboxes(settled(after))
    assert addresses_of(after, "a") == shared
    assert not set(addresses_of(after, other)) & set(shared)
    assert not [
        attachment
        for attachment in after.all(Attachment)
        if attachment.duplicate_of or attachment.superseded_by
    ]


def is_address(obj: object) -> TypeGuard[Address]:
    return isinstance(obj, Address)


@pytest.mark.parametrize("cni", ["ptp", "calico", "cilium"])
def test_the_route_of_the_last_pod_replaces_the_one_before(cni: str) -> None:
    """As with `ip route replace`; `diff` compares with addresses that a healthy IPAM assigns."""
    after = sharing(with_pods(cni), "a", "b")
    (address, _) = addresses_of(after, "a")
    links = {attachment.name: attachment.host_ifname for attachment in after.all(Attachment)}
    objects = plan(after, DECISIONS)["node/worker"].values()
    (owner,) = (
        obj.link
        for obj in objects
        if (isinstance(obj, Route) and obj.destination == f"{address}/32")
        or (isinstance(obj, CiliumEndpoint) and address in obj.addresses)
    )
    assert owner == links["b"]
    healthy = faults.healed(after)
    assert addresses_of(healthy, "a") == addresses_of(after, "a")
    assert address not in addresses_of(healthy, "b")


def test_a_fault_is_deleted_with_either_of_its_pods() -> None:
    """The other pod gets an address of its own; its own one stays that of the owner."""
    for gone, left in (("a", "b"), ("b", "a")):
        after = sharing(with_pods("bridge"), "a", "b")
        removed = after.get(Pod, "default", gone)
        assert removed is not None
        after = with_new_sandboxes(settled(after.with_changes([deletion(removed)])))
        assert not after.all(Fault)
        attachment = after.get(Attachment, "default", left)
        assert attachment is not None
        assert (attachment.duplicate_of, attachment.superseded_by) == ("", "")


def test_nodes_know_one_pod_of_each_address_while_the_fault_ends() -> None:
    """The entry of a pod that is gone is not removed after that of its successor is set."""
    shared = sharing(with_pods("cilium"), "a", "b")
    removed = shared.get(Pod, "default", "b")
    assert removed is not None
    terminating = shared.with_changes(deletion_changes(removed, NOW))
    healing = shared.with_changes(deletion(fault) for fault in shared.all(Fault))
    for cluster in (shared, settled(terminating), settled(healing)):
        pods = cluster_pods(cluster, PlanCache()).values()
        addresses = [address for pod in pods for address in pod.addresses]
        assert len(addresses) == len(set(addresses))
    assert "a" in [pod.name for pod in cluster_pods(settled(terminating), PlanCache()).values()]


@pytest.mark.parametrize(
    ("cni", "options", "message"),
    [
        ("bridge", {"pod": "a", "with": "x"}, 'with: there is no pod "default/x"'),
        ("bridge", {"pod": "default/aa", "with": "b"}, "did you mean default/a"),
        ("bridge", {"pod": "a", "with": "default/a"}, "the same pod default/a; expected two pods"),
        ("bridge", {"pod": "a"}, "with"),
        ("bridge", {"pod": "a", "with": "kube-system/*"}, "in the network of its node"),
        ("conflist", {"pod": "a", "with": "b"}, "the plugins assign addresses, and not the lab"),
    ],
)
def test_pods_that_cannot_share_an_address_are_refused(
    cni: str, options: dict[str, str], message: str
) -> None:
    """The message names the option and the pod."""
    cluster = with_pods(cni)
    if "*" in options.get("with", ""):
        hosts = (pod.full_name for pod in cluster.all(Pod) if pod.spec.host_network)
        options = {**options, "with": next(hosts)}
    with pytest.raises(UsageError) as refused:
        faults.break_changes(cluster, "ipam", options, NOW)
    assert message in str(refused.value)


def test_a_pod_shares_its_address_once() -> None:
    """Two faults of the same pod would contradict each other."""
    after = sharing(with_pods("bridge"), "a", "b")
    for options in ({"pod": "b", "with": "c"}, {"pod": "c", "with": "a"}):
        with pytest.raises(UsageError, match="shares its address with pod default/"):
            faults.break_changes(after, "ipam", options, NOW)


def test_every_fault_has_a_manual() -> None:
    """It begins with the fault's name and describes each option by name."""
    for name in faults.known():
        manual = faults.manual(name)
        assert manual.startswith(f"{name}: ")
        assert all(re.search(rf"\b{option}\b", manual) for option in faults.option_names(name))
    assert faults.values("kube-proxy", "how") == ["stopped", "stale", "misconfigured"]
