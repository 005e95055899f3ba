"""Rules of Services in the mode nftables, and the endpoints that they use."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kubenetlab.api.store import Cluster
from kubenetlab.controllers.support.termination import deletion_changes
from kubenetlab.datapath.proxy.services import EndpointAddress, categorize
from kubenetlab.hoststate.rules.nftables import Chain, Collection
from tests.clusters import (
    NOW,
    deployment,
    running,
    service,
    settled,
    store,
    web_pods,
)
from tests.unit.datapath.plans import elements, objects_of, planned


def test_a_service_is_a_map_entry_a_chain_and_a_chain_per_endpoint() -> None:
    """Names and rules are those of kube-proxy (proxier_test.go)."""
    cluster = running(store(deployment(replicas=2) + service(clusterIP="10.96.7.7")))
    state = planned(cluster)
    addresses = sorted(address for found in web_pods(cluster) for address in found.addresses)
    (item,) = [
        key for key in elements(state, "worker", "service-ips") if key.startswith("10.96.7.7 ")
    ]
    assert item == "10.96.7.7 . tcp . 80"
    chains = {
        chain.name: [rule.text for rule in chain.rules]
        for chain in objects_of(state, "node/worker", Chain)
    }
    service_chain = elements(state, "worker", "service-ips")[item].removeprefix("goto ")
    assert re.fullmatch(r"service-[A-Z2-7]{8}-default/web/tcp/", service_chain)
    masquerade, choose = chains[service_chain]
    assert masquerade == "ip daddr 10.96.7.7 ip saddr != 10.244.0.0/16 jump mark-for-masquerade"
    endpoint_chains = re.findall(r"goto (\S+?)[, ]", choose)
    assert choose.startswith("numgen random mod 2 vmap { 0 : goto endpoint-")
    assert [chains[name] for name in endpoint_chains] == [
        [f"ip saddr {address} jump mark-for-masquerade", f"meta l4proto tcp dnat to {address}:8080"]
        for address in addresses
    ]
    assert all(
        re.fullmatch(rf"endpoint-[A-Z2-7]{{8}}-default/web/tcp/__{address}/8080", name)
        for name, address in zip(endpoint_chains, addresses, strict=True)
    )
    assert "10.96.7.7" in elements(state, "worker", "cluster-ips")


def test_session_affinity_remembers_clients_by_endpoint() -> None:
    """Each endpoint has a set of recent clients, with the timeout of the manifest.

    Packets that reach the endpoint update it, and it is matched before a new endpoint is drawn.
    """
    cluster = running(
        store(
            deployment(replicas=2)
            + service(
                sessionAffinity="ClientIP", sessionAffinityConfig="{clientIP: {timeoutSeconds: 60}}"
            )
        )
    )
    state = planned(cluster)
    first, second = sorted(found.addresses[0] for found in web_pods(cluster))
    sets = {
        found.name: found.timeout_s
        for found in objects_of(state, "node/worker", Collection)
        if found.timeout_s
    }
    assert [re.sub("-[A-Z2-7]{8}-", "-HASH-", name) for name in sets] == [
        f"affinity-HASH-default/web/tcp/__{address}/8080" for address in (first, second)
    ]
    assert set(sets.values()) == {60}
    chains = {
        chain.name.partition("-")[0]: chain
        for chain in objects_of(state, "node/worker", Chain)
        if "default/web/" in chain.name
    }
    gotos = [rule.text for rule in chains["service"].rules[1:-1]]
    assert [re.sub("-[A-Z2-7]{8}-", "-HASH-", text) for text in gotos] == [
        f"ip saddr @affinity-HASH-default/web/tcp/__{address}/8080 "
        f"goto endpoint-HASH-default/web/tcp/__{address}/8080"
        for address in (first, second)
    ]
    assert f"update @{list(sets)[1]} {{ ip saddr }}" in [
        rule.text for rule in chains["endpoint"].rules
    ]


@pytest.mark.parametrize(
    ("spec", "verdict"), [({}, "goto reject-chain"), ({"internalTrafficPolicy": "Local"}, "drop")]
)
def test_a_service_without_usable_endpoints_is_rejected_or_dropped(
    spec: dict[str, Any], verdict: str
) -> None:
    """It is rejected without any endpoint, and dropped if only a policy Local excludes them."""
    cluster = running(store(deployment(replicas=1) + service(**spec)), ready=bool(spec))
    state = planned(cluster)
    own_node = web_pods(cluster)[0].spec.node_name
    other_node = next(name for name in ("worker", "worker2") if name != own_node)
    assert [
        value
        for key, value in elements(state, other_node, "no-endpoint-services").items()
        if key.endswith(" . 80")
    ] == [verdict]
    if spec:
        assert not [
            key
            for key in elements(state, own_node, "no-endpoint-services")
            if key.endswith(" . 80")
        ]


def test_terminating_endpoints_serve_when_there_are_no_others() -> None:
    """Ready endpoints come first, then those that serve while they terminate; no others serve."""
    cluster = running(store(deployment(replicas=2) + service()))
    first, second = web_pods(cluster)
    cluster = settled(cluster.with_changes(deletion_changes(first, NOW)))

    def targets(found: Cluster) -> set[str]:
        return {
            address
            for chain in objects_of(planned(found), "node/worker", Chain)
            if chain.comment == "default/web"
            for rule in chain.rules
            for address in re.findall(r"dnat to (\S+):", rule.text)
        }

    assert first.addresses[0] not in targets(cluster)
    alone = running(store(deployment(replicas=1) + service()))
    (only,) = web_pods(alone)
    dying = settled(alone.with_changes(deletion_changes(only, NOW)), NOW)
    assert targets(dying) == {only.addresses[0]}
    assert second.addresses[0] in targets(cluster)


def test_categorize_selects_endpoints_as_upstream() -> None:
    """The states are those that Kubernetes' CategorizeEndpoints distinguishes."""
    from kubenetlab.api.discovery import Endpoint, EndpointConditions

    def endpoint(
        number: int, *, ready: bool, serving: bool, terminating: bool
    ) -> tuple[Endpoint, EndpointAddress]:
        address = f"10.0.0.{number}"
        return Endpoint(
            (address,), EndpointConditions(ready, serving, terminating)
        ), EndpointAddress(address, 80)

    ready = endpoint(1, ready=True, serving=True, terminating=False)
    dying = endpoint(2, ready=False, serving=True, terminating=True)
    sick = endpoint(3, ready=False, serving=False, terminating=False)
    assert categorize([ready, dying, sick]) == (ready[1],)
    assert categorize([dying, sick]) == (dying[1],)
    assert categorize([sick]) == ()
