"""ipset: named sets of the kernel, and members in them by many subjects.

A rule asks one question of a whole set, so the rules stay as few as they are however many members there come to be. A set can only go
when no rule names it any more; one that is made anew is filled beside the old one and swapped with it, so that it is never empty.
Source: ipset(8) 7.17; k8s.io/kubernetes pkg/proxy/ipvs/ipset.go (1.33).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.rules.listing import RuleContainer
from kubenetlab.hoststate.rules.rulesets import Name, NodeRules, RuleObject, different, members

FAMILIES: Final[Mapping[int, str]] = {4: "inet", 6: "inet6"}
"""IP version → the word for it in a set's description."""
MAX_NAME: Final = 31
"""Of a set's name; the kernel's IPSET_MAXNAMELEN counts a zero."""
IS_WATCHED: Final = True
"""The kernel tells nobody who changes a set: somebody has to look."""
_CHOSEN: Final = re.compile(r" (?:hashsize \d+|initval \S+)")
"""Properties of a set that the kernel chooses, and changes as the set grows."""
_FRESH: Final = "NEW"
"""How the names of sets begin that are still being filled, in place of who owns them."""


class _Ipset(RuleObject, frozen=True):
    dialect = "ipset"


class Set(_Ipset, frozen=True):
    """A set that many fill: `KUBE-CLUSTER-IP hash:ip,port family inet`."""

    rank = 105

    name: str
    description: str

    @property
    def key(self) -> Key:
        return ("IpsetSet", self.name)

    def __str__(self) -> str:
        return f"ipset {self.name} {self.description}"


class Member(_Ipset, frozen=True):
    """One member of a set, as the kernel writes it: `10.96.12.7,tcp:80`. Several subjects may want the same."""

    rank = 120

    set: str
    item: str

    @property
    def key(self) -> Key:
        return ("IpsetMember", self.set, self.item)

    def __str__(self) -> str:
        return f"ipset {self.set} member {self.item}"


IpsetObject = Set | Member
Filled = IpsetObject | NodeRules

Contents = Mapping[str, frozenset[str]]
"""Set → its members."""


class IpsetRestore(Struct, frozen=True):
    """Input of `ipset restore`. Afterwards all sets go that begin like `anew` and are not among `kept`."""

    text: str
    anew: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def decode_restore(text: str) -> IpsetRestore:
    """The words of this dialect."""
    return msgspec.json.decode(text, type=IpsetRestore)


def update(old: Sequence[Filled], new: Sequence[Filled], former: Iterable[Name] = ()) -> str:
    """Sets that come, members that come and go, sets that go."""
    before, after = different(old, new)
    come, gone = (
        [obj for key, obj in after.items() if before.get(key) != obj],
        [obj for key, obj in before.items() if key not in after],
    )
    dying = {obj.name for obj in gone if isinstance(obj, Set)}
    lines = [
        *(f"create {obj.name} {obj.description}" for obj in come if isinstance(obj, Set)),
        *(f"add -exist {obj.set} {obj.item}" for obj in come if isinstance(obj, Member)),
        *(
            f"del -exist {obj.set} {obj.item}"
            for obj in gone
            if isinstance(obj, Member) and obj.set not in dying
        ),
        *(f"destroy {name}" for name in sorted(dying)),
    ]
    return _encoded(IpsetRestore(_lines(lines))) if lines else ""


def replacement(objects: Sequence[Filled], former: Iterable[Name] = ()) -> str:
    """All sets, each filled beside what is there and then put in its place."""
    found = list(members(objects))
    items: dict[str, dict[str, None]] = {}
    for obj in found:
        if isinstance(obj, Member):
            items.setdefault(obj.set, {})[obj.item] = None
    lines: list[str] = []
    sets = [obj for obj in found if isinstance(obj, Set)]
    for one in sets:
        fresh = _FRESH + one.name[one.name.index("-") :]
        lines += [f"create -exist {name} {one.description}" for name in (one.name, fresh)]
        lines += [f"flush {fresh}", *(f"add {fresh} {item}" for item in items.get(one.name, ()))]
        lines += [f"swap {fresh} {one.name}", f"destroy {fresh}"]
    anew = tuple(dict.fromkeys(beginning for _, beginning in (*names(objects), *former)))
    return (
        _encoded(IpsetRestore(_lines(lines), anew, tuple(one.name for one in sets))) if anew else ""
    )


