"""The CNI mode cilium: packets, identities on the fabric, flow events and repaired programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest

from kubenetlab.hoststate.rules.cilium_entries import FlowEvent
from kubenetlab.kernel.rules.libbpf import Libbpf, LoadedPrograms
from tests.labs.frames import captured_frames, tunnelled
from tests.labs.lab import Lab, wait_for
from tests.libbpf import NEEDS_LIBBPF
from tests.patience import patiently

pytestmark = NEEDS_LIBBPF

OUTSIDE = {"ipv4": "198.51.100.10", "ipv6": "2001:db8:51:100::10", "dual": "198.51.100.10"}
ROUTING = {
    "tunnel": "{type: cilium}",
    "native": "{type: cilium, routingMode: native}",
}
APPS = {"a": "web", "b": "web", "c": "db"}
TUNNEL_PORT = 8472


def manifest(family: str, cni: str = "cilium", proxy: str = "") -> str:
    pods = "".join(
        "---\napiVersion: v1\nkind: Pod\n"
        f"metadata: {{name: {name}, labels: {{app: {APPS[name]}}}}}\n"
        f"spec: {{nodeName: {node}, containers: [{{name: main, image: agnhost, args: [netexec], "
        "ports: [{containerPort: 8080}]}]}\n"
        for name, node in (("a", "worker"), ("b", "worker"), ("c", "worker2"))
    )
    services = "".join(
        f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: {app}}}\n"
        f"spec: {{type: NodePort, ipFamilyPolicy: PreferDualStack, selector: {{app: {app}}}, "
        f"ports: [{{port: 80, targetPort: 8080, nodePort: {port}}}]}}\n"
        for app, port in (("web", 30080), ("db", 30081))
    )
    mode = f", kubeProxyMode: {proxy}" if proxy else ""
    return (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"networking: {{ipFamily: {family}, cni: {cni}{mode}}}\n"
        f'external: [{{name: outside, address: "{OUTSIDE[family]}", ports: [8080]}}]\n'
        f"{pods}{services}"
    )


def inside(lab: Lab, place: object, command: str, status: int = 0) -> str:
    return lab.inside(place, *command.split(), status=status)


@pytest.mark.parametrize("proxy", ["", "none", "nftables", "iptables", "ebpf"])
@pytest.mark.parametrize("cni", ["tunnel", "native"])
def test_services_work_with_and_without_a_kube_proxy(lab: Lab, cni: str, proxy: str) -> None:
    """Without one, programs of the mode implement them, for pods, nodes and clients outside."""
    lab.up(manifest("dual", ROUTING[cni], proxy))
    assert lab.problems == []
    nodes = [address for node in lab.inspected["nodes"] for address in node["addresses"]]
    for name, port in (("web", 30080), ("db", 30081)):
        service = next(found for found in lab.inspected["services"] if found["name"] == name)
        cluster_ips = [("TCP", address, 80) for address in service["cluster_ips"]]
        node_ports = [("TCP", address, port) for address in nodes]
        servers = {pod for pod, app in APPS.items() if app == name}
        for pod in APPS:
            for answer in lab.ask(lab.pod(pod), *cluster_ips, *node_ports):
                assert answer.server in servers, answer
        for node in lab.inspected["nodes"]:
            for answer in lab.ask(node, *cluster_ips, *node_ports):
                assert answer.server in servers, answer
        outside = lab.place("external", "outside")
        for answer in lab.ask(outside, *node_ports):
            assert answer.server in servers, answer
    has_kube_proxy = bool(lab.run("get", "pods", "-A", "-o", "name").out.count("kube-proxy"))
    assert has_kube_proxy == (proxy not in ("", "none"))


HOST_PORT = """---
apiVersion: v1
kind: Pod
metadata: {name: published}
spec:
  nodeName: worker
  containers:
  - {name: main, image: agnhost, args: [netexec], ports: [{containerPort: 8080, hostPort: 8888}]}
