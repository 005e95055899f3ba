"""iptables: chains of one's own, entries in them by many subjects, and the jumps that lead there from the built-in chains.

A chain of ours is replaced as a whole, as kube-proxy does it: `iptables-restore --noflush` empties what its input declares and leaves
the rest alone. Built-in chains may hold rules of others, so a jump comes and goes by itself. Whoever names a chain owns all that begin
like it: KUBE- is kube-proxy's. Source: iptables-restore(8), iptables-extensions(8) 1.8.9; pkg/proxy/iptables/proxier.go (1.33).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Final

import msgspec
from msgspec import Struct

from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.rules.listing import RuleContainer
from kubenetlab.hoststate.rules.rulesets import Name, NodeRules, RuleObject, different, members

FAMILIES: Final[Mapping[int, str]] = {4: "ip", 6: "ip6"}
"""IP version → the family's name, with which its programs' names begin."""
TABLES: Final = ("mangle", "nat", "filter")
BUILT_IN: Final = frozenset(("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"))
MAX_COMMENT = 255
"""Of xt_comment, without its zero."""

Place = tuple[str, str, str]
"""(family, table, chain)"""


class _Iptables(RuleObject, frozen=True):
    dialect = "iptables"


class IptablesChain(_Iptables, frozen=True):
    """A chain of one's own with its rules, each as it stands behind `-A NAME`. What others enter in it comes first."""

    rank = 110

    family: str
    table: str
    name: str
    rules: tuple[str, ...] = ()

    @property
    def place(self) -> Place:
        return self.family, self.table, self.name

    @property
    def key(self) -> Key:
        return ("IptablesChain", *self.place)

    def __str__(self) -> str:
        return f"{self.family}tables chain {self.table} {self.name}: {len(self.rules)} rule{'' if len(self.rules) == 1 else 's'}"


class _OneRule(_Iptables, frozen=True):
    option: ClassVar[str]
    """With which the program puts it in."""

    family: str
    table: str
    chain: str
    rule: str

    @property
    def place(self) -> Place:
        return self.family, self.table, self.chain

    @property
    def key(self) -> Key:
        return (f"Iptables{type(self).__name__}", *self.place, self.rule)

    def __str__(self) -> str:
        return f"{self.family}tables -t {self.table} {self.option} {self.chain} {self.rule}"


class ChainEntry(_OneRule, frozen=True):
    """One rule in a chain that many fill."""

    rank = 120
    option = "-A"


class Jump(_OneRule, frozen=True):
    """A rule that leads from a built-in chain to one's own, in front of what is there."""

    rank = 125
    option = "-I"


IptablesObject = IptablesChain | ChainEntry | Jump
Ruled = IptablesObject | NodeRules


class IptablesRestore(Struct, frozen=True):
    """Input of one family's `iptables-restore --noflush`. Before, all that is there of chains that begin like `anew` is taken away."""

    family: str
    text: str
    anew: tuple[str, ...] = ()
    is_last: bool = False
    """Nothing of ours is left: tables that are empty then are taken away, with their hooks."""


def decode_restores(text: str) -> list[IptablesRestore]:
    """The words of this dialect."""
    return msgspec.json.decode(text, type=list[IptablesRestore])


def comment(text: str) -> str:
    """`-m comment --comment …`, with a comment that fits."""
    cut = text.replace('"', "'").encode()[:MAX_COMMENT].decode(errors="ignore")
    return f'-m comment --comment "{cut}"'


def owner(chain: str) -> str:
    """How all chains begin that belong to whoever named this one."""
    return chain.partition("-")[0] + "-"


def update(old: Sequence[Ruled], new: Sequence[Ruled], former: Iterable[Name] = ()) -> str:
    """The chains whose rules are others now, with all of them; those that go; jumps one by one."""
    before, after = different(old, new)
    wanted = _chains(new)
    going = sorted(
        {obj.place for obj in before.values() if isinstance(obj, IptablesChain)} - wanted
    )
    come, gone = _jumps(after, before), _jumps(before, after)
    contents = _contents(new, _filled(before.values(), after.values()) & wanted)
    restores = []
    left = {family for family, _ in names(new)}
    for family in FAMILIES.values():
        text = "".join(_table(family, table, contents, come, gone, going) for table in TABLES)
        if text:
            restores.append(IptablesRestore(family, text, is_last=family not in left))
    return msgspec.json.encode(restores).decode() if restores else ""


def replacement(objects: Sequence[Ruled], former: Iterable[Name] = ()) -> str:
    """All chains and jumps, after those of the same owners have been taken away."""
    flat = {obj.key: obj for obj in members(objects)}
    contents, come = _contents(objects, _chains(objects)), _jumps(flat, {})
    owned: dict[str, dict[str, None]] = {}
    left = {family for family, _ in names(objects)}
    for family, beginning in (*names(objects), *former):
        owned.setdefault(family, {})[beginning] = None
    restores = [
        IptablesRestore(
            family,
            "".join(_table(family, table, contents, come, (), ()) for table in TABLES),
            tuple(beginnings),
            family not in left,
        )
        for family, beginnings in owned.items()
    ]
    return msgspec.json.encode(restores).decode() if restores else ""


def names(objects: Iterable[Ruled]) -> tuple[Name, ...]:
    """(family, how its chains begin) of each owner."""
    return tuple(
        dict.fromkeys(
            (obj.family, owner(obj.name))
            for obj in members(objects)
            if isinstance(obj, IptablesChain)
        )
    )


