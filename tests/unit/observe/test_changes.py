"""Connections that a change of manifests opens and closes."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

import tests.examples  # noqa: F401
from kubenetlab.api.core import Node
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.observe.changes.changes import Change, compare
from kubenetlab.observe.changes.words import sentences
from kubenetlab.observe.policies.evaluator import Evaluator
from kubenetlab.observe.policies.model import Party, Traffic
from tests.clusters import DUAL, running, store
from tests.policies import CLUSTER, NAMES, POLICIES, with_policies

PODS = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: shop}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {containers: [{name: c, image: agnhost}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: shop, ports: [{containerPort: 8080, name: http}]}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  serviceName: db
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: c, image: db, ports: [{containerPort: 5432}]}]}
---
"""
KIND = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"


def policy(spec: str, name: str = "p", namespace: str = "shop") -> str:
    return f"{KIND}metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n"


def cluster(policies: str = "", pods: str = PODS) -> Cluster:
    return running(store(pods + policies))


def rows(old: Cluster, new: Cluster) -> list[tuple[object, ...]]:
    return [
        (change.change, change.sources, change.destinations, change.ports)
        for change in compare(old, new)
    ]


DENY_WEB = policy("{podSelector: {matchLabels: {app: web}}}")
WEB_FROM_SHOP = policy(
    "{podSelector: {matchLabels: {app: web}}, "
    "ingress: [{from: [{podSelector: {}}], ports: [{port: http}]}]}"
)
OPEN = cluster()


def test_equal_versions_have_no_change() -> None:
    """Also with policies, and with another order of the documents."""
    both = DENY_WEB + policy("{podSelector: {}, policyTypes: [Egress]}", "q")
    assert compare(cluster(both), cluster(both)) == []
    reverse = policy("{podSelector: {}, policyTypes: [Egress]}", "q") + DENY_WEB
    assert compare(cluster(both), cluster(reverse)) == []
    assert list(sentences([])) == ["The change opens and closes no connection."]


def test_a_new_policy_closes_connections_of_groups() -> None:
    """Pods of a namespace, and hosts outside, are named together; the reason has file and line."""
    changes = compare(OPEN, cluster(DENY_WEB))
    line = PODS.count("\n") + 1
    assert changes == [
        Change(
            "closed",
            ("all pods in shop", "default/client", "nodes", "other hosts outside"),
            ("deploy:shop/web",),
            ("all ports",),
            "allowed",
            "denied",
            (f"NetworkPolicy shop/p (test.yaml:{line}) isolates the destination",),
            15,
        )
    ]


def test_a_rule_opens_connections_again() -> None:
    """Ports are those on which pods listen, others, and pings."""
    (opened,) = compare(cluster(DENY_WEB), cluster(WEB_FROM_SHOP))
    assert (opened.change, opened.sources, opened.ports) == (
        "opened",
        ("all pods in shop",),
        ("8080/TCP",),
    )
    (reason,) = opened.reasons
    assert reason.startswith("NetworkPolicy shop/p rule 0 (test.yaml:")


def test_the_last_policy_of_a_pod_opens_all_connections_when_it_is_removed() -> None:
    """The reason names the policy of the old version."""
    (opened,) = compare(cluster(DENY_WEB), OPEN)
    assert opened.change == "opened"
    assert opened.reasons[0].startswith("no policy isolates the destination any more; before: ")


def test_egress_divides_the_addresses_outside() -> None:
    """Ranges of both versions count, and exceptions are ranges of their own."""
    spec = (
        "{{podSelector: {{matchLabels: {{app: db}}}}, policyTypes: [Egress], "
        "egress: [{{to: [{{ipBlock: {{cidr: 192.0.2.0/24, except: [{}]}}}}]}}]}}"
    )
    old, new = (cluster(policy(spec.format(hole))) for hole in ("192.0.2.0/26", "192.0.2.0/25"))
    assert rows(old, new) == [
        ("closed", ("sts:shop/db",), ("outside 192.0.2.0/25 (rest)",), ("all ports",))
    ]


OF_ONE = "{{podSelector: {{matchLabels: {{statefulset.kubernetes.io/pod-name: {}}}}}}}"


def test_single_pods_of_a_statefulset_can_differ() -> None:
    """They keep their names, so that a rule that moves from one to another is seen."""
    first, second = (cluster(policy(OF_ONE.format(name))) for name in ("db-0", "db-1"))
    for old, new, expected in (
        (OPEN, first, {("closed", ("shop/db-0",))}),
        (first, second, {("opened", ("shop/db-0",)), ("closed", ("shop/db-1",))}),
    ):
        changes = compare(old, new)
        assert {(change.change, change.destinations) for change in changes} == expected
        assert {frozenset((each.before, each.after)) for each in changes} == {
            frozenset(("allowed", "denied"))
        }


