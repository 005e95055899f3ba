"""LinuxKernel: observes and applies namespaces, links, addresses, routes, neighbours and sysctls.

A new namespace is filled by one netlink batch while this process is in it. Ports of bridges need
veths that are created from other namespaces; they are attached later, in one batch per namespace.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from msgspec import structs

from kubenetlab.hoststate.diff import Changes, NetnsChanges, Operation
from kubenetlab.hoststate.links.link import LOOPBACK, Link
from kubenetlab.hoststate.links.messages import ObservedLink, decode_link, dump_links
from kubenetlab.hoststate.links.observed import observed_links
from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.sandbox import Sandbox, Settings, Sysctl
from kubenetlab.hoststate.state import Contents, contents_of
from kubenetlab.kernel.file_trees import FileTrees
from kubenetlab.kernel.leftovers import RefusedError, without_leftovers
from kubenetlab.kernel.namespaces.contents import fill, send
from kubenetlab.kernel.namespaces.listing import (
    read_foreign_objects,
    read_objects,
    read_unreported_objects,
)
from kubenetlab.kernel.namespaces.pause_starter import STARTERS, PauseStarter
from kubenetlab.kernel.namespaces.sandboxes import Sandboxes
from kubenetlab.kernel.namespaces.sysctls import Sysctls, SysctlWriter
from kubenetlab.kernel.netlink.carriers import links_with_new_carriers, open_queues
from kubenetlab.kernel.netlink.rtnetlink import RouteSocket
from kubenetlab.kernel.port_queue import PortQueue, connected_namespaces
from kubenetlab.kernel.report import Failure, OnNetnsDone, Report, failure_of, ignore, with_causes
from kubenetlab.kernel.syscalls import open_namespace

FIRST_INDEX: Final = 1000
"""First interface index used for new links.

