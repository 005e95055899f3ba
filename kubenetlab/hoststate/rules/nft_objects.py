"""Objects of nftables: tables, chains with rules, sets, maps and elements. Source: nft(8) 1.0.6."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from kubenetlab.hoststate.object import Key
from kubenetlab.hoststate.rules.rulesets import OwnedName, RuleObject

NFT_FAMILIES: Final[Mapping[int, str]] = {4: "ip", 6: "ip6"}
"""nft's family by IP version; expressions name the packet's header in the same way."""
MAX_COMMENT = 128
"""NFTNL_UDATA_COMMENT_MAXLEN, with the terminating zero."""
MAX_NAME = 240
"""kube-proxy's limit for chain names; the kernel's is 255."""


class _NftBase(RuleObject, frozen=True):
    """Base class of the objects of nftables."""

    backend = "nftables"


class Table(_NftBase, frozen=True):
    """A table, which contains all other objects."""

    rank = 100

    family: str
    name: str
    comment: str = ""

    @property
    def key(self) -> Key:
        return ("Table", self.family, self.name)

    def __str__(self) -> str:
        return f"nft table {self.family} {self.name}"


class Rule(Struct, frozen=True):
    """One rule in nft's syntax; the comment names its origin."""

    text: str
    comment: str = ""

    def __str__(self) -> str:
        return f"{self.text} comment {quoted(self.comment)}" if self.comment else self.text


class Chain(_NftBase, frozen=True):
    """A chain with all its rules."""

    rank = 110

    family: str
    table: str
    name: str
    rules: tuple[Rule, ...] = ()
    hook: str = ""
    """Declaration of a base chain: `type nat hook prerouting priority -100`; else empty."""
    comment: str = ""

    @property
    def key(self) -> Key:
        return ("Chain", self.family, self.table, self.name)

    def __str__(self) -> str:
        count = f"{len(self.rules)} rule{'' if len(self.rules) == 1 else 's'}"
        return f"nft chain {self.family} {self.table} {self.name}: {count}"


class Collection(_NftBase, frozen=True):
    """A set or a map, without its elements."""

    rank = 105

    family: str
    table: str
    name: str
    type: str
    """Type in nft's syntax: `ipv4_addr . inet_proto . inet_service : verdict`."""
    comment: str = ""
    timeout_s: int = 0
    """Lifetime of elements, in seconds; 0: unlimited. Rules add the elements of a collection with a
    timeout, and the kernel deletes them."""
    is_typeof: bool = False
    """True if the type is given by expressions: `ip daddr . th dport`."""

    @property
    def key(self) -> Key:
        return ("Collection", self.family, self.table, self.name)

    @property
    def kind(self) -> str:
        """Keyword in nft's syntax: `map` or `set`."""
        return "map" if " : " in self.type else "set"

    def __str__(self) -> str:
        return f"nft {self.kind} {self.family} {self.table} {self.name} of {self.type}"


class Element(_NftBase, frozen=True):
    """One element of a set (empty `value`) or a map."""

    rank = 120

    family: str
    table: str
    collection: str
    item: str
    value: str = ""
    comment: str = ""

    @property
    def key(self) -> Key:
        return ("Element", self.family, self.table, self.collection, self.item)

    @property
    def text(self) -> str:
        """Element in nft's syntax."""
        comment = f" comment {quoted(self.comment)}" if self.comment else ""
        return f"{self.item}{comment} : {self.value}" if self.value else f"{self.item}{comment}"

    def __str__(self) -> str:
        return f"nft element {self.family} {self.table} {self.collection} {{ {self.text} }}"


InTable = Chain | Collection | Element
"""Object in a table."""
NftObject = Table | InTable
"""Object of nftables."""


def quoted(comment: str) -> str:
    """Return a comment in nft's syntax; a comment that is too long is cut."""
    text = comment.replace('"', "'").encode()[: MAX_COMMENT - 1].decode(errors="ignore")
    return f'"{text}"'


def table_of(obj: NftObject) -> OwnedName:
    """Return family and name of the object's table."""
    return (obj.family, obj.name) if isinstance(obj, Table) else (obj.family, obj.table)
