"""Parser of `nft --stateless list table`, which reads tables into containers.

table ip kube-proxy {
        comment "rules for kube-proxy"
        set cluster-ips {
                type ipv4_addr
                elements = { 10.96.0.1, 10.96.0.10 }
        }
        chain services {
                type nat hook prerouting priority dstnat; policy accept;
                ip daddr . meta l4proto . th dport vmap @service-ips
        }
}

A rule is one line. The elements of a set continue on further lines.
Source: nft(8) 1.0.6; nftables src/rule.c (table_print(), chain_print_declaration(),
set_print_declaration()).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from kubenetlab.hoststate.rules.listing import RuleContainer
from kubenetlab.hoststate.rules.rulesets import OwnedName

_BLOCK = re.compile(r"\t([a-z][a-z ]*) (\S+) \{")
_CHAIN_PROPERTY = re.compile(r'type \S+ hook .*|policy \S+|comment ".*"')
_ELEMENTS = re.compile(r"elements = \{(.*)\}$")
_ELEMENT = re.compile(r'(?:[^",{]+|"[^"]*"|\{[^}]*\})+')
_END_OF_KEY = re.compile(r" : | (?:comment|counter|ct|expires|last|limit|quota|timeout)\b")
_DYNAMIC = re.compile(r"(?:^|; )flags [^;]*\bdynamic\b")


def containers(listed: Sequence[str | None], names: Sequence[OwnedName]) -> Iterator[RuleContainer]:
    """Read the listings of these tables; None stands for a table that does not exist."""
    for (family, table), text in zip(names, listed, strict=True):
        if text is not None:
            yield from _table(family, table, text)


def _table(family: str, table: str, text: str) -> Iterator[RuleContainer]:
    """Read the table itself, then its chains, then its sets, maps and other objects."""
    table_properties: list[str] = []
    blocks: list[tuple[str, str, list[str]]] = []
    body = table_properties
    for line in text.splitlines()[1:]:
        if block := _BLOCK.fullmatch(line):
            body = []
            blocks.append((block[1], block[2], body))
        elif line in ("\t}", "}"):
            body = table_properties
        elif line.strip():
            body.append(line.strip())
    name = f"nft table {family} {table}"
    yield RuleContainer(name, properties="; ".join(table_properties))
    for kind, inner, lines in sorted(blocks, key=lambda block: block[0] != "chain"):
        place = f"{family} {table} {inner}"
        read = {"chain": _chain, "set": _set, "map": _set}.get(kind, _other)
        yield read(f"nft {kind} {place}", place, lines, name)


def _chain(name: str, place: str, lines: Sequence[str], parent: str) -> RuleContainer:
    start = next(
        (number for number, line in enumerate(lines) if not _CHAIN_PROPERTY.fullmatch(line)),
        len(lines),
    )
    properties = "; ".join(line.rstrip(";") for line in lines[:start])
    return RuleContainer(
        name, "rule", f"nft rule {place}: ", "", properties, tuple(lines[start:]), parent=parent
    )


def _set(name: str, place: str, lines: Sequence[str], parent: str) -> RuleContainer:
    """Read a set or a map. The elements of a dynamic one were added by packets."""
    start = next(
        (number for number, line in enumerate(lines) if line.startswith("elements = ")), len(lines)
    )
    properties = "; ".join(lines[:start])
    is_dynamic = _DYNAMIC.search(properties) is not None
    match = _ELEMENTS.fullmatch(" ".join(lines[start:]))
    elements = [text.strip() for text in _ELEMENT.findall(match[1])] if match else []
    return RuleContainer(
        name,
        "" if is_dynamic else "element",
        f"nft element {place} {{ ",
        " }",
        properties,
        elements={} if is_dynamic else _by_key(elements),
        parent=parent,
        is_filled_by_packets=is_dynamic,
    )


def _other(name: str, place: str, lines: Sequence[str], parent: str) -> RuleContainer:
    """Read an object of another kind: a counter, a quota, a flowtable and so on."""
    return RuleContainer(name, properties="; ".join(lines), parent=parent)


def _by_key(elements: Sequence[str]) -> Mapping[str, str]:
    """Return elements by key, which is the part before a map's value, a comment or an option."""
    return {_END_OF_KEY.split(text, maxsplit=1)[0]: text for text in elements}
