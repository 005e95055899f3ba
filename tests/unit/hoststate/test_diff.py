"""The machine as data: differences, transactions, and messages that pyroute2 reads as they were meant."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from kubenetlab.hoststate import wire
from kubenetlab.hoststate.address import Address, decode_address
from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.link import Bridge, LinkUp, Port, Veth
from kubenetlab.hoststate.link_messages import decode_link
from kubenetlab.hoststate.neighbor import Neighbor, decode_neighbor
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.peers import Peers, peers_of
from kubenetlab.hoststate.route import Route, decode_route
from kubenetlab.hoststate.rules.nftables import (
    Chain,
    Collection,
    Element,
    NftObject,
    Rule,
    Ruled,
    Table,
    replacement,
    transaction,
    update,
)
from kubenetlab.hoststate.rules.rulesets import NodeRules, Rules, RuleSet
from kubenetlab.hoststate.sandbox import Sandbox, Sysctl
from kubenetlab.hoststate.state import HostState, contents_of
from kubenetlab.kernel.fake import FakeKernel
from kubenetlab.versioned import VersionedMap

NAMES = {1: "lo", 7: "eth0", 8: "cbr0"}
OF_VERSION = {
    4: st.ip_addresses(v=4).filter(lambda address: not address.is_loopback),
    6: st.sampled_from(["fd00::/8", "fe80::/64", "2000::/3"]).flatmap(
        lambda network: st.ip_addresses(network=network)
    ),
}
addresses = st.one_of(*OF_VERSION.values())


class Indexes:
    """Indexes for encoders: eth0 is 7, cbr0 is 8, new links get 1000 and up."""

    def __init__(self) -> None:
        self._next = 1000

    def index(self, netns: str, link: str) -> int:
        return {"lo": 1, "eth0": 7, "cbr0": 8}[link]

    def new_index(self, netns: str, link: str) -> int:
        self._next += 1
        return self._next - 1

    def namespace_fd(self, netns: str) -> int:
        return 42


def split(data: bytes) -> list[bytes]:
    parts, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from("=I", data, at)
        parts.append(data[at : at + size])
        at += size
    return parts


def decoded(type_: Any, data: bytes) -> Any:
    message = type_(data)
    message.decode()
    return message


# --- our encoders against pyroute2's decoder ---


@given(addresses, st.integers(0, 32), st.booleans(), st.booleans())
def test_addresses_are_read_back(
    address: Any, prefix: int, is_source: bool, has_route: bool
) -> None:
    """What we encode is what pyroute2 and we ourselves decode; what is no source has scope link, or is not preferred."""
    wanted = Address("n", "eth0", f"{address}/{prefix}", is_source, has_route)
    data = wanted.create(Indexes())
    seen = decoded(ifaddrmsg, data)
    is_ipv6 = address.version == 6
    assert (seen["family"], seen["prefixlen"], seen["index"]) == (10 if is_ipv6 else 2, prefix, 7)
    assert seen["scope"] == (0 if is_ipv6 or is_source else 253)
    assert seen.get_attr("IFA_LOCAL") == seen.get_attr("IFA_ADDRESS") == str(address)
    flags = seen.get_attr("IFA_FLAGS") or 0
    assert (bool(flags & 0x200), bool(flags & 0x02)) == (not has_route, is_ipv6)
    lifetimes = seen.get_attr("IFA_CACHEINFO")
    assert (
        lifetimes is not None
        and (lifetimes["ifa_preferred"], lifetimes["ifa_valid"]) == (0, 0xFFFFFFFF)
    ) == (is_ipv6 and not is_source)
    if (
        is_source or not is_ipv6
    ):  # the kernel says it by a flag, not by the lifetimes that were asked for
        assert decode_address("n", memoryview(data)[16:], NAMES) == (wanted, True)


@st.composite
def ways(draw: Any) -> tuple[Any, int, Any, Any]:
    """(destination, prefix length, gateway or nothing, source or nothing) of one family."""
    version = draw(st.sampled_from([4, 6]))
    some = OF_VERSION[version]
    return (
        draw(some),
        draw(st.integers(0, 32 if version == 4 else 128)),
        draw(st.none() | some),
        draw(st.none() | some),
    )


@given(ways())
def test_routes_are_read_back(way: tuple[Any, int, Any, Any]) -> None:
    """Destination, gateway, preferred source, link; and IPv4's scope, which is `link` without a gateway."""
    import ipaddress

    address, prefix, via, source = way
    network = ipaddress.ip_network(f"{address}/{prefix}", strict=False)
    wanted = Route("n", str(network), "cbr0", str(via or ""), str(source or ""))
    data = wanted.create(Indexes())
    seen = decoded(rtmsg, data)
    assert (seen["dst_len"], seen["table"], seen["proto"], seen["scope"]) == (
        prefix,
        254,
        4,
        253 if address.version == 4 and not via else 0,
    )
    assert seen.get_attr("RTA_DST") == (str(network.network_address) if prefix else None)
    assert seen.get_attr("RTA_GATEWAY") == (str(via) if via else None)
    assert seen.get_attr("RTA_PREFSRC") == (str(source) if source else None)
    assert seen.get_attr("RTA_OIF") == 8
    assert decode_route("n", memoryview(data)[16:], NAMES) == (wanted, True)


