"""Local traffic: which source addresses endpoints see, and which connections are lost, by
kube-proxy's `detectLocalMode`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from kubenetlab.cli.input.options import parse_mode
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab
from tests.labs.world import PROXIES, World, in_document

NODE_PORT, LOST_PORT = 30080, 30081
"""Of Services that are alike; connection tracking remembers for two minutes where a lost
connection's packets went.
"""
TRIES = 24
"""Connections of one client: with two endpoints, all of them reach the same one in one of 16
million runs.
"""


def manifest(proxy: str) -> str:
    """Return a client on `worker`, and Services by the policy Local with an endpoint on `worker`
    and one on `worker2`.
    """
    pods = "".join(
        f"---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\n"
        f"spec: {{nodeName: {node}, containers: [{{name: main, image: agnhost, args: [netexec], ports: [{{containerPort: 8080}}]}}]}}\n"
        for name, app, node in (
            ("client", "client", "worker"),
            ("near", "web", "worker"),
            ("far", "web", "worker2"),
        )
    )
    spec = "type: NodePort, externalTrafficPolicy: Local, ipFamilyPolicy: PreferDualStack, selector: {app: web}"
    services = "".join(
        f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{{spec}, ports: [{{port: 80, targetPort: 8080, nodePort: {port}}}]}}\n"
        for name, port in (("web", NODE_PORT), ("lost", LOST_PORT))
    )
    config = f"{{ipFamily: dual, kubeProxyMode: {in_document(proxy)}}}"
    return f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {config}\n{pods}{services}"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    for one in new_lab():
        one.up(manifest(PROXIES[0]))
        yield one


def world(lab: Lab, options: str, version: int) -> World:
    """The lab with these options of kube-proxy; the kernel has what they ask for."""
    lab.run("up", "--proxy", options)
    lab.run("diff")
    return World(lab, version)


def node_port_of_worker2(found: World, port: int = NODE_PORT) -> Counter[tuple[str, str]]:
    """Return (endpoint, source seen by it) → connections of the client on `worker` to the node port
    of `worker2`.
    """
    target = ("TCP", found.address("node:worker2"), port)
    answers = found.ask("client", *[target] * TRIES)
    return Counter(
        (answer.who, answer.seen[0]) if not answer.error else ("", answer.error)
        for answer in answers
    )


def seen_at_cluster_ip(found: World) -> set[tuple[str, str]]:
    """Return the (endpoint, source seen by it) pairs of the client's connections to the cluster IP."""
    answers = found.ask("client", *[("TCP", found.services["web"], 80)] * TRIES)
    return {
        (answer.who, answer.seen[0]) if not answer.error else ("", answer.error)
        for answer in answers
    }


BY_RANGE = [proxy for proxy in PROXIES if not proxy.startswith("ipvs")]
"""The modes that lead a pod's traffic to all endpoints; IPVS has one list of endpoints for every
client.
"""
BRIDGE, OTHER_BRIDGE = (
    f"BridgeInterface,detectLocal.bridgeInterface={name}" for name in ("cbr0", "docker0")
)
DETECTORS = ("NodeCIDR", BRIDGE, "InterfaceNamePrefix,detectLocal.interfaceNamePrefix=cbr", "none")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("proxy", BY_RANGE)
def test_by_the_cluster_range_some_connections_are_lost(lab: Lab, proxy: str, version: int) -> None:
    """Another node's node port leads to all endpoints.

    One on the client's own node answers it directly, as a stranger.
    """
    found = world(lab, proxy, version)
    answers = node_port_of_worker2(found, LOST_PORT)
    assert set(answers) == {("far", found.address("client")), ("", "silence")}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("detect", DETECTORS)
@pytest.mark.parametrize("proxy", PROXIES)
def test_by_the_node_no_connection_is_lost(lab: Lab, proxy: str, detect: str, version: int) -> None:
    """Only the node's own endpoint answers, and sees the pod; to the cluster IP pods of the node
    are no strangers either.
    """
    found = world(lab, f"{proxy},detectLocalMode={detect}", version)
    client = found.address("client")
    assert node_port_of_worker2(found) == {("far", client): TRIES}
    assert seen_at_cluster_ip(found) == {("near", client), ("far", client)}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("proxy", PROXIES)
def test_a_pod_that_is_no_local_traffic_is_masqueraded(lab: Lab, proxy: str, version: int) -> None:
    """With the name of another bridge, pods are strangers at a cluster IP: endpoints see the node."""
    found = world(lab, f"{proxy},detectLocalMode={OTHER_BRIDGE}", version)
    node = found.address("node:worker")
    assert seen_at_cluster_ip(found) == {("near", node), ("far", node)}


def test_the_command_line_names_fields_of_a_field() -> None:
    """A dot leads into a mapping, as in the Cluster document."""
    expected = {
        "type": "iptables",
        "detectLocalMode": "BridgeInterface",
        "detectLocal": {"bridgeInterface": "cbr0"},
    }
    assert parse_mode(f"iptables,detectLocalMode={BRIDGE}") == expected
