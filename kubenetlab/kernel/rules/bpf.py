"""bpf backend: BPF programs on the links of a namespace, and entries of their maps.

Links hold the programs, and the programs hold their maps. Packets are translated even while no
process of the lab runs, and a new process finds programs and maps by way of the links. The kernel
reports changes of links and filters, but not of maps: map entries are compared, some at a time.

Source: tc-bpf(8); rtnetlink(7).
"""

from __future__ import annotations

import errno
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from kubenetlab.hoststate.links.messages import is_bridge_port_message
from kubenetlab.hoststate.netlink import tc
from kubenetlab.hoststate.netlink.wire import (
    RTM_DELLINK,
    RTM_NEWLINK,
    messages,
)
from kubenetlab.hoststate.rules.bpf import PROGRAMS
from kubenetlab.hoststate.rules.bpf_programs import ProgramSet
from kubenetlab.hoststate.rules.bpf_updates import MapUpdate
from kubenetlab.hoststate.rules.rulesets import OwnedName
from kubenetlab.kernel.netlink.rtnetlink import SOL_NETLINK
from kubenetlab.kernel.netlink.sockets import RECEIVE_BYTES
from kubenetlab.kernel.rules.backends import RulesError
from kubenetlab.kernel.rules.libbpf import Libbpf, LoadedPrograms
from kubenetlab.kernel.rules.map_entries import (
    MapEntries,
    apply_changes,
    delete_others,
    entry_changes,
    require_capacity,
)
from kubenetlab.kernel.rules.tc_links import LINK_INDEX, TcLinks, link_name

if TYPE_CHECKING:
    from kubenetlab.hoststate.rules.bpf_listing import BpfListing

OBJECTS: Final = Path(__file__).parents[2] / "bpf"
"""Directory of the object files."""
OBJECT: Final = OBJECTS / PROGRAMS.file

GRACE_S, QUIET_S = 0.25, 0.02
"""Time that removed programs continue to translate open flows, and time without packets after which
they are removed earlier, in seconds."""
ENTRIES_PER_CHECK, CHECK_INTERVAL_S = 100, 5.0
"""Number of map entries compared per call, and pause after all were compared, in seconds."""

_NETLINK_ADD_MEMBERSHIP, _RTNLGRP_LINK, _RTNLGRP_TC = 1, 1, 4
_BUFFER_BYTES = 1024 * 1024


def open_loader() -> BpfLoader:
    """Open the bpf loader in the current network namespace.

    Raises RequirementError if libbpf is missing.
    """
    return BpfLoader(PROGRAMS)


