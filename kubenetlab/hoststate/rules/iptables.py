"""Rule backend iptables: user-defined chains with entries of many subjects, and jumps to them.

A user-defined chain is replaced as a whole, as kube-proxy does it: `iptables-restore --noflush`
flushes the chains that its input declares and leaves the others alone. Built-in chains may contain
rules of others, so jumps from them are added and deleted one by one. The owner of a chain owns all
chains with the same prefix: KUBE- belongs to kube-proxy.
Source: iptables-restore(8), iptables-extensions(8) 1.8.9; pkg/proxy/iptables/proxier.go (1.33).
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Final

import msgspec
from msgspec import Struct

from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.rules.iptables_save import parse, table_input, target
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

FAMILIES: Final[Mapping[int, str]] = {4: "ip", 6: "ip6"}
"""Family by IP version, with which the names of its programs begin."""
TABLES: Final = ("mangle", "nat", "filter")
MAX_COMMENT = 255
"""Maximum length of an xt_comment without the terminating zero, in bytes."""

ChainId = tuple[str, str, str]
"""(family, table, chain)"""


class _Iptables(RuleObject, frozen=True):
    """Base class of the objects of this backend."""

    backend = "iptables"

    @property
    @abstractmethod
    def chain_id(self) -> ChainId:
        """Chain of the object."""


class IptablesChain(_Iptables, frozen=True):
    """A user-defined chain with rules.

    A rule is the text that follows `-A NAME`. `ChainEntry` objects come before these rules.
    """

    rank = 110

    family: str
    table: str
    name: str
    rules: tuple[str, ...] = ()

    @property
    def chain_id(self) -> ChainId:
        return self.family, self.table, self.name

    @property
    def key(self) -> Key:
        return ("IptablesChain", *self.chain_id)

    def __str__(self) -> str:
        count = f"{len(self.rules)} rule{'' if len(self.rules) == 1 else 's'}"
        return f"{self.family}tables chain {self.table} {self.name}: {count}"


class _SingleRule(_Iptables, frozen=True):
    """Base class of objects that are one rule in a chain."""

    option: ClassVar[str]
    """Option of iptables that adds the rule."""

    family: str
    table: str
    chain: str
    rule: str

    @property
    def chain_id(self) -> ChainId:
        return self.family, self.table, self.chain

    @property
    def key(self) -> Key:
        return (f"Iptables{type(self).__name__}", *self.chain_id, self.rule)

    def __str__(self) -> str:
        return f"{self.family}tables -t {self.table} {self.option} {self.chain} {self.rule}"


class ChainEntry(_SingleRule, frozen=True):
    """One rule in a user-defined chain to which several subjects add rules."""

    rank = 120
    option = "-A"


class Jump(_SingleRule, frozen=True):
    """A rule at the beginning of a built-in chain that jumps to a user-defined chain."""

    rank = 125
    option = "-I"

    is_first: bool = False
    """True if it stays before the jumps of other owners, which may accept packets."""


IptablesObject = IptablesChain | ChainEntry | Jump
Ruled = IptablesObject | NodeRules[IptablesObject]


class IptablesRestore(Struct, frozen=True):
    """Input of one family's `iptables-restore --noflush`, and what it replaces."""

    family: str
    text: str
    anew: tuple[str, ...] = ()
    """Prefixes of chain names: all such chains are replaced by those of the input."""
    is_last: bool = False
    """True if the lab has no chains left: empty tables are removed afterwards, with their hooks."""


def decode_restores(text: str) -> list[IptablesRestore]:
    """Decode a transaction of this backend."""
    return msgspec.json.decode(text, type=list[IptablesRestore])


def comment(text: str) -> str:
    """Return `-m comment --comment …`; a comment that is too long is cut."""
    cut = text.replace('"', "'").encode()[:MAX_COMMENT].decode(errors="ignore")
    return f'-m comment --comment "{cut}"'


def owner(chain: str) -> str:
    """Return the prefix shared by all chains of the owner of this chain: `KUBE-`, `CILIUM_`."""
    end = next(index for index, letter in enumerate(chain) if letter in "-_")
    return chain[: end + 1]


def update(
    old: Sequence[Ruled],
    new: Sequence[Ruled],
    former: Iterable[OwnedName] = (),
    cache: DiffCache | None = None,
) -> str:
    """Return the input that replaces changed chains, deletes removed ones and updates jumps."""
    before, after = changed_members(old, new, cache)
    if before == after:
        return ""
    desired = _chains(new)
    removed_chains = sorted(
        {obj.chain_id for obj in before.values() if isinstance(obj, IptablesChain)} - desired
    )
    added_jumps, removed_jumps = _jumps(after, before), _jumps(before, after)
    preceded = {jump.chain_id for jump in added_jumps if not jump.is_first}
    moved_jumps = [
        obj
        for obj in (members(new) if preceded else ())
        if isinstance(obj, Jump)
        and obj.is_first
        and obj.chain_id in preceded
        and obj not in added_jumps
    ]
    added_jumps = _sorted(added_jumps + moved_jumps)
    removed_jumps += moved_jumps
    contents = _contents(new, _changed_chains(before.values(), after.values()) & desired)
    restores = []
    remaining_families = {family for family, _ in names(new)}
    for family in FAMILIES.values():
        text = "".join(
            _table(family, table, contents, added_jumps, removed_jumps, removed_chains)
            for table in TABLES
        )
        if text:
            restores.append(IptablesRestore(family, text, is_last=family not in remaining_families))
    return msgspec.json.encode(restores).decode() if restores else ""


