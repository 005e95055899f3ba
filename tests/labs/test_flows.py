"""Connectivity and visible source addresses in every layout and address family, with packets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs.lab_view import PROXY_MODES, LabView, SharedLab, mode_in_document


def manifest(layout: str, neighbors: str, family: str, proxy: str) -> str:
    pods = "".join(
        f"""---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}, all: "yes"}}}}
spec:
  nodeName: {node}
  containers:
  - {{name: main, image: agnhost, args: [netexec], ports: [{{containerPort: 8080}}]}}{sidecar}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ipFamilyPolicy: PreferDualStack
  ports:
  - {{name: tcp, port: 80, targetPort: 8080}}
  - {{name: udp, port: 81, protocol: UDP, targetPort: 8081}}
"""
        for name, node, sidecar in (
            ("a", "worker", ""),
            (
                "b",
                "worker",
                "\n  - {name: side, image: agnhost, "
                "args: [netexec, --http-port=9090, --udp-port=-1]}",
            ),
            ("c", "worker2", ""),
        )
    )
    return f"""\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
networking:
  ipFamily: {family}
  kubeProxyMode: {mode_in_document(proxy)}
  cni: {{type: bridge, layout: {layout}, neighbors: {neighbors}}}
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
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {{app: host}}
  ports: [{{port: 80, targetPort: 7070}}]
---
apiVersion: v1
kind: Service
metadata: {{name: all}}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {{all: "yes"}}
  ports: [{{port: 80, targetPort: 8080}}]