"""


@pytest.mark.parametrize("cni", ["tunnel", "native"])
def test_host_ports_answer_everybody(lab: Lab, cni: str) -> None:
    """Replies return through the rules that translated the request, also to pods of the node."""
    lab.up(manifest("dual", ROUTING[cni]) + HOST_PORT)
    targets = [("TCP", address, 8888) for address in lab.place("nodes", "worker")["addresses"]]
    clients = [lab.place("external", "outside"), *lab.inspected["nodes"], *map(lab.pod, APPS)]
    for client in clients:
        for answer in lab.ask(client, *targets):
            assert answer.server == "published", (client["name"], answer)


def test_the_kube_proxy_mode_can_change(lab: Lab) -> None:
    """Services work by programs, by rules, and by programs again."""
    lab.up(manifest("ipv4"))
    (address,) = lab.service("db")["cluster_ips"]
    for words in ((), ("--proxy", "nftables"), ("--proxy", "ebpf"), ("--proxy", "none")):
        if words:
            lab.run("up", *words)
        for place in (*map(lab.pod, APPS), *lab.inspected["nodes"]):
            (answer,) = lab.ask(place, ("TCP", address, 80))
            assert answer.server == "c", (words, answer)
        assert lab.problems == []
        assert lab.run("diff").status == 0


LARGE_DATAGRAM = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
client = socket.socket(family, socket.SOCK_DGRAM)
client.settimeout(float(sys.argv[2]))
client.connect((sys.argv[1], 81))
text = "x" * 4000
client.send(b"echo " + text.encode())
print(client.recv(65536).decode().strip() == text)
"""


def test_large_datagrams_are_answered_in_fragments(lab: Lab) -> None:
    """They reach Services and pods, from pods and nodes, through tunnels."""
    udp = "".join(
        f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: {app}-udp}}\n"
        f"spec: {{ipFamilyPolicy: PreferDualStack, selector: {{app: {app}}}, "
        "ports: [{port: 81, protocol: UDP, targetPort: 8081}]}\n"
        for app in ("web", "db")
    )
    lab.up(manifest("dual") + udp)
    for app in ("web", "db"):
        for address in lab.service(f"{app}-udp")["cluster_ips"]:
            for place in (*map(lab.pod, APPS), *lab.inspected["nodes"]):
                command = (sys.executable, "-S", "-E", "-c", LARGE_DATAGRAM)
                answer = lab.inside(place, *command, address, str(patiently(2)))
                assert answer == "True\n", (place["name"], address)


def identities(lab: Lab) -> dict[str, int]:
    """Return the identity of each pod of the test, as the worker's map has it."""
    with programs(lab, "worker") as loaded:
        by_address = {
            key[4:]: int.from_bytes(value[:4], sys.byteorder)
            for key, value in loaded.entries("cilium_ipcache")
        }
    return {
        name: by_address[bytes(10) + b"\xff\xff" + packed(lab.pod(name)["addresses"][0])]
        for name in APPS
    }


def packed(address: str) -> bytes:
    return bytes(map(int, address.split(".")))


@contextmanager
def programs(lab: Lab, node: str) -> Iterator[LoadedPrograms]:
    """Yield the programs of cilium on a node."""
    filters = json.loads(
        inside(lab, lab.place("nodes", node), "tc -j filter show dev cilium_host egress")
    )
    (program_id,) = (entry["options"]["prog"]["id"] for entry in filters if "options" in entry)
    loaded = Libbpf().open_loaded({"cil_from_host": program_id})
    try:
        yield loaded
    finally:
        loaded.close()


def test_identities_follow_from_labels(lab: Lab) -> None:
    """Pods with the same labels share one; another lab with the same manifests has the same."""
    lab.up(manifest("ipv4"))
    before = identities(lab)
    assert before["a"] == before["b"] != before["c"]
    assert all(256 <= number <= 65535 for number in before.values())
    lab.run("down")
    lab.up(manifest("ipv4"))
    assert identities(lab) == before
    lab.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: d, labels: {app: other}}\n"
        "spec: {nodeName: worker2, containers: [{name: main, image: agnhost}]}\n"
    )
    wait_for(lambda: lab.pod("d")["ready"], "the new pod")
    assert identities(lab) == before


@contextmanager
def tunnelled_packets(lab: Lab, node: str) -> Iterator[list[tuple[str, int, int]]]:
    """Yield a list that has the packets in the node's tunnels once the block has ended.

    Each is (source, network identifier, bytes by which it is larger than a frame of its own).
    """
    packets: list[tuple[str, int, int]] = []
    with captured_frames(lab, node) as frames:
        yield packets
    packets += [
        (frame.inner.source, frame.vni, len(frame.data) - frame.inner.size)
        for frame in tunnelled(frames, TUNNEL_PORT)
    ]


