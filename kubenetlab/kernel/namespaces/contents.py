"""Apply operations in the current network namespace.

Sysctls are written first; links, addresses, routes and neighbours follow in one netlink batch.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from kubenetlab.hoststate.diff import Operation
from kubenetlab.hoststate.links.link import Link
from kubenetlab.hoststate.netlink.protocols import ROUTE, NetlinkProtocol
from kubenetlab.hoststate.netlink.wire import Links
from kubenetlab.hoststate.object import NetlinkObject
from kubenetlab.hoststate.sandbox import Settings, Sysctl
from kubenetlab.kernel.namespaces.sysctls import SysctlWriter
from kubenetlab.kernel.netlink.rtnetlink import NetlinkSocket
from kubenetlab.kernel.report import Failure, failure_of

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
    """Send netlink operations in as few batches as possible; return those that failed."""
    failures: list[Failure] = []
    for protocol, batch in _batches(operations):
        failures += _send_batch(netns, protocol, batch, links)
        last = batch[-1]
        if last.verb != "remove" and isinstance(last.object, Link) and last.object.is_adopted:
            with suppress(OSError):  # without the link, objects that need it fail
                links.adopt(netns, last.object.name)
    return failures


def _batches(
    operations: Sequence[Operation],
) -> Iterator[tuple[NetlinkProtocol, Sequence[Operation]]]:
    """Yield consecutive operations of the same protocol.

    A batch ends after a link to which the kernel gives an index: objects on the link need that.
    """
    start = 0
    for end, operation in enumerate(operations, 1):
        obj = _netlink_object(operation)
        if (
            end == len(operations)
            or (isinstance(obj, Link) and obj.is_adopted)
            or _netlink_object(operations[end]).protocol != obj.protocol
        ):
            yield obj.protocol, operations[start:end]
            start = end


def _netlink_object(operation: Operation) -> NetlinkObject:
    obj = operation.object
    assert isinstance(obj, NetlinkObject)
    return obj


def _send_batch(
    netns: str, protocol: NetlinkProtocol, operations: Sequence[Operation], links: Links
) -> list[Failure]:
    """Send operations of one protocol as one batch; return those that failed."""
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
    try:
        with NetlinkSocket(protocol) as connection:
            refusals = connection.batch(requests)
    except OSError as error:
        if protocol == ROUTE:
            raise
        return failures + [
            failure_of(netns, operation, error)
            for operation in operations
            if operation.verb != "remove"
        ]
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