---
apiVersion: v1
kind: Service
metadata: {{name: nobody}}
spec: {{ipFamilyPolicy: PreferDualStack, selector: {{app: nobody}}, ports: [{{port: 80}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: sticky}}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {{all: "yes"}}
  sessionAffinity: ClientIP
  ports: [{{port: 80, targetPort: 8080}}]
---
apiVersion: v1
kind: Service
metadata: {{name: near}}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {{app: a}}
  internalTrafficPolicy: Local
  ports: [{{port: 80, targetPort: 8080}}]
---
apiVersion: v1
kind: Service
metadata: {{name: outside}}
spec:
  type: LoadBalancer
  ipFamilyPolicy: PreferDualStack
  selector: {{app: b}}
  ports: [{{port: 80, targetPort: 8080}}]
---
apiVersion: v1
kind: Service
metadata: {{name: outside-local}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  ipFamilyPolicy: PreferDualStack
  selector: {{app: c}}
  ports: [{{port: 80, targetPort: 8080}}]
---
apiVersion: v1
kind: Service
metadata: {{name: outside-nobody}}
spec:
  type: LoadBalancer
  ipFamilyPolicy: PreferDualStack
  selector: {{app: nobody}}
  ports: [{{port: 80}}]
"""


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[SharedLab]:
    shared = SharedLab(manifest)
    yield shared
    shared.down()


ON_LINK, ROUTED = ("onlink", "dynamic"), ("routed", "permanent")
VARIANTS = [
    *((*layout, "dual", version, "nftables") for layout in (ON_LINK, ROUTED) for version in (4, 6)),
    *(
        (*layout, *family, "nftables")
        for layout in (("onlink", "permanent"), ("routed", "dynamic"))
        for family in (("ipv4", 4), ("ipv6", 6))
    ),
    *(
        (*ON_LINK, "dual", version, proxy)
        for proxy in PROXY_MODES
        if proxy != "nftables"
        for version in (4, 6)
    ),
    *((*ROUTED, "ipv6", 6, proxy) for proxy in PROXY_MODES if proxy != "nftables"),
]
"""(layout, neighbours, address family of the cluster, IP version of the test, kube-proxy mode)

Every mode is tested in both layouts and both versions; the default mode also with every kind of
neighbours and family.
"""


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda variant: "-".join(map(str, variant)))
def view(request: pytest.FixtureRequest, shared_lab: SharedLab) -> LabView:
    layout, neighbors, family, version, proxy = request.param
    lab_view = LabView(shared_lab.up(layout, neighbors, family, proxy), version)
    assert (lab_view.inspected["pod_layout"], lab_view.inspected["neighbors"]) == (
        layout,
        neighbors,
    )
    return lab_view


PODS = ("a", "b", "c")
NODES = ("node:control-plane", "node:worker", "node:worker2")


@pytest.mark.parametrize("source", PODS)
def test_pods_reach_pods_without_nat(view: LabView, source: str) -> None:
    """On one node and across nodes, also itself: the server sees the client's address and port."""
    targets = [
        (name, protocol, port) for name in PODS for protocol, port in (("TCP", 8080), ("UDP", 8081))
    ]
    answers = view.ask(
        source, *((protocol, view.address(name), port) for name, protocol, port in targets)
    )
    for (name, _, _), answer in zip(targets, answers, strict=True):
        assert answer.server == name
        assert answer.client[0] == answer.source[0] == view.address(source)


@pytest.mark.parametrize("source", PODS)
def test_pods_reach_pods_through_their_services(view: LabView, source: str) -> None:
    """The client's address is kept.

    A pod that reaches itself through its Service (hairpin) is masqueraded; otherwise it would
    answer itself directly.
    """
    targets = [
        (name, protocol, port) for name in PODS for protocol, port in (("TCP", 80), ("UDP", 81))
    ]
    answers = view.ask(
        source, *((protocol, view.cluster_ips[name], port) for name, protocol, port in targets)
    )
    for (name, _, _), answer in zip(targets, answers, strict=True):
        assert answer.server == name, answer
        assert answer.source[0] == view.address(source)
        assert answer.client[0] == (
            view.node_of(source) if source == name else view.address(source)
        )


@pytest.mark.parametrize("source", NODES)
def test_nodes_reach_pods_with_their_own_address(view: LabView, source: str) -> None:
    """A node uses one address for all destinations, its own pods included."""
    for name, answer in zip(
        PODS, view.ask(source, *(("TCP", view.address(name), 8080) for name in PODS)), strict=True
    ):
        assert (answer.server, answer.client[0]) == (name, answer.source[0])
        assert answer.source[0] == view.address(source)


@pytest.mark.parametrize("source", NODES)
def test_nodes_reach_services(view: LabView, source: str) -> None:
    """Endpoints see the node's own address, also at a cluster IP."""
    names = (*PODS, "host")
    for name, answer in zip(
        names,
        view.ask(source, *(("TCP", view.cluster_ips[name], 80) for name in names)),
        strict=True,
    ):
        assert answer.server == ("worker2" if name == "host" else name)
        assert answer.client[0] == view.address(source)


@pytest.mark.parametrize("source", PODS)
def test_pods_reach_nodes_without_nat(view: LabView, source: str) -> None:
    """Nodes see a pod's own address, also across nodes.

    A hostNetwork pod answers with its node's name.
    """
    for destination in (view.address("node:worker2"), view.address("host")):
        (answer,) = view.ask(source, ("TCP", destination, 7070))
        assert answer.server == "worker2"
        assert answer.client[0] == answer.source[0] == view.address(source)
    (answer,) = view.ask(source, ("TCP", view.cluster_ips["host"], 80))
    assert (answer.server, answer.client[0]) == ("worker2", view.address(source))


def test_a_node_reaches_itself_with_its_own_address(view: LabView) -> None:
    """It uses its address in the node network, also through a Service.

    It never uses the address of a bridge.
    """
    node_address = view.address("node:worker2")
    direct, by_service = view.ask(
        "node:worker2", ("TCP", node_address, 7070), ("TCP", view.cluster_ips["host"], 80)
    )
    assert (direct.client, by_service.client[0]) == (direct.source, node_address)
    assert direct.source[0] == node_address


@pytest.mark.parametrize("source", PODS)
def test_traffic_out_of_the_cluster_is_masqueraded(view: LabView, source: str) -> None:
    """External hosts see the node's address for pods and for the node itself."""
    (answer,) = view.ask(source, ("TCP", view.address("ext:client"), 8080))
    assert (answer.server, answer.client[0], answer.source[0]) == (
        "client",
        view.node_of(source),
        view.address(source),
    )
    (answer,) = view.ask("node:worker", ("TCP", view.address("ext:client"), 8080))
    assert (answer.server, answer.client[0]) == ("client", answer.source[0])


def test_external_hosts_cannot_reach_pods_and_cluster_ips(view: LabView) -> None:
    """The routers have no routes to pods.

    Nodes are reachable and see the client's address.
    """
    addresses = [*(view.address(name) for name in PODS), view.cluster_ips["a"]]
    for answer in view.ask("ext:client", *(("TCP", address, 8080) for address in addresses)):
        assert answer.error in ("unreachable", "silence"), answer
    (answer,) = view.ask("ext:client", ("TCP", view.address("node:worker2"), 7070))
    assert (answer.server, answer.client[0]) == ("worker2", answer.source[0])
    assert answer.source[0] == view.address("ext:client")


def test_containers_of_a_pod_share_localhost(view: LabView) -> None:
    """They share the port space, and both are reachable at the pod's address.

    Other pods have a localhost of their own.
    """
    main, side, from_outside = (
        *view.ask("b", ("TCP", view.localhost, 8080), ("TCP", view.localhost, 9090)),
        *view.ask("a", ("TCP", view.address("b"), 9090)),
    )
    assert (main.server, side.server, from_outside.server) == ("b", "b", "b")
    assert main.client[0] == side.client[0] == view.localhost
    assert view.ask("a", ("TCP", view.localhost, 9090))[0].error == "refused"


def test_a_service_uses_all_its_pods(view: LabView) -> None:
    """Each pod answers some of a hundred connections, from pods and from a node."""
    for source in ("a", "c", "node:control-plane"):
        assert {
            answer.server
            for answer in view.ask(source, *[("TCP", view.cluster_ips["all"], 80)] * 100)
        } == set(PODS)


def test_session_affinity_sends_a_client_to_one_pod(view: LabView) -> None:
    """With ClientIP, all connections after the first reach the same pod.

    The rules learn from an existing connection. Connections that start at the same moment may reach
    different pods, as in a cluster.
    """
    for source in PODS:
        target = ("TCP", view.cluster_ips["sticky"], 80)
        (first,) = view.ask(source, target)
        assert {answer.server for answer in view.ask(source, *[target] * 20)} == {first.server}


def test_a_service_without_pods_refuses_connections(view: LabView) -> None:
    """It refuses at once, for pods and nodes."""
    for source in ("a", "c", "node:worker"):
        (answer,) = view.ask(source, ("TCP", view.cluster_ips["nobody"], 80))
        assert answer.error == "refused"


def test_an_unknown_port_of_a_service_is_refused(view: LabView) -> None:
    """In the mode iptables, the packet leaves by the default route instead."""
    expected = (
        ("unreachable", "silence")
        if view.inspected["kube_proxy_mode"] == "iptables"
        else ("refused",)
    )
    for (answer,) in view.ask_from(("a", "c", "node:worker"), ("TCP", view.cluster_ips["a"], 4711)):
        assert answer.error in expected


def test_internal_traffic_policy_local_drops_packets_without_a_local_endpoint(
    view: LabView,
) -> None:
    """The policy uses only endpoints on the client's node."""
    near = ("TCP", view.cluster_ips["near"], 80)
    assert [view.ask(source, near)[0].server for source in ("b", "node:worker")] == ["a", "a"]
    assert [answer.error for (answer,) in view.ask_from(("c", "node:worker2"), near)] == [
        "silence",
        "silence",
    ]


def test_a_load_balancer_address_is_reachable_from_everywhere(view: LabView) -> None:
    """With the policy Cluster, the pod sees the node that received the packet.

    With Local, it sees the client itself, on the pod's own node.
    """
    nodes = {view.address(name) for name in NODES}
    (answer,) = view.ask("ext:client", ("TCP", view.load_balancer_ips["outside"], 80))
    assert answer.server == "b"
    assert answer.client[0] in nodes
    (answer,) = view.ask("ext:client", ("TCP", view.load_balancer_ips["outside-local"], 80))
    assert (answer.server, answer.client[0]) == ("c", answer.source[0])
    for source in ("a", "c", "node:worker", "node:control-plane"):
        answers = view.ask(
            source,
            *(("TCP", view.load_balancer_ips[name], 80) for name in ("outside", "outside-local")),
        )
        assert [answer.server for answer in answers] == ["b", "c"]
    for source in ("ext:client", "a"):
        assert (
            view.ask(source, ("TCP", view.load_balancer_ips["outside-nobody"], 80))[0].error
            == "refused"
        )
    # The mode iptables does not refuse packets of the node itself, because its chain OUTPUT has no
    # rules for external addresses. The packet goes to the load balancer. If the load balancer sends
    # it back to the same node, that node drops a packet with its own source address.
    expected = (
        ("refused", "silence") if view.inspected["kube_proxy_mode"] == "iptables" else ("refused",)
    )
    assert (
        view.ask("node:worker", ("TCP", view.load_balancer_ips["outside-nobody"], 80))[0].error
        in expected
    )


@pytest.mark.parametrize("source", [*PODS, *NODES])
def test_all_places_answer_pings(view: LabView, source: str) -> None:
    """The machine's ping program reaches every pod, every node and the external host."""
    script = 'for address; do ping -c1 -W2 "$address" || exit 1; done'
    destinations = [view.address(name) for name in (*PODS, *NODES, "ext:client")]
    view.lab.inside(view.places[source], "sh", "-c", script, "sh", *destinations)


def test_the_matrix_agrees_with_these_tests(view: LabView) -> None:
    """The command sends its own packets, and compares them with its own expectations.

    These depend neither on the datapath nor on the kernel.
    """
    report = view.lab.run("ping", "-o", "json").json
    assert report["ok"]
    outcomes = {(cell["from"], cell["to"]): cell["found"] for cell in report["cells"]}
    family = f" IPv{view.version}" if len(view.places["a"]["addresses"]) > 1 else ""
    assert outcomes["default/a", f"svc:default/nobody:80/TCP{family}"] == "refused"
    assert outcomes["default/c", f"svc:default/near:80/TCP{family}"] == "silence"
    assert outcomes["default/a", "default/c"] == "answer"
    assert outcomes["ext:client", "default/a"] in ("unreachable", "silence")


def test_packets_of_1500_bytes_are_not_fragmented(view: LabView) -> None:
    """They have the DF bit, from pod to pod and to an external host."""
    payload = 1500 - (20 if view.version == 4 else 40) - 8
    for destination in (view.address("c"), view.address("ext:client")):
        view.lab.inside(
            view.places["a"], "ping", "-c1", "-W2", "-M", "do", "-s", str(payload), destination
        )


def test_neighbours_are_dynamic_or_permanent_as_configured(view: LabView) -> None:
    """With dynamic, ARP and neighbour discovery fill the tables.

    With permanent, all entries exist before the first packet.
    """
    command = ("ip", f"-{view.version}", "neighbor", "show", "nud", "permanent")
    permanent_entries = view.lab.inside(view.places["node:worker"], *command).splitlines()
    assert bool(permanent_entries) == (view.inspected["neighbors"] == "permanent")
