"""The ways to a Service from outside: node ports, external IPs, load balancers with a fence; who
answers whom, and which source is seen.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs.world import PROXIES, Labs, World, in_document

KINDS = [
    *(
        (layout, family, version, proxy)
        for proxy in PROXIES
        for layout, family, version in (("onlink", "dual", 6), ("routed", "dual", 4))
    ),
    *(("onlink", "ipv4", 4, "nftables"), ("routed", "ipv6", 6, "nftables")),
]
"""Each mode in both layouts and both IP versions; alone each version once."""
EXTERNAL_IPS = {
    "given": {4: "192.0.2.50", 6: "2001:db8:1::50"},
    "given-local": {4: "192.0.2.51", 6: "2001:db8:1::51"},
}
CLIENTS = {4: "198.51.100.10/32", 6: "2001:db8:51:100::10/128"}

PODS = ("a", "b", "c")
NODES = ("node:control-plane", "node:worker", "node:worker2")
SILENCE, REFUSED = "silence", "refused"


def manifest(layout: str, family: str, proxy: str) -> str:
    """Pods a and b on one node, c on another; `all-…` Services are b's by the policy Cluster,
    `local-…` c's by the policy Local.
    """
    versions = {"ipv4": (4,), "ipv6": (6,), "dual": (4, 6)}[family]

    def words(addresses: dict[int, str]) -> str:
        return ", ".join(f'"{addresses[version]}"' for version in versions)

    pods = "".join(
        f"""---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec: {{nodeName: {node}, containers: [{{name: main, image: agnhost, args: [netexec], ports: [{{containerPort: 8080}}]}}]}}
"""
        for name, node in (("a", "worker"), ("b", "worker"), ("c", "worker2"))
    )
    services = {
        "open": "type: NodePort, selector: {app: b}, ports: [{name: tcp, port: 80, targetPort: 8080, nodePort: 30080}, "
        "{name: udp, port: 80, protocol: UDP, targetPort: 8081, nodePort: 30080}]",
        "kept": "type: NodePort, externalTrafficPolicy: Local, selector: {app: c}, ports: [{port: 80, targetPort: 8080, nodePort: 30090}]",
        "nobody": "type: NodePort, selector: {app: nobody}, ports: [{port: 80, nodePort: 30100}]",
        "drawn": "type: NodePort, selector: {app: b}, ports: [{port: 80, targetPort: 8080}]",
        "given": f"externalIPs: [{words(EXTERNAL_IPS['given'])}], selector: {{app: b}}, ports: [{{port: 80, targetPort: 8080}}]",
        "given-local": f"type: NodePort, externalTrafficPolicy: Local, externalIPs: [{words(EXTERNAL_IPS['given-local'])}], "
        "selector: {app: c}, ports: [{port: 80, targetPort: 8080}]",
        "fenced": f"type: LoadBalancer, loadBalancerSourceRanges: [{words(CLIENTS)}], selector: {{app: b}}, "
        "ports: [{port: 80, targetPort: 8080, nodePort: 30110}]",
        "bare": "type: LoadBalancer, allocateLoadBalancerNodePorts: false, selector: {app: b}, ports: [{port: 80, targetPort: 8080}]",
    }
    return f"""\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
