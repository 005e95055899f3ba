"""Who reaches whom, through what, and which source address is seen: in every layout and address
family, with real packets.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs.world import PROXIES, Labs, World, in_document


def manifest(layout: str, neighbors: str, family: str, proxy: str) -> str:
    pods = "".join(
        f"""---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}, all: "yes"}}}}
spec:
  nodeName: {node}
  containers:
  - {{name: main, image: agnhost, args: [netexec], ports: [{{containerPort: 8080}}]}}{more}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ipFamilyPolicy: PreferDualStack
  ports: [{{name: tcp, port: 80, targetPort: 8080}}, {{name: udp, port: 81, protocol: UDP, targetPort: 8081}}]
"""
        for name, node, more in (
            ("a", "worker", ""),
            (
                "b",
                "worker",
                "\n  - {name: side, image: agnhost, args: [netexec, --http-port=9090, --udp-port=-1]}",
            ),
            ("c", "worker2", ""),
        )
    )
    return f"""\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
networking: {{ipFamily: {family}, kubeProxyMode: {in_document(proxy)}, cni: {{type: bridge, layout: {layout}, neighbors: {neighbors}}}}}
external: [{{name: client, address: 198.51.100.10, ports: [8080]}}]
{pods}
---
apiVersion: v1
kind: Pod
metadata: {{name: host, labels: {{app: host}}}}
spec:
  hostNetwork: true
  nodeName: worker2
  containers: [{{name: main, image: agnhost, args: [netexec, --http-port=7070, --udp-port=-1]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: host}}
spec: {{ipFamilyPolicy: PreferDualStack, selector: {{app: host}}, ports: [{{port: 80, targetPort: 7070}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: all}}
spec: {{ipFamilyPolicy: PreferDualStack, selector: {{all: "yes"}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: nobody}}
spec: {{ipFamilyPolicy: PreferDualStack, selector: {{app: nobody}}, ports: [{{port: 80}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: sticky}}
spec: {{ipFamilyPolicy: PreferDualStack, selector: {{all: "yes"}}, sessionAffinity: ClientIP, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: near}}
spec: {{ipFamilyPolicy: PreferDualStack, selector: {{app: a}}, internalTrafficPolicy: Local, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: outside}}
spec: {{type: LoadBalancer, ipFamilyPolicy: PreferDualStack, selector: {{app: b}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: outside-local}}
spec: {{type: LoadBalancer, externalTrafficPolicy: Local, ipFamilyPolicy: PreferDualStack, selector: {{app: c}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: outside-nobody}}
spec: {{type: LoadBalancer, ipFamilyPolicy: PreferDualStack, selector: {{app: nobody}}, ports: [{{port: 80}}]}}
"""


@pytest.fixture(scope="module")
def of_kind() -> Iterator[Labs]:
    labs = Labs(manifest)
    yield labs
    labs.end()


ON_LINK, ROUTED = ("onlink", "dynamic"), ("routed", "permanent")
KINDS = [
    *((*layout, "dual", version, "nftables") for layout in (ON_LINK, ROUTED) for version in (4, 6)),
    *(
        (*layout, *family, "nftables")
        for layout in (("onlink", "permanent"), ("routed", "dynamic"))
        for family in (("ipv4", 4), ("ipv6", 6))
    ),
    *(
        (*ON_LINK, "dual", version, proxy)
        for proxy in PROXIES
        if proxy != "nftables"
        for version in (4, 6)
    ),
    *((*ROUTED, "ipv6", 6, proxy) for proxy in PROXIES if proxy != "nftables"),
]
"""Layout, neighbours, a cluster's family, the IP version that is looked at, kube-proxy's mode.

Every mode is seen in both layouts and both versions, the default with every kind of neighbours and
of family, too.
"""


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: "-".join(map(str, kind)))
def world(request: pytest.FixtureRequest, of_kind: Labs) -> World:
    layout, neighbors, family, version, proxy = request.param
    found = World(of_kind.of(layout, neighbors, family, proxy), version)
    assert (found.seen["pod_layout"], found.seen["neighbors"]) == (layout, neighbors)
    return found


PODS = ("a", "b", "c")
NODES = ("node:control-plane", "node:worker", "node:worker2")


@pytest.mark.parametrize("source", PODS)
def test_pods_reach_pods_without_nat(world: World, source: str) -> None:
    """On one node and across nodes, itself too: the other sees the pod's own address, down to the
    port.
    """
    targets = [
        (name, protocol, port) for name in PODS for protocol, port in (("TCP", 8080), ("UDP", 8081))
    ]
    answers = world.ask(
        source, *((protocol, world.address(name), port) for name, protocol, port in targets)
    )
    for (name, _, _), answer in zip(targets, answers, strict=True):
        assert answer.who == name
        assert answer.seen[0] == answer.source[0] == world.address(source)


@pytest.mark.parametrize("source", PODS)
def test_pods_reach_pods_by_their_service(world: World, source: str) -> None:
    """The client's address is kept; a pod that meets itself by its own Service (hairpin) is
    masqueraded, or it would answer itself.
    """
    targets = [
        (name, protocol, port) for name in PODS for protocol, port in (("TCP", 80), ("UDP", 81))
    ]
    answers = world.ask(
        source, *((protocol, world.services[name], port) for name, protocol, port in targets)
    )
    for (name, _, _), answer in zip(targets, answers, strict=True):
        assert answer.who == name, answer
        assert answer.source[0] == world.address(source)
        assert answer.seen[0] == (
            world.node_of(source) if source == name else world.address(source)
        )


@pytest.mark.parametrize("source", NODES)
def test_nodes_reach_pods_from_their_own_address(world: World, source: str) -> None:
    """A node has one address for all it meets, its own pods too."""
    for name, answer in zip(
        PODS, world.ask(source, *(("TCP", world.address(name), 8080) for name in PODS)), strict=True
    ):
        assert (answer.who, answer.seen[0]) == (name, answer.source[0])
        assert answer.source[0] == world.address(source)


@pytest.mark.parametrize("source", NODES)
def test_nodes_reach_services(world: World, source: str) -> None:
    """What a node sends itself to a cluster IP comes from the node."""
    names = (*PODS, "host")
    for name, answer in zip(
        names,
        world.ask(source, *(("TCP", world.services[name], 80) for name in names)),
        strict=True,
    ):
        assert answer.who == ("worker2" if name == "host" else name)
        assert answer.seen[0] == world.address(source)


@pytest.mark.parametrize("source", PODS)
def test_pods_reach_nodes_without_nat(world: World, source: str) -> None:
    """A node sees a pod's own address, that on another node too; a hostNetwork pod answers with its
    node's name.
    """
    for destination in (world.address("node:worker2"), world.address("host")):
        (answer,) = world.ask(source, ("TCP", destination, 7070))
        assert answer.who == "worker2"
        assert answer.seen[0] == answer.source[0] == world.address(source)
    (answer,) = world.ask(source, ("TCP", world.services["host"], 80))
    assert (answer.who, answer.seen[0]) == ("worker2", world.address(source))


def test_a_node_sees_itself_at_the_address_that_others_see(world: World) -> None:
    """Whether asked by its own address or by a Service: 172.18.0.x, never a bridge's address."""
    here = world.address("node:worker2")
    own, by_service = world.ask(
        "node:worker2", ("TCP", here, 7070), ("TCP", world.services["host"], 80)
    )
    assert (own.seen, by_service.seen[0]) == (own.source, here)
    assert own.source[0] == here


@pytest.mark.parametrize("source", PODS)
def test_what_leaves_the_cluster_is_masqueraded(world: World, source: str) -> None:
    """The internet sees the node's address, whether a pod or the node itself is the client."""
    (answer,) = world.ask(source, ("TCP", world.address("ext:client"), 8080))
    assert (answer.who, answer.seen[0], answer.source[0]) == (
        "client",
        world.node_of(source),
        world.address(source),
    )
    (answer,) = world.ask("node:worker", ("TCP", world.address("ext:client"), 8080))
    assert (answer.who, answer.seen[0]) == ("client", answer.source[0])


def test_from_the_internet_no_way_leads_to_pods_or_services(world: World) -> None:
    """The routers know no pod network; nodes are reached, and see the client's address."""
    addresses = [*(world.address(name) for name in PODS), world.services["a"]]
    for answer in world.ask("ext:client", *(("TCP", address, 8080) for address in addresses)):
        assert answer.error in ("unreachable", "silence"), answer
    (answer,) = world.ask("ext:client", ("TCP", world.address("node:worker2"), 7070))
    assert (answer.who, answer.seen[0]) == ("worker2", answer.source[0])
    assert answer.source[0] == world.address("ext:client")


def test_containers_of_a_pod_share_localhost(world: World) -> None:
    """And the port space: both are reached at the pod's address too.

    Other pods' localhost is their own.
    """
    own, side, from_outside = (
        *world.ask("b", ("TCP", world.localhost, 8080), ("TCP", world.localhost, 9090)),
        *world.ask("a", ("TCP", world.address("b"), 9090)),
    )
    assert (own.who, side.who, from_outside.who) == ("b", "b", "b")
    assert own.seen[0] == side.seen[0] == world.localhost
    assert world.ask("a", ("TCP", world.localhost, 9090))[0].error == "refused"


def test_a_service_spreads_over_all_its_pods(world: World) -> None:
    """From pods on both nodes and from a node, in a hundred connections nobody is left out."""
    for source in ("a", "c", "node:control-plane"):
        assert {
            answer.who for answer in world.ask(source, *[("TCP", world.services["all"], 80)] * 100)
        } == set(PODS)


def test_session_affinity_keeps_a_client_with_one_pod(world: World) -> None:
    """ClientIP: after its first connection all of a client's lead to the same pod.

    (The rules learn from a connection that has begun: of several that begin at the same moment each
    may be led elsewhere, in a cluster too.)
    """
    for source in PODS:
        target = ("TCP", world.services["sticky"], 80)
        (first,) = world.ask(source, target)
        assert {answer.who for answer in world.ask(source, *[target] * 20)} == {first.who}


def test_a_service_without_pods_refuses(world: World) -> None:
    """At once, from pods and nodes alike."""
    for source in ("a", "c", "node:worker"):
        (answer,) = world.ask(source, ("TCP", world.services["nobody"], 80))
        assert answer.error == "refused"


def test_a_port_that_a_service_does_not_have(world: World) -> None:
    """Refused at once, but for iptables: there nobody takes the packet, and it leaves by the
    default route.
    """
    expected = (
        ("unreachable", "silence") if world.seen["kube_proxy_mode"] == "iptables" else ("refused",)
    )
    for (answer,) in world.ask_from(("a", "c", "node:worker"), ("TCP", world.services["a"], 4711)):
        assert answer.error in expected


def test_a_local_policy_is_silent_where_there_is_no_pod(world: World) -> None:
    """internalTrafficPolicy: Local reaches the node's own pod, and is dropped elsewhere."""
    near = ("TCP", world.services["near"], 80)
    assert [world.ask(source, near)[0].who for source in ("b", "node:worker")] == ["a", "a"]
    assert [answer.error for (answer,) in world.ask_from(("c", "node:worker2"), near)] == [
        "silence",
        "silence",
    ]


def test_a_load_balancers_address_is_reached_from_everywhere(world: World) -> None:
    """By the policy Cluster the pod sees the node that took the packet in; by Local the client
    itself, on the pod's own node.
    """
    nodes = {world.address(name) for name in NODES}
    (answer,) = world.ask("ext:client", ("TCP", world.outside["outside"], 80))
    assert answer.who == "b"
    assert answer.seen[0] in nodes
    (answer,) = world.ask("ext:client", ("TCP", world.outside["outside-local"], 80))
    assert (answer.who, answer.seen[0]) == ("c", answer.source[0])
    for source in ("a", "c", "node:worker", "node:control-plane"):
        answers = world.ask(
            source, *(("TCP", world.outside[name], 80) for name in ("outside", "outside-local"))
        )
        assert [answer.who for answer in answers] == ["b", "c"]
    for source in ("ext:client", "a"):
        assert world.ask(source, ("TCP", world.outside["outside-nobody"], 80))[0].error == "refused"
    # By iptables nothing refuses what a node itself sends (OUTPUT knows no external services): it
    # goes to the load balancer, and where
    # that leads back to the same node, the node drops a packet from its own address.
    expected = (
        ("refused", "silence") if world.seen["kube_proxy_mode"] == "iptables" else ("refused",)
    )
    assert (
        world.ask("node:worker", ("TCP", world.outside["outside-nobody"], 80))[0].error in expected
    )


@pytest.mark.parametrize("source", [*PODS, *NODES])
def test_pings_are_answered(world: World, source: str) -> None:
    """By the machine's own ping program: every pod, every node, the internet's host."""
    script = 'for address; do ping -c1 -W2 "$address" || exit 1; done'
    destinations = [world.address(name) for name in (*PODS, *NODES, "ext:client")]
    world.lab.inside(world.places[source], "sh", "-c", script, "sh", *destinations)


def test_the_matrix_says_the_same(world: World) -> None:
    """The command's own packets, against its own expectation, which knows neither the datapath nor
    the kernel.
    """
    found = world.lab.run("ping", "-o", "json").json
    assert found["ok"]
    outcomes = {(cell["from"], cell["to"]): cell["found"] for cell in found["cells"]}
    family = f" IPv{world.version}" if len(world.places["a"]["addresses"]) > 1 else ""
    assert outcomes["default/a", f"svc:default/nobody:80/TCP{family}"] == "refused"
    assert outcomes["default/c", f"svc:default/near:80/TCP{family}"] == "silence"
    assert outcomes["default/a", "default/c"] == "answer"
    assert outcomes["ext:client", "default/a"] in ("unreachable", "silence")


def test_large_packets_pass_and_nothing_is_fragmented_on_the_way(world: World) -> None:
    """1,500 bytes from pod to pod and to the internet, with the bit that forbids fragments."""
    payload = 1500 - (20 if world.version == 4 else 40) - 8
    for destination in (world.address("c"), world.address("ext:client")):
        world.lab.inside(
            world.places["a"], "ping", "-c1", "-W2", "-M", "do", "-s", str(payload), destination
        )


def test_neighbours_follow_the_choice(world: World) -> None:
    """Dynamic: ARP and neighbour discovery fill the tables.

    Permanent: all are written down before the first packet.
    """
    command = ("ip", f"-{world.version}", "neighbor", "show", "nud", "permanent")
    written = world.lab.inside(world.places["node:worker"], *command).splitlines()
    assert bool(written) == (world.seen["neighbors"] == "permanent")
