"""Scripts contain valid commands of ip, bridge and sysctl, in an order that works."""

from __future__ import annotations

import pytest

from kubenetlab.api.lab import Decisions
from kubenetlab.datapath import plan
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.links.bridge import Bridge
from kubenetlab.hoststate.links.dummy import Dummy
from kubenetlab.hoststate.links.existing import LinkUp
from kubenetlab.hoststate.links.veth import Port, Veth
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.object import Key, Object, Origin
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.rules.nftables import Chain, Element, SetType, Table, rule
from kubenetlab.hoststate.rules.nftables.statements import accept
from kubenetlab.hoststate.sandbox import Sandbox, Sysctl
from kubenetlab.hoststate.script import script
from kubenetlab.hoststate.sections import common_settings, sections
from kubenetlab.hoststate.state import HostState, contents_of
from kubenetlab.lab.simulation import simulate
from tests.clusters import NO_CNI, NOW, decided, deployment, pod, service, store

DECISIONS = [
    decided(layout, neighbors)
    for layout in ("onlink", "routed")
    for neighbors in ("dynamic", "permanent")
]


def by_origin(*objects: tuple[str, Object]) -> HostState:
    """Return a state with objects and the component of each."""
    by_netns: dict[str, list[Object]] = {}
    for _, obj in objects:
        by_netns.setdefault(obj.netns, []).append(obj)
    origins: dict[str, dict[Key, Origin]] = {}
    for component, obj in objects:
        origins.setdefault(obj.netns, {})[obj.key] = Origin(component, "Node a")
    return HostState(
        {netns: contents_of(contents) for netns, contents in by_netns.items()}, origins
    )


def planned(text: str = "", decisions: Decisions = DECISIONS[0]) -> HostState:
    return plan(simulate(store(text), NOW), decisions)


