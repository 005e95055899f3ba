"""Access to Services from outside: node ports, external IPs, and load balancers with source ranges.

The tests cover answers and visible source addresses.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs.lab_view import PROXY_MODES, LabView, SharedLab, mode_in_document

VARIANTS = [
    *(
        (layout, family, version, proxy)
        for proxy in PROXY_MODES
        for layout, family, version in (("onlink", "dual", 6), ("routed", "dual", 4))
    ),
    *(("onlink", "ipv4", 4, "nftables"), ("routed", "ipv6", 6, "nftables")),
]
"""Each mode in both layouts and both IP versions; the default mode also with a single family."""
EXTERNAL_IPS = {
    "external": {4: "192.0.2.50", 6: "2001:db8:1::50"},
    "external-local": {4: "192.0.2.51", 6: "2001:db8:1::51"},
}
CLIENTS = {4: "198.51.100.10/32", 6: "2001:db8:51:100::10/128"}

PODS = ("a", "b", "c")
NODES = ("node:control-plane", "node:worker", "node:worker2")
SILENCE, REFUSED = "silence", "refused"


def manifest(layout: str, family: str, proxy: str) -> str:
    """Return pods a and b on one node, c on another, and one Service for each kind of access.

    Endpoints are b with the policy Cluster, and c with the policy Local.
    """
    versions = {"ipv4": (4,), "ipv6": (6,), "dual": (4, 6)}[family]

    def quoted(addresses: dict[int, str]) -> str:
        return ", ".join(f'"{addresses[version]}"' for version in versions)

    pods = "".join(
        f"""---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  containers:
  - {{name: main, image: agnhost, args: [netexec], ports: [{{containerPort: 8080}}]}}
"""
        for name, node in (("a", "worker"), ("b", "worker"), ("c", "worker2"))
    )
    services = {
        "open": "type: NodePort, selector: {app: b}, "
        "ports: [{name: tcp, port: 80, targetPort: 8080, nodePort: 30080}, "
        "{name: udp, port: 80, protocol: UDP, targetPort: 8081, nodePort: 30080}]",
        "kept": "type: NodePort, externalTrafficPolicy: Local, selector: {app: c}, "
        "ports: [{port: 80, targetPort: 8080, nodePort: 30090}]",
        "nobody": "type: NodePort, selector: {app: nobody}, ports: [{port: 80, nodePort: 30100}]",
        "allocated": "type: NodePort, selector: {app: b}, ports: [{port: 80, targetPort: 8080}]",
        "external": f"externalIPs: [{quoted(EXTERNAL_IPS['external'])}], selector: {{app: b}}, "
        "ports: [{port: 80, targetPort: 8080}]",
        "external-local": "type: NodePort, externalTrafficPolicy: Local, "
        f"externalIPs: [{quoted(EXTERNAL_IPS['external-local'])}], "
        "selector: {app: c}, ports: [{port: 80, targetPort: 8080}]",
        "restricted": "type: LoadBalancer, "
        f"loadBalancerSourceRanges: [{quoted(CLIENTS)}], selector: {{app: b}}, "
        "ports: [{port: 80, targetPort: 8080, nodePort: 30110}]",
        "bare": "type: LoadBalancer, allocateLoadBalancerNodePorts: false, selector: {app: b}, "
        "ports: [{port: 80, targetPort: 8080}]",
    }
    return f"""\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
networking:
  ipFamily: {family}
  kubeProxyMode: {mode_in_document(proxy)}
  cni: {{type: bridge, layout: {layout}}}
