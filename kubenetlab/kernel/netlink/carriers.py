"""Carriers of veths: the kernel's pending work on links whose peers have just been set up.

A veth that is set up before its peer has no carrier, and its queue drops every packet. When the
peer is set up, the link gets a carrier, but a worker of the kernel opens the queue. The worker
handles one or two hundred links at a time and then pauses for up to a second. After a thousand
links at once, the last of them would drop packets for seconds. Since 6.8, the kernel also does this
work when the link is asked for. Older kernels leave it to the worker.

Source: net/core/link_watch.c, net/core/rtnetlink.c rtnl_getlink() (6.12).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

from kubenetlab.hoststate.diff import Changes
from kubenetlab.hoststate.links.messages import link_request
from kubenetlab.hoststate.links.veth import Veth
from kubenetlab.kernel.netlink.rtnetlink import RouteSocket


def links_with_new_carriers(changes: Changes) -> Mapping[str, list[str]]:
    """Return the existing links, by namespace, whose peers the changes have set up."""
    links: dict[str, list[str]] = {}
    for entry in changes.namespaces:
        for operation in entry.operations:
            veth = operation.object
            if operation.verb == "change" and isinstance(veth, Veth) and veth.is_up:
                links.setdefault(veth.peer_netns, []).append(veth.peer)
    return links


def open_queues(route: RouteSocket, indexes: Iterable[int]) -> None:
    """Make the kernel open the queues of links that have a carrier; ignore links that are gone.

    route:   socket in the namespace of the links.
    indexes: interface indexes of the links.
    """
    for index in indexes:
        with suppress(OSError):
            route.dump(link_request(index))