def replacement(objects: Sequence[Ruled], former: Iterable[OwnedName] = ()) -> str:
    """Return the input with all chains and jumps, after removing existing ones of their owners."""
    by_key = {obj.key: obj for obj in members(objects)}
    contents, jumps = _contents(objects, _chains(objects)), _sorted(_jumps(by_key, {}))
    prefixes_by_family: dict[str, dict[str, None]] = {}
    remaining_families = {family for family, _ in names(objects)}
    for family, prefix in (*names(objects), *former):
        prefixes_by_family.setdefault(family, {})[prefix] = None
    restores = [
        IptablesRestore(
            family,
            "".join(_table(family, table, contents, jumps, (), ()) for table in TABLES),
            tuple(prefixes),
            family not in remaining_families,
        )
        for family, prefixes in prefixes_by_family.items()
    ]
    return msgspec.json.encode(restores).decode() if restores else ""


def names(objects: Iterable[Ruled]) -> tuple[OwnedName, ...]:
    """Return the family and the prefix of chain names for each owner."""
    return owned_names(objects, _names)


def _names(objects: Iterable[RuleObject]) -> tuple[OwnedName, ...]:
    chains = (obj for obj in objects if isinstance(obj, IptablesChain))
    return tuple(dict.fromkeys((chain.family, owner(chain.name)) for chain in chains))


def failed_object(message: str, objects: Iterable[Ruled]) -> tuple[Object, Object] | None:
    """Return the chain of the line that `iptables-restore` rejected."""
    match = re.search(r"^(ip6?)tables-restore: .*\n\*(\S+)\n-A (\S+) ", message)
    if match is None:
        return None
    key = ("IptablesChain", *match.groups())
    return next(
        ((part, whole) for whole in objects for part in whole.parts if part.key == key), None
    )


def commands(objects: Sequence[Ruled]) -> Iterator[str]:
    """Yield one `iptables-restore` command for each family."""
    for restore in decode_restores(update([], objects) or "[]"):
        yield f"{restore.family}tables-restore --noflush <<'EOF'\n{restore.text}EOF"


def containers(
    listed: Iterable[tuple[str, str]], names: Sequence[OwnedName]
) -> Iterator[RuleContainer]:
    """Yield the chains of these owners, and other chains with only the rules that jump to them.

    listed: family and output of `iptables-save`.
    """
    for family, text in listed:
        prefixes = tuple(prefix for name, prefix in names if name == family)
        for (table, chain), rules in parse(text).items():
            is_shared = not chain.startswith(prefixes)
            owned = (
                [rule for rule in rules if target(rule).startswith(prefixes)]
                if is_shared
                else rules
            )
            if owned or not is_shared:
                chain_name = f"{table} {chain}"
                prefix = f"{family}tables rule {chain_name}: "
                yield RuleContainer(
                    f"{family}tables chain {chain_name}",
                    "rule",
                    prefix,
                    rules=tuple(owned),
                    is_shared=is_shared,
                )


def _chains(objects: Iterable[Ruled]) -> set[ChainId]:
    return {obj.chain_id for obj in members(objects) if isinstance(obj, IptablesChain)}


def _changed_chains(before: Iterable[_Iptables], after: Iterable[_Iptables]) -> set[ChainId]:
    """Return the chains whose rules or entries differ."""
    old, new = ({obj for obj in side if not isinstance(obj, Jump)} for side in (before, after))
    return {obj.chain_id for obj in old ^ new}


def _jumps(objects: Mapping[Key, _Iptables], others: Mapping[Key, _Iptables]) -> list[Jump]:
    return [obj for key, obj in objects.items() if isinstance(obj, Jump) and key not in others]


def _sorted(jumps: Iterable[Jump]) -> list[Jump]:
    """Return jumps in the order in which packets pass them."""
    return sorted(jumps, key=lambda jump: not jump.is_first)


def _contents(objects: Iterable[Ruled], chain_ids: set[ChainId]) -> dict[ChainId, list[str]]:
    """Return the rules of these chains: entries, then the chain's own rules in order.

    Entries are sorted, so that a chain is the same whatever the order of the subjects.
    """
    contents: dict[ChainId, list[str]] = {chain_id: [] for chain_id in chain_ids}
    chains: list[IptablesChain] = []
    for obj in members(objects):
        if isinstance(obj, IptablesChain):
            chains.append(obj)
        elif isinstance(obj, ChainEntry) and obj.chain_id in contents:
            contents[obj.chain_id].append(obj.rule)
    for rules in contents.values():
        rules.sort()
    for chain in chains:
        if chain.chain_id in contents:
            contents[chain.chain_id] += chain.rules
    return contents


def _table(
    family: str,
    table: str,
    contents: Mapping[ChainId, Sequence[str]],
    added_jumps: Sequence[Jump],
    removed_jumps: Sequence[Jump],
    removed_chains: Sequence[ChainId],
) -> str:
    """Return the input for one table; empty if nothing changes in it."""
    rules_by_chain = {
        chain_id[2]: rules
        for chain_id, rules in sorted(contents.items())
        if chain_id[:2] == (family, table)
    }
    removed_names = [chain_id[2] for chain_id in removed_chains if chain_id[:2] == (family, table)]
    lines = [
        *(f":{chain} - [0:0]" for chain in (*rules_by_chain, *removed_names)),
        *(
            f"-D {jump.chain} {jump.rule}"
            for jump in removed_jumps
            if jump.chain_id[:2] == (family, table)
        ),
        *(f"-A {chain} {rule}" for chain, rules in rules_by_chain.items() for rule in rules),
        *(
            f"-I {jump.chain} {jump.rule}"
            for jump in reversed(added_jumps)
            if jump.chain_id[:2] == (family, table)
        ),
        *(f"-X {chain}" for chain in removed_names),
    ]
    return table_input(table, lines)
