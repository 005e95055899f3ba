"""Identities of addresses for policies.

Labels determine the identity of most pods. An address has an identity of its own if policies name a
range that has it, or if they distinguish pods with the same labels: by a port with a name, or by a
label that identities leave out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property, partial
from ipaddress import ip_address, ip_network
from typing import Final, NamedTuple, TypeVar

from msgspec import Struct

from kubenetlab.api.object_map import ObjectKey
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.policy.common import group_digest, is_everything
from kubenetlab.datapath.policy.members import NamedPort, PodGroup, Pods, PolicyPod
from kubenetlab.datapath.policy.rules import IsolatingPolicy, PolicyRule, PortName
from kubenetlab.versioned import ChangedEntries, VersionedMap

FIRST_OWN: Final = 1 << 24
"""Smallest identity of an address that labels do not determine, as Cilium's local identities."""
_OWN_COUNT: Final = 1 << 24
"""Number of these identities: many more than cilium_cidr has entries, so that few get a number that
does not follow from their own properties."""

T = TypeVar("T")
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


class _Traits(Struct, frozen=True, dict=True):
    """Properties of an address by which policies distinguish peers."""

    groups: tuple[PodGroup, ...]
    ports: tuple[tuple[PortName, int], ...]
    ranges: tuple[str, ...]
    """Digests of the ranges of rules."""

    @cached_property
    def text(self) -> str:
        groups = [group_digest(group) for group in self.groups]
        return repr(
            (groups, [(port.protocol, port.name, n) for port, n in self.ports], self.ranges)
        )


class _PodPeer(NamedTuple):
    """One address of a pod."""

    address: str
    number: int
    """Identity by the labels of the pod."""
    traits: _Traits


Groups = VersionedMap[ObjectKey, tuple[PodGroup, ...]]
"""Groups of peers to which each pod belongs, in the order of the policies."""
_PodPeers = VersionedMap[ObjectKey, tuple[_PodPeer, ...]]


def peer_table(
    cache: PlanCache,
    version: int,
    entries: tuple[IsolatingPolicy, ...],
    pods: Pods,
    numbers: VersionedMap[ObjectKey, int],
    groups: Groups,
) -> PeerTable:
    """Return the identities for some policies.

    Values that are equal to those of the former table are the identical objects.

    entries: the identical tuple while no policy changes. numbers: identities of the pods by their
    labels.
    """
    index = cache.by_identity(
        ("index of peers", version), partial(_PeerIndex, entries, version), entries
    )
    peers = cache.follow(
        ("peers", version),
        partial(_pod_peers, index, pods, numbers, groups),
        pods,
        numbers,
        groups,
        given=index,
    )
    table: PeerTable = cache.from_former(
        ("peer table", version), partial(_table, index, peers), (index, peers)
    )
    return table


class _PeerIndex:
    """Properties by which the policies distinguish addresses of one IP version."""

    def __init__(self, entries: tuple[IsolatingPolicy, ...], version: int) -> None:
        self.version = version
        self.groups = peer_groups(entries)
        self.names = _destination_names(entries)
        self.ranges = _RangeIndex(_all_peer_ranges(entries, version))
        self.of_ranges = {cidr: tuple(self.ranges.covering(cidr)) for cidr in self.ranges.cidrs}
        """Range → digests of the ranges with all of its addresses."""
        self._known: dict[_Traits, _Traits] = {}

    def traits(self, pod: PolicyPod, address: str, groups: tuple[PodGroup, ...]) -> _Traits:
        """Return the properties of an address; equal ones are the identical object."""
        named = tuple(_named(pod.named_ports, self.names))
        traits = _Traits(groups, named, tuple(self.ranges.having(address)))
        return self._known.setdefault(traits, traits)


def peer_groups(entries: Iterable[IsolatingPolicy]) -> tuple[PodGroup, ...]:
    """Return the groups of pods that are peers of rules."""
    return tuple(
        dict.fromkeys(group for entry in entries for rule in entry.rules for group in rule.groups)
    )


def _pod_peers(
    index: _PeerIndex,
    pods: Pods,
    numbers: Mapping[ObjectKey, int],
    groups: Groups,
    former: _PodPeers | None,
    *news: ChangedEntries[ObjectKey, object],
) -> _PodPeers:
    """Return the addresses of each pod."""
    changes: dict[ObjectKey, tuple[_PodPeer, ...] | None] = {}
    for key in dict.fromkeys(key for changed in news for key in changed):
        pod = pods.get(key)
        changes[key] = (
            None
            if pod is None
            else tuple(
                _PodPeer(address, numbers[key], index.traits(pod, address, groups.get(key, ())))
                for address in pod.addresses
                if (":" in address) == (index.version == 6)
            )
        )
    return (_PodPeers() if former is None else former).with_changes(changes)


