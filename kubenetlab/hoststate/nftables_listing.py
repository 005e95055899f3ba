"""Where a node's tables differ from what they should hold: names, elements, and rules by number and comment.

The texts of rules are not compared, for nft rewrites them; that somebody touched a rule is told by the generation number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from kubenetlab.hoststate.nftables import Chain, Collection, Element, NftObject, Ruled, Table, names, table_of
from kubenetlab.hoststate.rules import Name, members


class Listed(Struct, frozen=True):
    """What a listing shows of a table: enough to name what is missing, too much or changed."""

    chains: dict[str, tuple[str, ...]]
    """The comments of each chain's rules."""
    collections: dict[str, frozenset[str]]
    """The items of each set or map, as nft writes them."""


def differences(wanted: Sequence[Ruled], listed: Sequence[Any], former: Sequence[Name]) -> Iterator[str]:
    """Lines as `diff` prints them, table by table."""
    objects: list[NftObject] = list({obj.key: obj for obj in members(wanted)}.values())
    for table, document in zip([obj for obj in objects if isinstance(obj, Table)], listed, strict=False):
        if document is None:
            yield f"+ {table}"
            continue
        found = decode_listing(document, table.family, table.name)
        mine = [obj for obj in objects if not isinstance(obj, Table) and table_of(obj) == (table.family, table.name)]
        yield from _chains([obj for obj in mine if isinstance(obj, Chain)], found, table)
        yield from _collections(mine, found, table)
    left = zip(former, listed[len(names(wanted)) :], strict=True)
    yield from (f"- nft table {family} {name}" for (family, name), document in left if document is not None)


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
