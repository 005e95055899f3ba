"""BGPFilters, prefix advertisements and other settings of sessions: policies, and diagnostics."""

from __future__ import annotations

import pytest

from kubenetlab.datapath.network.bgp import Peer
from kubenetlab.datapath.network.bgp_policy import Mark
from kubenetlab.datapath.network.bird import bird_config, without_routes
from kubenetlab.datapath.pod_networks import pod_network
from kubenetlab.diagnostics import diagnose
from kubenetlab.hoststate.files import File
from tests.clusters import problems_of, store
from tests.unit.datapath.network.test_calico_bgp import (
    CALICO,
    CLUSTER,
    NO_MESH,
    NODE_3,
    TOPOLOGY,
    configuration,
    peer,
    sessions,
    speakers,
)

ALL = "{peerSelector: all(), filters: [f]}"
TOR = "{peerIP: 172.18.0.1, asNumber: 65000, filters: [f]}"
ROUTED = CLUSTER % ("calico", TOPOLOGY)


def bgp_filter(spec: str, name: str = "f") -> str:
    return (
        "apiVersion: projectcalico.org/v3\nkind: BGPFilter\n"
        f"metadata: {{name: {name}}}\nspec: {spec}\n---\n"
    )


def reported(text: str) -> list[tuple[str, str, str]]:
    """Return (code, subject, message) of each diagnostic."""
    return [(each.code, each.subject, each.message) for each in diagnose(store(text))]


@pytest.mark.parametrize(
    ("rule", "statement"),
    [
        ("{action: Reject}", "reject;"),
        (
            "{action: Accept, matchOperator: In, cidr: 10.9.0.0/16}",
            "if net ~ [ 10.9.0.0/16{16,32} ] then accept;",
        ),
        (
            "{action: Reject, matchOperator: NotIn, cidr: 10.9.0.0/16, prefixLength: {max: 24}}",
            "if net !~ [ 10.9.0.0/16{16,24} ] then reject;",
        ),
        (
            "{action: Reject, matchOperator: Equal, cidr: 10.9.0.0/16}",
            "if net ~ [ 10.9.0.0/16{16,16} ] then reject;",
        ),
        (
            "{action: Reject, matchOperator: NotEqual, cidr: 10.9.0.0/16}",
            "if net !~ [ 10.9.0.0/16{16,16} ] then reject;",
        ),
        (
            "{action: Reject, matchOperator: In, cidr: 10.9.0.0/16, prefixLength: {min: 20, "
            "max: 18}}",
            "if false then reject;",
        ),
        ("{action: Reject, source: RemotePeers}", "if source = RTS_BGP then reject;"),
        ("{action: Reject, interface: '*.calico'}", 'if ifname ~ "*.calico" then reject;'),
        (
            "{action: Reject, communities: {values: ['65000:1']}}",
            "if (65000, 1) ~ bgp_community then reject;",
        ),
        (
            "{action: Accept, asPathPrefix: [65000, 65001], "
            "operations: [{addCommunity: {value: '1:2:3'}}, {prependASPath: {prefix: [7, 8]}}]}",
            "if bgp_path ~ [= 65000 65001 * =] then { bgp_large_community.add((1, 2, 3)); "
            "bgp_path.prepend(8); bgp_path.prepend(7); accept; }",
        ),
        ("{action: Reject, peerType: eBGP}", ""),
        ("{action: Reject, peerType: iBGP}", "reject;"),
        ("{action: Reject, priority: 512}", ""),
    ],
)
def test_rules_are_statements_of_bird(rule: str, statement: str) -> None:
    """A rule for other peers, or with a condition that is not enforced, is left out."""
    text = CALICO + NO_MESH + peer(ALL) + bgp_filter(f"{{importV4: [{rule}]}}")
    config = bird_config(speakers(text)["worker"])
    expected = f"    # BGPFilter f\n    {statement}\n    accept;\n" if statement else ""
    imports = f"import filter {{\n{expected}  }};" if statement else "import all;"
    assert config.count(imports) == 2
    assert "export where" in config


