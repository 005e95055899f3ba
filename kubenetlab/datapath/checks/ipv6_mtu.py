"""Check that the links of the pod network can carry IPv6.

The kernel takes IPv6 away from a link whose MTU is below 1,280 bytes, and refuses its addresses
(RFC 8200, section 5; net/ipv6/addrconf.c, addrconf_notify).
"""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.config import DEFAULT_MTU
from kubenetlab.api.links import MIN_MTU, link_settings
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.decode import Finding
from kubenetlab.datapath.modes import CNI
from kubenetlab.datapath.pod_networks import pod_network
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.links.link import Link


def ipv6_findings(cluster: Cluster) -> Iterator[Finding]:
    """Yield a finding if a node's link to the fabric is too small for pods with IPv6.

    It is about the first such node of the Cluster document. Pods of nodes with links of the default
    MTU are large enough in every mode.
    """
    config = cluster.config
    if 6 not in config.networking.versions or all(
        link_settings(config, name).mtu >= DEFAULT_MTU for name in config.node_names
    ):
        return
    cni, views = pod_network(cluster)
    for view in views:
        smallest = _smallest_mtu(cni, view)
        if smallest < MIN_MTU:
            mode = config.networking.cni_mode[0]
            yield Finding(
                ("fabric", "links"),
                f"the link of {view.name} carries {view.mtu} bytes, of which cni {mode} leaves "
                f"{smallest}: IPv6 needs {MIN_MTU}",
                hints=(
                    f"set mtu to {view.mtu + MIN_MTU - smallest} or more, use a mode without "
                    "tunnels, or ipFamily: ipv4",
                ),
            )
            return


def _smallest_mtu(cni: CNI, node: NodeView) -> int:
    """Return the smallest MTU of pods, and of the links with IPv6 addresses on a node, in bytes."""
    objects = tuple(cni.node(node))
    links = {obj.link for obj in objects if isinstance(obj, Address) and ":" in obj.address}
    mtus = (
        getattr(obj, "mtu", 0) for obj in objects if isinstance(obj, Link) and obj.name in links
    )
    return min((cni.network(node).mtu, *(mtu for mtu in mtus if mtu)))
