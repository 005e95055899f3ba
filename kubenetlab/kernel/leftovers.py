"""Ends of veth pairs whose other end was in a namespace that has ended.

The kernel deletes them after some delay. Until then no new pair can have their names.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

from kubenetlab.hoststate.links.messages import decode_link, dump_links, ifinfo
from kubenetlab.hoststate.links.veth import Veth
from kubenetlab.hoststate.netlink import wire
from kubenetlab.hoststate.netlink.wire import message
from kubenetlab.kernel.netlink.rtnetlink import RouteSocket
from kubenetlab.kernel.report import Failure

T = TypeVar("T")
Inside = Callable[[str], AbstractContextManager[None]]


class RefusedError(Exception):
    """Raised to abandon a new namespace in which operations have failed."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__()
        self.failures = failures


def without_leftovers(create: Callable[[], T], inside: Inside) -> T:
    """Return the result of `create`; if former ends are in its way, delete them and repeat it.

    create: creates a namespace. Raises RefusedError.
    inside: returns a context in which this thread is in a namespace.
    """
    try:
        return create()
    except RefusedError as error:
        if not _delete_leftovers(error.failures, inside):
            raise
    return create()


def _delete_leftovers(failures: Iterable[Failure], inside: Inside) -> bool:
    """Delete the former ends because of which pairs could not be created.

    Return True if there were any. A link that others made lacks the alias of the pair, and stays.
    """
    deleted = [
        _delete_end(failure.operation.object, inside)
        for failure in failures
        if failure.errno == errno.EEXIST
        and failure.operation.verb == "add"
        and isinstance(failure.operation.object, Veth)
    ]
    return any(deleted)


def _delete_end(pair: Veth, inside: Inside) -> bool:
    """Delete the former end of a pair; return False if a link of others has its name."""
    try:
        with inside(pair.peer_netns), RouteSocket() as route:
            links = [decode_link(body) for body in route.dump(dump_links())]
            ends = [link for link in links if link.name == pair.peer]
            if any((link.kind, link.alias) != (pair.kind, pair.alias) for link in ends):
                return False
            # The kernel may have deleted it at this moment.
            route.batch([message(wire.RTM_DELLINK, 0, ifinfo(link.index)) for link in ends])
            return True
    except (OSError, KeyError):
        return False  # the namespace of the end has ended, too
