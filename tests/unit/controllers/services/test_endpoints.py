"""Endpoints and EndpointSlices: from pods, mirrored from a user's objects, or left alone."""

from __future__ import annotations

import pytest
from msgspec import structs

from kubenetlab.api.core import SERVICE_NAME_LABEL, Service
from kubenetlab.api.discovery import Endpoints
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.support.termination import deletion_changes
from tests.clusters import (
    NOW,
    applied,
    deployment,
    observed,
    pod,
    problems_of,
    running,
    service,
    settled,
    slices,
    store,
    web_pods,
)


def conditions(cluster: Cluster) -> dict[str, tuple[bool, bool, bool]]:
    """Return pod → (ready, serving, terminating)."""
    result = {}
    for slice_ in slices(cluster):
        for endpoint in slice_.endpoints:
            assert endpoint.target_ref is not None
            state = endpoint.conditions
            result[endpoint.target_ref.name] = (
                state.is_ready,
                state.is_serving,
                state.is_terminating,
            )
    return result


def test_endpoints_follow_readiness() -> None:
    """`serving` is the pod's readiness; `ready` is serving and not terminating."""
    cluster = running(store(deployment() + service()), ready=False)
    names = [pod.name for pod in web_pods(cluster)]
    assert conditions(cluster) == dict.fromkeys(names, (False, False, False))
    cluster = running(cluster)
    assert conditions(cluster) == dict.fromkeys(names, (True, True, False))
    cluster = settled(cluster.with_changes(deletion_changes(web_pods(cluster)[0], NOW)))
    assert conditions(cluster)[names[0]] == (False, True, True)


def test_publish_not_ready_addresses_makes_endpoints_ready() -> None:
    """The result of the probes does not matter."""
    cluster = running(
        store(deployment(replicas=1) + service(publishNotReadyAddresses="true")), ready=False
    )
    assert list(conditions(cluster).values()) == [(True, False, False)]


def test_a_slice_has_at_most_a_hundred_endpoints() -> None:
    """Names and labels of the slices are those of Kubernetes."""
    cluster = running(store(deployment(replicas=205) + service()))
    assert sorted(len(slice_.endpoints) for slice_ in slices(cluster)) == [5, 100, 100]
    for slice_ in slices(cluster):
        assert slice_.labels["kubernetes.io/service-name"] == "web"
        assert (
            slice_.labels["endpointslice.kubernetes.io/managed-by"]
            == "endpointslice-controller.k8s.io"
        )
        assert slice_.ports[0].port == 8080


def test_a_named_port_is_resolved_pod_by_pod() -> None:
    """Pods may differ; a pod without the named port is left out of it."""
    text = "".join(
        pod(
            name,
            meta=", labels: {app: web}",
            container=f", ports: [{{name: {port}, containerPort: {number}}}]",
        )
        for name, port, number in (("a", "http", 80), ("b", "http", 8080), ("c", "other", 90))
    )
    cluster = running(store(text + service()))
    assert sorted(
        (port.port, len(slice_.endpoints)) for slice_ in slices(cluster) for port in slice_.ports
    ) == [(80, 1), (8080, 1)]


def test_slices_of_users_are_left_alone() -> None:
    """A Service without a selector has only slices that a user wrote."""
    text = """\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: by-hand, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [198.51.100.10]}]
"""
    assert [slice_.name for slice_ in slices(store(text))] == ["by-hand"]


# --- Endpoints objects ---

OUTSIDE = (
    "apiVersion: v1\nkind: Service\nmetadata: {name: outside}\n"
    "spec: {ports: [{name: https, port: 443}]}\n---\n"
)
ADDRESSES = """\
apiVersion: v1
kind: Endpoints
metadata: {name: outside}
subsets:
- addresses: [{ip: 198.51.100.20}, {ip: 198.51.100.21}]
  notReadyAddresses: [{ip: 198.51.100.22}]
  ports: [{name: https, port: 8443}]
---
"""


def test_endpoints_have_the_addresses_of_the_slices() -> None:
    """They have ready and unready addresses with resolved ports, and go with their Service."""
    cluster = running(store(deployment(replicas=2) + service()))
    endpoints = cluster.get(Endpoints, "default", "web")
    assert endpoints is not None
    (subset,) = endpoints.subsets
    assert [address.ip for address in subset.addresses] == [
        pod.addresses[0] for pod in web_pods(cluster)
    ]
    assert [port.port for port in subset.ports] == [8080]
    sick = settled(cluster.with_changes([observed(web_pods(cluster)[0], ready=False)]))
    (subset,) = sick.get(Endpoints, "default", "web").subsets  # type: ignore[union-attr]
    assert (len(subset.addresses), len(subset.not_ready_addresses)) == (1, 1)
    after = settled(
        cluster.with_changes(
            deletion_changes(next(s for s in cluster.all(Service) if s.name == "web"), NOW)
        )
    )
    assert after.get(Endpoints, "default", "web") is None


def test_endpoints_of_users_are_mirrored_to_slices() -> None:
    """The Service has no selector; the slices follow changes and go with either object."""
    cluster = store(OUTSIDE + ADDRESSES)
    (slice_,) = slices(cluster, "outside")
    assert (
        slice_.labels["endpointslice.kubernetes.io/managed-by"]
        == "endpointslicemirroring-controller.k8s.io"
    )
    assert [
        (endpoint.addresses[0], endpoint.conditions.is_ready) for endpoint in slice_.endpoints
    ] == [
        ("198.51.100.20", True),
        ("198.51.100.21", True),
        ("198.51.100.22", False),
    ]
    changed = applied(cluster, ADDRESSES.replace("{ip: 198.51.100.20}, ", ""))
    assert len(slices(changed, "outside")[0].endpoints) == 2
    endpoints = cluster.get(Endpoints, "default", "outside")
    assert endpoints is not None
    assert not slices(settled(cluster.with_changes(deletion_changes(endpoints, NOW))), "outside")
    skipped = store(
        OUTSIDE
        + ADDRESSES.replace(
            "{name: outside}",
            "{name: outside, labels: {endpointslice.kubernetes.io/skip-mirror: 'true'}}",
        )
    )
    assert not slices(skipped, "outside")


@pytest.mark.parametrize("other", ["api", "zzz"])
def test_a_slice_that_is_moved_to_another_service_is_replaced(other: str) -> None:
    """The controller deletes the moved slice, and creates one of the same name for its Service."""
    cluster = running(store(deployment() + service() + service(other)))
    (before,) = slices(cluster)
    labels = {**before.labels, SERVICE_NAME_LABEL: other}
    moved = structs.replace(before, metadata=structs.replace(before.metadata, labels=labels))
    (after,) = slices(settled(cluster.with_changes([moved])))
    assert (after.name, after.endpoints) == (before.name, before.endpoints)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("198.51.100.20", "127.0.0.1"), "may not be in the loopback range"),
        (("198.51.100.20", "www"), "expected an IP address"),
        (("name: https, port: 8443", "name: A_b, port: 8443"), "expected a DNS label"),
    ],
)
def test_invalid_endpoints_are_rejected(change: tuple[str, str], message: str) -> None:
    """The messages are the API server's."""
    assert any(message in problem.message for problem in problems_of(ADDRESSES.replace(*change)))