def test_pods_that_only_one_version_has_make_a_change_partial() -> None:
    more = cluster(policy(OF_ONE.format("db-0")), PODS.replace("replicas: 2", "replicas: 3"))
    changes = compare(OPEN, more)
    assert {(change.before, change.after) for change in changes} == {("allowed", "partly")}
    assert any("in part (some pods still can)" in line for line in sentences(changes))


def test_pods_of_a_deployment_differ_by_their_ranges() -> None:
    """Each node has a range of addresses for its pods."""
    nodes = sorted({pod.addresses[0] for pod in OPEN.all(Pod) if pod.name.startswith("web-")})
    assert len(nodes) > 1
    old, new = (
        cluster(
            policy(
                "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: "
                f"{{cidr: {address}/32}}}}]}}]}}"
            )
        )
        for address in nodes[:2]
    )
    assert {row[:3] for row in rows(old, new)} == {
        ("closed", (f"deploy:shop/web in {nodes[0]}/32",), ("sts:shop/db",)),
        ("opened", (f"deploy:shop/web in {nodes[1]}/32",), ("sts:shop/db",)),
    }


def test_nodes_differ_by_their_addresses_and_labels() -> None:
    addresses = {node.name: node.addresses[0] for node in OPEN.all(Node)}
    from_node = (
        "{{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{from: [{{ipBlock: "
        "{{cidr: {}/32}}}}]}}]}}"
    )
    to_node = (
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n"
        "metadata: {{name: guard}}\nspec: {{tier: Admin, priority: 1, "
        "subject: {{pods: {{podSelector: {{matchLabels: {{app: client}}}}}}}}, "
        "egress: [{{action: Deny, to: [{{nodes: {{matchLabels: "
        "{{kubernetes.io/hostname: {}}}}}}}]}}]}}\n---\n"
    )
    (client,) = (pod for pod in OPEN.all(Pod) if pod.name == "client")
    first, second = [name for name in addresses if name != client.spec.node_name][:2]
    old, new = (cluster(policy(from_node.format(addresses[name]))) for name in (first, second))
    found = {(change.change, change.sources) for change in compare(old, new)}
    assert found <= {("closed", (f"node:{first}",)), ("opened", (f"node:{second}",))}
    assert found
    old, new = (cluster(to_node.format(name)) for name in (first, second))
    assert {row[:3] for row in rows(old, new)} == {
        ("opened", ("default/client",), (f"node:{first}",)),
        ("closed", ("default/client",), (f"node:{second}",)),
    }


def test_new_and_removed_pods_are_named_as_such() -> None:
    """Their connections were absent before."""
    fewer = "---\n".join(PODS.split("---\n")[:-2])
    changes = compare(cluster(pods=fewer), OPEN)
    assert {change.reasons for change in changes} == {("new",)}
    assert all("sts:shop/db" in (*change.sources, *change.destinations) for change in changes)
    assert {change.reasons for change in compare(OPEN, cluster(pods=fewer))} == {("removed",)}
    assert any(line.startswith("- New: sts:shop/db can") for line in sentences(changes))


@pytest.mark.parametrize("label", ["{app: client}", "{app: other}"])
def test_labels_change_connections_without_a_new_policy(label: str) -> None:
    """The policy is the same, and selects the pod in one version only."""
    allowed = policy(
        "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: {}, "
        "podSelector: {matchLabels: {app: client}}}]}]}"
    )
    changed = PODS.replace("labels: {app: client}", f"labels: {label}")
    expected = [] if label == "{app: client}" else ["closed"]
    found = compare(cluster(allowed), cluster(allowed, changed))
    assert [change.change for change in found] == expected


def test_policies_of_tiers_count() -> None:
    """A ClusterNetworkPolicy is named with its kind."""
    tier = (
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n"
        "metadata: {name: guard}\nspec: {tier: Admin, priority: 1, "
        "subject: {namespaces: {matchLabels: {team: shop}}}, "
        "ingress: [{action: Deny, from: [{namespaces: {matchLabels: "
        "{kubernetes.io/metadata.name: default}}}]}]}\n---\n"
    )
    (closed,) = compare(OPEN, cluster(tier))
    assert (closed.sources, closed.destinations) == (("default/client",), ("all pods in shop",))
    assert closed.reasons[0].startswith("ClusterNetworkPolicy guard rule 0 (test.yaml:")


