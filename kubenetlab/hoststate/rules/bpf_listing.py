"""Containers for the programs on a node's links and for the entries of their maps.

The text of an entry contains its whole key and value: entries with the same text are equal.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypedDict

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
    OVERLAY_KEY,
    SLOT,
    SOURCE_KEY,
    as_address,
    as_cidr,
    describe_own_addresses,
    protocol_name,
)
from kubenetlab.hoststate.rules.bpf_programs import ProgramSet
from kubenetlab.hoststate.rules.listing import Difference, RuleContainer

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
"""Names by the ids that stand for them in keys and values."""
Describe = Callable[[bytes, bytes, Ids], str]
"""Function that returns an entry of one map as text, from its key, its value and names."""


class BpfListing(TypedDict):
    """Listing of a loader, without the maps that packets fill."""

    links: dict[str, list[str]]
    """Link → programs on it."""
    maps: dict[str, dict[str, str]]
    """Map → its entries, keys and values in hexadecimal."""


def differences(
    links: Mapping[str, Sequence[str]],
    entries: Mapping[str, Mapping[bytes, bytes]],
    listed: BpfListing,
    ids: Ids,
    describers: Mapping[str, Describe] | None = None,
    title: str = "bpf",
) -> Iterator[Difference]:
    """Compare programs by link, and entries by map, with a listing of the loader.

    ids: names of the ids to show; other ids are shown in hexadecimal.
    describers: functions by map; those of the maps of Services by default.
    title: first word of the programs' name.
    """
    describers = _DESCRIBERS if describers is None else describers
    observed = {
        name: {bytes.fromhex(key): bytes.fromhex(value) for key, value in map_entries.items()}
        for name, map_entries in listed["maps"].items()
    }
    programs = {program for names in links.values() for program in names} or {
        name for names in listed["links"].values() for name in names
    }
    own_links = {
        link: [name for name in names if name in programs]
        for link, names in listed["links"].items()
    }
    ids = {**_name_observed_lists(observed.get("fronts", {}), ids), **ids}
    return listing.differences(
        _containers(links, entries, ids, describers, title),
        _containers(
            {link: names for link, names in own_links.items() if names},
            observed,
            ids,
            describers,
            title,
        ),
    )


def listing_text(
    programs: ProgramSet, listed: BpfListing, counters: Mapping[str, Mapping[bytes, bytes]]
) -> str:
    """Return a listing as text: links, entries of the maps that users see, and counters."""
    maps = {
        name: {bytes.fromhex(key): bytes.fromhex(value) for key, value in entries.items()}
        for name, entries in listed["maps"].items()
        if name in programs.shown_maps
    }
    names = programs.names_of(maps)
    entries = [
        programs.describe(name, key, value, names)
        for name, entries in maps.items()
        for key, value in entries.items()
    ]
    counted = [
        f"{name} {programs.counters[name](key, value, names)}"
        for name, entries in counters.items()
        for key, value in entries.items()
    ]
    links = [f"link {link}: {', '.join(on_link)}" for link, on_link in listed["links"].items()]
    return "\n".join((*links, *sorted(entries), *sorted(counted)))


def _name_observed_lists(fronts: Mapping[bytes, bytes], ids: Ids) -> dict[bytes, str]:
    """Return names for endpoint lists that only observed frontends have, after their Services."""
    names: dict[bytes, str] = {}
    for value in fronts.values():
        if len(value) == FRONT.size:
            cluster_list, local_list, service, *_ = FRONT.unpack(value)
            for policy, list_id in (("Cluster", cluster_list), ("Local", local_list)):
                if any(list_id) and service in ids:
                    names[list_id] = f"{ids[service]} {policy} {list_id.hex()}"
    return names


def _containers(
    links: Mapping[str, Sequence[str]],
    entries: Mapping[str, Mapping[bytes, bytes]],
    ids: Ids,
    describers: Mapping[str, Describe],
    title: str,
) -> Iterator[RuleContainer]:
    if not links:
        return
    on_links = {link: f"{link}: {', '.join(names)}" for link, names in links.items()}
    programs = f"{title} programs"
    yield RuleContainer(programs, "link", f"{programs} on ", elements=on_links)
    for name, describe_entry in describers.items():
        elements = {
            key.hex(): _described(describe_entry, key, value, ids)
            for key, value in sorted(entries.get(name, {}).items())
        }
        yield RuleContainer(
            f"bpf map {name}", "element", f"bpf map {name}: ", elements=elements, parent=programs
        )


def describe(name: str, key: bytes, value: bytes, ids: Ids) -> str:
    """Return one map entry as text, in hexadecimal if its layout is not that of the map."""
    return _described(_DESCRIBERS.get(name), key, value, ids)


def _described(describer: Describe | None, key: bytes, value: bytes, ids: Ids) -> str:
    try:
        text = describer(key, value, ids) if describer is not None else ""
    except (KeyError, ValueError, struct.error):
        text = ""
    return text or f"{key.hex()} = {value.hex()}"


def _describe_settings(key: bytes, value: bytes, ids: Ids) -> str:
    nodes, ranges = value[:32], value[32:]
    pairs = [ranges[start : start + _RANGE_BYTES] for start in range(0, len(ranges), _RANGE_BYTES)]
    if any(key) or len(pairs) != 4:
        return ""
    node = ", ".join(str(as_address(nodes[start : start + 16])) for start in (0, 16))
    pods, services = (", ".join(map(_describe_range, both)) for both in (pairs[:2], pairs[2:]))
    return f"node {node}, pods {pods}, services {services}"


def _describe_range(packed: bytes) -> str:
    """Return a range as a CIDR block, or with its mask if that is not the mask of a prefix."""
    first, mask = packed[:16], int.from_bytes(packed[16:], "big")
    length = mask.bit_count()
    if not any(packed):
        return "none"
    if mask == (1 << 128) - (1 << (128 - length)):
        return as_cidr(first, length)
    return f"{as_address(first)} mask {mask:#x}"


def _describe_overlay(key: bytes, value: bytes, ids: Ids) -> str:
    return f"link {OVERLAY_KEY.unpack(key)[0]} with {describe_own_addresses(value)}"


def _describe_node_port_address(key: bytes, value: bytes, ids: Ids) -> str:
    return f"node ports at {as_address(key)}" if value == _TRUE else ""


def _describe_remote_range(key: bytes, value: bytes, ids: Ids) -> str:
    length, address = HOME_KEY.unpack(key)
    return f"{as_cidr(address, length)} on node {as_address(value)}"


def _describe_frontend(key: bytes, value: bytes, ids: Ids) -> str:
    address, port, protocol, kind = FRONT_KEY.unpack(key)
    cluster_list, local_list, service, cluster_count, local_count, affinity_s, flags = FRONT.unpack(
        value
    )
    number = int.from_bytes(port, "big")
    place = f"{as_address(address)}" if kind != AT_NODE else f"node port of {as_address(address)}"
    if not (number or protocol or any(value)):
        return f"{place}: cluster IP"
    facts = [
        f"{place} {number}/{protocol_name(protocol)} of {_name_of(service, ids)}",
        f"Cluster: {_describe_list(cluster_list, cluster_count, ids)}",
        f"Local: {_describe_list(local_list, local_count, ids)}",
        *([f"affinity {affinity_s} s"] if affinity_s else ()),
        *(name for flag, name in _FLAGS.items() if flags & flag),
        *([f"flags {unknown:#x}"] if (unknown := flags & ~sum(_FLAGS)) else ()),
        *([f"kind {kind}"] if kind > AT_NODE else ()),
    ]
    return ", ".join(facts)


def _describe_list(list_id: bytes, count: int, ids: Ids) -> str:
    return f"{count} endpoints in {_name_of(list_id, ids)}" if count or any(list_id) else "none"


def _describe_slot(key: bytes, value: bytes, ids: Ids) -> str:
    list_id, index, reserved = SLOT.unpack(key)
    return f"{_name_of(list_id, ids)} {index}: {_describe_endpoint(value)}" if not reserved else ""


def _describe_member(key: bytes, value: bytes, ids: Ids) -> str:
    list_id, endpoint = key[:8], key[8:]
    return f"{_name_of(list_id, ids)} has {_describe_endpoint(endpoint)}" if value == _TRUE else ""


def _describe_source(key: bytes, value: bytes, ids: Ids) -> str:
    length, service, address = SOURCE_KEY.unpack(key)
    return (
        f"{_name_of(service, ids)} from {as_cidr(address, length - 64)}" if value == _TRUE else ""
    )


def _describe_endpoint(endpoint: bytes) -> str:
    address, port = ENDPOINT.unpack(endpoint)
    padding = endpoint[18:]
    suffix = f" and {padding.hex()}" if any(padding) else ""
    return f"{as_address(address)} {int.from_bytes(port, 'big')}{suffix}"


def _name_of(id_: bytes, ids: Ids) -> str:
    return ids.get(id_) or id_.hex()


_DESCRIBERS: Final = {
    "settings": _describe_settings,
    "overlays": _describe_overlay,
    "doors": _describe_node_port_address,
    "homes": _describe_remote_range,
    "fronts": _describe_frontend,
    "endpoints": _describe_slot,
    "members": _describe_member,
    "sources": _describe_source,
}
