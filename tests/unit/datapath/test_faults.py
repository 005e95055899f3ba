"""Faults of kube-proxy and rules of all faults: their effect, refusals, and healing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from kubenetlab import controllers
from kubenetlab.api.faults import Fault
from kubenetlab.api.lab import SYNC_PERIOD_S, ProxySnapshot
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster, deletion
from kubenetlab.controllers.cluster.kube_proxy import is_kube_proxy
from kubenetlab.controllers.states import ControllerStates
from kubenetlab.datapath import faults, plan
from kubenetlab.datapath.network.load_balancers import node_number
from kubenetlab.errors import UsageError
from kubenetlab.hoststate.nexthop import NexthopGroup
from kubenetlab.hoststate.programs import ProgramRun
from kubenetlab.hoststate.rules.nftables import Chain
from kubenetlab.hoststate.rules.rulesets import members
from kubenetlab.observe.settled import verdict
from tests.clusters import (
    DUAL,
    NOW,
    applied,
    decided,
    deployment,
    running,
    service,
    settled,
    store,
)
from tests.unit.datapath.test_kube_proxy import config_of

WEB = service() + deployment(replicas=2)
DECISIONS = decided("onlink", "dynamic")


def broken(cluster: Cluster, how: str, node: str = "worker", now: float = NOW) -> Cluster:
    return settled(
        cluster.with_changes(
            faults.break_changes(cluster, "kube-proxy", {"node": node, "how": how}, now)
        ),
        now,
    )


def healed(cluster: Cluster, now: float = NOW) -> Cluster:
    return running(
        settled(cluster.with_changes(deletion(fault) for fault in cluster.all(Fault)), now), now=now
    )


def endpoints(cluster: Cluster, node: str) -> set[str]:
    """Return the endpoints in a node's rules for the Service `web`."""
    chains = (
        obj
        for obj in members(plan(cluster, DECISIONS)[f"node/{node}"].values())
        if isinstance(obj, Chain)
    )
    return {
        chain.name.partition("__")[2]
        for chain in chains
        if chain.name.startswith("endpoint-") and "/web/" in chain.name
    }


def rules(cluster: Cluster, node: str) -> list[str]:
    """Return all rules of a node."""
    return sorted(
        repr(obj)
        for obj in members(plan(cluster, DECISIONS)[f"node/{node}"].values())
        if obj.applier == "rules"
    )


def pods_of(cluster: Cluster) -> set[str]:
    return {
        f"{address}/8080"
        for pod in cluster.select("default", {"app": "web"})
        for address in pod.addresses
    }


def kube_proxy(cluster: Cluster, node: str) -> Pod:
    return next(
        pod for pod in cluster.all(Pod) if is_kube_proxy(pod) and pod.spec.node_name == node
    )


@pytest.mark.parametrize("how", ["stopped", "stop", "stale"])
def test_a_kube_proxy_without_watch_keeps_the_last_rules(how: str) -> None:
    """Other nodes follow the changes; after healing every node has the same rules."""
    before = running(store(WEB))
    cluster = running(applied(broken(before, how), WEB.replace("replicas: 2", "replicas: 4")))
    assert endpoints(cluster, "worker") == pods_of(before)
    assert endpoints(cluster, "worker2") == pods_of(cluster) != pods_of(before)
    cluster = healed(cluster)
    assert endpoints(cluster, "worker") == pods_of(cluster)
    assert (*cluster.all(ProxySnapshot), *cluster.all(Fault)) == ()


def test_breaking_changes_no_rules_at_first() -> None:
    """The stored view is the one that was in force."""
    before = running(store(DUAL + WEB))
    after = broken(before, "stale")
    assert plan(after, DECISIONS)["node/worker"] == plan(before, DECISIONS)["node/worker"]


def test_a_stopped_kube_proxy_keeps_its_mode() -> None:
    """Its node keeps the rules of the old mode until healed; other nodes have the new rules."""
    before = running(store(WEB))
    switched = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {kubeProxyMode: "
        "iptables}\n---\n"
    )
    cluster = running(applied(broken(before, "stopped"), switched))
    assert rules(cluster, "worker") == rules(before, "worker")
    assert rules(cluster, "worker2") == rules(running(store(switched + WEB)), "worker2")
    assert rules(healed(cluster), "worker") == rules(running(store(switched + WEB)), "worker")


@pytest.mark.parametrize("family", ["", DUAL], ids=["ipv4", "dual"])
def test_a_misconfigured_kube_proxy_uses_addresses_that_do_not_exist(family: str) -> None:
    """They are in the range that follows the pod range; addresses outside the pod range stay."""
    before = running(store(family + WEB))
    cluster = broken(before, "misconfigured")
    targets = endpoints(cluster, "worker")
    assert len(targets) == len(endpoints(before, "worker"))
    assert targets.isdisjoint(endpoints(before, "worker"))
    assert all(name.startswith(("10.245.", "fd00.10.244.100.")) for name in targets)
    assert endpoints(cluster, "worker2") == endpoints(before, "worker2")


