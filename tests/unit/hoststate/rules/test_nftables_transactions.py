"""Transactions of nftables: typed commands as text, as messages, and as they are sent."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings

from kubenetlab.hoststate.netlink.wire import messages
from kubenetlab.hoststate.rules.nftables import NftObject, rule, transaction
from kubenetlab.hoststate.rules.nftables.chain_commands import (
    AddChain,
    AddRules,
    AddTable,
    DeleteChain,
    DeleteTable,
    FlushChain,
)
from kubenetlab.hoststate.rules.nftables.command import Command
from kubenetlab.hoststate.rules.nftables.datatypes import DATA_TYPES, VERDICT, SetType
from kubenetlab.hoststate.rules.nftables.encoding import RuleContext, register, tlv, tlv_u32
from kubenetlab.hoststate.rules.nftables.objects import Entry
from kubenetlab.hoststate.rules.nftables.set_commands import (
    AddElements,
    AddSet,
    DeleteElements,
    DeleteSet,
)
from kubenetlab.hoststate.rules.nftables.sets import interval_elements, interval_size, set_userdata
from kubenetlab.hoststate.rules.nftables.statements import (
    AnyStatement,
    Dnat,
    Log,
    Masked,
    Match,
    OneOf,
    Reject,
    goto,
    jump,
)
from kubenetlab.hoststate.rules.nftables.transactions import (
    AnyCommand,
    encode_transaction,
    text_of,
    transaction_messages,
    transaction_text,
)
from tests.clusters import deployment, rules_of, service
from tests.examples import examples
from tests.nft_rules import rulesets

PLACE = ("ip", "t")
DESTINATIONS = SetType(("ipv4_addr", "inet_proto", "inet_service"), VERDICT)


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (AddTable("ip", "t"), "add table ip t"),
        (AddTable("ip", "t", 'a "b"'), "add table ip t { comment \"a 'b'\" ; }"),
        (DeleteTable("ip6", "t"), "delete table ip6 t"),
        (AddChain(*PLACE, "c"), "add chain ip t c"),
        (FlushChain(*PLACE, "c"), "flush chain ip t c"),
        (DeleteChain(*PLACE, "c"), "delete chain ip t c"),
        (DeleteSet(*PLACE, "m", is_map=True), "delete map ip t m"),
        (
            AddSet(*PLACE, "m", DESTINATIONS, "why"),
            "add map ip t m { type ipv4_addr . inet_proto . inet_service : verdict ; "
            'comment "why" ; }',
        ),
        (
            AddSet(*PLACE, "s", SetType(("ipv4_addr",)), timeout_s=60),
            "add set ip t s { type ipv4_addr ; flags dynamic,timeout ; timeout 60s ; }",
        ),
        (
            AddSet(*PLACE, "s", SetType(("ipv4_addr", "inet_service"), is_interval=True)),
            "add set ip t s { type ipv4_addr . inet_service ; flags interval ; }",
        ),
        (
            AddElements(
                *PLACE, "m", DESTINATIONS, (Entry(("10.0.0.1", "tcp", "80"), goto("x"), (), "why"),)
            ),
            'add element ip t m { 10.0.0.1 . tcp . 80 comment "why" : goto x }',
        ),
        (
            DeleteElements(*PLACE, "m", DESTINATIONS, (("10.0.0.1", "tcp", "80"),)),
            "delete element ip t m { 10.0.0.1 . tcp . 80 }",
        ),
        (
            AddRules(*PLACE, "c", (rule(Log(5, "no"), jump("x"), comment="why"),)),
            'add rule ip t c log prefix "no" group 5 jump x comment "why"',
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_commands_are_rendered_in_nft_syntax(command: Command, line: str) -> None:
    assert text_of([command]) == f"{line}\n"


@settings(max_examples=examples(30))
@given(rulesets())
def test_the_node_agent_gets_the_same_commands(desired: list[NftObject]) -> None:
    """A transaction is decoded to the commands from which it was encoded, of every type."""
    sent = transaction((), desired)
    commands = msgspec.json.decode(sent, type=list[AnyCommand])
    assert encode_transaction(commands) == sent
    assert transaction_text(sent) == text_of(commands)
    encoded = transaction_messages(sent)
    assert encoded is not None
    assert all(list(messages(batch)) for batch in encoded)


def test_no_transaction_is_empty_text() -> None:
    assert encode_transaction([]) == transaction_text("") == ""


def test_all_commands_of_a_lab_are_encoded() -> None:
    """Tables, chains, sets and rules of kube-proxy and of the masquerade agent."""
    assert transaction_messages(transaction((), rules_of("nftables", deployment() + service())))


@pytest.mark.parametrize(
    "statement",
    [
        Match("ip saddr", "fd00::1"),
        Match("ip saddr", "10.0.0"),
        Match("ip saddr", "10.0.0.1/99"),
        Match("ip saddr", "host.example"),
        Match("tcp dport", "http"),
        Match("tcp dport", "99999"),
        Match("ct state", "newish"),
        Match("iifname", "a*b"),
        Match("iifname", "a-name-of-17-char"),
        Match("udp length", "5"),
        Masked("mark", "many"),
        OneOf("ip saddr", ("10.0.0.1", "fd00::1")),
        Dnat("fd00::1", 80),
        Dnat("10.0.0.1", 99999),
        Reject("icmpv6 type no-route"),
    ],
    ids=str,
)
def test_values_that_only_nft_understands_are_left_to_libnftables(statement: AnyStatement) -> None:
    """One such value is enough for the whole transaction."""
    good = AddChain(*PLACE, "c")
    assert transaction_messages(encode_transaction([good])) is not None
    with_bad = [good, AddRules(*PLACE, "c", (rule(statement),))]
    assert transaction_messages(encode_transaction(with_bad)) is None


def test_elements_of_a_set_of_plain_ranges_are_left_to_libnftables() -> None:
    """Their ends depend on the elements that the kernel already has."""
    type_ = SetType(("ipv4_addr",), is_interval=True)
    added = AddElements(*PLACE, "s", type_, (Entry(("10.0.0.0/8",)),))
    assert transaction_messages(encode_transaction([added])) is None


def test_rules_match_one_transport_protocol() -> None:
    """A port of another protocol after a match is an error of the rule."""
    context = RuleContext("ip", "t")
    assert Match("tcp dport", "80").encode(context)
    with pytest.raises(ValueError, match="udp after tcp"):
        Match("udp dport", "53").encode(context)


def test_the_protocol_is_matched_once() -> None:
    """A match of the protocol makes a further one, which ports need, superfluous."""
    implicit, explicit = RuleContext("ip", "t"), RuleContext("ip", "t")
    port = Match("tcp dport", "80")
    whole = port.encode(implicit)
    assert Match("meta l4proto", "tcp").encode(explicit) + port.encode(explicit) == whole
    assert port.encode(implicit) != whole


def test_comments_may_contain_any_characters() -> None:
    """Separators of nft's syntax and of lines have no meaning in them."""
    comment = "a } , b : goto c \u2028 ; é"
    entries = (Entry(("10.0.0.1", "tcp", "80"), goto("x"), (), comment),) * 2
    (encoded,) = transaction_messages(
        encode_transaction([AddElements(*PLACE, "m", DESTINATIONS, entries)])
    ) or [b""]
    assert encoded.count(comment.encode()) == 2