def followed(told: Contents, restore: IpsetRestore) -> Contents:
    """What our sets hold after these words, if they held that before."""
    found = {name: set(items) for name, items in told.items()}
    for line in restore.text.splitlines():
        match [word for word in line.split() if word != "-exist"]:
            case ["create", name, *_]:
                found.setdefault(name, set())
            case ["add", name, item]:
                found.setdefault(name, set()).add(item)
            case ["del", name, item]:
                found.setdefault(name, set()).discard(item)
            case ["flush", name]:
                found[name] = set()
            case ["swap", one, other]:
                found[one], found[other] = found[other], found[one]
            case ["destroy", name]:
                found.pop(name, None)
    return {
        name: frozenset(items)
        for name, items in found.items()
        if name in restore.kept or not name.startswith(restore.anew)
    }


def is_as_told(told: Contents, saved: str) -> bool:
    """True when `ipset save` prints just these sets of their owners, with these members."""
    owners = tuple({owner(name) for name in told})
    return told == {
        name: frozenset(items) for name, items in parse(saved).items() if name.startswith(owners)
    }


def names(objects: Iterable[Filled]) -> tuple[Name, ...]:
    """(nothing, how its sets begin) of each owner."""
    return tuple(dict.fromkeys(("", owner(obj.name)) for obj in objects if isinstance(obj, Set)))


def owner(name: str) -> str:
    """How all sets begin that belong to whoever named this one."""
    return name.partition("-")[0] + "-"


def failed_object(said: str, objects: Iterable[Filled]) -> tuple[Object, Object] | None:
    """The set or the member of the line at which the program failed."""
    line = said.rpartition("\n")[2].split(maxsplit=1)
    rest = (line[1:] or [""])[0].removeprefix("-exist ")
    told = {
        f"{part.name} {part.description}" if isinstance(part, Set) else _told(part): (part, whole)
        for whole, part in _parts(objects)
    }
    return told.get(rest)


def commands(objects: Sequence[Filled]) -> Iterator[str]:
    """One input for the program."""
    yield f"ipset restore <<'EOF'\n{decode_restore(update([], objects)).text}EOF"


def containers(listed: str, names: Sequence[Name]) -> Iterator[RuleContainer]:
    """Read the output of `ipset save`: the sets of these owners, without what the kernel chooses for its hash tables."""
    beginnings = tuple(beginning for _, beginning in names)
    descriptions: dict[str, str] = {}
    items: dict[str, dict[str, str]] = {}
    for line in listed.splitlines():
        command, name, rest = [*line.split(" ", 2), "", ""][:3]
        if command == "create":
            descriptions[name] = _CHOSEN.sub("", rest)
        elif command == "add":
            items.setdefault(name, {})[rest.partition(" ")[0]] = rest
    for name, description in descriptions.items():
        if name.startswith(beginnings):
            prefix = f"ipset {name} member "
            yield RuleContainer(
                f"ipset {name}",
                "member",
                prefix,
                properties=description,
                elements=items.get(name, {}),
            )


def parse(saved: str) -> dict[str, list[str]]:
    """Set → its members, of what `ipset save` prints."""
    found: dict[str, list[str]] = {}
    for line in saved.splitlines():
        match line.split():
            case ["create", name, *_]:
                found[name] = []
            case ["add", name, item, *_]:
                found[name].append(item)
    return found


def failed_line(said: str) -> int:
    """The number of the line of the input that was refused; 0 where it is not told."""
    found = re.search(r"in line (\d+)", said)
    return int(found[1]) if found else 0


def _parts(objects: Iterable[Filled]) -> Iterator[tuple[Object, Object]]:
    return ((whole, part) for whole in objects for part in whole.parts)


def _told(part: Object) -> str:
    return f"{part.set} {part.item}" if isinstance(part, Member) else ""


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _encoded(restore: IpsetRestore) -> str:
    return msgspec.json.encode(restore).decode()
