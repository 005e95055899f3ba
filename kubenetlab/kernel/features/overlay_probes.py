"""Feature probes of tunnels, encryption, policy routing and queueing disciplines.

Only some CNI modes and settings of the fabric use them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from kubenetlab.hoststate.encryption.wireguard import WireguardDevice
from kubenetlab.hoststate.encryption.xfrm import XfrmState
from kubenetlab.hoststate.links.bridge import Bridge
from kubenetlab.hoststate.links.ip6tnl import Ip6Tunnel
from kubenetlab.hoststate.links.ipip import FallbackIpip
from kubenetlab.hoststate.links.wireguard import Wireguard
from kubenetlab.hoststate.object import NetlinkObject
from kubenetlab.hoststate.policy_rule import PolicyRule
from kubenetlab.hoststate.qdisc import Qdisc
from kubenetlab.hoststate.secret import Secret
from kubenetlab.kernel.features.probing import FeatureProbe
from kubenetlab.kernel.features.scratch import enter_scratch_namespace, send_batch

_KERNEL_WITH: Final = "a kernel with {options}, as Debian's and Ubuntu's have"


def _create(*objects: NetlinkObject) -> None:
    """Create objects in a scratch namespace; raise OSError if the kernel refuses one."""
    links = enter_scratch_namespace()
    for obj in objects:
        send_batch([obj.create(links)], obj.protocol)


def _is_loadable(module: str) -> bool:
    """Return True if a kernel module is installed and not loaded.

    The modules of tunnels create a link in every namespace, also in the machine's. Only a lab that
    uses them loads them.
    """
    if os.path.exists(f"/sys/module/{module}"):
        return False
    try:
        lines = Path("/lib/modules", os.uname().release, "modules.dep").read_text().splitlines()
    except OSError:
        return False
    return any(Path(line.partition(":")[0]).name.partition(".")[0] == module for line in lines)


def _probe_ipip() -> None:
    if not _is_loadable("ipip"):
        _create(FallbackIpip("here"))


def _probe_ip6tnl() -> None:
    if not _is_loadable("ip6_tunnel"):
        _create(Ip6Tunnel("here", "tunnel", "2001:db8::1", "2001:db8::2"))


def _probe_wireguard() -> None:
    _create(Wireguard("here", "wg"), WireguardDevice("here", "wg", "", Secret(bytes(32))))


def _probe_esp() -> None:
    _create(XfrmState("here", "192.0.2.1", "192.0.2.2", 0x1000, Secret(bytes(20))))


def _probe_policy_routing() -> None:
    _create(PolicyRule("here", 4, 100, 100))


def _probe_tbf() -> None:
    _create(Bridge("here", "br0", "0a:58:00:00:00:01"), Qdisc("here", "br0", 10**8))


def _probe_netem() -> None:
    _create(Bridge("here", "br0", "0a:58:00:00:00:01"), Qdisc("here", "br0", 0, 1000, 1000))


OVERLAY_PROBES: Final = (
    FeatureProbe(
        "ipip",
        _probe_ipip,
        "tunnels of IPv4 packets in IPv4 packets",
        f"sudo modprobe ipip; {_KERNEL_WITH.format(options='CONFIG_NET_IPIP')}",
        effect_if_missing="CNI modes with IPIP tunnels are not available",
    ),
    FeatureProbe(
        "ip6tnl",
        _probe_ip6tnl,
        "tunnels of packets in IPv6 packets",
        f"sudo modprobe ip6_tunnel; {_KERNEL_WITH.format(options='CONFIG_IPV6_TUNNEL')}",
        effect_if_missing="CNI modes with tunnels in IPv6 packets are not available",
    ),
    FeatureProbe(
        "wireguard",
        _probe_wireguard,
        "encryption between nodes by WireGuard",
        f"sudo modprobe wireguard; {_KERNEL_WITH.format(options='CONFIG_WIREGUARD')}",
        effect_if_missing="nodes cannot encrypt packets by WireGuard",
    ),
    FeatureProbe(
        "ESP",
        _probe_esp,
        "encryption between nodes by IPsec",
        "sudo modprobe esp4; "
        + _KERNEL_WITH.format(options="CONFIG_XFRM_USER, CONFIG_INET_ESP and CONFIG_CRYPTO_GCM"),
        effect_if_missing="nodes cannot encrypt packets by IPsec",
    ),
    FeatureProbe(
        "policy routing",
        _probe_policy_routing,
        "routes that depend on the mark of a packet",
        _KERNEL_WITH.format(options="CONFIG_IP_MULTIPLE_TABLES"),
        effect_if_missing="CNI modes with routing rules are not available",
    ),
    FeatureProbe(
        "tbf",
        _probe_tbf,
        "fabric.links: the rate of links between nodes",
        f"sudo modprobe sch_tbf; {_KERNEL_WITH.format(options='CONFIG_NET_SCH_TBF')}",
        effect_if_missing="fabric.links cannot have a rate",
    ),
    FeatureProbe(
        "netem",
        _probe_netem,
        "fabric.links: delay and loss of links between nodes",
        f"sudo modprobe sch_netem; {_KERNEL_WITH.format(options='CONFIG_NET_SCH_NETEM')}",
        effect_if_missing="fabric.links cannot have delay and loss",
    ),
)
