"""Rule backend nftables: commands that turn old tables, chains, sets and maps into new ones.

A chain is replaced as a whole; elements are added and deleted one by one. The commands are never
compared with the kernel's listing, because nft rewrites rules: `diff` compares two listings of the
kernel (nftables_listing.py). Source: nft(8) 1.0.6.
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
from kubenetlab.hoststate.rules.rules_diff import RulesDiff, members_by_key, rules_diff
from kubenetlab.hoststate.rules.rulesets import NodeRules, OwnedName, SubjectRules, members

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
"""Objects that callers of this backend import from here."""

Ruled = NftObject | NodeRules
"""Object of this backend in a namespace."""


class TableRules(SubjectRules, frozen=True, dict=True):
    """Rules whose commands are rendered once, for all nodes that get them for a new subject."""

    @cached_property
    def added(self) -> AddCommands:
        """Commands that add the objects; shared objects are added separately."""
        return _added(self.objects)  # type: ignore[arg-type]


class AddCommands(NamedTuple):
    """Commands that add objects, in the order that the kernel requires."""

    declarations: str
    """Commands that add tables, chains and collections."""
    rules: str
    """Commands that add rules."""
    elements: Mapping[str, str]
    """Elements, separated by commas, by family, table and name of their collection."""


def update(old: Sequence[Ruled], new: Sequence[Ruled], former: Iterable[OwnedName] = ()) -> str:
    """Return the transaction from `old` to `new`.

    It replaces all tables if something cannot be changed in place: the hook of a base chain, the
    type of a collection or the comment of a table.
    """
    diff = rules_diff(old, new)
    text = diff.render_cached(lambda: _in_place(diff))
    return replacement(new, former) if text is None else text


def _in_place(diff: RulesDiff) -> str | None:
    """Return the commands of a change, or None if something cannot be changed in place."""
    before, after, added_rules = _split_added(diff)
    if any(
        key in before and before[key] != obj and _needs_replacement(before[key], obj)
        for key, obj in after.items()
    ):
        return None
    return _commands(before, after, added_rules)


def transaction(old: Iterable[Ruled], new: Iterable[Ruled]) -> str:
    """Return the commands of one transaction from `old` to `new`; empty if they are equal."""
    return _commands(*_split_added(rules_diff(old, new)))


def _split_added(
    diff: RulesDiff,
) -> tuple[dict[Key, NftObject], dict[Key, NftObject], list[AddCommands]]:
    """Return old and new members by key, and the commands of added `TableRules`.

    The members contain the shared objects of added `TableRules`, but not their own objects.
    """
    added_rules = [rules for rules in diff.added if isinstance(rules, TableRules)]
    shared: set[Key] = set()
    others = [rules for rules in diff.added if not isinstance(rules, TableRules)]
    for rules in added_rules:
        if not rules.shared_keys <= shared:
            shared |= rules.shared_keys
            others.append(structs.replace(rules, objects=()))
    return (*members_by_key(diff._replace(added=others)), [rules.added for rules in added_rules])


def _added(objects: Iterable[NftObject]) -> AddCommands:
    objects = list(objects)
    chains = [obj for obj in objects if isinstance(obj, Chain)]
    declarations = [
        *(_add_table(obj) for obj in objects if isinstance(obj, Table)),
        *map(_add_chain, chains),
        *(_add_collection(obj) for obj in objects if isinstance(obj, Collection)),
    ]
    return AddCommands(
        _lines(declarations),
        _lines(_add_rules(chains)),
        _by_collection(objects, lambda element: element.text),
    )


def _commands(
    before: Mapping[Key, NftObject],
    after: Mapping[Key, NftObject],
    from_rules: Sequence[AddCommands],
) -> str:
    """Return the commands in the order that the kernel's reference counts require.

    Add chains and collections, delete elements, fill chains, add elements, then delete collections
    and chains.

    from_rules: commands of added `TableRules`.
    """
    changed = [
        (before[key], obj) for key, obj in after.items() if key in before and before[key] != obj
    ]
    removed = [obj for key, obj in before.items() if key not in after]
    removed_tables = {(obj.family, obj.name) for obj in removed if isinstance(obj, Table)}
    removed = [
        obj
        for obj in removed
        if isinstance(obj, Table) or (obj.family, obj.table) not in removed_tables
    ]
    rewritten = [new_chain for _, new_chain in changed if isinstance(new_chain, Chain)]
    removed_chains = [obj for obj in removed if isinstance(obj, Chain)]
    added = [_added(obj for key, obj in after.items() if key not in before), *from_rules]
    rewritten_elements = _by_collection((pair[1] for pair in changed), lambda element: element.text)
    parts = (
        *(part.declarations for part in added),
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
            for chain in (*rewritten, *removed_chains)
        ),
        *(part.rules for part in added),
        _lines(_add_rules(rewritten)),
        _elements("add", [*(part.elements for part in added), rewritten_elements]),
        _lines(
            f"delete {obj.kind} {obj.family} {obj.table} {obj.name}"
            for obj in removed
            if isinstance(obj, Collection)
        ),
        _lines(
            f"delete chain {chain.family} {chain.table} {chain.name}" for chain in removed_chains
        ),
        _lines(f"delete table {family} {name}" for family, name in sorted(removed_tables)),
    )
    return "".join(parts)


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def replacement(objects: Sequence[Ruled], former: Iterable[OwnedName] = ()) -> str:
    """Return the commands that replace the tables of `objects` in one transaction.

    former: family and name of tables that the lab owned before; they are deleted, too.
    """
    tables = dict.fromkeys((obj.family, obj.name) for obj in objects if isinstance(obj, Table))
    deletions = "".join(
        f"add table {family} {name}\ndelete table {family} {name}\n"
        for family, name in {**tables, **dict.fromkeys(former)}
    )
    return deletions + transaction((), objects)


def _needs_replacement(old: NftObject, new: NftObject) -> bool:
    match old, new:
        case (Chain(), Chain()):
            return (old.hook, old.comment) != (new.hook, new.comment)
        case (Collection(), Collection()) | (Table(), Table()):
            return True
    return False


def names(objects: Iterable[Ruled]) -> tuple[OwnedName, ...]:
    """Return family and name of each table; the lab owns all that is in them."""
    return tuple((obj.family, obj.name) for obj in objects if isinstance(obj, Table))


def failed_object(message: str, objects: Iterable[Ruled]) -> tuple[Object, Object] | None:
    """Return the object of the statement that nft quotes in its error message."""
    by_key = {part.key: (part, whole) for whole in objects for part in whole.parts}
    return next(
        (
            result
            for line in message.splitlines()
            if (result := by_key.get(_key_of(line) or ())) is not None
        ),
        None,
    )


def _key_of(statement: str) -> Key | None:
    """Return the key of a statement's object: the chain of a rule, the collection of an element."""
    match statement.split():
        case [_, "table", family, name, *_]:
            return ("Table", family, name)
        case [_, "chain" | "rule", family, table, name, *_]:
            return ("Chain", family, table, name)
        case [_, "set" | "map" | "element", family, table, name, *_]:
            return ("Collection", family, table, name)
    return None


