"""Evaluators of other projects that decide about connections between the pods of tests/policies.py.

A judge is a program in Go that reads a world from each line of its input, in JSON, and answers with
a verdict for each of the world's connections.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from kubenetlab.api.core import Namespace
from kubenetlab.api.pods import Pod
from kubenetlab.api.policies.network_policy import NetworkPolicy
from kubenetlab.api.store import Cluster
from kubenetlab.observe.policies.evaluator import Evaluator, Party, Traffic
from tests.policies import CLUSTER, NAMES, OUTSIDE, TRAFFIC
from tests.upstream.builder import GoModule, NotAvailableError, build

Document = dict[str, Any]
Judge = Callable[[Document], list[bool]]


def is_comparable(value: object) -> bool:
    """Return False if judges are known to differ from the API.

    To them, the operator NotIn does not match a missing label.
    """
    return "NotIn" not in json.dumps(value)


@contextmanager
def policy_judge(module: GoModule, program: str) -> Iterator[Judge]:
    """Build and run the program of a module; skip the test if it cannot be built."""
    try:
        path = build(module) / program
    except NotAvailableError as error:
        pytest.skip(str(error))
    with subprocess.Popen(
        [path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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


def assert_same_verdicts(judge: Judge, cluster: Cluster, policies: Document) -> None:
    """Compare the verdicts of the evaluator and of a judge about all connections.

    policies: those of the cluster as the judge reads them.
    """
    connections = list(_connections())
    questions = [_question(*each) for each in connections]
    expected = judge({**policies, "Connections": questions})
    evaluator = Evaluator(cluster)
    for connection, is_allowed in zip(connections, expected, strict=True):
        verdict = evaluator.verdict(*connection)
        assert verdict.is_allowed == is_allowed, (connection, verdict)


def network_policies(cluster: Cluster, policies: Sequence[Document]) -> list[Document]:
    """Return the policies with the types that the API server would have set."""
    result = []
    for number, policy in enumerate(policies):
        name, namespace = f"p{number}", policy["namespace"]
        stored = cluster.get(NetworkPolicy, namespace, name)
        assert stored is not None
        spec = {**policy["spec"], "policyTypes": list(stored.directions)}
        result.append({"metadata": {"name": name, "namespace": namespace}, "spec": spec})
    return result


def _connections() -> Iterator[tuple[Party, Party, Traffic]]:
    for index, version in enumerate((4, 6)):
        parties = [Party(OUTSIDE[version])]
        parties += (Party(_pod(name).addresses[index], name) for name in NAMES)
        for source in parties:
            for destination in parties:
                if source != destination:
                    yield from ((source, destination, traffic) for traffic in TRAFFIC)


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
