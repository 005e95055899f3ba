"""The evaluator decides like policy-assistant, which upstream's definition of the API comes with.

policy-assistant knows NetworkPolicy, AdminNetworkPolicy and BaselineAdminNetworkPolicy in version
0.1.1. Two of its differences from the API are left out of the worlds: the operator NotIn, which
there does not match a missing label, and named ports, whose protocol it takes from their names.
"""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kubenetlab.api.core import Namespace
from kubenetlab.api.pods import Pod
from kubenetlab.api.policies.network_policy import NetworkPolicy
from kubenetlab.api.store import Cluster
from kubenetlab.observe.policies.evaluator import Evaluator, Party, Traffic
from tests.clusters import applied
from tests.examples import examples
from tests.policies import CLUSTER, NAMES, NAMESPACES, OUTSIDE, SELECTORS, with_policies
from tests.policies import POLICIES as ALL_POLICIES
from tests.policies import TRAFFIC as ALL_TRAFFIC
from tests.upstream.builder import NotAvailableError, build
from tests.upstream.programs import POLICY_ASSISTANT

Document = dict[str, Any]
Judge = Callable[[Document], list[bool]]
VERSION = "policy.networking.k8s.io/v1alpha1"


def _is_comparable(value: object) -> bool:
    return "NotIn" not in json.dumps(value)


POLICIES = ALL_POLICIES.filter(_is_comparable)
PEERS = st.one_of(
    st.builds(lambda spaces: {"namespaces": spaces}, NAMESPACES),
    st.builds(
        lambda pods, spaces: {"pods": {"podSelector": pods, "namespaceSelector": spaces}},
        SELECTORS.filter(_is_comparable),
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
    """Build and run the program; skip the test if it cannot be built."""
    try:
        program = build(POLICY_ASSISTANT) / "policy-assistant"
    except NotAvailableError as error:
        pytest.skip(str(error))
    with subprocess.Popen(
        [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(world: Document) -> list[bool]:
            print(json.dumps(world), file=stdin, flush=True)
            answer: list[bool] = json.loads(stdout.readline())
            return answer

        yield ask
        stdin.close()


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
        connections = list(_connections())
        expected = judge(
            {
                "Policies": _network_policies(cluster, policies),
                "Admin": [_old(each) for each in tiers if "priority" in each["spec"]],
                "Baseline": _old(tiers[-1]) if baseline is not None else None,
                "Connections": [_question(*each) for each in connections],
            }
        )
        evaluator = Evaluator(cluster)
        for connection, is_allowed in zip(connections, expected, strict=True):
            verdict = evaluator.verdict(*connection)
            assert verdict.is_allowed == is_allowed, (connection, verdict)

    check()


def _policy(kind: str, name: str, spec: Document) -> Document:
    return {"apiVersion": VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def _network_policies(cluster: Cluster, policies: Sequence[Document]) -> list[Document]:
    """Return the policies with the types that the API server would have set."""
    result = []
    for number, policy in enumerate(policies):
        name, namespace = f"p{number}", policy["namespace"]
        stored = cluster.get(NetworkPolicy, namespace, name)
        assert stored is not None
        spec = {**policy["spec"], "policyTypes": list(stored.directions)}
        result.append({"metadata": {"name": name, "namespace": namespace}, "spec": spec})
    return result


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


def _connections() -> Iterator[tuple[Party, Party, Traffic]]:
    for index, version in enumerate((4, 6)):
        parties = [Party(OUTSIDE[version])]
        parties += (Party(_pod(name).addresses[index], name) for name in NAMES)
        for source in parties:
            for destination in parties:
                if source != destination:
                    yield from ((source, destination, traffic) for traffic in ALL_TRAFFIC)


def _pod(name: str) -> Pod:
    pod = CLUSTER.get(Pod, *name.split("/"))
    assert pod is not None
    return pod


def _question(source: Party, destination: Party, traffic: Traffic) -> Document:
    ports = (
        port
        for container in (_pod(destination.pod).spec.containers if destination.pod else ())
        for port in container.ports
        if (port.container_port, port.protocol) == (traffic.port, traffic.protocol)
    )
    return {
        "Source": _party(source),
        "Destination": _party(destination),
        "Port": traffic.port,
        "PortName": next((port.name for port in ports), ""),
        "Protocol": traffic.protocol,
    }


def _party(party: Party) -> Document:
    if not party.pod:
        return {"IP": party.address}
    pod = _pod(party.pod)
    namespace = CLUSTER.get(Namespace, "", pod.namespace)
    assert namespace is not None
    return {
        "IP": party.address,
        "Namespace": pod.namespace,
        "NamespaceLabels": dict(namespace.labels),
        "PodLabels": dict(pod.labels),
    }
