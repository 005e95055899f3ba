"""A lab by hand: words that ip, bridge and sysctl know, in an order that works."""

from __future__ import annotations

import pytest

from kubenetlab.api.lab import Decisions
from kubenetlab.datapath import plan
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.link import Bridge, Dummy, LinkUp, Port, Veth
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.object import Key, Object, Origin
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.rules.nftables import Chain, Element, Rule, Table
from kubenetlab.hoststate.sandbox import Sandbox, Sysctl
from kubenetlab.hoststate.script import script
from kubenetlab.hoststate.sections import common_settings, sections
from kubenetlab.hoststate.state import HostState, contents_of
from kubenetlab.lab.simulation import rehearse
from tests.clusters import NO_CNI, NOW, deployment, pod, service, store

DECISIONS = [
    Decisions(pod_layout=layout, neighbors=neighbors)
    for layout in ("onlink", "routed")
    for neighbors in ("dynamic", "permanent")
]


def by_origin(*wanted: tuple[str, Object]) -> HostState:
    """A state of objects, each with the component that wants it."""
    found: dict[str, list[Object]] = {}
    for _, obj in wanted:
        found.setdefault(obj.netns, []).append(obj)
    origins: dict[str, dict[Key, Origin]] = {}
    for component, obj in wanted:
        origins.setdefault(obj.netns, {})[obj.key] = Origin(component, "Node a")
    return HostState({netns: contents_of(objects) for netns, objects in found.items()}, origins)


def planned(text: str = "", decisions: Decisions = DECISIONS[0]) -> HostState:
    return plan(rehearse(store(text), NOW), decisions)


