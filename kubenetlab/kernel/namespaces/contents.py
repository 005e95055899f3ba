"""Filling the namespace we stand in: settings, then one batch of messages for links, addresses, routes and neighbours."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from typing import Final, cast

from kubenetlab.hoststate.diff import Operation, is_replaced
from kubenetlab.hoststate.peers import Peers
from kubenetlab.hoststate.sandbox import Settings, Sysctl
from kubenetlab.hoststate.wire import Links, NetlinkObject
from kubenetlab.kernel.namespaces.sysctls import SysctlWriter
from kubenetlab.kernel.netlink.rtnetlink import RouteSocket
from kubenetlab.kernel.report import Failure

_GONE: Final = frozenset(
    (errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENXIO)
)
"""What the kernel says of something that is not there: to remove it is done."""


def fill(
    netns: str, operations: Sequence[Operation], sysctls: SysctlWriter, links: Links
) -> list[Failure]:
    """Settings and links, and what is said of links; what was refused."""
    settings = [
        operation for operation in operations if isinstance(operation.object, Sysctl | Settings)
    ]
    others = [
        operation for operation in operations if not isinstance(operation.object, Sysctl | Settings)
    ]
    return sysctls.write(netns, settings) + send(netns, others, links)


def send(netns: str, operations: Sequence[Operation], links: Links) -> list[Failure]:
    """One batch; what was refused of it."""
    failures: list[Failure] = []
    requests: list[bytes] = []
    owners: list[tuple[Operation, bool]] = []
    """Of each request its operation, and whether it takes something away."""
    for operation in operations:
        try:
            for request, is_removal in _encode(operation, links):
                requests.append(request)
                owners.append((operation, is_removal))
        except KeyError as error:
            if operation.verb != "remove":
                failures.append(
                    Failure(
                        netns, operation, errno.ENODEV, f"there is no link or namespace {error}"
                    )
                )
    if not requests:
        return failures
    with RouteSocket() as route:
        refusals = route.batch(requests)
    for refusal in refusals:
        operation, is_removal = owners[refusal.request]
        if not (is_removal and refusal.errno in _GONE):
            failures.append(Failure(netns, operation, refusal.errno, str(refusal)))
    return failures


def _encode(operation: Operation, links: Links) -> Iterable[tuple[bytes, bool]]:
    """The requests for one operation, and which of them take something away."""
    obj, before = operation.object, operation.before
    wanted, known = cast(NetlinkObject, obj), cast(NetlinkObject | None, before)
    if operation.verb == "remove":
        return [(wanted.delete(links), True)] if hasattr(wanted, "delete") else []
    if before is None or known is None:
        request = wanted.create(links)
        return [(request, False)] if request else []
    if is_replaced(before, obj):
        return [(known.delete(links), True), (wanted.create(links), False)]
    if isinstance(obj, Peers) and isinstance(before, Peers):
        return obj.change_from(before, links)
    return [(wanted.change(links), False)]