def failed_object(said: str, objects: Iterable[Ruled]) -> tuple[Object, Object] | None:
    """The chain of the line at which the program failed."""
    found = re.search(r"^(ip6?)tables-restore: .*\n\*(\S+)\n-A (\S+) ", said)
    if found is None:
        return None
    key = ("IptablesChain", *found.groups())
    return next(
        ((part, whole) for whole in objects for part in whole.parts if part.key == key), None
    )


def commands(objects: Sequence[Ruled]) -> Iterator[str]:
    """One input for the program of each family."""
    for restore in decode_restores(update([], objects) or "[]"):
        yield f"{restore.family}tables-restore --noflush <<'EOF'\n{restore.text}EOF"


def containers(listed: Iterable[tuple[str, str]], names: Sequence[Name]) -> Iterator[RuleContainer]:
    """Read (family, output of `iptables-save`) pairs: the chains of these owners, and the rules elsewhere that lead to them."""
    for family, text in listed:
        beginnings = tuple(beginning for name, beginning in names if name == family)
        for (table, chain), rules in parse(text).items():
            is_shared = not chain.startswith(beginnings)
            own = (
                [rule for rule in rules if _target(rule).startswith(beginnings)]
                if is_shared
                else rules
            )
            if own or not is_shared:
                place = f"{table} {chain}"
                prefix = f"{family}tables rule {place}: "
                yield RuleContainer(
                    f"{family}tables chain {place}",
                    "rule",
                    prefix,
                    rules=tuple(own),
                    is_shared=is_shared,
                )


def parse(saved: str) -> dict[tuple[str, str], list[str]]:
    """(table, chain) → its rules, of what `iptables-save` prints."""
    found: dict[tuple[str, str], list[str]] = {}
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            found[table, line[1:].partition(" ")[0]] = []
        elif line.startswith("-A "):
            chain, _, rule = line[3:].partition(" ")
            found.setdefault((table, chain), []).append(rule)
    return found


def cleaning(saved: str, beginnings: Sequence[str]) -> str:
    """The input that takes away chains that begin so, and the rules elsewhere that lead to them."""
    tables: dict[str, tuple[list[str], list[str], list[str]]] = {}
    for (table, chain), rules in parse(saved).items():
        flushed, led, dropped = tables.setdefault(table, ([], [], []))
        if chain.startswith(tuple(beginnings)):
            flushed.append(f":{chain} - [0:0]")
            dropped.append(f"-X {chain}")
        else:
            led += (
                f"-D {chain} {rule}"
                for rule in rules
                if _target(rule).startswith(tuple(beginnings))
            )
    return "".join(
        f"*{table}\n{_lines(*parts)}COMMIT\n" for table, parts in tables.items() if any(parts)
    )


def idle_tables(saved: str) -> list[str]:
    """Those in which nobody has a chain or a rule."""
    chains: dict[str, list[bool]] = {}
    for (table, chain), rules in parse(saved).items():
        chains.setdefault(table, []).append(bool(rules) or chain not in BUILT_IN)
    return [table for table, used in chains.items() if not any(used)]


def _lines(*parts: Iterable[str]) -> str:
    return "".join(f"{line}\n" for part in parts for line in part)


def _target(rule: str) -> str:
    found = re.search(r"(?:^| )-[jg] (\S+)", rule)
    return found[1] if found else ""


def _chains(objects: Iterable[Ruled]) -> set[Place]:
    return {obj.place for obj in members(objects) if isinstance(obj, IptablesChain)}


def _filled(before: Iterable[IptablesObject], after: Iterable[IptablesObject]) -> set[Place]:
    """The chains in which something differs."""
    old, new = ({obj for obj in side if not isinstance(obj, Jump)} for side in (before, after))
    return {obj.place for obj in old ^ new}


def _jumps(here: Mapping[Key, IptablesObject], there: Mapping[Key, IptablesObject]) -> list[Jump]:
    return [obj for key, obj in here.items() if isinstance(obj, Jump) and key not in there]


def _contents(objects: Iterable[Ruled], places: set[Place]) -> dict[Place, list[str]]:
    """The rules of these chains in order: entries, then the chain's own."""
    found: dict[Place, list[str]] = {place: [] for place in places}
    own: list[IptablesChain] = []
    for obj in members(objects):
        if isinstance(obj, IptablesChain):
            own.append(obj)
        elif isinstance(obj, ChainEntry) and obj.place in found:
            found[obj.place].append(obj.rule)
    for chain in own:
        if chain.place in found:
            found[chain.place] += chain.rules
    return found


def _table(
    family: str,
    table: str,
    contents: Mapping[Place, Sequence[str]],
    come: Sequence[Jump],
    gone: Sequence[Jump],
    going: Sequence[Place],
) -> str:
    """One table's part of the input; nothing where nothing happens in it."""
    here = {
        place[2]: rules for place, rules in sorted(contents.items()) if place[:2] == (family, table)
    }
    dying = [place[2] for place in going if place[:2] == (family, table)]
    lines = [
        *(f":{chain} - [0:0]" for chain in (*here, *dying)),
        *(f"-D {jump.chain} {jump.rule}" for jump in gone if jump.place[:2] == (family, table)),
        *(f"-A {chain} {rule}" for chain, rules in here.items() for rule in rules),
        *(
            f"-I {jump.chain} {jump.rule}"
            for jump in reversed(come)
            if jump.place[:2] == (family, table)
        ),
        *(f"-X {chain}" for chain in dying),
    ]
    return f"*{table}\n{_lines(lines)}COMMIT\n" if lines else ""
