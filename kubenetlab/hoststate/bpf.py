"""bpf: programs on a node's links, and what is in their maps.

A Service port is a front: an address and a port that are looked up; it names lists of endpoints. A list never changes: another choice of
endpoints is another list, and the front is set to that in one stroke. The layouts are those of kubenetlab/bpf/maps.h.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final

from msgspec import Struct

from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.rules import Bundle, Name, RuleObject, different, members

PROTOCOLS: Final[Mapping[str, int]] = {"TCP": 6, "UDP": 17}
LOOPBACK: Final = "lo"
COMING, GOING = "coming", "going"
"""The programs: at tc ingress and at tc egress."""
NAME: Final[Name] = ("tc", "services")
"""What the programs are to a namespace: they, their maps and where they are attached come and go together."""

IS_WATCHED: Final = True
"""Links come and lose their programs at any time: somebody has to listen."""

_FRONT_KEY = struct.Struct("=16s2sBB")
_FRONT = struct.Struct("=8s8s8sIIII")
_SLOT = struct.Struct("=8sII")
_ENDPOINT = struct.Struct("=16s2s6x")
_SOURCE_KEY = struct.Struct("=I8s16s")
_AT_ADDRESS, _AT_NODE = 0, 1
_IS_OUTSIDE, _IS_LOCAL, _IS_FENCED, _IS_HIDING = 1, 2, 4, 8
_UNSPECIFIED: Final = {4: "0.0.0.0", 6: "::"}

Entry = tuple[str, bytes]
"""(map, key)"""
Listing = tuple[str, int]
"""(name of a list of endpoints, how many they are)"""
NOWHERE: Final[Listing] = ("", 0)


class _Bpf(RuleObject, frozen=True):
    @property
    def dialect(self) -> str:
        return "bpf"

    @property
    def links(self) -> tuple[str, ...]:
        """On which the programs are to be."""
        return ()

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        """What it is in the maps."""
        raise NotImplementedError


class Range(Struct, frozen=True):
    """What a node knows of one address family."""

    node: str
    pods: str
    services: str
    doors: tuple[str, ...] = ()
    """The node's addresses at which node ports answer."""


class Programs(_Bpf, frozen=True):
    """The programs with their maps, on the links that a node has by itself."""

    rank = 100

    ranges: tuple[Range, ...]
    uplink: str

    @property
    def key(self) -> Key:
        return ("Programs",)

    @property
    def links(self) -> tuple[str, ...]:
        return (self.uplink, LOOPBACK)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        found = {ip_address(one.node).version: one for one in self.ranges}
        both = [found.get(version, Range(_UNSPECIFIED[version], "", "")) for version in (4, 6)]
        value = b"".join(_address(one.node) for one in both)
        value += b"".join(_range(one.pods) for one in both) + b"".join(_range(one.services) for one in both)
        yield ("settings", bytes(4)), value
        for address in (address for one in self.ranges for address in one.doors):
            yield ("doors", _address(address)), b"\1"

    def __str__(self) -> str:
        return f"bpf programs {COMING} and {GOING} on {self.uplink}, {GOING} on {LOOPBACK}"


class Hooked(_Bpf, frozen=True):
    """A pod's link, on which the programs are, too."""

    rank = 140

    link: str

    @property
    def key(self) -> Key:
        return ("Hooked", self.link)

    @property
    def links(self) -> tuple[str, ...]:
        return (self.link,)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        return iter(())

    def __str__(self) -> str:
        return f"bpf programs {COMING} and {GOING} on {self.link}"


class Endpoints(_Bpf, frozen=True):
    """A list of endpoints, of which one is drawn."""

    rank = 110

    name: str
    endpoints: tuple[tuple[str, int], ...]

    @property
    def key(self) -> Key:
        return ("Endpoints", self.name)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        own = _id(self.name)
        for index, (address, port) in enumerate(self.endpoints):
            endpoint = _ENDPOINT.pack(_address(address), _port(port))
            yield ("endpoints", _SLOT.pack(own, index, 0)), endpoint
            yield ("members", own + endpoint), b"\1"

    def __str__(self) -> str:
        return f"bpf endpoints {self.name}: {', '.join(f'{address} {port}' for address, port in self.endpoints)}"


class Source(_Bpf, frozen=True):
    """A range from which a Service may be asked at its load balancer's address."""

    rank = 110

    service: str
    cidr: str

    @property
    def key(self) -> Key:
        return ("Source", self.service, self.cidr)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        network = ip_network(self.cidr)
        length = network.prefixlen + (96 if network.version == 4 else 0)
        yield ("sources", _SOURCE_KEY.pack(64 + length, _id(self.service), _address(str(network.network_address)))), b"\1"

    def __str__(self) -> str:
        return f"bpf source {self.cidr} of {self.service}"