@pytest.mark.parametrize(
    ("obj", "commands"),
    [
        (Sandbox("n", "h"), ["ip netns add n"]),
        (Sandbox("p", "h", shares="n"), []),
        (Sysctl("n", "net/ipv4/ip_forward", "1"), ["ip netns exec n sysctl -qw net.ipv4.ip_forward=1"]),
        (Sysctl("n", "net/ipv4/ping_group_range", "0\t0"), ["ip netns exec n sysctl -qw 'net.ipv4.ping_group_range=0 0'"]),
        (Sysctl("n", "net/ipv4/conf/eth0.7/rp_filter", "0", is_optional=True), ["ip netns exec n sysctl -qew net/ipv4/conf/eth0.7/rp_filter=0"]),
        (LinkUp("n", "lo"), ["ip -n n link set lo up"]),
        (Bridge("n", "cbr0", "0a:58:00:00:00:01", 1400, "it's"), [
            "ip -n n link add cbr0 address 0a:58:00:00:00:01 mtu 1400 type bridge mcast_snooping 0",
            """ip -n n link set cbr0 alias 'it'"'"'s' up""",
        ]),
        (Veth("p", "eth0", "0a:58:00:00:00:02", "n", "veth0"), [
            "ip -n p link add eth0 address 0a:58:00:00:00:02 mtu 1500 numtxqueues 1 numrxqueues 1 \\\n"
            "    type veth peer name veth0 netns n mtu 1500 numtxqueues 1 numrxqueues 1",
            "ip -n p link set eth0 up",
        ]),
        (Port("n", "veth0", "cbr0", "0a:59:00:00:00:02", is_hairpin=True), [
            "ip -n n link set veth0 master cbr0 address 0a:59:00:00:00:02 up",
            "bridge -n n link set dev veth0 hairpin on",
        ]),
        (Dummy("n", "kube-ipvs0", "0a:58:00:00:00:01", "a dummy"), ["ip -n n link add kube-ipvs0 address 0a:58:00:00:00:01 type dummy", "ip -n n link set kube-ipvs0 alias 'a dummy'"]),
        (Address("n", "cbr0", "10.0.0.1/24", is_source=False, has_route=False), ["ip -n n address add 10.0.0.1/24 dev cbr0 scope link noprefixroute"]),
        (Address("n", "cbr0", "fd00::1/64"), ["ip -n n address add fd00::1/64 dev cbr0 nodad"]),
        (Address("n", "cbr0", "fd00::1/64", is_source=False), ["ip -n n address add fd00::1/64 dev cbr0 preferred_lft 0 nodad"]),
        (Neighbor("n", "cbr0", "10.0.0.2", "0a:58:00:00:00:02"), ["ip -n n neighbor add 10.0.0.2 lladdr 0a:58:00:00:00:02 dev cbr0 nud permanent protocol static"]),
        (Route("n", "0.0.0.0/0", "eth0", "10.0.0.1"), ["ip -n n route add default via 10.0.0.1 dev eth0 proto static"]),
        (Route("n", "10.0.0.0/24", "cbr0", source="172.18.0.2"), ["ip -n n route add 10.0.0.0/24 dev cbr0 scope link src 172.18.0.2 proto static"]),
        (Route("n", "::/0", "eth0", "fd00::1"), ["ip -6 -n n route add default via fd00::1 dev eth0 proto static"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Object) else "",
)  # fmt: skip
def test_every_object_says_how_it_is_made_by_hand(obj: Object, commands: list[str]) -> None:
    """In iproute2's own words, both families, quoted for a shell."""
    assert list(obj.commands(str)) == commands


@pytest.mark.parametrize(
    "decisions", DECISIONS, ids=lambda found: f"{found.pod_layout}-{found.neighbors}"
)
@pytest.mark.parametrize("text", ["", NO_CNI], ids=["bridge", "none"])
def test_every_object_is_made_once_and_after_what_it_needs(text: str, decisions: Decisions) -> None:
    """A link before what stands on it, a pair before its far end, a bridge before its ports; and nothing is left out."""
    state = planned(
        text + deployment(replicas=6) + service() + pod("host", ", hostNetwork: true"), decisions
    )
    made: list[Object] = []
    for section in sections(state):
        made += [
            section.sandbox,
            *section.settings,
            *section.existing_links,
            *(obj for group in section.groups for obj in group.objects),
        ]
        made += [
            *(
                part
                for ruleset in section.rulesets
                for obj in ruleset.objects
                for part in obj.parts
            ),
            *section.programs,
        ]
    wanted = [(obj.netns, part) for obj in state.objects() for part in obj.parts]
    assert len(made) == len(wanted)
    assert [part for _, part in wanted if part not in made] == []
    there: set[tuple[str, ...]] = {("Link", "lo", netns) for netns in state.namespaces}
    for obj in made:
        needed = [] if obj.depends_on is None else [(*obj.depends_on, obj.netns)]
        needed += [("Link", obj.master, obj.netns)] if isinstance(obj, Port) else []
        assert there.issuperset(needed), f"{obj} of {obj.netns} comes too early"
        there.add((*obj.key, obj.netns))
        if obj.peer_end is not None:
            assert any(
                isinstance(other, Port) and (other.netns, other.key) == obj.peer_end
                for other in made[made.index(obj) + 1 :]
            )


def test_components_come_one_after_the_other() -> None:
    """The one that made the namespace first; what belongs to another's link pulls that link forward."""
    state = by_origin(
        ("fabric", Sandbox("node/a", "a")),
        ("cni", Sysctl("node/a", "net/ipv4/ip_forward", "1")),
        ("shared", Bridge("node/a", "cni0", "0a:58:00:00:00:01")),
        ("fabric", Bridge("node/a", "eth0", "0a:58:00:00:00:02")),
        ("shared", Address("node/a", "cni0", "10.0.0.1/24")),
        ("fabric", Address("node/a", "eth0", "172.18.0.2/16")),
        ("cni", Route("node/a", "10.1.0.0/16", "cni0")),
    )
    (section,) = sections(state)
    assert [
        (group.origin.component, [obj.key[0] for obj in group.objects])
        for group in section.groups
        if group.origin
    ] == [
        ("fabric", ["Link", "Address"]),
        ("shared", ["Link"]),
        ("cni", ["Route"]),
        ("shared", ["Address"]),
    ]


def test_settings_that_all_have_are_said_once() -> None:
    """A namespace's own stand in its section; what one has otherwise is nobody's common setting."""
    state = by_origin(
        *(("fabric", Sandbox(netns, "h")) for netns in ("node/a", "node/b")),
        *(
            ("fabric", Sysctl(netns, "net/ipv4/ip_default_ttl", "64"))
            for netns in ("node/a", "node/b")
        ),
        ("fabric", Sysctl("node/a", "net/ipv4/ip_forward", "1")),
        ("fabric", Sysctl("node/b", "net/ipv4/ip_forward", "0")),
        ("cni", Sysctl("node/b", "net/bridge/bridge-nf-call-iptables", "1", is_optional=True)),
    )
    assert [str(setting) for setting in common_settings(list(sections(state)))] == [
        "sysctl net.ipv4.ip_default_ttl = 64"
    ]
    lines = script(state, "t").splitlines()
    assert lines.count('    ip netns exec "$netns" sysctl -qw "$@" net.ipv4.ip_default_ttl=64') == 1
    assert {'settings "$NS" net.ipv4.ip_forward=1', 'settings "$NS" net.ipv4.ip_forward=0'} < set(
        lines
    )
    assert 'ip netns exec "$NS" sysctl -qew net.bridge.bridge-nf-call-iptables=1' in lines


def test_rules_are_nfts_own_text() -> None:
    """A transaction for each table, under those who want it, one element to a line."""
    family = "node/a", "ip"
    state = by_origin(
        ("fabric", Sandbox("node/a", "a")),
        ("proxy", Table(*family, "t")),
        ("proxy", Chain(*family, "t", "c", (Rule("accept", "why"),))),
        ("policy", Element(*family, "t", "s", "10.0.0.1")),
        ("policy", Element(*family, "t", "s", "10.0.0.2")),
    )
    text = script(state, "t")
    assert text[text.index("# proxy") : text.index("\ncat")] == (
        "# proxy\n"
        "ip netns exec \"$NS\" nft -f - <<'EOF'\n"
        'add table ip t\nadd chain ip t c\nadd rule ip t c accept comment "why"\nEOF\n'
        "# policy\nip netns exec \"$NS\" nft -f - <<'EOF'\n"
        "add element ip t s { 10.0.0.1 }\nadd element ip t s { 10.0.0.2 }\nEOF\n"
    )


def test_a_script_tells_what_it_does_not_do() -> None:
    """A hostNetwork pod is a remark, a program too; a pair's far end is named by its own namespace."""
    text = script(
        planned(pod("a", ", nodeName: worker") + pod("b", ", nodeName: worker, hostNetwork: true")),
        "demo",
    )
    assert (
        "# hostNetwork: shares the network namespace ${LAB}_node_worker\n"
        "# not run here: program netexec" in text
    )
    assert 'type veth peer name veth0 netns "${LAB}_node_worker"' in text
    assert "ip netns add" not in text[text.index("=== Pod default/b ") :].partition("===")[0]
    assert "demo_pod_default_b" not in text
    assert text.count('ip netns add "$NS"') == text.count("NS=${LAB}_") == text.count("#   demo_")
