"""nftables: tables, chains, sets, maps and elements as data; a rule is text with a comment that says where it comes from.

A chain is replaced as a whole, an element by itself. The kernel's text is never compared with this text, because nft rewrites rules:
`diff` compares two listings of the kernel (nftables_listing.py). Source: nft(8) 1.0.6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from msgspec import structs

from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.rules.listing import RuleContainer
from kubenetlab.hoststate.rules.nft_objects import (
    MAX_NAME,
    NFT_FAMILIES,
    Chain,
    Collection,
    Element,
    InTable,
    NftObject,
    Rule,
    Table,
    quoted,
    table_of,
)
from kubenetlab.hoststate.rules.rulesets import (
    Name,
    NodeRules,
    Rules,
    RulesDiff,
    compared,
    delta,
    members,
)

__all__ = (
    "MAX_NAME",
    "NFT_FAMILIES",
    "Chain",
    "Collection",
    "Element",
    "InTable",
    "NftObject",
    "Rule",
    "Table",
    "quoted",
)
"""Objects that users of this backend import from here."""

Ruled = NftObject | NodeRules
"""What stands in a namespace."""


class TableRules(Rules, frozen=True, dict=True):
    """Rules whose words are put together once, for all the nodes that get them where there was nothing of their subject."""

    @cached_property
    def added(self) -> Added:
        """What makes the objects; what is shared apart."""
        return _added(self.objects)  # type: ignore[arg-type]


class Added(NamedTuple):
    """What makes objects, in the order in which the kernel wants it."""

    places: str
    """Tables, chains and collections."""
    rules: str
    elements: Mapping[str, str]
    """Collection with its table and family → entries, with commas between them."""


def update(old: Sequence[Ruled], new: Sequence[Ruled], former: Iterable[Name] = ()) -> str:
    """A transaction from `old` to `new`, or a replacement where something cannot be changed in place: a base chain's hook, a
    collection's type, a table's comment."""
    found = delta(old, new)
    said = found.once(lambda: _in_place(found))
    return replacement(new, former) if said is None else said


def _in_place(found: RulesDiff) -> str | None:
    """The commands of a change; None where something cannot be changed in place."""
    before, after, fresh = _compared(found)
    if any(
        key in before and before[key] != obj and _is_fixed(before[key], obj)
        for key, obj in after.items()
    ):
        return None
    return _commands(before, after, fresh)


def transaction(old: Iterable[Ruled], new: Iterable[Ruled]) -> str:
    """The commands that turn `old` into `new`, to be run as one transaction; empty when there is nothing to do."""
    return _commands(*_compared(delta(old, new)))


def _compared(found: RulesDiff) -> tuple[dict[Key, NftObject], dict[Key, NftObject], list[Added]]:
    """What is to be compared of both, by key; and what is made from nothing, in words, but for what it shares with others."""
    fresh = [rules for rules in found.come if isinstance(rules, TableRules)]
    shared: set[Key] = set()
    come = [rules for rules in found.come if not isinstance(rules, TableRules)]
    for rules in fresh:
        if not rules.shared_keys <= shared:
            shared |= rules.shared_keys
            come.append(structs.replace(rules, objects=()))
    return (*compared(found._replace(come=come)), [rules.added for rules in fresh])


def _added(objects: Iterable[NftObject]) -> Added:
    objects = list(objects)
    chains = [obj for obj in objects if isinstance(obj, Chain)]
    places = [
        *(_add_table(obj) for obj in objects if isinstance(obj, Table)),
        *map(_add_chain, chains),
        *(_add_collection(obj) for obj in objects if isinstance(obj, Collection)),
    ]
    return Added(
        _lines(places),
        _lines(_add_rules(chains)),
        _by_collection(objects, lambda element: element.text),
    )


def _commands(
    before: Mapping[Key, NftObject], after: Mapping[Key, NftObject], fresh: Sequence[Added]
) -> str:
    """The order is what the kernel's reference counts ask for: make chains and collections, take elements away, fill chains, add
    elements, take chains and collections away.
    """
    changed = [
        (before[key], obj) for key, obj in after.items() if key in before and before[key] != obj
    ]
    removed = [obj for key, obj in before.items() if key not in after]
    gone_tables = {(obj.family, obj.name) for obj in removed if isinstance(obj, Table)}
    removed = [
        obj
        for obj in removed
        if isinstance(obj, Table) or (obj.family, obj.table) not in gone_tables
    ]
    rewritten = [new_chain for _, new_chain in changed if isinstance(new_chain, Chain)]
    dying = [obj for obj in removed if isinstance(obj, Chain)]
    added = [_added(obj for key, obj in after.items() if key not in before), *fresh]
    rewritten_elements = _by_collection((pair[1] for pair in changed), lambda element: element.text)
    parts = (
        *(one.places for one in added),
        _elements(
            "delete",
            [
                _by_collection(
                    (*removed, *(pair[0] for pair in changed)), lambda element: element.item
                )
            ],
        ),
        _lines(
            f"flush chain {chain.family} {chain.table} {chain.name}"
            for chain in (*rewritten, *dying)
        ),
        *(one.rules for one in added),
        _lines(_add_rules(rewritten)),
        _elements("add", [*(one.elements for one in added), rewritten_elements]),
        _lines(
            f"delete {obj.kind} {obj.family} {obj.table} {obj.name}"
            for obj in removed
            if isinstance(obj, Collection)
        ),
        _lines(f"delete chain {chain.family} {chain.table} {chain.name}" for chain in dying),
        _lines(f"delete table {family} {name}" for family, name in sorted(gone_tables)),
    )
    return "".join(parts)


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def replacement(objects: Sequence[Ruled], former: Iterable[Name] = ()) -> str:
    """The commands that make the tables of `objects` anew, whatever they hold now, as one transaction.

    `former` are (family, name) of tables that were ours: those go, too.
    """
    tables = dict.fromkeys((obj.family, obj.name) for obj in objects if isinstance(obj, Table))
    away = "".join(
        f"add table {family} {name}\ndelete table {family} {name}\n"
        for family, name in {**tables, **dict.fromkeys(former)}
    )
    return away + transaction((), objects)


def _is_fixed(old: NftObject, new: NftObject) -> bool:
    match old, new:
        case (Chain(), Chain()):
            return (old.hook, old.comment) != (new.hook, new.comment)
        case (Collection(), Collection()) | (Table(), Table()):
            return True
    return False


def names(objects: Iterable[Ruled]) -> tuple[Name, ...]:
    """The tables: whatever is in them is ours."""
    return tuple((obj.family, obj.name) for obj in objects if isinstance(obj, Table))


def failed_object(said: str, objects: Iterable[Ruled]) -> tuple[Object, Object] | None:
    """The object of the statement that nft shows with its refusal, and the whole whose part it is."""
    wanted = {part.key: (part, whole) for whole in objects for part in whole.parts}
    return next(
        (
            found
            for line in said.splitlines()
            if (found := wanted.get(_key_of(line) or ())) is not None
        ),
        None,
    )


def _key_of(statement: str) -> Key | None:
    """The object that a statement of ours is about: `add rule ip kube-proxy services …` is about a chain; of elements it is their set."""
    match statement.split():
        case [_, "table", family, name, *_]:
            return ("Table", family, name)
        case [_, "chain" | "rule", family, table, name, *_]:
            return ("Chain", family, table, name)
        case [_, "set" | "map" | "element", family, table, name, *_]:
            return ("Collection", family, table, name)
    return None


def commands(objects: Sequence[Ruled]) -> Iterator[str]:
    """A transaction for the program nft for each table. An element to a line, to be read, and those of a set or map together."""
    tables: dict[Name, list[NftObject]] = {}
    for obj in members(objects):
        tables.setdefault(table_of(obj), []).append(obj)
    for inside in tables.values():
        elements = sorted(
            (obj for obj in inside if isinstance(obj, Element)),
            key=lambda element: element.collection,
        )
        text = transaction((), [obj for obj in inside if not isinstance(obj, Element)])
        yield f"nft -f - <<'EOF'\n{text}{''.join(transaction((), [element]) for element in elements)}EOF"


def containers(listed: Sequence[str | None], names: Sequence[Name]) -> Iterator[RuleContainer]:
    """Read the output of `nft --stateless list table` for each name; None for a table that does not exist."""
    from kubenetlab.hoststate.rules.nftables_listing import containers as of_tables

    return of_tables(listed, names)


def _add_table(table: Table) -> str:
    comment = f" {{ comment {quoted(table.comment)} ; }}" if table.comment else ""
    return f"add table {table.family} {table.name}{comment}"


def _add_chain(chain: Chain) -> str:
    parts = ([f"{chain.hook} ;"] if chain.hook else []) + (
        [f"comment {quoted(chain.comment)} ;"] if chain.comment else []
    )
    return f"add chain {chain.family} {chain.table} {chain.name}" + (
        f" {{ {' '.join(parts)} }}" if parts else ""
    )


def _add_collection(collection: Collection) -> str:
    timeout = (
        f" flags dynamic,timeout ; timeout {collection.timeout_s}s ;"
        if collection.timeout_s
        else ""
    )
    comment = f" comment {quoted(collection.comment)} ;" if collection.comment else ""
    type_ = f"{'typeof' if collection.is_typeof else 'type'} {collection.type} ;"
    return f"add {collection.kind} {collection.family} {collection.table} {collection.name} {{ {type_}{timeout}{comment} }}"


def _add_rules(chains: Iterable[Chain]) -> Iterator[str]:
    return (
        f"add rule {chain.family} {chain.table} {chain.name} {rule}"
        for chain in chains
        for rule in chain.rules
    )


def _by_collection(objects: Iterable[NftObject], text: Callable[[Element], str]) -> dict[str, str]:
    groups: dict[str, list[str]] = {}
    for obj in objects:
        if isinstance(obj, Element):
            groups.setdefault(f"{obj.family} {obj.table} {obj.collection}", []).append(text(obj))
    return {collection: ", ".join(items) for collection, items in groups.items()}


def _elements(verb: str, groups: Iterable[Mapping[str, str]]) -> str:
    """One line per collection."""
    merged: dict[str, list[str]] = {}
    for group in groups:
        for collection, items in group.items():
            merged.setdefault(collection, []).append(items)
    return _lines(
        f"{verb} element {collection} {{ {', '.join(items)} }}"
        for collection, items in merged.items()
    )