def test_the_network_identifier_is_the_identity_of_the_sender(lab: Lab) -> None:
    """Requests and replies have those of their senders; nodes count as remote nodes."""
    lab.up(manifest("ipv4"))
    a, c, numbers = lab.pod("a"), lab.pod("c"), identities(lab)
    with tunnelled_packets(lab, "worker") as packets:
        assert lab.ask(a, ("TCP", c["addresses"][0], 8080))[0].server
        assert lab.ask(lab.place("nodes", "worker"), ("TCP", c["addresses"][0], 8080))[0].server
    expected = {
        (a["addresses"][0], numbers["a"], 50),
        (c["addresses"][0], numbers["c"], 50),
        ("10.244.1.1", 6, 50),
    }
    assert set(packets) == expected


def test_nothing_is_encapsulated_with_native_routing(lab: Lab) -> None:
    lab.up(manifest("ipv4", ROUTING["native"]))
    with tunnelled_packets(lab, "worker") as packets:
        assert lab.ask(lab.pod("a"), ("TCP", lab.pod("c")["addresses"][0], 8080))[0].server
    assert packets == []
    links = json.loads(lab.inside(lab.place("nodes", "worker"), "ip", "-j", "link"))
    assert not [link for link in links if link["ifname"] == "cilium_vxlan"]


def events_of(lab: Lab, node: str, block: Callable[[], object]) -> list[FlowEvent]:
    """Return the events of a node during a call."""
    with programs(lab, node) as loaded:
        reader = loaded.read_events("cilium_events")
        try:
            reader.read()
            block()
            return [FlowEvent.decode(data) for data in reader.read()]
        finally:
            reader.close()


def path(events: list[FlowEvent], source: str) -> list[tuple[str, str]]:
    """Return point and state of the events about packets of a source, without repetitions."""
    return list(
        dict.fromkeys((event.point, event.detail) for event in events if event.source == source)
    )


@pytest.mark.parametrize("aggregation", ["medium", "none"])
def test_packets_can_be_followed_with_their_identities(lab: Lab, aggregation: str) -> None:
    """Every node reports what its programs do with the packets of a connection."""
    lab.up(manifest("ipv4", f"{{type: cilium, monitorAggregation: {aggregation}}}"))
    a, c, numbers = lab.pod("a"), lab.pod("c"), identities(lab)
    target = ("TCP", c["addresses"][0], 8080)
    for node, places in (
        ("worker", {a["addresses"][0]: "to-overlay", c["addresses"][0]: "to-endpoint"}),
        ("worker2", {a["addresses"][0]: "to-endpoint", c["addresses"][0]: "to-overlay"}),
    ):
        events = events_of(lab, node, lambda: lab.ask(a, target))
        seen = {
            (event.source, event.source_identity, event.destination_identity) for event in events
        }
        assert {
            (a["addresses"][0], numbers["a"], numbers["c"]),
            (c["addresses"][0], numbers["c"], numbers["a"]),
        } <= seen
        assert (places[a["addresses"][0]], "new") in path(events, a["addresses"][0])
        assert (places[c["addresses"][0]], "reply") in path(events, c["addresses"][0])
        received = {event.point for event in events if event.point.startswith("from-")}
        assert bool(received) == (aggregation == "none")
        assert not any(event.is_dropped for event in events)


def test_a_pod_cannot_send_with_the_address_of_another(lab: Lab) -> None:
    """The packet is dropped, and the event has the reason."""
    lab.up(manifest("ipv4"))
    a, c = lab.pod("a"), lab.pod("c")
    inside(lab, a, "ip address add 10.244.1.200/32 dev eth0")

    def ping() -> None:
        inside(lab, a, f"ping -c 1 -W 1 -I 10.244.1.200 {c['addresses'][0]}", status=1)

    drops = [event for event in events_of(lab, "worker", ping) if event.is_dropped]
    assert {(event.source, event.detail) for event in drops} == {
        ("10.244.1.200", "Invalid source ip")
    }


REPAIRS: Mapping[str, str] = {
    "program of a pod": "tc filter delete dev {link} ingress",
    "program of the host": "tc filter delete dev cilium_host egress",
    "qdisc of the tunnel": "tc qdisc delete dev cilium_vxlan clsact",
    "tunnel": "ip link delete cilium_vxlan",
    "pair": "ip link delete cilium_net",
    "route": "ip route delete 10.244.2.0/24",
    "chain": "iptables -t nat -F CILIUM_POST_nat",
}


