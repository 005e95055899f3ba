"""Routes of a namespace, whichever program has added them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kubenetlab.hoststate.route import ROUTE_MESSAGES, Route, decode_destination, decode_route
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


def routes_to(
    sandboxes: Sandboxes, netns: str, targets: Iterable[str], indexes: Mapping[str, int]
) -> list[Route]:
    """Return the routes of a sandbox to some destinations, except those with several next hops.

    indexes: interface indexes of the sandbox's links. Raises the same errors as `destinations`.
    """
    names = {index: name for name, index in indexes.items()}
    selected = set(targets)
    with sandboxes.inside(netns), RouteSocket() as route:
        bodies = [
            body for body in route.dump(ROUTE_MESSAGES.dump) if decode_destination(body) in selected
        ]
    decoded = (decode_route(netns, body, names) for body in bodies)
    return [entry[0] for entry in decoded if entry is not None]
