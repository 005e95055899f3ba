"""Rule backend ipset: named sets of the kernel, with members from many subjects.

One rule matches a whole set, so the number of rules does not grow with the number of members. A set
has to exist before a rule refers to it, and can only be destroyed when no rule refers to it any
more. So sets are created before the other backends change their rules, and destroyed afterwards. A
set that is replaced is filled under a temporary name and then swapped with the old one, so that it
is never empty.
Source: ipset(8) 7.17; k8s.io/kubernetes pkg/proxy/ipvs/ipset.go (1.33).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv6Address, ip_network
from typing import Final

import msgspec
from msgspec import Struct

from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.rules.listing import RuleContainer
from kubenetlab.hoststate.rules.rules_diff import changed_members
from kubenetlab.hoststate.rules.rulesets import (
    DiffCache,
    NodeRules,
    OwnedName,
    RuleObject,
    members,
    owned_names,
)

FAMILIES: Final[Mapping[int, str]] = {4: "inet", 6: "inet6"}
"""Family in a set's description, by IP version."""
MAX_NAME: Final = 31
"""IPSET_MAXNAMELEN without the terminating zero."""
COMES_FIRST: Final = True
"""Sets are created before the rules that match them."""
IS_WATCHED: Final = True
"""The loader polls the sets, because the kernel does not report changes of them."""
_KERNEL_PROPERTIES: Final = re.compile(r" (?:hashsize \d+|initval \S+)")
"""Properties of a set that the kernel selects, and changes as the set grows."""
_TEMPORARY_PREFIX: Final = "NEW"
"""Prefix of temporary names of sets that are being filled, in place of the first letters."""
_FIRST_LETTERS: Final = re.compile(r"[A-Za-z]+")
_OWNER: Final = re.compile(r"[^-:]*[-:]?")


class _Ipset(RuleObject, frozen=True):
    """Base class of the objects of this backend."""

    backend = "ipset"


class Set(_Ipset, frozen=True):
    """A set without its members: `KUBE-CLUSTER-IP hash:ip,port family inet`."""

    rank = 105

    name: str
    description: str

    @property
    def key(self) -> Key:
        return ("IpsetSet", self.name)

    def __str__(self) -> str:
        return f"ipset {self.name} {self.description}"


class Member(_Ipset, frozen=True):
    """One member of a set, as the kernel prints it: `10.96.12.7,tcp:80`.

    Several subjects may want the same member.
    """

    rank = 120

    set: str
    item: str

    @property
    def key(self) -> Key:
        return ("IpsetMember", self.set, self.item)

    def __str__(self) -> str:
        return f"ipset {self.set} member {self.item}"


IpsetObject = Set | Member
IpsetRules = IpsetObject | NodeRules[IpsetObject]

Contents = Mapping[str, frozenset[str]]
"""Members by name of the set."""


class IpsetRestore(Struct, frozen=True):
    """Input of `ipset restore`, and sets to destroy afterwards."""

    text: str
    destroyed: tuple[str, ...] = ()
    """Names of sets."""
    anew: tuple[str, ...] = ()
    """Prefixes of set names: sets with these prefixes that are not in `kept` are destroyed."""
    kept: tuple[str, ...] = ()
    """Names of sets."""


def decode_restore(text: str) -> IpsetRestore:
    """Decode a transaction of this backend."""
    return msgspec.json.decode(text, type=IpsetRestore)


def update(
    old: Sequence[IpsetRules],
    new: Sequence[IpsetRules],
    former: Iterable[OwnedName] = (),
    cache: DiffCache | None = None,
) -> str:
    """Return the commands that add sets, and add and delete members of sets that remain."""
    before, after = changed_members(old, new, cache)
    added, removed = (
        [obj for key, obj in after.items() if before.get(key) != obj],
        [obj for key, obj in before.items() if key not in after],
    )
    removed_sets = {obj.name for obj in removed if isinstance(obj, Set)}
    lines = [
        *(f"create {obj.name} {obj.description}" for obj in added if isinstance(obj, Set)),
        *(f"add -exist {obj.set} {obj.item}" for obj in added if isinstance(obj, Member)),
        *(
            f"del -exist {obj.set} {obj.item}"
            for obj in removed
            if isinstance(obj, Member) and obj.set not in removed_sets
        ),
    ]
    return _encode(IpsetRestore(_lines(lines))) if lines else ""


