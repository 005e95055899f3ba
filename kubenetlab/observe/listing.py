"""Extracts of rule listings: the rules of one object among those of a node.

A listing is text as the backend's own program prints it: `nft list ruleset`, `iptables-save`,
`ipset save`, `ipvsadm -Sn`, or the map entries of the BPF programs, one per line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct, structs


class ListedSubject(Struct, frozen=True):
    """Object of the cluster, by the forms in which rules mention it."""

    services: frozenset[str] = frozenset()
    """`namespace/name` of Services, which kube-proxy writes into comments and chain names."""
    addresses: frozenset[str] = frozenset()
    """Addresses whose mention makes a rule, element or entry belong to the object."""
    node_ports: frozenset[int] = frozenset()
    endpoints: frozenset[str] = frozenset()
    """Addresses behind a Service.

    Their mention counts only in sets that masquerade pods which reach themselves.
    """

    def is_in(self, text: str) -> bool:
        """Return True if a rule, an element or a chain's name mentions the object."""
        return self._is_named_in(text) or not self.addresses.isdisjoint(_ADDRESS.findall(text))

    def _is_named_in(self, text: str) -> bool:
        return any(match[1] in self.services for match in _TITLE.finditer(text)) or any(
            match[1] in self.services for match in _CHAIN.finditer(text)
        )


_ADDRESS: Final = re.compile(
    r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}"
    r"|(?<![0-9a-f:])[0-9a-f]{0,4}(?::[0-9a-f]{1,4}|:(?=:)|::){2,7}"
)
_TITLE: Final = re.compile(r'(?<=["\s])([a-z0-9-]+/[a-z0-9.-]+)(?=[":\s])')
"""Pattern of a Service in a comment.

Examples: `"default/web:http cluster IP"`, `"masquerade traffic for default/web external …"`.
"""
_CHAIN: Final = re.compile(r"-[A-Z0-9]{8}-([a-z0-9-]+/[a-z0-9.-]+)/")
"""Pattern of a Service in a chain name of the mode nftables.

Example: `service-PFISGYVC-default/web/tcp/http`.
"""
_HAIRPIN: Final = "hairpin"
"""Set of the mode nftables with layout `fast`: pairs of a pod address with itself."""
_LOOP_BACK: Final = "LOOP-BACK"
"""Set of the mode ipvs for the same purpose."""
IPTABLES_TABLES: Final = ("filter", "mangle", "nat", "raw", "security")
_LB_CHAIN: Final = re.compile(r"\bgoto ((?:external-|nodeport-)?lb-\S+?),?$")


def extract(listings: Mapping[str, str], subject: ListedSubject) -> list[str]:
    """Return the lines of all listings that concern the subject, each chain or map under its name.

    listings: backend → text.
    """
    lines: list[str] = []
    for backend, text in listings.items():
        # nft lists the rules of iptables, too, in its own syntax and without comments.
        hidden = IPTABLES_TABLES if "iptables" in listings and backend == "nftables" else ()
        lines += (
            _nftables(text, subject, hidden)
            if backend == "nftables"
            else _BACKENDS.get(backend, _lines)(text, subject)
        )
    return lines


def _nftables(text: str, subject: ListedSubject, hidden: Sequence[str]) -> Iterator[str]:
    """Yield whole chains named for the subject, and other rules and elements that mention it."""
    all_blocks = list(blocks(text))
    chosen = [
        (table, head, _chosen(head, body, subject))
        for table, head, body in all_blocks
        if table.split()[-1] not in hidden
    ]
    # In the layout `fast`, Services with the same number of endpoints share chains: include the
    # chains to which the chosen elements lead.
    shared_chains = {
        match[1] for _, _, lines in chosen for line in lines if (match := _LB_CHAIN.search(line))
    }
    last = ""
    for (table, head, lines), (_, _, body) in zip(
        chosen, (each for each in all_blocks if each[0].split()[-1] not in hidden), strict=True
    ):
        lines = body if head.removeprefix("chain ") in shared_chains else lines
        if not lines:
            continue
        if table != last:
            yield f"table {table}"
            last = table
        yield f"  {head}"
        yield from (f"    {line}" for line in lines)


