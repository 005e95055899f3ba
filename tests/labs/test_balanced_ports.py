"""Load balancers that are proxies (ipMode Proxy) contact nodes at their node ports.

Their address is not an address of the nodes.
"""

from __future__ import annotations

import pytest

from tests.clusters import pod
from tests.labs.lab import Lab
from tests.labs.lab_view import LabView

MANIFEST = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{role: control-plane}, {role: worker, name: n1}, {role: worker, name: n2}]
networking: {ipFamily: dual, kubeProxyMode: PROXY}
external: [{name: client, address: 198.51.100.10}, {name: other, address: 198.51.100.11}]
---
""" + (
    pod("a", spec=", nodeName: n1", meta=", labels: {app: web}")
    + pod("b", spec=", nodeName: n2").removesuffix("---\n")
)


def service(name: str, *, ip_mode: str = "Proxy", app: str = "web", **spec: object) -> str:
    fields = "".join(f", {key}: {value}" for key, value in spec.items())
    return f"""---
apiVersion: v1
kind: Service
metadata: {{name: {name}, annotations: {{kubenetlab.dev/load-balancer-ip-mode: {ip_mode}}}}}
spec:
  {{type: LoadBalancer, ipFamilyPolicy: RequireDualStack, selector: {{app: {app}}}{fields}, ports: [
    {{name: tcp, port: 80, targetPort: 8080}},
    {{name: udp, port: 81, protocol: UDP, targetPort: 8081}}]}}
"""


SERVICES = (
    service("web"),
    service("virtual", ip_mode="VIP", externalTrafficPolicy="Local"),
    service("local", externalTrafficPolicy="Local"),
    service("picky", loadBalancerSourceRanges='["198.51.100.10/32"]'),
    service("empty", app="nobody"),
    service("portless", allocateLoadBalancerNodePorts="false"),
)
"""Services over the same pod on n1."""


@pytest.mark.parametrize(("proxy", "version"), [("nftables", 4), ("nftables", 6), ("iptables", 4)])
def test_endpoints_see_the_load_balancer_or_its_node(lab: Lab, proxy: str, version: int) -> None:
    """Endpoints never see the client, whatever its location.

    With the policy Local, the pod sees the load balancer. With Cluster, it sees the node that the
    load balancer chose.
    """
    lab.up(MANIFEST.replace("PROXY", proxy) + "".join(SERVICES))
    view = LabView(lab, version)
    nodes = {view.address(f"node:{name}") for name in ("n1", "n2")}
    balancer = "172.18.0.1" if version == 4 else "fd00:172:18::1"
    for source in ("ext:client", "b", "node:n1", "node:n2"):
        for target in (
            ("TCP", view.load_balancer_ips["web"], 80),
            ("UDP", view.load_balancer_ips["web"], 81),
        ):
            answers = view.ask(source, *[target] * 6)
            assert {answer.server for answer in answers} == {"a"}
            assert {answer.client[0] for answer in answers} == nodes
        (answer,) = view.ask(source, ("TCP", view.load_balancer_ips["local"], 80))
        assert (answer.server, answer.client[0]) == ("a", balancer)
    (answer,) = view.ask("b", ("TCP", view.load_balancer_ips["virtual"], 80))
    # A VIP, in contrast, is handled by the client's own node.
    assert (answer.server, answer.client[0]) == ("a", view.address("b"))


def test_the_load_balancer_enforces_source_ranges_and_refuses_unusable_ports(lab: Lab) -> None:
    """kube-proxy does not know the address of the load balancer.

    The node refuses a port without endpoints; the load balancer refuses a port without a node port.
    """
    lab.up(MANIFEST.replace("PROXY", "nftables") + "".join(SERVICES))
    view = LabView(lab, 4)
    picky = ("TCP", view.load_balancer_ips["picky"], 80)
    assert (view.ask("ext:client", picky)[0].server, view.ask("ext:other", picky)[0].error) == (
        "a",
        "silence",
    )
    for name in ("empty", "portless"):
        for source in ("ext:client", "b"):
            assert view.ask(source, ("TCP", view.load_balancer_ips[name], 80))[0].error == "refused"
    assert lab.run("ping", "-o", "json").json["ok"]


def test_the_ip_mode_can_change_while_the_address_stays(lab: Lab) -> None:
    """Afterwards the pod sees the client, or the load balancer again."""
    lab.up(MANIFEST.replace("PROXY", "nftables") + service("web", externalTrafficPolicy="Local"))
    address = LabView(lab, 4).load_balancer_ips["web"]
    for ip_mode in ("VIP", "Proxy"):
        lab.run(
            "apply", "-f", "-", stdin=service("web", ip_mode=ip_mode, externalTrafficPolicy="Local")
        )
        view = LabView(lab, 4)
        assert view.load_balancer_ips["web"] == address
        (answer,) = view.ask("ext:client", ("TCP", address, 80))
        assert answer.server == "a"
        assert (answer.client[0] == answer.source[0]) == (ip_mode == "VIP")
        assert lab.run("diff").out.strip() == "the kernel is as it should be"
