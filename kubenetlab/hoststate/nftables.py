"""nftables: tables, chains, sets, maps and elements as data; a rule is text with a comment that says where it comes from.

A chain is replaced as a whole, an element by itself. The kernel's text is never compared with ours, for nft rewrites what it is
given. Source: nft(8) 1.0.6; libnftables-json(5) for reading back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

from msgspec import Struct

from kubenetlab.hoststate.object import Key, Object

NFT_FAMILIES: Final[Mapping[int, str]] = {4: "ip", 6: "ip6"}
"""IP version → nft's name of the family, which is also its word for the packet's header."""
MAX_COMMENT = 128
MAX_NAME = 240
"""kube-proxy's own limit for chain names; the kernel's is 255."""


class Table(Object, frozen=True):
    """A table; it holds all the rest."""

    rank = 100
    hand = "nftables"

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


class Chain(Object, frozen=True):
    """A chain with all its rules; with `hook` a base chain: `type nat hook prerouting priority -100`."""

    rank = 110
    hand = "nftables"

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


class Collection(Object, frozen=True):
    """A set or a map, without its elements; `type` in nft's words: `ipv4_addr . inet_proto . inet_service : verdict`.

    With a timeout it belongs to the packets: rules put entries in, and the kernel takes them out when they are that old.
    """

    rank = 105
    hand = "nftables"

    family: str
    table: str
    name: str
    type: str
    comment: str = ""
    timeout_s: int = 0

    @property
    def key(self) -> Key:
        return ("Collection", self.family, self.table, self.name)

    @property
    def word(self) -> str:
        return "map" if " : " in self.type else "set"

    def __str__(self) -> str:
        return f"nft {self.word} {self.family} {self.table} {self.name} of {self.type}"


class Element(Object, frozen=True):
    """One entry of a set (empty `value`) or a map."""

    rank = 120
    hand = "nftables"

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


class Rules(Struct, frozen=True, dict=True):
    """What one subject needs in a table, a Service say: one value for all the nodes that have it. Its objects are in no namespace."""

    family: str
    table: str
    subject: str
    """`default/web`; unique in the table."""
    objects: tuple[InTable, ...]

    @cached_property
    def digest(self) -> bytes:
        return hashlib.sha256(repr(self.objects).encode()).digest()


class Bundle(Object, frozen=True):
    """Rules in a node's table: they come and go together, and what changes in them is changed one by one."""

    rank = 130
    hand = "nftables"

    rules: Rules

    @property
    def key(self) -> Key:
        return ("Bundle", self.rules.family, self.rules.table, self.rules.subject)

    @property
    def parts(self) -> tuple[Object, ...]:
        return self.rules.objects

    def __str__(self) -> str:
        return f"nft objects of {self.rules.family} {self.rules.table} for {self.rules.subject}: {len(self.rules.objects)}"


NftObject = Table | InTable
"""What nft knows."""
Ruled = NftObject | Bundle
"""What stands in a namespace."""


def quoted(comment: str) -> str:
    """A comment as nft wants it; what does not fit is cut."""
    text = comment.replace('"', "'").encode()[: MAX_COMMENT - 1].decode(errors="ignore")
    return f'"{text}"'


def table_of(obj: Ruled) -> tuple[str, str]:
    """(family, name) of the table in which an object is."""
    match obj:
        case Table(family=family, name=name):
            return family, name
        case Bundle(rules=rules):
            return rules.family, rules.table
    return obj.family, obj.table


def members(objects: Iterable[Ruled]) -> Iterator[NftObject]:
    """The objects, and in place of each bundle those in it."""
    for obj in objects:
        if isinstance(obj, Bundle):
            yield from obj.rules.objects
        else:
            yield obj


def update(old: Sequence[Ruled], new: Sequence[Ruled], former: Iterable[tuple[str, str]] = ()) -> str:
    """A transaction from `old` to `new`, or a replacement where something cannot be changed in place: a base chain's hook, a
    collection's type, a table's comment."""
    before, after = _different(old, new)
    if any(key in before and before[key] != obj and _is_fixed(before[key], obj) for key, obj in after.items()):
        return replacement(new, former)
    return _commands(before, after)


def transaction(old: Iterable[Ruled], new: Iterable[Ruled]) -> str:
    """The commands that turn `old` into `new`, to be run as one transaction; empty when there is nothing to do."""
    return _commands(*_different(old, new))


def _commands(before: Mapping[Key, NftObject], after: Mapping[Key, NftObject]) -> str:
    """The order is what the kernel's reference counts ask for: make chains and collections, take elements away, fill chains, add
    elements, take chains and collections away.
    """
    added = [obj for key, obj in after.items() if key not in before]
    changed = [(before[key], obj) for key, obj in after.items() if key in before and before[key] != obj]
    removed = [obj for key, obj in before.items() if key not in after]
    gone_tables = {(obj.family, obj.name) for obj in removed if isinstance(obj, Table)}
    removed = [obj for obj in removed if isinstance(obj, Table) or (obj.family, obj.table) not in gone_tables]
    lines: list[str] = []
    lines += (_add_table(obj) for obj in added if isinstance(obj, Table))
    lines += (_add_chain(obj) for obj in added if isinstance(obj, Chain))
    lines += (_add_collection(obj) for obj in added if isinstance(obj, Collection))
    lines += _element_lines("delete", [obj for obj in (*removed, *(pair[0] for pair in changed)) if isinstance(obj, Element)])
    rewritten = [new_chain for _, new_chain in changed if isinstance(new_chain, Chain)]
    dying = [obj for obj in removed if isinstance(obj, Chain)]
    lines += (f"flush chain {chain.family} {chain.table} {chain.name}" for chain in (*rewritten, *dying))
    for chain in (*(obj for obj in added if isinstance(obj, Chain)), *rewritten):
        lines += (f"add rule {chain.family} {chain.table} {chain.name} {rule}" for rule in chain.rules)
    lines += _element_lines("add", [obj for obj in (*added, *(pair[1] for pair in changed)) if isinstance(obj, Element)])
    lines += (f"delete {obj.word} {obj.family} {obj.table} {obj.name}" for obj in removed if isinstance(obj, Collection))
    lines += (f"delete chain {chain.family} {chain.table} {chain.name}" for chain in dying)
    lines += (f"delete table {family} {name}" for family, name in sorted(gone_tables))
    return "".join(line + "\n" for line in lines)


