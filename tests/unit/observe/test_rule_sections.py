"""inspect of one object: its own part of a node's rules, and their explanation."""

from __future__ import annotations

import pytest

from kubenetlab.kernel.netlink.conntrack_entries import ConntrackEntry
from kubenetlab.observe.listing import ListedSubject, extract
from kubenetlab.observe.nat_notes import nat_notes

NFT = """\
table ip nat {
    chain KUBE-SERVICES {
        ip daddr 10.96.7.7 tcp dport 80 counter packets 0 bytes 0 jump KUBE-SVC-X
    }
}
table ip kube-proxy {
    comment "rules for kube-proxy"
    set cluster-ips {
        type ipv4_addr
        elements = { 10.96.0.1, 10.96.7.7,
                 10.96.7.70 }
    }

    map service-ips {
        type ipv4_addr . inet_proto . inet_service : verdict
        elements = { 10.96.7.7 . tcp . 80 comment "default/web:http, the front"\
 : goto service-AAAAAAAA-default/web/tcp/http,
                 10.96.7.70 . tcp . 80 comment "default/web-2"\
 : goto service-BBBBBBBB-default/web-2/tcp/ }
    }

    map service-nodeports {
        type inet_proto . inet_service : verdict
        elements = { tcp . 30080 : goto external-AAAAAAAA-default/web/tcp/http\
, tcp . 30081 : goto external-lb-tcp-1 }
    }

    set hairpin {
        type ipv4_addr . ipv4_addr
        elements = { 10.244.1.2 . 10.244.1.2, 10.244.1.20 . 10.244.1.20 }
    }

    chain service-AAAAAAAA-default/web/tcp/http {
        comment "default/web:http"
        ip daddr 10.96.7.7 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
        numgen random mod 1 \
vmap { 0 : goto endpoint-AAAAAAAA-default/web/tcp/http__10.244.1.2/8080 }
    }

    chain endpoint-AAAAAAAA-default/web/tcp/http__10.244.1.2/8080 {
        ip saddr 10.244.1.2 jump mark-for-masquerade
        meta l4proto tcp dnat to 10.244.1.2:8080
    }

    chain service-BBBBBBBB-default/web-2/tcp/ {
        ip daddr 10.96.7.70 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
    }
}
"""
SAVED = """\
*filter
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment \
"default/kubernetes:https has no endpoints" -j REJECT
COMMIT
*nat
:KUBE-SEP-A - [0:0]
-A KUBE-SEP-A -s 10.244.1.2/32 -m comment --comment "default/web:http" -j KUBE-MARK-MASQ
-A KUBE-SEP-B -s 10.244.1.3/32 -m comment --comment "default/web-2" -j KUBE-MARK-MASQ
-A KUBE-SVC-A ! -s 10.244.0.0/16 -d 10.96.7.7/32 -p tcp -m comment --comment \
"default/web:http cluster IP" -j KUBE-MARK-MASQ
-A KUBE-EXT-A -m comment --comment \
"masquerade traffic for default/web:http external destinations" -j KUBE-MARK-MASQ
COMMIT
"""
BPF = """\
link eth0: coming, going
endpoint 0123456789abcdef 0: 10.244.1.2 8080
endpoint fedcba9876543210 0: 10.244.1.3 8080
front 10.96.7.7 80/TCP: Cluster, 1 in 0123456789abcdef
front 10.96.7.70 80/TCP: Cluster, 1 in fedcba9876543210
front node port 0.0.0.0 30080/TCP: Cluster, 1 in 0123456789abcdef"""
WEB = ListedSubject(
    frozenset(["default/web"]),
    frozenset(["10.96.7.7"]),
    frozenset([30080]),
    frozenset(["10.244.1.2"]),
)


