"""The programs on a node's links and the entries of their maps as containers, to be compared.

The text of an entry has all that its key and value have: two entries with one text are equal.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from kubenetlab.hoststate.rules import listing
from kubenetlab.hoststate.rules.bpf_entries import (
    AT_NODE,
    ENDPOINT,
    FRONT,
    FRONT_KEY,
    HOME_KEY,
    IS_DIRECT,
    IS_FENCED,
    IS_HIDING,
    IS_LOCAL,
    IS_OUTSIDE,
    SLOT,
    SOURCE_KEY,
    as_address,
    as_cidr,
    protocol_name,
)
from kubenetlab.hoststate.rules.listing import Difference, RuleContainer

_PROGRAMS: Final = "bpf programs"
_TRUE: Final = b"\1"
"""Value of an entry that only has to exist."""
_FLAGS: Final = {
    IS_OUTSIDE: "external",
    IS_LOCAL: "policy Local",
    IS_FENCED: "source ranges",
    IS_HIDING: "masquerade all",
    IS_DIRECT: "direct return",
}
_RANGE_BYTES: Final = 32
"""struct range: first address and mask."""

Ids = Mapping[bytes, str]
"""Eight bytes that stand for a name in keys and values → the name."""


def differences(
    links: Mapping[str, Sequence[str]],
    entries: Mapping[str, Mapping[bytes, bytes]],
    listed: Any,
    ids: Ids,
) -> Iterator[Difference]:
    """Compare programs by link and entries by map with a listing of the loader. Ids not in `ids` are shown in hexadecimal."""
    observed = {
        name: {bytes.fromhex(key): bytes.fromhex(value) for key, value in found.items()}
        for name, found in listed["maps"].items()
    }
    programs = {program for names in links.values() for program in names} or {
        name for names in listed["links"].values() for name in names
    }
    ours = {
        link: [name for name in names if name in programs]
        for link, names in listed["links"].items()
    }
    ids = {**_lists(observed.get("fronts", {}), ids), **ids}
    return listing.differences(
        _containers(links, entries, ids),
        _containers({link: names for link, names in ours.items() if names}, observed, ids),
    )


def _lists(fronts: Mapping[bytes, bytes], ids: Ids) -> dict[bytes, str]:
    """Name the lists of endpoints that no desired front has after the Services whose observed fronts have them."""
    found: dict[bytes, str] = {}
    for value in fronts.values():
        if len(value) == FRONT.size:
            everywhere, here, service, *_ = FRONT.unpack(value)
            for policy, own in (("Cluster", everywhere), ("Local", here)):
                if any(own) and service in ids:
                    found[own] = f"{ids[service]} {policy} {own.hex()}"
    return found


def _containers(
    links: Mapping[str, Sequence[str]], entries: Mapping[str, Mapping[bytes, bytes]], ids: Ids
) -> Iterator[RuleContainer]:
    if not links:
        return
    on_links = {link: f"{link}: {', '.join(names)}" for link, names in links.items()}
    yield RuleContainer(_PROGRAMS, "link", f"{_PROGRAMS} on ", elements=on_links)
    for name in _DESCRIBED:
        elements = {
            key.hex(): describe(name, key, value, ids)
            for key, value in sorted(entries.get(name, {}).items())
        }
        yield RuleContainer(
            f"bpf map {name}", "element", f"bpf map {name}: ", elements=elements, parent=_PROGRAMS
        )


def describe(name: str, key: bytes, value: bytes, ids: Ids) -> str:
    """Return one entry of a map as text, in hexadecimal where key or value do not have the layout of that map."""
    try:
        text = _DESCRIBED[name](key, value, ids)
    except (KeyError, ValueError, struct.error):
        text = ""
    return text or f"{key.hex()} = {value.hex()}"


def _settings(key: bytes, value: bytes, ids: Ids) -> str:
    nodes, ranges = value[:32], value[32:]
    pairs = [ranges[start : start + _RANGE_BYTES] for start in range(0, len(ranges), _RANGE_BYTES)]
    if any(key) or len(pairs) != 4:
        return ""
    node = ", ".join(str(as_address(nodes[start : start + 16])) for start in (0, 16))
    pods, services = (", ".join(map(_range, both)) for both in (pairs[:2], pairs[2:]))
    return f"node {node}, pods {pods}, services {services}"


def _range(packed: bytes) -> str:
    """Return a range as a CIDR block; with its mask where that is none of a prefix."""
    first, mask = packed[:16], int.from_bytes(packed[16:], "big")
    length = mask.bit_count()
    if not any(packed):
        return "none"
    if mask == (1 << 128) - (1 << (128 - length)):
        return as_cidr(first, length)
    return f"{as_address(first)} mask {mask:#x}"


def _door(key: bytes, value: bytes, ids: Ids) -> str:
    return f"node ports at {as_address(key)}" if value == _TRUE else ""


def _home(key: bytes, value: bytes, ids: Ids) -> str:
    length, address = HOME_KEY.unpack(key)
    return f"{as_cidr(address, length)} on node {as_address(value)}"


def _front(key: bytes, value: bytes, ids: Ids) -> str:
    address, port, protocol, kind = FRONT_KEY.unpack(key)
    everywhere, here, service, everywhere_count, here_count, affinity_s, flags = FRONT.unpack(value)
    number = int.from_bytes(port, "big")
    place = f"{as_address(address)}" if kind != AT_NODE else f"node port of {as_address(address)}"
    if not (number or protocol or any(value)):
        return f"{place}: cluster IP"
    facts = [
        f"{place} {number}/{protocol_name(protocol)} of {_name(service, ids)}",
        f"Cluster: {_list(everywhere, everywhere_count, ids)}",
        f"Local: {_list(here, here_count, ids)}",
        *([f"affinity {affinity_s} s"] if affinity_s else ()),
        *(name for flag, name in _FLAGS.items() if flags & flag),
        *([f"flags {unknown:#x}"] if (unknown := flags & ~sum(_FLAGS)) else ()),
        *([f"kind {kind}"] if kind > AT_NODE else ()),
    ]
    return ", ".join(facts)


def _list(own: bytes, count: int, ids: Ids) -> str:
    return f"{count} endpoints in {_name(own, ids)}" if count or any(own) else "none"


def _endpoint(key: bytes, value: bytes, ids: Ids) -> str:
    own, index, zero = SLOT.unpack(key)
    return f"{_name(own, ids)} {index}: {_place(value)}" if not zero else ""


def _member(key: bytes, value: bytes, ids: Ids) -> str:
    own, endpoint = key[:8], key[8:]
    return f"{_name(own, ids)} has {_place(endpoint)}" if value == _TRUE else ""


def _source(key: bytes, value: bytes, ids: Ids) -> str:
    length, own, address = SOURCE_KEY.unpack(key)
    return f"{_name(own, ids)} from {as_cidr(address, length - 64)}" if value == _TRUE else ""


def _place(endpoint: bytes) -> str:
    address, port = ENDPOINT.unpack(endpoint)
    rest = endpoint[18:]
    return f"{as_address(address)} {int.from_bytes(port, 'big')}{f' and {rest.hex()}' if any(rest) else ''}"


def _name(own: bytes, ids: Ids) -> str:
    return ids.get(own) or own.hex()


_DESCRIBED: Final = {
    "settings": _settings,
    "doors": _door,
    "homes": _home,
    "fronts": _front,
    "endpoints": _endpoint,
    "members": _member,
    "sources": _source,
}
