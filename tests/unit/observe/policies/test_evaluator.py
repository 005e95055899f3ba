"""Verdicts about connections: each sentence of the definition of NetworkPolicy."""

from __future__ import annotations

import pytest

from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.observe.policies.evaluator import Evaluator, Party, RuleReference, Traffic
from tests.clusters import running, store
from tests.policies import PODS


def policy(spec: str, name: str = "p", namespace: str = "default") -> str:
    return f"""
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec}
---
"""


def party(cluster: Cluster, name: str) -> Party:
    """Return a pod `namespace/name`, a node `node:name`, or the host outside."""
    if name == "outside":
        return Party("198.51.100.10")
    if name.startswith("node:"):
        node = name.removeprefix("node:")
        return Party({"worker": "172.18.0.3", "worker2": "172.18.0.4"}[node], node=node)
    pod = cluster.get(Pod, *name.split("/"))
    assert pod is not None
    return Party(pod.addresses[0], name, pod.spec.node_name)


def is_allowed(policies: str, source: str, destination: str, traffic: Traffic) -> bool:
    cluster = running(store(PODS + policies))
    return (
        Evaluator(cluster)
        .verdict(party(cluster, source), party(cluster, destination), traffic)
        .is_allowed
    )


HTTP = Traffic("TCP", 8080)
DNS = Traffic("UDP", 53)
PING = Traffic("ICMP")
DENY = policy("{podSelector: {}}")
DENY_BOTH = policy("{podSelector: {}, policyTypes: [Ingress, Egress]}")
TO_WEB = ("default/db", "default/web")
FROM_WEB = ("default/web", "default/db")


def from_(peer: str, ports: str = "") -> str:
    """Return a policy that allows connections to `web` from a peer."""
    return policy(
        f"{{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{from: [{peer}]{ports}}}]}}"
    )


def to_(peer: str, ports: str = "") -> str:
    """Return a policy that allows connections of `web` to a peer."""
    return policy(
        f"{{podSelector: {{matchLabels: {{app: web}}}}, policyTypes: [Egress],"
        f" egress: [{{to: [{peer}]{ports}}}]}}"
    )


def ports(entries: str, *, egress: bool = False) -> str:
    """Return a policy that allows connections to, or of, `web` at some ports."""
    rules = f"egress: [{{ports: [{entries}]}}]" if egress else f"ingress: [{{ports: [{entries}]}}]"
    types = "Egress" if egress else "Ingress"
    return policy(
        f"{{podSelector: {{matchLabels: {{app: web}}}}, policyTypes: [{types}], {rules}}}"
    )


SAME = "{podSelector: {matchLabels: {tier: back}}}"
OPS = "{namespaceSelector: {matchLabels: {team: ops}}}"
EVERY_NAMESPACE = "{namespaceSelector: {}}"
BOTH = "{namespaceSelector: {matchLabels: {team: ops}}, podSelector: {matchLabels: {app: web}}}"
EITHER = "{namespaceSelector: {matchLabels: {team: ops}}}, {podSelector: {matchLabels: {app: db}}}"


