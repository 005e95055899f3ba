"""Encoding of supported nft lines as messages; all other lines are left to libnftables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.hoststate.rules import nft_messages
from kubenetlab.hoststate.rules.nftables import transaction
from kubenetlab.hoststate.wire import messages
from tests.clusters import deployment, rules_of, service

LINES = transaction(
    rules_of("nftables", ""), rules_of("nftables", deployment() + service())
).splitlines()


@pytest.mark.parametrize(
    "line",
    [
        "add table ip kube-proxy",
        "delete table ip kube-proxy",
        "add chain inet t c",
        "add chain ip t c { type nat hook prerouting priority -100 ; }",
        "add map ip t m { type ipv4_addr : verdict ; }",
        "add set ip t s { type ipv4_addr ; flags interval ; }",
        "add set ip6 t s { type ipv4_addr ; flags dynamic,timeout ; timeout 10s ; }",
        "add rule ip t c ip saddr { 10.0.0.0/8, 10.1.0.0/16 } drop",
        "add rule ip t c ip saddr 10.0.0.1/99 jump x",
        "add rule ip t c ip saddr != @s jump x",
        "add rule ip t c ip saddr fd00::1 jump x",
        "add rule ip t c ip6 saddr fd00::1 jump x",
        "add rule ip t c ip saddr 0.0.0.0/0 jump x",
        "add rule ip t c ip saddr",
        "add rule ip t c meta l4proto icmp dnat to 10.0.0.1:80",
        "add rule ip t c meta l4proto tcp dnat to 10.0.0.1:99999",
        "add rule ip t c meta l4proto tcp dnat to 10.0.0.1",
        "add rule ip t c mark set mark or 0x4000",
        "add rule ip t c jump x jump y",
        "add rule ip t c meta l4proto tcp dnat to [10.0.0.1]:80",
        "add rule ip6 t c meta l4proto tcp dnat to fd00::1:80",
        f'add chain ip t c {{ comment "{"x" * 128}" ; }}',
        'add rule ip t c comment "no more than that"',
        "add rule ip t c numgen random mod 2 vmap { 0 : drop, 1 : goto x }",
        "add rule ip t c numgen random mod 2 vmap { 1 : goto x, 0 : goto y }",
        "add element ip t m { 10.0.0.1 . tcp . 80 : 10.0.0.2 . 8080 }",
        "add element ip t m { 10.0.0.0/8 }",
        "add element ip t m { 5 : goto x }",
        "add element ip t m { 10.0.0.1 . tcp . 80 . 0 : goto x }",
        "delete table",
        "nonsense",
        "",
    ],
)
def test_unsupported_lines_are_left_to_libnftables(line: str) -> None:
    """One unsupported line at any place is enough."""
    assert nft_messages.transaction(f"{line}\n") is None
    assert nft_messages.transaction(f"{LINES[0]}\n{line}\n{LINES[1]}\n") is None


def test_the_lines_of_a_service_are_supported() -> None:
    encoded = nft_messages.transaction("\n".join(LINES) + "\n")
    assert encoded is not None
    assert len(encoded) == len(LINES)


def test_comments_are_not_parsed() -> None:
    """Comments may contain any characters, including other line separators."""
    comment = "a } , b : goto c \u2028 ; é"
    line = (
        f'add element ip t m {{ 10.0.0.1 . tcp . 80 comment "{comment}" : goto x, '
        f'10.0.0.2 . udp . 53 comment "{comment}" : drop }}\n'
    )
    (encoded,) = nft_messages.transaction(line) or [b""]
    assert encoded.count(comment.encode()) == 2


def test_many_elements_become_several_messages() -> None:
    """The length of an attribute has sixteen bits."""
    items = ", ".join(
        f"10.0.{number // 256}.{number % 256} . tcp . 80 : goto {'x' * 200}"
        for number in range(1000)
    )
    encoded = nft_messages.transaction(f"add element ip t m {{ {items} }}\n") or ()
    assert len(encoded) == 8
    assert all(len(body) < 65536 for batch in encoded for _, _, _, body in messages(batch))
    assert sum(batch.count(b"x" * 200) for batch in encoded) == 1000


@given(st.sampled_from(LINES), st.data())
def test_malformed_lines_never_raise(line: str, data: st.DataObject) -> None:
    """A line with deleted, doubled or exchanged words is either supported or not."""
    words = line.split(" ")
    at = data.draw(st.integers(0, len(words) - 1))
    instead = data.draw(
        st.sampled_from(
            [[], [words[at]] * 2, ["{"], ["@"], ["!="], ["::"], ['"'], ["1.2.3"], [words[-1]]]
        )
    )
    changed = " ".join([*words[:at], *instead, *words[at + 1 :]])
    encoded = nft_messages.transaction(f"{changed}\n")
    assert encoded is None or len(encoded) == 1