class ClusterIp(_Bpf, frozen=True):
    """An address of which the ports that no Service has refuse."""

    rank = 120

    address: str

    @property
    def key(self) -> Key:
        return ("ClusterIp", self.address)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        yield ("fronts", _FRONT_KEY.pack(_address(self.address), bytes(2), 0, _AT_ADDRESS)), bytes(_FRONT.size)

    def __str__(self) -> str:
        return f"bpf cluster IP {self.address}"


class Front(_Bpf, frozen=True):
    """Where a Service port is reached: at an address; at 0.0.0.0 or :: under a node port, at the node's doors."""

    rank = 120

    address: str
    port: int
    protocol: str
    service: str
    """`namespace/name:port/protocol`: who is faithful to it is so at all its addresses."""
    everywhere: Listing
    here: Listing = NOWHERE
    affinity_s: int = 0
    is_outside: bool = False
    is_local: bool = False
    is_fenced: bool = False
    """Only a Source may ask."""
    is_hiding: bool = False
    """Endpoints see none of their clients, but the node."""

    @property
    def key(self) -> Key:
        return ("Front", self.address, str(self.port), self.protocol)

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        kind = _AT_NODE if self.address in _UNSPECIFIED.values() else _AT_ADDRESS
        key = _FRONT_KEY.pack(_address(self.address), _port(self.port), PROTOCOLS[self.protocol], kind)
        flags = self.is_outside * _IS_OUTSIDE | self.is_local * _IS_LOCAL | self.is_fenced * _IS_FENCED | self.is_hiding * _IS_HIDING
        lists = (_id(self.everywhere[0]), _id(self.here[0]), _id(self.service))
        yield ("fronts", key), _FRONT.pack(*lists, self.everywhere[1], self.here[1], self.affinity_s, flags)

    def __str__(self) -> str:
        policy = "Local" if self.is_local else "Cluster"
        return f"bpf front {self.address} {self.port}/{self.protocol} of {self.service}: {policy} {(self.here if self.is_local else self.everywhere)[1]}"


Bpf = Programs | Hooked | Endpoints | Source | ClusterIp | Front
Ruled = Bpf | Bundle


def endpoints(service: str, policy: str, found: Sequence[tuple[str, int]]) -> Endpoints:
    """The list of a Service port by one policy, under a name that no other choice of endpoints has."""
    told = hashlib.sha256(repr(found).encode()).hexdigest()[:8]
    return Endpoints("", f"{service} {policy} {told}", tuple(found))


class Words(Struct, omit_defaults=True):
    """What is to be done, as JSON; keys and values of maps in hexadecimal."""

    links: list[str] = []
    """On which the programs are to be, as soon as they are there; without any the programs go."""
    is_anew: bool = False
    """What is in the maps and not to be set goes."""
    set: list[tuple[str, str, str]] = []
    delete: list[tuple[str, str]] = []


def update(old: Sequence[Ruled], new: Sequence[Ruled], former: Iterable[Name] = ()) -> str:
    """New lists before the fronts that name them, old ones after."""
    if not _links(old) or not _links(new):
        return replacement(new, former if _links(new) or not _links(old) else (NAME,))
    before, after = (_entries(side.values()) for side in different(old, new))
    words = Words(_links(new))
    words.set = [(name, key.hex(), value.hex()) for (name, key), value in after.items() if before.get((name, key)) != value]
    words.delete = [(name, key.hex()) for name, key in reversed(before) if (name, key) not in after]
    return _text(words) if words.set or words.delete or words.links != _links(old) else ""


def replacement(objects: Sequence[Ruled], former: Iterable[Name] = ()) -> str:
    """All maps but those that packets fill; flows go on."""
    if not (links := _links(objects)):
        return _text(Words()) if NAME in tuple(former) else ""
    entries = _entries(members(objects))
    return _text(Words(links, True, [(name, key.hex(), value.hex()) for (name, key), value in entries.items()]))


def names(objects: Iterable[Ruled]) -> tuple[Name, ...]:
    """One, where there is anything."""
    return (NAME,) if _links(objects) else ()


