"""Values of Cluster documents that are refused, with the reason."""

from __future__ import annotations

import pytest

from tests.clusters import problems_of
from tests.unit.api.test_validate import CLUSTER, assert_rejected


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (
            "networking: {podSubnet: 10.96.0.0/16}",
            "networking.serviceSubnet: 10.96.0.0/16 overlaps the range of pods "
            "(networking.podSubnet: 10.96.0.0/16)",
        ),
        (
            "networking: {serviceSubnet: 172.18.0.0/24}",
            "networking.serviceSubnet: 172.18.0.0/24 overlaps the range of the nodes "
            "(172.18.0.0/16)",
        ),
        (
            "networking: {podSubnet: 10.244.0.0/23}",
            "networking.podSubnet: expected a range of /24 for each of 3 nodes; "
            "10.244.0.0/23 has 2",
        ),
        (
            "networking: {podSubnet: nonsense}",
            'networking.podSubnet: expected a range such as 10.244.0.0/16, found "nonsense"',
        ),
        ("networking: {cni: flanel}", 'networking.cni: "flanel" is not known'),
        (
            "networking: {cni: {name: flannel}}",
            "networking.cni: expected the name of a mode, or a mapping with the field `type`",
        ),
        (
            "networking: {policyEngin: nftables}",
            "networking.policyEngin: unknown field; did you mean policyEngine?",
        ),
        ("drifft: keep", "drifft: unknown field; did you mean drift?"),
        (
            "networking: {cni: {type: bridge, layot: x}}",
            "networking.cni.layot: unknown field; did you mean layout?",
        ),
        (
            "networking: {kubeProxyMode: nftable}",
            'networking.kubeProxyMode: "nftable" is not known; did you mean nftables?',
        ),
        ("networking: {podSubnet: []}", "networking.podSubnet: expected a string, found a list"),
        (
            "networking: {ipFamily: dual, podSubnet: 10.244.0.0/16}",
            "networking.podSubnet: expected one IPv4 range and one IPv6 range with ipFamily dual",
        ),
        (
            "networking: {ipFamily: ipv6, serviceSubnet: 10.96.0.0/16}",
            "networking.serviceSubnet: expected one IPv6 range with ipFamily ipv6",
        ),
        (
            "networking: {ipFamily: ipv6, podSubnet: 'fd00:10:244::/63'}",
            "networking.podSubnet: expected a range of /64 for each of 3 nodes; "
            "fd00:10:244::/63 has 2",
        ),
        (
            "networking: {ipFamily: dual, podSubnet: 'fd00:1::/56,10.244.0.0/16'}",
            "networking.serviceSubnet: expected the families in the order of podSubnet",
        ),
        (
            "networking: {ipFamily: ipv6, serviceSubnet: 'fd00:10:96::/64'}",
            "networking.serviceSubnet: expected a prefix length from 108 to 124, found 64",
        ),
        (
            "nodes: [{podCIDRs: [10.9.0.0/24]}]",
            "nodes[0].podCIDRs: expected a part of the pods' range 10.244.0.0/16, found "
            "10.9.0.0/24",
        ),
        (
            "nodes: [{podCIDRs: [10.244.7.0/24]}, {role: worker, podCIDRs: [10.244.7.128/25]}]",
            "nodes[1].podCIDRs: 10.244.7.128/25 overlaps 10.244.7.0/24 of node control-plane",
        ),
        (
            "nodes: [{podCIDRs: [10.244.7.0/31]}]",
            "nodes[0].podCIDRs: expected room for pods, at least a /30, found 10.244.7.0/31",
        ),
        (
            "nodes: [{podCIDRs: [10.244.0.128/25]}, {role: worker}, {role: worker}]\n"
            "networking: {podSubnet: 10.244.0.0/22, nodeCIDRMaskSizeIPv4: 23}",
            "networking.podSubnet: 10.244.0.0/22 has room for 1 more ranges of /23, but 2 "
            "nodes need one",
        ),
        (
            "nodes: [{podCIDRs: [10.244.7.0/28]}]\nnetworking: {ipam: {pools: [{name: db, "
            "first: 64, last: 80}]}}",
            "nodes[0].podCIDRs: 10.244.7.0/28 is too small for pool db (64 to 80)",
        ),
        (
            "external: [{name: a, address: '2001:db8:51:100::7'}]",
            "external[0].address: expected an IPv4 address with ipFamily ipv4",
        ),
        (
            "external: [{name: a, address: '198.51.100.7,198.51.100.8'}]",
            "external[0].address: expected one address per family",
        ),
        (
            "nodes: [{role: worker, name: a}, {role: worker, name: a}]",
            'nodes[1].name: "a" is already the name of another node',
        ),
        (
            "nodes: [{role: master}]",
            'nodes[0].role: expected one of control-plane, worker, found "master"',
        ),
        (
            "external: [{name: c, address: 198.51.100.1}]",
            "external[0].address: expected a free address of 198.51.100.0/24",
        ),
        ("name: Demo", "name: expected a DNS label (RFC 1123"),
        ("name: 7", "name: expected a string, found 7"),
        ("nodes: {}", "nodes: expected a list, found a mapping"),
        ("nodes: [{role: worker, name: router}]", "is reserved for a link of the lab"),
        ("external: [{name: br0, address: 198.51.100.9}]", "is reserved for a link of the lab"),
        ("networking: {podSubnet: 224.0.0.0/8}", "a range of unicast addresses"),
    ],
)
def test_an_invalid_cluster_document_is_rejected(cluster: str, message: str) -> None:
    """Ranges must not overlap, addresses must be in range, and modes must be known."""
    assert_rejected(f"{CLUSTER}{cluster}\n", message)


@pytest.mark.parametrize("cni", ["bridge", "calico", "weave", "cilium"])
@pytest.mark.parametrize(
    ("subnet", "advice"),
    [
        (
            "10.244.0.0/24",
            "set podSubnet to a /22 or larger, or networking.nodeCIDRMaskSizeIPv4 to 26 or more",
        ),
        (
            "10.244.0.0/27",
            "set podSubnet to a /22 or larger, or networking.nodeCIDRMaskSizeIPv4 to 29 or more",
        ),
        ("10.244.0.0/29", "set podSubnet to a /22 or larger"),
    ],
)
def test_a_range_too_small_for_the_nodes_is_explained(cni: str, subnet: str, advice: str) -> None:
    """The hint says which prefix lengths fit three nodes; with them, the document is valid."""
    text = f"{CLUSTER}networking: {{cni: {cni}, podSubnet: {subnet}%s}}\n"
    (problem,) = problems_of(text % "")
    assert problem.path == "networking.podSubnet"
    assert problem.hints == (advice,)
    if " or networking" in advice:
        length = advice.rpartition(" to ")[2].partition(" ")[0]
        assert not problems_of(text % f", nodeCIDRMaskSizeIPv4: {length}")
    assert not problems_of(f"{CLUSTER}networking: {{cni: {cni}, podSubnet: 10.244.0.0/22}}\n")


def test_all_problems_of_a_mode_are_in_one_report() -> None:
    """An invalid option does not hide those that contradict the rest of the document."""
    cni = "{type: calico, blockSize: 40, bakend: x, routeReflectors: [wroker], peers: [{address: y"
    problems = problems_of(f"{CLUSTER}networking: {{cni: {cni}, asNumber: 1}}]}}}}\n")
    assert {problem.path for problem in problems} == {
        "networking.cni.blockSize",
        "networking.cni.bakend",
        "networking.cni.peers[0].address",
        "networking.cni.routeReflectors[0]",
    }
