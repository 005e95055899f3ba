"""bpf in a namespace: programs on its links, entries of their maps, and an ear for links that come.

The programs are held by the links on which they are, and hold their maps: another process finds them there. Packets go on through them
whoever ends. Source: tc-bpf(8); rtnetlink(7).
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from kubenetlab.hoststate import tc
from kubenetlab.hoststate.bpf import COMING, GOING, Words, programs_on, readable
from kubenetlab.hoststate.rules import Name
from kubenetlab.hoststate.wire import NLM_F_DUMP, RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK, as_string, attributes, message, messages
from kubenetlab.kernel.libbpf import Libbpf, Loaded
from kubenetlab.kernel.rtnetlink import RECEIVE_BYTES, SOL_NETLINK, RouteSocket
from kubenetlab.kernel.rules import RulesError

OBJECT: Final = Path(__file__).parents[1] / "bpf" / "service.bpf.o"
SIDES: Final[Mapping[str, tc.Side]] = {COMING: "ingress", GOING: "egress"}
TOLD: Final = ("settings", "fronts", "endpoints", "members", "sources")
"""The maps that are written from outside; the others belong to the packets."""

GRACE_S, QUIET_S = 0.25, 0.02
"""How long programs that are taken away translate what they have begun, and after which silence nothing is left to translate."""

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
        self._loaded: Loaded | None = None
        self._wanted: frozenset[str] = frozenset()
        """Links on which the programs are to be."""
        self._hooked: dict[str, int] = {}
        """Links on which they are, with their indexes."""
        self._route = RouteSocket()
        self._ear = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._ear.bind((0, 0))
        for group in (_RTNLGRP_LINK, _RTNLGRP_TC):
            self._ear.setsockopt(SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)

    def run(self, text: str) -> str:
        words = msgspec.json.decode(text, type=Words)
        try:
            if not words.links:
                self._take_away()
                return ""
            loaded = self._programs()
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
        except (OSError, ValueError) as error:
            raise RulesError(str(error)) from None
        return ""

    def listed(self, names: Sequence[Name]) -> Any:
        links = self._links()
        found = {link: [one.name for one in self._filters(index)] for link, index in links.items()}
        loaded = self._loaded or self._adopted()
        maps = {name: {key.hex(): value.hex() for key, value in loaded.entries(name)} for name in TOLD} if loaded else {}
        return {"links": {link: names for link, names in found.items() if names}, "maps": maps}

    def text(self) -> str:
        listed = self.listed(())
        lines = [f"link {link}: {', '.join(names)}" for link, names in listed["links"].items()]
        maps = {name: listed["maps"].get(name, {}) for name in ("fronts", "endpoints", "sources")}
        lines += sorted(
            readable(name, bytes.fromhex(key), bytes.fromhex(value)) for name, entries in maps.items() for key, value in entries.items()
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
        if is_changed and self._loaded is not None:
            self._hook(is_strict=False)

    def close(self) -> None:
        if self._loaded is not None:
            self._loaded.close()
        self._route.close()
        self._ear.close()

    def _concerns_us(self, type_: int, body: memoryview) -> bool:
        index = _INDEX.unpack_from(body, 4)[0]
        if type_ in (tc.RTM_DELTFILTER, tc.RTM_DELQDISC):
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

    def _programs(self) -> Loaded:
        if self._loaded is None:
            self._loaded = self._adopted() or self._libbpf.load(OBJECT.read_bytes())
        return self._loaded

    def _adopted(self) -> Loaded | None:
        """What a former process left on the links, if all of it is there."""
        found = {one.name: one.program_id for index in self._links().values() for one in self._filters(index)}
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
        requests = [tc.add_qdisc(index), *(tc.set_filter(index, SIDES[name], fds[name], name) for name in programs_on(link))]
        return [str(refusal) for refusal in self._route.batch(requests) if refusal.request or refusal.errno != errno.EEXIST]

    def _unhook(self, index: int) -> None:
        """A link that is gone has none."""
        self._route.batch([tc.delete_filter(index, side) for side in SIDES.values()])

    def _take_away(self) -> None:
        """New flows are left to others first, and what is being said has a moment to end."""
        if (loaded := self._loaded or self._adopted()) is not None:
            self._loaded = loaded
            loaded.set("settings", bytes(4), bytes(loaded.maps["settings"].value_size))
            for name in TOLD[1:]:
                for key, _ in loaded.entries(name):
                    loaded.delete(name, key)
            deadline = time.monotonic() + GRACE_S
            while _is_busy(loaded) and time.monotonic() < deadline:
                time.sleep(QUIET_S)
        self._wanted = frozenset()
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


def _is_busy(loaded: Loaded) -> bool:
    """True when a packet of any flow has just been seen."""
    quiet_since = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int(QUIET_S * 1e9)
    return any(int.from_bytes(value[-8:], sys.byteorder) > quiet_since for _, value in loaded.entries("flows"))


def _link_name(body: memoryview) -> str:
    return as_string(attributes(body[_LINK_HEADER:])[_IFLA_IFNAME])