def test_both_families_of_a_dual_stack_cluster_are_compared() -> None:
    """Rows name the secondary one only if the families differ."""
    old, new = running(store(DUAL + PODS)), running(store(DUAL + PODS + DENY_WEB))
    (closed,) = compare(old, new)
    assert closed.sources == ("all pods in shop", "all hosts outside", "default/client", "nodes")
    spec = (
        "{{podSelector: {{matchLabels: {{app: db}}}}, "
        "ingress: [{{from: [{{ipBlock: {{cidr: {}}}}}]}}]}}"
    )
    inside, outside = (
        running(store(DUAL + PODS + policy(spec.format(f'"{cidr}"'))))
        for cidr in ("fd00::/8", "2001:db8::/32")
    )
    changes = compare(inside, outside)
    pods = ("default/client", "deploy:shop/web", "nodes", "sts:shop/db")
    assert [(change.change, change.sources, change.destinations) for change in changes] == [
        ("closed", tuple(f"{title} over IPv6" for title in pods), ("sts:shop/db over IPv6",)),
        ("opened", ("outside 2001:db8::/32",), ("sts:shop/db",)),
        ("closed", ("outside fd00::/8",), ("sts:shop/db",)),
    ]


def _db(ports: str) -> str:
    """Return a policy that allows connections from web to some ports of db."""
    return policy(
        "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: "
        f"{{matchLabels: {{app: web}}}}}}], ports: [{ports}]}}]}}"
    )


@pytest.mark.parametrize(
    ("old", "new", "closed", "opened"),
    [
        ("{port: 7000}", "{port: 7001}", "7000/TCP", "7001/TCP"),
        ("{port: 7000, endPort: 7099}", "{port: 7000, endPort: 7020}", "7021-7099/TCP", ""),
        ("{port: 7000}", "{port: 7000}, {port: 53, protocol: UDP}", "", "53/UDP"),
        ("{port: 7000}", "{port: 7000}, {protocol: SCTP}", "", "other SCTP ports"),
        ("{protocol: TCP}", "{protocol: UDP}", "5432/TCP, other TCP ports", "other UDP ports"),
        ("{port: 1, endPort: 65535}", "{protocol: TCP}", "", ""),
        ("{port: 5432}", "{port: http}", "5432/TCP", ""),
        ("{port: 7000}, {port: 7001}", "{port: 7000, endPort: 7001}", "", ""),
    ],
)
def test_ports_that_only_policies_name_are_shown(
    old: str, new: str, closed: str, opened: str
) -> None:
    """No container declares them; ports that policies do not distinguish are one entry."""
    changes = compare(cluster(_db(old)), cluster(_db(new)))
    shown = {change.change: ", ".join(change.ports) for change in changes}
    assert shown == {
        kind: ports for kind, ports in (("closed", closed), ("opened", opened)) if ports
    }
    assert {(change.sources, change.destinations) for change in changes} <= {
        (("deploy:shop/web",), ("sts:shop/db",))
    }


HOSTS = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
external:
- {name: api.github.com, address: 198.51.100.20, ports: [443]}
- {name: www.example.org, address: 198.51.100.30}
---
"""
DOMAIN = """\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {{name: names}}
spec:
  tier: Admin
  priority: 1
  subject: {{namespaces: {{matchLabels: {{team: shop}}}}}}
  egress:
  - {{action: Accept, to: [{{domainNames: ["{}"]}}]}}
  - {{action: Deny, to: [{{networks: [0.0.0.0/0]}}]}}
---
"""
FQDN = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: names, namespace: shop}}
spec:
  endpointSelector: {{}}
  egress:
  - toFQDNs: [{{matchPattern: "{}"}}]
    toPorts: [{{ports: [{{port: "443"}}]}}]
---
"""


@pytest.mark.parametrize(
    ("template", "ports"), [(DOMAIN, ("all ports",)), (FQDN, ("443/TCP", "443/UDP", "443/SCTP"))]
)
def test_names_of_external_hosts_are_resolved(template: str, ports: tuple[str, ...]) -> None:
    """Hosts that policies mean by their names are named as targets."""
    old, new = (
        cluster(HOSTS + template.format(name)) for name in ("api.github.com", "*.example.org")
    )
    changes = compare(old, new)
    assert {(change.change, change.sources, change.destinations) for change in changes} == {
        ("closed", ("all pods in shop",), ("ext:api.github.com",)),
        ("opened", ("all pods in shop",), ("ext:www.example.org",)),
    }
    assert {frozenset(change.ports) for change in changes} == {frozenset(ports)}