@pytest.mark.parametrize(
    ("policies", "source", "destination", "traffic", "expected"),
    [
        pytest.param("", *TO_WEB, HTTP, True, id="no policy isolates"),
        pytest.param(DENY, *TO_WEB, HTTP, False, id="without rules nothing is allowed"),
        pytest.param(DENY, *TO_WEB, PING, False, id="nor is ICMP"),
        pytest.param(DENY, "default/web", "prod/web", HTTP, True, id="egress stays free"),
        pytest.param(DENY, "dev/tool", "prod/web", HTTP, True, id="other namespaces stay free"),
        pytest.param(DENY_BOTH, "default/web", "prod/web", HTTP, False, id="both directions"),
        pytest.param(
            policy("{podSelector: {}, egress: [{}]}"), *TO_WEB, HTTP, False, id="types by default"
        ),
        pytest.param(
            policy("{podSelector: {}, policyTypes: [Egress], ingress: []}"),
            "outside",
            "default/web",
            HTTP,
            True,
            id="types as given",
        ),
        pytest.param(
            policy("{podSelector: {}, ingress: [{}]}"),
            "outside",
            "default/web",
            PING,
            True,
            id="an empty rule allows all",
        ),
        pytest.param(
            policy("{podSelector: {}, ingress: [{from: [], ports: []}]}"),
            "outside",
            "default/web",
            HTTP,
            True,
            id="empty lists are absent",
        ),
        pytest.param(
            policy(
                "{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [web]}]}}"
            ),
            *FROM_WEB,
            HTTP,
            False,
            id="expressions select",
        ),
        pytest.param(DENY + from_(SAME), *TO_WEB, HTTP, True, id="policies are a union"),
        pytest.param(from_(SAME), "prod/web", "default/web", HTTP, False, id="own namespace only"),
        pytest.param(from_(OPS), "prod/web", "default/web", HTTP, True, id="namespace by label"),
        pytest.param(from_(OPS), "dev/tool", "default/web", HTTP, False, id="other namespace"),
        pytest.param(from_(EVERY_NAMESPACE), *TO_WEB, HTTP, True, id="every namespace"),
        pytest.param(
            from_(EVERY_NAMESPACE), "outside", "default/web", HTTP, False, id="no outside host"
        ),
        pytest.param(from_(BOTH), "prod/web", "default/web", HTTP, True, id="AND in one entry"),
        pytest.param(from_(BOTH), *TO_WEB, HTTP, False, id="AND needs both"),
        pytest.param(from_(EITHER), *TO_WEB, HTTP, True, id="OR of two entries"),
        pytest.param(
            from_("{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: dev}}}"),
            "dev/tool",
            "default/web",
            HTTP,
            True,
            id="namespace by name",
        ),
        pytest.param(
            from_("{ipBlock: {cidr: 198.51.100.0/24}}"),
            "outside",
            "default/web",
            HTTP,
            True,
            id="addresses",
        ),
        pytest.param(
            from_("{ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.8/29]}}"),
            "outside",
            "default/web",
            HTTP,
            False,
            id="addresses except some",
        ),
        pytest.param(
            from_(
                "{ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.8/29]}},"
                " {ipBlock: {cidr: 198.51.100.10/32}}"
            ),
            "outside",
            "default/web",
            HTTP,
            True,
            id="another block allows them",
        ),
        pytest.param(
            from_("{ipBlock: {cidr: 10.244.1.7/16}}"), *TO_WEB, HTTP, True, id="addresses of pods"
        ),
        pytest.param(
            from_("{ipBlock: {cidr: 172.18.0.4/32}}"),
            "node:worker2",
            "default/web",
            HTTP,
            True,
            id="another node by its address",
        ),
        pytest.param(DENY, "node:worker2", "default/web", HTTP, False, id="another node"),
        pytest.param(DENY, "node:worker", "default/web", HTTP, True, id="the own node"),
        pytest.param(DENY, "dev/agent", "default/web", HTTP, True, id="hostNetwork is the node"),
        pytest.param(DENY_BOTH, "default/web", "node:worker", HTTP, True, id="to the own node"),
        pytest.param(DENY_BOTH, "default/web", "default/web", HTTP, True, id="a pod to itself"),
        pytest.param(
            policy("{podSelector: {}, policyTypes: [Ingress, Egress]}", namespace="dev"),
            "outside",
            "dev/agent",
            HTTP,
            True,
            id="hostNetwork is not isolated",
        ),
        pytest.param(
            from_("{podSelector: {}}", ", ports: [{port: 8080}]"), *TO_WEB, HTTP, True, id="a port"
        ),
        pytest.param(ports("{port: 8080}"), *TO_WEB, PING, False, id="no ICMP with ports"),
        pytest.param(
            ports("{protocol: UDP, port: 8080}"), *TO_WEB, HTTP, False, id="another protocol"
        ),
        pytest.param(ports("{}"), *TO_WEB, HTTP, True, id="all TCP ports"),
        pytest.param(ports("{}"), *TO_WEB, DNS, False, id="but not UDP"),
        pytest.param(ports("{port: 8000, endPort: 8080}"), *TO_WEB, HTTP, True, id="last of range"),
        pytest.param(ports("{port: 8000, endPort: 8079}"), *TO_WEB, HTTP, False, id="behind range"),
        pytest.param(ports("{port: http}"), *TO_WEB, HTTP, True, id="named port"),
        pytest.param(ports("{port: dns}"), *TO_WEB, DNS, False, id="name of another protocol"),
        pytest.param(
            ports("{port: dns, protocol: UDP}"), *TO_WEB, DNS, True, id="named port with protocol"
        ),
        pytest.param(
            ports("{port: http}", egress=True), *FROM_WEB, HTTP, True, id="name at the destination"
        ),
        pytest.param(
            ports("{port: http}", egress=True),
            "default/web",
            "outside",
            HTTP,
            False,
            id="hosts have no names",
        ),
        pytest.param(to_(OPS), "default/web", "prod/web", HTTP, True, id="egress to namespace"),
        pytest.param(to_(OPS), *FROM_WEB, HTTP, False, id="egress elsewhere"),
        pytest.param(
            to_(OPS) + policy("{podSelector: {}}", namespace="prod"),
            "default/web",
            "prod/web",
            HTTP,
            False,
            id="both ends must allow",
        ),
    ],
)
def test_connections_are_allowed_as_defined(
    policies: str, source: str, destination: str, traffic: Traffic, *, expected: bool
) -> None:
    assert is_allowed(policies, source, destination, traffic) == expected


def test_a_verdict_names_policies_and_rules() -> None:
    """The first policy isolates alone; the second isolates, too, and one of its rules allows."""
    rules = "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: x}}}]}, {}]}"
    cluster = running(store(PODS + policy("{podSelector: {}}", "deny") + policy(rules, "allow")))
    verdict = Evaluator(cluster).verdict(
        party(cluster, "outside"), party(cluster, "default/web"), HTTP
    )
    assert verdict.is_allowed
    assert verdict.egress.isolated_by == ()
    assert verdict.ingress.isolated_by == ("default/deny", "default/allow")
    assert verdict.ingress.allowed_by == (RuleReference("default/allow", 1),)
