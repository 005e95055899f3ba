"""Dropped packets: their names, and their number for each rule."""

from __future__ import annotations

from typing import Any

from kubenetlab.cli.probing.drop_reasons import DropReasons
from kubenetlab.cli.probing.policy_log import (
    LOGGED,
    DropCount,
    drop_counts,
    host_names,
    named_packet,
)
from kubenetlab.kernel.netlink.packet_log import LoggedPacket
from tests.unit.observe.documents import SEEN

LISTING = """
table ip network-policy {
	chain isolated-ingress-1 {
		counter packets 3 bytes 180 log prefix "Ingress isolated by default/p" group 100 drop
		counter packets 2 bytes 180 log prefix "other" group 7 drop
	}
}
table ip6 network-policy {
	chain isolated-ingress-1 {
		counter packets 4 bytes 180 log prefix "Ingress isolated by default/p" group 100 drop
		counter packets 0 bytes 0 log prefix "ClusterNetworkPolicy x Egress rule 1" group 100 drop
	}
}
table ip filter {
	chain cali-pi-1 {
		xt match set counter packets 5 bytes 268 log prefix "Egress isolated by a/b" group 100
	}
}
"""


def test_packets_are_counted_for_each_reason() -> None:
    """Both families, and the rules of iptables, which nft lists."""
    assert drop_counts("worker", {"nftables": LISTING}) == [
        DropCount("worker", "Ingress isolated by default/p", 7),
        DropCount("worker", "Egress isolated by a/b", 5),
    ]


def test_programs_count_the_packets_of_each_rule() -> None:
    listing = (
        'cilium_policy 00000007 IPv4 ingress identity 300: denied "x"\n'
        "cilium_drops 3 packets dropped: Ingress isolated by default/p\n"
        "link eth0: cil_from_netdev"
    )
    assert drop_counts("worker", {"cilium": listing, "nftables": ""}) == [
        DropCount("worker", "Ingress isolated by default/p", 3)
    ]


def test_packets_have_names_instead_of_addresses() -> None:
    """A pod with hostNetwork has the addresses of its node. Unknown hosts keep their address."""
    seen: Any = SEEN
    names = host_names(seen)
    packet = LoggedPacket(0.25, "Ingress isolated by a/b", "TCP", "172.18.0.3", 4, "10.244.1.3", 80)
    named = named_packet("worker", packet, names, packet.prefix)
    assert (named.source, named.destination) == ("node:worker", "shop/db-0")
    assert str(named).endswith(
        ".250 worker  node:worker (172.18.0.3:4) → shop/db-0 (10.244.1.3:80) TCP: "
        "Ingress isolated by a/b"
    )
    ping = LoggedPacket(0.25, "p", "ICMP", "192.0.2.1", 0, "198.51.100.10", 0)
    assert str(named_packet("n", ping, names, "p")).endswith(
        " n  192.0.2.1 → ext:client (198.51.100.10) ICMP: p"
    )
    assert str(named_packet("n", ping, names, "p", LOGGED)).endswith("ICMP: logged by p")


class _Lab:
    """Client of a lab that counts requests."""

    def __init__(self, reasons: dict[str, str]) -> None:
        self.reasons = reasons
        self.requests = 0

    def get(self, path: str) -> Any:
        assert path.endswith("/drop-reasons")
        self.requests += 1
        return {"reasons": self.reasons}


def test_only_reasons_that_logs_have_cut_are_looked_up() -> None:
    """The text of a deleted policy stays as it is, and is not looked up again."""
    cut, unknown = "x" * 63, "y" * 63
    lab: Any = _Lab({cut: "a long reason"})
    reasons = DropReasons(lab)
    assert reasons.whole("Ingress isolated by a/b") == "Ingress isolated by a/b"
    assert lab.requests == 0
    assert [reasons.whole(text) for text in (cut, unknown, cut, unknown)] == [
        "a long reason",
        unknown,
        "a long reason",
        unknown,
    ]
    assert lab.requests == 2
