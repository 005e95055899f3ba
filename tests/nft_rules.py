"""Random nftables rules: every statement, set type and command, in combinations nft accepts."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from kubenetlab.hoststate.rules.nftables import (
    Chain,
    Collection,
    Element,
    Hook,
    NftObject,
    Rule,
    SetType,
    Table,
)
from kubenetlab.hoststate.rules.nftables.datatypes import VERDICT
from kubenetlab.hoststate.rules.nftables.statements import (
    AnyStatement,
    Counter,
    Dnat,
    DnatFromMap,
    DnatInTurn,
    ForbidFragments,
    InSet,
    Log,
    MapVerdict,
    Masked,
    Masquerade,
    Match,
    OneOf,
    RandomVerdict,
    Reject,
    SetMark,
    UpdateSet,
    Verdict,
    accept,
    drop,
    goto,
    jump,
    return_,
)

TABLE = "t"
TARGETS = ("first", "second-with-a-longer-name", "c")
"""Chains that rules lead to."""
ADDRESS_TYPES = {"ip": "ipv4_addr", "ip6": "ipv6_addr"}
HOOKS = {
    "dnat": Hook("nat", "prerouting", -100),
    "masquerade": Hook("nat", "postrouting", 100),
    "filter": Hook("filter", "forward", 0),
}
REJECTS = {"ip": "icmp type host-unreachable", "ip6": "icmpv6 type no-route"}

ports = st.integers(1, 65535)
protocols = st.sampled_from(("tcp", "udp", "sctp"))
comments = st.text(
    st.characters(codec="utf-8", exclude_characters='"\\', exclude_categories=("C", "Z")),
    max_size=60,
) | st.sampled_from(("", "default/web:http", "a } , b : goto c ; é", "x" * 127))
verdicts = st.sampled_from((accept, drop, return_, *map(jump, TARGETS), *map(goto, TARGETS)))


def addresses(family: str) -> st.SearchStrategy[str]:
    return st.ip_addresses(v=4 if family == "ip" else 6).map(str)


def networks(family: str) -> st.SearchStrategy[str]:
    """Return ranges of all lengths, also of none and of single addresses."""
    limit = 32 if family == "ip" else 128

    def network(address: str, length: int) -> str:
        from ipaddress import ip_network

        return str(ip_network(f"{address}/{length}", strict=False))

    return st.builds(network, addresses(family), st.integers(1, limit))


def matches(family: str, protocol: str) -> st.SearchStrategy[AnyStatement]:
    """Return the matches of packets of one protocol: nft refuses those of two in one rule."""
    ends = st.sampled_from((f"{family} saddr", f"{family} daddr"))
    negated = st.booleans()
    states = st.lists(
        st.sampled_from(("new", "established", "related", "invalid")),
        min_size=1,
        max_size=3,
        unique=True,
    ).map(",".join)
    interfaces = st.sampled_from(("eth0", "veth*", "a-name-of-15-ch", "cni0"))
    return st.one_of(
        st.builds(Match, ends, addresses(family), negated),
        st.builds(Match, ends, networks(family), negated),
        st.builds(Match, st.just("ct state"), st.sampled_from(("new", "invalid")), negated),
        st.builds(Match, st.just("ct state"), states),
        st.builds(Match, st.just("ct status"), st.sampled_from(("dnat", "snat"))),
        st.builds(Masked, st.just("ct status"), st.just("dnat")),
        st.builds(Masked, st.just("mark"), st.sampled_from(("0x4000", "0x1"))),
        st.builds(Match, st.sampled_from(("iifname", "oifname")), interfaces, negated),
        st.builds(
            Match,
            st.sampled_from(("fib saddr type", "fib daddr type")),
            st.sampled_from(("local", "unicast", "broadcast")),
            negated,
        ),
        st.builds(Match, st.just("meta l4proto"), st.just(protocol)),
        st.builds(Match, st.just(f"{protocol} dport"), ports.map(str), negated),
        *(
            [st.builds(Match, st.just("tcp sport"), ports.map(str), negated)]
            if protocol == "tcp"
            else []
        ),
        st.builds(InSet, ends.map(lambda end: (end,)), st.just("addresses"), negated),
        st.builds(InSet, st.just((f"{family} saddr", f"{family} daddr")), st.just("pairs")),
        st.builds(
            InSet,
            st.just((f"{family} saddr", "meta l4proto", "th dport")),
            st.just("ranges"),
            negated,
            st.just(True),
        ),
        st.builds(OneOf, ends, _several(addresses(family)), negated),
        st.builds(OneOf, ends, _several(networks(family) | addresses(family)), negated),
        st.builds(OneOf, st.just(f"{protocol} dport"), _several(ports.map(str)), negated),
    )


def _several(values: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(values, min_size=1, max_size=4, unique=True).map(tuple)


def actions(family: str) -> st.SearchStrategy[AnyStatement]:
    return st.one_of(
        st.just(Counter()),
        *([st.just(ForbidFragments())] if family == "ip" else []),
        st.builds(Log, st.integers(0, 65535), st.sampled_from(("", "dropped: "))),
        st.builds(SetMark, st.sampled_from(("or", "xor")), st.sampled_from(("0x4000", "0x1"))),
        st.builds(UpdateSet, st.just(f"{family} saddr"), st.just("clients")),
    )


def ends(family: str, protocol: str, hook: str) -> st.SearchStrategy[tuple[AnyStatement, ...]]:
    """Return the last statements of rules in a chain with this hook."""
    has_protocol = st.just(Match("meta l4proto", protocol))
    targets = st.lists(st.tuples(addresses(family), ports), min_size=1, max_size=3)
    by_hook: dict[str, list[st.SearchStrategy[tuple[AnyStatement, ...]]]] = {
        "dnat": [
            st.tuples(has_protocol, st.builds(Dnat, addresses(family), ports)),
            st.tuples(has_protocol, st.builds(DnatInTurn, targets.map(tuple))),
            st.tuples(
                st.builds(
                    DnatFromMap,
                    st.just((f"{family} daddr", f"{protocol} dport")),
                    st.integers(1, 5),
                    st.just(f"{protocol}-endpoints"),
                )
            ),
        ],
        "masquerade": [st.tuples(st.builds(Masquerade, st.booleans()))],
        "filter": [st.tuples(st.builds(Reject, st.sampled_from(("", REJECTS[family]))))],
    }
    chains = st.lists(st.sampled_from(TARGETS), min_size=1, max_size=4).map(tuple)
    return st.one_of(
        st.tuples(verdicts),
        st.tuples(st.builds(RandomVerdict, chains)),
        st.tuples(
            st.builds(
                MapVerdict,
                st.just((f"{family} daddr", "meta l4proto", "th dport")),
                st.just("service-ips"),
            )
        ),
        *by_hook[hook],
    )


@st.composite
def rules(draw: Callable[..., object], family: str, hook: str) -> Rule:
    """Return a rule: some matches and actions, then an end."""
    pick: Callable[[st.SearchStrategy[object]], object] = draw
    protocol = str(pick(protocols))
    parts = pick(st.lists(matches(family, protocol) | actions(family), max_size=4))
    end = pick(ends(family, protocol, hook))
    return Rule((*parts, *end), str(pick(comments)))  # type: ignore[misc]


@st.composite
def rulesets(draw: Callable[..., object]) -> list[NftObject]:
    """Return a table with all types of sets, elements in them, and a chain of random rules."""
    pick: Callable[[st.SearchStrategy[object]], object] = draw
    family = str(pick(st.sampled_from(("ip", "ip6"))))
    hook = str(pick(st.sampled_from(tuple(HOOKS))))
    chain_rules = pick(st.lists(rules(family, hook), max_size=4))
    elements = pick(_elements(family))
    return [
        Table("", family, TABLE, str(pick(comments))),
        *(Chain("", family, TABLE, name, comment=str(pick(comments))) for name in TARGETS),
        *(
            Collection("", family, TABLE, name, type_, comment, timeout_s)
            for name, (type_, comment, timeout_s) in collections(family).items()
        ),
        *elements,  # type: ignore[misc]
        Chain("", family, TABLE, "base", tuple(chain_rules), HOOKS[hook]),  # type: ignore[arg-type]
    ]


def collections(family: str) -> dict[str, tuple[SetType, str, int]]:
    """Return name → (type, comment, timeout) of the sets and maps of a table."""
    address = ADDRESS_TYPES[family]
    destination = (address, "inet_proto", "inet_service")
    typed: dict[str, tuple[SetType, str, int]] = {
        "addresses": (SetType((address,)), "Addresses", 0),
        "pairs": (SetType((address, address)), "", 0),
        "clients": (SetType((address,)), "", 60),
        "ranges": (SetType(destination, is_interval=True), "", 0),
        "service-ips": (SetType(destination, VERDICT), "Services", 0),
    }
    for protocol in ("tcp", "udp", "sctp"):
        value = (f"{family} daddr", f"{protocol} dport")
        key = (*value, "numgen random mod 65536")
        typed[f"{protocol}-endpoints"] = (SetType(key, value, is_typeof=True), "Endpoints", 0)
    return typed


def _elements(family: str) -> st.SearchStrategy[list[Element]]:
    types = {name: type_ for name, (type_, _, _) in collections(family).items()}
    address, port = addresses(family), ports.map(str)
    spans = st.tuples(ports, ports).map(lambda pair: f"{min(pair)}-{max(pair)}")
    keys: dict[str, st.SearchStrategy[tuple[str, ...]]] = {
        "addresses": st.tuples(address),
        "pairs": st.tuples(address, address),
        "service-ips": st.tuples(address, protocols, port),
        "tcp-endpoints": st.tuples(address, port, st.integers(0, 9).map(str)),
    }

    def element(
        name: str,
        item: tuple[str, ...],
        verdict: Verdict,
        data: tuple[str, ...],
        comment: str,
    ) -> Element:
        value = types[name].value
        return Element(
            "",
            family,
            TABLE,
            name,
            types[name],
            item,
            verdict if value == VERDICT else None,
            data if value not in ((), VERDICT) else (),
            comment,
        )

    def some(
        name: str, key: st.SearchStrategy[tuple[str, ...]]
    ) -> st.SearchStrategy[list[Element]]:
        one = st.builds(element, st.just(name), key, verdicts, st.tuples(address, port), comments)
        return st.lists(one, max_size=3, unique_by=lambda each: each.item)

    single_range = st.tuples(networks(family), protocols, spans)
    lists = [some(name, key) for name, key in keys.items()]
    ranges = st.builds(
        lambda item, comment: element("ranges", item, accept, (), comment), single_range, comments
    ).map(lambda each: [each])
    return st.tuples(*lists, ranges | st.just([])).map(
        lambda groups: [each for group in groups for each in group]
    )