def cleanup(
    old: Sequence[IpsetRules],
    new: Sequence[IpsetRules],
    former: Iterable[OwnedName] = (),
    cache: DiffCache | None = None,
    *,
    anew: bool,
) -> str:
    """Return the commands that destroy sets to which no rule refers any more."""
    if anew:
        kept = (obj.name for obj in members(new) if isinstance(obj, Set))
        prefixes = tuple(dict.fromkeys(prefix for _, prefix in (*names(new), *former)))
        return _encode(IpsetRestore("", (), prefixes, tuple(kept))) if prefixes else ""
    before, after = changed_members(old, new, cache)
    removed = sorted(
        obj.name for key, obj in before.items() if isinstance(obj, Set) and key not in after
    )
    return _encode(IpsetRestore("", tuple(removed))) if removed else ""


def replacement(objects: Sequence[IpsetRules], former: Iterable[OwnedName] = ()) -> str:
    """Return the commands that fill each set under a temporary name, then swap it with the old."""
    all_members = list(members(objects))
    items: dict[str, dict[str, None]] = {}
    for obj in all_members:
        if isinstance(obj, Member):
            items.setdefault(obj.set, {})[obj.item] = None
    lines: list[str] = []
    sets = [obj for obj in all_members if isinstance(obj, Set)]
    for ipset in sets:
        temporary = _FIRST_LETTERS.sub(_TEMPORARY_PREFIX, ipset.name, count=1)
        lines += [f"create -exist {name} {ipset.description}" for name in (ipset.name, temporary)]
        lines += [
            f"flush {temporary}",
            *(f"add {temporary} {item}" for item in items.get(ipset.name, ())),
        ]
        lines += [f"swap {temporary} {ipset.name}", f"destroy {temporary}"]
    return _encode(IpsetRestore(_lines(lines))) if lines else ""


def members_after(before: Contents, restore: IpsetRestore) -> Contents:
    """Return the members of the lab's sets after `restore`, if they were `before`."""
    sets: dict[str, frozenset[str] | set[str]] = dict(before)

    def changed(name: str) -> set[str]:
        """Return a set that can be changed: copies of unchanged ones would take long."""
        items = sets.get(name)
        if not isinstance(items, set):
            items = sets[name] = set(items or ())
        return items

    for line in restore.text.splitlines():
        match [word for word in line.split() if word != "-exist"]:
            case ["create", name, *_]:
                sets.setdefault(name, frozenset())
            case ["add", name, item]:
                changed(name).add(item)
            case ["del", name, item]:
                changed(name).discard(item)
            case ["flush", name]:
                sets[name] = frozenset()
            case ["swap", first, second]:
                sets[first], sets[second] = sets[second], sets[first]
            case ["destroy", name]:
                sets.pop(name, None)
    return {
        name: frozenset(items)
        for name, items in sets.items()
        if name not in restore.destroyed
        and (name in restore.kept or not name.startswith(restore.anew))
    }


def matches(expected: Contents, actual: Mapping[str, Iterable[str]]) -> bool:
    """Return True if these sets exist, and no others with their owners' prefixes."""
    owners = tuple({owner(name) for name in expected})
    return expected == {
        name: frozenset(items) for name, items in actual.items() if name.startswith(owners)
    }


def names(objects: Iterable[IpsetRules]) -> tuple[OwnedName, ...]:
    """Return an empty family and the prefix of set names for each owner."""
    return owned_names(objects, _names)


