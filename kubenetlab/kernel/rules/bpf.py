"""bpf in a namespace: programs on its links, entries of their maps, and an ear for links that come.

The programs are held by the links on which they are, and hold their maps: another process finds them there. Packets go on through them
whoever ends. The kernel tells who changes links, and nobody who changes maps: those are compared, a few entries at a time.
Source: tc-bpf(8); rtnetlink(7).
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from kubenetlab.hoststate import tc
from kubenetlab.hoststate.rules.bpf import COMING, GOING, Entry, MapUpdate, programs_on
from kubenetlab.hoststate.rules.bpf_entries import readable
from kubenetlab.hoststate.rules.rulesets import Name
from kubenetlab.hoststate.wire import (
    NLM_F_DUMP,
    RTM_DELLINK,
    RTM_GETLINK,
    RTM_NEWLINK,
    as_string,
    attributes,
    message,
    messages,
)
from kubenetlab.kernel.netlink.rtnetlink import SOL_NETLINK, RouteSocket
from kubenetlab.kernel.netlink.sockets import RECEIVE_BYTES
from kubenetlab.kernel.rules.backends import RulesError
from kubenetlab.kernel.rules.libbpf import Libbpf, LoadedPrograms

OBJECT: Final = Path(__file__).parents[2] / "bpf" / "service.bpf.o"
SIDES: Final[Mapping[str, tc.Side]] = {COMING: "ingress", GOING: "egress"}
TOLD: Final = ("settings", "doors", "homes", "fronts", "endpoints", "members", "sources")
"""The maps that are written from outside; the others belong to the packets."""

GRACE_S, QUIET_S = 0.25, 0.02
"""How long programs that are to go translate what they have begun, and after which silence nothing is left to translate."""
COMPARED, REST_S = 100, 5.0
"""How many entries of maps are compared at one time, and how long nobody looks when all have been."""

_NETLINK_ADD_MEMBERSHIP, _RTNLGRP_LINK, _RTNLGRP_TC = 1, 1, 4
_LINK_HEADER, _IFLA_IFNAME = 16, 3
_INDEX = struct.Struct("=i")
_BUFFER_BYTES = 1024 * 1024


def open_here() -> BpfLoader:
    """The programs of the namespace this process stands in. Raises RequirementError where libbpf is missing."""
    return BpfLoader()


class BpfLoader:
    """It keeps the namespace it was made in, and keeps that alive."""

    def __init__(self) -> None:
        self._libbpf = Libbpf()
        self._loaded: LoadedPrograms | None = None
        self._wanted: frozenset[str] = frozenset()
        """Links on which the programs are to be."""
        self._hooked: dict[str, int] = {}
        """Links on which they are, with their indexes."""
        self._own: frozenset[int] = frozenset()
        """The programs' ids."""
        self._told: dict[Entry, bytes] | None = None
        """What is to be in the maps; unknown until all of it has been told."""
        self._comparing: Iterator[bool | None] = iter(())
        self._leaving_since: float | None = None
        self._route = RouteSocket()
        self._ear = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            socket.NETLINK_ROUTE,
        )
        self._ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._ear.bind((0, 0))
        for group in (_RTNLGRP_LINK, _RTNLGRP_TC):
            self._ear.setsockopt(SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)

    def run(self, text: str) -> str:
        words = msgspec.json.decode(text, type=MapUpdate)
        try:
            if not words.links:
                self._leave()
                return ""
            loaded = self._programs()
            self._leaving_since = None
            told, self._told = {} if words.is_anew else self._told, None
            wanted = {(name, bytes.fromhex(key)) for name, key, _ in words.set}
            for name, key, value in words.set:
                loaded.set(name, bytes.fromhex(key), bytes.fromhex(value))
            for name in TOLD[1:] if words.is_anew else ():
                for found, _ in loaded.entries(name):
                    if (name, found) not in wanted:
                        loaded.delete(name, found)
            for name, key in words.delete:
                loaded.delete(name, bytes.fromhex(key))
            self._wanted = frozenset(words.links)
            self._hook(is_strict=True)
            self._told = _changed(told, words)
            self._comparing = self._compared()
        except (OSError, ValueError) as error:
            raise RulesError(str(error)) from None
        return ""

    def tend(self) -> None:
        """Programs that are to go do so when they have no more to translate, or when their time is over."""
        if self._leaving_since is None or self._loaded is None:
            return
        if not _is_busy(self._loaded) or time.monotonic() - self._leaving_since > GRACE_S:
            self._take_away()

    def was_touched(self) -> bool:
        """True when one of the entries whose turn it is is not as it was told; then nobody looks for a while."""
        for is_same in islice(self._comparing, COMPARED):
            if is_same is None:
                return False
            if not is_same:
                self._comparing = self._compared(after_s=REST_S)
                return True
        return False

    def listed(self, names: Sequence[Name]) -> Any:
        links = self._links()
        found = {link: [one.name for one in self._filters(index)] for link, index in links.items()}
        loaded = self._loaded or self._adopted()
        maps = (
            {name: {key.hex(): value.hex() for key, value in loaded.entries(name)} for name in TOLD}
            if loaded
            else {}
        )
        return {"links": {link: names for link, names in found.items() if names}, "maps": maps}

    def text(self) -> str:
        listed = self.listed(())
        lines = [f"link {link}: {', '.join(names)}" for link, names in listed["links"].items()]
        maps = {
            name: listed["maps"].get(name, {})
            for name in ("doors", "homes", "fronts", "endpoints", "sources")
        }
        lines += sorted(
            readable(name, bytes.fromhex(key), bytes.fromhex(value))
            for name, entries in maps.items()
            for key, value in entries.items()
        )
        return "\n".join(lines)

    def fileno(self) -> int:
        return self._ear.fileno()

    def heard(self) -> None:
        """Links that have come get the programs; where somebody took them away they are put again."""
        is_changed = False
        while True:
            try:
                data = self._ear.recv(RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._hooked.clear()
                is_changed = True
                continue
            for type_, _, _, body in messages(data):
                is_changed |= self._concerns_us(type_, body)
        if is_changed and self._loaded is not None and self._leaving_since is None:
            self._hook(is_strict=False)

    def close(self) -> None:
        if self._loaded is not None:
            self._loaded.close()
        self._route.close()
        self._ear.close()

    def _concerns_us(self, type_: int, body: memoryview) -> bool:
        index = _INDEX.unpack_from(body, 4)[0]
        if type_ in (tc.RTM_DELTFILTER, tc.RTM_DELQDISC) or (
            type_ == tc.RTM_NEWTFILTER and self._is_anothers(body)
        ):
            mine = [link for link, known in self._hooked.items() if known == index]
            for link in mine:
                del self._hooked[link]
            return bool(mine)
        if type_ not in (RTM_NEWLINK, RTM_DELLINK):
            return False
        name = _link_name(body)
        if type_ == RTM_DELLINK and self._hooked.get(name) == index:
            del self._hooked[name]
        return type_ == RTM_NEWLINK and name in self._wanted and self._hooked.get(name) != index

    def _is_anothers(self, body: memoryview) -> bool:
        """True for a program that stands where ours should."""
        found = tc.decode_filter(body)
        return found is not None and found.program_id not in self._own

    def _compared(self, after_s: float = 0.0) -> Iterator[bool | None]:
        """Whether each entry is as it was told, over and over; None while nobody needs to look."""
        while True:
            rest_until = time.monotonic() + after_s
            while self._told is None or self._loaded is None or time.monotonic() < rest_until:
                yield None
            loaded, told = self._loaded, self._told
            for (name, key), value in told.items():
                yield loaded.value(name, key) == value
            for name in TOLD:
                for key in loaded.keys(name):
                    yield (name, key) in told
            after_s = REST_S

    def _programs(self) -> LoadedPrograms:
        if self._loaded is None:
            self._loaded = self._adopted() or self._libbpf.load(OBJECT.read_bytes())
        self._own = frozenset(self._libbpf.id_of(fd) for fd in self._loaded.programs.values())
        return self._loaded

    def _adopted(self) -> LoadedPrograms | None:
        """What a former process left on the links, if all of it is there."""
        found = {
            one.name: one.program_id
            for index in self._links().values()
            for one in self._filters(index)
        }
        return self._libbpf.found(found) if found.keys() == SIDES.keys() else None

    def _hook(self, *, is_strict: bool) -> None:
        """Puts the programs on the links that are there and have none yet, and takes them from those that are not to have any."""
        links = self._links()
        for link in [link for link in self._hooked if link not in self._wanted]:
            self._unhook(self._hooked.pop(link))
        for link in sorted(self._wanted & links.keys()):
            if self._hooked.get(link) == links[link]:
                continue
            refusals = self._put(link, links[link])
            if not refusals:
                self._hooked[link] = links[link]
            elif is_strict:
                raise OSError(f"{link}: {refusals[0]}")

    def _put(self, link: str, index: int) -> list[str]:
        assert self._loaded is not None
        fds = self._loaded.programs
        requests = [
            tc.add_qdisc(index),
            *(tc.set_filter(index, SIDES[name], fds[name], name) for name in programs_on(link)),
        ]
        return [
            str(refusal)
            for refusal in self._route.batch(requests)
            if refusal.request or refusal.errno != errno.EEXIST
        ]

    def _unhook(self, index: int) -> None:
        """A link that is gone has none."""
        self._route.batch([tc.delete_filter(index, side) for side in SIDES.values()])

    def _leave(self) -> None:
        """New flows are left to others at once; what is being said has a moment to end."""
        self._wanted, self._told = frozenset(), None
        self._loaded = loaded = self._loaded or self._adopted()
        if loaded is None:
            self._take_away()
            return
        loaded.set("settings", bytes(4), bytes(loaded.maps["settings"].value_size))
        for name in TOLD[1:]:
            for key, _ in loaded.entries(name):
                loaded.delete(name, key)
        self._leaving_since = time.monotonic()

    def _take_away(self) -> None:
        self._leaving_since = None
        self._hooked.clear()
        for index in self._links().values():
            if any(True for _ in self._filters(index)):
                self._unhook(index)
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None

    def _links(self) -> dict[str, int]:
        bodies = list(self._route.dump(message(RTM_GETLINK, NLM_F_DUMP, bytes(_LINK_HEADER))))
        return {_link_name(body): _INDEX.unpack_from(body, 4)[0] for body in bodies}

    def _filters(self, index: int) -> Iterator[tc.Filter]:
        for side in SIDES.values():
            try:
                bodies = list(self._route.dump(tc.list_filters(index, side)))
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENODEV):
                    raise
                continue
            yield from (found for body in bodies if (found := tc.decode_filter(body)) is not None)


def _changed(told: dict[Entry, bytes] | None, words: MapUpdate) -> dict[Entry, bytes] | None:
    """What is to be in the maps after these words."""
    if told is not None:
        told.update(
            {(name, bytes.fromhex(key)): bytes.fromhex(value) for name, key, value in words.set}
        )
        for name, key in words.delete:
            told.pop((name, bytes.fromhex(key)), None)
    return told


def _is_busy(loaded: LoadedPrograms) -> bool:
    """True when a packet of any flow has just been seen."""
    quiet_since = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int(QUIET_S * 1e9)
    return any(
        int.from_bytes(value[-8:], sys.byteorder) > quiet_since
        for _, value in loaded.entries("flows")
    )


def _link_name(body: memoryview) -> str:
    return as_string(attributes(body[_LINK_HEADER:])[_IFLA_IFNAME])
