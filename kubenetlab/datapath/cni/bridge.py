"""bridge: one bridge per node, plain routes between nodes.

    pod eth0 ── veth0 ┐   node                        node   ┌ veth0 ── eth0 pod
                      ├ cbr0 ─ eth0 ── fabric ── eth0 ─ cbr0 ┤
    pod eth0 ── veth1 ┘                                      └ veth1 ── eth0 pod

The pods of a node are attached to the bridge cbr0. Each node has a route to the pod range of every
other node via that node's address. Packets between pods keep both addresses and are not
encapsulated.

Overhead: 0 bytes.
Needs: all nodes on one layer-2 segment. A routed fabric is refused.
As in: kubenet; flannel with backend host-gw.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab import names
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.text.decode import Finding
from kubenetlab.datapath.cni.pods_on_bridge import PodsOnBridge
from kubenetlab.datapath.modes import Needs
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.route import Route


class Mode(PodsOnBridge, frozen=True):
    """Options `layout` and `neighbors`."""

    needs = Needs(programs=("nft",), features=("bridge", "veth", "nft nat"))
    facts = NetworkFacts(plugin="bridge", host_ifname="veth{number}", bridge=names.POD_BRIDGE)
    bridge = names.POD_BRIDGE
    component = "cni bridge"

    @property
    def needs_one_segment(self) -> bool:
        return True

    def config_findings(self, config: ClusterConfig) -> Iterator[Finding]:
        count = len(set(config.segments))
        if count > 1:
            yield Finding(
                ("networking", "cni"),
                "bridge needs all nodes on one layer-2 segment, because its routes have other "
                f"nodes as gateways; fabric.topology routed puts them on {count}",
                hints=("use a mode with tunnels (--cni flannel), or fabric.topology: switched",),
            )

    def node(self, node: NodeView) -> Iterator[Object]:
        yield from super().node(node)
        for peer in node.peers:
            for family in peer.families:
                yield Route(node.netns, family.pod_cidr, names.NODE_UPLINK, via=family.address)