def _chosen(head: str, body: Sequence[str], subject: ListedSubject) -> list[str]:
    """Return the lines of a chain, set or map that concern the subject."""
    if head.startswith("chain ") and subject.is_in(head):
        return [line for line in body if not line.startswith("comment ")]
    if _HAIRPIN in head:
        subject = structs.replace(subject, addresses=subject.addresses | subject.endpoints)
    return [line for line in body if subject.is_in(line) or _has_node_port(head, line, subject)]


def _has_node_port(head: str, line: str, subject: ListedSubject) -> bool:
    """Return True for an element of a node port map whose key has a node port of the subject."""
    if "nodeport" not in head or line.startswith("type "):
        return False
    key = re.split(r" (?:comment|:) ", line, maxsplit=1)[0]
    return any(str(port) in key.split(" . ") for port in subject.node_ports)


def blocks(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (family and table, head, lines) of each chain, set and map.

    Every element of a set is one line.
    """
    table, head, body, elements = "", "", [], ""
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("table ") and line.endswith("{"):
            table = line.removeprefix("table ").removesuffix(" {")
        elif elements:
            elements += f" {line}"
            if line.endswith("}"):
                body += _elements(elements)
                elements = ""
        elif line.startswith("elements = {"):
            elements = line
            if line.endswith("}"):
                body += _elements(elements)
                elements = ""
        elif line.endswith(" {") and not head and table:
            head, body = line.removesuffix(" {"), []
        elif line == "}" and head:
            yield table, head, body
            head = ""
        elif head and line:
            body.append(line)


def _elements(text: str) -> list[str]:
    """Return each element of `elements = { a : b, c : d }`; a quoted comma does not separate."""
    inner = text.removeprefix("elements = {").removesuffix("}")
    return [part.strip() for part in re.findall(r'(?:"[^"]*"|[^,"])+', inner) if part.strip()]


def _iptables(text: str, subject: ListedSubject) -> Iterator[str]:
    """Yield the rules that mention the subject, table by table."""
    table, last = "", ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line
        elif line.startswith("-A ") and subject.is_in(line):
            if table != last:
                yield table
                last = table
            yield f"  {line}"


def _bpf(text: str, subject: ListedSubject) -> Iterator[str]:
    """Yield frontends with addresses and node ports of the subject, and their endpoint lists."""
    lines = text.splitlines()
    ports = tuple(f" {port}/" for port in subject.node_ports)
    frontends = [
        line
        for line in lines
        if line.startswith("front ")
        and (subject.is_in(line) or ("node port" in line and any(p in line for p in ports)))
    ]
    lists = {digest for line in frontends for digest in re.findall(r"\bin ([0-9a-f]{16})\b", line)}
    lists_of_frontends = [
        line
        for line in lines
        if line.startswith(("endpoint ", "source ")) and (line.split()[1].rstrip(":") in lists)
    ]
    other_lines = [
        line
        for line in lines
        if not line.startswith("front ") and line not in lists_of_frontends and subject.is_in(line)
    ]
    entries = (*frontends, *lists_of_frontends, *other_lines)
    if frontends or other_lines:
        yield f"BPF maps of service.bpf.o ({len(entries)} entries)"
    yield from (f"  {line}" for line in entries)


def _lines(text: str, subject: ListedSubject) -> Iterator[str]:
    """Yield the lines that mention the subject."""
    ports = tuple(f":{port} " for port in subject.node_ports)
    yield from (
        line
        for line in text.splitlines()
        if subject.is_in(line) or any(port in line for port in ports)
    )


def _ipset(text: str, subject: ListedSubject) -> Iterator[str]:
    """Yield the entries that mention the subject, and those of its endpoints in the hairpin set."""
    with_endpoints = structs.replace(subject, addresses=subject.addresses | subject.endpoints)
    for line in text.splitlines():
        if line.startswith("add ") and (with_endpoints if _LOOP_BACK in line else subject).is_in(
            line
        ):
            yield line


_BACKENDS: Final[Mapping[str, Callable[[str, ListedSubject], Iterator[str]]]] = {
    "iptables": _iptables,
    "bpf": _bpf,
    "ipvs": _lines,
    "ipset": _ipset,
    # Flows are shown with their states from the kernel's table instead.
    "conntrack": lambda text, subject: iter(()),
}
"""Backend → function that extracts lines; other backends are extracted line by line."""
