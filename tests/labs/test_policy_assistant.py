"""The evaluator decides like policy-assistant, which upstream's definition of the API comes with.

policy-assistant knows NetworkPolicy, AdminNetworkPolicy and BaselineAdminNetworkPolicy in version
0.1.1. Two of its differences from the API are left out of the worlds: the operator NotIn, which
there does not match a missing label, and named ports, whose protocol it takes from their names.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.clusters import applied
from tests.examples import examples
from tests.labs.policy_judges import (
    Document,
    Judge,
    assert_same_verdicts,
    is_comparable,
    network_policies,
    policy_judge,
)
from tests.policies import NAMESPACES, SELECTORS, with_policies
from tests.policies import POLICIES as ALL_POLICIES
from tests.upstream.programs import POLICY_ASSISTANT

VERSION = "policy.networking.k8s.io/v1alpha1"


POLICIES = ALL_POLICIES.filter(is_comparable)
PEERS = st.one_of(
    st.builds(lambda spaces: {"namespaces": spaces}, NAMESPACES),
    st.builds(
        lambda pods, spaces: {"pods": {"podSelector": pods, "namespaceSelector": spaces}},
        SELECTORS.filter(is_comparable),
        NAMESPACES,
    ),
)
PORTS = st.sampled_from(
    [
        {"portNumber": {"port": 80}},
        {"portNumber": {"port": 53, "protocol": "UDP"}},
        {"portRange": {"start": 79, "end": 8080}},
        {"portRange": {"start": 1, "end": 65535, "protocol": "SCTP"}},
    ]
)


def _specs(actions: Sequence[str]) -> st.SearchStrategy[Document]:
    def rules(peers: str) -> st.SearchStrategy[list[Document]]:
        rule = st.builds(
            lambda action, some, ports: {
                "action": action,
                peers: some,
                **({"ports": ports} if ports else {}),
            },
            st.sampled_from(actions),
            st.lists(PEERS, min_size=1, max_size=2),
            st.lists(PORTS, max_size=2),
        )
        return st.lists(rule, max_size=3)

    specs: st.SearchStrategy[Document] = st.builds(
        lambda subject, ingress, egress: {
            "subject": subject,
            "ingress": ingress,
            "egress": egress,
        },
        PEERS,
        rules("from"),
        rules("to"),
    )
    return specs.filter(lambda spec: bool(spec["ingress"] or spec["egress"]))


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with policy_judge(POLICY_ASSISTANT, "policy-assistant") as ask:
        yield ask


def test_verdicts_are_those_of_policy_assistant(judge: Judge) -> None:
    """Random policies of all three kinds; pods and a host outside, in both IP versions."""

    @settings(max_examples=examples(1000), deadline=None)
    @given(
        policies=st.lists(POLICIES, max_size=3),
        admin=st.lists(_specs(["Allow", "Deny", "Pass"]), max_size=4),
        baseline=st.none() | _specs(["Allow", "Deny"]),
    )
    def check(policies: list[Document], admin: list[Document], baseline: Document | None) -> None:
        cluster = with_policies(policies)
        tiers = [
            _policy("AdminNetworkPolicy", f"a{9 - number}", {**spec, "priority": number})
            for number, spec in enumerate(admin)
        ]
        if baseline is not None:
            tiers.append(_policy("BaselineAdminNetworkPolicy", "default", baseline))
        if tiers:
            cluster = applied(cluster, yaml.safe_dump_all(tiers))
        assert_same_verdicts(
            judge,
            cluster,
            {
                "Policies": network_policies(cluster, policies),
                "Admin": [_old(each) for each in tiers if "priority" in each["spec"]],
                "Baseline": _old(tiers[-1]) if baseline is not None else None,
            },
        )

    check()


def _policy(kind: str, name: str, spec: Document) -> Document:
    return {"apiVersion": VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def _old(policy: Document) -> Document:
    """Return a policy with peers as in version 0.1.1, where selectors were one level deeper."""
    result = copy.deepcopy(policy)
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for rule in result["spec"][direction]:
            rule[peers] = [_old_peer(peer) for peer in rule[peers]]
    return result


def _old_peer(peer: Document) -> Document:
    if "namespaces" in peer:
        return {"namespaces": {"namespaceSelector": peer["namespaces"]}}
    pods = peer["pods"]
    return {
        "pods": {
            "namespaces": {"namespaceSelector": pods["namespaceSelector"]},
            "podSelector": pods["podSelector"],
        }
    }
