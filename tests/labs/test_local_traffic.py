"""Effect of kube-proxy's `detectLocalMode` on visible source addresses and lost connections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from kubenetlab.cli.input.mode_options import parse_mode
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab
from tests.labs.lab_view import PROXY_MODES, LabView, mode_in_document

NODE_PORT, LOST_PORT = 30080, 30081
"""Node ports of two equal Services.

Connection tracking remembers the endpoint of a lost connection for two minutes.
"""
TRIES = 24
"""Connections of one client.

With two endpoints, all of them reach the same one in one of 16 million runs.
"""


def manifest(proxy: str) -> str:
    """Return two clients on `worker`, and Services with an endpoint on each worker.

    Their externalTrafficPolicy is Local.
    """
    pods = "".join(
        f"---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\n"
        f"spec: {{nodeName: {node}, containers: [{{name: main, image: agnhost, "
        "args: [netexec], ports: [{containerPort: 8080}]}]}\n"
        for name, app, node in (
            ("client", "client", "worker"),
            ("second-client", "client", "worker"),
            ("near", "web", "worker"),
            ("far", "web", "worker2"),
        )
    )
    spec = (
        "type: NodePort, externalTrafficPolicy: Local, ipFamilyPolicy: PreferDualStack, "
        "selector: {app: web}"
    )
    services = "".join(
        f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{{spec}, ports: [{{port: 80, targetPort: 8080, nodePort: {port}}}]}}\n"
        for name, port in (("web", NODE_PORT), ("lost", LOST_PORT))
    )
    config = f"{{ipFamily: dual, kubeProxyMode: {mode_in_document(proxy)}}}"
    cluster = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
    return f"{cluster}networking: {config}\n{pods}{services}"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    for lab in new_lab():
        lab.up(manifest(PROXY_MODES[0]))
        yield lab


def view_with(lab: Lab, options: str, version: int) -> LabView:
    """Configure kube-proxy, and return a view of the lab once the kernel has the new rules."""
    lab.run("up", "--proxy", options)
    lab.run("diff")
    return LabView(lab, version)


def node_port_of_worker2(view: LabView, port: int = NODE_PORT) -> Counter[tuple[str, str]]:
    """Count the (endpoint, client address) pairs of connections to `worker2`.

    The client on `worker` connects to the node port of `worker2`.
    """
    target = ("TCP", view.address("node:worker2"), port)
    answers = view.ask("client", *[target] * TRIES)
    return Counter(
        (answer.server, answer.client[0]) if not answer.error else ("", answer.error)
        for answer in answers
    )


def seen_at_cluster_ip(view: LabView, client: str = "client") -> set[tuple[str, str]]:
    """Return the (endpoint, client address) pairs of connections to the cluster IP."""
    answers = view.ask(client, *[("TCP", view.cluster_ips["web"], 80)] * TRIES)
    return {
        (answer.server, answer.client[0]) if not answer.error else ("", answer.error)
        for answer in answers
    }


MODES_WITH_TWO_ENDPOINT_LISTS = [proxy for proxy in PROXY_MODES if not proxy.startswith("ipvs")]
"""Modes that use all endpoints for local traffic.

IPVS has one list of endpoints for every client.
"""
BRIDGE, OTHER_BRIDGE = (
    f"BridgeInterface,detectLocal.bridgeInterface={name}" for name in ("cbr0", "docker0")
)
DETECTORS = ("NodeCIDR", BRIDGE, "InterfaceNamePrefix,detectLocal.interfaceNamePrefix=cbr", "none")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("proxy", MODES_WITH_TWO_ENDPOINT_LISTS)
def test_detection_by_cluster_cidr_loses_connections(lab: Lab, proxy: str, version: int) -> None:
    """Another node's node port uses all endpoints.

    An endpoint on the client's own node answers directly, from an unknown address.
    """
    view = view_with(lab, proxy, version)
    answers = node_port_of_worker2(view, LOST_PORT)
    assert set(answers) == {("far", view.address("client")), ("", "silence")}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("detect", DETECTORS)
@pytest.mark.parametrize("proxy", PROXY_MODES)
def test_detection_by_node_loses_no_connection(
    lab: Lab, proxy: str, detect: str, version: int
) -> None:
    """Only the node's own endpoint answers, and sees the pod.

    At the cluster IP, pods of the node count as local, too.
    """
    view = view_with(lab, f"{proxy},detectLocalMode={detect}", version)
    client = view.address("client")
    assert node_port_of_worker2(view) == {("far", client): TRIES}
    assert seen_at_cluster_ip(view) == {("near", client), ("far", client)}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("proxy", PROXY_MODES)
def test_traffic_that_is_not_detected_as_local_is_masqueraded(
    lab: Lab, proxy: str, version: int
) -> None:
    """With the name of another bridge, endpoints see the node at the cluster IP."""
    view = view_with(lab, f"{proxy},detectLocalMode={OTHER_BRIDGE}", version)
    node = view.address("node:worker")
    assert seen_at_cluster_ip(view) == {("near", node), ("far", node)}


def test_nested_options_are_written_with_a_dot() -> None:
    """They become a mapping, as in the Cluster document."""
    expected = {
        "type": "iptables",
        "detectLocalMode": "BridgeInterface",
        "detectLocal": {"bridgeInterface": "cbr0"},
    }
    assert parse_mode(f"iptables,detectLocalMode={BRIDGE}") == expected
