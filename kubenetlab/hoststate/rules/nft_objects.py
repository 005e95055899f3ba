"""nftables' objects: tables, chains with rules, sets, maps and their elements. Source: nft(8) 1.0.6."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from kubenetlab.hoststate.object import Key
from kubenetlab.hoststate.rules.rulesets import Name, RuleObject

NFT_FAMILIES: Final[Mapping[int, str]] = {4: "ip", 6: "ip6"}
"""IP version → nft's name of the family, which is also its word for the packet's header."""
MAX_COMMENT = 128
"""NFTNL_UDATA_COMMENT_MAXLEN, with the final zero."""
MAX_NAME = 240
"""kube-proxy's own limit for chain names; the kernel's is 255."""


class _NftBase(RuleObject, frozen=True):
    dialect = "nftables"


class Table(_NftBase, frozen=True):
    """A table; it holds all the rest."""

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
    """One rule as nft reads it."""

    text: str
    comment: str = ""

    def __str__(self) -> str:
        return f"{self.text} comment {quoted(self.comment)}" if self.comment else self.text


class Chain(_NftBase, frozen=True):
    """A chain with all its rules; with `hook` a base chain: `type nat hook prerouting priority -100`."""

    rank = 110

    family: str
    table: str
    name: str
    rules: tuple[Rule, ...] = ()
    hook: str = ""
    comment: str = ""

    @property
    def key(self) -> Key:
        return ("Chain", self.family, self.table, self.name)

    def __str__(self) -> str:
        return f"nft chain {self.family} {self.table} {self.name}: {len(self.rules)} rule{'' if len(self.rules) == 1 else 's'}"


class Collection(_NftBase, frozen=True):
    """A set or a map, without its elements; `type` in nft's words: `ipv4_addr . inet_proto . inet_service : verdict`.

    With a timeout it belongs to the packets: rules put entries in, and the kernel takes them out when they are that old.
    """

    rank = 105

    family: str
    table: str
    name: str
    type: str
    comment: str = ""
    timeout_s: int = 0
    is_typeof: bool = False
    """The type is that of expressions: `ip daddr . th dport`."""

    @property
    def key(self) -> Key:
        return ("Collection", self.family, self.table, self.name)

    @property
    def kind(self) -> str:
        return "map" if " : " in self.type else "set"

    def __str__(self) -> str:
        return f"nft {self.kind} {self.family} {self.table} {self.name} of {self.type}"


class Element(_NftBase, frozen=True):
    """One entry of a set (empty `value`) or a map."""

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
        comment = f" comment {quoted(self.comment)}" if self.comment else ""
        return f"{self.item}{comment} : {self.value}" if self.value else f"{self.item}{comment}"

    def __str__(self) -> str:
        return f"nft element {self.family} {self.table} {self.collection} {{ {self.text} }}"


InTable = Chain | Collection | Element
"""What is in a table."""
NftObject = Table | InTable
"""What nft knows."""


def quoted(comment: str) -> str:
    """A comment as nft wants it; what does not fit is cut."""
    text = comment.replace('"', "'").encode()[: MAX_COMMENT - 1].decode(errors="ignore")
    return f'"{text}"'


def table_of(obj: NftObject) -> Name:
    """(family, name) of the table in which an object is."""
    return (obj.family, obj.name) if isinstance(obj, Table) else (obj.family, obj.table)