def _changed(change: Change) -> set[tuple[str, str, str]]:
    """Return the pairs of pods and ports of a change."""
    members = {f"all pods in {name.partition('/')[0]}": set[str]() for name in NAMES}
    for name in NAMES:
        members[f"all pods in {name.partition('/')[0]}"].add(name)
    everything = {"all pods": set(NAMES), **members}
    sources, destinations = (
        {name for title in titles for name in everything.get(title, {title})}
        for titles in (change.sources, change.destinations)
    )
    ports = PORTS if change.ports == ("all ports",) else PORTS.keys() & set(change.ports)
    return {
        (source, destination, port)
        for source in sources & set(NAMES)
        for destination in destinations & set(NAMES)
        for port in ports
        if source != destination
    }


PORTS = {"8080/TCP": Traffic("TCP", 8080), "53/UDP": Traffic("UDP", 53), "ping": Traffic("ICMP")}


@settings(max_examples=60, deadline=None)
@given(st.lists(POLICIES, max_size=3), st.lists(POLICIES, max_size=3))
def test_changes_are_those_of_all_verdicts(
    old: list[dict[str, object]], new: list[dict[str, object]]
) -> None:
    """For random policies, groups and merged rows contain exactly the pairs that change."""
    versions = [with_policies(policies) for policies in (old, new)]
    evaluators = [Evaluator(each) for each in versions]
    pods = {pod.full_name: pod for pod in CLUSTER.all(Pod)}
    parties = {
        name: Party(pods[name].addresses[0], name, pods[name].spec.node_name) for name in NAMES
    }
    expected: dict[str, set[tuple[str, str, str]]] = {"opened": set(), "closed": set()}
    for source, destination in permutations(NAMES, 2):
        for port, traffic in PORTS.items():
            before, after = (
                each.verdict(parties[source], parties[destination], traffic).is_allowed
                for each in evaluators
            )
            if before != after:
                expected["opened" if after else "closed"].add((source, destination, port))
    found: dict[str, set[tuple[str, str, str]]] = {"opened": set(), "closed": set()}
    for change in compare(versions[0], versions[1]):
        found[change.change] |= _changed(change)
    assert found == expected


BESIDE = (1, 52, 53, 54, 78, 79, 80, 81, 100, 101, 8079, 8080, 8081, 65535)
"""Ports that random policies name, and those beside them."""


def _is_shown(change: Change, traffic: Traffic) -> bool:
    """Return True if a change names a port, or has other ports of its protocol."""
    for title in change.ports:
        numbers, _, protocol = title.partition("/")
        first, _, last = numbers.partition("-")
        if title in ("all ports", "other ports", f"other {traffic.protocol} ports") or (
            protocol == traffic.protocol and int(first) <= traffic.port <= int(last or first)
        ):
            return True
    return False


@settings(max_examples=40, deadline=None)
@given(st.lists(POLICIES, max_size=3), st.data())
def test_each_verdict_that_changes_is_shown(
    old: list[dict[str, object]], data: st.DataObject
) -> None:
    """Whatever the port and its protocol, if one policy of several is replaced."""
    index = data.draw(st.integers(0, len(old)))
    new = [*old[:index], data.draw(POLICIES), *old[index + 1 :]]
    versions = [with_policies(policies) for policies in (old, new)]
    evaluators = [Evaluator(each) for each in versions]
    pods = {pod.full_name: pod for pod in CLUSTER.all(Pod)}
    parties = {
        name: Party(pods[name].addresses[0], name, pods[name].spec.node_name) for name in NAMES
    }
    shown = [
        (change, {pair[:2] for pair in _changed(_on_all_ports(change))})
        for change in compare(versions[0], versions[1])
    ]
    for pair in permutations(NAMES, 2):
        for traffic in (Traffic(each, port) for each in ("TCP", "UDP", "SCTP") for port in BESIDE):
            before, after = (
                each.verdict(parties[pair[0]], parties[pair[1]], traffic).is_allowed
                for each in evaluators
            )
            kind = "opened" if after else "closed"
            assert before == after or any(
                change.change == kind and pair in pairs and _is_shown(change, traffic)
                for change, pairs in shown
            )


def _on_all_ports(change: Change) -> Change:
    return structs.replace(change, ports=("all ports",))
