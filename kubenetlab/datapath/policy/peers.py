"""Identities of addresses for policies.

Labels determine the identity of most pods. An address has an identity of its own if policies name a
range that has it, or if they distinguish pods with the same labels: by a port with a name, or by a
label that identities leave out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from ipaddress import ip_address, ip_network
from typing import Final, TypeVar

from msgspec import Struct

from kubenetlab.api.object_map import ObjectKey
from kubenetlab.datapath.policy.common import group_digest, is_everything
from kubenetlab.datapath.policy.members import NamedPort, PodGroup, PolicyPod
from kubenetlab.datapath.policy.rules import IsolatingPolicy, PolicyRule, PortName

FIRST_OWN: Final = 1 << 24
"""Smallest identity of an address that labels do not determine, as Cilium's local identities."""
_OWN_COUNT: Final = 1 << 24
"""Number of these identities: many more than cilium_cidr has entries, so that few get a number that
does not follow from their own properties."""

K = TypeVar("K")
V = TypeVar("V")
Ranges = tuple[str, ...]
"""Ranges of one rule that are peers, of one IP version."""


class PeerTable(Struct, frozen=True):
    """Identities of one IP version, and the peers of rules as identities."""

    addresses: Mapping[str, int]
    """Address of a pod → identity, if labels do not determine it."""
    ranges: tuple[tuple[str, int], ...]
    """Ranges with the identity of their addresses, the longest prefixes first.

    A range that is the address of a pod is left out: it is in `addresses`.
    """
    by_group: Mapping[PodGroup, frozenset[int]]
    by_ranges: Mapping[Ranges, frozenset[int]]
    by_name: Mapping[PortName, frozenset[tuple[int, int]]]
    """Name of a port → (identity, number) of the pods that have it."""


class _Traits(Struct, frozen=True):
    """Properties of an address by which policies distinguish peers."""

    groups: tuple[PodGroup, ...]
    ports: tuple[tuple[PortName, int], ...]
    ranges: tuple[Ranges, ...]

    @property
    def text(self) -> str:
        groups = [group_digest(group) for group in self.groups]
        return repr(
            (groups, [(port.protocol, port.name, n) for port, n in self.ports], self.ranges)
        )


def peer_table(
    version: int,
    entries: Iterable[IsolatingPolicy],
    pods: Mapping[ObjectKey, PolicyPod],
    numbers: Mapping[ObjectKey, int],
    members: Mapping[PodGroup, Iterable[ObjectKey]],
) -> PeerTable:
    """Return the identities for some policies.

    numbers: identities of the pods by their labels. members: pods of every group of peers.
    """
    entries = tuple(entries)
    index = _RangeIndex(_peer_ranges(entries, version))
    names = _destination_names(entries)
    traits = {
        address: (numbers[key], own)
        for key, own_groups in _groups_of(pods, members).items()
        for address in pods[key].addresses
        if (":" in address) == (version == 6)
        for own in (
            _Traits(
                own_groups,
                tuple(_named(pods[key].named_ports, names)),
                tuple(index.having(address)),
            ),
        )
    }
    own_keys = _own_keys(traits)
    of_ranges = {cidr: tuple(index.covering(cidr)) for cidr in index.cidrs}
    range_keys = {cidr: f"ranges {covering!r}" for cidr, covering in of_ranges.items()}
    own = _numbers((*own_keys.values(), *range_keys.values()))
    addresses = {address: own[key] for address, key in own_keys.items()}
    ranges = tuple(
        (cidr, own[range_keys[cidr]]) for cidr in index.cidrs if index.single(cidr) not in addresses
    )
    peers = [
        (addresses.get(address, number), properties)
        for address, (number, properties) in traits.items()
    ]
    peers += [(number, _Traits((), (), of_ranges[cidr])) for cidr, number in ranges]
    return PeerTable(
        addresses,
        ranges,
        _peers_by(members, ((each, number) for number, own in peers for each in own.groups)),
        _peers_by(index.all, ((each, number) for number, own in peers for each in own.ranges)),
        _peers_by(names, ((name, (number, n)) for number, own in peers for name, n in own.ports)),
    )


def _groups_of(
    pods: Mapping[ObjectKey, PolicyPod], members: Mapping[PodGroup, Iterable[ObjectKey]]
) -> dict[ObjectKey, tuple[PodGroup, ...]]:
    """Return the groups of every pod."""
    groups: dict[ObjectKey, list[PodGroup]] = {key: [] for key in pods}
    for group, keys in members.items():
        for key in keys:
            groups[key].append(group)
    return {key: tuple(found) for key, found in groups.items()}