def commands(objects: Sequence[Ruled]) -> Iterator[str]:
    """Yield one `nft -f` command for each table.

    For readability each element has a line, and the elements of a collection are together.
    """
    tables: dict[OwnedName, list[NftObject]] = {}
    for obj in members(objects):
        tables.setdefault(table_of(obj), []).append(obj)
    for in_table in tables.values():
        elements = sorted(
            (obj for obj in in_table if isinstance(obj, Element)),
            key=lambda element: element.collection,
        )
        text = transaction((), [obj for obj in in_table if not isinstance(obj, Element)])
        added = "".join(transaction((), [element]) for element in elements)
        yield f"nft -f - <<'EOF'\n{text}{added}EOF"


def containers(listed: Sequence[str | None], names: Sequence[OwnedName]) -> Iterator[RuleContainer]:
    """Yield the containers in the output of `nft --stateless list table` for each name.

    listed: one listing for each name; None for a table that does not exist.
    """
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
    place = f"{collection.family} {collection.table} {collection.name}"
    return f"add {collection.kind} {place} {{ {type_}{timeout}{comment} }}"


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
    """Return one command for each collection."""
    merged: dict[str, list[str]] = {}
    for group in groups:
        for collection, items in group.items():
            merged.setdefault(collection, []).append(items)
    return _lines(
        f"{verb} element {collection} {{ {', '.join(items)} }}"
        for collection, items in merged.items()
    )
