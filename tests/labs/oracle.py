"""The outcomes that Kubernetes promises for a packet to a Service, in plain Python.

This module knows neither the package nor the implementation of a mode.

Source: kubernetes.io/docs/concepts/services-networking/service, virtual-ips; k8s.io/kubernetes
pkg/proxy/topology.go (1.33); k8s.io/cloud-provider controllers/service (nodeIncludedPredicate).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Literal

NODES = {"control-plane": "a", "worker": "a", "worker2": "b"}
"""Node → its zone.

A load balancer only uses the workers, with either policy, as long as one of them is ready.
"""
WORKERS = ("worker", "worker2")
REFUSED, SILENCE = "refused", "silence"


@dataclass(frozen=True)
class Pod:
    """A server; it answers whether it is ready or not."""

    node: str
    address: str
    app: str = ""
    is_ready: bool = True


@dataclass(frozen=True)
class Endpoint:
    """One entry of a manually written slice."""

    pod: str
    is_ready: bool = True
    is_serving: bool = True
    is_terminating: bool = False


@dataclass(frozen=True)
class Service:
    """A Service with one port."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"]
    protocol: Literal["TCP", "UDP"]
    app: str
    """Label of the selected pods; "": no selector, the endpoints are `slice`."""
    slice: tuple[Endpoint, ...] = ()
    internal: Literal["Cluster", "Local"] = "Cluster"
    external: Literal["Cluster", "Local"] = "Cluster"
    has_affinity: bool = False
    has_external_ip: bool = False
    sources: tuple[str, ...] = ()
    publishes_unready: bool = False
    distribution: Literal["", "PreferSameZone", "PreferSameNode"] = ""


@dataclass(frozen=True)
class Place:
    """The client of a connection."""

    kind: Literal["pod", "node", "ext"]
    name: str
    address: str
    node: str = ""
    """Node of a pod, or the node itself."""


AddressKind = Literal["cluster", "node", "balanced", "external"]
"""Kind of the address under which a Service is contacted."""


@dataclass(frozen=True)
class Outcomes:
    """Possible outcomes: (server, client address that it sees), or an error."""

    answers: frozenset[tuple[str, str]] = frozenset()
    errors: frozenset[str] = frozenset()