def _destination_names(entries: Iterable[IsolatingPolicy]) -> frozenset[PortName]:
    """Return the names of ports of destinations. For ingress, the isolated pod has the ports."""
    return frozenset(
        name
        for entry in entries
        if entry.direction == "Egress"
        for rule in entry.rules
        for name in rule.port_names
    )


def _own_keys(traits: Mapping[str, tuple[int, _Traits]]) -> dict[str, str]:
    """Return a text for each address whose identity does not follow from labels."""
    of_numbers: dict[int, set[_Traits]] = {}
    for number, own in traits.values():
        of_numbers.setdefault(number, set()).add(own)
    return {
        address: f"pod {number} {own.text}"
        for address, (number, own) in traits.items()
        if own.ranges or len(of_numbers[number]) > 1
    }


def _peers_by(keys: Iterable[K], pairs: Iterable[tuple[K, V]]) -> dict[K, frozenset[V]]:
    """Return the second parts of pairs by the first ones; a key may have none."""
    result: dict[K, set[V]] = {key: set() for key in keys}
    for key, value in pairs:
        result[key].add(value)
    return {key: frozenset(values) for key, values in result.items()}


def peer_ranges(rule: PolicyRule, version: int) -> Ranges:
    """Return the ranges of a rule; () if there are none, or if one of them has every address."""
    ranges = rule.ranges_of(version)
    return () if is_everything(ranges) else ranges


def has_every_address(rule: PolicyRule, version: int) -> bool:
    """Return True if every address of this IP version is a peer of a rule."""
    return rule.is_any_peer or is_everything(rule.ranges_of(version))


def _peer_ranges(entries: Iterable[IsolatingPolicy], version: int) -> dict[Ranges, None]:
    found = (peer_ranges(rule, version) for entry in entries for rule in entry.rules)
    return dict.fromkeys(ranges for ranges in found if ranges)


def _named(
    ports: Sequence[NamedPort], names: AbstractSet[PortName]
) -> Iterator[tuple[PortName, int]]:
    """Yield the ports of a pod that have one of the names."""
    for name in sorted(names):
        for own, protocol, number in ports:
            if (own, protocol) == (name.name, name.protocol):
                yield name, number


def _numbers(keys: Iterable[str]) -> dict[str, int]:
    """Return a number for each key; it follows from the key, unless another one has it."""
    numbers: dict[str, int] = {}
    taken: set[int] = set()
    for key in sorted(set(keys)):
        offset = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % _OWN_COUNT
        while offset in taken:
            offset = (offset + 1) % _OWN_COUNT
        taken.add(offset)
        numbers[key] = FIRST_OWN + offset
    return numbers


class _RangeIndex:
    """Ranges of rules of one IP version, by their prefixes."""

    def __init__(self, ranges: Iterable[Ranges]) -> None:
        self.all = tuple(ranges)
        self._by_prefix: dict[tuple[int, int], list[Ranges]] = {}
        """(prefix length, first address) → ranges that contain this one."""
        prefixes: dict[str, tuple[int, int]] = {}
        for entry in self.all:
            for cidr in entry:
                if cidr not in prefixes:
                    network = ip_network(cidr)
                    prefixes[cidr] = network.prefixlen, int(network.network_address)
                    self._bits = network.max_prefixlen
                self._by_prefix.setdefault(prefixes[cidr], []).append(entry)
        self._lengths = sorted({length for length, _ in prefixes.values()})
        self._prefixes = prefixes
        self.cidrs = sorted(prefixes, key=lambda cidr: prefixes[cidr], reverse=True)

    def having(self, address: str) -> Iterator[Ranges]:
        """Yield the entries with an address."""
        if self.all:
            yield from self._matching(int(ip_address(address)), self._bits)

    def covering(self, cidr: str) -> Iterator[Ranges]:
        """Yield the entries with all addresses of one of the ranges."""
        length, first = self._prefixes[cidr]
        yield from self._matching(first, length)

    def single(self, cidr: str) -> str:
        """Return the only address of one of the ranges; empty if it has several."""
        address, _, _ = cidr.partition("/")
        return str(ip_address(address)) if self._prefixes[cidr][0] == self._bits else ""

    def _matching(self, address: int, longest: int) -> Iterator[Ranges]:
        found: dict[Ranges, None] = {}
        for length in self._lengths:
            if length > longest:
                break
            shift = self._bits - length
            found |= dict.fromkeys(self._by_prefix.get((length, address >> shift << shift), ()))
        yield from found
