"""Where a node's tables differ from what they should hold: names, elements, and rules by number and comment.

The texts of rules are not compared, for nft rewrites them; that somebody touched a rule is told by the generation number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kubenetlab.hoststate.nftables import Chain, Collection, Element, Listed, Ruled, Table, decode_listing, members, table_of


def rules_differences(wanted: Mapping[Any, Any], tables: Sequence[Table], listed: Sequence[Any]) -> Iterator[str]:
    """Lines as `diff` prints them: `+` is to be added, `-` to be removed, `~` to be changed."""
    for table, document in zip(tables, listed, strict=False):
        if document is None:
            yield f"+ {table}"
            continue
        found = decode_listing(document, table.family, table.name)
        here = (obj for obj in wanted.values() if isinstance(obj, Ruled) and table_of(obj) == (table.family, table.name))
        mine = [obj for obj in members(here) if not isinstance(obj, Table)]
        yield from _chains([obj for obj in mine if isinstance(obj, Chain)], found, table)
        yield from _collections(mine, found, table)


def _chains(wanted: Sequence[Chain], found: Listed, table: Table) -> Iterator[str]:
    for chain in wanted:
        if chain.name not in found.chains:
            yield f"+ {chain}"
            continue
        comments = found.chains[chain.name]
        if comments != tuple(rule.comment for rule in chain.rules):
            yield f"~ {chain}    (was: {len(comments)} rule{'' if len(comments) == 1 else 's'})"
    known = {chain.name for chain in wanted}
    yield from (f"- nft chain {table.family} {table.name} {name}" for name in found.chains if name not in known)


def _collections(wanted: Sequence[Any], found: Listed, table: Table) -> Iterator[str]:
    for collection in (obj for obj in wanted if isinstance(obj, Collection)):
        if collection.name not in found.collections:
            yield f"+ {collection}"
            continue
        if collection.timeout_s:
            continue
        items = found.collections[collection.name]
        elements = {obj.item: obj for obj in wanted if isinstance(obj, Element) and obj.collection == collection.name}
        yield from (f"+ {element}" for item, element in elements.items() if item not in items)
        yield from (
            f"- nft element {table.family} {table.name} {collection.name} {{ {item} }}" for item in sorted(items) if item not in elements
        )
