"""Name resolution of a pod's programs: its hosts file, then its nameservers with the search list.

The module encodes and decodes messages with dnslib; the caller sends them.
Source: resolv.conf(5) of glibc: ndots, search, timeout, attempts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

DEFAULT_TIMEOUT_S, DEFAULT_ATTEMPTS, DEFAULT_NDOTS = 2.0, 2, 1
_NO_ERROR = 0
_TC = 0x0200
"""Truncation bit in a message's second word (RFC 1035 section 4.1.1)."""


class ResolverConfig(Struct, frozen=True):
    """Contents of the hosts file and of resolv.conf."""

    hosts: tuple[tuple[str, str], ...] = ()
    """(name, address) pairs, in order."""
    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    ndots: int = DEFAULT_NDOTS
    timeout_s: float = DEFAULT_TIMEOUT_S
    attempts: int = DEFAULT_ATTEMPTS
    versions: tuple[int, ...] = (4,)
    """IP versions of the pod in the order of its queries, the primary one first."""

    def from_hosts(self, name: str) -> str | None:
        """Return a name's address in the hosts file, of the first IP version that it has."""
        normalized = name.lower().removesuffix(".")
        addresses = [address for entry, address in self.hosts if entry == normalized]
        return next(
            (
                address
                for version in self.versions
                for address in addresses
                if (":" in address) == (version == 6)
            ),
            None,
        )

    def candidates(self, name: str) -> Iterator[str]:
        """Yield the full names to try, in order.

        A name with at least `ndots` dots is tried first as it is, other names first with the search
        list.
        """
        if name.endswith("."):
            yield name
            return
        searched = [f"{name}.{suffix}." for suffix in self.searches]
        yield from (
            [f"{name}.", *searched] if name.count(".") >= self.ndots else [*searched, f"{name}."]
        )

    def question(self, name: str, version: int, number: int) -> bytes:
        """Return an encoded question for the A (or AAAA) records of a full name."""
        import dnslib

        question = dnslib.DNSRecord(
            dnslib.DNSHeader(id=number, rd=1), q=dnslib.DNSQuestion(name, _record_type(version))
        )
        return bytes(question.pack())


def parse(hosts: str, resolv_conf: str, versions: Sequence[int] = (4,)) -> ResolverConfig:
    """Return the configuration in the two files; unknown lines are ignored, as libc does."""
    pairs = []
    for line in hosts.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        pairs += [(name.lower(), address) for name in names]
    servers: list[str] = []
    searches: tuple[str, ...] = ()
    options: dict[str, int] = {}
    for line in resolv_conf.splitlines():
        match line.partition("#")[0].split():
            case ["nameserver", server]:
                servers.append(server)
            case ["search", *suffixes]:
                searches = tuple(suffix.removesuffix(".") for suffix in suffixes)
            case ["options", *words]:
                for word in words:
                    name, _, value = word.partition(":")
                    if value.isdigit():
                        options[name] = int(value)
    return ResolverConfig(
        tuple(pairs),
        tuple(servers),
        searches,
        min(options.get("ndots", DEFAULT_NDOTS), 15),
        float(max(1, min(options.get("timeout", int(DEFAULT_TIMEOUT_S)), 30))),
        max(1, min(options.get("attempts", DEFAULT_ATTEMPTS), 5)),
        tuple(versions),
    )


def is_truncated(answer: bytes) -> bool:
    """Return True when records are missing from an answer, so that TCP must be used."""
    return len(answer) >= 4 and bool(int.from_bytes(answer[2:4], "big") & _TC)


def first_address(answer: bytes, version: int, number: int) -> str | None:
    """Return the first A (or AAAA) record of the encoded answer to question `number`.

    Return None when the name has none. Raises OSError for an invalid answer.
    """
    import dnslib

    try:
        reply = dnslib.DNSRecord.parse(answer)
    except (dnslib.DNSError, ValueError) as error:
        raise OSError(f"broken DNS answer: {error}") from None
    if reply.header.id != number:
        raise OSError("a DNS answer to another question")
    if reply.header.rcode not in (_NO_ERROR, dnslib.RCODE.NXDOMAIN):
        raise OSError(f"DNS answer {dnslib.RCODE[reply.header.rcode]}")
    return next(
        (str(record.rdata) for record in reply.rr if record.rtype == _record_type(version)), None
    )


def _record_type(version: int) -> int:
    import dnslib

    return int(dnslib.QTYPE.AAAA if version == 6 else dnslib.QTYPE.A)
