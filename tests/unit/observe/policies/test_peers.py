"""Members of the selectors and ranges of policies."""

from __future__ import annotations

import pytest

from kubenetlab.api.policies.network_policy import IPBlock, NetworkPolicy
from kubenetlab.observe.policies.peers import PolicyMembers, named
from tests.unit.observe.policies.worlds import EVERY_PEER, world

LAB = world(EVERY_PEER)
(POLICY,) = LAB.cluster.all(NetworkPolicy)
MEMBERS = PolicyMembers(LAB.cluster, LAB.seen)


def test_selected_pods_have_networks_of_their_own() -> None:
    """A pod with hostNetwork is part of its node; no policy selects it."""
    assert [pod.name for pod in MEMBERS.selected(POLICY)] == ["web", "far"]


def test_peers_are_pods_of_the_policys_namespace_or_of_selected_ones() -> None:
    own, dns, none, _ = POLICY.spec.ingress[0].from_
    assert [str(pod) for pod in named(MEMBERS.pods_of(POLICY, own))] == [
        f"default/client ({LAB.places['client'].address})"
    ]
    assert {pod.namespace for pod in MEMBERS.pods_of(POLICY, dns)} == {"kube-system"}
    assert MEMBERS.pods_of(POLICY, none) == []


@pytest.mark.parametrize(
    ("cidr", "except_", "names"),
    [
        ("172.18.0.0/16", ("172.18.0.3/32",), ["node:control-plane", "node:worker2"]),
        ("198.51.100.0/24", (), ["ext:client"]),
        ("10.244.1.2/32", (), ["default/web"]),
        ("::/0", (), []),
    ],
)
def test_ranges_have_pods_nodes_and_hosts(
    cidr: str, except_: tuple[str, ...], names: list[str]
) -> None:
    assert [host.name for host in MEMBERS.hosts_in(IPBlock(cidr, except_))] == names


def test_names_of_ports_are_those_of_the_destination() -> None:
    http, nope, *_ = POLICY.spec.ingress[0].ports
    pods = MEMBERS.selected(POLICY)
    assert MEMBERS.ports_named(http, pods) == [8080]
    assert MEMBERS.ports_named(nope, pods) == []
