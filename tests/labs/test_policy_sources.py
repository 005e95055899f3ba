"""Sources of connections as policies see them: the evaluator assumes those that packets have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kubenetlab import Lab
from tests.conftest import LAB_PREFIX
from tests.patience import patiently
from tests.unit.observe.policies.worlds import pod, policy, service

CLUSTER = """
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{role: control-plane}, {role: worker}, {role: worker}]
---
"""
WORLD = (
    CLUSTER
    + pod("web")
    + pod("far", "worker2")
    + pod("near")
    + service("open", kind="LoadBalancer")
    + policy("{podSelector: {matchLabels: {app: web}}, ingress: [{}]}")
)
OUTSIDE = policy(
    "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, "
    "except: [10.0.0.0/8]}}]}]}"
)
CONNECTIONS = (
    ("ext:client", "nodeport:worker2/open"),
    ("ext:client", "nodeport:control-plane/open"),
    ("far", "lb:open"),
    ("far", "nodeport:control-plane/open"),
    ("node:worker2", "pod:web:8080"),
    ("node:worker2", "svc:open"),
    ("node:control-plane", "lb:open"),
)
"""Source and destination, where a node is the source that the pod `web` on `worker` sees."""
MODES = [
    ("bridge", "nftables"),
    ("bridge", "iptables"),
    ("bridge", "ebpf"),
    ("flannel", "nftables"),
    ("flannel,backend=host-gw", "nftables"),
    ("calico", "iptables"),
    ("cilium", "none"),
    ("cilium", "nftables"),
    ("weave", "nftables"),
    ("flannel", "ebpf"),
    ("calico,backend=vxlan", "ebpf"),
    ("weave", "ebpf"),
    ("ptp", "nftables"),
]


@pytest.fixture(scope="module", params=MODES, ids=lambda mode: " ".join(mode))
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    cni, proxy = request.param
    name = f"{LAB_PREFIX}sources"
    with Lab.up(
        text=WORLD,
        name=name,
        cni=cni,
        kube_proxy_mode=proxy,
        policy_engine="nftables" if cni != "cilium" else None,
        timeout_s=patiently(60),
    ) as lab:
        yield lab


def test_the_sources_of_packets_are_those_that_the_evaluator_assumes(lab: Lab) -> None:
    """Also that which no node has is not assumed, such as the first address of a range."""
    lab.reset(timeout_s=patiently(30))
    owned = {
        address
        for node in lab.inspect()["nodes"]
        for address in (*node["addresses"], *node["pod_sources"])
    }
    pods = {
        address
        for each in lab.inspect()["pods"]
        if not each["host_network"]
        for address in each["addresses"]
    }
    for source, destination in CONNECTIONS:
        answer = lab.ping(source, destination, path="/clientip", deadline_s=patiently(2))
        assert answer.http is not None, (source, destination)
        seen = answer.http.body.rpartition(":")[0]
        assumed = assumed_sources(lab, source, destination)
        assert seen in assumed, (source, destination)
        assert assumed <= owned | pods, (source, destination)
        if not lab.inspect()["cni"].startswith("cilium"):
            assert assumed - pods == {seen}, (source, destination)


@pytest.mark.parametrize("ranges", ["cidr: 0.0.0.0/0, except: [10.0.0.0/8]", "cidr: 10.0.0.0/8"])
def test_no_packet_contradicts_the_assumed_sources(lab: Lab, ranges: str) -> None:
    """Of the endpoint's own node the policy sees the source before it is masqueraded."""
    block = f"ingress: [{{from: [{{ipBlock: {{{ranges}}}}}]}}]"
    lab.apply(
        text=policy(f"{{podSelector: {{matchLabels: {{app: web}}}}, {block}}}"),
        timeout_s=patiently(30),
    )
    sources = ("ext:client", "far", "near", "node:worker2", "node:control-plane")
    pairs = [*CONNECTIONS, *((each, "nodeport:worker/open") for each in sources)]
    for source, destination in pairs:
        result = lab.ping(source, destination, deadline_s=0.5)
        is_promised = result.expected not in (None, "any")
        assert result.ok or not is_promised, (source, destination, result)


def assumed_sources(lab: Lab, source: str, destination: str) -> set[str]:
    explained = lab.explain_policy(source, destination)
    return {
        party.address
        for endpoint in explained.endpoints
        for path in endpoint.paths
        for party in path.sources
    }


def test_a_load_balancer_is_decided_by_addresses_that_nodes_have() -> None:
    """Nodes have no address in 10.0.0.0/8, so that the answer does not depend on the node."""
    text = CLUSTER + pod("web") + service("open", kind="LoadBalancer") + OUTSIDE
    with Lab.up(text=text, name=f"{LAB_PREFIX}lb", timeout_s=patiently(60)) as lab:
        assert lab.explain_policy("ext:client", "lb:open").is_allowed
        for _ in range(10):
            answer = lab.ping("ext:client", "lb:open", deadline_s=patiently(2))
            assert (answer.ok, answer.expected, answer.outcome) == (True, "answer", "answer")
