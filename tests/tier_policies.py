"""Random policies of tiers around random NetworkPolicies, for property tests."""

from __future__ import annotations

from collections.abc import Sequence

import yaml
from hypothesis import strategies as st

from kubenetlab.api.core import Node
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.observe.policies.evaluator import Party
from tests.clusters import applied
from tests.policies import CLUSTER, NAMES, NAMESPACES, OUTSIDE, SELECTORS, with_policies
from tests.policies import POLICIES as NETWORK_POLICIES

Document = dict[str, object]

_PODS: st.SearchStrategy[Document] = st.one_of(
    st.builds(lambda spaces: {"namespaces": spaces}, NAMESPACES),
    st.builds(
        lambda pods, spaces: {"pods": {"podSelector": pods, "namespaceSelector": spaces}},
        SELECTORS,
        NAMESPACES,
    ),
)
_ADDRESSES: st.SearchStrategy[Document] = st.sampled_from(
    [
        {"nodes": {}},
        {"nodes": {"matchLabels": {"kubernetes.io/hostname": "worker"}}},
        {"nodes": {"matchExpressions": [{"key": "absent", "operator": "Exists"}]}},
        {"networks": ["0.0.0.0/0"]},
        {"domainNames": ["*.example.com"]},
        {"networks": ["198.51.100.0/24", "2001:db8::/32"]},
        {"networks": ["10.244.1.5/24", "::/0"]},
    ]
)
_PORTS: st.SearchStrategy[Document] = st.sampled_from(
    [
        {"tcp": {"destinationPort": {"number": 80}}},
        {"tcp": {"destinationPort": {"range": {"start": 79, "end": 8080}}}},
        {"udp": {"destinationPort": {"number": 53}}},
        {"sctp": {"destinationPort": {"range": {"start": 1, "end": 65535}}}},
    ]
)
_NAMED_PORTS: st.SearchStrategy[Document] = st.sampled_from(
    [{"destinationNamedPort": "http"}, {"destinationNamedPort": "dns"}]
)


def _rules(
    peers: str, peer: st.SearchStrategy[Document], port: st.SearchStrategy[Document]
) -> st.SearchStrategy[list[Document]]:
    rule = st.builds(
        lambda action, some, protocols: {
            "action": "Accept" if any("domainNames" in each for each in some) else action,
            peers: some,
            **({"protocols": protocols} if protocols else {}),
        },
        st.sampled_from(["Accept", "Deny", "Pass"]),
        st.lists(peer, min_size=1, max_size=2),
        st.lists(port, max_size=2),
    )
    return st.lists(rule, max_size=3)


TIER_POLICIES: st.SearchStrategy[Document] = st.builds(
    lambda tier, priority, subject, ingress, to_pods, to_others: {
        "tier": tier,
        "priority": priority,
        "subject": subject,
        "ingress": ingress,
        "egress": [*to_pods, *to_others],
    },
    st.sampled_from(["Admin", "Admin", "Baseline"]),
    st.integers(0, 3),
    _PODS,
    _rules("from", _PODS, st.one_of(_PORTS, _NAMED_PORTS)),
    _rules("to", _PODS, st.one_of(_PORTS, _NAMED_PORTS)),
    _rules("to", _PODS | _ADDRESSES, _PORTS),
)
"""Specs of ClusterNetworkPolicies. Named ports cannot be combined with nodes and networks."""
WORLDS = st.tuples(
    st.lists(NETWORK_POLICIES, max_size=3), st.lists(TIER_POLICIES, min_size=1, max_size=4)
)
"""(NetworkPolicies, specs of ClusterNetworkPolicies)"""


def with_tiers(policies: Sequence[Document], specs: Sequence[Document]) -> Cluster:
    """Return the cluster with NetworkPolicies and ClusterNetworkPolicies."""
    documents = [
        {
            "apiVersion": "policy.networking.k8s.io/v1alpha2",
            "kind": "ClusterNetworkPolicy",
            "metadata": {"name": f"c{number}"},
            "spec": spec,
        }
        for number, spec in enumerate(specs)
    ]
    cluster = with_policies(policies)
    return applied(cluster, yaml.safe_dump_all(documents)) if documents else cluster


def parties_of(version: int) -> list[Party]:
    """Return the pods, their node, another node, and a host outside, in one IP version."""
    index = (4, 6).index(version)
    pods = (CLUSTER.get(Pod, *name.split("/")) for name in NAMES)
    nodes = (CLUSTER.get(Node, "", name) for name in ("worker", "worker2"))
    return [
        *(Party(pod.addresses[index], pod.full_name, "worker") for pod in pods if pod is not None),
        *(Party(node.addresses[index], node=node.name) for node in nodes if node is not None),
        Party(OUTSIDE[version]),
    ]
