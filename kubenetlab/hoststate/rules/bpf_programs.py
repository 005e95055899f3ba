"""Sets of BPF programs: an object file, and where each of its programs is attached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from kubenetlab.hoststate.netlink.tc import Side


class Place(NamedTuple):
    """Place of a program on a link."""

    side: Side
    priority: int
    """Programs of a lower number run first."""


class ProgramSet(NamedTuple):
    """Programs and maps of one object file, which a rule backend loads once for each node."""

    file: str
    """Name of the object file in kubenetlab/bpf/."""
    places: Mapping[str, Place]
    """Place of each program."""
    programs_on: Callable[[str], tuple[str, ...]]
    """Function that returns the programs of a link by its name."""
    maps: tuple[str, ...]
    """Maps that the node agent writes; the first one has a single entry with the settings."""
    shown_maps: tuple[str, ...]
    """Maps whose entries users see."""
    describe: Callable[[str, bytes, bytes, Mapping[bytes, str]], str]
    """Function that returns an entry as text, from the map, the key, the value and names."""
    flow_map: str = ""
    """Map of the flows that are translated, whose values end with the time of the last packet.

    Removed programs stay until their flows end; without such a map they are removed at once.
    """
    names_of: Callable[[Mapping[str, Mapping[bytes, bytes]]], Mapping[bytes, str]] = lambda _: {}
    """Function that returns the names that entries refer to, from the entries of all maps."""
    counters: Mapping[str, Callable[[bytes, bytes, Mapping[bytes, str]], str]] = MappingProxyType(
        {}
    )
    """Functions that return an entry as text, by maps of counters that the programs write."""