def test_damage_is_repaired(lab: Lab) -> None:
    """The node agent attaches programs again; the lab's agent makes links again."""
    lab.up(manifest("ipv4"))
    node, a, c = lab.place("nodes", "worker"), lab.pod("a"), lab.pod("c")
    target = ("TCP", c["addresses"][0], 8080)
    for title, command in REPAIRS.items():
        inside(lab, node, command.format(link=a["host_ifname"]))
        wait_for(lambda: lab.run("diff", status=None).status == 0, f"the repair of the {title}")
        assert lab.ask(a, target)[0].server, title
    with programs(lab, "worker") as loaded:
        for key, _ in list(loaded.entries("cilium_ipcache")):
            loaded.delete("cilium_ipcache", key)
        assert "+ bpf map cilium_ipcache" in lab.run("diff", status=None).out
        wait_for(lambda: lab.run("diff", status=None).status == 0, "the repair of the map")
    assert lab.ask(a, target)[0].server
    with programs(lab, "worker") as loaded:
        for key in list(loaded.keys("cilium_links")):
            loaded.delete("cilium_links", key)
    wait_for(lambda: lab.ask(a, target)[0].server, "the indexes of links")
    assert lab.problems == []


def test_entries_of_policies_are_repaired(lab: Lab) -> None:
    """`diff` shows what is missing, until the node agent has compared all entries."""
    policy = (
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: c}\n"
        "spec: {podSelector: {matchLabels: {app: db}}, ingress: [{from: "
        "[{ipBlock: {cidr: 198.51.100.0/24}}]}]}\n"
    )
    lab.up(manifest("ipv4") + policy)
    a, c = lab.pod("a"), lab.pod("c")
    target = ("TCP", c["addresses"][0], 8080)
    assert not lab.ask(a, target)[0].server
    for name in ("cilium_policed", "cilium_policy", "cilium_cidr", "cilium_rules"):
        with programs(lab, c["node"]) as loaded:
            keys = list(loaded.keys(name))
            assert keys, name
            for key in keys:
                loaded.delete(name, key)
            assert f"+ bpf map {name}" in lab.run("diff", status=None).out
        wait_for(lambda: lab.run("diff", status=None).status == 0, "the repair of the map")
        assert not lab.ask(a, target)[0].server
    lab.run("up", "--drift", "keep")
    with programs(lab, c["node"]) as loaded:
        for name in ("cilium_policed", "cilium_policy"):
            for key in list(loaded.keys(name)):
                loaded.delete(name, key)
    assert lab.ask(a, target)[0].server
    explained = lab.run("explain-policy", "a", "c:8080").out
    assert f"{c['node']}: the rule is not in the kernel" in explained
    lab.run("up", "--drift", "repair")
    wait_for(lambda: not lab.ask(a, target)[0].server, "the repair of both maps")


def test_forwarding_survives_killed_agents(lab: Lab) -> None:
    """New agents find the programs, and serve new pods and changed links."""
    lab.up(manifest("ipv4"))
    a, c = lab.pod("a"), lab.pod("c")
    target = ("TCP", c["addresses"][0], 8080)
    lab.kill("agent")
    lab.kill("node-agent-0")
    assert lab.ask(a, target)[0].server
    lab.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: late, labels: {app: web}}\n"
        "spec: {nodeName: control-plane, tolerations: [{operator: Exists}], "
        "containers: [{name: main, image: agnhost}]}\n"
    )
    wait_for(lambda: lab.pod("late")["ready"], "the new pod")
    assert lab.ask(lab.pod("late"), target)[0].client[0] == lab.pod("late")["addresses"][0]
    inside(lab, lab.place("nodes", "worker"), "tc filter del dev cilium_vxlan ingress")
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the repair by the new agents")
    assert lab.ask(a, target)[0].server


def test_a_node_is_added_and_removed(lab: Lab) -> None:
    """Its pods are reached by all others, and every node knows their identities."""
    lab.up(manifest("ipv4"))
    lab.run("up", "--nodes", "4")
    lab.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: far, labels: {app: web}}\n"
        "spec: {nodeName: worker3, containers: [{name: main, image: agnhost, args: [netexec], "
        "ports: [{containerPort: 8080}]}]}\n"
    )
    wait_for(lambda: lab.pod("far")["ready"], "the pod of the new node")
    far = lab.pod("far")
    for pod in map(lab.pod, APPS):
        assert lab.ask(pod, ("TCP", far["addresses"][0], 8080))[0].server == "far"
        assert lab.ask(far, ("TCP", pod["addresses"][0], 8080))[0].client[0] == far["addresses"][0]
    lab.run("up", "--nodes", "3")
    assert lab.run("diff").status == 0
    assert lab.problems == []
