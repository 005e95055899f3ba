"""A few pods, and random network policies of them, for property tests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import yaml
from hypothesis import strategies as st
from msgspec import structs

import tests.examples  # noqa: F401
from kubenetlab.api.core import Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.kinds import POLICY_GROUP_KINDS, POLICY_KINDS
from kubenetlab.api.meta import Resource
from kubenetlab.api.store import Cluster
from kubenetlab.datapath import plan
from kubenetlab.hoststate.rules.rulesets import RuleObject
from kubenetlab.observe.policies.evaluator import Traffic
from tests.clusters import DUAL, ONLINK, applied, running, store

PODS = """
apiVersion: v1
kind: Namespace
metadata: {name: prod, labels: {team: ops}}
---
apiVersion: v1
kind: Namespace
metadata: {name: dev}
---
"""


def pod(name: str, labels: str = "", spec: str = "") -> str:
    """Return the manifest of a pod `namespace/name` on the node `worker`, with two named ports."""
    namespace, _, short = name.partition("/")
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {short}, namespace: {namespace}, labels: {{app: {short}{labels}}}}}
spec:
  nodeName: worker
  {spec}
  containers:
  - name: main
    image: agnhost
    ports:
    - {{name: http, containerPort: 8080}}
    - {{name: dns, containerPort: 53, protocol: UDP}}
---
"""


PODS += (
    pod("default/web", ", tier: front")
    + pod("default/db", ", tier: back")
    + pod("prod/web", ", tier: front")
    + pod("dev/tool", spec="serviceAccountName: robot")
    + pod("dev/agent", spec="hostNetwork: true")
)

NAMES = ("default/web", "default/db", "prod/web", "dev/tool")
OUTSIDE = {4: "198.51.100.10", 6: "2001:db8::10"}
TRAFFIC = (
    Traffic("TCP", 8080),
    Traffic("TCP", 80),
    Traffic("UDP", 53),
    Traffic("SCTP", 53),
    Traffic("ICMP"),
)

LABELS = st.sampled_from(
    [{}, {"app": "web"}, {"tier": "back"}, {"app": "tool"}, {"app": "web", "tier": "front"}]
)
EXPRESSIONS = st.sampled_from(
    [
        {"key": "app", "operator": "In", "values": ["web", "db"]},
        {"key": "tier", "operator": "NotIn", "values": ["front"]},
        {"key": "tier", "operator": "Exists"},
        {"key": "tier", "operator": "DoesNotExist"},
    ]
)
SELECTORS = st.builds(
    lambda labels, expressions: {"matchLabels": labels, "matchExpressions": expressions},
    LABELS,
    st.lists(EXPRESSIONS, max_size=1),
)
NAMESPACES = st.sampled_from(
    [
        {},
        {"matchLabels": {"team": "ops"}},
        {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
        {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]},
    ]
)
BLOCKS = st.sampled_from(
    [
        {"cidr": "0.0.0.0/0"},
        {"cidr": "0.0.0.0/0", "except": ["198.51.100.0/24", "10.244.0.0/16"]},
        {"cidr": "10.244.1.5/24", "except": ["10.244.1.0/30"]},
        {"cidr": "10.244.1.2/32"},
        {"cidr": "10.244.0.0/16", "except": ["10.244.1.2/32"]},
        {"cidr": "fd00:10:244::/48", "except": ["fd00:10:244:1::2/128"]},
        {"cidr": "::/0", "except": ["fd00:10:244::/48"]},
        {"cidr": "2001:db8::/32"},
    ]
)
PEERS = st.one_of(
    st.builds(lambda pods: {"podSelector": pods}, SELECTORS),
    st.builds(lambda spaces: {"namespaceSelector": spaces}, NAMESPACES),
    st.builds(
        lambda pods, spaces: {"podSelector": pods, "namespaceSelector": spaces},
        SELECTORS,
        NAMESPACES,
    ),
    st.builds(lambda block: {"ipBlock": block}, BLOCKS),
)
PORTS = st.sampled_from(
    [
        {},
        {"port": 80},
        {"port": 79, "endPort": 8080},
        {"port": "http"},
        {"port": "dns", "protocol": "UDP"},
        {"protocol": "UDP"},
        {"port": 53, "protocol": "SCTP"},
    ]
)


MANY_PORTS = [
    *({"port": number} for number in range(1, 30, 2)),
    {"port": 100, "endPort": 200},
    {"port": 9000},
    {"port": 53, "protocol": "UDP"},
    *({"port": number, "protocol": "SCTP"} for number in range(19, 60, 2)),
]
"""More ports of one protocol than a rule of iptables can have."""


def rules(peers: str) -> st.SearchStrategy[object]:
    rule = st.builds(
        lambda some, ports: {peers: some, "ports": ports},
        st.lists(PEERS, max_size=2),
        st.lists(PORTS, max_size=3) | st.just(MANY_PORTS),
    )
    return st.lists(rule, max_size=2)


POLICIES = st.builds(
    lambda namespace, pods, types, ingress, egress: {
        "namespace": namespace,
        "spec": {"podSelector": pods, "policyTypes": types, "ingress": ingress, "egress": egress},
    },
    st.sampled_from(["default", "prod", "dev"]),
    SELECTORS,
    st.sampled_from([[], ["Ingress"], ["Egress"], ["Ingress", "Egress"]]),
    rules("from"),
    rules("to"),
)
CLUSTER = running(store(DUAL + PODS))
"""A lab with the pods and without policies."""


CILIUM = structs.replace(ONLINK, cni_mode="cilium", cni_options={})
"""Decisions for a lab in the CNI mode cilium."""


@cache
def cilium_cluster() -> Cluster:
    """Return a lab with the same pods, at the same addresses, in the CNI mode cilium."""
    cluster = DUAL.replace("networking: {", "networking: {cni: cilium, ")
    return running(store(cluster + PODS))


def with_policies(policies: Sequence[dict[str, object]]) -> Cluster:
    documents = [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": f"p{number}", "namespace": policy["namespace"]},
            "spec": policy["spec"],
        }
        for number, policy in enumerate(policies)
    ]
    return applied(CLUSTER, yaml.safe_dump_all(documents)) if documents else CLUSTER


def node_rules(engine: str, cluster: Cluster) -> list[RuleObject]:
    """Return the rules of a policy engine for the node `worker`, which has all pods.

    Those of ebpf are rules of the CNI mode cilium, with all entries of its maps.
    """
    if engine == "ebpf":
        return _cilium_rules(cluster)
    config = cluster.config
    networking = structs.replace(config.networking, policy_engine=engine)
    state = plan(cluster.with_changes([structs.replace(config, networking=networking)]), ONLINK)
    return [
        obj
        for obj in state["node/worker"].values()
        if isinstance(obj, RuleObject)
        and (origin := state.origin(obj)) is not None
        and origin.component == f"policy {engine}"
    ]


def _cilium_rules(cluster: Cluster) -> list[RuleObject]:
    # Policies can refer to groups of ranges, and name Services.
    kinds: tuple[type[Resource], ...] = (
        *POLICY_KINDS,
        *POLICY_GROUP_KINDS,
        Service,
        EndpointSlice,
    )
    objects = [obj for kind in kinds for obj in cluster.all(kind)]
    desired = plan(cilium_cluster().with_changes(objects), CILIUM)
    return [
        obj
        for obj in desired["node/worker"].values()
        if isinstance(obj, RuleObject) and obj.backend == "cilium"
    ]
