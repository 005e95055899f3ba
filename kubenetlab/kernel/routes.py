"""Routes of a namespace, whichever program has added them."""

from __future__ import annotations

from kubenetlab.hoststate.route import ROUTE_MESSAGES, decode_destination
from kubenetlab.kernel.namespaces.sandboxes import Sandboxes
from kubenetlab.kernel.netlink.rtnetlink import RouteSocket


def destinations(sandboxes: Sandboxes, netns: str) -> set[str]:
    """Return the destinations in the main table of a sandbox, such as `10.244.1.0/24`.

    Raises KeyError if there is no such sandbox, and FileNotFoundError or ProcessLookupError if its
    pause process has exited.
    """
    with sandboxes.inside(netns), RouteSocket() as route:
        found = [decode_destination(body) for body in route.dump(ROUTE_MESSAGES.dump)]
    return {destination for destination in found if destination is not None}