@given(addresses, st.binary(min_size=6, max_size=6))
def test_neighbors_are_read_back(address: Any, mac: bytes) -> None:
    """Permanent, with address and MAC."""
    wanted = Neighbor("n", "eth0", str(address), mac.hex(":"))
    data = wanted.create(Indexes())
    seen = decoded(ndmsg, data)
    assert (
        seen["ifindex"],
        seen["state"],
        seen.get_attr("NDA_DST"),
        seen.get_attr("NDA_LLADDR"),
    ) == (7, 0x80, str(address), mac.hex(":"))
    assert decode_neighbor("n", memoryview(data)[16:], NAMES) == (wanted, True)


TABLE = tuple((f"10.244.0.{number}", f"0a:58:0a:f4:00:{number:02x}") for number in range(2, 9))


@pytest.mark.parametrize("own", ["", TABLE[0][0], TABLE[3][0], TABLE[-1][0]])
def test_peers_are_neighbors_one_by_one(own: str) -> None:
    """Their messages are those of the neighbours that they stand for, byte by byte."""
    peers = Peers("n", "cbr0", TABLE, own)
    singly = [Neighbor("n", "cbr0", address, mac) for address, mac in TABLE if address != own]
    assert split(peers.create(Indexes())) == [neighbor.create(Indexes()) for neighbor in singly]
    assert split(peers.delete(Indexes())) == [neighbor.delete(Indexes()) for neighbor in singly]
    assert peers_of("n", singly, peers) is peers


@given(
    st.sets(st.sampled_from(TABLE), min_size=1),
    st.sets(st.sampled_from(TABLE), min_size=1),
    st.sampled_from(["", *dict(TABLE)]),
)
def test_of_peers_only_the_difference_is_told(
    before: set[tuple[str, str]], after: set[tuple[str, str]], own: str
) -> None:
    """Who has gone is removed, who has come is added, nobody else is named."""
    old, new = (
        Peers("n", "cbr0", tuple(sorted(before)), own),
        Peers("n", "cbr0", tuple(sorted(after)), own),
    )
    marked = [
        (part, is_removal)
        for request, is_removal in new.change_from(old, Indexes())
        for part in split(request)
    ]
    requests = [part for part, _ in marked]
    told = [
        (struct.unpack_from("=H", part, 4)[0], decoded(ndmsg, part).get_attr("NDA_DST"))
        for part in requests
    ]
    gone = sorted({address for address, _ in old.entries} - {address for address, _ in new.entries})
    come = sorted({address for address, _ in new.entries} - {address for address, _ in old.entries})
    assert told == [
        *((wire.RTM_DELNEIGH, address) for address in gone),
        *((wire.RTM_NEWNEIGH, address) for address in come),
    ]
    assert [is_removal for _, is_removal in marked] == [*[True] * len(gone), *[False] * len(come)]