def test_a_stopped_kube_proxy_is_not_restarted() -> None:
    """Its pod is in Error but never Failed, and runs again when it is healed."""
    cluster = broken(running(store()), "stopped")
    pod = kube_proxy(cluster, "worker")
    (status,) = pod.container_statuses
    assert (
        status.state.terminated and status.state.terminated.reason,
        pod.is_ready,
        pod.status.phase,
    ) == ("Error", False, "Running")
    assert verdict(cluster, pod).state == "unready"
    assert not any(
        isinstance(obj, ProgramRun)
        for obj in plan(cluster, DECISIONS)[f"pod/kube-system/{pod.name}/{pod.uid[:8]}"].values()
    )
    assert all(kube_proxy(cluster, node).is_ready for node in ("control-plane", "worker2"))
    cluster = healed(settled(cluster, NOW + 1000), NOW + 1000)
    after = kube_proxy(cluster, "worker")
    assert (after.uid, after.is_ready, after.container_statuses[0].restart_count) == (
        pod.uid,
        True,
        1,
    )


def test_a_stale_kube_proxy_is_unhealthy_after_two_periods() -> None:
    """Before that it is healthy; its log has a line for each event."""
    cluster = broken(running(store()), "stale")
    _, states = controllers.run(cluster, ControllerStates(), NOW)
    assert states.wake_at == NOW + 2 * SYNC_PERIOD_S

    def options(at: float) -> Mapping[str, Any]:
        return config_of(settled(cluster, at), "worker").options

    assert options(NOW + 2 * SYNC_PERIOD_S - 1)["healthy"] is True
    late = options(NOW + 2 * SYNC_PERIOD_S)
    assert (late["healthy"], len(late["log"])) == (False, 2)
    assert config_of(settled(cluster, NOW + 60), "worker2").options["healthy"] is True


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_load_balancers_leave_a_node_with_an_unhealthy_kube_proxy(policy: str) -> None:
    """They use other nodes, with the policy Local those with endpoints of their own."""
    text = service(
        "web", 80, "http", type="LoadBalancer", externalTrafficPolicy=policy
    ) + deployment(replicas=6)
    before = running(store(text))

    def next_hops(cluster: Cluster) -> set[int]:
        (group,) = [
            obj
            for obj in plan(cluster, DECISIONS)["fabric/router"].values()
            if isinstance(obj, NexthopGroup)
        ]
        return set(group.members)

    both = {node_number("172.18.0.3"), node_number("172.18.0.4")}
    assert next_hops(before) == both
    node, other = "worker", {node_number("172.18.0.4")}
    assert next_hops(broken(before, "stopped", node)) == other
    assert next_hops(settled(broken(before, "stale", node), NOW + 60)) == other
    assert next_hops(broken(before, "misconfigured", node)) == next_hops(before)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("kube-prox", {}, "did you mean kube-proxy?"),
        ("kube-proxy", {}, "node: required, but missing"),
        ("kube-proxy", {"node": "wrker"}, 'there is no node "wrker"; did you mean worker?'),
        (
            "kube-proxy",
            {"node": "worker", "how": "gone"},
            "expected one of misconfigured, stale, stopped",
        ),
        ("kube-proxy", {"node": "worker", "mode": "x"}, "mode: unknown field"),
    ],
)
def test_an_invalid_fault_is_refused(name: str, options: dict[str, str], message: str) -> None:
    """The message lists the known values."""
    with pytest.raises(UsageError) as refused:
        faults.break_changes(store(), name, options, NOW)
    assert message in str(refused.value)


def test_a_node_is_not_broken_twice() -> None:
    """A fault on another node is independent; a cluster without kube-proxy cannot be broken."""
    cluster = broken(broken(store(), "stale"), "stopped", "worker2")
    assert [fault.name for fault in cluster.all(Fault)] == ["1", "2"]
    with pytest.raises(
        UsageError, match="already broken on worker, by fault 1; first: kubenetlab heal 1"
    ):
        broken(cluster, "stopped")
    with pytest.raises(UsageError, match="has no kube-proxy"):
        broken(
            store(
                "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: "
                "{kubeProxyMode: none}\n"
            ),
            "stopped",
        )


def test_a_fault_is_deleted_with_its_node() -> None:
    """The remembered state is deleted, too."""
    config = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnodes: [{role: control-plane}, "
        "{role: worker}%s]\n---\n"
    )
    cluster = broken(running(store(config % ", {role: worker}")), "stale", "worker2")
    cluster = applied(cluster, config % "")
    assert (*cluster.all(ProxySnapshot), *cluster.all(Fault)) == ()


def test_every_fault_has_a_manual() -> None:
    """It begins with the fault's name and describes each option by name."""
    for name in faults.known():
        manual = faults.manual(name)
        assert manual.startswith(f"{name}: ")
        assert all(re.search(rf"\b{option}\b", manual) for option in faults.option_names(name))
    assert faults.values("kube-proxy", "how") == ["stopped", "stale", "misconfigured"]
