"""The plan: kernel objects that each component wants."""

from __future__ import annotations

import re
from typing import Any

import pytest
from msgspec import structs

from kubenetlab.api.lab import Decisions
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.termination import terminated
from kubenetlab.datapath import plan, plan_probes
from kubenetlab.datapath.contexts import Contexts
from kubenetlab.datapath.decisions import decide
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.proxy.services import Backend, categorize
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.link import Port, Veth
from kubenetlab.hoststate.neighbor import Neighbor
from kubenetlab.hoststate.peers import Peers
from kubenetlab.hoststate.programs import ProgramRun
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.rules.nftables import Chain, Collection, Element
from kubenetlab.hoststate.state import HostState
from kubenetlab.names import pod_netns
from tests.clusters import (
    NOW,
    ONE_NODE,
    ONLINK,
    deployment,
    observed,
    pod,
    pod_named,
    report,
    running,
    service,
    settled,
    store,
    web_pods,
)


def planned(
    cluster: Cluster, decisions: Decisions = ONLINK, memo: PlanCache | None = None
) -> HostState:
    return plan(cluster, decisions, memo)


def objects_of(state: HostState, netns: str, type_: type[Any]) -> list[Any]:
    return [part for obj in state[netns].values() for part in obj.parts if isinstance(part, type_)]


def netns_of(cluster: Cluster, name: str) -> str:
    found = pod_named(cluster, name)
    return pod_netns(found.namespace, found.name, found.uid)


def elements(state: HostState, node: str, collection: str) -> dict[str, str]:
    return {
        element.item: element.value
        for element in objects_of(state, f"node/{node}", Element)
        if element.collection == collection
    }


# --- wiring ---


def test_an_onlink_pod_is_in_its_nodes_subnet() -> None:
    """Its default route is via the bridge; the node's end is a hairpin port with the pod's name."""
    cluster = store(pod("a"))
    state, netns = planned(cluster), netns_of(cluster, "a")
    assert objects_of(state, netns, Address) == [Address(netns, "eth0", "10.244.1.2/24")]
    assert objects_of(state, netns, Route) == [Route(netns, "0.0.0.0/0", "eth0", via="10.244.1.1")]
    assert not objects_of(state, netns, Neighbor)
    (veth,) = objects_of(state, netns, Veth)
    assert (veth.mac, veth.peer_netns, veth.peer, veth.alias) == (
        "0a:58:0a:f4:01:02",
        "node/worker",
        "veth0",
        "cni bridge: pod default/a",
    )
    port = next(port for port in objects_of(state, "node/worker", Port) if port.name == "veth0")
    assert (port.master, port.mac) == ("cbr0", "0a:59:0a:f4:01:02")
    assert (port.alias, port.is_hairpin) == ("cni bridge: pod default/a", True)


def test_a_routed_pod_has_only_a_route_to_its_gateway() -> None:
    """It has a /32 address, a link route to the gateway, and a default route via it."""
    cluster = store(pod("a"))
    netns = netns_of(cluster, "a")
    state = planned(cluster, Decisions(pod_layout="routed", neighbors="permanent"))
    assert objects_of(state, netns, Address) == [Address(netns, "eth0", "10.244.1.2/32")]
    assert objects_of(state, netns, Route) == [
        Route(netns, "10.244.1.1/32", "eth0"),
        Route(netns, "0.0.0.0/0", "eth0", via="10.244.1.1"),
    ]
    assert objects_of(state, netns, Neighbor) == [
        Neighbor(netns, "eth0", "10.244.1.1", "0a:58:0a:f4:01:01")
    ]


def test_permanent_neighbors_list_every_neighbor_on_the_link() -> None:
    """A pod has the gateway and the other pods; a node has its pods, the router and other nodes."""
    cluster = store(ONE_NODE.replace("nodes:", "external: []\nnodes:") + deployment(replicas=3))
    state = planned(cluster, Decisions(pod_layout="onlink", neighbors="permanent"))
    netns = netns_of(cluster, web_pods(cluster)[0].name)
    others = {f"10.244.0.{number}" for number in range(1, 7)}
    (own,) = objects_of(state, netns, Address)
    (peers,) = objects_of(state, netns, Peers)
    assert [neighbor.address for neighbor in objects_of(state, netns, Neighbor)] == ["10.244.0.1"]
    assert {address for address, _ in peers.entries} == others - {
        own.address.partition("/")[0],
        "10.244.0.1",
    }
    assert {neighbor.address for neighbor in objects_of(state, "node/control-plane", Neighbor)} == {
        f"10.244.0.{number}" for number in range(2, 7)
    } | {"172.18.0.1"}