@dataclass
class State:
    """Desired objects of the lab."""

    pods: dict[str, Pod]
    services: dict[str, Service]
    node_addresses: Mapping[str, str]
    mode: str
    """Mode of kube-proxy."""
    pods_range: str = ""
    changes: list[str] = field(default_factory=list)

    def outcomes(
        self, source: Place, service: Service, kind_of_address: AddressKind, node: str = ""
    ) -> Outcomes | None:
        """Return the possible outcomes of a connection, or None if nothing is promised.

        node: the node whose node port is contacted.
        """
        if kind_of_address == "cluster":
            return self._by_cluster_ip(source, service)
        if (
            kind_of_address == "balanced"
            and service.sources
            and not _is_in(source.address, service.sources)
        ):
            # The modes differ in whether they refuse before they check the ranges.
            return Outcomes(
                errors=frozenset(
                    (SILENCE, REFUSED) if not self._has_usable_endpoint(service) else (SILENCE,)
                )
            )
        if kind_of_address == "node":
            return self._by_node_port(source, service, node)
        if source.kind == "ext":
            return _either(
                self._from_elsewhere(source, service, node)
                for node in self._load_balancer_nodes(service)
            )
        if (
            source.kind == "node"
            and self.mode == "iptables"
            and not self._has_usable_endpoint(service)
        ):
            return Outcomes(
                # The packet leaves the node: another node refuses it, or it is lost at its own.
                errors=frozenset((REFUSED, SILENCE))
            )
        return self._from_own_node(source, service, source.node)

    def _by_cluster_ip(self, source: Place, service: Service) -> Outcomes:
        """Return the outcomes at the cluster IP.

        Endpoints see a pod's own address and a node's own address.
        """
        chosen = (
            self._local_endpoints(service, source.node)
            if service.internal == "Local"
            else self._cluster_endpoints(service, source.node)
        )
        return self._answers(
            service, chosen, source, masquerades=source.kind != "pod", node=source.node
        )

    def _by_node_port(self, source: Place, service: Service, node: str) -> Outcomes | None:
        if source.node == node:
            return self._from_own_node(source, service, node)
        if service.external == "Local" and source.kind == "pod":
            chosen = self._cluster_endpoints(service, node)
            if any(self.pods[name].node != node for name in chosen):
                # A pod on another node would answer the client directly, from an unknown address.
                return None
            return self._answers(service, chosen, source, masquerades=False, node=node)
        return self._from_elsewhere(source, service, node)

    def _from_own_node(self, source: Place, service: Service, node: str) -> Outcomes:
        """Return the outcomes for a pod or node that contacts its own node.

        All endpoints are used, with either policy.
        """
        masquerades = service.external == "Cluster" or source.kind == "node"
        return self._answers(
            service,
            self._cluster_endpoints(service, node),
            source,
            masquerades=masquerades,
            node=node,
        )

    def _from_elsewhere(self, source: Place, service: Service, node: str) -> Outcomes:
        """Return the outcomes for a client outside `node`."""
        is_local = service.external == "Local"
        chosen = (
            self._local_endpoints(service, node)
            if is_local
            else self._cluster_endpoints(service, node)
        )
        return self._answers(service, chosen, source, masquerades=not is_local, node=node)

    def _answers(
        self,
        service: Service,
        chosen: Collection[str],
        source: Place,
        *,
        masquerades: bool,
        node: str,
    ) -> Outcomes:
        if not chosen:
            return Outcomes(
                errors=frozenset((SILENCE if self._has_usable_endpoint(service) else REFUSED,))
            )
        node_address = self.node_addresses[node]
        return Outcomes(
            frozenset(
                (
                    name,
                    node_address
                    if masquerades or self.pods[name].address == source.address
                    else source.address,
                )
                for name in chosen
            )
        )

    def _load_balancer_nodes(self, service: Service) -> Collection[str]:
        """Return the nodes that a load balancer may use."""
        if service.external == "Local":
            ready = {
                self.pods[name].node for name, (is_ready, _) in self._endpoints(service) if is_ready
            }
            return ready.intersection(WORKERS) or WORKERS
        return WORKERS

    # --- endpoints ---

    def _endpoints(self, service: Service) -> Iterator[tuple[str, tuple[bool, bool]]]:
        """Yield pod → (ready, still serving while it terminates)."""
        if service.app:
            for name, pod in self.pods.items():
                if pod.app == service.app:
                    yield name, (pod.is_ready or service.publishes_unready, False)
        else:
            for entry in service.slice:
                yield entry.pod, (entry.is_ready, entry.is_serving and entry.is_terminating)

    def _cluster_endpoints(self, service: Service, node: str) -> set[str]:
        ready = {name for name, (is_ready, _) in self._endpoints(service) if is_ready}
        if service.app and service.distribution:
            on_node = {name for name in ready if self.pods[name].node == node}
            in_zone = {name for name in ready if NODES[self.pods[name].node] == NODES[node]}
            return (
                (on_node if service.distribution == "PreferSameNode" else set())
                or in_zone
                or ready
                or self._terminating(service)
            )
        return ready or self._terminating(service)

    def _terminating(self, service: Service) -> set[str]:
        return {name for name, (_, is_terminating) in self._endpoints(service) if is_terminating}

    def _local_endpoints(self, service: Service, node: str) -> set[str]:
        ready = {
            name
            for name, (is_ready, _) in self._endpoints(service)
            if is_ready and self.pods[name].node == node
        }
        return ready or {
            name for name in self._terminating(service) if self.pods[name].node == node
        }

    def _has_usable_endpoint(self, service: Service) -> bool:
        return any(
            is_ready or is_terminating for _, (is_ready, is_terminating) in self._endpoints(service)
        )


def _is_in(address: str, ranges: Collection[str]) -> bool:
    return any(ip_address(address) in ip_network(text) for text in ranges)


def _either(alternatives: Iterator[Outcomes]) -> Outcomes:
    answers: set[tuple[str, str]] = set()
    errors: set[str] = set()
    for outcomes in alternatives:
        answers |= outcomes.answers
        errors |= outcomes.errors
    return Outcomes(frozenset(answers), frozenset(errors))
