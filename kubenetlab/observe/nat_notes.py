"""Explanations of address translation, from the rules and connections that a Service has."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from kubenetlab.kernel.netlink.conntrack_entries import ConntrackEntry

_MARK: Final = r"(?:jump mark-for-masquerade|-j KUBE-MARK-MASQ)"
_OWN_SOURCE: Final = re.compile(
    rf"(?:saddr (?P<nft>[0-9a-f.:]+)|-s (?P<save>[0-9a-f.:]+)/\d+) .*?{_MARK}"
)
"""Masquerade of an endpoint that is its own client, by kube-proxy's hairpin rule."""
_PAIR: Final = re.compile(r"^(?P<one>[0-9a-f.:]+) \. (?P<other>[0-9a-f.:]+)(?: |$)")
"""Element of the set `hairpin`: a pair of equal addresses."""
_OUTSIDERS: Final = re.compile(
    rf"(?:saddr != (?P<nft>[0-9a-f.:/]+)|! -s (?P<save>[0-9a-f.:/]+)) .*?{_MARK}"
)
_EXTERNAL: Final = re.compile(
    r"^(?:jump mark-for-masquerade|-A KUBE-EXT-\S+ -m comment .* -j KUBE-MARK-MASQ)"
    r"|^front .*, masqueraded",
    re.DOTALL,
)
_REJECT: Final = re.compile(r"reject-chain|-j REJECT|^front .*: Cluster, 0 in ")


def nat_notes(
    lines: Sequence[str], endpoints: Collection[str], entries: Sequence[ConntrackEntry]
) -> Iterator[str]:
    """Yield an explanation for each kind of translation that is found.

    lines: extracts of the rules of all nodes. entries: tracked connections.
    """
    stripped = [line.strip() for line in lines]
    if any(_is_hairpin(line, endpoints) for line in stripped):
        yield (
            "hairpin: a pod that reaches itself through the Service is masqueraded to an address "
            "of its node. Otherwise the pod would see its own address as the client and answer "
            "itself, past the node that translates the reply."
        )
    ranges = sorted(
        {match["nft"] or match["save"] for line in stripped if (match := _OUTSIDERS.search(line))}
    )
    if ranges:
        yield (
            f"masquerade: clients outside {', '.join(ranges)} that use a cluster IP are "
            "masqueraded to an address of the node that translates, so that the replies come back "
            "through it."
        )
    if any(_EXTERNAL.search(line) for line in stripped):
        yield (
            "masquerade: connections to node ports, external IPs and load balancer addresses are "
            "masqueraded, so that the reply comes back through the same node: the server sees that "
            "node, not the client (externalTrafficPolicy: Cluster)."
        )
    if any(line.startswith("BPF maps ") for line in stripped):
        yield (
            "eBPF: programs at tc translate before connection tracking sees a packet, so SENT TO "
            "is the endpoint. A pod that reaches itself, and a client from outside the pod "
            "network, are masqueraded to an address of the node by the program, not by a rule."
        )
    if any(_REJECT.search(line) for line in stripped):
        yield "no ready endpoint: at least one port is rejected at once."
    hidden = sum(entry.seen_as[0] != entry.client[0] for entry in entries)
    if hidden:
        yield (
            f"tracked now: {hidden} of {len(entries)} connections are masqueraded "
            "(SEEN AS differs from CLIENT)."
        )


def _is_hairpin(line: str, endpoints: Collection[str]) -> bool:
    if pair := _PAIR.match(line):
        return pair["one"] == pair["other"] and pair["one"] in endpoints
    if line.startswith("add ") and "LOOP-BACK" in line:
        return any(address in line for address in endpoints)
    match = _OWN_SOURCE.search(line)
    return match is not None and (match["nft"] or match["save"]) in endpoints