def test_a_node_has_one_address_and_a_route_to_every_other_node() -> None:
    """The bridge's address is no source, and the route to the pods has the node's own address."""
    state = planned(store())
    assert Address(
        "node/worker", "cbr0", "10.244.1.1/24", is_source=False, has_route=False
    ) in objects_of(state, "node/worker", Address)
    assert objects_of(state, "node/worker", Route) == [
        Route("node/worker", "0.0.0.0/0", "eth0", via="172.18.0.1"),
        Route("node/worker", "10.244.1.0/24", "cbr0", source="172.18.0.3"),
        Route("node/worker", "10.244.0.0/24", "eth0", via="172.18.0.2"),
        Route("node/worker", "10.244.2.0/24", "eth0", via="172.18.0.4"),
    ]


def test_the_router_has_no_route_to_pods() -> None:
    """From outside a pod's address is not reachable."""
    state = planned(store())
    assert not objects_of(state, "fabric/router", Route)
    assert [address.address for address in objects_of(state, "fabric/router", Address)] == [
        "172.18.0.1/16",
        "198.51.100.1/24",
    ]


def test_every_object_has_an_origin() -> None:
    """Origins name the component and the Kubernetes object that want a kernel object."""
    cluster = store(pod("a") + service())
    state = planned(cluster)
    assert all(state.origin(obj) is not None for obj in state.objects())
    (veth,) = objects_of(state, netns_of(cluster, "a"), Veth)
    assert str(state.origin(veth)) == "cni bridge, for Pod default/a"
    assert {
        str(state.origin(rule))
        for rule in objects_of(state, "node/worker", Chain)
        if rule.table == "kube-proxy"
    } == {"kube-proxy nftables, for Node worker"}


# --- rules ---


def test_a_service_is_a_map_entry_a_chain_and_a_chain_per_endpoint() -> None:
    """Names and rules are those of kube-proxy (proxier_test.go)."""
    cluster = running(store(deployment(replicas=2) + service(clusterIP="10.96.7.7")))
    state = planned(cluster)
    addresses = sorted(address for found in web_pods(cluster) for address in found.addresses)
    (item,) = [
        key for key in elements(state, "worker", "service-ips") if key.startswith("10.96.7.7 ")
    ]
    assert item == "10.96.7.7 . tcp . 80"
    chains = {
        chain.name: [rule.text for rule in chain.rules]
        for chain in objects_of(state, "node/worker", Chain)
    }
    service_chain = elements(state, "worker", "service-ips")[item].removeprefix("goto ")
    assert re.fullmatch(r"service-[A-Z2-7]{8}-default/web/tcp/", service_chain)
    masquerade, choose = chains[service_chain]
    assert masquerade == "ip daddr 10.96.7.7 ip saddr != 10.244.0.0/16 jump mark-for-masquerade"
    endpoint_chains = re.findall(r"goto (\S+?)[, ]", choose)
    assert choose.startswith("numgen random mod 2 vmap { 0 : goto endpoint-")
    assert [chains[name] for name in endpoint_chains] == [
        [f"ip saddr {address} jump mark-for-masquerade", f"meta l4proto tcp dnat to {address}:8080"]
        for address in addresses
    ]
    assert all(
        re.fullmatch(rf"endpoint-[A-Z2-7]{{8}}-default/web/tcp/__{address}/8080", name)
        for name, address in zip(endpoint_chains, addresses, strict=True)
    )
    assert "10.96.7.7" in elements(state, "worker", "cluster-ips")