class BpfLoader:
    """Loader of a set of programs for the namespace in which it was created.

    It keeps the namespace alive.
    """

    def __init__(self, programs: ProgramSet) -> None:
        self._set = programs
        self._libbpf = Libbpf()
        self._loaded: LoadedPrograms | None = None
        self._desired_links: frozenset[str] = frozenset()
        """Links to which the programs should be attached."""
        self._link_entries: Mapping[str, tuple[str, str]] = {}
        """Link → map and key of the entry with its index."""
        self._attached: dict[str, int] = {}
        """Links to which the programs are attached, with their indexes."""
        self._existing: dict[str, int] | None = None
        """Existing links with their indexes; None before they are listed."""
        self._own_program_ids: frozenset[int] = frozenset()
        """Kernel IDs of the loaded programs."""
        self._desired_entries: MapEntries | None = None
        """Desired map entries; None while they are not completely known."""
        self._comparison: Iterator[bool | None] = iter(())
        self._stopping_since: float | None = None
        self._tc = TcLinks(programs)
        self._notifications = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            socket.NETLINK_ROUTE,
        )
        self._notifications.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._notifications.bind((0, 0))
        for group in (_RTNLGRP_LINK, _RTNLGRP_TC):
            self._notifications.setsockopt(SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)

    def run(self, text: str) -> str:
        update = msgspec.json.decode(text, type=MapUpdate)
        try:
            if not update.links and not update.keeps_links:
                self._stop()
                return ""
            if update.keeps_links and not self._desired_links:
                self._desired_links = self._links_with_programs()
            loaded, changes = self._programs(), entry_changes(update)
            known = None if update.is_anew else self._desired_entries
            require_capacity(loaded, update, changes, known)
            self._stopping_since = self._desired_entries = None
            for entry in changes.to_set:
                loaded.set(*entry)
            for name in self._set.maps[1:] if update.is_anew else ():
                delete_others(loaded, name, changes.new.get(name, {}))
            for name, key in changes.to_delete:
                loaded.delete(name, key)
            if not update.keeps_links:
                self._desired_links = frozenset(update.links)
                self._remove_link_entries(loaded, update.link_entries)
            self._read_notifications()
            self._attach_all(is_strict=True)
            for link, index in self._attached.items() if update.is_anew else ():
                self._set_link_entry(link, index)
            self._desired_entries = apply_changes({} if update.is_anew else known, changes)
            self._comparison = self._compare_entries()
        except (OSError, ValueError) as error:
            raise RulesError(str(error)) from None
        return ""

    def maintain(self) -> None:
        """Remove stopped programs when no packets arrive any more, or after GRACE_S."""
        if self._stopping_since is None or self._loaded is None:
            return
        if (
            not _is_busy(self._loaded, self._set.flow_map)
            or time.monotonic() - self._stopping_since > GRACE_S
        ):
            self._remove()

    def has_drift(self) -> bool:
        """Return True if one of the entries compared in this call was changed by others.

        The comparison then pauses for CHECK_INTERVAL_S.
        """
        for is_same in islice(self._comparison, ENTRIES_PER_CHECK):
            if is_same is None:
                return False
            if not is_same:
                self._comparison = self._compare_entries(after_s=CHECK_INTERVAL_S)
                return True
        return False

    def listed(self, names: Sequence[OwnedName]) -> BpfListing:
        links = self._tc.links()
        programs = {
            link: [filter_.name for filter_ in self._tc.filters(index)]
            for link, index in links.items()
        }
        loaded = self._loaded or self._find_attached()
        maps = (
            {
                name: {key.hex(): value.hex() for key, value in loaded.entries(name)}
                for name in self._set.maps
            }
            if loaded
            else {}
        )
        return {"links": {link: names for link, names in programs.items() if names}, "maps": maps}

    def text(self) -> str:
        from kubenetlab.hoststate.rules.bpf_listing import listing_text

        loaded = self._loaded or self._find_attached()
        counters = {
            name: dict(loaded.entries(name))
            for name in self._set.counters
            if loaded is not None and name in loaded.maps
        }
        return listing_text(self._set, self.listed(()), counters)

    def fileno(self) -> int:
        return self._notifications.fileno()

    def process_events(self) -> None:
        """Attach the programs to new links, and attach them again where others detached them."""
        is_changed = self._read_notifications()
        if is_changed and self._loaded is not None and self._stopping_since is None:
            self._attach_all(is_strict=False)

    def _read_notifications(self) -> bool:
        """Read pending notifications; return True if programs have to be attached."""
        is_changed = False
        while True:
            try:
                data = self._notifications.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return is_changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._attached.clear()
                self._existing = None
                is_changed = True
                continue
            for type_, _, _, body in messages(data):
                is_changed |= self._is_relevant(type_, body)

    def close(self) -> None:
        if self._loaded is not None:
            self._loaded.close()
        self._tc.close()
        self._notifications.close()

    def _is_relevant(self, type_: int, body: memoryview) -> bool:
        """Return True if a notification requires programs to be attached."""
        index = LINK_INDEX.unpack_from(body, 4)[0]
        if type_ in (tc.RTM_DELTFILTER, tc.RTM_DELQDISC) or (
            type_ == tc.RTM_NEWTFILTER and self._is_foreign(body)
        ):
            affected = [
                link for link, attached_index in self._attached.items() if attached_index == index
            ]
            for link in affected:
                del self._attached[link]
            return bool(affected)
        if type_ not in (RTM_NEWLINK, RTM_DELLINK):
            return False
        name = link_name(body)
        if type_ == RTM_DELLINK:
            if not is_bridge_port_message(body):
                self._forget_link(index)
            return False
        if self._existing is not None and self._existing.get(name) != index:
            self._forget_link(index)  # it may have had another name
            self._existing[name] = index
        is_referred_to = name in self._link_entries
        return (name in self._desired_links or is_referred_to) and self._attached.get(name) != index

    def _forget_link(self, index: int) -> None:
        """Forget a link that does not exist any more."""
        for links in (self._attached, self._existing or {}):
            for name in [name for name, known_index in links.items() if known_index == index]:
                del links[name]

    def _is_foreign(self, body: memoryview) -> bool:
        """Return True for a filter in our place with a program of others."""
        if tc.filter_priority(body) not in self._tc.priorities:
            return False
        filter_ = tc.decode_filter(body)
        return filter_ is not None and filter_.program_id not in self._own_program_ids

    def _compare_entries(self, after_s: float = 0.0) -> Iterator[bool | None]:
        """Yield for each entry whether it is as desired, in an endless loop; None during pauses."""
        while True:
            rest_until = time.monotonic() + after_s
            while (
                self._desired_entries is None
                or self._loaded is None
                or time.monotonic() < rest_until
            ):
                yield None
            loaded, desired = self._loaded, self._desired_entries
            for name, of_map in desired.items():
                for key, value in of_map.items():
                    yield loaded.value(name, key) == value
            for name in self._set.maps:
                for key in loaded.keys(name):
                    yield key in desired.get(name, {})
            for link, (name, link_key) in tuple(self._link_entries.items()):
                links = self._attached if link in self._desired_links else self._existing or {}
                if (index := links.get(link)) is not None:
                    yield loaded.value(name, bytes.fromhex(link_key)) == LINK_INDEX.pack(index)
            after_s = CHECK_INTERVAL_S

    def _programs(self) -> LoadedPrograms:
        if self._loaded is None:
            found = self._find_attached()
            if found is None or found.programs.keys() != self._set.places.keys():
                # A program that was on no link is gone, while the maps are still there.
                maps = found.maps if found is not None else {}
                data = (OBJECTS / self._set.file).read_bytes()
                self._loaded = self._libbpf.load(data, maps)
                if found is not None:
                    found.close()
            else:
                self._loaded = found
        self._own_program_ids = frozenset(
            self._libbpf.id_of(fd) for fd in self._loaded.programs.values()
        )
        return self._loaded

    def _find_attached(self) -> LoadedPrograms | None:
        """Return the programs that a former process attached, if any are attached."""
        program_ids = {
            filter_.name: filter_.program_id
            for index in self._tc.links().values()
            for filter_ in self._tc.filters(index)
        }
        return self._libbpf.open_loaded(program_ids) if program_ids else None

    def _links_with_programs(self) -> frozenset[str]:
        """Return the links to which a former process attached programs. Raises ValueError."""
        links = self._tc.links().items()
        found = frozenset(link for link, index in links if any(self._tc.filters(index)))
        if not found:
            raise ValueError("no link has programs, so that they have to be loaded again")
        return found

    def _attach_all(self, *, is_strict: bool) -> None:
        """Attach the programs to desired links without them; detach them from other links.

        is_strict: raise OSError for a link that refuses; otherwise it is tried again later.
        """
        assert self._loaded is not None
        if self._existing is None:
            self._existing = self._tc.links()
        links = self._existing
        for link in [link for link in self._attached if link not in self._desired_links]:
            self._tc.detach(self._attached.pop(link))
        new_links = {
            link: links[link]
            for link in sorted(self._desired_links)
            if link in links and self._attached.get(link) != links[link]
        }
        refusals = self._tc.attach(new_links, self._loaded.programs)
        for link, index in new_links.items():
            if link not in refusals:
                self._attached[link] = index
                self._set_link_entry(link, index)
        for link in self._link_entries.keys() - self._desired_links:
            if link in links:
                self._set_link_entry(link, links[link])
        for link, refusal in refusals.items() if is_strict else ():
            raise OSError(f"{link}: {refusal}")

    def _set_link_entry(self, link: str, index: int) -> None:
        """Store the index of a link in the map that needs it."""
        assert self._loaded is not None
        if (entry := self._link_entries.get(link)) is not None:
            name, key = entry
            self._loaded.set(name, bytes.fromhex(key), LINK_INDEX.pack(index))

    def _remove_link_entries(
        self, loaded: LoadedPrograms, desired: Mapping[str, tuple[str, str]]
    ) -> None:
        """Remove the entries of links that are not desired any more, and remember the others.

        After a replacement of the process, links without a known entry are attached again.
        """
        kept = set(desired.values())
        names = {name for name, _ in (*kept, *self._link_entries.values())}
        for name in names:
            for key in tuple(loaded.keys(name)) if desired != self._link_entries else ():
                if (name, key.hex()) not in kept:
                    loaded.delete(name, key)
        self._link_entries = desired

    def _stop(self) -> None:
        """Stop translating new flows; existing ones continue until the programs are removed."""
        self._desired_links, self._desired_entries = frozenset(), None
        self._loaded = loaded = self._loaded or self._find_attached()
        if loaded is None:
            self._remove()
            return
        if not self._set.flow_map:
            self._remove()
            return
        settings, *others = self._set.maps
        loaded.set(settings, bytes(4), bytes(loaded.maps[settings].value_size))
        for name in others:
            for key, _ in loaded.entries(name):
                loaded.delete(name, key)
        self._stopping_since = time.monotonic()

    def _remove(self) -> None:
        self._stopping_since = None
        self._attached.clear()
        for index in self._tc.links().values():
            if any(True for _ in self._tc.filters(index)):
                self._tc.detach(index)
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None


def _is_busy(loaded: LoadedPrograms, flow_map: str) -> bool:
    """Return True if the programs translated a packet within the last QUIET_S."""
    quiet_since = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int(QUIET_S * 1e9)
    return any(
        int.from_bytes(value[-8:], sys.byteorder) > quiet_since
        for _, value in loaded.entries(flow_map)
    )
