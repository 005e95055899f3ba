"""Addresses of Services announced by BGP: which nodes announce them, and flows over several."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_network

import pytest

from kubenetlab.kernel.features.detection import has_program
from tests.labs.lab import Lab, wait_for
from tests.labs.test_bgp_router import address, bird_routes, manifest

pytestmark = pytest.mark.skipif(
    not has_program("bird"), reason="needs BIRD 2 (apt-get install bird2)"
)
KUBE_ROUTER = (
    "{type: kube-router, advertiseClusterIp: true, advertiseExternalIp: true, "
    "advertiseLoadbalancerIp: true}"
)
RANGES = """\
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec:
  serviceClusterIPs: [{cidr: 10.96.0.0/16}]
  serviceExternalIPs: [{cidr: 192.0.2.0/24}]
  serviceLoadBalancerIPs: [{cidr: 203.0.113.0/24}]
"""
EXTERNAL = "192.0.2.80"
CLIENT = "198.51.100.10"
FLOWS = 60


def service(policy: str = "Cluster", annotations: str = "") -> str:
    return (
        "---\napiVersion: v1\nkind: Service\n"
        f"metadata: {{name: web, annotations: {{{annotations}}}}}\n"
        f"spec: {{type: LoadBalancer, externalTrafficPolicy: {policy}, clusterIP: 10.96.7.7, "
        f"externalIPs: [{EXTERNAL}], loadBalancerIP: 203.0.113.7, selector: {{app: web}}, "
        "ports: [{port: 80, targetPort: 8080}]}\n"
    )


def sources(lab: Lab, target: str) -> Counter[str]:
    """Return the source addresses that servers see of many connections from outside."""
    (host,) = lab.inspected["external"]
    answers = lab.ask(host, *[("TCP", target, 80)] * FLOWS)
    return Counter(each.client[0] if each.server else each.error for each in answers)


def gateways(lab: Lab, prefix: str) -> set[str]:
    """Return the nodes to which the router sends packets for a prefix."""
    return bird_routes(lab, "fabric:router").get(prefix, set())


def bridges(lab: Lab) -> set[str]:
    """Return the addresses that bridges of nodes can have."""
    return {
        str(ip_network(cidr)[1]) for node in lab.inspected["nodes"] for cidr in node["pod_cidrs"]
    }


@pytest.mark.parametrize(
    ("cni", "more", "prefixes"),
    [
        (KUBE_ROUTER, "", ["10.96.7.7", EXTERNAL, "203.0.113.7"]),
        ("calico", RANGES, ["10.96.0.0/16", "192.0.2.0/24", "203.0.113.0/24"]),
    ],
    ids=["kube-router", "calico"],
)
def test_hosts_outside_reach_services_by_every_node(
    lab: Lab, cni: str, more: str, prefixes: list[str]
) -> None:
    """The router has several next hops, and distributes connections by addresses and ports."""
    lab.up(manifest(cni) + service() + more)
    assert lab.problems == []
    nodes = {address(lab, name) for name in ("control-plane", "worker", "worker2")}
    for prefix in prefixes:
        assert gateways(lab, prefix) == nodes, prefix
    for target in ("10.96.7.7", EXTERNAL, "203.0.113.7"):
        seen = sources(lab, target)
        # The node that gets the packet masquerades it, to its own pods with its bridge's address.
        assert set(seen) <= nodes | bridges(lab), (target, seen)
        assert len(set(seen) & nodes) > 1, (target, seen)
    # Nodes implement Services themselves, and have no routes to them.
    assert not [each for each in bird_routes(lab, "node:worker") if not each.startswith("10.244")]
    assert lab.run("check", "-o", "json").json["ok"]


def test_a_node_that_withdraws_its_routes_gets_no_more_connections(lab: Lab) -> None:
    """All connections go to the remaining nodes, and come back with the session."""
    lab.up(manifest(KUBE_ROUTER) + service())
    gone = address(lab, "worker2")
    assert gone in sources(lab, EXTERNAL)
    lab.run("exec", "node:worker2", "--", "birdc", "disable", "Router_172_18_2_1")
    wait_for(lambda: gone not in gateways(lab, EXTERNAL), "the withdrawal")
    seen = sources(lab, EXTERNAL)
    assert gone not in seen
    # Pods of the node have no route either, so connections to them fail.
    assert set(seen) & {address(lab, "worker"), address(lab, "control-plane")}
    lab.run("exec", "node:worker2", "--", "birdc", "enable", "Router_172_18_2_1")
    wait_for(lambda: gone in gateways(lab, EXTERNAL), "its routes")


@pytest.mark.parametrize(
    ("cni", "more"), [(KUBE_ROUTER, ""), ("calico", RANGES)], ids=["kube-router", "calico"]
)
def test_with_the_policy_local_nodes_with_endpoints_announce(lab: Lab, cni: str, more: str) -> None:
    """Pods see the client; a node whose last endpoint goes withdraws the address."""
    lab.up(manifest(cni) + service("Local") + more)
    assert lab.problems == []
    workers = {address(lab, "worker"), address(lab, "worker2")}
    for target in (EXTERNAL, "203.0.113.7"):
        assert gateways(lab, target) == workers
        assert set(sources(lab, target)) == {CLIENT}
    lab.run("delete", "pod", "b")
    wait_for(lambda: gateways(lab, EXTERNAL) == {address(lab, "worker")}, "the withdrawal")
    assert set(sources(lab, EXTERNAL)) == {CLIENT}


def test_annotations_of_a_service_precede_the_options(lab: Lab) -> None:
    """They can change while the lab is up; service.local is as the policy Local."""
    prefix = "kube-router.io/service.advertise"
    local = "kube-router.io/service.local: ''"
    only = f"{prefix}.clusterip: 'true', {prefix}.externalip: 'false', {local}"
    lab.up(manifest("kube-router") + service(annotations=only))
    workers = {address(lab, "worker"), address(lab, "worker2")}
    assert gateways(lab, "10.96.7.7") == workers
    assert not gateways(lab, EXTERNAL)
    assert lab.problems == []
    lab.apply(service(annotations=f"{prefix}.externalip: 'true'"))
    wait_for(lambda: len(gateways(lab, EXTERNAL)) == 3, "the other address")
    wait_for(lambda: not gateways(lab, "10.96.7.7"), "the withdrawal")
    assert lab.problems == []
    wrong = lab.run(
        "apply", "-f", "-", stdin=service(annotations=f"{prefix}.externalip: 'yes'"), status=2
    )
    assert 'expected "true" or "false", found yes' in wrong.err.replace('"yes"', "yes")