def test_nft_lists_the_services_own_chains_and_elements() -> None:
    """Chains are whole, sets and maps have only its elements; longer names and addresses differ."""
    assert extract(
        {
            "nftables": NFT.partition("table ip kube-proxy")[1]
            + NFT.partition("table ip kube-proxy")[2]
        },
        WEB,
    ) == [
        "table ip kube-proxy",
        "  set cluster-ips",
        "    10.96.7.7",
        "  map service-ips",
        '    10.96.7.7 . tcp . 80 comment "default/web:http, the front" : goto '
        "service-AAAAAAAA-default/web/tcp/http",
        "  map service-nodeports",
        "    tcp . 30080 : goto external-AAAAAAAA-default/web/tcp/http",
        "  set hairpin",
        "    10.244.1.2 . 10.244.1.2",
        "  chain service-AAAAAAAA-default/web/tcp/http",
        "    ip daddr 10.96.7.7 ip saddr != 10.244.0.0/16 jump mark-for-masquerade",
        "    numgen random mod 1 vmap { 0 : goto "
        "endpoint-AAAAAAAA-default/web/tcp/http__10.244.1.2/8080 }",
        "  chain endpoint-AAAAAAAA-default/web/tcp/http__10.244.1.2/8080",
        "    ip saddr 10.244.1.2 jump mark-for-masquerade",
        "    meta l4proto tcp dnat to 10.244.1.2:8080",
    ]


def test_a_pod_has_the_rules_with_its_address() -> None:
    """A chain with the pod's address in its name is whole."""
    found = extract({"nftables": NFT}, ListedSubject(addresses=frozenset(["10.244.1.2"])))
    assert "    10.244.1.2 . 10.244.1.2" in found
    assert "    meta l4proto tcp dnat to 10.244.1.2:8080" in found
    assert not [line for line in found if "10.244.1.20" in line or "web-2" in line]


def test_rules_of_iptables_are_shown_once() -> None:
    """The tables of iptables are left out of nft's listing, where they have no comments."""
    found = extract({"nftables": NFT, "iptables": SAVED}, WEB)
    assert "table ip nat" not in found
    assert "table ip kube-proxy" in found
    assert "table ip nat" in extract({"nftables": NFT}, WEB)
    assert extract({"iptables": SAVED}, WEB) == [
        "*nat",
        '  -A KUBE-SEP-A -s 10.244.1.2/32 -m comment --comment "default/web:http" -j '
        "KUBE-MARK-MASQ",
        "  -A KUBE-SVC-A ! -s 10.244.0.0/16 -d 10.96.7.7/32 -p tcp -m comment --comment "
        '"default/web:http cluster IP" -j KUBE-MARK-MASQ',
        '  -A KUBE-EXT-A -m comment --comment "masquerade traffic for default/web:http '
        'external destinations" -j KUBE-MARK-MASQ',
    ]


def test_bpf_frontends_lead_to_their_endpoints() -> None:
    """They are joined by the digest of the list, for cluster IPs and node ports."""
    assert extract({"bpf": BPF}, WEB) == [
        "BPF maps of service.bpf.o (3 entries)",
        "  front 10.96.7.7 80/TCP: Cluster, 1 in 0123456789abcdef",
        "  front node port 0.0.0.0 30080/TCP: Cluster, 1 in 0123456789abcdef",
        "  endpoint 0123456789abcdef 0: 10.244.1.2 8080",
    ]
    assert extract({"bpf": BPF}, ListedSubject(addresses=frozenset(["192.0.2.1"]))) == []


def test_ipvs_lists_virtual_servers_and_set_members() -> None:
    """The hairpin set has members by endpoint address."""
    ipvs = (
        "-A -t 10.96.7.7:80 -s rr\n-a -t 10.96.7.7:80 -r 10.244.1.2:8080 -m -w 1\n-A -t "
        "10.96.7.70:80 -s rr\n-A -t 172.18.0.3:30080 -s rr\n"
    )
    sets = (
        "create KUBE-LOOP-BACK hash:ip,port,ip\nadd KUBE-LOOP-BACK "
        "10.244.1.2,tcp:8080,10.244.1.2\nadd KUBE-CLUSTER-IP 10.96.7.7,tcp:80\nadd "
        "KUBE-CLUSTER-IP 10.96.7.70,tcp:80\n"
    )
    assert extract({"ipvs": ipvs, "ipset": sets}, WEB) == [
        "-A -t 10.96.7.7:80 -s rr",
        "-a -t 10.96.7.7:80 -r 10.244.1.2:8080 -m -w 1",
        "-A -t 172.18.0.3:30080 -s rr",
        "add KUBE-LOOP-BACK 10.244.1.2,tcp:8080,10.244.1.2",
        "add KUBE-CLUSTER-IP 10.96.7.7,tcp:80",
    ]


