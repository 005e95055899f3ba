"""bridge: one bridge per node, plain routes between nodes.

    pod eth0 ── veth0 ┐   node                        node   ┌ veth0 ── eth0 pod
                      ├ cbr0 ─ eth0 ── fabric ── eth0 ─ cbr0 ┤
    pod eth0 ── veth1 ┘                                      └ veth1 ── eth0 pod

The pods of a node are attached to the bridge cbr0. Each node has a route to the pod range of every
other node via that node's address. Packets between pods keep both addresses and are not
encapsulated.

Overhead: 0 bytes.
Needs: all nodes on one layer-2 segment. A routed fabric is refused.
As in: kubenet, with the plugins bridge and host-local (v1.9). Differences, as comparisons with the
plugins found them: packets from a node to its pods have the node's address as source, because the
address of the bridge is never a source. The links of pods are numbered, the routes have the
protocol `static`, and the bridge does not snoop multicast. Addresses have no broadcast address.
IPv6 addresses are used without duplicate address detection, and the sysctls arp_notify and
keep_addr_on_down of eth0 in pods are not set. Links have link-local addresses, which the lab
chooses.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab import names
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.plugins.host_local import HostLocal
from kubenetlab.api.text.decode import Finding
from kubenetlab.api.validate.host_local import host_local_findings
from kubenetlab.datapath.cni.pods_on_bridge import PodsOnBridge
from kubenetlab.datapath.modes import Needs
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.route import Route


class Mode(PodsOnBridge, frozen=True):
    """Options `ipam`, `layout` and `neighbors`.

    ipam: {rangeStart, rangeEnd, gateway}, as of the plugin host-local, but with numbers
        Each node has a range of its own, so the options are numbers of addresses: 10 is
        10.244.1.10 in 10.244.1.0/24. Negative numbers count from the end, where -1 is the
        broadcast address. Each IP family has the same numbers. No pod gets the other addresses of
        the range, except those of pools (networking.ipam.pools).
        rangeStart  First address for pods (1).
        rangeEnd    Last address for pods (-2).
        gateway     Address of the bridge, which no pod gets: first (1), last (-2), or a number
                    (first).
    """

    needs = Needs(programs=("nft",), features=("bridge", "veth", "nft nat"))
    facts = NetworkFacts(plugin="bridge", host_ifname="veth{number}", bridge=names.POD_BRIDGE)
    bridge = names.POD_BRIDGE
    component = "cni bridge"

    ipam: HostLocal = HostLocal()

    @property
    def needs_one_segment(self) -> bool:
        return True

    def config_findings(self, config: ClusterConfig) -> Iterator[Finding]:
        yield from host_local_findings(config, self.ipam)
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
