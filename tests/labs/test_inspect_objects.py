"""inspect of a Service, a workload and a pod: one page of what it is in the kernel."""

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
    """Two endpoints on two nodes, in each mode of kube-proxy that this machine has."""
    for lab in new_lab():
        lab.up(MANIFEST, "--proxy", request.param)
        lab.mode = request.param  # type: ignore[attr-defined]
        yield lab


def test_inspect_has_the_types_that_the_commands_rely_on(running: Lab) -> None:
    """Every field of `Inspection` is there, with its type."""
    document = running.run("inspect", "-o", "json").json
    inspection = msgspec.convert(document, Inspection)
    assert [list(pod) for pod in inspection["pods"]] == [list(pod) for pod in document["pods"]]


def test_a_service_is_on_every_node(running: Lab) -> None:
    """Its addresses, endpoints and rules; nothing of the Service whose name begins alike."""
    found = running.run("inspect", "svc:web", "-o", "json").json
    web, other = running.service("web"), running.service("web-2")
    assert (found["kind"], found["name"], found["cluster_ips"]) == (
        "Service",
        "default/web",
        web["cluster_ips"],
    )
    assert {endpoint["pod"] for endpoint in found["endpoints"]} == {
        f"default/{pod['name']}" for pod in running.pods("web")
    }
    assert [node["name"] for node in found["nodes"]] == [
        node["name"] for node in running.seen["nodes"]
    ]
    for node in found["nodes"]:
        text = "\n".join(node["rules"])
        assert web["cluster_ips"][0] in text
        assert other["cluster_ips"][0] not in text
        assert all(pod["addresses"][0] in text for pod in running.pods("web"))
    assert found["untracked"] == []


def test_connections_are_tracked_from_client_to_endpoint(running: Lab) -> None:
    """Each with the endpoint that answers; a hairpin connection is masqueraded to the node's
    address.
    """
    client, server = running.pod("client"), running.pod("web")
    running.run("ping", "client", "svc:web", "--count", "20")
    running.run("ping", server["name"], "svc:web", "--count", "40")
    found = running.run("inspect", "svc:web", "-o", "json").json
    address, cluster_ip = client["addresses"][0], running.service("web")["cluster_ips"][0]
    own = [
        entry
        for entry in found["conntrack"]
        if entry["client"].startswith(f"{address}:") and entry["node"] == client["node"]
    ]
    endpoints = {f"{endpoint['address']}:{endpoint['port']}" for endpoint in found["endpoints"]}
    is_bpf = running.mode == "ebpf"  # type: ignore[attr-defined]
    assert len(own) == 20
    assert {entry["server"] for entry in own} == endpoints
    assert {entry["destination"] for entry in own} == (
        endpoints if is_bpf else {f"{cluster_ip}:80"}
    )
    assert {entry["protocol"] for entry in own} == {"TCP"}
    notes = "\n".join(found["notes"])
    if is_bpf:
        assert "eBPF: programs at tc translate before connection tracking" in notes
        return
    (node,) = [node for node in running.seen["nodes"] if node["name"] == server["node"]]
    hairpin = [
        entry
        for entry in found["conntrack"]
        if entry["client"].partition(":")[0] == entry["server"].partition(":")[0]
    ]
    assert {entry["seen_as"].partition(":")[0] for entry in hairpin} == {node["addresses"][0]}
    assert "hairpin: a pod that reaches itself" in notes
    assert "masquerade: clients outside 10.244.0.0/16" in notes
    assert "masquerade: connections to node ports" not in notes


def test_a_node_port_is_explained(running: Lab) -> None:
    """Its entry, and why the server sees the node."""
    page = running.run("inspect", "svc:edge").out
    (port,) = running.service("edge")["ports"]
    assert f"80/TCP  node port {port['node_port']}" in page
    assert any(str(port["node_port"]) in line for line in page.split("On ", 1)[1].splitlines())
    if running.mode != "ebpf":  # type: ignore[attr-defined]
        assert "the server sees that node, not the client (externalTrafficPolicy: Cluster)" in page


def test_a_service_without_endpoints_is_rejected(running: Lab) -> None:
    """The page says so."""
    page = running.run("inspect", "svc/web-2").out
    assert "Endpoints:         none" in page
    assert "no ready endpoint: at least one port is rejected at once." in page


def test_a_pod_and_a_workload_are_shown_with_their_services(running: Lab) -> None:
    """The namespace as before; beside it the node's end of its link, routes to it, and the rules
    that mention it.
    """
    server = running.pod("web")
    found = running.run("inspect", server["name"], "-o", "json").json
    assert (found["kind"], found["name"], found["services"]) == (
        "Pod",
        f"default/{server['name']}",
        ["default/web", "default/edge"],
    )
    assert any("eth0" in line for line in found["objects"])
    for node in found["nodes"]:
        text = "\n".join(node["rules"])
        assert server["addresses"][0] in text
        assert "route 10.244." in text
        assert (f"port {server['host_ifname']} " in text) == (node["name"] == server["node"])
    workload = running.run("inspect", "deploy:web", "-o", "json").json
    assert (workload["kind"], len(workload["pods"])) == ("Deployment", 2)
    page = running.run("inspect", "deploy:web").out
    assert "Deployment default/web: its pods" in page
    assert "Services:          svc:default/web, svc:default/edge" in page


def test_what_is_not_there_is_a_usage_error(running: Lab) -> None:
    """With names that are near."""
    assert (
        "there is no Service default/wbe; did you mean svc:default/web"
        in running.run("inspect", "svc:wbe", status=2).err
    )
    assert "there is no pod default/wbe" in running.run("inspect", "wbe", status=2).err