def blamed(said: str, objects: Iterable[Ruled]) -> tuple[Object, Object] | None:
    """The object of the map's entry that a refusal names, or what stands for all of it."""
    for whole in objects:
        for part in whole.parts:
            entries = part.entries() if isinstance(part, _Bpf) else ()
            if isinstance(part, Programs) or any(f"{name} {key.hex()}" in said for (name, key), _ in entries):
                return part, whole
    return None


def differences(wanted: Sequence[Ruled], listed: Any) -> Iterator[str]:
    """`listed` has the programs on each link, and the maps but for those that packets fill: `{"links": {…}, "maps": {…}}`."""
    known: set[Entry] = set()
    for obj in members(wanted):
        missing = [link for link in obj.links for program in programs_on(link) if program not in listed["links"].get(link, ())]
        entries = dict(obj.entries())
        known |= entries.keys()
        found = [listed["maps"].get(name, {}).get(key.hex()) for name, key in entries]
        if missing or None in found:
            yield f"+ {obj}"
        elif found != [value.hex() for value in entries.values()]:
            yield f"~ {obj}"
    for name, entries in listed["maps"].items():
        yield from (f"- bpf entry {name} {key}" for key in entries if (name, bytes.fromhex(key)) not in known)


def commands(objects: Sequence[Ruled]) -> Iterator[str]:
    """Nothing that one would type: maps have no names in a namespace, and pods' links get the programs when they come."""
    if any(isinstance(obj, Programs) for obj in objects):
        yield "true 'not made here: Services by programs of BPF, see kubenetlab/bpf/service.bpf.c'"


def programs_on(link: str) -> tuple[str, ...]:
    """Which programs a link gets: to lo nothing comes that has not gone there before."""
    return (GOING,) if link == LOOPBACK else (COMING, GOING)


def readable(name: str, key: bytes, value: bytes) -> str:
    """An entry of a map as one line."""
    match name:
        case "fronts":
            address, port, protocol, kind = _FRONT_KEY.unpack(key)
            all_of_them, near, _, everywhere, here, affinity_s, flags = _FRONT.unpack(value)
            where = f"{_as_address(address)} {int.from_bytes(port, 'big')}/{_protocol(protocol)}"
            policy = f"Cluster, {everywhere} in {all_of_them.hex()}"
            if flags & _IS_LOCAL:
                policy = f"Local, {here} in {near.hex()}, of {everywhere} in {all_of_them.hex()}"
            more = (
                f", ClientIP {affinity_s}s" * bool(affinity_s)
                + ", fenced" * bool(flags & _IS_FENCED)
                + ", masqueraded" * bool(flags & _IS_HIDING)
            )
            if not protocol:
                return f"front {_as_address(address)}: a cluster IP"
            return f"front {'node port ' if kind == _AT_NODE else ''}{where}: {policy}{more}"
        case "doors":
            return f"node ports at {_as_address(key)}"
        case "endpoints":
            own, index, _ = _SLOT.unpack(key)
            address, port = _ENDPOINT.unpack(value)
            return f"endpoint {own.hex()} {index}: {_as_address(address)} {int.from_bytes(port, 'big')}"
        case "sources":
            length, own, address = _SOURCE_KEY.unpack(key)
            found = str(_as_address(address))
            return f"source {own.hex()}: {found}/{length - 64 - (0 if ':' in found else 96)}"
    return f"{name} {key.hex()} {value.hex()}"


def _links(objects: Iterable[Ruled]) -> list[str]:
    return [link for obj in objects if isinstance(obj, Programs | Hooked) for link in obj.links]


def _text(words: Words) -> str:
    found = {name: getattr(words, name) for name in words.__struct_fields__ if getattr(words, name)}
    return json.dumps(found)


def _entries(objects: Iterable[Any]) -> dict[Entry, bytes]:
    """In the order in which they may be set; taken away they are from the last to the first."""
    ordered = sorted(objects, key=lambda obj: obj.rank)
    return {entry: value for obj in ordered for entry, value in obj.entries()}


def _id(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()[:8] if name else bytes(8)


def _port(number: int) -> bytes:
    return number.to_bytes(2, "big")


def _address(text: str) -> bytes:
    address = ip_address(text)
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed


def _as_address(packed: bytes) -> IPv4Address | IPv6Address:
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def _protocol(number: int) -> str:
    return next((name for name, known in PROTOCOLS.items() if known == number), str(number))


def _range(cidr: str) -> bytes:
    """First address and mask; of nothing, a mask of zeros."""
    if not cidr:
        return bytes(32)
    network = ip_network(cidr)
    mask = network.netmask.packed
    return _address(str(network.network_address)) + (mask if network.version == 6 else b"\xff" * 12 + mask)
