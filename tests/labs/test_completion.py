"""Shell completion in a running lab: names of labs and objects."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.test_completion import bash, complete
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab

ROOT = Path(__file__).parents[2]
OTHERS = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: till, namespace: shop}
spec: {containers: [{name: till, image: agnhost}]}
---
apiVersion: v1
kind: Service
metadata: {name: till, namespace: shop}
spec: {clusterIP: None, selector: {app: till}, ports: [{port: 80}]}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Nodes n1 and n2, a client, a Deployment and a Service web, and objects in another namespace.

    The other namespace has a pod and a Service till.
    """
    for lab in new_lab():
        lab.run("up", "-f", str(ROOT / "manifests" / "05-service-and-endpoints"))
        lab.apply(OTHERS)
        yield lab


def test_names_of_labs_are_completed(lab: Lab) -> None:
    """Only running labs are offered."""
    assert lab.name in complete("kubenetlab get --lab ")
    assert complete(f"kubenetlab down --lab {lab.name}") == [lab.name]


def test_names_of_objects_are_completed_by_kind(lab: Lab) -> None:
    """Names come from the selected namespace, each once, also in the form KIND/NAME."""
    webs = {pod["name"] for pod in lab.pods("web")}
    assert set(complete(f"kubenetlab get --lab {lab.name} pods ")) == {"client", *webs}
    assert set(complete(f"kubenetlab get --lab {lab.name} pods client ")) == webs
    assert complete(f"kubenetlab describe --lab {lab.name} po/cl") == ["po/client"]
    assert complete(f"kubenetlab delete --lab {lab.name} -n shop svc ") == ["till"]
    assert complete(f"kubenetlab scale --lab {lab.name} deploy ") == ["web"]
    assert complete(f"kubenetlab rollout status --lab {lab.name} deployment/") == ["deployment/web"]
    assert complete(f"kubenetlab describe --lab {lab.name} node ") == ["control-plane", "n1", "n2"]
    assert complete(f"kubenetlab get --lab {lab.name} pods -n sh") == ["shop"]


def test_targets_are_completed(lab: Lab) -> None:
    """Pods, Deployments, nodes and hosts are offered; Services where packets are sent."""
    places = complete(f"kubenetlab exec --lab {lab.name} ")
    assert {
        "client",
        "shop/till",
        "deploy:web",
        "deploy:kube-system/coredns",
        "node:n1",
        "node:n2",
        "ext:client",
    } <= set(places)
    assert not any(place.startswith("svc:") for place in places)
    assert complete(f"kubenetlab shell --lab {lab.name} -n shop ti") == ["till"]
    assert complete(f"kubenetlab logs --lab {lab.name} node:") == []
    assert complete(f"kubenetlab inspect --lab {lab.name} node:n") == ["node:n1", "node:n2"]
    services = complete(f"kubenetlab ping --lab {lab.name} client svc:")
    assert services == [
        "svc:kubernetes",
        "svc:kube-system/kube-dns",
        *(f"svc:{name}" for name in ("web", "client", "database", "empty")),
        "svc:shop/till",
    ]


CNPS = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: of-cilium}
spec: {endpointSelector: {}, ingress: [{}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: of-everyone}
spec: {tier: Admin, priority: 5, subject: {namespaces: {}}}
"""


def test_a_short_name_of_two_kinds_means_that_of_the_command(lab: Lab) -> None:
    """In a lab of cilium `cnp` is CiliumNetworkPolicy, unless there are only objects of the other.

    A name that is given before decides, too.
    """
    for own in new_lab():
        cilium, everyone = CNPS.split("---\n")
        own.up(everyone, "--cni", "cilium")
        assert complete(f"kubenetlab describe --lab {own.name} cnp ") == ["of-everyone"]
        own.apply(cilium)
        assert complete(f"kubenetlab describe --lab {own.name} cnp ") == ["of-cilium"]
        assert complete(f"kubenetlab get --lab {own.name} cnp/") == ["cnp/of-cilium"]
        assert complete(f"kubenetlab get --lab {own.name} cnp of-everyone ") == []
        assert own.run("get", "cnp", "-o", "name").out.split() == [
            "ciliumnetworkpolicy.cilium.io/of-cilium"
        ]
    lab.apply(CNPS)
    assert complete(f"kubenetlab get --lab {lab.name} cnp ") == ["of-everyone"]
    lab.run("delete", "cnp", "of-everyone")
    lab.run("delete", "ciliumnetworkpolicy", "of-cilium")


def test_bash_gets_only_the_part_after_a_colon(lab: Lab) -> None:
    """For bash, a colon ends a word: it replaces only the part behind it."""
    assert bash(f"kubenetlab shell --lab {lab.name} node:") == ["control-plane", "n1", "n2"]
    assert bash(f"kubenetlab ping --lab={lab.name} ext:client svc:shop/t") == ["shop/till"]
    assert bash(f"kubenetlab get --lab={lab.name}") == [lab.name]


def test_completion_does_not_wait_for_a_lab_that_hangs(lab: Lab) -> None:
    """Names of objects are left out; names of commands need no lab."""
    agent = lab.inspected["agent_pid"]
    os.kill(agent, signal.SIGSTOP)
    try:
        assert complete(f"kubenetlab get --lab {lab.name} pods ") == []
        assert complete(f"kubenetlab get --lab {lab.name} pod") == ["pods"]
    finally:
        os.kill(agent, signal.SIGCONT)
    assert "client" in complete(f"kubenetlab get --lab {lab.name} pods ")
