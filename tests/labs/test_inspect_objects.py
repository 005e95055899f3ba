"""`inspect` of a Service, a workload and a pod: one page about their kernel state."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from kubenetlab.observe.inspection import Inspection
from tests.clusters import deployment, pod, service
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab

EDGE = service("edge", 80, "http", type="NodePort").replace(
    "selector: {app: edge}", "selector: {app: web}"
)
MANIFEST = pod("client") + deployment("web", 2) + service("web") + service("web-2") + EDGE


@pytest.fixture(scope="module", params=["nftables", "nftables,layout=fast", "iptables", "ebpf"])
def running(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Yield a lab with two endpoints on two nodes, in each kube-proxy mode of this machine."""
    for lab in new_lab():
        lab.up(MANIFEST, "--proxy", request.param)
        lab.mode = request.param  # type: ignore[attr-defined]
        yield lab


def test_inspect_returns_a_document_with_the_expected_types(running: Lab) -> None:
    """The document converts to `Inspection`, the type that commands use."""
    document = running.run("inspect", "-o", "json").json
    inspection = msgspec.convert(document, Inspection)
    assert [list(pod) for pod in inspection["pods"]] == [list(pod) for pod in document["pods"]]


def test_inspect_shows_a_service_on_every_node(running: Lab) -> None:
    """The page has its addresses, endpoints and rules.

    It has nothing of another Service whose name begins with the same text.
    """
    report = running.run("inspect", "svc:web", "-o", "json").json
    web, other_service = running.service("web"), running.service("web-2")
    assert (report["kind"], report["name"], report["cluster_ips"]) == (
        "Service",
        "default/web",
        web["cluster_ips"],
    )
    assert {endpoint["pod"] for endpoint in report["endpoints"]} == {
        f"default/{pod['name']}" for pod in running.pods("web")
    }
    assert [node["name"] for node in report["nodes"]] == [
        node["name"] for node in running.inspected["nodes"]
    ]
    for node in report["nodes"]:
        text = "\n".join(node["rules"])
        assert web["cluster_ips"][0] in text
        assert other_service["cluster_ips"][0] not in text
        assert all(pod["addresses"][0] in text for pod in running.pods("web"))
    assert report["untracked"] == []


def test_inspect_shows_tracked_connections(running: Lab) -> None:
    """Each connection has its endpoint.

    A hairpin connection is masqueraded to the node's address.
    """
    client, server = running.pod("client"), running.pod("web")
    running.run("ping", "client", "svc:web", "--count", "20")
    running.run("ping", server["name"], "svc:web", "--count", "40")
    report = running.run("inspect", "svc:web", "-o", "json").json
    address, cluster_ip = client["addresses"][0], running.service("web")["cluster_ips"][0]
    clients_entries = [
        entry
        for entry in report["conntrack"]
        if entry["client"].startswith(f"{address}:") and entry["node"] == client["node"]
    ]
    endpoints = {f"{endpoint['address']}:{endpoint['port']}" for endpoint in report["endpoints"]}
    is_bpf = running.mode == "ebpf"  # type: ignore[attr-defined]
    assert len(clients_entries) == 20
    assert {entry["server"] for entry in clients_entries} == endpoints
    assert {entry["destination"] for entry in clients_entries} == (
        endpoints if is_bpf else {f"{cluster_ip}:80"}
    )
    assert {entry["protocol"] for entry in clients_entries} == {"TCP"}
    notes = "\n".join(report["notes"])
    if is_bpf:
        assert "eBPF: programs at tc translate before connection tracking" in notes
        return
    (node,) = [node for node in running.inspected["nodes"] if node["name"] == server["node"]]
    hairpin = [
        entry
        for entry in report["conntrack"]
        if entry["client"].partition(":")[0] == entry["server"].partition(":")[0]
    ]
    assert {entry["seen_as"].partition(":")[0] for entry in hairpin} == {node["addresses"][0]}
    assert "hairpin: a pod that reaches itself" in notes
    assert "masquerade: clients outside 10.244.0.0/16" in notes
    assert "masquerade: connections to node ports" not in notes


def test_inspect_explains_a_node_port(running: Lab) -> None:
    """The page has its entry, and the reason why the server sees the node."""
    page = running.run("inspect", "svc:edge").out
    (port,) = running.service("edge")["ports"]
    assert f"80/TCP  node port {port['node_port']}" in page
    assert any(str(port["node_port"]) in line for line in page.split("On ", 1)[1].splitlines())
    if running.mode != "ebpf":  # type: ignore[attr-defined]
        assert "the server sees that node, not the client (externalTrafficPolicy: Cluster)" in page


def test_inspect_reports_a_service_without_endpoints(running: Lab) -> None:
    """Connections to its ports are rejected."""
    page = running.run("inspect", "svc/web-2").out
    assert "Endpoints:         none" in page
    assert "no ready endpoint: at least one port is rejected at once." in page


def test_inspect_shows_pods_and_workloads_with_their_services(running: Lab) -> None:
    """The page of a pod also has the node's end of its link, routes to it, and its rules."""
    server = running.pod("web")
    report = running.run("inspect", server["name"], "-o", "json").json
    assert (report["kind"], report["name"], report["services"]) == (
        "Pod",
        f"default/{server['name']}",
        ["default/web", "default/edge"],
    )
    assert any("eth0" in line for line in report["objects"])
    for node in report["nodes"]:
        text = "\n".join(node["rules"])
        assert server["addresses"][0] in text
        assert "route 10.244." in text
        assert (f"port {server['host_ifname']} " in text) == (node["name"] == server["node"])
    workload = running.run("inspect", "deploy:web", "-o", "json").json
    assert (workload["kind"], len(workload["pods"])) == ("Deployment", 2)
    page = running.run("inspect", "deploy:web").out
    assert "Deployment default/web: its pods" in page
    assert "Services:          svc:default/web, svc:default/edge" in page


def test_a_missing_object_is_a_usage_error(running: Lab) -> None:
    """The message suggests similar names."""
    assert (
        "there is no Service default/wbe; did you mean svc:default/web"
        in running.run("inspect", "svc:wbe", status=2).err
    )
    assert "there is no pod default/wbe" in running.run("inspect", "wbe", status=2).err


NO_PORT = """\
apiVersion: v1
kind: Service
metadata: {name: manual}
spec: {ports: [{port: 80, name: http}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: manual-1, labels: {kubernetes.io/service-name: manual}}
addressType: IPv4
endpoints: [{addresses: [10.244.1.2]}]
ports: [{name: http}]
---
"""


def test_a_port_without_a_number_is_no_endpoint(lab: Lab) -> None:
    """kube-proxy ignores it, so a connection is refused, and `ping` names the reason."""
    lab.up(NO_PORT + pod("client"))
    assert lab.service("manual")["endpoints"] == []
    result = lab.run("ping", "client", "svc:manual")
    assert "refused, as promised: the Service has no ready endpoint" in result.out
