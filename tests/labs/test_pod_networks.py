"""Contract of every CNI mode: pods, nodes and outside reach each other, in each address family."""

from __future__ import annotations

import pytest
import yaml

from kubenetlab.api.config import mode_and_options
from kubenetlab.datapath import modes
from kubenetlab.datapath.modes import CNI
from kubenetlab.datapath.network.bgp import bgp_mode
from kubenetlab.kernel.features.detection import has_program
from tests.labs.lab import Lab
from tests.labs.pod_networks import OUTSIDE, PLUGINS_ADVICE, has_plugins, manifest

FLANNEL = {
    "vxlan": "{type: flannel}",
    "host-gw": "{type: flannel, backend: host-gw}",
    "direct": "{type: flannel, directRouting: true}",
    "routed": "{type: flannel, layout: routed, neighbors: permanent, vni: 7}",
}
CALICO = {
    "bgp": "calico",
    "reflector": "{type: calico, routeReflectors: [control-plane], neighbors: permanent}",
    "vxlan": "{type: calico, backend: vxlan}",
    "cross-subnet": "{type: calico, backend: vxlan, crossSubnet: true, neighbors: permanent}",
}
CILIUM = {
    "tunnel": "{type: cilium}",
    "native": "{type: cilium, routingMode: native}",
    "permanent": "{type: cilium, neighbors: permanent, tunnelPort: 4789}",
    "legacy": "{type: cilium, hostLegacyRouting: true}",
    "cluster-pool": (
        "{type: cilium, ipam: cluster-pool, clusterPoolIPv4MaskSize: 26,"
        " clusterPoolIPv6MaskSize: 120}"
    ),
}
HOST_LOCAL = {
    name: f"{{type: {name}, ipam: {{gateway: last, rangeStart: 10, rangeEnd: -10}}}}"
    for name in ("bridge", "ptp")
}
WEAVE = {
    "": "weave",
    "-permanent": "{type: weave, neighbors: permanent}",
}
KUBE_ROUTER = {
    "": "kube-router",
    "-routed": "{type: kube-router, clusterAsn: 4200000000, layout: routed, neighbors: permanent}",
    "-abrupt": "{type: kube-router, bgpGracefulRestart: false}",
}
VARIANTS = {
    **{f"{name}-host-local": cni for name, cni in HOST_LOCAL.items()},
    **{f"flannel-{name}": cni for name, cni in FLANNEL.items() if name != "vxlan"},
    **{f"calico-{name}": cni for name, cni in CALICO.items() if name != "bgp"},
    **{f"cilium-{name}": cni for name, cni in CILIUM.items() if name != "tunnel"},
    **{f"weave{name}": cni for name, cni in WEAVE.items() if name},
    **{f"kube-router{name}": cni for name, cni in KUBE_ROUTER.items() if name},
}
MODES = {name: name for name in modes.known("cni") if name != "none"} | VARIANTS
"""Every mode of the project by its name alone, and modes with other options."""


def mode_of(cni: str) -> CNI:
    return modes.load("cni", *mode_and_options(yaml.safe_load(cni)))


ROUTED = {
    name: cni
    for name, cni in MODES.items()
    if not mode_of(cni).needs_one_segment and cni != "conflist"
}
"""Modes that need no common subnet of the nodes."""
WITH_BGP = {name: cni for name, cni in MODES.items() if bgp_mode(mode_of(cni)) is not None}
"""Modes whose nodes exchange routes by BGP."""


@pytest.mark.parametrize("family", ["ipv4", "ipv6", "dual"])
@pytest.mark.parametrize("cni", MODES.values(), ids=MODES)
def test_pods_reach_pods_without_address_translation(lab: Lab, cni: str, family: str) -> None:
    """Servers see the pod's own address; what leaves the cluster has the node's address."""
    require(cni)
    lab.up(manifest(family, cni))
    check_connections(lab, family)


@pytest.mark.parametrize("family", ["ipv4", "ipv6", "dual"])
@pytest.mark.parametrize("cni", ROUTED.values(), ids=ROUTED)
def test_tunnels_cross_routers(lab: Lab, cni: str, family: str) -> None:
    """Each node has a subnet of its own, and the router knows no pod."""
    require(cni)
    lab.up(manifest(family, cni, fabric="{topology: routed}"))
    check_connections(lab, family)


@pytest.mark.parametrize("family", ["ipv4", "ipv6", "dual"])
@pytest.mark.parametrize("cni", WITH_BGP.values(), ids=WITH_BGP)
@pytest.mark.parametrize("topology", ["routed", "switched"])
def test_nodes_peer_with_the_router(lab: Lab, cni: str, family: str, topology: str) -> None:
    """The router learns every range of pods; no packet is encapsulated."""
    require(cni)
    lab.up(manifest(family, cni, fabric=f"{{topology: {topology}, bgp: {{}}}}"))
    check_connections(lab, family)
    assert lab.run("check", "-o", "json").json["ok"]


def require(cni: str) -> None:
    """Skip a test if the machine lacks the programs of a mode."""
    if cni == "conflist" and not has_plugins():
        pytest.skip(PLUGINS_ADVICE)
    for program in mode_of(cni).requirements.programs:
        if not has_program(program):
            pytest.skip(f"{program} is missing")


def check_connections(lab: Lab, family: str) -> None:
    """Check which source address servers see of pods, nodes and outside."""
    assert lab.problems == []
    pods = [lab.pod(name) for name in "abc"]
    targets = [("TCP", address, 8080) for pod in pods for address in pod["addresses"]]
    for pod in pods:
        for answer in lab.ask(pod, *targets):
            assert answer.server, answer.error
            assert answer.client[0] == answer.source[0]
            assert answer.client[0] in pod["addresses"]
    for node in lab.inspected["nodes"]:
        assert all(answer.server for answer in lab.ask(node, *targets))
    for pod in pods:
        node = lab.place("nodes", pod["node"])
        (answer,) = lab.ask(pod, ("TCP", OUTSIDE[family].strip('"'), 8080))
        assert answer.client[0] in node["addresses"], answer
