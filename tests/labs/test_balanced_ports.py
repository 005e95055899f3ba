"""A load balancer that is a proxy (ipMode Proxy): its address is its own, and nodes are asked at
their node ports.
"""

from __future__ import annotations

import pytest

from tests.labs.lab import Lab
from tests.labs.world import World

MANIFEST = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{role: control-plane}, {role: worker, name: n1}, {role: worker, name: n2}]
networking: {ipFamily: dual, kubeProxyMode: PROXY}
external: [{name: client, address: 198.51.100.10}, {name: other, address: 198.51.100.11}]
---
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: main, image: agnhost, args: [netexec], ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b}
spec: {nodeName: n2, containers: [{name: main, image: agnhost, args: [netexec], ports: [{containerPort: 8080}]}]}
"""


def service(name: str, *, ip_mode: str = "Proxy", app: str = "web", **spec: object) -> str:
    fields = "".join(f", {key}: {value}" for key, value in spec.items())
    return f"""---
apiVersion: v1
kind: Service
metadata: {{name: {name}, annotations: {{kubenetlab.dev/load-balancer-ip-mode: {ip_mode}}}}}
spec:
  {{type: LoadBalancer, ipFamilyPolicy: RequireDualStack, selector: {{app: {app}}}{fields}, ports: [
    {{name: tcp, port: 80, targetPort: 8080}}, {{name: udp, port: 81, protocol: UDP, targetPort: 8081}}]}}
"""


SERVICES = (
    service("web"),
    service("virtual", ip_mode="VIP", externalTrafficPolicy="Local"),
    service("local", externalTrafficPolicy="Local"),
    service("picky", loadBalancerSourceRanges='["198.51.100.10/32"]'),
    service("empty", app="nobody"),
    service("portless", allocateLoadBalancerNodePorts="false"),
)
"""All over the same pod, on n1."""


@pytest.mark.parametrize(("proxy", "version"), [("nftables", 4), ("nftables", 6), ("iptables", 4)])
def test_connections_to_pods_are_the_balancers_own(lab: Lab, proxy: str, version: int) -> None:
    """Whoever asks: by the policy Local the pod sees the balancer itself, by Cluster the node that
    the balancer chose; never the client.
    """
    lab.up(MANIFEST.replace("PROXY", proxy) + "".join(SERVICES))
    world = World(lab, version)
    nodes = {world.address(f"node:{name}") for name in ("n1", "n2")}
    balancer = "172.18.0.1" if version == 4 else "fd00:172:18::1"
    for source in ("ext:client", "b", "node:n1", "node:n2"):
        for target in (("TCP", world.outside["web"], 80), ("UDP", world.outside["web"], 81)):
            answers = world.ask(source, *[target] * 6)
            assert {answer.who for answer in answers} == {"a"}
            assert {answer.seen[0] for answer in answers} == nodes
        (answer,) = world.ask(source, ("TCP", world.outside["local"], 80))
        assert (answer.who, answer.seen[0]) == ("a", balancer)
    (answer,) = world.ask("b", ("TCP", world.outside["virtual"], 80))
    assert (answer.who, answer.seen[0]) == (
        "a",
        world.address("b"),
    )  # what a VIP is beside it: taken in by the pod's own node


def test_the_balancer_keeps_the_ranges_and_refuses_what_leads_nowhere(lab: Lab) -> None:
    """kube-proxy does not know the address.

    A port without endpoints is refused by the node, one without a node port by the balancer.
    """
    lab.up(MANIFEST.replace("PROXY", "nftables") + "".join(SERVICES))
    world = World(lab, 4)
    picky = ("TCP", world.outside["picky"], 80)
    assert (world.ask("ext:client", picky)[0].who, world.ask("ext:other", picky)[0].error) == (
        "a",
        "silence",
    )
    for name in ("empty", "portless"):
        for source in ("ext:client", "b"):
            assert world.ask(source, ("TCP", world.outside[name], 80))[0].error == "refused"
    assert lab.run("ping", "-o", "json").json["ok"]


def test_the_mode_of_an_address_changes_while_it_is_used(lab: Lab) -> None:
    """The address stays; from then on the pod sees the client again, or the balancer again."""
    lab.up(MANIFEST.replace("PROXY", "nftables") + service("web", externalTrafficPolicy="Local"))
    address = World(lab, 4).outside["web"]
    for ip_mode in ("VIP", "Proxy"):
        lab.run(
            "apply", "-f", "-", given=service("web", ip_mode=ip_mode, externalTrafficPolicy="Local")
        )
        world = World(lab, 4)
        assert world.outside["web"] == address
        (answer,) = world.ask("ext:client", ("TCP", address, 80))
        assert answer.who == "a"
        assert (answer.seen[0] == answer.source[0]) == (ip_mode == "VIP")
        assert lab.run("diff").out.strip() == "the kernel is as it should be"
