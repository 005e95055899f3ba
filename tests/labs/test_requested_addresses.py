"""Pods that request addresses run on a node that has them, in every CNI mode."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from tests.labs.lab import Lab
from tests.labs.pod_networks import manifest
from tests.labs.test_pod_networks import check_connections, require

CONFLIST = (
    "{type: conflist, conflist: {cniVersion: 1.0.0, name: net, plugins: [{type: bridge, "
    "bridge: cni0, isGateway: true, hairpinMode: true, capabilities: {ips: true}, "
    'ipam: {type: host-local, subnet: "{{.PodCIDR}}", routes: [{dst: 0.0.0.0/0}]}}]}}'
)
CLUSTER_POOL = "{type: cilium, ipam: cluster-pool, clusterPoolIPv4MaskSize: 26}"
MODES = {
    "bridge": "{type: bridge, ipam: {rangeStart: 33, rangeEnd: 60}}",
    "ptp": "ptp",
    "flannel": "flannel",
    "calico": "{type: calico, backend: vxlan}",
    "weave": "weave",
    "cilium": "cilium",
    "cluster-pool": CLUSTER_POOL,
    "conflist": CONFLIST,
}
HAS_RANGES = MODES.keys() - {"calico", "weave"}
"""Modes in which each node has one range."""


def asking(name: str, address: str) -> str:
    """Return a pod without a node, which requests an address."""
    return (
        f"---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web}}, "
        f'annotations: {{kubenetlab.dev/addresses: "{address}"}}}}\n'
        "spec: {containers: [{name: main, image: agnhost, args: [netexec]}]}\n"
    )


@pytest.mark.parametrize("mode", MODES)
def test_the_scheduler_chooses_a_node_that_has_the_address(lab: Lab, mode: str) -> None:
    """Packets reach the pods at the addresses, on the nodes that have them if nodes have ranges.

    Without requests, the pods of each range would be on different nodes.
    """
    cni = MODES[mode]
    require("conflist" if mode == "conflist" else cni)
    text = manifest("ipv4", cni)
    lab.up(text)
    ranges = {"worker": "10.244.1.0/24", "worker2": "10.244.2.0/24"}
    if mode in HAS_RANGES:
        ranges = {node: lab.place("nodes", node)["pod_cidrs"][0] for node in ranges}
    if mode == "weave":
        ranges = {"worker": "10.32.1.0/24", "worker2": "10.38.2.0/24"}
    names = {"worker": "de", "worker2": "fg"}
    chosen = {
        name: (node, str(ip_network(range_)[40 + number]))
        for node, range_ in ranges.items()
        for number, name in enumerate(names[node])
    }
    lab.up(text + "".join(asking(name, address) for name, (_, address) in chosen.items()))
    for name, (node, address) in chosen.items():
        assert lab.pod(name)["addresses"] == [address]
        assert mode not in HAS_RANGES or lab.pod(name)["node"] == node
        for client in "abc":
            (answer,) = lab.ask(lab.pod(client), ("TCP", address, 8080))
            assert answer.server == name, answer
    check_connections(lab, "ipv4")


@pytest.mark.parametrize("mode", ["bridge", "cluster-pool", "conflist"])
def test_a_pod_stays_pending_while_no_node_has_the_address(lab: Lab, mode: str) -> None:
    """The scheduler's event says why; `up` ends with status 1. The control plane has a taint."""
    cni = MODES[mode]
    require("conflist" if mode == "conflist" else cni)
    lab.up(manifest("ipv4", cni) + asking("d", "10.99.0.7"), "--timeout", "2s", status=1)
    described = lab.run("describe", "pod", "d").out
    assert "Pending" in described
    assert "2 node(s) didn't have the requested pod address in their range" in described
