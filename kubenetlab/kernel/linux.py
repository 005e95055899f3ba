"""LinuxKernel: namespaces, links, addresses, routes, neighbours and settings, observed and applied.

New namespaces are filled by one batch each while we stand in them. What needs links of namespaces that come later, the ports of
bridges, is done at the end, one batch per namespace.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from msgspec import structs

from kubenetlab.hoststate.address import decode_address, dump_addresses
from kubenetlab.hoststate.diff import Changes, NetnsChanges, Operation
from kubenetlab.hoststate.link import LOOPBACK, Bridge, Dummy, LinkUp, Port, Veth
from kubenetlab.hoststate.link_messages import SeenLink, decode_link, dump_links
from kubenetlab.hoststate.neighbor import Neighbor, decode_neighbor, dump_neighbors
from kubenetlab.hoststate.nexthop import decode_nexthop, dump_nexthops
from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.peers import Peers, peers_key, peers_of
from kubenetlab.hoststate.route import decode_route, dump_routes
from kubenetlab.hoststate.sandbox import Sandbox, Settings, Sysctl
from kubenetlab.hoststate.state import Contents, contents_of
from kubenetlab.kernel.namespaces.contents import fill, send
from kubenetlab.kernel.namespaces.pause_starter import STARTERS, PauseStarter
from kubenetlab.kernel.namespaces.sandboxes import Sandboxes
from kubenetlab.kernel.namespaces.sysctls import Sysctls, SysctlWriter
from kubenetlab.kernel.netlink.rtnetlink import RouteSocket
from kubenetlab.kernel.port_queue import PortQueue, far_namespaces
from kubenetlab.kernel.report import Done, Failure, Report, failure_of, nobody_asks, with_causes
from kubenetlab.kernel.syscalls import open_namespace

FIRST_INDEX: Final = 1000
"""Our interface indexes begin here: far above those that modules such as ipip take in every new namespace."""

_DUMPS: Final = (
    (dump_addresses(), decode_address),
    (dump_neighbors(), decode_neighbor),
    (dump_routes(), decode_route),
    (dump_nexthops(), decode_nexthop),
)


class LinuxKernel:
    """The kernel as one lab uses it. Lives in the lab's PID namespace; not to be used from two threads.

    It has some of its own, in which pause processes are started while the next namespaces are filled.
    """

    def __init__(self, sandboxes: Sandboxes) -> None:
        self.sandboxes = sandboxes
        self._indexes: dict[str, dict[str, int]] = {}
        self._next_index = FIRST_INDEX
        self._open: dict[str, int] = {}
        """Namespaces into which others plug their links, by name: of a new one before its pause process is there, so that nobody waits."""
        self._pauses = ThreadPoolExecutor(STARTERS, "pauses")
        self._sysctls = Sysctls()

    # --- what the encoders ask (hoststate.wire.Links) ---

    def index(self, netns: str, link: str) -> int:
        return 1 if link == LOOPBACK else self._indexes.get(netns, {})[link]

    def indexes(self, netns: str) -> Mapping[str, int]:
        """The indexes of a namespace's links, as they were made or last seen."""
        return self._indexes.get(netns, {})

    def new_index(self, netns: str, link: str) -> int:
        self._indexes.setdefault(netns, {})[link] = index = self._next_index
        self._next_index += 1
        return index

    def namespace_fd(self, netns: str) -> int:
        if netns not in self._open:
            self._open[netns] = self.sandboxes.open(netns)
        return self._open[netns]

    # --- apply ---

    def apply(self, changes: Changes, done: Done = nobody_asks) -> Report:
        """Makes the changes in namespaces, links and all that is told by netlink; other hands' objects are passed over.

        `done` is called with each namespace that was worked on, when it is made and what is to be plugged into it is, in whatever thread.
        An operation that fails does not stop the others; when something in a new namespace fails, that namespace is not kept.
        """
        failures: list[Failure] = []
        starter = PauseStarter(self._pauses)
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
        finally:
            for fd in self._open.values():
                os.close(fd)
            self._open.clear()
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
        """Create or change one namespace and queue its new ports; return the operation count."""
        netlink = [
            operation for operation in entry.operations if operation.object.hand == "netlink"
        ]
        ports = [operation for operation in netlink if _is_new_port(operation)]
        others = [operation for operation in netlink if not _is_new_port(operation)]
        if not entry.is_new:
            failures += self._change(entry.netns, others, sysctls)
        elif hold := self._make(
            entry, others, sysctls, failures, is_peer=queue.is_awaited(entry.netns)
        ):
            prerequisites = (_sandbox(others).shares, *far_namespaces(entry))
            starter.start(entry.netns, hold, prerequisites)
        queue.add(entry.netns, ports)
        return len(netlink)

    def _remove(self, changes: Changes, failures: list[Failure]) -> int:
        """Remove sandboxes, and report links whose peer's namespace could not be created.

        Return the number of operations in the removed namespaces.
        """
        count = 0
        reported = {(failure.netns, failure.operation.object.key) for failure in failures}
        for entry in changes.namespaces:
            if entry.is_removed:
                self.sandboxes.remove(entry.netns)
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
        """A new namespace, filled; adds to `failures` what is refused. What is still to be done, and may be in another thread: its pause process."""
        first, *inside = operations
        sandbox = _sandbox(operations)
        blank, left = self._blank_for(inside)

        def fill_it() -> None:
            if refused := fill(entry.netns, left, sysctls, self):
                failures.extend(refused)
                raise _FailedError
            if is_peer:
                self._open[entry.netns] = open_namespace("net")

        def hold() -> None:
            try:
                if lost := self._without_peer(entry):
                    failures.extend(lost)
                    if network is not None:
                        os.close(network)
                else:
                    self.sandboxes.hold(sandbox, network)
            except (OSError, KeyError) as error:
                failures.append(failure_of(entry.netns, first, error))

        try:
            network = self.sandboxes.network(sandbox, fill_it, blank)
        except _FailedError:
            return None
        except (OSError, KeyError) as error:
            failures.append(failure_of(entry.netns, first, error))
            return None
        return hold

    def _blank_for(self, operations: Sequence[Operation]) -> tuple[int | None, Sequence[Operation]]:
        """A namespace that was made ahead, if there is one that begins as this one is to; and what is left to be done in it."""
        blanks = self.sandboxes.blanks
        if blanks is None or not operations:
            return None, operations
        begun = {obj.key: obj for obj in blanks.initial_objects}
        left = [operation for operation in operations if not _is_begun(operation.object, begun)]
        blank = blanks.take() if len(left) + len(begun) == len(operations) else None
        return (blank, left) if blank is not None else (None, operations)

    def _without_peer(self, entry: NetnsChanges) -> list[Failure]:
        """The links of a namespace that were to be plugged into one that has not come to be: they have gone with it."""
        return [
            Failure(
                entry.netns, operation, errno.ENODEV, f"there is no link or namespace {far[0]!r}"
            )
            for operation in entry.operations
            if operation.verb != "remove"
            and (far := operation.object.peer_end) is not None
            and far[0] not in self.sandboxes.pauses
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
        self, wanted: Mapping[str, Contents], far: Iterable[str] = ()
    ) -> dict[str, Contents]:
        """What exists in the namespaces named: what we made, what has the place of what is wanted, the settings that are asked about.

        What somebody added beside it, a route, an address, a link, is theirs: it is not seen, and so it is left alone.
        A namespace without a living sandbox is left out. Veth ends are put together over all of them and those in `far`, of which
        nothing but the links is read.
        """
        seen: dict[str, list[SeenLink]] = {}
        found: dict[str, list[Object]] = {}
        for netns, contents in wanted.items():
            sandbox = next((obj for obj in contents.values() if isinstance(obj, Sandbox)), None)
            if netns not in self.sandboxes.pauses or sandbox is None:
                continue
            try:
                found[netns] = [sandbox]
                if not sandbox.shares:
                    with self.sandboxes.inside(netns), RouteSocket() as route:
                        seen[netns] = self._read_links(netns, route)
                        found[netns] += self._read_rest(netns, contents, seen[netns], route)
            except (FileNotFoundError, ProcessLookupError):
                del found[netns]
        beside = [
            (netns, link) for netns in far if netns not in seen for link in self._far_links(netns)
        ]
        here = [(netns, link) for netns, links in seen.items() for link in links]
        ends = {
            link.index: (netns, link) for netns, link in (*here, *beside) if link.kind == "veth"
        }
        for netns, links in seen.items():
            found[netns] += self._links(netns, links, ends, wanted[netns])
        return {netns: contents_of(objects) for netns, objects in found.items()}

    def _far_links(self, netns: str) -> list[SeenLink]:
        try:
            with self.sandboxes.inside(netns), RouteSocket() as route:
                return self._read_links(netns, route)
        except (KeyError, FileNotFoundError, ProcessLookupError):
            return []  # it has no sandbox, or not any more

    def _read_links(self, netns: str, route: RouteSocket) -> list[SeenLink]:
        links = [decode_link(body) for body in route.dump(dump_links())]
        self._indexes[netns] = {link.name: link.index for link in links}
        self._next_index = max(self._next_index, *(link.index + 1 for link in links))
        return links

    def _read_rest(
        self, netns: str, wanted: Contents, links: Sequence[SeenLink], route: RouteSocket
    ) -> Iterator[Object]:
        """Settings, addresses, neighbours and routes of the namespace we stand in."""
        yield from self._sysctls.read(
            [obj for obj in wanted.values() if isinstance(obj, Sysctl | Settings)]
        )
        names = {link.index: link.name for link in links}
        peers = {obj.key: obj for obj in wanted.values() if isinstance(obj, Peers)}
        beside: dict[Key, list[Neighbor]] = {key: [] for key in peers}
        for request, decode in _DUMPS:
            for body in route.dump(request):
                decoded = decode(netns, body, names)
                if decoded is None:
                    continue
                obj, is_ours = decoded
                if (
                    isinstance(obj, Neighbor)
                    and obj.key not in wanted
                    and (place := peers_key(obj.link, obj.address)) in peers
                ):
                    if is_ours or obj.address in peers[place]:
                        beside[place].append(obj)
                elif is_ours or obj.key in wanted:
                    yield obj
        yield from (peers_of(netns, beside[key], obj) for key, obj in peers.items() if beside[key])

    def _links(
        self,
        netns: str,
        links: Sequence[SeenLink],
        ends: Mapping[int, tuple[str, SeenLink]],
        wanted: Contents,
    ) -> Iterable[Object]:
        """`ends` are all veths by index: those are unique in the lab, so a pair name each other."""
        names = {link.index: link.name for link in links}
        for link in links:
            place = wanted.get(("Link", link.name))
            if place is None:
                continue
            if isinstance(place, LinkUp):
                yield LinkUp(netns, link.name, link.is_up)
            elif link.kind == "bridge":
                yield Bridge(netns, link.name, link.mac, link.mtu, link.alias, link.is_up)
            elif link.kind == "dummy":
                yield Dummy(netns, link.name, link.mac, link.alias)
            elif link.kind == "veth" and isinstance(place, Port):
                master = names.get(link.master_index, "")
                yield Port(
                    netns,
                    link.name,
                    master,
                    link.mac,
                    link.mtu,
                    link.alias,
                    link.is_hairpin,
                    link.is_up,
                )
            elif link.kind == "veth":
                peer_netns, peer = ends.get(link.peer_index, ("?", None))
                is_pair = peer is not None and peer.peer_index == link.index
                there = (peer_netns, peer.name) if is_pair and peer is not None else ("?", "?")
                yield Veth(netns, link.name, link.mac, *there, link.mtu, link.alias, link.is_up)


class _FailedError(Exception):
    """Ends the making of a sandbox; what failed is told elsewhere."""


def _sandbox(operations: Sequence[Operation]) -> Sandbox:
    """The sandbox with which a new namespace begins."""
    found = operations[0].object
    assert isinstance(found, Sandbox)
    return found


def _is_begun(obj: Object, begun: Mapping[Key, Object]) -> bool:
    """True for what is there already, but for the name of the namespace."""
    same = begun.get(obj.key)
    return same is not None and structs.replace(obj, netns=same.netns) == same


def _is_new_port(operation: Operation) -> bool:
    """A port's link comes with a veth that is made from the other side, perhaps later in the same apply."""
    return isinstance(operation.object, Port) and operation.verb != "remove"
