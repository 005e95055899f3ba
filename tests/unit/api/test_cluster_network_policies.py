"""Validation of ClusterNetworkPolicy and its predecessors, and their common form."""

from __future__ import annotations

import pytest

from kubenetlab.api.policies.admin_network_policies import AdminNetworkPolicy
from kubenetlab.api.policies.cluster_network_policy import ClusterNetworkPolicy
from kubenetlab.api.policies.tiers import tier_policies
from kubenetlab.cli.describe import policy_cells
from tests.clusters import loaded, problems_of, store
from tests.unit.api.test_validate import assert_rejected

VERSION = "apiVersion: policy.networking.k8s.io/v1alpha"
CNP = f"{VERSION}2\nkind: ClusterNetworkPolicy\nmetadata: {{name: p}}\n"
ANP = f"{VERSION}1\nkind: AdminNetworkPolicy\nmetadata: {{name: p}}\n"
BANP = f"{VERSION}1\nkind: BaselineAdminNetworkPolicy\nmetadata: {{name: default}}\n"
ALL = "subject: {namespaces: {}}"
ANYWHERE = "[{namespaces: {}}]"


def cnp(fields: str = "", head: str = f"tier: Admin, priority: 5, {ALL}") -> str:
    return f"{CNP}spec: {{{head}{', ' if fields else ''}{fields}}}\n"


def ingress(rule: str) -> str:
    return cnp(f"ingress: [{{{rule}}}]")


def egress(peer: str, rest: str = "action: Accept") -> str:
    return cnp(f"egress: [{{to: [{{{peer}}}], {rest}}}]")


def protocols(entry: str) -> str:
    return ingress(f"action: Deny, from: {ANYWHERE}, protocols: [{entry}]")


def ports(entry: str) -> str:
    return (
        f"{ANP}spec: {{priority: 1, {ALL}, ingress: [{{action: Deny, from: {ANYWHERE},"
        f" ports: [{entry}]}}]}}"
    )


def baseline(peer: str, action: str = "Allow") -> str:
    return f"{BANP}spec: {{{ALL}, egress: [{{action: {action}, to: [{{{peer}}}]}}]}}"


