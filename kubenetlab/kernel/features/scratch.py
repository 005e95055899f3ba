"""A scratch network namespace for feature probes; it ends with the process of the probe."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from kubenetlab.hoststate.links.link import LOOPBACK
from kubenetlab.hoststate.netlink.protocols import ROUTE, NetlinkProtocol
from kubenetlab.hoststate.netlink.wire import Links
from kubenetlab.kernel.namespaces import unshare


def enter_scratch_namespace() -> Links:
    """Enter a new network namespace; return its empty table of link indexes."""
    unshare.enter_new_namespaces()
    return _ScratchLinks()


def send_batch(requests: Sequence[bytes], protocol: NetlinkProtocol = ROUTE) -> None:
    """Send netlink requests in the current namespace; raise OSError for the first refusal."""
    from kubenetlab.kernel.netlink.rtnetlink import NetlinkSocket

    with NetlinkSocket(protocol) as connection:
        refusals = connection.batch(requests)
    if refusals:
        raise OSError(refusals[0].errno, str(refusals[0]))


class _ScratchLinks:
    """Link indexes of one scratch namespace (hoststate.netlink.wire.Links)."""

    def __init__(self) -> None:
        self._indexes: dict[tuple[str, str], int] = {}

    def index(self, netns: str, link: str) -> int:
        return 1 if link == LOOPBACK else self._indexes[netns, link]

    def new_index(self, netns: str, link: str) -> int:
        self._indexes[netns, link] = index = 1000 + len(self._indexes)
        return index

    def adopt(self, netns: str, link: str) -> None:
        self._indexes[netns, link] = socket.if_nametoindex(link)

    def namespace_fd(self, netns: str) -> int:
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
