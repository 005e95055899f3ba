"""Rules in the kernel that carry out a verdict, found in the listings of a node.

Engines give each rule the policy's name and the rule's number as comment. Rules that drop have a
comment of their own, in the chain to which the rule or element of an isolated pod leads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final

from msgspec import Struct

from kubenetlab.observe.listing import IPTABLES_TABLES, blocks
from kubenetlab.observe.policies.map_entries import map_entries
from kubenetlab.observe.policies.model import DirectionVerdict, Party, RuleReference, Traffic
from kubenetlab.observe.policies.rule_matches import can_match

_DROP: Final = "isolated by network policies"
"""Comment of the rules that drop packets of isolated pods."""
_OWN_NODE: Final = ("egress-to-node", "cali-wl-to-host")
"""Map or chain for packets of pods to their own node, which has the same rules."""
_ADDRESS_OPTIONS: Final = {"Egress": "-s", "Ingress": "-d"}
"""Option of iptables for the address of the isolated pod."""

_LEADS: Final = ("-g", "goto")
"""Words before the chain to which a rule of iptables or an element of nftables leads."""


class KernelRule(Struct, frozen=True):
    """A rule in the kernel of a node."""

    node: str
    chain: str
    """Table and chain, such as `ip network-policy isolated-ingress-82b3ade9d00c`."""
    rule: str
    """The rule, as the backend's own program prints it."""


class _Line(Struct, frozen=True):
    """A rule, or an element of a map, in a listing."""

    table: str
    chain: str
    text: str
    is_element: bool = False
    version: int = 0
    """IP version of the packets that pass it; 0 if both do, or if it is not known."""


def kernel_rules(
    listings: Mapping[str, str],
    node: str,
    verdict: DirectionVerdict,
    subject: Party,
    traffic: Traffic,
    peers: Sequence[Party] = (),
) -> list[KernelRule]:
    """Return the rules of a node that carry out the verdict about one end of a connection.

    Rules for other protocols or ports are left out.

    listings: backend → text.
    subject: the end, a pod. There are no rules for ends about which no policy decides.
    peers: addresses of the other end; only the engine ebpf has entries for each of them.
    """
    if "cilium" in listings and (verdict.decided_by or not verdict.is_allowed):
        rules = {_comment(rule, verdict) for rule in verdict.decided_by}
        return [
            KernelRule(node, f"map {entry.map}", entry.text)
            for entry in map_entries(listings["cilium"], verdict, subject, traffic, peers, rules)
        ]
    lines = [line for line in _lines(listings) if _is_of_family(line, subject.address)]
    if verdict.decided_by:
        comments = {f'"{_comment(rule, verdict)}"' for rule in verdict.decided_by}
        found = [
            line
            for line in lines
            if any(each in line.text for each in comments) and can_match(line.text, traffic)
        ]
    elif not verdict.is_allowed:
        found = list(_drops(lines, verdict, subject))
    else:
        found = []
    return [
        KernelRule(node, f"{line.table} {line.chain}".strip(), line.text)
        for line in dict.fromkeys(found)
    ]


def _comment(rule: RuleReference, verdict: DirectionVerdict) -> str:
    """Return the comment of the kernel's rules for a rule of a policy."""
    kind = "" if rule.kind == "NetworkPolicy" else f"{rule.kind} "
    return f"{kind}{rule.policy}{rule.suffix} {verdict.direction} rule {rule.index}"


def _drops(lines: Sequence[_Line], verdict: DirectionVerdict, subject: Party) -> Iterator[_Line]:
    """Yield what leads the packets of an isolated pod to a chain that drops them, and the drop."""
    drops: dict[str, list[_Line]] = {}
    for line in lines:
        if _DROP in line.text:
            drops.setdefault(line.chain, []).append(line)
    direction = verdict.direction.lower()
    option = _ADDRESS_OPTIONS[verdict.direction]
    for line in lines:
        if any(name in line.chain for name in _OWN_NODE):
            continue
        words = line.text.split()
        if line.is_element:
            is_own = direction in line.chain and words[0] == subject.address
        else:
            is_own = any(
                word == option and value.partition("/")[0] == subject.address
                for word, value in pairwise(words)
            )
        if is_own and (chain := _target(words)) in drops:
            yield line
            yield from drops[chain]


def _target(words: Sequence[str]) -> str:
    """Return the chain to which a rule of iptables or an element of a map leads, if any."""
    return next((target for word, target in pairwise(words) if word in _LEADS), "")


def _lines(listings: Mapping[str, str]) -> Iterator[_Line]:
    for backend, text in listings.items():
        if backend == "nftables":
            for table, head, body in blocks(text):
                if "iptables" in listings and table.split()[-1] in IPTABLES_TABLES:
                    continue  # rules of iptables in the syntax of nft, without comments
                kind, _, chain = head.partition(" ")
                version = {"ip": 4, "ip6": 6}.get(table.partition(" ")[0], 0)
                yield from (_Line(table, chain, line, kind != "chain", version) for line in body)
        elif backend == "iptables":
            yield from _iptables_lines(text)


def _iptables_lines(text: str) -> Iterator[_Line]:
    """Yield the rules of `iptables-save`; the second time, tables are those of ip6tables."""
    has_both = text.count("*filter\n") > 1
    tables: list[str] = []
    for line in text.splitlines():
        if line.startswith("*"):
            tables.append(line.removeprefix("*"))
        elif line.startswith("-A "):
            version = 6 if has_both and tables.count(tables[-1]) > 1 else 4 if has_both else 0
            program = "ip6tables" if version == 6 else "iptables"
            yield _Line(f"{program} {tables[-1]}", line.split()[1], line, version=version)


def _is_of_family(line: _Line, address: str) -> bool:
    """Return False for a rule for the other IP version."""
    return line.version in (0, 6 if ":" in address else 4)
