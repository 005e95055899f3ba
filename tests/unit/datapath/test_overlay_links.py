"""Links between nodes on which the programs of the mode ebpf translate: each with own addresses."""

from __future__ import annotations

import pytest

from kubenetlab.api.lab import LabSecret
from kubenetlab.datapath import plan
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.rules.bpf import BpfPrograms, OverlayLink
from tests.clusters import ONLINK, deployment, running, store
from tests.unit.datapath.plans import objects_of

MODES = {
    "bridge": [],
    "ptp": [],
    "kube-router": [],
    "{type: flannel, backend: host-gw}": [],
    "flannel": ["flannel.1", "flannel-v6.1"],
    "{type: flannel, vni: 7, directRouting: true}": ["flannel.7", "flannel-v6.7"],
    "{type: flannel, backend: wireguard}": ["flannel-wg", "flannel-wg-v6"],
    "calico": [],
    "{type: calico, backend: vxlan}": ["vxlan.calico", "vxlan-v6.calico"],
    "{type: calico, wireguard: true}": ["wireguard.cali", "wg-v6.cali"],
    "{type: calico, wireguard: true, backend: vxlan}": [
        "wireguard.cali",
        "wg-v6.cali",
        "vxlan.calico",
        "vxlan-v6.calico",
    ],
    "weave": ["vxlan-6784"],
    "cilium": [],
}
"""CNI mode → links of a node, in the order of their numbers."""
ONLY_IPV4 = {
    "{type: flannel, backend: ipip}": ["flannel.ipip"],
    "{type: calico, backend: ipip}": ["tunl0"],
}
BARE = ("flannel-wg", "flannel-wg-v6", "flannel.ipip", "tunl0", "wireguard.cali", "wg-v6.cali")


@pytest.mark.parametrize(
    ("cni", "family", "links"),
    [
        *((cni, "dual", links) for cni, links in MODES.items()),
        *((cni, "ipv4", links) for cni, links in ONLY_IPV4.items()),
    ],
)
def test_links_to_pods_of_other_nodes_have_programs(
    cni: str, family: str, links: list[str]
) -> None:
    """Links without Ethernet headers come first, and each has the addresses of the plan."""
    text = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"networking: {{ipFamily: {family}, cni: {cni}, kubeProxyMode: ebpf}}\n---\n"
    )
    cluster = running(store(text + deployment(replicas=6)))
    state = plan(cluster.with_changes([LabSecret(seed="11" * 32)]), ONLINK)
    (programs,) = objects_of(state, "node/worker", BpfPrograms)
    overlays = objects_of(state, "node/worker", OverlayLink)
    assert {each.link for each in overlays} == set(links)
    assert [each.number for each in overlays] == list(range(programs.overlay_count))
    bare = [each.link in BARE for each in overlays]
    assert bare == sorted(bare, reverse=True)
    assert programs.bare_count == sum(bare)
    addresses = objects_of(state, "node/worker", Address)
    for each in overlays:
        on_link = [
            own.address.partition("/")[0]
            for own in addresses
            if own.link == (each.bridge or each.link) and not own.address.startswith("fe80:")
        ]
        assert set(each.addresses) == set(on_link), each.link
        assert each.addresses
