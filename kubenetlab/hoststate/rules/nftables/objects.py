"""Objects of nftables: tables, chains with rules, sets, maps and elements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from msgspec import Struct

from kubenetlab.hoststate.object import Key
from kubenetlab.hoststate.rules.nftables.datatypes import SetType
from kubenetlab.hoststate.rules.nftables.encoding import storable
from kubenetlab.hoststate.rules.nftables.statements import AnyStatement, Verdict
from kubenetlab.hoststate.rules.rulesets import OwnedName, RuleObject

NFT_FAMILIES: Final[Mapping[int, str]] = {4: "ip", 6: "ip6"}
"""nft's family by IP version; expressions name the packet's header in the same way."""
MAX_NAME = 240
"""kube-proxy's limit for chain names; the kernel's is 255."""


class _NftBase(RuleObject, frozen=True):
    """Base class of the objects of nftables."""

    backend = "nftables"

    family: str


class Table(_NftBase, frozen=True):
    """A table, which contains all other objects."""

    rank = 100

    name: str
    comment: str = ""

    @property
    def key(self) -> Key:
        return ("Table", self.family, self.name)

    def __str__(self) -> str:
        return f"nft table {self.family} {self.name}"


class Rule(Struct, frozen=True, gc=False, array_like=True):
    """One rule; the comment names its origin."""

    statements: tuple[AnyStatement, ...]
    comment: str = ""

    @property
    def text(self) -> str:
        """Statements in nft syntax, without the comment."""
        return " ".join(map(str, self.statements))

    def __str__(self) -> str:
        """Return the rule in nft syntax."""
        return f"{self.text} comment {quoted(self.comment)}" if self.comment else self.text


def rule(*statements: AnyStatement, comment: str = "") -> Rule:
    """Return a rule of these statements."""
    return Rule(statements, comment)


class Hook(Struct, frozen=True, gc=False, array_like=True):
    """Place in a packet's path at which a base chain is called."""

    type: Literal["filter", "nat"]
    name: str
    """`prerouting`, `input`, `forward`, `output` or `postrouting`"""
    priority: int

    def __str__(self) -> str:
        return f"type {self.type} hook {self.name} priority {self.priority}"


class _TableMember(_NftBase, frozen=True):
    """Base class of the objects in a table."""

    table: str


class Chain(_TableMember, frozen=True):
    """A chain with all its rules."""

    rank = 110

    name: str
    rules: tuple[Rule, ...] = ()
    hook: Hook | None = None
    """Hook of a base chain; None for a chain that others jump to."""
    comment: str = ""

    @property
    def key(self) -> Key:
        return ("Chain", self.family, self.table, self.name)

    def __str__(self) -> str:
        count = f"{len(self.rules)} rule{'' if len(self.rules) == 1 else 's'}"
        return f"nft chain {self.family} {self.table} {self.name}: {count}"


class Collection(_TableMember, frozen=True):
    """A set or a map, without its elements."""

    rank = 105

    name: str
    type: SetType
    comment: str = ""
    timeout_s: int = 0
    """Lifetime of elements, in seconds; 0: unlimited. Rules add the elements of a collection with a
    timeout, and the kernel deletes them."""

    @property
    def key(self) -> Key:
        return ("Collection", self.family, self.table, self.name)

    @property
    def kind(self) -> str:
        """Keyword in nft's syntax: `map` or `set`."""
        return "map" if self.type.value else "set"

    def __str__(self) -> str:
        return f"nft {self.kind} {self.family} {self.table} {self.name} of {self.type}"


class Element(_TableMember, frozen=True):
    """One element of a set or a map."""

    rank = 120

    collection: str
    type: SetType
    """Type of the collection."""
    item: tuple[str, ...]
    """Components of the key: `10.96.0.10`, `tcp`, `80`."""
    verdict: Verdict | None = None
    """Value in a map of verdicts."""
    data: tuple[str, ...] = ()
    """Components of the value in another map; empty in a set."""
    comment: str = ""

    @property
    def key(self) -> Key:
        return ("Element", self.family, self.table, self.collection, *self.item)

    @property
    def entry(self) -> Entry:
        """Element as it is in a command."""
        return Entry(self.item, self.verdict, self.data, self.comment)

    def __str__(self) -> str:
        return f"nft element {self.family} {self.table} {self.collection} {{ {self.entry} }}"


class Entry(Struct, frozen=True, gc=False, array_like=True):
    """Element without the name of its collection."""

    item: tuple[str, ...]
    verdict: Verdict | None = None
    data: tuple[str, ...] = ()
    comment: str = ""

    def __str__(self) -> str:
        """Return the element in nft syntax."""
        key = " . ".join(self.item)
        comment = f" comment {quoted(self.comment)}" if self.comment else ""
        value = str(self.verdict) if self.verdict else " . ".join(self.data)
        return f"{key}{comment} : {value}" if value else f"{key}{comment}"


InTable = Chain | Collection | Element
"""Object in a table."""
NftObject = Table | InTable
"""Object of nftables."""


def quoted(comment: str) -> str:
    """Return a comment in nft syntax."""
    return f'"{storable(comment)}"'


def table_of(obj: NftObject) -> OwnedName:
    """Return family and name of the object's table."""
    return (obj.family, obj.name) if isinstance(obj, Table) else (obj.family, obj.table)