RULE = f"{{action: Deny, from: {ANYWHERE}}}"
TO = "spec.egress[0].to[0]"
PROTOCOL = "spec.ingress[0].protocols[0]"
PORT = "spec.ingress[0].ports[0]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{CNP}spec: {{priority: 1, {ALL}}}", "spec.tier: required, but missing"),
        (
            cnp(head=f"tier: Application, priority: 1, {ALL}"),
            'spec.tier: expected one of Admin, Baseline, found "Application"',
        ),
        (f"{CNP}spec: {{tier: Admin, {ALL}}}", "spec.priority: required, but missing"),
        (
            cnp(head=f"tier: Admin, priority: 1001, {ALL}"),
            "spec.priority: expected a priority from 0 to 1000, found 1001",
        ),
        (f"{CNP}spec: {{tier: Admin, priority: 0}}", "spec.subject: required, but missing"),
        (
            cnp(head="tier: Admin, priority: 0, subject: {}"),
            "spec.subject: must have exactly one of namespaces and pods, found none",
        ),
        (
            cnp(
                head="tier: Admin, priority: 0, subject: {namespaces: {}, pods: {podSelector: {}}}"
            ),
            "must have exactly one of namespaces and pods, found namespaces and pods",
        ),
        (
            cnp(head="tier: Admin, priority: 0, subject: {pods: {namespaceSelector: {}}}"),
            "spec.subject.pods.podSelector: required, but missing",
        ),
        (
            cnp(head="tier: Admin, priority: 0, subject: {namespaces: {matchLabels: {-: a}}}"),
            "spec.subject.namespaces.matchLabels.-",
        ),
        (
            cnp(f"ingress: [{', '.join([RULE] * 26)}]"),
            "spec.ingress: expected a list of 0 to 25 entries, found 26",
        ),
        (
            ingress(f"action: Allow, from: {ANYWHERE}"),
            'spec.ingress[0].action: expected one of Accept, Deny, Pass, found "Allow"',
        ),
        (ingress("action: Deny"), "spec.ingress[0].from: required, but missing"),
        (
            ingress("action: Deny, from: []"),
            "spec.ingress[0].from: expected a list of 1 to 25 entries, found 0",
        ),
        (
            ingress("action: Deny, from: [{}]"),
            "spec.ingress[0].from[0]: must have exactly one of namespaces and pods, found none",
        ),
        (
            ingress("action: Deny, from: [{nodes: {}}]"),
            "spec.ingress[0].from[0].nodes: unknown field",
        ),
        (
            ingress(f"name: {'x' * 101}, action: Deny, from: {ANYWHERE}"),
            "spec.ingress[0].name: expected at most 100 characters, found 101",
        ),
        (
            ingress(f"action: Deny, from: {ANYWHERE}, protocols: []"),
            "spec.ingress[0].protocols: expected a list of 1 to 25 entries, found 0",
        ),
        (egress("networks: []"), f"{TO}.networks: expected a list of 1 to 25 entries, found 0"),
        (
            egress("networks: [10.0.0.1]"),
            f'{TO}.networks[0]: expected a range such as 10.0.0.0/8 or fd00::/8, found "10.0.0.1"',
        ),
        (
            egress("networks: [10.0.0.0/8, 10.0.0.0/8]"),
            f'{TO}.networks[1]: duplicate value "10.0.0.0/8"',
        ),
        (
            egress("networks: [10.0.0.0/8], nodes: {}"),
            f"{TO}: must have exactly one of namespaces, pods, nodes, networks and domainNames, "
            "found nodes and networks",
        ),
        (
            egress("nodes: {matchExpressions: [{key: a, operator: In}]}"),
            f"{TO}.nodes.matchExpressions[0].values: required with operator In",
        ),
        (
            egress("domainNames: [example.com]", "action: Deny"),
            f"{TO}.domainNames: may only be used in a rule that accepts connections",
        ),
        (
            egress("domainNames: ['a.*.com']"),
            f"{TO}.domainNames[0]: expected a DNS name with at least two labels",
        ),
        (egress("domainNames: [com]"), f"{TO}.domainNames[0]: expected a DNS name"),
        (
            egress("nodes: {}", "action: Deny, protocols: [{destinationNamedPort: http}]"),
            f"{TO}.nodes: cannot be combined with destinationNamedPort: only pods have named ports",
        ),
        (
            protocols("{}"),
            f"{PROTOCOL}: must have exactly one of tcp, udp, sctp and destinationNamedPort, "
            "found none",
        ),
        (
            protocols("{tcp: {destinationPort: {number: 1}}, destinationNamedPort: a}"),
            "found tcp and destinationNamedPort",
        ),
        (protocols("{udp: {}}"), f"{PROTOCOL}.udp.destinationPort: required, but missing"),
        (
            protocols("{sctp: {destinationPort: {}}}"),
            f"{PROTOCOL}.sctp.destinationPort: must have exactly one of number and range",
        ),
        (
            protocols("{tcp: {destinationPort: {number: 0}}}"),
            "number: expected a port number from 1 to 65535, found 0",
        ),
        (
            protocols("{tcp: {destinationPort: {range: {start: 5, end: 5}}}}"),
            f"{PROTOCOL}.tcp.destinationPort.range.end: must be greater than `start` 5, found 5",
        ),
        (protocols("{icmp: {}}"), f"{PROTOCOL}.icmp: unknown field"),
        (
            ports("{}"),
            f"{PORT}: must have exactly one of portNumber, namedPort and portRange, found none",
        ),
        (
            ports("{portRange: {start: 9, end: 8}}"),
            f"{PORT}.portRange.end: must be greater than `start` 9, found 8",
        ),
        (
            ports("{portNumber: {port: 9, protocol: ICMP}}"),
            'protocol: expected one of SCTP, TCP, UDP, found "ICMP"',
        ),
        (
            f"{ANP}spec: {{priority: 1, subject: {{pods: {{podSelector: {{}}}}}}}}",
            "spec.subject.pods.namespaceSelector: required, but missing",
        ),
        (
            f"{ANP}spec: {{priority: 1, {ALL}, ingress: [{{action: Accept, from: {ANYWHERE}}}]}}",
            'action: expected one of Allow, Deny, Pass, found "Accept"',
        ),
        (
            f"{BANP.replace('default', 'other')}spec: {{{ALL}}}",
            'a cluster has only one BaselineAdminNetworkPolicy, with the name "default"; found',
        ),
        (baseline("nodes: {}", "Pass"), "action: expected one of Allow, Deny, found"),
        (
            baseline("domainNames: [example.com]"),
            "domainNames: a BaselineAdminNetworkPolicy has no domain names",
        ),
    ],
)
def test_an_invalid_policy_is_rejected(text: str, message: str) -> None:
    assert_rejected(text, message)


