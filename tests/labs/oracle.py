"""What Kubernetes promises of a packet to a Service, in plain Python: it knows nothing of the
package, nor of how a mode does it.

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

A load balancer leads to the others only, whatever the policy, as long as one of them is ready.
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
    """One entry of a slice that somebody wrote by hand."""

    pod: str
    is_ready: bool = True
    is_serving: bool = True
    is_terminating: bool = False


@dataclass(frozen=True)
class Service:
    """One Service of one port."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"]
    protocol: Literal["TCP", "UDP"]
    app: str
    """Whom it selects; "": nobody, its endpoints are `slice`."""
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
    """Who asks."""

    kind: Literal["pod", "node", "ext"]
    name: str
    address: str
    node: str = ""
    """Where a pod is; a node itself."""


Way = Literal["cluster", "node", "balanced", "external"]
"""By which of its addresses a Service is asked."""


@dataclass(frozen=True)
class Outcomes:
    """What may come of it: (who answers, which address it sees), or that nobody does."""

    answers: frozenset[tuple[str, str]] = frozenset()
    errors: frozenset[str] = frozenset()


@dataclass
class State:
    """What is to be in the lab."""

    pods: dict[str, Pod]
    services: dict[str, Service]
    node_addresses: Mapping[str, str]
    mode: str
    """kube-proxy's."""
    pods_range: str = ""
    changes: list[str] = field(default_factory=list)

    def outcomes(
        self, source: Place, service: Service, way: Way, node: str = ""
    ) -> Outcomes | None:
        """What may become of a connection; `node` is whose node port is asked.

        None where nothing is promised.
        """
        if way == "cluster":
            return self._inside(source, service)
        if way == "balanced" and service.sources and not _is_in(source.address, service.sources):
            # Whether a refusal comes before the ranges is each mode's own.
            return Outcomes(
                errors=frozenset((SILENCE, REFUSED) if not self._usable(service) else (SILENCE,))
            )
        if way == "node":
            return self._by_node_port(source, service, node)
        if source.kind == "ext":
            return _either(self._taken_in(source, service, node) for node in self._led_to(service))
        if source.kind == "node" and self.mode == "iptables" and not self._usable(service):
            return Outcomes(
                errors=frozenset((REFUSED, SILENCE))
            )  # it goes out, to be refused by another node, or lost at its own
        return self._short_cut(source, service, source.node)

    def _inside(self, source: Place, service: Service) -> Outcomes:
        """By the cluster IP: a pod is seen itself, a node by its own address."""
        chosen = (
            self._local(service, source.node)
            if service.internal == "Local"
            else self._cluster(service, source.node)
        )
        return self._answers(
            service, chosen, source, masquerades=source.kind != "pod", node=source.node
        )

    def _by_node_port(self, source: Place, service: Service, node: str) -> Outcomes | None:
        if source.node == node:
            return self._short_cut(source, service, node)
        if service.external == "Local" and source.kind == "pod":
            chosen = self._cluster(service, node)
            if any(self.pods[name].node != node for name in chosen):
                return None  # the answer of another node's pod goes straight back to who asked somebody else
            return self._answers(service, chosen, source, masquerades=False, node=node)
        return self._taken_in(source, service, node)

    def _short_cut(self, source: Place, service: Service, node: str) -> Outcomes:
        """From a pod or a node by its own node: every endpoint will do, whatever the policy."""
        masquerades = service.external == "Cluster" or source.kind == "node"
        return self._answers(
            service, self._cluster(service, node), source, masquerades=masquerades, node=node
        )

    def _taken_in(self, source: Place, service: Service, node: str) -> Outcomes:
        """From elsewhere, by a node."""
        is_local = service.external == "Local"
        chosen = self._local(service, node) if is_local else self._cluster(service, node)
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
            return Outcomes(errors=frozenset((SILENCE if self._usable(service) else REFUSED,)))
        own = self.node_addresses[node]
        return Outcomes(
            frozenset(
                (
                    name,
                    own
                    if masquerades or self.pods[name].address == source.address
                    else source.address,
                )
                for name in chosen
            )
        )

    def _led_to(self, service: Service) -> Collection[str]:
        """The nodes to which a load balancer may lead."""
        if service.external == "Local":
            ready = {
                self.pods[name].node for name, (is_ready, _) in self._endpoints(service) if is_ready
            }
            return ready.intersection(WORKERS) or WORKERS
        return WORKERS

    # --- endpoints ---

    def _endpoints(self, service: Service) -> Iterator[tuple[str, tuple[bool, bool]]]:
        """Pod → (ready, still serving while it terminates)."""
        if service.app:
            for name, pod in self.pods.items():
                if pod.app == service.app:
                    yield name, (pod.is_ready or service.publishes_unready, False)
        else:
            for entry in service.slice:
                yield entry.pod, (entry.is_ready, entry.is_serving and entry.is_terminating)

    def _cluster(self, service: Service, node: str) -> set[str]:
        ready = {name for name, (is_ready, _) in self._endpoints(service) if is_ready}
        if service.app and service.distribution:
            here = {name for name in ready if self.pods[name].node == node}
            near = {name for name in ready if NODES[self.pods[name].node] == NODES[node]}
            return (
                (here if service.distribution == "PreferSameNode" else set())
                or near
                or ready
                or self._last(service)
            )
        return ready or self._last(service)

    def _last(self, service: Service) -> set[str]:
        return {name for name, (_, is_last) in self._endpoints(service) if is_last}

    def _local(self, service: Service, node: str) -> set[str]:
        ready = {
            name
            for name, (is_ready, _) in self._endpoints(service)
            if is_ready and self.pods[name].node == node
        }
        return ready or {name for name in self._last(service) if self.pods[name].node == node}

    def _usable(self, service: Service) -> bool:
        return any(is_ready or is_last for _, (is_ready, is_last) in self._endpoints(service))


def _is_in(address: str, ranges: Collection[str]) -> bool:
    return any(ip_address(address) in ip_network(text) for text in ranges)


def _either(found: Iterator[Outcomes]) -> Outcomes:
    answers: set[tuple[str, str]] = set()
    errors: set[str] = set()
    for one in found:
        answers |= one.answers
        errors |= one.errors
    return Outcomes(frozenset(answers), frozenset(errors))