def test_ipv6_addresses_are_found_in_every_form() -> None:
    """They are found in brackets, with a port, and as an element; a longer address differs."""
    subject = ListedSubject(addresses=frozenset(["fd00:10:96::7"]))
    assert all(
        subject.is_in(text)
        for text in (
            "ip6 daddr fd00:10:96::7 tcp",
            "fd00:10:96::7 . tcp . 80",
            "-r [fd00:10:96::7]:80",
            "front fd00:10:96::7: a cluster IP",
        )
    )
    assert not any(
        subject.is_in(text) for text in ("fd00:10:96::70", "fd00:10:96::7:1", "dfd00:10:96::7")
    )


def entry(client: str, seen_as: str) -> ConntrackEntry:
    return ConntrackEntry(
        "TCP", "ESTABLISHED", (client, 1), ("10.96.7.7", 80), ("10.244.1.2", 8080), (seen_as, 1), 10
    )


@pytest.mark.parametrize(
    ("lines", "notes"),
    [
        (["    ip saddr 10.244.1.2 jump mark-for-masquerade"], ["hairpin"]),
        (["    ip saddr 10.244.1.9 jump mark-for-masquerade"], []),
        (["    10.244.1.2 . 10.244.1.2"], ["hairpin"]),
        (
            [
                '  -A KUBE-SEP-A -s 10.244.1.2/32 -m comment --comment "default/web" -j '
                "KUBE-MARK-MASQ"
            ],
            ["hairpin"],
        ),
        (["add KUBE-LOOP-BACK 10.244.1.2,tcp:8080,10.244.1.2"], ["hairpin"]),
        (
            ["    ip daddr 10.96.7.7 ip saddr != 10.244.0.0/16 jump mark-for-masquerade"],
            ["masquerade: clients outside 10.244.0.0/16"],
        ),
        (
            ["  -A KUBE-SVC-A ! -s 10.244.0.0/16 -d 10.96.7.7/32 -p tcp -j KUBE-MARK-MASQ"],
            ["masquerade: clients outside 10.244.0.0/16"],
        ),
        (["    jump mark-for-masquerade"], ["masquerade: connections to node ports"]),
        (
            ['  -A KUBE-EXT-A -m comment --comment "external" -j KUBE-MARK-MASQ'],
            ["masquerade: connections to node ports"],
        ),
        (["    10.96.7.7 . tcp . 80 : goto reject-chain"], ["no ready endpoint"]),
        (
            [
                "BPF maps of service.bpf.o (1 entries)",
                "  front 10.96.7.7 80/TCP: Cluster, 0 in 0123456789abcdef",
            ],
            ["eBPF", "no ready endpoint"],
        ),
        ([], []),
    ],
)
def test_translations_are_explained_where_the_rules_have_them(
    lines: list[str], notes: list[str]
) -> None:
    """Other rules have no explanation."""
    found = list(nat_notes(lines, {"10.244.1.2"}, []))
    assert [text.startswith(note) for text, note in zip(found, notes, strict=True)] == [True] * len(
        notes
    )


def test_masqueraded_connections_are_counted() -> None:
    """Their source differs in the two directions."""
    entries = [entry("10.244.1.2", "172.18.0.3"), entry("10.244.1.4", "10.244.1.4")]
    assert list(nat_notes([], (), entries)) == [
        "tracked now: 1 of 2 connections are masqueraded (SEEN AS differs from CLIENT)."
    ]