It is far above the indexes that modules such as ipip take in every new namespace."""


class LinuxKernel:
    """The kernel objects of one lab, seen from the lab's PID namespace; not thread-safe.

    Its own threads start pause processes while the next namespaces are filled.
    """

    def __init__(self, sandboxes: Sandboxes, files: FileTrees | None = None) -> None:
        """Create a kernel without knowledge of what exists.

        files: where the files of sandboxes are; needed only for state that has files.
        """
        self.sandboxes = sandboxes
        self.files = files if files is not None else FileTrees(Path(os.devnull))
        self._indexes: dict[str, dict[str, int]] = {}
        self._next_index = FIRST_INDEX
        self._netns_fds: dict[str, int] = {}
        """Descriptors of namespaces that contain veth peers, open during one apply.

        A new namespace is added before its pause process runs, so that nothing waits for that."""
        self._pause_pool = ThreadPoolExecutor(STARTERS, "pauses")
        self._sysctls = Sysctls()

    # --- what the encoders ask (hoststate.netlink.wire.Links) ---

    def index(self, netns: str, link: str) -> int:
        return 1 if link == LOOPBACK else self._indexes.get(netns, {})[link]

    def indexes(self, netns: str) -> Mapping[str, int]:
        """Return the interface indexes of a namespace's links as last created or observed."""
        return self._indexes.get(netns, {})

    def new_index(self, netns: str, link: str) -> int:
        self._indexes.setdefault(netns, {})[link] = index = self._next_index
        self._next_index += 1
        return index

    def adopt(self, netns: str, link: str) -> None:
        self._indexes.setdefault(netns, {})[link] = socket.if_nametoindex(link)

    def namespace_fd(self, netns: str) -> int:
        if netns not in self._netns_fds:
            self._netns_fds[netns] = self.sandboxes.open(netns)
        return self._netns_fds[netns]

    # --- apply ---

    def apply(self, changes: Changes, done: OnNetnsDone = ignore) -> Report:
        """Apply changes of namespaces, links and other netlink objects; ignore rules and programs.

        done: called in any thread with each namespace that was created or changed, after its pause
            process and those of the namespaces with veths into it have started.

        A failed operation does not stop the others. A new namespace in which an operation failed is
        discarded.
        """
        failures: list[Failure] = []
        starter = PauseStarter(self._pause_pool)
        sysctls = SysctlWriter(self._sysctls)

        def complete(netns: str, ports: Sequence[Operation], connected: Sequence[str]) -> None:
            if ports:
                failures.extend(self._batch(netns, ports))
            starter.call_when_held((netns, *connected), partial(done, netns))

        queue = PortQueue(changes, complete)
        count = 0
        try:
            for entry in changes.namespaces:
                if not entry.is_removed:
                    count += self._apply_to(entry, queue, starter, sysctls, failures)
            starter.finish()
            count += self._remove(changes, failures)
            self._open_queues(changes)
        finally:
            for fd in self._netns_fds.values():
                os.close(fd)
            self._netns_fds.clear()
            self._sysctls.close()
        return Report(count - len(failures), with_causes(failures))

    def _apply_to(
        self,
        entry: NetnsChanges,
        queue: PortQueue,
        starter: PauseStarter,
        sysctls: SysctlWriter,
        failures: list[Failure],
    ) -> int:
        """Create or change one namespace and queue what needs peers; return the operation count."""
        netlink = [
            operation for operation in entry.operations if operation.object.applier == "netlink"
        ]
        files = [operation for operation in entry.operations if operation.object.applier == "files"]
        failures += self.files.apply(entry.netns, files)
        operations, on_peers = _split(netlink)
        if not entry.is_new:
            failures += self._change(entry.netns, operations, sysctls)
        elif hold := self._make(
            entry, operations, sysctls, failures, is_peer=queue.is_awaited(entry.netns)
        ):
            prerequisites = (_sandbox(operations).shares, *connected_namespaces(entry))
            starter.start(entry.netns, hold, prerequisites)
        queue.add(entry.netns, on_peers)
        return len(netlink) + len(files)

    def _open_queues(self, changes: Changes) -> None:
        """Open the queues of links whose peers have been set up.

        Without this the kernel's worker opens them, later.
        """
        for netns, names in links_with_new_carriers(changes).items():
            indexes = filter(None, map(self.indexes(netns).get, names))
            with suppress(OSError, KeyError), self.sandboxes.inside(netns), RouteSocket() as route:
                open_queues(route, indexes)

    def _remove(self, changes: Changes, failures: list[Failure]) -> int:
        """Remove sandboxes, and report links whose peer's namespace could not be created.

        Return the number of operations in the removed namespaces.
        """
        count = 0
        reported = {(failure.netns, failure.operation.object.key) for failure in failures}
        for entry in changes.namespaces:
            if entry.is_removed:
                self.sandboxes.remove(entry.netns)
                self.files.forget(entry.netns)
                count += len(entry.operations)
            elif not entry.is_new:
                failures += [
                    failure
                    for failure in self._without_peer(entry)
                    if (failure.netns, failure.operation.object.key) not in reported
                ]
            if entry.netns not in self.sandboxes.pauses:
                self._indexes.pop(entry.netns, None)
        return count

    def _make(
        self,
        entry: NetnsChanges,
        operations: Sequence[Operation],
        sysctls: SysctlWriter,
        failures: list[Failure],
        *,
        is_peer: bool,
    ) -> Callable[[], None] | None:
        """Create and fill a network namespace; add refused operations to `failures`.

        Return a function that starts the pause process, to be called in any thread; None on
        failure.
        """
        first, *inside = operations
        sandbox = _sandbox(operations)
        preallocated, remaining = self._take_preallocated(inside)

        def fill_network() -> None:
            if new_failures := fill(entry.netns, remaining, sysctls, self):
                raise RefusedError(new_failures)
            if is_peer:
                self._netns_fds[entry.netns] = open_namespace("net")

        def hold() -> None:
            try:
                if lost_links := self._without_peer(entry):
                    failures.extend(lost_links)
                    if network is not None:
                        os.close(network)
                else:
                    self.sandboxes.hold(sandbox, network)
            except (OSError, KeyError) as error:
                failures.append(failure_of(entry.netns, first, error))

        try:
            network = without_leftovers(
                partial(self.sandboxes.network, sandbox, fill_network, preallocated),
                self.sandboxes.inside,
            )
        except RefusedError as error:
            failures.extend(error.failures)
            return None
        except (OSError, KeyError) as error:
            failures.append(failure_of(entry.netns, first, error))
            return None
        return hold

    def _take_preallocated(
        self, operations: Sequence[Operation]
    ) -> tuple[int | None, Sequence[Operation]]:
        """Return a preallocated namespace, or None, and the operations left to apply in it."""
        pool = self.sandboxes.netns_pool
        if pool is None or not operations:
            return None, operations
        existing = {obj.key: obj for obj in pool.initial_objects}
        remaining = [
            operation for operation in operations if not _exists_in(operation.object, existing)
        ]
        preallocated = pool.take() if len(remaining) + len(existing) == len(operations) else None
        return (preallocated, remaining) if preallocated is not None else (None, operations)

    def _without_peer(self, entry: NetnsChanges) -> list[Failure]:
        """Return a failure for each link whose peer's namespace does not exist.

        Such a link disappeared together with its peer.
        """
        return [
            Failure(
                entry.netns, operation, errno.ENODEV, f"there is no link or namespace {peer[0]!r}"
            )
            for operation in entry.operations
            if operation.verb != "remove"
            and (peer := operation.object.peer_end) is not None
            and peer[0] not in self.sandboxes.pauses
        ]

    def _change(
        self, netns: str, operations: Sequence[Operation], sysctls: SysctlWriter
    ) -> list[Failure]:
        if not operations:
            return []
        try:
            with self.sandboxes.inside(netns):
                return fill(netns, operations, sysctls, self)
        except (OSError, KeyError) as error:
            return [failure_of(netns, operations[0], error)]

    def _batch(self, netns: str, operations: Sequence[Operation]) -> list[Failure]:
        try:
            with self.sandboxes.inside(netns, os.dup(self.namespace_fd(netns))):
                return send(netns, operations, self)
        except (OSError, KeyError) as error:
            return [failure_of(netns, operations[0], error)]

    # --- observe ---

    def observe(
        self, desired: Mapping[str, Contents], peers_only: Iterable[str] = ()
    ) -> dict[str, Contents]:
        """Return the observed objects of namespaces: objects of the lab and those in their place.

        Included are objects that the lab created, objects with the key of a desired object, and the
        current values of desired sysctls. Routes, addresses and links that others added beside them
        are ignored, so they are left alone.

        peers_only: further namespaces in which only links are read, to find the peers of veths.

        Namespaces without a running pause process are left out.
        """
        seen: dict[str, list[ObservedLink]] = {}
        observed: dict[str, list[Object]] = {}
        for netns, contents in desired.items():
            sandbox = next((obj for obj in contents.values() if isinstance(obj, Sandbox)), None)
            if netns not in self.sandboxes.pauses or sandbox is None:
                continue
            try:
                observed[netns] = [sandbox, *self.files.read(netns)]
                if not sandbox.shares:
                    with self.sandboxes.inside(netns), RouteSocket() as route:
                        seen[netns] = self._read_links(netns, route)
                        observed[netns] += self._read_other_objects(
                            netns, contents, seen[netns], route
                        )
            except (FileNotFoundError, ProcessLookupError):
                del observed[netns]
        peer_links = [
            (netns, link)
            for netns in peers_only
            if netns not in seen
            for link in self._read_peer_links(netns)
        ]
        own_links = [(netns, link) for netns, links in seen.items() for link in links]
        veths = {
            link.index: (netns, link)
            for netns, link in (*own_links, *peer_links)
            if link.kind == "veth"
        }
        for netns, links in seen.items():
            observed[netns] += observed_links(netns, links, veths, desired[netns])
        return {netns: contents_of(objects) for netns, objects in observed.items()}

    def foreign_objects(self, netns: str, observed: Contents, peer: str) -> list[str]:
        """Return descriptions of the objects of a namespace that other programs have made.

        observed: objects of the lab in the namespace.
        peer: namespace to which its veths lead; empty if there are several.
        """
        peers = {
            link.index: f"{link.name} in {peer}"
            for link in (self._read_peer_links(peer) if peer else ())
        }
        try:
            with self.sandboxes.inside(netns), RouteSocket() as route:
                links = self._read_links(netns, route)
                return list(read_foreign_objects(netns, observed, links, peers, route))
        except (KeyError, FileNotFoundError, ProcessLookupError):
            return []  # there is no such sandbox, or its pause process has exited

    def _read_peer_links(self, netns: str) -> list[ObservedLink]:
        try:
            with self.sandboxes.inside(netns), RouteSocket() as route:
                return self._read_links(netns, route)
        except (KeyError, FileNotFoundError, ProcessLookupError):
            return []  # there is no such sandbox, or its pause process has exited

    def _read_links(self, netns: str, route: RouteSocket) -> list[ObservedLink]:
        links = [decode_link(body) for body in route.dump(dump_links())]
        self._indexes[netns] = {link.name: link.index for link in links}
        self._next_index = max(self._next_index, *(link.index + 1 for link in links))
        return links

    def _read_other_objects(
        self, netns: str, desired: Contents, links: Sequence[ObservedLink], route: RouteSocket
    ) -> Iterator[Object]:
        """Yield sysctls, addresses, neighbours, routes and the like of the current namespace."""
        yield from self._sysctls.read(
            [obj for obj in desired.values() if isinstance(obj, Sysctl | Settings)]
        )
        yield from read_objects(netns, desired, links, route)
        yield from read_unreported_objects(netns, desired, links)


def _sandbox(operations: Sequence[Operation]) -> Sandbox:
    """Return the sandbox, which is the first object of a new namespace."""
    sandbox = operations[0].object
    assert isinstance(sandbox, Sandbox)
    return sandbox


def _exists_in(obj: Object, existing: Mapping[Key, Object]) -> bool:
    """Return True if an equal object exists, apart from the name of the namespace."""
    other = existing.get(obj.key)
    return other is not None and structs.replace(obj, netns=other.netns) == other


def _split(operations: Iterable[Operation]) -> tuple[list[Operation], list[Operation]]:
    """Split into what can be done at once, and what waits for veths of other namespaces.

    A new link whose peer creates it waits, and so does everything new that depends on the link.
    """
    at_once: list[Operation] = []
    waiting: list[Operation] = []
    created_later: set[Key | None] = set()
    for operation in operations:
        obj = operation.object
        is_created_by_peer = isinstance(obj, Link) and obj.is_created_by_peer
        if operation.verb != "remove" and (is_created_by_peer or obj.depends_on in created_later):
            created_later.add(obj.key)
            waiting.append(operation)
        else:
            at_once.append(operation)
    return at_once, waiting