def test_a_veth_is_made_with_both_ends_at_once() -> None:
    """One message makes both, the other end up; a second one raises this end and says whose it is."""
    veth = Veth("pod", "eth0", "0a:58:00:00:00:02", "node", "veth3", 1400, "a pod")
    create, up = split(veth.create(Indexes()))
    there = decoded(ifinfmsg, create)
    here = there.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert (there["index"], there["flags"], there.get_attr("IFLA_IFNAME")) == (1000, 1, "veth3")
    assert (there.get_attr("IFLA_NET_NS_FD"), there.get_attr("IFLA_MTU")) == (42, 1400)
    assert (
        here["index"],
        here["flags"],
        here.get_attr("IFLA_IFNAME"),
        here.get_attr("IFLA_ADDRESS"),
    ) == (
        1001,
        0,
        "eth0",
        "0a:58:00:00:00:02",
    )
    assert (decoded(ifinfmsg, up)["index"], decoded(ifinfmsg, up)["flags"]) == (1001, 1)
    assert decoded(ifinfmsg, up).get_attr("IFLA_IFALIAS") == "a pod"


def test_bridges_and_ports_are_read_back() -> None:
    """A bridge with its MAC and no multicast snooping; a port with its alias and hairpin."""
    bridge = decoded(ifinfmsg, Bridge("n", "br0", "0a:58:00:00:00:01").create(Indexes()))
    assert bridge.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_KIND") == "bridge"
    assert (
        bridge.get_attr("IFLA_LINKINFO")
        .get_attr("IFLA_INFO_DATA")
        .get_attr("IFLA_BR_MCAST_SNOOPING")
        == 0
    )
    data = Port(
        "n", "eth0", "cbr0", "0a:59:00:00:00:02", alias="pod default/web", is_hairpin=True
    ).create(Indexes())
    on_bridge, as_port = split(data)
    port = decoded(ifinfmsg, on_bridge)
    assert (port["index"], port.get_attr("IFLA_IFALIAS")) == (7, "pod default/web")
    assert (port.get_attr("IFLA_MASTER"), port.get_attr("IFLA_ADDRESS")) == (8, "0a:59:00:00:00:02")
    assert (
        decoded(ifinfmsg, as_port).get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_SLAVE_KIND")
        == "bridge"
    )
    assert (b"\x05\x00\x04\x00\x01") in data  # IFLA_BRPORT_MODE = 1


@given(st.binary(max_size=60))
def test_broken_bytes_are_refused_not_read(data: bytes) -> None:
    """Cut-short messages raise WireError, whatever they hold."""
    try:
        for _, _, _, body in wire.messages(data):
            wire.attributes(body)
    except wire.WireError:
        pass
    header = struct.pack("=IHHII", 16 + len(data), 16, 0, 0, 0)
    try:
        decode_link(memoryview(header + data)[16:])
    except (wire.WireError, KeyError, struct.error, UnicodeDecodeError):
        pass


# --- differences ---

objects = st.one_of(
    st.builds(Sysctl, st.just("n"), st.sampled_from(["a", "b", "c"]), st.sampled_from(["0", "1"])),
    st.builds(
        Address,
        st.just("n"),
        st.sampled_from(["eth0", "lo"]),
        st.sampled_from(["10.0.0.1/8", "10.0.0.2/8"]),
        st.sampled_from(["global", "link"]),
    ),
    st.builds(
        Route,
        st.just("n"),
        st.sampled_from(["10.0.0.0/8", "0.0.0.0/0"]),
        st.just("eth0"),
        st.sampled_from(["", "10.0.0.9"]),
    ),
    st.builds(LinkUp, st.just("n"), st.just("lo")),
)
namespaces = st.dictionaries(
    st.sampled_from(["n", "m"]), st.lists(objects, max_size=8).map(contents_of), max_size=2
)


