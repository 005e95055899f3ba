"""Numbers of routes and rules in the current network namespace, whichever program has added them.

Source: include/uapi/linux/netfilter/nf_tables.h, include/uapi/linux/rtnetlink.h (6.12).
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from kubenetlab.hoststate.netlink.protocols import NETFILTER
from kubenetlab.hoststate.netlink.wire import NLM_F_DUMP, message
from kubenetlab.hoststate.route import ROUTE_MESSAGES, is_in_main_table
from kubenetlab.kernel.netlink.rtnetlink import NetlinkSocket, RouteSocket

_GET_RULE: Final = 10 << 8 | 7
"""NFNL_SUBSYS_NFTABLES with NFT_MSG_GETRULE."""
_ALL_FAMILIES: Final = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
"""struct nfgenmsg."""


def count_routes(version: int) -> int:
    """Return the number of routes of an IP version in the main table.

    Routes of link-local and multicast addresses, which the kernel adds to each link, do not count.
    """
    with RouteSocket() as route:
        bodies = route.dump(ROUTE_MESSAGES.dump)
    return sum(is_in_main_table(body, version) for body in bodies)


def count_rules() -> int:
    """Return the number of nftables rules, those of iptables-nft included.

    Returns 0 if the kernel has no nftables.
    """
    try:
        with NetlinkSocket(NETFILTER) as netfilter:
            return len(netfilter.dump(message(_GET_RULE, NLM_F_DUMP, _ALL_FAMILIES)))
    except OSError:
        return 0
