"""EndpointSlices against a second implementation, with random pods and Services.

The expected endpoints are computed here a second time, from the documentation of the API.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from kubenetlab.api.containers import Container, ContainerPort
from kubenetlab.api.core import Node, Service, ServicePort, ServiceSpec
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.meta import Condition, ObjectMeta
from kubenetlab.api.pods import Pod, PodIP, PodSpec, PodStatus
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.services import endpointslices
from tests.clusters import NOW
from tests.examples import examples

FAMILIES = {"IPv4": "10.244.{}.{}", "IPv6": "fd00::{}:{}"}
BY_HAND = "somebody.example.com"


class RandomCluster:
    """Random pods and Services."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.pick: Any = random.choice

    def pods(self) -> list[Pod]:
        """Return a few different pods, or many similar ones to exceed the limit of a slice."""
        if self.pick([True, True, True, True, False]):
            return [self.pod(number) for number in range(self.pick(range(12)))]
        first = self.pod(0)
        return [
            structs.replace(
                first,
                metadata=ObjectMeta(f"p{number}", "default", {"app": "web"}, uid=f"uid{number}"),
                status=PodStatus(
                    "Running",
                    pod_ips=(PodIP(FAMILIES["IPv4"].format(number // 200, number % 200 + 1)),),
                ),
            )
            for number in range(self.pick([99, 100, 101, 200, 201, 330]))
        ]

    def pod(self, number: int) -> Pod:
        meta = ObjectMeta(
            f"p{number}",
            self.pick(["default", "default", "default", "far"]),
            self.pick(
                [{"app": "web"}, {"app": "web"}, {"app": "web", "tier": "x"}, {"app": "db"}, {}]
            ),
            uid=f"uid{number}",
            deletion_timestamp=self.pick([None, None, None, "2023-11-14T22:13:20Z"]),
        )
        numbers = {"http": self.pick([80, 8080]), "other": 90}
        names = self.pick([["http"], ["http"], ["http", "other"], ["other"], []])
        ports = tuple(
            ContainerPort(numbers[name], name, self.pick(["TCP", "TCP", "UDP"])) for name in names
        )
        spec = PodSpec(
            (Container("side", "i"), Container("main", "i", ports=ports)),
            node_name=self.pick(["n0", "n1"]),
            hostname=self.pick(["", "here"]),
            subdomain=self.pick(["", "web", "all"]),
        )
        families = self.pick([("IPv4",), ("IPv4",), ("IPv4", "IPv6"), ("IPv6",), ()])
        status = PodStatus(
            phase=self.pick(["Running", "Running", "Running", "Pending", "Succeeded", "Failed"]),
            conditions=self.pick(
                [
                    (),
                    (Condition("Ready", "True"),),
                    (Condition("Ready", "True"),),
                    (Condition("Ready", "False"),),
                ]
            ),
            pod_ips=tuple(
                PodIP(FAMILIES[family].format(number // 200, number % 200 + 1))
                for family in families
            ),
        )
        return Pod(meta, spec, status)

    def service(self, name: str) -> Service:
        ports = [
            ServicePort(
                80, "a", self.pick(["TCP", "TCP", "UDP"]), self.pick([80, "http", "http", "other"])
            ),
            ServicePort(81, "b", "TCP", self.pick([81, "other", "nobody"]), app_protocol="http"),
        ]
        spec = ServiceSpec(
            type=self.pick(["ClusterIP", "ClusterIP", "ClusterIP", "ExternalName"]),
            selector=self.pick([{"app": "web"}, {"app": "web"}, {"app": "web", "tier": "x"}, {}]),
            ports=tuple(ports[: self.pick([0, 1, 2])]),
            cluster_ip=self.pick(["10.96.0.7", "None"]),
            ip_families=self.pick([("IPv4",), ("IPv4",), ("IPv4", "IPv6"), ("IPv6",)]),
            publish_not_ready_addresses=self.pick([False, False, True]),
        )
        return Service(ObjectMeta(name, "default", {"of": name}, uid=name), spec)

    def cluster(self) -> Cluster:
        nodes = [
            Node(ObjectMeta(name="n0", labels={"topology.kubernetes.io/zone": "a"})),
            Node(ObjectMeta(name="n1")),
        ]
        by_hand = EndpointSlice(
            ObjectMeta(
                "mine",
                "default",
                {
                    "kubernetes.io/service-name": "web",
                    "endpointslice.kubernetes.io/managed-by": BY_HAND,
                },
                uid="mine",
            ),
            "IPv4",
        )
        return Cluster().with_changes(
            [*nodes, by_hand, *self.pods(), self.service("web"), self.service("all")]
        )

    def changed(self, cluster: Cluster) -> Cluster:
        """Return the store with some pods and a Service changed."""
        pods = [pod for pod in cluster.all(Pod) if self.random.random() < 0.3]
        return cluster.with_changes(
            [*(self.pod(int(pod.name[1:])) for pod in pods), self.service("web")]
        )


# --- the reference implementation ---


def expected(cluster: Cluster, service: Service, family: str) -> Iterator[tuple[Any, ...]]:
    """Return (pod, address, ports, ready, serving, terminating, node, zone, hostname) tuples."""
    spec = service.spec
    if not spec.selector or spec.type == "ExternalName" or family not in spec.ip_families:
        return
    for pod in cluster.all(Pod):
        addresses = [
            entry.ip for entry in pod.status.pod_ips if (":" in entry.ip) == (family == "IPv6")
        ]
        is_selected = pod.namespace == service.namespace and all(
            pod.labels.get(key) == value for key, value in spec.selector.items()
        )
        if not is_selected or not addresses or pod.status.phase in ("Succeeded", "Failed"):
            continue
        terminating = pod.metadata.deletion_timestamp is not None
        serving = any(
            (condition.type, condition.status) == ("Ready", "True")
            for condition in pod.status.conditions
        )
        ready = spec.publish_not_ready_addresses or (serving and not terminating)
        hostname = (
            pod.spec.hostname if pod.spec.hostname and pod.spec.subdomain == service.name else None
        )
        zone = "a" if pod.spec.node_name == "n0" else None
        yield (
            pod.key,
            addresses[0],
            resolved(service, pod),
            ready,
            serving,
            terminating,
            pod.spec.node_name,
            zone,
            hostname,
        )


def resolved(service: Service, pod: Pod) -> tuple[tuple[str, int, str, str | None], ...]:
    """Return the Service's ports as numbers of this pod, without those that it does not have."""
    ports = []
    declared = {
        (port.name, port.protocol): port.container_port
        for container in pod.spec.containers
        for port in container.ports
    }
    for port in service.spec.ports:
        number = (
            port.target_port
            if isinstance(port.target_port, int)
            else declared.get((str(port.target_port), port.protocol))
        )
        if number is not None:
            ports.append((port.name, number, port.protocol, port.app_protocol))
    return tuple(ports)


def actual(slices_: list[EndpointSlice]) -> Iterator[tuple[Any, ...]]:
    """Return the same tuples from the slices."""
    for slice_ in slices_:
        ports = tuple(
            (port.name, port.port, port.protocol, port.app_protocol) for port in slice_.ports
        )
        for endpoint in slice_.endpoints:
            assert endpoint.target_ref is not None
            pod = (endpoint.target_ref.namespace, endpoint.target_ref.name)
            (address,) = endpoint.addresses
            state = endpoint.conditions
            yield (
                pod,
                address,
                ports,
                state.ready,
                state.serving,
                state.terminating,
                endpoint.node_name,
                endpoint.zone,
                endpoint.hostname,
            )


def reconciled(cluster: Cluster) -> Cluster:
    return cluster.with_changes(endpointslices.reconcile(cluster, NOW))


def check(cluster: Cluster) -> None:
    for service in cluster.all(Service):
        by_family: dict[str, list[EndpointSlice]] = defaultdict(list)
        for slice_ in cluster.slices_of(service):
            if slice_.labels["endpointslice.kubernetes.io/managed-by"] == BY_HAND:
                continue
            by_family[slice_.address_type].append(slice_)
            assert (
                slice_.labels["endpointslice.kubernetes.io/managed-by"]
                == "endpointslice-controller.k8s.io"
            )
            assert ("service.kubernetes.io/headless" in slice_.labels) == (
                service.spec.cluster_ip == "None"
            )
            assert slice_.labels["of"] == service.name
            assert slice_.name.startswith(f"{service.name}-")
            assert len(slice_.endpoints) <= 100
        for family in FAMILIES:
            assert Counter(actual(by_family[family])) == Counter(expected(cluster, service, family))
            sizes: dict[Any, list[int]] = defaultdict(list)
            for slice_ in by_family[family]:
                sizes[slice_.ports].append(len(slice_.endpoints))
            # The number of slices is minimal.
            assert all(len(counts) == max(1, -(-sum(counts) // 100)) for counts in sizes.values())
            is_served = (
                service.spec.selector
                and service.spec.type != "ExternalName"
                and family in service.spec.ip_families
            )
            assert (
                bool(by_family[family])
                or not is_served
                or any(True for _ in cluster.select(service.namespace, service.spec.selector))
            )


@settings(max_examples=examples(150))
@given(random=st.randoms(use_true_random=True))
def test_slices_match_the_reference(random: Random) -> None:
    """At first and after any change; a second run changes nothing, and slices of users stay."""
    chance = RandomCluster(random)
    cluster = chance.cluster()
    by_hand = cluster.get(EndpointSlice, "default", "mine")
    for _ in range(3):
        cluster = reconciled(cluster)
        check(cluster)
        assert reconciled(cluster) is cluster
        assert cluster.get(EndpointSlice, "default", "mine") is by_hand
        uids = Counter(slice_.uid for slice_ in cluster.all(EndpointSlice))
        assert max(uids.values()) == 1
        cluster = chance.changed(cluster)