@pytest.mark.parametrize(
    ("obj", "commands"),
    [
        (Sandbox("n", "h"), ["ip netns add n"]),
        (Sandbox("p", "h", shares="n"), []),
        (
            Sysctl("n", "net/ipv4/ip_forward", "1"),
            ["ip netns exec n sysctl -qw net.ipv4.ip_forward=1"],
        ),
        (
            Sysctl("n", "net/ipv4/ping_group_range", "0\t0"),
            ["ip netns exec n sysctl -qw 'net.ipv4.ping_group_range=0 0'"],
        ),
        (
            Sysctl("n", "net/ipv4/conf/eth0.7/rp_filter", "0", is_optional=True),
            ["ip netns exec n sysctl -qew net/ipv4/conf/eth0.7/rp_filter=0"],
        ),
        (LinkUp("n", "lo"), ["ip -n n link set lo up"]),
        (
            Bridge("n", "cbr0", "0a:58:00:00:00:01", 1400, "it's"),
            [
                "ip -n n link add cbr0 address 0a:58:00:00:00:01 mtu 1400 "
                "type bridge mcast_snooping 0",
                """ip -n n link set cbr0 alias 'it'"'"'s' up""",
            ],
        ),
        (
            Veth("p", "eth0", "0a:58:00:00:00:02", "n", "veth0"),
            [
                "ip -n p link add eth0 address 0a:58:00:00:00:02 mtu 1500 "
                "numtxqueues 1 numrxqueues 1 \\\n"
                "    type veth peer name veth0 netns n mtu 1500 numtxqueues 1 numrxqueues 1",
                "ip -n p link set eth0 up",
            ],
        ),
        (
            Port("n", "veth0", "cbr0", "0a:59:00:00:00:02", is_hairpin=True),
            [
                "ip -n n link set veth0 master cbr0 address 0a:59:00:00:00:02 up",
                "bridge -n n link set dev veth0 hairpin on",
            ],
        ),
        (
            Dummy("n", "kube-ipvs0", "0a:58:00:00:00:01", "a dummy"),
            [
                "ip -n n link add kube-ipvs0 address 0a:58:00:00:00:01 type dummy",
                "ip -n n link set kube-ipvs0 alias 'a dummy'",
            ],
        ),
        (
            Address("n", "cbr0", "10.0.0.1/24", is_source=False, has_route=False),
            ["ip -n n address add 10.0.0.1/24 dev cbr0 scope link noprefixroute"],
        ),
        (Address("n", "cbr0", "fd00::1/64"), ["ip -n n address add fd00::1/64 dev cbr0 nodad"]),
        (
            Address("n", "cbr0", "fd00::1/64", is_source=False),
            ["ip -n n address add fd00::1/64 dev cbr0 preferred_lft 0 nodad"],
        ),
        (
            Neighbor("n", "cbr0", "10.0.0.2", "0a:58:00:00:00:02"),
            [
                "ip -n n neighbor add 10.0.0.2 lladdr 0a:58:00:00:00:02 dev cbr0 "
                "nud permanent protocol static"
            ],
        ),
        (
            Route("n", "0.0.0.0/0", "eth0", "10.0.0.1"),
            ["ip -n n route add default via 10.0.0.1 dev eth0 proto static"],
        ),
        (
            Route("n", "10.0.0.0/24", "cbr0", source="172.18.0.2"),
            ["ip -n n route add 10.0.0.0/24 dev cbr0 scope link src 172.18.0.2 proto static"],
        ),
        (
            Route("n", "::/0", "eth0", "fd00::1"),
            ["ip -6 -n n route add default via fd00::1 dev eth0 proto static"],
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Object) else "",
)
def test_objects_have_shell_commands(obj: Object, commands: list[str]) -> None:
    """Commands are those of iproute2 for both families, quoted for a shell."""
    assert list(obj.commands(str)) == commands


@pytest.mark.parametrize(
    "decisions", DECISIONS, ids=lambda choice: f"{choice.cni_options['layout']}-{choice.neighbors}"
)
@pytest.mark.parametrize("text", ["", NO_CNI], ids=["bridge", "none"])
def test_every_object_is_created_once_and_after_its_dependencies(
    text: str, decisions: Decisions
) -> None:
    """A link precedes its dependents, a pair its peer end, and a bridge its ports."""
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
    expected = [(obj.netns, part) for obj in state.objects() for part in obj.parts]
    assert len(made) == len(expected)
    assert [part for _, part in expected if part not in made] == []
    existing: set[tuple[str, ...]] = {("Link", "lo", netns) for netns in state.namespaces}
    for obj in made:
        needed = [] if obj.depends_on is None else [(*obj.depends_on, obj.netns)]
        needed += [("Link", obj.master, obj.netns)] if isinstance(obj, Port) else []
        assert existing.issuperset(needed), f"{obj} of {obj.netns} comes too early"
        existing.add((*obj.key, obj.netns))
        if obj.peer_end is not None:
            assert any(
                isinstance(other, Port) and (other.netns, other.key) == obj.peer_end
                for other in made[made.index(obj) + 1 :]
            )


def test_sections_are_ordered_by_component() -> None:
    """The creator of the namespace is first; an object pulls forward the link it depends on."""
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


def test_common_sysctls_are_written_by_one_function() -> None:
    """A sysctl is common if all namespaces have it with the same value."""
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


ADDRESSES = SetType(("ipv4_addr",))


def test_rules_are_input_of_nft() -> None:
    """Each component has one transaction a table, with one element a line."""
    family = "node/a", "ip"
    state = by_origin(
        ("fabric", Sandbox("node/a", "a")),
        ("proxy", Table(*family, "t")),
        ("proxy", Chain(*family, "t", "c", (rule(accept, comment="why"),))),
        ("policy", Element(*family, "t", "s", ADDRESSES, ("10.0.0.1",))),
        ("policy", Element(*family, "t", "s", ADDRESSES, ("10.0.0.2",))),
    )
    text = script(state, "t")
    assert text[text.index("# proxy") : text.index("\ncat")] == (
        "# proxy\n"
        "ip netns exec \"$NS\" nft -f - <<'EOF'\n"
        'add table ip t\nadd chain ip t c\nadd rule ip t c accept comment "why"\nEOF\n'
        "# policy\nip netns exec \"$NS\" nft -f - <<'EOF'\n"
        "add element ip t s { 10.0.0.1 }\nadd element ip t s { 10.0.0.2 }\nEOF\n"
    )


def test_comments_name_what_a_script_leaves_out() -> None:
    """Comments stand for hostNetwork pods and for programs."""
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
