"""Rule backend nftables: commands that turn old tables, chains, sets and maps into new ones.

Objects consist of typed rules (objects.py, statements/). A transaction is a list of typed
commands (transactions.py), from which netlink messages and nft text are made. A chain is replaced
as a whole; elements are added and deleted one by one. The commands are never compared with the
kernel's listing, because the kernel normalizes rules: `diff` compares two listings (listing.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain

from msgspec import Struct, structs

from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.rules.listing import RuleContainer
from kubenetlab.hoststate.rules.nftables.chain_commands import (
    AddChain,
    AddRules,
    AddTable,
    DeleteChain,
    DeleteTable,
    FlushChain,
)
from kubenetlab.hoststate.rules.nftables.command import Command
from kubenetlab.hoststate.rules.nftables.datatypes import SetType
from kubenetlab.hoststate.rules.nftables.objects import (
    MAX_NAME,
    NFT_FAMILIES,
    Chain,
    Collection,
    Element,
    Entry,
    Hook,
    InTable,
    NftObject,
    Rule,
    Table,
    rule,
    table_of,
)
from kubenetlab.hoststate.rules.nftables.set_commands import AddSet, DeleteElements, DeleteSet
from kubenetlab.hoststate.rules.nftables.transactions import (
    ADD_ELEMENTS_END,
    add_elements_begin,
    encode_items,
    join_transaction,
    transaction_text,
)
from kubenetlab.hoststate.rules.rules_diff import RulesDiff, members_by_key, rules_diff
from kubenetlab.hoststate.rules.rulesets import (
    DiffCache,
    NodeRules,
    OwnedName,
    SubjectRules,
    members,
)

__all__ = (
    "MAX_NAME",
    "NFT_FAMILIES",
    "Chain",
    "Collection",
    "Element",
    "Hook",
    "InTable",
    "NftObject",
    "Rule",
    "SetType",
    "Table",
    "commands",
    "containers",
    "failed_object",
    "names",
    "replacement",
    "rule",
    "update",
)
"""Objects that callers of this backend import from here, and the functions of `RuleBackend`."""

NftRules = NftObject | NodeRules[NftObject]
"""Object of this backend in a namespace."""

Place = tuple[str, str, str]
"""Family, table and name of a collection."""


class TableRules(SubjectRules[NftObject], frozen=True, dict=True):
    """Rules whose commands are encoded once, for all nodes that get them for a new subject."""

    @cached_property
    def added(self) -> AddCommands:
        """Commands that add the objects; shared objects are added separately."""
        return _added(self.objects)

    @cached_property
    def digest(self) -> bytes:
        result = hashlib.sha256()
        for commands in (self.added, _added(self.shared)):
            parts = (commands.declarations, commands.rules, *chain(*commands.elements.items()))
            result.update(b"\0".join(parts))
        return result.digest()


class AddCommands(Struct, frozen=True):
    """Encoded commands that add objects, in the order that the kernel requires.

    They are kept as bytes, because the garbage collector would visit thousands of commands.
    """

    declarations: bytes
    """Commands that add tables, chains and collections."""
    rules: bytes
    """Commands that add rules."""
    elements: Mapping[bytes, bytes]
    """Begin of the command for a collection → its elements."""


def update(
    old: Sequence[NftRules],
    new: Sequence[NftRules],
    former: Iterable[OwnedName] = (),
    cache: DiffCache | None = None,
) -> str:
    """Return the transaction from `old` to `new`.

    It replaces all tables if something cannot be changed in place: the hook of a base chain, the
    type of a collection or the comment of a table.
    """
    diff: RulesDiff[NftObject] = rules_diff(old, new, cache)
    text = diff.render_cached(lambda: _in_place(diff))
    return replacement(new, former) if text is None else text


def _in_place(diff: RulesDiff[NftObject]) -> str | None:
    """Return the transaction of a change, or None if something cannot be changed in place."""
    before, after, added_rules = _split_added(diff)
    if any(
        key in before and before[key] != obj and _needs_replacement(before[key], obj)
        for key, obj in after.items()
    ):
        return None
    return _commands(before, after, added_rules)


def transaction(old: Iterable[NftRules], new: Iterable[NftRules]) -> str:
    """Return one transaction from `old` to `new`; empty if they are equal."""
    return _commands(*_split_added(rules_diff(old, new)))


def _split_added(
    diff: RulesDiff[NftObject],
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
    tables: list[Command] = []
    chains: list[Command] = []
    collections: list[Command] = []
    rules: list[Command] = []
    elements: dict[Place, tuple[SetType, list[Entry]]] = {}
    for obj in objects:
        match obj:
            case Chain():
                chains.append(AddChain(obj.family, obj.table, obj.name, obj.hook, obj.comment))
                if obj.rules:
                    rules.append(AddRules(obj.family, obj.table, obj.name, obj.rules))
            case Element():
                place = (obj.family, obj.table, obj.collection)
                elements.setdefault(place, (obj.type, []))[1].append(obj.entry)
            case Collection():
                collections.append(_add_collection(obj))
            case Table():
                tables.append(AddTable(obj.family, obj.name, obj.comment))
    return AddCommands(
        encode_items((*tables, *chains, *collections)),
        encode_items(rules),
        {
            add_elements_begin(*place, type_): encode_items(entries)
            for place, (type_, entries) in elements.items()
        },
    )


def _add_collection(obj: Collection) -> AddSet:
    return AddSet(obj.family, obj.table, obj.name, obj.type, obj.comment, obj.timeout_s)


def _commands(
    before: Mapping[Key, NftObject],
    after: Mapping[Key, NftObject],
    from_rules: Sequence[AddCommands],
) -> str:
    """Return the transaction, in the order that the kernel's reference counts require.

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
    changes = _added(new for _, new in changed)
    added = [_added(obj for key, obj in after.items() if key not in before), *from_rules]
    flushed = (*rewritten, *removed_chains)
    deletions = (
        *(
            DeleteSet(obj.family, obj.table, obj.name, bool(obj.type.value))
            for obj in removed
            if isinstance(obj, Collection)
        ),
        *(DeleteChain(obj.family, obj.table, obj.name) for obj in removed_chains),
        *(DeleteTable(family, name) for family, name in sorted(removed_tables)),
    )
    return join_transaction(
        (
            *(part.declarations for part in added),
            encode_items(tuple(_delete_elements((*removed, *(old for old, _ in changed))))),
            encode_items([FlushChain(obj.family, obj.table, obj.name) for obj in flushed]),
            *(part.rules for part in added),
            changes.rules,
            *_add_elements((*added, changes)),
            encode_items(deletions),
        )
    )