def state_of(found: dict[str, Any]) -> HostState:
    return HostState(
        {
            netns: contents_of([Sandbox(netns, "h"), *contents.values()])
            for netns, contents in found.items()
        }
    )


@given(namespaces, namespaces)
def test_applying_a_difference_leaves_none(before: dict[str, Any], after: dict[str, Any]) -> None:
    """From any state to any other: what is applied is what was missing, and then nothing is."""
    kernel = FakeKernel()
    first, second = state_of(before), state_of(after)
    kernel.apply(diff(HostState(), first)).raise_failures()
    kernel.apply(diff(HostState(kernel.observe(first.namespaces)), second)).raise_failures()
    everything = {**first.namespaces, **second.namespaces}
    assert not diff(HostState(kernel.observe(everything)), second)


def test_a_namespace_that_is_the_same_mapping_is_not_looked_at() -> None:
    """Identity is enough: what did not change costs nothing."""
    contents = contents_of([Sandbox("n", "h"), Sysctl("n", "a", "1")])

    class Untouchable(dict[Any, Any]):
        def items(self) -> Any:
            raise AssertionError("looked at")

    same = Untouchable(contents)
    assert not diff(HostState({"n": same}), HostState({"n": same}))


def test_a_plan_reads_like_a_list_of_commands() -> None:
    """Signs, objects in iproute2's words, what was there before."""
    before = HostState(
        {
            "n": contents_of(
                [
                    Sandbox("n", "h"),
                    Sysctl("n", "net/ipv4/ip_forward", "0"),
                    Route("n", "10.0.0.0/8", "eth0", via="10.9.9.9"),
                ]
            )
        }
    )
    after = HostState(
        {
            "n": contents_of(
                [
                    Sandbox("n", "h"),
                    Sysctl("n", "net/ipv4/ip_forward", "1"),
                    Address("n", "eth0", "10.1.1.1/24"),
                ]
            )
        }
    )
    assert str(diff(before, after)) == (
        "n\n"
        "  - route 10.0.0.0/8 via 10.9.9.9 dev eth0\n"
        "  ~ sysctl net.ipv4.ip_forward = 1    (was: sysctl net.ipv4.ip_forward = 0)\n"
        "  + address 10.1.1.1/24 dev eth0"
    )


# --- rules ---


def chain(name: str, *rules: str, hook: str = "") -> Chain:
    return Chain("n", "ip", "t", name, tuple(Rule(rule) for rule in rules), hook)


def test_a_transaction_is_in_the_order_that_reference_counts_ask_for() -> None:
    """New chains before the elements that go to them; old elements before the chains they went to."""
    table, services = Table("n", "ip", "t"), Collection("n", "ip", "t", "m", "ipv4_addr : verdict")
    old: list[NftObject] = [
        table,
        services,
        chain("a", "accept"),
        chain("b", "drop"),
        Element("n", "ip", "t", "m", "10.0.0.1", "goto a"),
    ]
    new: list[NftObject] = [
        table,
        services,
        chain("b", "counter", "drop"),
        chain("c", "drop"),
        Element("n", "ip", "t", "m", "10.0.0.1", "goto c", "web"),
    ]
    assert transaction(old, new).splitlines() == [
        "add chain ip t c",
        "delete element ip t m { 10.0.0.1 }",
        "flush chain ip t b",
        "flush chain ip t a",
        "add rule ip t c drop",
        "add rule ip t b counter",
        "add rule ip t b drop",
        'add element ip t m { 10.0.0.1 comment "web" : goto c }',
        "delete chain ip t a",
    ]
    assert transaction(new, new) == ""
    assert replacement(new).splitlines()[:3] == [
        "add table ip t",
        "delete table ip t",
        "add table ip t",
    ]


