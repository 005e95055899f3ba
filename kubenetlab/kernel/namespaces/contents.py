"""Apply operations in the current network namespace.

Sysctls are written first; links, addresses, routes and neighbours follow in one netlink batch.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from typing import Final

from kubenetlab.hoststate.diff import Operation
from kubenetlab.hoststate.netlink.wire import Links
from kubenetlab.hoststate.object import NetlinkObject
from kubenetlab.hoststate.sandbox import Settings, Sysctl
from kubenetlab.kernel.namespaces.sysctls import SysctlWriter
from kubenetlab.kernel.netlink.rtnetlink import RouteSocket
from kubenetlab.kernel.report import Failure

_GONE: Final = frozenset(
    (errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENXIO)
)
"""Errnos of a removal that mean that the object does not exist, which counts as success."""


def fill(
    netns: str, operations: Sequence[Operation], sysctls: SysctlWriter, links: Links
) -> list[Failure]:
    """Apply sysctl operations, then netlink operations; return those that failed.

    sysctls: shared by all namespaces of one apply.
    """
    sysctl_operations = [
        operation for operation in operations if isinstance(operation.object, Sysctl | Settings)
    ]
    link_operations = [
        operation for operation in operations if not isinstance(operation.object, Sysctl | Settings)
    ]
    return sysctls.write(netns, sysctl_operations) + send(netns, link_operations, links)


def send(netns: str, operations: Sequence[Operation], links: Links) -> list[Failure]:
    """Send netlink operations as one batch; return those that failed."""
    failures: list[Failure] = []
    requests: list[bytes] = []
    sources: list[tuple[Operation, bool]] = []
    """Per request: the operation it belongs to, and whether the request is a removal."""
    for operation in operations:
        try:
            for request, is_removal in _encode(operation, links):
                requests.append(request)
                sources.append((operation, is_removal))
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
        operation, is_removal = sources[refusal.request]
        if not (is_removal and refusal.errno in _GONE):
            failures.append(Failure(netns, operation, refusal.errno, str(refusal)))
    return failures


def _encode(operation: Operation, links: Links) -> Iterable[tuple[bytes, bool]]:
    """Return the (request, is removal) pairs of one operation."""
    obj, before = operation.object, operation.before
    assert isinstance(obj, NetlinkObject)
    if operation.verb == "remove":
        requests: Iterable[tuple[bytes, bool]] = [(obj.delete(links), True)]
    elif before is None:
        requests = [(obj.create(links), False)]
    elif before.can_become(obj):
        requests = obj.changes_from(before, links)
    else:
        assert isinstance(before, NetlinkObject)
        requests = [(before.delete(links), True), (obj.create(links), False)]
    return [entry for entry in requests if entry[0]]