def test_filters_of_a_session_are_in_its_order_and_by_family() -> None:
    """Those of the other IP version and the mesh do not change."""
    text = (
        CALICO.replace("{cni:", "{ipFamily: dual, cni:")
        + peer("{peerIP: 172.18.0.1, asNumber: 65001, filters: [g, f]}")
        + bgp_filter("{exportV4: [{action: Accept, matchOperator: In, cidr: 10.9.0.0/16}]}")
        + bgp_filter("{exportV4: [{action: Reject}], exportV6: [{action: Reject}]}", "g")
    )
    by_node = sessions(text)["worker"]
    session = by_node.pop("Global_172_18_0_1")
    assert [(rule.origin, rule.is_accepted) for rule in session.exports] == [
        ("BGPFilter g", False),
        ("BGPFilter f", True),
    ]
    assert {(each.exports, each.imports) for each in by_node.values()} == {((), ())}


def test_an_accepted_route_gets_no_communities_of_the_configuration() -> None:
    """Rules come first, then the routes that nodes announce anyway, then the communities."""
    text = (
        CALICO
        + NO_MESH.replace(
            "false}",
            "false, communities: [{name: tor, value: '65000:300:1'}], prefixAdvertisements: "
            "[{cidr: 10.244.0.0/16, communities: [tor, '65000:20']}, "
            "{cidr: 'fd00::/8', communities: ['1:1']}]}",
        )
        + peer(ALL)
        + bgp_filter("{exportV4: [{action: Accept, matchOperator: In, cidr: 10.244.9.0/24}]}")
    )
    assert (
        "export filter {\n"
        "    # BGPFilter f\n"
        "    if net ~ [ 10.244.9.0/24{24,32} ] then accept;\n"
        "    if !(source ~ [ RTS_STATIC ]) then reject;\n"
        "    if net ~ 10.244.0.0/16 then { bgp_large_community.add((65000, 300, 1)); "
        "bgp_community.add((65000, 20)); }\n"
        "    accept;\n"
        "  }; };" in bird_config(speakers(text)["worker"])
    )


def test_the_configuration_of_a_node_replaces_the_communities_of_all() -> None:
    spec = "{prefixAdvertisements: [{cidr: 10.9.0.0/16, communities: ['65000:%d']}]}"
    text = CALICO + configuration(spec % 1) + configuration(spec % 2, "node.worker")
    marks = {
        node: {each.marks for each in by_name.values()} for node, by_name in sessions(text).items()
    }
    assert marks == {
        "control-plane": {(Mark("10.9.0.0/16", ("65000:1",)),)},
        "worker": {(Mark("10.9.0.0/16", ("65000:2",)),)},
        "worker2": {(Mark("10.9.0.0/16", ("65000:1",)),)},
    }
    assert reported(text) == []
    unknown = reported(CALICO + configuration(spec % 2, "node.n9"))
    assert unknown[0][0] == "bgp-setting-unused"
    assert "no such node" in unknown[0][2]


def test_settings_of_sessions() -> None:
    """Restart times, manual reverse sessions, and the address on which BIRD listens."""
    text = (
        CALICO
        + NO_MESH.replace("false}", "false, bindMode: NodeIP}")
        + peer(
            "{nodeSelector: rack == 'a', peerSelector: rack == 'b', reversePeering: Manual, "
            "maxRestartTime: 1m30s, sourceAddress: None}"
        )
    )
    by_node = sessions(text)
    assert [list(each) for each in by_node.values()] == [
        ["Node_172_18_0_4"],
        ["Node_172_18_0_4"],
        [],
    ]
    config = bird_config(speakers(text)["worker"])
    assert "  strict bind on;" in config
    assert "  graceful restart time 90;" in config
    assert "0.0.0.0" not in config
    mesh = CALICO + configuration("{nodeMeshMaxRestartTime: 20s}")
    assert {each.restart_time_s for each in sessions(mesh)["worker"].values()} == {20}