def _add_elements(parts: Iterable[AddCommands]) -> Iterator[bytes]:
    """Yield one command for each collection."""
    merged: dict[bytes, list[bytes]] = {}
    for part in parts:
        for begin, entries in part.elements.items():
            merged.setdefault(begin, []).append(entries)
    for begin, entries_of_parts in merged.items():
        yield begin + b",".join(entries_of_parts) + ADD_ELEMENTS_END


def _delete_elements(objects: Iterable[NftObject]) -> Iterator[Command]:
    """Yield one command for each collection."""
    items: dict[Place, tuple[SetType, list[tuple[str, ...]]]] = {}
    for obj in objects:
        if isinstance(obj, Element):
            place = (obj.family, obj.table, obj.collection)
            items.setdefault(place, (obj.type, []))[1].append(obj.item)
    for place, (type_, items_of_place) in items.items():
        yield DeleteElements(*place, type_, tuple(items_of_place))


def replacement(objects: Sequence[NftRules], former: Iterable[OwnedName] = ()) -> str:
    """Return the transaction that replaces the tables of `objects`.

    former: family and name of tables that the lab owned before; they are deleted, too.
    """
    tables = dict.fromkeys((obj.family, obj.name) for obj in objects if isinstance(obj, Table))
    deletions: list[Command] = []
    for family, name in {**tables, **dict.fromkeys(former)}:
        # A table is added before it is deleted: deleting one that does not exist is an error.
        deletions += (AddTable(family, name), DeleteTable(family, name))
    return join_transaction((encode_items(deletions), transaction((), objects)[1:-1].encode()))


def _needs_replacement(old: NftObject, new: NftObject) -> bool:
    match old, new:
        case (Chain(), Chain()):
            return (old.hook, old.comment) != (new.hook, new.comment)
        case (Collection(), Collection()) | (Table(), Table()):
            return True
    return False


def names(objects: Iterable[NftRules]) -> tuple[OwnedName, ...]:
    """Return family and name of each table; the lab owns all that is in them."""
    return tuple((obj.family, obj.name) for obj in objects if isinstance(obj, Table))


def failed_object(message: str, objects: Iterable[NftRules]) -> tuple[Object, Object] | None:
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


def commands(objects: Sequence[NftRules]) -> Iterator[str]:
    """Yield one `nft -f` command for each table.

    For readability each element has a line, and the elements of a collection are together.
    """
    tables: dict[OwnedName, list[NftObject]] = {}
    parts: Iterator[NftObject] = members(objects)
    for obj in parts:
        tables.setdefault(table_of(obj), []).append(obj)
    for in_table in tables.values():
        elements = sorted(
            (obj for obj in in_table if isinstance(obj, Element)),
            key=lambda element: element.collection,
        )
        others = [obj for obj in in_table if not isinstance(obj, Element)]
        text = transaction_text(transaction((), others))
        added = "".join(transaction_text(transaction((), [element])) for element in elements)
        yield f"nft -f - <<'EOF'\n{text}{added}EOF"


def containers(listed: Sequence[str | None], names: Sequence[OwnedName]) -> Iterator[RuleContainer]:
    """Yield the containers in the output of `nft --stateless list table` for each name.

    listed: one listing for each name; None for a table that does not exist.
    """
    from kubenetlab.hoststate.rules.nftables.listing import containers as of_tables

    return of_tables(listed, names)