def _table(
    index: _PeerIndex,
    of_pods: _PodPeers,
    known: tuple[tuple[_PeerIndex, _PodPeers], PeerTable] | None,
) -> PeerTable:
    addresses = [peer for of_pod in of_pods.values() for peer in of_pod]
    own_keys = _own_keys(addresses)
    range_keys = {cidr: f"ranges {covering!r}" for cidr, covering in index.of_ranges.items()}
    own = _numbers((*own_keys.values(), *range_keys.values()))
    identities = {address: own[key] for address, key in own_keys.items()}
    ranges = tuple(
        (cidr, own[key])
        for cidr, key in range_keys.items()
        if index.ranges.single(cidr) not in identities
    )
    distinct = {
        (identity, id(traits)): (identity, traits)
        for address, number, traits in addresses
        for identity in (identities.get(address, number),)
    }
    peers = [*distinct.values()]
    peers += [(number, _Traits((), (), index.of_ranges[cidr])) for cidr, number in ranges]
    groups = ((each, number) for number, traits in peers for each in traits.groups)
    of_ranges = ((each, number) for number, traits in peers for each in traits.ranges)
    names = ((name, (number, port)) for number, traits in peers for name, port in traits.ports)
    former = known[1] if known is not None else None
    entries = index.ranges.by_digest
    known_ranges = former.by_ranges if former else {}
    of_digests = _peers_by(
        entries, of_ranges, {each: known_ranges.get(entry) for each, entry in entries.items()}
    )
    return PeerTable(
        identities,
        ranges,
        _peers_by(index.groups, groups, former.by_group if former else {}),
        {entries[each]: identities_of for each, identities_of in of_digests.items()},
        _peers_by(index.names, names, former.by_name if former else {}),
    )


def _destination_names(entries: Iterable[IsolatingPolicy]) -> frozenset[PortName]:
    """Return the names of ports of destinations. For ingress, the isolated pod has the ports."""
    return frozenset(
        name
        for entry in entries
        if entry.direction == "Egress"
        for rule in entry.rules
        for name in rule.port_names
    )


def _own_keys(peers: Iterable[_PodPeer]) -> dict[str, str]:
    """Return a text for each address whose identity does not follow from labels."""
    of_numbers: dict[int, set[int]] = {}
    for _, number, traits in peers:
        of_numbers.setdefault(number, set()).add(id(traits))
    return {
        address: f"pod {number} {traits.text}"
        for address, number, traits in peers
        if traits.ranges or len(of_numbers[number]) > 1
    }


def _peers_by(
    keys: Iterable[K], pairs: Iterable[tuple[K, V]], former: Mapping[K, frozenset[V] | None]
) -> dict[K, frozenset[V]]:
    """Return the second parts of pairs by the first ones; a key may have none.

    former: earlier values, which are used again where they are equal.
    """
    result: dict[K, set[V]] = {key: set() for key in keys}
    for key, value in pairs:
        result[key].add(value)
    return {key: _same(frozenset(values), former.get(key)) for key, values in result.items()}


def _same(value: T, former: T | None) -> T:
    """Return the former value if it is equal."""
    return former if former is not None and former == value else value


def peer_ranges(rule: PolicyRule, version: int) -> Ranges:
    """Return the ranges of a rule; () if there are none, or if one of them has every address."""
    ranges = rule.ranges_of(version)
    return () if is_everything(ranges) else ranges


def has_every_address(rule: PolicyRule, version: int) -> bool:
    """Return True if every address of this IP version is a peer of a rule."""
    return rule.is_any_peer or is_everything(rule.ranges_of(version))


def _all_peer_ranges(entries: Iterable[IsolatingPolicy], version: int) -> dict[Ranges, None]:
    """Return the ranges that are peers of rules, each once, in the order of the policies."""
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
        self.by_digest = {
            hashlib.sha256(" ".join(entry).encode()).hexdigest(): entry for entry in ranges
        }
        """Ranges of each rule. Digests stand for them, since a rule may have many."""
        self._by_prefix: dict[tuple[int, int], list[str]] = {}
        """(prefix length, first address) → digests of the ranges that contain this one."""
        prefixes: dict[str, tuple[int, int]] = {}
        for digest, entry in self.by_digest.items():
            for cidr in entry:
                if cidr not in prefixes:
                    network = ip_network(cidr)
                    prefixes[cidr] = network.prefixlen, int(network.network_address)
                    self._bits = network.max_prefixlen
                self._by_prefix.setdefault(prefixes[cidr], []).append(digest)
        self._lengths = sorted({length for length, _ in prefixes.values()})
        self._prefixes = prefixes
        self.cidrs = sorted(prefixes, key=lambda cidr: prefixes[cidr], reverse=True)

    def having(self, address: str) -> Iterator[str]:
        """Yield the digests of the ranges with an address."""
        if self.by_digest:
            yield from self._matching(int(ip_address(address)), self._bits)

    def covering(self, cidr: str) -> Iterator[str]:
        """Yield the digests of the ranges with all addresses of one of them."""
        length, first = self._prefixes[cidr]
        yield from self._matching(first, length)

    def single(self, cidr: str) -> str:
        """Return the only address of one of the ranges; empty if it has several."""
        address, _, _ = cidr.partition("/")
        return str(ip_address(address)) if self._prefixes[cidr][0] == self._bits else ""

    def _matching(self, address: int, longest: int) -> Iterator[str]:
        found: dict[str, None] = {}
        for length in self._lengths:
            if length > longest:
                break
            shift = self._bits - length
            found |= dict.fromkeys(self._by_prefix.get((length, address >> shift << shift), ()))
        yield from found