def test_next_hops_within_an_autonomous_system_and_to_another_one() -> None:
    """Unlike nextHopMode, keepOriginalNextHop has no effect within one."""

    def next_hops(field: str) -> list[str]:
        text = CALICO + NO_MESH + NODE_3 % ("projectcalico.org/ASNumber", "65001")
        return [
            each.next_hop
            for each in sessions(text + peer(f"{{peerSelector: all(), {field}}}"))[
                "worker"
            ].values()
        ]

    assert next_hops("nextHopMode: Auto") == ["", "self"]
    assert next_hops("keepOriginalNextHop: true") == ["", "keep"]
    assert next_hops("nextHopMode: Keep") == ["keep", "keep"]
    assert next_hops("nextHopMode: Self") == ["self", "self"]


def learned(text: str) -> dict[str, int]:
    """Return the number of routes for which each node waits."""
    cni, views = pod_network(store(text))
    return {
        view.name: sum(len(getattr(obj, "provides", ())) for obj in cni.node(view))
        for view in views
    }


PODS = "".join(
    f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {node}}}\n"
    f"spec: {{nodeName: {node}, containers: [{{name: main, image: agnhost}}]}}\n---\n"
    for node in ("control-plane", "worker", "worker2")
)


@pytest.mark.parametrize(
    ("spec", "rule", "waits", "codes"),
    [
        (ALL, "", 2, []),
        (ALL, "exportV4: [{action: Reject}]", 0, ["bgp-route-missing"]),
        (ALL, "importV4: [{action: Reject}]", 0, ["bgp-route-missing"]),
        (ALL, "exportV6: [{action: Reject}]", 2, []),
        (ALL, "exportV4: [{action: Reject, source: RemotePeers}]", 2, []),
        (ALL, "importV4: [{action: Reject, communities: {values: ['1:1']}}]", 0, []),
        (
            ALL,
            "importV4: [{action: Accept, matchOperator: In, cidr: 10.0.0.0/8}, {action: Reject}]",
            2,
            [],
        ),
    ],
)
def test_nodes_wait_for_routes_that_filters_accept(
    spec: str, rule: str, waits: int, codes: list[str]
) -> None:
    """A rejected range of pods is reported. One that depends on attributes is neither."""
    text = CALICO + NO_MESH + PODS + peer(spec) + bgp_filter(f"{{{rule}}}")
    assert set(learned(text).values()) == {waits}
    assert [code for code, *_ in reported(text)] == codes


def test_filters_of_the_session_with_the_router() -> None:
    """Routes come over the router, which waits for what nodes export to it."""
    spec = TOR.replace("}", ", numAllowedLocalASNumbers: 1}")
    open_ = ROUTED + PODS + peer(spec) + bgp_filter("{}")
    assert set(learned(open_).values()) == {2}
    closed = open_ + bgp_filter("{exportV4: [{action: Reject}]}")
    assert set(learned(closed).values()) == {0}
    assert [code for code, *_ in reported(closed)] == ["bgp-route-missing"]
    routed = {each.gets_learned for each in sessions(open_)["worker"].values()}
    assert routed == {True}  # as Calico does; a rule with the source RemotePeers rejects them


def test_filters_of_a_reflector() -> None:
    """Routes of its clients pass its rules for import and for export."""
    reflector = NODE_3 % ("projectcalico.org/RouteReflectorClusterID", "244.0.0.1")
    clients = peer("{nodeSelector: rack == 'a', peerSelector: rack == 'b', filters: [f]}")
    text = CALICO + NO_MESH + PODS + reflector + clients
    assert set(learned(text + bgp_filter("{}")).values()) == {2}
    closed = text + bgp_filter("{exportV4: [{action: Reject, source: RemotePeers}]}")
    assert learned(closed) == {"control-plane": 1, "worker": 1, "worker2": 2}
    ((code, _, message),) = reported(closed)
    assert code == "bgp-route-missing"
    assert "of worker, and 1 more routes: filters of the BGP sessions reject it" in message