external: [{{name: client, address: 198.51.100.10}}, {{name: stranger, address: 198.51.100.20}}]
{pods}""" + "".join(
        f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{ipFamilyPolicy: PreferDualStack, {spec}}}\n"
        for name, spec in services.items()
    )


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[SharedLab]:
    shared = SharedLab(manifest)
    yield shared
    shared.down()


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda variant: "-".join(map(str, variant)))
def view(request: pytest.FixtureRequest, shared_lab: SharedLab) -> LabView:
    layout, family, version, proxy = request.param
    return LabView(shared_lab.up(layout, family, proxy), version)


Outcome = tuple[str, str]
"""(server, client address that it saw), or (error, nothing)."""


def outcomes(
    view: LabView, source: str, *targets: tuple[str, int] | tuple[str, int, str]
) -> list[Outcome]:
    """Return the outcome for each (address, port) or (address, port, protocol).

    All requests are sent at the same time.
    """
    answers = view.ask(
        source,
        *(
            (protocol, address, port)
            for address, port, protocol in ((*target, "TCP")[:3] for target in targets)
        ),
    )
    return [
        (answer.error, "") if answer.error else (answer.server, answer.client[0])
        for answer in answers
    ]


@pytest.mark.parametrize("source", ["ext:client", *PODS, *NODES])
def test_every_node_forwards_a_node_port_to_the_pod(view: LabView, source: str) -> None:
    """With the policy Cluster, the pod sees the contacted node.

    This also holds if the pod contacts its own Service.
    """
    node_addresses = [view.address(node) for node in NODES]
    results = outcomes(
        view,
        source,
        *((address, 30080, protocol) for protocol in ("TCP", "UDP") for address in node_addresses),
    )
    assert results == [("b", address) for address in node_addresses] * 2


def test_a_node_port_with_the_policy_local_keeps_client_addresses(view: LabView) -> None:
    """External clients reach only the pod's own node, and the pod sees them.

    Pods can contact any node, and the pod sees them, too. A node at its own address uses that
    address.
    """
    at_pods_node, at_other_node = (
        (view.address("node:worker2"), 30090),
        (view.address("node:worker"), 30090),
    )
    assert outcomes(view, "ext:client", at_pods_node, at_other_node) == [
        ("c", view.address("ext:client")),
        (SILENCE, ""),
    ]
    assert outcomes(view, "node:control-plane", at_other_node) == [(SILENCE, "")]
    for pod in ("a", "b"):
        assert outcomes(view, pod, at_pods_node, at_other_node) == [("c", view.address(pod))] * 2
    for node in NODES:
        assert outcomes(view, node, (view.address(node), 30090)) == [("c", view.address(node))]


@pytest.mark.parametrize("source", ["ext:client", "a", "node:worker"])
def test_a_node_port_without_pods_refuses_connections(view: LabView, source: str) -> None:
    """Every node refuses at once.

    So does a port that is no node port.
    """
    results = outcomes(
        view, source, *((view.address(node), port) for node in NODES for port in (30100, 30101))
    )
    assert set(results) == {(REFUSED, "")}


def test_node_ports_are_allocated(view: LabView) -> None:
    """Allocated ports are above the range that is reserved for requested ports.

    A load balancer gets one, too, unless it needs none.
    """
    node_ports = {
        service["name"]: [port["node_port"] for port in service["ports"]]
        for service in view.inspected["services"]
    }
    (allocated,), (bare,) = node_ports["allocated"], node_ports["bare"]
    assert 30086 <= allocated <= 32767
    assert bare is None
    node = view.address("node:control-plane")
    at_node, balanced = outcomes(
        view, "ext:client", (node, allocated), (view.load_balancer_ips["bare"], 80)
    )
    assert (at_node, balanced[0]) == (("b", node), "b")


def test_nodes_accept_packets_to_external_ips(view: LabView) -> None:
    """External clients reach the node that the router selects; pods and nodes use their own."""
    cluster_policy, local_policy = (
        (EXTERNAL_IPS[name][view.version], 80) for name in ("external", "external-local")
    )
    (server, client_address), local_outcome = outcomes(
        view, "ext:client", cluster_policy, local_policy
    )
    assert (server, local_outcome) == ("b", ("c", view.address("ext:client")))
    assert client_address in {view.address(node) for node in NODES}
    for pod in ("a", "b"):
        assert outcomes(view, pod, cluster_policy, local_policy) == [
            ("b", view.node_of(pod)),
            ("c", view.address(pod)),
        ]
    for node in NODES:
        assert outcomes(view, node, cluster_policy, local_policy) == [
            ("b", view.address(node)),
            ("c", view.address(node)),
        ]


def test_source_ranges_limit_the_clients_of_a_load_balancer(view: LabView) -> None:
    """Its address does not answer other hosts, pods and nodes.

    Its cluster IP and its node port answer all.
    """
    address, node, cluster_ip = (
        (view.load_balancer_ips["restricted"], 80),
        (view.address("node:worker2"), 30110),
        (view.cluster_ips["restricted"], 80),
    )
    assert outcomes(view, "ext:client", address)[0][0] == "b"
    for denied, permitted in view.ask_from(
        ("ext:stranger", "a", "node:worker"), ("TCP", *address), ("TCP", *node)
    ):
        assert (denied.error, permitted.server) == (SILENCE, "b")
    assert outcomes(view, "a", cluster_ip)[0][0] == "b"