def test_session_affinity_remembers_clients_by_endpoint() -> None:
    """Each endpoint has a set of recent clients, with the timeout of the manifest.

    Packets that reach the endpoint update it, and it is matched before a new endpoint is drawn.
    """
    cluster = running(
        store(
            deployment(replicas=2)
            + service(
                sessionAffinity="ClientIP", sessionAffinityConfig="{clientIP: {timeoutSeconds: 60}}"
            )
        )
    )
    state = planned(cluster)
    first, second = sorted(found.addresses[0] for found in web_pods(cluster))
    sets = {
        found.name: found.timeout_s
        for found in objects_of(state, "node/worker", Collection)
        if found.timeout_s
    }
    assert [re.sub("-[A-Z2-7]{8}-", "-HASH-", name) for name in sets] == [
        f"affinity-HASH-default/web/tcp/__{address}/8080" for address in (first, second)
    ]
    assert set(sets.values()) == {60}
    chains = {
        chain.name.partition("-")[0]: chain
        for chain in objects_of(state, "node/worker", Chain)
        if "default/web/" in chain.name
    }
    gotos = [rule.text for rule in chains["service"].rules[1:-1]]
    assert [re.sub("-[A-Z2-7]{8}-", "-HASH-", text) for text in gotos] == [
        f"ip saddr @affinity-HASH-default/web/tcp/__{address}/8080 "
        f"goto endpoint-HASH-default/web/tcp/__{address}/8080"
        for address in (first, second)
    ]
    assert f"update @{list(sets)[1]} {{ ip saddr }}" in [
        rule.text for rule in chains["endpoint"].rules
    ]


@pytest.mark.parametrize(
    ("spec", "verdict"), [({}, "goto reject-chain"), ({"internalTrafficPolicy": "Local"}, "drop")]
)
def test_a_service_without_usable_endpoints_is_rejected_or_dropped(
    spec: dict[str, Any], verdict: str
) -> None:
    """It is rejected without any endpoint, and dropped if only a policy Local excludes them."""
    cluster = running(store(deployment(replicas=1) + service(**spec)), ready=bool(spec))
    state = planned(cluster)
    own_node = web_pods(cluster)[0].spec.node_name
    other_node = next(name for name in ("worker", "worker2") if name != own_node)
    assert [
        value
        for key, value in elements(state, other_node, "no-endpoint-services").items()
        if key.endswith(" . 80")
    ] == [verdict]
    if spec:
        assert not [
            key
            for key in elements(state, own_node, "no-endpoint-services")
            if key.endswith(" . 80")
        ]


def test_terminating_endpoints_serve_when_there_are_no_others() -> None:
    """Ready endpoints come first, then those that serve while they terminate; no others serve."""
    cluster = running(store(deployment(replicas=2) + service()))
    first, second = web_pods(cluster)
    cluster = settled(cluster.with_changes(terminated(first, NOW)))

    def targets(found: Cluster) -> set[str]:
        return {
            address
            for chain in objects_of(planned(found), "node/worker", Chain)
            if chain.comment == "default/web"
            for rule in chain.rules
            for address in re.findall(r"dnat to (\S+):", rule.text)
        }

    assert first.addresses[0] not in targets(cluster)
    alone = running(store(deployment(replicas=1) + service()))
    (only,) = web_pods(alone)
    dying = settled(alone.with_changes(terminated(only, NOW)), NOW)
    assert targets(dying) == {only.addresses[0]}
    assert second.addresses[0] in targets(cluster)


def test_categorize_selects_endpoints_as_upstream() -> None:
    """The states are those that Kubernetes' CategorizeEndpoints distinguishes."""
    from kubenetlab.api.discovery import Endpoint, EndpointConditions

    def endpoint(
        number: int, *, ready: bool, serving: bool, terminating: bool
    ) -> tuple[Endpoint, Backend]:
        address = f"10.0.0.{number}"
        return Endpoint((address,), EndpointConditions(ready, serving, terminating)), Backend(
            address, 80
        )

    ready = endpoint(1, ready=True, serving=True, terminating=False)
    dying = endpoint(2, ready=False, serving=True, terminating=True)
    sick = endpoint(3, ready=False, serving=False, terminating=False)
    assert categorize([ready, dying, sick]) == (ready[1],)
    assert categorize([dying, sick]) == (dying[1],)
    assert categorize([sick]) == ()


# --- programs and files ---


