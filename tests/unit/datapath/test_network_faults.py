"""Faults of the pod network in plans: tunnels, routes, MTU and BGP sessions."""

from __future__ import annotations

import pytest
from msgspec import structs

from kubenetlab.api.faults import Fault
from kubenetlab.api.store import Cluster
from kubenetlab.datapath import faults, plan
from kubenetlab.datapath.network.bird import CONFIG_PATH, is_bird, learned_routes
from kubenetlab.errors import UsageError
from kubenetlab.hoststate.files import File
from kubenetlab.hoststate.rules.nftables import Chain
from tests.clusters import (
    NOW,
    applied,
    running,
    settled,
    store,
)
from tests.unit.datapath.test_faults import DECISIONS, WEB, healed


def with_cni(cni: str) -> Cluster:
    """Return a cluster with a CNI mode."""
    family = "ipv4" if "ipip" in cni else "dual"
    return running(
        store(
            "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
            f"networking: {{ipFamily: {family}, cni: {cni}}}\n---\n{WEB}"
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
        ("{type: flannel, backend: ipip}", "meta l4proto ipencap"),
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


def test_a_route_that_the_lab_adds_beside_plugins_is_lost() -> None:
    """With the default `routes: auto`, the list decides whether the lab adds routes."""
    before = with_cni("conflist")
    gone, new = changed_objects(before, break_node(before, "route", to="worker2"), "node/worker")
    assert len(gone) == 2  # one for each IP family
    assert all(text.startswith("route ") and " via " in text for text in gone)
    assert new == set()


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


@pytest.mark.parametrize(
    ("cni", "expected"),
    [
        ("bridge", {"mtu"}),
        ("flannel", {"mtu"}),
        ("{type: weave, port: 7000}", {"cni-agent", "overlay", "mtu"}),
    ],
)
def test_faults_of_a_plugin_end_when_another_one_is_installed(cni: str, expected: set[str]) -> None:
    """Its agent and its tunnels are gone. Other options of the same plugin end no fault."""
    broken = with_cni("weave")
    for fault, options in (("cni-agent", {}), ("overlay", {}), ("mtu", {"size": "1400"})):
        broken = break_node(broken, fault, **options)
    changed = applied(
        broken,
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"networking: {{ipFamily: dual, cni: {cni}}}",
    )
    assert {fault.spec.fault for fault in changed.all(Fault)} == expected
