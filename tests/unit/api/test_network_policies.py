"""Validation of NetworkPolicies, with the reasons of Kubernetes."""

from __future__ import annotations

import pytest

from kubenetlab.api.policies.network_policy import NetworkPolicy
from kubenetlab.cli.describe.policy_cells import pod_selector
from kubenetlab.errors import ManifestError
from tests.clusters import loaded, store
from tests.unit.api.test_validate import assert_rejected

HEAD = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: "
NOTHING = "must specify a peer: podSelector, namespaceSelector or ipBlock"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{podSelector: 3}", "spec.podSelector: expected a mapping, found 3"),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: In}]}}",
            "spec.podSelector.matchExpressions[0].values: required with operator In",
        ),
        ("{policyTypes: [ingress]}", "spec.policyTypes[0]: expected one of Egress, Ingress, found"),
        ("{policyTypes: [Ingress, Egress, Egress]}", "spec.policyTypes: expected a list"),
        ("{ingress: [{from: [{}]}]}", f"spec.ingress[0].from[0]: {NOTHING}"),
        ("{egress: [{to: [{podSelector: null}]}]}", f"spec.egress[0].to[0]: {NOTHING}"),
        (
            "{egress: [{to: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]}",
            "spec.egress[0].to[0]: may not specify both ipBlock and another peer",
        ),
        (
            "{ingress: [{from: [{namespaceSelector: {matchLabels: {-: a}}}]}]}",
            "spec.ingress[0].from[0].namespaceSelector.matchLabels.-",
        ),
        ("{ingress: [{from: [{ipBlock: {}}]}]}", "ipBlock.cidr: required, but missing"),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.1}}]}]}",
            'ipBlock.cidr: expected a range such as 192.168.1.0/24, found "10.0.0.1"',
        ),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}",
            "ipBlock.except[0]: must be a strict subset of `cidr` 10.0.0.0/8, found 11.0.0.0/16",
        ),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}",
            "ipBlock.except[0]: must be a strict subset of `cidr` 10.0.0.0/8",
        ),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/16']}}]}]}",
            "ipBlock.except[0]: must be a strict subset of `cidr` 10.0.0.0/8",
        ),
        ("{ingress: [{ports: [{port: 0}]}]}", "spec.ingress[0].ports[0].port"),
        ("{ingress: [{ports: [{port: Http}]}]}", "spec.ingress[0].ports[0].port: expected lower"),
        (
            "{ingress: [{ports: [{protocol: ICMP}]}]}",
            'ports[0].protocol: expected one of SCTP, TCP, UDP, found "ICMP"',
        ),
        (
            "{ingress: [{ports: [{endPort: 90}]}]}",
            "ports[0].endPort: may not be specified when `port` is not specified",
        ),
        (
            "{ingress: [{ports: [{port: http, endPort: 90}]}]}",
            "ports[0].endPort: may not be specified when `port` is non-numeric",
        ),
        (
            "{ingress: [{ports: [{port: 91, endPort: 90}]}]}",
            "ports[0].endPort: must be greater than or equal to `port` 91, found 90",
        ),
    ],
)
def test_an_invalid_policy_is_rejected(spec: str, message: str) -> None:
    assert_rejected(HEAD + spec, message)


@pytest.mark.parametrize("values", ["", ", values: [a]"])
def test_an_unknown_operator_is_the_only_problem_of_its_requirement(values: str) -> None:
    """The fields beside it may be right with the operator that was meant."""
    text = f"{HEAD}{{podSelector: {{matchExpressions: [{{key: a, operator: IsIn{values}}}]}}}}"
    with pytest.raises(ManifestError) as caught:
        loaded(text)
    (problem,) = caught.value.problems
    assert problem.path == "spec.podSelector.matchExpressions[0].operator"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{}", "<none>"),
        ("{podSelector: {matchLabels: {tier: b, app: web}}}", "app=web,tier=b"),
        (
            "{podSelector: {matchExpressions: [{key: b, operator: NotIn, values: [y, x]},"
            " {key: d, operator: Exists}, {key: c, operator: DoesNotExist},"
            " {key: a, operator: In, values: [z]}]}}",
            "a in (z),b notin (x,y),!c,d",
        ),
    ],
)
def test_the_selector_is_shown_as_by_kubectl(spec: str, expected: str) -> None:
    (entry,) = loaded(HEAD + spec).entries
    assert pod_selector(entry.value) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{}", ("Ingress",)),
        ("{egress: []}", ("Ingress",)),
        ("{egress: [{}]}", ("Ingress", "Egress")),
        ("{policyTypes: [Egress], ingress: [{}]}", ("Egress",)),
    ],
)
def test_a_policy_isolates_in_directions(spec: str, expected: tuple[str, ...]) -> None:
    """The default depends on the rules."""
    (policy,) = store(HEAD + spec).all(NetworkPolicy)
    assert policy.namespace == "default"
    assert policy.directions == expected