@pytest.mark.parametrize(
    ("annotations", "containers", "expected"),
    [
        (
            "",
            "{name: main, image: x, ports: [{containerPort: 9000}, {containerPort: 53, "
            "protocol: UDP}]}",
            "9000/tcp 53/udp",
        ),
        ("", "{name: main, image: x}", "7000/tcp"),
        (
            "",
            "{name: main, image: x, ports: [{containerPort: 9000}]}, {name: side, image: y}",
            "9000/tcp; 7000/tcp",
        ),
        (
            "",
            "{name: main, image: x}, {name: side, image: y, ports: [{containerPort: 7000}]}",
            "; 7000/tcp",
        ),
        ("", "{name: shell, image: busybox}, {name: main, image: x}", "; 7000/tcp"),
        (
            "kubenetlab.dev/listen: 1234/TCP, ",
            "{name: main, image: x, ports: [{containerPort: 9000}]}",
            "1234/tcp",
        ),
        (
            "kubenetlab.dev/listen: '1/UDP,2', ",
            "{name: main, image: agnhost, args: [pause]}, {name: side, image: y}",
            "; 1/udp 2/tcp",
        ),
    ],
)
def test_containers_listen_on_declared_and_target_ports(
    annotations: str, containers: str, expected: str
) -> None:
    """Target ports of Services are used for a container without declared ports.

    The annotation takes precedence.
    """
    meta = f"{{name: a, labels: {{app: web}}, annotations: {{{annotations}}}}}"
    text = (
        f"apiVersion: v1\nkind: Pod\nmetadata: {meta}\nspec: {{containers: [{containers}]}}\n---\n"
    )
    cluster = store(text + service(target=7000))
    runs = objects_of(planned(cluster), netns_of(cluster, "a"), ProgramRun)
    assert "; ".join(" ".join(map(str, run.listeners)) for run in runs) == expected


def test_a_container_in_backoff_is_not_run() -> None:
    """The plan has no program during CrashLoopBackOff, and a new attempt afterwards."""
    from kubenetlab.api.lab import ContainerReport

    cluster = running(store(pod("a")))
    for attempt in (0, 1):
        cluster = report(cluster, "a", ContainerReport(attempt, "failed", 1, "no", NOW), now=NOW)
    assert not objects_of(planned(cluster), netns_of(cluster, "a"), ProgramRun)
    (run,) = objects_of(planned(settled(cluster, NOW + 10)), netns_of(cluster, "a"), ProgramRun)
    assert run.attempt == 2


@pytest.mark.parametrize(
    ("spec", "resolv_conf"),
    [
        (
            "",
            "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver "
            "10.96.0.10\noptions ndots:5\n",
        ),
        (", hostNetwork: true", ""),
        (
            ", hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet",
            "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver "
            "10.96.0.10\noptions ndots:5\n",
        ),
        (
            ", dnsPolicy: None, dnsConfig: {nameservers: [1.2.3.4], searches: [a.b], "
            "options: [{name: ndots, value: '2'}, {name: edns0}]}",
            "search a.b\nnameserver 1.2.3.4\noptions ndots:2 edns0\n",
        ),
        (
            ", dnsConfig: {nameservers: [1.2.3.4], searches: [svc.cluster.local, x.y], "
            "options: [{name: ndots, value: '1'}]}",
            "search default.svc.cluster.local svc.cluster.local cluster.local x.y\n"
            "nameserver 10.96.0.10\nnameserver 1.2.3.4\noptions ndots:1\n",
        ),
    ],
)
def test_resolv_conf_follows_the_dns_policy(spec: str, resolv_conf: str) -> None:
    """Entries of dnsConfig are appended without duplicates."""
    cluster = store(pod("a", spec))
    context = Contexts(cluster, ONLINK).get(netns_of(cluster, "a"))
    assert context is not None
    assert context.files.resolv_conf == resolv_conf


def test_hosts_has_the_pods_line_and_aliases() -> None:
    """It is `address<tab>fqdn<tab>hostname`, followed by hostAliases."""
    cluster = store(
        pod(
            "a",
            ", hostname: h, subdomain: sub, hostAliases: [{ip: 10.1.2.3, hostnames: "
            "[foo.remote, bar.remote]}]",
        )
    )
    context = Contexts(cluster, ONLINK).get(netns_of(cluster, "a"))
    assert context is not None
    assert context.files.hostname == "h"
    assert context.files.hosts.splitlines()[0] == "# Kubernetes-managed hosts file."
    assert context.files.hosts.splitlines()[-4:] == [
        "10.244.1.2\th.sub.default.svc.cluster.local\th",
        "",
        "# Entries added by HostAliases.",
        "10.1.2.3\tfoo.remote\tbar.remote",
    ]