def test_comments_fit_and_cannot_break_out() -> None:
    """nft takes 128 bytes and no quotes inside."""
    text = Element("n", "ip", "t", "m", "1", comment='a "b" ' + "ü" * 100).text
    assert text.count('"') == 2
    assert len(text.split('"')[1].encode()) < 128


@pytest.mark.parametrize(
    "obj",
    [
        LinkUp("n", "lo"),
        Bridge("n", "br0", "0a:58:00:00:00:01"),
        Port("n", "veth0", "cbr0", "0a:59:00:00:00:02", alias="x", is_hairpin=True),
        Sandbox("n", "h", shares="m"),
    ],
)
def test_objects_read_well(obj: Object) -> None:
    """`str` is what users see in plans and errors."""
    assert str(obj)[0].islower()
    assert "(" not in str(obj)


def test_what_stands_on_a_new_link_is_made_with_it() -> None:
    """Also when it was seen a moment ago: the kernel takes a dead namespace's links away some time after it."""
    ends = [
        Bridge("node", "br0", "0a:58:00:00:00:01"),
        Port("node", "veth0", "br0", "0a:59:00:00:00:02"),
        Address("node", "br0", "10.0.0.1/24"),
    ]
    pod = [
        Veth("pod", "eth0", "0a:58:00:00:00:02", "node", "veth0"),
        Address("pod", "eth0", "10.0.0.2/24"),
    ]
    wanted = HostState({"node": contents_of(ends), "pod": contents_of(pod)})
    seen = HostState({"node": contents_of(ends), "pod": contents_of(pod[1:])})
    assert [str(operation) for operation in diff(seen, wanted).operations()] == [
        "+ port veth0 of br0 mac 0a:59:00:00:00:02 mtu 1500",
        "+ veth eth0 mac 0a:58:00:00:00:02 mtu 1500 ↔ veth0 in node",
        "+ address 10.0.0.2/24 dev eth0",
    ]


def test_tables_that_are_no_longer_wanted_go_with_a_replacement() -> None:
    """Whoever has touched them."""
    text = replacement([Table("n", "ip", "mine")], [("ip", "mine"), ("ip", "former")])
    assert "delete table ip former" in text
    assert text.count("delete table ip mine") == 1


def test_what_stands_on_a_link_that_is_replaced_is_made_with_it() -> None:
    """A veth whose other end was seen elsewhere goes, and takes its address along, even where that was still seen."""
    address = Address("n", "eth0", "10.0.0.1/24")
    wanted = contents_of(
        [Sandbox("n", "a node"), Veth("n", "eth0", "0a:58:0a:00:00:01", "s", "n"), address]
    )
    seen = contents_of(
        [Sandbox("n", "a node"), Veth("n", "eth0", "0a:58:0a:00:00:01", "", "?"), address]
    )
    (changes,) = diff(HostState({"n": seen}), HostState({"n": wanted})).namespaces
    assert [(operation.verb, operation.object) for operation in changes.operations] == [
        ("change", wanted["Link", "eth0"]),
        ("add", address),
    ]


def service_rules(name: str, *endpoints: str) -> Rules:
    """A Service with a chain for each endpoint, and one that chooses."""
    choice = Rule(f"numgen random mod {len(endpoints)} vmap {{ … }}")
    chains = [
        Chain("", "ip", "t", f"{name}-{endpoint}", (Rule(f"dnat to {endpoint}"),))
        for endpoint in endpoints
    ]
    return Rules(
        "nftables",
        "ip",
        name,
        (
            Element("", "ip", "t", "ips", f"of {name}"),
            Chain("", "ip", "t", name, (choice,)),
            *chains,
        ),
    )


def bundle(*rules: Rules) -> NodeRules:
    return NodeRules("n", RuleSet("nftables", VersionedMap((one.whose, one) for one in rules)))