def _names(objects: Iterable[RuleObject]) -> tuple[OwnedName, ...]:
    return tuple(dict.fromkeys(("", owner(obj.name)) for obj in objects if isinstance(obj, Set)))


def owner(name: str) -> str:
    """Return the prefix shared by all sets of the owner of this set: `KUBE-`, `cali40s:`."""
    match = _OWNER.match(name)
    return match[0] if match else ""


def failed_object(message: str, objects: Iterable[IpsetRules]) -> tuple[Object, Object] | None:
    """Return the set or member of the line that `ipset restore` rejected."""
    words = message.rpartition("\n")[2].split(maxsplit=1)
    arguments = (words[1:] or [""])[0].removeprefix("-exist ")
    by_arguments = {
        f"{part.name} {part.description}" if isinstance(part, Set) else _member_arguments(part): (
            part,
            whole,
        )
        for whole, part in _parts(objects)
    }
    return by_arguments.get(arguments)


def commands(objects: Sequence[IpsetRules]) -> Iterator[str]:
    """Yield one `ipset restore` command."""
    yield f"ipset restore <<'EOF'\n{decode_restore(update([], objects)).text}EOF"


def containers(listed: str, names: Sequence[OwnedName]) -> Iterator[RuleContainer]:
    """Yield the sets of these owners in the output of `ipset save`, without kernel properties."""
    prefixes = tuple(prefix for _, prefix in names)
    descriptions: dict[str, str] = {}
    items: dict[str, dict[str, str]] = {}
    for line in listed.splitlines():
        command, name, arguments = [*line.split(" ", 2), "", ""][:3]
        if command == "create":
            descriptions[name] = _KERNEL_PROPERTIES.sub("", arguments)
        elif command == "add":
            items.setdefault(name, {})[arguments.partition(" ")[0]] = arguments
    for name, description in descriptions.items():
        if name.startswith(prefixes):
            prefix = f"ipset {name} member "
            yield RuleContainer(
                f"ipset {name}",
                "member",
                prefix,
                properties=description,
                elements=items.get(name, {}),
            )


def parse(saved: str) -> dict[str, list[str]]:
    """Return the members by set in the output of `ipset save`."""
    sets: dict[str, list[str]] = {}
    for line in saved.splitlines():
        match line.split():
            case ["create", name, *_]:
                sets[name] = []
            case ["add", name, item, *_]:
                sets[name].append(item)
    return sets


def range_item(cidr: str) -> str:
    """Return a range of addresses as the kernel prints it, as a member of a set.

    A range with one address has no length. IPv6 addresses that consist of zeros and an IPv4 address
    have it at their end: `::0.1.0.0/112`.
    """
    network = ip_network(cidr)
    address = str(network.network_address)
    packed = network.network_address.packed
    has_ipv4_form = packed[:12] in (bytes(12), b"\0" * 10 + b"\xff\xff")
    if isinstance(network.network_address, IPv6Address) and has_ipv4_form:
        is_mapped = packed[10] == 0xFF
        if is_mapped or packed[12:14] != b"\0\0":
            address = f"::{'ffff:' if is_mapped else ''}{'.'.join(map(str, packed[12:]))}"
    is_single = network.prefixlen == network.max_prefixlen
    return address if is_single else f"{address}/{network.prefixlen}"


def failed_line(message: str) -> int:
    """Return the number of the rejected line, from 1; 0 if the message has none."""
    match = re.search(r"in line (\d+)", message)
    return int(match[1]) if match else 0


def _parts(objects: Iterable[IpsetRules]) -> Iterator[tuple[Object, Object]]:
    return ((whole, part) for whole in objects for part in whole.parts)


def _member_arguments(part: Object) -> str:
    return f"{part.set} {part.item}" if isinstance(part, Member) else ""


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _encode(restore: IpsetRestore) -> str:
    return msgspec.json.encode(restore).decode()