def _different(old: Iterable[Ruled], new: Iterable[Ruled]) -> tuple[dict[Key, NftObject], dict[Key, NftObject]]:
    """The objects of both by key, but for the bundles that both have alike."""
    before, after = {obj.key: obj for obj in old}, {obj.key: obj for obj in new}
    alike = {key for key, obj in before.items() if isinstance(obj, Bundle) and after.get(key) == obj}
    own, others = (members(obj for key, obj in side.items() if key not in alike) for side in (before, after))
    return {obj.key: obj for obj in own}, {obj.key: obj for obj in others}


def replacement(objects: Sequence[Ruled], former: Iterable[tuple[str, str]] = ()) -> str:
    """The commands that make the tables of `objects` anew, whatever they hold now, as one transaction.

    `former` are (family, name) of tables that were ours: those go, too.
    """
    tables = dict.fromkeys((obj.family, obj.name) for obj in objects if isinstance(obj, Table))
    away = "".join(f"add table {family} {name}\ndelete table {family} {name}\n" for family, name in {**tables, **dict.fromkeys(former)})
    return away + transaction((), objects)


def digest(objects: Iterable[Ruled]) -> str:
    """Tells one set of objects from another."""
    told = hashlib.sha256()
    for obj in objects:
        told.update(obj.rules.digest if isinstance(obj, Bundle) else repr(obj).encode())
    return told.hexdigest()


def _is_fixed(old: NftObject, new: NftObject) -> bool:
    match old, new:
        case (Chain(), Chain()):
            return (old.hook, old.comment) != (new.hook, new.comment)
        case (Collection(), Collection()) | (Table(), Table()):
            return True
    return False


def key_of(statement: str) -> Key | None:
    """The object that a statement of ours is about: `add rule ip kube-proxy services …` is about a chain; of elements it is their set."""
    match statement.split():
        case [_, "table", family, name, *_]:
            return ("Table", family, name)
        case [_, "chain" | "rule", family, table, name, *_]:
            return ("Chain", family, table, name)
        case [_, "set" | "map" | "element", family, table, name, *_]:
            return ("Collection", family, table, name)
    return None


class Listed(Struct, frozen=True):
    """What a listing shows of a table: enough to name what is missing, too much or changed."""

    chains: dict[str, tuple[str, ...]]
    """The comments of each chain's rules."""
    collections: dict[str, frozenset[str]]
    """The items of each set or map, as nft writes them."""


def decode_listing(document: Any, family: str, table: str) -> Listed:
    """The output of `nft -j list table`."""
    chains: dict[str, list[str]] = {}
    collections: dict[str, frozenset[str]] = {}
    for entry in document.get("nftables", ()):
        for kind, value in entry.items():
            if value.get("family") != family or value.get("table") != table:
                continue
            if kind == "chain":
                chains[value["name"]] = []
            elif kind == "rule":
                chains[value["chain"]].append(value.get("comment", ""))
            elif kind in ("set", "map"):
                collections[value["name"]] = frozenset(_item(element) for element in value.get("elem", ()))
    return Listed({name: tuple(rules) for name, rules in chains.items()}, collections)


def _item(element: Any) -> str:
    """One element's key as our own text writes it."""
    if isinstance(element, list):  # of a map: [key, value]
        element = element[0]
    if isinstance(element, dict) and "elem" in element:
        element = element["elem"]["val"]
    if isinstance(element, dict) and "concat" in element:
        return " . ".join(str(part) for part in element["concat"])
    if isinstance(element, dict) and "prefix" in element:
        return f"{element['prefix']['addr']}/{element['prefix']['len']}"
    return str(element)


def _add_table(table: Table) -> str:
    comment = f" {{ comment {quoted(table.comment)} ; }}" if table.comment else ""
    return f"add table {table.family} {table.name}{comment}"


def _add_chain(chain: Chain) -> str:
    parts = ([f"{chain.hook} ;"] if chain.hook else []) + ([f"comment {quoted(chain.comment)} ;"] if chain.comment else [])
    return f"add chain {chain.family} {chain.table} {chain.name}" + (f" {{ {' '.join(parts)} }}" if parts else "")


def _add_collection(collection: Collection) -> str:
    timeout = f" flags dynamic,timeout ; timeout {collection.timeout_s}s ;" if collection.timeout_s else ""
    comment = f" comment {quoted(collection.comment)} ;" if collection.comment else ""
    return (
        f"add {collection.word} {collection.family} {collection.table} {collection.name} {{ type {collection.type} ;{timeout}{comment} }}"
    )


def _element_lines(verb: str, elements: Sequence[Element]) -> Iterator[str]:
    """One line per collection."""
    groups: dict[tuple[str, str, str], list[Element]] = {}
    for element in elements:
        groups.setdefault((element.family, element.table, element.collection), []).append(element)
    for (family, table, collection), group in groups.items():
        items = ", ".join(element.text if verb == "add" else element.item for element in group)
        yield f"{verb} element {family} {table} {collection} {{ {items} }}"