def test_of_bundles_that_changed_only_what_differs_is_told() -> None:
    """To nft, in a plan, and nothing at all of those that are alike."""
    table, other = Table("n", "ip", "t"), service_rules("other", "10.0.0.9")
    before, after = service_rules("web", "10.0.0.1", "10.0.0.2"), service_rules("web", "10.0.0.2")
    assert transaction(
        [table, bundle(other, before)], [table, bundle(service_rules("other", "10.0.0.9"), after)]
    ).splitlines() == [
        "flush chain ip t web",
        "flush chain ip t web-10.0.0.1",
        "add rule ip t web numgen random mod 1 vmap { … }",
        "delete chain ip t web-10.0.0.1",
    ]
    (changes,) = diff(
        HostState({"n": contents_of([bundle(before, other)])}),
        HostState({"n": contents_of([bundle(other, after)])}),
    ).namespaces
    assert [str(operation) for operation in changes.details()] == [
        "- nft chain ip t web-10.0.0.1: 1 rule",
        "~ nft chain ip t web: 1 rule    (was: nft chain ip t web: 1 rule)",
    ]
    (gone,) = diff(HostState({"n": contents_of([bundle(other)])}), HostState({"n": {}})).namespaces
    assert [str(operation) for operation in gone.details()][
        -1
    ] == "- nft element ip t ips { of other }"


def test_nodes_with_the_same_rules_share_the_words() -> None:
    """Of a change that is nothing but theirs; not where something else differs, or has to be made anew as a whole."""
    table, before, after = (
        Table("n", "ip", "t"),
        bundle(service_rules("web", "10.0.0.1")),
        bundle(service_rules("web", "10.0.0.2")),
    )
    extra = Chain("n", "ip", "t", "extra", (Rule("accept"),))
    first = update([table, before], [table, after])
    assert first.splitlines()[-1] == "delete chain ip t web-10.0.0.1"
    assert update([table, extra, before], [table, extra, after]) is first
    assert update([table, before], [table, extra, after]) != first
    assert update([table, before], [table, after]) is first
    other = bundle(service_rules("web", "10.0.0.3"))
    assert "10.0.0.3" in update([table, before], [table, other])
    assert "10.0.0.3" in update([table, after], [table, other])
    assert "delete chain ip t web-10.0.0.2" in update([table, after], [table, other])
    commented = bundle(
        Rules("nftables", "ip", "web", (Chain("", "ip", "t", "web", comment="said"),))
    )
    for beside in ((), (extra,)):
        anew = update([table, *beside, before], [table, *beside, commented])
        assert "delete table ip t" in anew
        assert ("add chain ip t extra" in anew) == bool(beside)


def test_what_departs_is_named() -> None:
    """Namespaces that go: so that nobody remembers for ever what was computed for them."""
    before = HostState(
        {
            "n": contents_of([Sandbox("n", "h"), bundle(service_rules("web", "10.0.0.1"))]),
            "gone": contents_of([Sandbox("gone", "h")]),
        }
    )
    assert diff(before, HostState({"n": contents_of([Sandbox("n", "h")])})).departed() == {"gone"}


def test_what_several_share_is_there_as_long_as_any_of_them() -> None:
    """Made with the first, not made again with the next, gone with the last."""
    table, common = Table("n", "ip", "t"), Chain("", "ip", "t", "common", (Rule("accept"),))

    def sharing(*names: str) -> NodeRules:
        own = (
            Rules(
                "nftables",
                "ip",
                name,
                (Chain("", "ip", "t", name, (Rule("goto common"),)),),
                (common,),
            )
            for name in names
        )
        return bundle(*own)

    one: list[Ruled] = [table, sharing("a")]
    both: list[Ruled] = [table, sharing("a", "b")]
    assert transaction([table], both).splitlines().count("add rule ip t common accept") == 1
    assert "common accept" not in transaction(one, both)
    assert "delete chain ip t common" not in transaction(both, one)
    assert transaction(one, [table]).splitlines()[-2:] == [
        "delete chain ip t a",
        "delete chain ip t common",
    ]
