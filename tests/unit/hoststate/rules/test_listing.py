"""Comparison of two listings, and the parsers of each backend's listings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.hoststate.rules import ipset, iptables, ipvs, listing, nftables
from kubenetlab.hoststate.rules.alignment import align
from kubenetlab.hoststate.rules.bpf_entries import FRONT, FRONT_KEY, SLOT
from kubenetlab.hoststate.rules.bpf_listing import describe
from kubenetlab.hoststate.rules.ipvs import ListedServer, RealServer, VirtualServer
from kubenetlab.hoststate.rules.listing import RuleContainer

RULES = st.lists(st.sampled_from("abcdefgh"), max_size=12)


def chain(*rules: str) -> RuleContainer:
    return RuleContainer("chain c", "rule", "rule c: ", rules=rules)


def lines(desired: Sequence[RuleContainer], observed: Sequence[RuleContainer]) -> list[str]:
    return [difference.line for difference in listing.differences(desired, observed)]


@given(RULES, RULES)
def test_an_alignment_contains_every_rule_once(desired: list[str], observed: list[str]) -> None:
    """Kept and moved rules are equal on both sides, changed ones differ; kept ones are in order."""
    alignment = align(desired, observed)
    pairs = (*alignment.kept, *alignment.moved, *alignment.changed)
    assert sorted([left for left, _ in pairs] + alignment.missing) == list(range(len(desired)))
    assert sorted([right for _, right in pairs] + alignment.additional) == list(
        range(len(observed))
    )
    assert all(
        desired[left] == observed[right] for left, right in (*alignment.kept, *alignment.moved)
    )
    assert all(desired[left] != observed[right] for left, right in alignment.changed)
    assert alignment.kept == sorted(alignment.kept)
    assert [right for _, right in alignment.kept] == sorted(right for _, right in alignment.kept)


@given(RULES, RULES)
def test_as_many_rules_as_possible_are_kept(desired: list[str], observed: list[str]) -> None:
    """The plain quadratic algorithm finds no longer common subsequence."""
    lengths = [[0] * (len(observed) + 1) for _ in range(len(desired) + 1)]
    for i in reversed(range(len(desired))):
        for j in reversed(range(len(observed))):
            same = lengths[i + 1][j + 1] + 1 if desired[i] == observed[j] else 0
            lengths[i][j] = max(same, lengths[i + 1][j], lengths[i][j + 1])
    assert len(align(desired, observed).kept) == lengths[0][0]


@given(RULES, RULES)
def test_two_chains_without_a_difference_are_equal(desired: list[str], observed: list[str]) -> None:
    assert (lines([chain(*desired)], [chain(*observed)]) == []) == (desired == observed)


@pytest.mark.parametrize(
    ("observed", "shown"),
    [
        (("a", "x", "c"), ["~ rule c: b    (was: x)"]),
        (("a", "c"), ["+ rule c: b"]),
        (("a", "b", "c", "d"), ["- rule c: d"]),
        (("b", "a", "c"), ["~ rule c: a    (moved: rule 1, was: rule 2)"]),
        ((), ["~ chain c: 3 rules    (was: 0 rules)"]),
    ],
    ids=["changed", "missing", "additional", "moved", "empty"],
)
def test_one_rule_is_one_difference(observed: tuple[str, ...], shown: list[str]) -> None:
    assert lines([chain("a", "b", "c")], [chain(*observed)]) == shown


def test_replaced_rules_are_paired_by_similarity() -> None:
    """If a chain loses an endpoint, rules of the others change and its own are additional."""
    desired = chain("to one, 1 of 2", "to two")
    observed = chain("client of three", "to one, 1 of 3", "to two, 1 of 2", "to three")
    assert lines([desired], [observed]) == [
        "- rule c: client of three",
        "~ rule c: to one, 1 of 2    (was: to one, 1 of 3)",
        "~ rule c: to two    (was: to two, 1 of 2)",
        "- rule c: to three",
    ]


def test_a_missing_container_is_one_difference() -> None:
    """A missing table is one difference, and so is a missing chain of an existing table."""
    table, inner = (
        RuleContainer("table t"),
        RuleContainer("chain c", "rule", rules=("a", "b"), parent="table t"),
    )
    assert lines([table, inner], []) == ["+ table t"]
    assert lines([], [table, inner]) == ["- table t"]
    (difference,) = listing.differences([table, inner], [table])
    assert (difference.line, difference.action, difference.desired, difference.observed) == (
        "+ chain c: 2 rules",
        "add",
        "a\nb",
        None,
    )


def test_only_the_labs_entries_of_a_shared_container_are_compared() -> None:
    ours = RuleContainer(
        "chain FORWARD", "rule", "rule FORWARD: ", rules=("-j OURS",), is_shared=True
    )
    assert lines([ours], []) == ["+ rule FORWARD: -j OURS"]
    assert lines([], [ours]) == ["- rule FORWARD: -j OURS"]


NFT = """table ip t {
	comment "a table"
	flags dormant
	map m {
		type ipv4_addr . inet_service : verdict
		elements = { 10.0.0.1 . 80 comment "a, b : c" : goto x,
				10.0.0.2 . 80 : drop }
	}

	set s {
		type ipv4_addr
		flags dynamic,timeout
		elements = { 10.0.0.9 timeout 1m }
	}

	chain base {
		comment "a chain"
		type nat hook prerouting priority dstnat; policy accept;
		ip daddr @s accept comment "policy {"
		drop
	}
}
"""


def test_nft_listings_are_parsed() -> None:
    """A listing has tables, maps, sets and chains; a missing table yields nothing."""
    table, base, map_, set_ = nftables.containers([NFT, None], [("ip", "t"), ("ip6", "t")])
    assert (table.name, table.properties) == ("nft table ip t", 'comment "a table"; flags dormant')
    assert map_.elements == {
        "10.0.0.1 . 80": '10.0.0.1 . 80 comment "a, b : c" : goto x',
        "10.0.0.2 . 80": "10.0.0.2 . 80 : drop",
    }
    assert (set_.is_filled_by_packets, set_.elements) == (True, {})
    assert (
        base.properties
        == 'comment "a chain"; type nat hook prerouting priority dstnat; policy accept'
    )
    assert base.rules == ('ip daddr @s accept comment "policy {"', "drop")
    assert {map_.parent, set_.parent, base.parent} == {table.name}


def test_iptables_listings_are_parsed() -> None:
    """Only chains of the owner, and rules that jump to them, are read."""
    saved = (
        "*nat\n:OUTPUT ACCEPT [1:2]\n:KUBE-A - [0:0]\n:MINE - [0:0]\n-A OUTPUT -j MINE\n"
        "-A OUTPUT -j KUBE-A\n-A KUBE-A -j DROP\nCOMMIT\n"
    )
    output, own = iptables.containers([("ip", saved)], [("ip", "KUBE-")])
    assert (output.name, output.rules, output.is_shared) == (
        "iptables chain nat OUTPUT",
        ("-j KUBE-A",),
        True,
    )
    assert (own.name, own.rules, own.is_shared) == (
        "iptables chain nat KUBE-A",
        ("-j DROP",),
        False,
    )


def test_ipset_listings_are_parsed() -> None:
    """Hash parameters chosen by the kernel and the order of members are ignored."""
    first_text = (
        "create KUBE-A hash:ip family inet hashsize 1024 maxelem 65536 bucketsize 12 initval "
        "0x1\nadd KUBE-A 10.0.0.1\nadd KUBE-A 10.0.0.2\n"
    )
    second_text = (
        "create KUBE-A hash:ip family inet hashsize 2048 maxelem 65536 bucketsize 12 initval "
        "0x2\nadd KUBE-A 10.0.0.2\nadd KUBE-A 10.0.0.1\n"
    )
    third_text = (
        "create KUBE-A hash:ip family inet hashsize 64 maxelem 9 bucketsize 12 initval 0x2\n"
        "add KUBE-A 10.0.0.2\ncreate X hash:ip family inet\n"
    )
    first, reordered, changed = (
        list(ipset.containers(text, [("", "KUBE-")]))
        for text in (first_text, second_text, third_text)
    )
    assert lines(first, reordered) == []
    assert lines(first, changed) == [
        (
            "~ ipset KUBE-A: hash:ip family inet maxelem 65536 bucketsize 12    (was: hash:ip "
            "family inet maxelem 9 bucketsize 12)"
        ),
        "+ ipset KUBE-A member 10.0.0.1",
    ]


SERVER = VirtualServer("n", "tcp", "10.96.0.9", 80, "rr")
REAL = RealServer("n", "tcp", "10.96.0.9", 80, "10.244.1.2", 8080)


@pytest.mark.parametrize(
    ("observed", "shown"),
    [
        ([(SERVER, [(REAL, 1, 5)])], []),
        (
            [(SERVER, [(REAL, 0, 5)])],
            [
                (
                    "~ ipvs -t 10.96.0.9:80 -r 10.244.1.2:8080 -m -w 1    (was: -r "
                    "10.244.1.2:8080 -m -w 0)"
                )
            ],
        ),
        (
            [(SERVER, [(RealServer("n", "tcp", "10.96.0.9", 80, "10.244.1.2", 8080, "-g"), 7, 0)])],
            [
                (
                    "~ ipvs -t 10.96.0.9:80 -r 10.244.1.2:8080 -m -w 1    (was: -r "
                    "10.244.1.2:8080 -g -w 7)"
                )
            ],
        ),
        (
            [(VirtualServer("n", "tcp", "10.96.0.9", 80, "sh", 60), [])],
            [
                "~ ipvs -t 10.96.0.9:80: -s rr    (was: -s sh -p 60)",
                "+ ipvs -t 10.96.0.9:80 -r 10.244.1.2:8080 -m -w 1",
            ],
        ),
        ([], ["+ ipvs -t 10.96.0.9:80: 1 real server"]),
        (
            [
                (
                    SERVER,
                    [
                        (REAL, 1, 0),
                        (RealServer("n", "tcp", "10.96.0.9", 80, "10.244.1.3", 8080), 1, 0),
                    ],
                )
            ],
            ["- ipvs -t 10.96.0.9:80 -r 10.244.1.3:8080 -m -w 1"],
        ),
        (
            [
                (
                    SERVER,
                    [
                        (REAL, 1, 0),
                        (RealServer("n", "tcp", "10.96.0.9", 80, "10.244.1.3", 8080), 0, 2),
                    ],
                )
            ],
            [],
        ),
    ],
    ids=[
        "equal",
        "drained",
        "forwarding and weight",
        "scheduler",
        "missing",
        "additional",
        "waits for its connections",
    ],
)
def test_all_settings_of_ipvs_servers_are_compared(observed: Any, shown: list[str]) -> None:
    listed = [ListedServer(server, tuple(reals)) for server, reals in observed]
    assert [difference.line for difference in ipvs.differences([SERVER, REAL], listed)] == shown


@given(
    st.binary(min_size=FRONT_KEY.size, max_size=FRONT_KEY.size),
    *[st.binary(min_size=FRONT.size, max_size=FRONT.size)] * 2,
)
def test_frontends_with_the_same_text_are_equal(key: bytes, first: bytes, second: bytes) -> None:
    """The text of an entry contains its whole value."""
    assert (describe("fronts", key, first, {}) == describe("fronts", key, second, {})) == (
        first == second
    )


@pytest.mark.parametrize(
    "name", ["settings", "doors", "homes", "fronts", "endpoints", "members", "sources", "unknown"]
)
@given(key=st.binary(max_size=200), value=st.binary(max_size=200))
def test_an_entry_of_another_layout_is_shown_in_hexadecimal(
    name: str, key: bytes, value: bytes
) -> None:
    """Entries with any bytes can be shown."""
    assert describe(name, key, value, {})


def test_ids_are_shown_by_their_names() -> None:
    key, endpoint = (
        SLOT.pack(b"12345678", 3, 0),
        bytes(10) + b"\xff\xff" + bytes((10, 244, 1, 2)) + b"\0\x50" + bytes(6),
    )
    assert (
        describe("endpoints", key, endpoint, {b"12345678": "default/web"})
        == "default/web 3: 10.244.1.2 80"
    )
