"""Access to Services from outside, from pods and from nodes, over all links between nodes.

The endpoint is on one node, and each kind of address is asked at each node.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from tests.labs.lab_view import LabView
from tests.labs.test_ebpf import datagram

CLIENT = "ext:client"
NODES = ("worker", "worker2", "control-plane")
SOURCES = ("a", "c", *(f"node:{name}" for name in NODES))
NODE_PORTS = {"open": 30080, "kept": 30090}
EXTERNAL_IPS = {
    "open": {4: "192.0.2.50", 6: "2001:db8:1::50"},
    "kept": {4: "192.0.2.51", 6: "2001:db8:1::51"},
}
Pair = tuple[str, str]
ALL: Container[Pair] = ()
VERSIONS = {"ipv4": (4,), "dual": (4, 6)}


def manifest(cni: str, topology: str, family: str = "dual") -> str:
    """Return pods a and b on one node, c on another, and two Services whose endpoint is b."""
    pods = "".join(
        f"---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\n"
        f"spec: {{nodeName: {node}, containers: [{{name: main, image: agnhost, args: [netexec], "
        "ports: [{containerPort: 8080}]}]}\n"
        for name, node in (("a", "worker"), ("b", "worker"), ("c", "worker2"))
    )
    services = "".join(
        f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n"
        f"  type: LoadBalancer\n  externalTrafficPolicy: {policy}\n"
        "  ipFamilyPolicy: PreferDualStack\n  selector: {app: b}\n"
        f"  externalIPs: {[EXTERNAL_IPS[name][version] for version in VERSIONS[family]]}\n"
        f"  ports:\n  - {{name: tcp, port: 80, targetPort: 8080, nodePort: {NODE_PORTS[name]}}}\n"
        f"  - {{name: udp, port: 80, protocol: UDP, targetPort: 8081, nodePort: "
        f"{NODE_PORTS[name]}}}\n"
        for name, policy in (("open", "Cluster"), ("kept", "Local"))
    )
    return (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        "nodes: [{role: control-plane}, {role: worker}, {role: worker}]\n"
        f"networking: {{ipFamily: {family}, cni: {cni}, kubeProxyMode: ebpf}}\n"
        f"fabric: {{topology: {topology}}}\n"
        f"external: [{{name: client, address: 198.51.100.10}}]\n{pods}{services}"
    )


def addresses(view: LabView, service: str) -> dict[str, tuple[str, int]]:
    """Return address and port of a Service by node with its node port, and by kind of address."""
    at_nodes = {name: (view.address(f"node:{name}"), NODE_PORTS[service]) for name in NODES}
    return {
        **at_nodes,
        "load balancer": (view.load_balancer_ips[service], 80),
        "external IP": (EXTERNAL_IPS[service][view.version], 80),
    }


def seen(
    view: LabView, service: str, sources: Sequence[str], reachable: Container[Pair] = ALL
) -> dict[tuple[str, str, str], tuple[str, str]]:
    """Return (server or error, client that it saw) by source, address of `addresses`, protocol.

    reachable: pairs of source and address that are asked; by default all.
    """
    asked = [
        (
            source,
            {
                (source, at, protocol): (protocol, *address)
                for at, address in addresses(view, service).items()
                for protocol in ("TCP", "UDP")
                if reachable is ALL or (source, at) in reachable
            },
        )
        for source in sources
    ]
    answers = view.ask_each(*((source, tuple(targets.values())) for source, targets in asked))
    return {
        key: (answer.server or answer.error, answer.client[0])
        for (_, targets), of_source in zip(asked, answers, strict=True)
        for key, answer in zip(targets, of_source, strict=True)
    }


def own_addresses(view: LabView, node: str) -> set[str]:
    """Return the addresses with which packets of a node, or masqueraded by it, reach pods."""
    place: Any = view.places[f"node:{node}"]
    return {*place["addresses"], *place["pod_sources"]}


def check_policy_cluster(lab: LabView) -> None:
    """Check that each node forwards to the endpoint, which sees the node.

    Towards a pod on another node, the node has an address of the link to it.
    """
    results = seen(lab, "open", (CLIENT, *SOURCES))
    assert {key: server for key, (server, _) in results.items() if server != "b"} == {}
    for (source, at, protocol), (_, client) in results.items():
        nodes = (at,) if at in NODES else nodes_of(lab, source)
        allowed = set.union(*(own_addresses(lab, node) for node in nodes))
        assert client in allowed, (source, at, protocol)
        if at in NODES and at != "worker":
            assert client in lab.places[f"node:{at}"]["pod_sources"], (source, at, protocol)


def nodes_of(lab: LabView, source: str) -> tuple[str, ...]:
    """Return the nodes that may translate what a source sends to addresses outside of the nodes."""
    if source == CLIENT:
        return NODES
    return (source.removeprefix("node:") if ":" in source else lab.places[source]["node"],)


def check_policy_local(lab: LabView, *, keeps_clients: bool = True) -> None:
    """Check that only the endpoint's own node answers clients outside.

    keeps_clients: True if the endpoint sees their addresses.
    """
    results = seen(lab, "kept", (CLIENT,))
    for (_, at, protocol), (server, client) in results.items():
        if at in ("worker2", "control-plane"):
            assert server == "silence", (at, protocol)
            continue
        assert server == "b", (at, protocol)
        expected = {lab.address(CLIENT)} if keeps_clients else own_addresses(lab, "worker")
        assert client in expected, (at, protocol)


def check_policy_local_inside(lab: LabView) -> None:
    """Check that pods and nodes reach it at the endpoint's node and at their own node."""
    reachable = {("a", "worker"), ("c", "worker"), ("c", "worker2")}
    reachable |= {(f"node:{name}", at) for name in NODES for at in ("worker", name)}
    reachable |= {(source, at) for source in SOURCES for at in ("load balancer", "external IP")}
    results = seen(lab, "kept", SOURCES, reachable)
    assert {key: server for key, (server, _) in results.items() if server != "b"} == {}


def check_cluster_ip(lab: LabView) -> None:
    """Check that endpoints see a pod's own address, and one of a node by which replies return."""
    targets = [(protocol, lab.cluster_ips["open"], 80) for protocol in ("TCP", "UDP")]
    for source, answers in zip(SOURCES, lab.ask_from(SOURCES, *targets), strict=True):
        for answer in answers:
            assert answer.server == "b", (source, answer)
            if source.startswith("node:"):
                assert answer.client[0] in own_addresses(lab, source.removeprefix("node:"))
            else:
                assert answer.client[0] == lab.address(source)


def check_large_datagrams(lab: LabView, source: str) -> None:
    """Check that datagrams pass that are larger than the MTU of the links between the nodes.

    IPv6 packets are not fragmented on the way: the client's socket learns the MTU from the first.
    """
    target = (lab.address("node:worker2"), NODE_PORTS["open"])
    first = datagram(lab, source, target, 4000)
    if lab.version == 4:
        assert first == "whole"
    else:
        assert first in ("whole", "OSError")
        assert datagram(lab, source, target, 4000) == "whole"