@pytest.mark.parametrize(
    ("text", "code", "subject"),
    [
        (peer(ALL), "bgp-setting-unused", "BGPPeer tor: spec.filters[0]"),
        (bgp_filter("{}"), "bgp-setting-unused", "BGPFilter f"),
        (configuration("{listenPort: 178}"), "not-enforced", "BGPConfiguration default: spec.lis"),
        (
            peer("{peerSelector: all(), keepaliveTime: 10s}"),
            "not-enforced",
            "BGPPeer tor: spec.keepaliveTime",
        ),
        (
            peer(ALL)
            + bgp_filter("{importV6: [{action: Accept, operations: [{setPriority: {value: 1}}]}]}"),
            "not-enforced",
            "BGPFilter f: spec.importV6[0].operations[0].setPriority",
        ),
    ],
)
def test_settings_without_effect_are_reported(text: str, code: str, subject: str) -> None:
    ((found, subject_found, _),) = reported(CALICO + text)
    assert found == code
    assert subject_found.startswith(subject)


@pytest.mark.parametrize(
    "text",
    [
        configuration("{listenPort: 179, ignoredInterfaces: [], logSeverityScreen: Debug}"),
        configuration("{ipv4NormalRoutePriority: 1024, serviceLoadBalancerAggregation: Enabled}"),
    ],
)
def test_defaults_of_fields_are_not_reported(text: str) -> None:
    assert reported(CALICO + text) == []


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("{}", "action: required, but missing"),
        ("{action: Drop}", "action"),
        ("{action: Accept, cidr: 10.9.0.0/16}", "matchOperator: expected both"),
        ("{action: Accept, matchOperator: In}", "cidr: expected both"),
        ("{action: Accept, matchOperator: In, cidr: 'fd00::/8'}", "expected a range of IPv4"),
        ("{action: Accept, prefixLength: {min: 3}}", "prefixLength: expected cidr"),
        (
            "{action: Accept, matchOperator: In, cidr: 10.0.0.0/8, prefixLength: {max: 33}}",
            "expected a prefix length to 32, found 33",
        ),
        ("{action: Accept, interface: a;b}", "expected the name of a link"),
        ("{action: Accept, communities: {values: [a]}}", "expected a community"),
        ("{action: Accept, communities: {values: ['1:1', '1:2']}}", "expected a list of 1 to 1"),
        ("{action: Reject, operations: [{addCommunity: {value: '1:1'}}]}", "only rules with the"),
        ("{action: Accept, operations: [{}]}", "expected one operation, found 0"),
        ("{action: Accept, operations: [{addCommunity: {value: '1'}}]}", "expected a community"),
    ],
)
def test_invalid_rules_are_refused(rule: str, problem: str) -> None:
    text = bgp_filter(f"{{importV4: [{rule}]}}")
    assert any(problem in str(each) for each in problems_of(text, strict=True))


def test_a_fault_refuses_routes_before_the_rules() -> None:
    """The rules of a filter cannot accept what the fault `route` takes away."""
    text = CALICO + NO_MESH + PODS + peer(ALL) + bgp_filter("{importV4: [{action: Accept}]}")
    cni, views = pod_network(store(text))
    objects = tuple(cni.node(views[0]))
    (config,) = [
        obj for obj in without_routes(objects, ("10.244.9.0/26",)) if isinstance(obj, File)
    ]
    assert config.content.count(
        "import filter {\n    if net ~ [ 10.244.9.0/26+ ] then reject;\n    # BGPFilter f\n"
    ) == len([each for each in sessions(text)["worker"].values() if isinstance(each, Peer)])