def test_probes_follow_the_manifest() -> None:
    """An exec probe of a built-in program becomes a connect; a missing probe becomes a ping."""
    text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [%s]}\n---\n"
    containers = [
        "{name: c1, image: x, ports: [{name: web, containerPort: 80}], readinessProbe: "
        "{httpGet: {path: /ok, port: web, httpHeaders: [{name: A, value: b}]}}}",
        "{name: c2, image: x, ports: [{containerPort: 81}], readinessProbe: {tcpSocket: "
        "{port: 9}}, livenessProbe: {grpc: {port: 1}}}",
        "{name: c3, image: x, ports: [{containerPort: 82}], readinessProbe: {exec: {command: "
        "[x]}}}",
        "{name: c4, image: x, ports: [{containerPort: 83}]}",
        "{name: c5, image: busybox}",
    ]
    cluster = running(store(text % ", ".join(containers)))
    specs = plan_probes(cluster, ONLINK, PlanCache())[netns_of(cluster, "a")]
    probes = [
        (spec.container, spec.kind, spec.method, spec.port, spec.is_implied) for spec in specs
    ]
    assert probes == [
        ("c1", "readiness", "http", 80, False),
        ("c2", "readiness", "tcp", 9, False),
        ("c2", "liveness", "grpc", 1, False),
        ("c3", "readiness", "tcp", 82, False),
        ("c4", "readiness", "ping", 0, True),
        ("c5", "readiness", "ping", 0, True),
    ]
    assert (specs[0].path, specs[0].headers, specs[0].node_netns, specs[0].address) == (
        "/ok",
        (("A", "b"),),
        "node/worker",
        "10.244.1.2",
    )


# --- what is computed again ---


def test_a_changed_endpoint_recomputes_only_what_depends_on_it() -> None:
    """For a pod that becomes unready, these are its programs and the rules of each node."""
    cluster = running(store(deployment(replicas=30) + service()))
    memo = PlanCache()
    before = planned(cluster, memo=memo)
    calls = memo.calls
    changed = settled(cluster.with_changes([observed(web_pods(cluster)[7], ready=False)]))
    after = planned(changed, memo=memo)
    (
        its_programs,
        rules_of_its_service,
        is_it_the_same_everywhere,
        set_of_rules,
        rules_of_nodes,
        contents_of_nodes,
    ) = 1, 1, 1, 1, 3, 3
    expected = (
        its_programs
        + rules_of_its_service
        + is_it_the_same_everywhere
        + set_of_rules
        + rules_of_nodes
        + contents_of_nodes
    )
    assert memo.calls - calls == expected
    assert {netns for netns in after.namespaces if after[netns] is not before[netns]} == {
        "node/control-plane",
        "node/worker",
        "node/worker2",
    }
    planned(changed, memo=memo)
    assert memo.calls - calls == expected


# --- choices ---


@pytest.mark.parametrize(
    ("replicas", "has_br_netfilter", "layout", "neighbors"),
    [
        (3, True, "onlink", "dynamic"),
        (3, False, "routed", "dynamic"),
        (60, True, "onlink", "permanent"),
        (65, True, "routed", "dynamic"),
        (130, True, "routed", "permanent"),
    ],
)
def test_the_layout_depends_on_kernel_and_size(
    replicas: int, has_br_netfilter: bool, layout: str, neighbors: str
) -> None:
    """Without br_netfilter or with more than 64 pods per node it is routed.

    With more than 256 possible neighbours their entries are permanent.
    """
    cluster = settled(store(ONE_NODE + deployment(replicas=replicas)))
    decisions = decide(
        cluster.with_changes([structs.replace(ONLINK, is_final=False)]),
        has_br_netfilter=has_br_netfilter,
    )
    assert (decisions.pod_layout, decisions.neighbors) == (layout, neighbors)


def test_a_running_lab_keeps_its_layout() -> None:
    """Neighbours may become permanent when it grows. Options of the mode take precedence."""
    small = store(deployment(replicas=3))
    kept = decide(small, has_br_netfilter=True)
    grown = settled(store(ONE_NODE + deployment(replicas=70))).with_changes([kept])
    grown_decisions = decide(grown, has_br_netfilter=False)
    assert (grown_decisions.pod_layout, grown_decisions.neighbors) == ("onlink", "permanent")
    assert (
        decide(
            small.with_changes([structs.replace(grown_decisions, is_final=True)]),
            has_br_netfilter=True,
        ).neighbors
        == "permanent"
    )
    document = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {cni: {type: bridge, "
        "layout: routed, neighbors: permanent}}\n---\n"
    )
    decisions = decide(
        store(document).with_changes([structs.replace(kept, is_final=False)]), has_br_netfilter=True
    )
    assert (decisions.pod_layout, decisions.neighbors) == ("routed", "permanent")
