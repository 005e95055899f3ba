"""Random network policies in whole labs: packets have the verdicts of the evaluator.

Each example is one change of a running lab: policies, labels of pods, and labels of namespaces.
`check` without a table then probes every port of every pod from every pod, node and external host,
and compares the result with the evaluator's verdicts. Hypothesis chooses the same examples in every
run; HYPOTHESIS_PROFILE=explore searches for new ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.labs.lab import Lab
from tests.labs.test_pod_networks import require
from tests.policies import POLICIES

Document = dict[str, Any]
LABS = (
    ("bridge,layout=onlink", "nftables", "dual"),
    ("bridge,layout=routed", "iptables", "ipv6"),
    ("flannel,backend=vxlan", "nftables", "ipv4"),
    ("calico", "iptables", "dual"),
    ("calico,backend=vxlan", "nftables", "ipv4"),
    ("weave", "iptables", "ipv4"),
    ("kube-router", "iptables", "dual"),
    ("cilium", "ebpf", "dual"),
)
"""(CNI mode, policy engine, IP family)"""
EXAMPLES = 40
"""Number of changes of each lab in the profile "thorough"."""
MIN_PROBES = 100
"""Number of probes of the smallest lab."""

PODS = {
    "default/web": "worker",
    "default/db": "worker2",
    "prod/web": "worker2",
    "dev/tool": "worker",
}
"""Pod, with the names of tests/policies.py → node."""
POD_LABELS = st.fixed_dictionaries(
    {"app": st.sampled_from(["web", "db", "tool"])},
    optional={"tier": st.sampled_from(["front", "back"])},
)
NAMESPACE_LABELS = st.sampled_from([{}, {"team": "ops"}, {"team": "dev"}])
PORTS = [
    {"name": "http", "containerPort": 8080},
    {"name": "admin", "containerPort": 80},
    {"name": "dns", "containerPort": 53, "protocol": "UDP"},
]


def pod(name: str, labels: Mapping[str, str]) -> Document:
    namespace, _, short = name.partition("/")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": short, "namespace": namespace, "labels": dict(labels)},
        "spec": {
            "nodeName": PODS[name],
            "containers": [{"name": "main", "image": "server", "ports": PORTS}],
        },
    }


def namespace(name: str, labels: Mapping[str, str]) -> Document:
    metadata = {"name": name, "labels": dict(labels)}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def network_policy(number: int, policy: Mapping[str, Any]) -> Document:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"p{number}", "namespace": policy["namespace"]},
        "spec": policy["spec"],
    }


def text(documents: Sequence[Document]) -> str:
    return str(yaml.safe_dump_all(documents))


@pytest.mark.parametrize(("cni", "engine", "family"), LABS)
def test_packets_have_the_verdicts_of_the_evaluator(
    lab: Lab, cni: str, engine: str, family: str
) -> None:
    require(cni.partition(",")[0])
    config = {
        "apiVersion": "kubenetlab.dev/v1alpha1",
        "kind": "Cluster",
        "networking": {"ipFamily": family},
    }
    pods = [pod(name, {"app": name.partition("/")[2]}) for name in PODS]
    namespaces = [namespace(name, {}) for name in ("prod", "dev")]
    lab.up(text([config, *namespaces, *pods]), "--cni", cni, "--policy", engine)
    former: list[Document] = []
    found: Counter[str] = Counter()

    @settings(
        max_examples=max(4, examples(EXAMPLES)),
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        policies=st.lists(POLICIES, min_size=1, max_size=6),
        labels=st.fixed_dictionaries(dict.fromkeys(PODS, POD_LABELS)),
        teams=st.fixed_dictionaries(dict.fromkeys(("prod", "dev"), NAMESPACE_LABELS)),
    )
    def check(
        policies: list[Document], labels: dict[str, Any], teams: dict[str, dict[str, str]]
    ) -> None:
        nonlocal former
        desired = [network_policy(number, policy) for number, policy in enumerate(policies)]
        names = [each["metadata"] for each in desired]
        gone = [each for each in former if each["metadata"] not in names]
        if gone:
            lab.run("delete", "-f", "-", stdin=text(gone))
        lab.apply(
            text(
                [
                    *(namespace(name, team) for name, team in teams.items()),
                    *(pod(name, each) for name, each in labels.items()),
                    *desired,
                ]
            )
        )
        former = desired
        probes = lab.run("check", "-o", "json", status=None).json["checks"]
        assert [probe for probe in probes if probe["state"] == "fails"] == []
        assert len(probes) >= MIN_PROBES
        found.update(probe["found"] for probe in probes)

    check()
    assert found["answer"] > 0
    assert found["silence"] > 0
