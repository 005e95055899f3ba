"""Mode weave: MTU of pods, and nodes for which the subnet has no address left."""

from __future__ import annotations

import pytest

from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.datapath import cluster_modes, plan
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.links.bridge import Bridge
from kubenetlab.hoststate.links.veth import Veth
from kubenetlab.hoststate.links.vxlan import Vxlan
from kubenetlab.names import pod_netns
from tests.clusters import ONLINK, deployment, running, store
from tests.unit.datapath.plans import objects_of


def cluster(
    options: str = "",
    *,
    fabric: str = "{}",
    networking: str = "",
    nodes: int = 3,
    replicas: int = 3,
) -> Cluster:
    workers = ", {role: worker}" * (nodes - 1)
    text = (
        f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"nodes: [{{role: control-plane}}{workers}]\n"
        f"networking: {{cni: {{type: weave{options}}}{networking}}}\nfabric: {fabric}\n---\n"
    )
    return running(store(text + deployment(replicas=replicas)))


@pytest.mark.parametrize(
    ("options", "link_mtu", "family", "expected"),
    [
        ("", 1500, "ipv4", 1376),
        ("", 1400, "ipv4", 1350),
        ("", 1400, "ipv6", 1330),
        (", mtu: 8000", 1500, "dual", 1450),
        (", mtu: 8000", 9000, "ipv4", 8000),
        (", mtu: 1300", 1500, "ipv4", 1300),
    ],
)
def test_the_mtu_fits_the_links_of_the_fabric(
    options: str, link_mtu: int, family: str, expected: int
) -> None:
    """The kernel reduces the MTU of a tunnel that is too large; pods must have the same."""
    made = cluster(
        options, fabric=f"{{links: [{{mtu: {link_mtu}}}]}}", networking=f", ipFamily: {family}"
    )
    state = plan(made, ONLINK)
    (bridge,) = objects_of(state, "node/worker", Bridge)
    (tunnel,) = objects_of(state, "node/worker", Vxlan)
    pods = {
        link.mtu
        for pod in made.all(Pod)
        if not pod.spec.host_network
        for link in objects_of(state, pod_netns(pod.namespace, pod.name, pod.uid), Veth)
    }
    assert {bridge.mtu, tunnel.mtu, *pods} == {expected}


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        ("", []),
        (", mtu: 1450", []),
        (
            ", mtu: 8000",
            ["8000 is more than the links of the fabric carry: pods of control-plane get 1450"],
        ),
    ],
)
def test_an_mtu_that_nodes_cannot_have_is_a_warning(options: str, messages: list[str]) -> None:
    """An MTU that only the default gives is reduced without a word."""
    found = list(cluster_modes.check(cluster(options).config))
    assert [finding.message for finding in found] == messages
    assert all(finding.is_warning for finding in found)


def test_a_node_without_an_address_of_the_subnet() -> None:
    """Pods have taken the last address: the node comes up, and gets the next one that is free."""
    small = ", podSubnet: 10.32.0.0/28, nodeCIDRMaskSizeIPv4: 30"
    full = cluster(networking=small, nodes=3, replicas=11)
    config = cluster(networking=small, nodes=4).config
    grown = running(full.with_changes([config]))
    state = plan(grown, ONLINK)
    (bridge,) = objects_of(state, "node/worker3", Bridge)
    addresses = objects_of(state, "node/worker3", Address)
    assert [each.address for each in addresses if each.link == bridge.name] == []