networking: {{ipFamily: {family}, kubeProxyMode: {in_document(proxy)}, cni: {{type: bridge, layout: {layout}}}}}
external: [{{name: client, address: 198.51.100.10}}, {{name: stranger, address: 198.51.100.20}}]
{pods}""" + "".join(
        f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ipFamilyPolicy: PreferDualStack, {spec}}}\n"
        for name, spec in services.items()
    )


@pytest.fixture(scope="module")
def of_kind() -> Iterator[Labs]:
    labs = Labs(manifest)
    yield labs
    labs.end()


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: "-".join(map(str, kind)))
def world(request: pytest.FixtureRequest, of_kind: Labs) -> World:
    layout, family, version, proxy = request.param
    return World(of_kind.of(layout, family, proxy), version)


Outcome = tuple[str, str]
"""(who answered, which address it saw), or (what went wrong, nothing)."""


def outcomes(
    world: World, source: str, *targets: tuple[str, int] | tuple[str, int, str]
) -> list[Outcome]:
    """What becomes of each question, to an address and a port, by TCP or by another protocol; all
    are asked at once.
    """
    answers = world.ask(
        source,
        *(
            (protocol, address, port)
            for address, port, protocol in ((*target, "TCP")[:3] for target in targets)
        ),
    )
    return [
        (answer.error, "") if answer.error else (answer.who, answer.seen[0]) for answer in answers
    ]


@pytest.mark.parametrize("source", ["ext:client", *PODS, *NODES])
def test_a_node_port_leads_to_the_pod_from_every_node(world: World, source: str) -> None:
    """By the policy Cluster; the pod sees the node that was asked, whoever asks: a pod of its own
    Service, too.
    """
    asked = [world.address(node) for node in NODES]
    found = outcomes(
        world,
        source,
        *((address, 30080, protocol) for protocol in ("TCP", "UDP") for address in asked),
    )
    assert found == [("b", address) for address in asked] * 2


def test_a_node_port_by_the_policy_local(world: World) -> None:
    """The client is seen itself, on the pod's own node; the other nodes are silent to the outside.

    Pods are led there from any node and seen themselves; what a node asks at its own address comes
    from the node.
    """
    near, far = (world.address("node:worker2"), 30090), (world.address("node:worker"), 30090)
    assert outcomes(world, "ext:client", near, far) == [
        ("c", world.address("ext:client")),
        (SILENCE, ""),
    ]
    assert outcomes(world, "node:control-plane", far) == [(SILENCE, "")]
    for pod in ("a", "b"):
        assert outcomes(world, pod, near, far) == [("c", world.address(pod))] * 2
    for node in NODES:
        assert outcomes(world, node, (world.address(node), 30090)) == [("c", world.address(node))]


@pytest.mark.parametrize("source", ["ext:client", "a", "node:worker"])
def test_a_node_port_without_pods_refuses(world: World, source: str) -> None:
    """At once, at every node, to everybody; and a number that is no node port is what it is without
    Services.
    """
    found = outcomes(
        world, source, *((world.address(node), port) for node in NODES for port in (30100, 30101))
    )
    assert set(found) == {(REFUSED, "")}


def test_node_ports_are_drawn(world: World) -> None:
    """Above the band that is kept for those who ask for one; a load balancer's too, unless it wants
    none.
    """
    found = {
        service["name"]: [port["node_port"] for port in service["ports"]]
        for service in world.seen["services"]
    }
    (drawn,), (bare,) = found["drawn"], found["bare"]
    assert 30086 <= drawn <= 32767
    assert bare is None
    node = world.address("node:control-plane")
    at_node, balanced = outcomes(world, "ext:client", (node, drawn), (world.outside["bare"], 80))
    assert (at_node, balanced[0]) == (("b", node), "b")


def test_external_ips_are_taken_in_by_nodes(world: World) -> None:
    """From outside by whichever node the router leads to, from pods and nodes by their own."""
    given, local = ((EXTERNAL_IPS[name][world.version], 80) for name in ("given", "given-local"))
    (who, seen), kept = outcomes(world, "ext:client", given, local)
    assert (who, kept) == ("b", ("c", world.address("ext:client")))
    assert seen in {world.address(node) for node in NODES}
    for pod in ("a", "b"):
        assert outcomes(world, pod, given, local) == [
            ("b", world.node_of(pod)),
            ("c", world.address(pod)),
        ]
    for node in NODES:
        assert outcomes(world, node, given, local) == [
            ("b", world.address(node)),
            ("c", world.address(node)),
        ]


def test_a_load_balancers_source_ranges_shut_the_others_out(world: World) -> None:
    """By its address: strangers, pods and nodes hear nothing.

    Its cluster IP and its node port are open to all.
    """
    address, node, inside = (
        (world.outside["fenced"], 80),
        (world.address("node:worker2"), 30110),
        (world.services["fenced"], 80),
    )
    assert outcomes(world, "ext:client", address)[0][0] == "b"
    for shut, opened in world.ask_from(
        ("ext:stranger", "a", "node:worker"), ("TCP", *address), ("TCP", *node)
    ):
        assert (shut.error, opened.who) == (SILENCE, "b")
    assert outcomes(world, "a", inside)[0][0] == "b"