@pytest.mark.parametrize(
    "text", [protocols("{destinationNamedPort: Web UI}"), ports("{namedPort: Web UI}")]
)
def test_the_name_of_a_port_that_cannot_exist_is_a_warning(text: str) -> None:
    """The API accepts it; no container port can have it."""
    (problem,) = problems_of(text)
    assert problem.is_warning
    assert problem.message.startswith("no container port can have this name: expected lower")


def test_all_mistakes_are_reported_at_once() -> None:
    text = cnp("egress: [{to: [{networks: [x]}, {}], action: Deny, protocols: [{tcp: {}}]}]")
    for path in (f"{TO}.networks[0]", "spec.egress[0].to[1]", "spec.egress[0].protocols[0].tcp"):
        assert_rejected(text, path)


def test_predecessors_have_the_form_of_a_cluster_network_policy() -> None:
    """The actions, ports and tiers of version v1alpha1 become those of v1alpha2."""
    admin = f"""{ANP}
spec:
  priority: 7
  {ALL}
  ingress:
  - action: Allow
    name: web
    from: {ANYWHERE}
    ports:
    - portNumber: {{port: 80}}
    - portRange: {{start: 10, end: 20, protocol: UDP}}
    - namedPort: http
    - portNumber: {{port: 9, protocol: SCTP}}
  - {{action: Pass, from: {ANYWHERE}}}
"""
    cluster = f"""{CNP.replace("p}", "q}")}
spec:
  tier: Admin
  priority: 7
  {ALL}
  ingress:
  - action: Accept
    name: web
    from: {ANYWHERE}
    protocols:
    - tcp: {{destinationPort: {{number: 80}}}}
    - udp: {{destinationPort: {{range: {{start: 10, end: 20}}}}}}
    - destinationNamedPort: http
    - sctp: {{destinationPort: {{number: 9}}}}
  - {{action: Pass, from: {ANYWHERE}}}
"""
    objects = store(f"{admin}---\n{cluster}")
    assert len(objects.all(AdminNetworkPolicy)) == len(objects.all(ClusterNetworkPolicy)) == 1
    first, second = tier_policies(objects)
    assert (first.title, second.title) == ("AdminNetworkPolicy p", "ClusterNetworkPolicy q")
    assert first.spec == second.spec


def test_policies_are_in_order_of_tier_priority_and_name() -> None:
    """The BaselineAdminNetworkPolicy is the last one."""
    entries = [("b", "Baseline", 0), ("z", "Admin", 3), ("a", "Admin", 3), ("y", "Admin", 1)]
    texts = [
        cnp(head=f"tier: {tier}, priority: {priority}, {ALL}").replace("name: p", f"name: {name}")
        for name, tier, priority in entries
    ]
    texts += [f"{BANP}spec: {{{ALL}}}\n", f"{ANP}spec: {{priority: 3, {ALL}}}\n"]
    assert [policy.name for policy in tier_policies(store("---\n".join(texts)))] == [
        "y",
        "a",
        "p",
        "z",
        "b",
        "default",
    ]


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("{namespaces: {}}", "namespaces all"),
        ("{namespaces: {matchLabels: {team: ops}}}", "namespaces team=ops"),
        ("{pods: {podSelector: {matchLabels: {app: web}}}}", "pods app=web in namespaces all"),
        (
            "{pods: {podSelector: {}, namespaceSelector: {matchLabels: {team: ops}}}}",
            "pods all in namespaces team=ops",
        ),
    ],
)
def test_the_subject_is_shown(subject: str, expected: str) -> None:
    (entry,) = loaded(cnp(head=f"tier: Admin, priority: 0, subject: {subject}")).entries
    assert policy_cells.subject(entry.value) == expected
