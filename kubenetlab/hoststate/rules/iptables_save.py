"""Output of `iptables-save`, and input of `iptables-restore` that replaces parts of it.

Source: iptables-save(8), iptables-restore(8) 1.8.9.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

BUILT_IN: Final = frozenset(("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"))


def parse(saved: str) -> dict[tuple[str, str], list[str]]:
    """Return the rules by (table, chain) in the output of `iptables-save`."""
    chains: dict[tuple[str, str], list[str]] = {}
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            chains[table, line[1:].partition(" ")[0]] = []
        elif line.startswith("-A "):
            chain, _, rule = line[3:].partition(" ")
            chains.setdefault((table, chain), []).append(rule)
    return chains


def replacement_input(saved: str, text: str, prefixes: Sequence[str]) -> str:
    """Return the input that replaces all chains with these prefixes by those of a text.

    It has one transaction for each table, in which rules that jump to these chains are replaced,
    too: no packet passes without the rules.

    saved: output of `iptables-save`. text: input that adds the new chains.
    """
    added = _lines_by_table(text)
    existing: dict[str, dict[str, list[str]]] = {}
    for (table, chain), rules in parse(saved).items():
        existing.setdefault(table, {})[chain] = rules
    return "".join(
        _replaced_table(table, existing.get(table, {}), added.get(table, []), prefixes)
        for table in dict.fromkeys((*added, *existing))
    )


def _lines_by_table(text: str) -> dict[str, list[str]]:
    """Return the lines of an input by table, without those that begin and end the table."""
    lines: dict[str, list[str]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line != "COMMIT":
            lines.setdefault(table, []).append(line)
    return lines


def _replaced_table(
    table: str, existing: Mapping[str, Sequence[str]], added: Sequence[str], prefixes: Sequence[str]
) -> str:
    """Return the input for one table.

    existing: rules by chain. added: lines that declare and fill the new chains.
    """
    owned = tuple(prefixes)
    declarations = [line for line in added if line.startswith(":")]
    declared = {line[1:].partition(" ")[0] for line in declarations}
    removed = [chain for chain in existing if chain.startswith(owned) and chain not in declared]
    lines = [
        *declarations,
        *(f":{chain} - [0:0]" for chain in removed),
        *(
            f"-D {chain} {rule}"
            for chain, rules in existing.items()
            if not chain.startswith(owned)
            for rule in rules
            if target(rule).startswith(owned)
        ),
        *(line for line in added if not line.startswith(":")),
        *(f"-X {chain}" for chain in removed),
    ]
    return table_input(table, lines)


def empty_tables(saved: str) -> list[str]:
    """Return the tables of `iptables-save` that have no rules and no user-defined chains."""
    in_use: dict[str, list[bool]] = {}
    for (table, chain), rules in parse(saved).items():
        in_use.setdefault(table, []).append(bool(rules) or chain not in BUILT_IN)
    return [table for table, is_used in in_use.items() if not any(is_used)]


def table_input(table: str, lines: Iterable[str]) -> str:
    """Return the input for one table; empty without lines."""
    text = "".join(f"{line}\n" for line in lines)
    return f"*{table}\n{text}COMMIT\n" if text else ""


def target(rule: str) -> str:
    """Return the chain to which a rule leads; empty if it leads to none."""
    match = re.search(r"(?:^| )-[jg] (\S+)", rule)
    return match[1] if match else ""