def test_many_elements_become_several_messages() -> None:
    """The length of an attribute has sixteen bits."""
    entries = (
        Entry((f"10.0.{number // 256}.{number % 256}", "tcp", "80"), goto("x" * 200))
        for number in range(1000)
    )
    encoded = transaction_messages(
        encode_transaction([AddElements(*PLACE, "m", DESTINATIONS, tuple(entries))])
    )
    assert encoded is not None
    assert len(encoded) == 8
    assert all(len(body) < 65536 for batch in encoded for _, _, _, body in messages(batch))
    assert sum(batch.count(b"x" * 200) for batch in encoded) == 1000


def test_concatenations_take_whole_registers() -> None:
    """After an IPv4 address comes a quarter of a register, after an IPv6 address a whole one."""
    assert [register(word) for word in (0, 1, 2, 4, 5)] == [1, 9, 10, 2, 13]


def test_user_data_of_a_set_is_a_list_of_typed_values() -> None:
    """Type, length and value; the numbers are those of libnftnl's udata.h."""
    address, verdict = DATA_TYPES["ipv4_addr"], DATA_TYPES["verdict"]
    assert set_userdata((address,)) == tlv_u32(0, 2)
    assert set_userdata((address,), (verdict,), comment="why") == (
        tlv_u32(0, 2) + tlv_u32(1, 0) + tlv_u32(6, 0) + tlv(7, b"why\0")
    )


@pytest.mark.parametrize(
    ("values", "elements", "size"),
    [
        (("10.0.0.0/8",), 3, 3),
        (("0.0.0.0/8", "10.0.0.1"), 4, 4),
        (("10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16"), 3, 3),
        (("98.55.149.186/31", "192.0.0.0/2"), 4, 5),
        (("0.0.0.0/1", "128.0.0.0/1"), 1, 2),
    ],
    ids=["begins later", "begins with zero", "merged", "open", "everything"],
)
def test_ranges_are_elements_at_their_ends(
    values: tuple[str, ...], elements: int, size: int
) -> None:
    """A range up to the last address has no end element, but nft counts one in the set's size."""
    encoded = list(interval_elements((DATA_TYPES["ipv4_addr"],), values))
    assert (len(encoded), interval_size(encoded)) == (elements, size)
