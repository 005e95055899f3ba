"""Paths of connections, with both ends as network policies see them.

Policies about egress see the destination after the translation of Services, and the source as it
is. Policies about ingress may see another source, because nodes masquerade some connections:

    from               to                                     source at the destination
    pod                pod, cluster IP                        the pod
    pod                external address, node port (Cluster)  its node, unless the endpoint is there
    external host      external address, node port (Cluster)  the node that receives the packet,
                                                              unless the endpoint is there
    external host      external address, node port (Local)    the host
    node, hostNetwork  pod of another node, cluster IP        the node

A node has several addresses, for example that of its tunnel. The kernel selects one by the route to
the pod (`pod_sources` of `inspect`). If the lab does not tell which of several is used, or which
node receives a packet, there is one path for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct, structs

from kubenetlab.observe.policies.frontends import Frontend, frontends_of
from kubenetlab.observe.policies.model import Party, Traffic
from kubenetlab.observe.targets.locations import Location

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection

Protocol = Literal["ICMP", "TCP", "UDP", "SCTP"]

_MASQUERADING: Final = frozenset(("nftables", "iptables", "ipvs"))
"""kube-proxy modes that masquerade traffic of pods to external addresses of Services.

The programs of mode ebpf leave some of it as it is, with direct server return.
"""
_BY_LINK: Final = _MASQUERADING | {"ebpf"}
"""kube-proxy modes in which masqueraded packets have an address of the link by which they leave."""


class Hop(Struct, frozen=True):
    """A connection as the policies of one node see it."""

    source: Party
    destination: Party
    traffic: Traffic


class Path(Struct, frozen=True):
    """A way on which a connection may reach its destination."""

    leaving: Hop
    """The connection as policies about egress see it."""
    arriving: Hop
    """The connection as policies about ingress see it."""


class EndpointPaths(Struct, frozen=True):
    """Paths to an endpoint of a Service, or to a destination without translation."""

    address: str
    port: int
    paths: tuple[Path, ...]


class Paths:
    """Paths of the connections in one lab."""

    def __init__(self, seen: Inspection, local_ranges: Sequence[str] = ()) -> None:
        """Prepare the paths of a lab.

        seen: document of `inspect`.
        local_ranges: ranges of pods whose address kube-proxy keeps in traffic to cluster IPs.
        """
        self._seen = seen
        self._local_ranges = [ip_network(each, strict=False) for each in local_ranges]

    def to(
        self, source: Location, address: str, port: int, protocol: Protocol
    ) -> tuple[EndpointPaths, ...]:
        """Return the paths from a source to an address, for each endpoint behind it.

        There are none for a Service without ready endpoints.
        """
        frontend = self.frontend(address, port, protocol)
        if frontend is None:
            return (self.directly(source, address, port, protocol),)
        own = self.party(source, address)
        return tuple(
            EndpointPaths(
                endpoint,
                target,
                tuple(
                    self._translated(
                        own, frontend, self.party_at(endpoint), Traffic(protocol, target, True)
                    )
                ),
            )
            for endpoint, target in frontend.endpoints
        )

    def directly(
        self, source: Location, address: str, port: int, protocol: Protocol
    ) -> EndpointPaths:
        """Return the paths to an address that nothing translates."""
        own, destination = self.party(source, address), self.party_at(address)
        traffic = Traffic(protocol, port)
        leaving = Hop(own, destination, traffic)
        return EndpointPaths(
            address,
            port,
            tuple(
                Path(leaving, Hop(each, destination, traffic))
                for each in self._own_sources(own, destination)
            ),
        )

    def frontend(self, address: str, port: int, protocol: Protocol) -> Frontend | None:
        """Return the frontend at an address; None if packets go to the address itself."""
        return self._frontends.get((address, port, protocol))

    def party(self, source: Location, address: str) -> Party:
        """Return a source with its address of the family of `address`."""
        own = [each for each in source.addresses if _is_same_family(each, address)]
        name = f"{source.namespace}/{source.name}" if source.kind == "pod" else ""
        return Party(own[0] if own else source.address, name, source.node)

    def party_at(self, address: str) -> Party:
        """Return the pod, node or other host that has an address."""
        return self._parties.get(address) or Party(address)

    def is_subject(self, party: Party) -> bool:
        """Return True for a pod with a network of its own, which policies can isolate."""
        return bool(party.pod) and party.pod not in self._node_pods

    def _translated(
        self, source: Party, frontend: Frontend, destination: Party, traffic: Traffic
    ) -> Iterator[Path]:
        leaving = Hop(source, destination, traffic)
        hops = [leaving]
        if frontend.is_elsewhere(source):
            front = self.party_at(frontend.address)
            hops = [Hop(source, front, Traffic(traffic.protocol, frontend.port, True))]
            if self._has_direct_return and source.node == destination.node:
                hops.append(leaving)  # the source's own node translates what returns to it
        for each in dict.fromkeys(self._sources(source, frontend, destination)):
            yield from (Path(hop, Hop(each, destination, traffic)) for hop in hops)

    def _sources(self, source: Party, frontend: Frontend, destination: Party) -> Iterator[Party]:
        """Yield the sources that the destination may see, of which it sees one."""
        is_itself = source.pod == destination.pod and not frontend.is_elsewhere(source)
        if not self.is_subject(destination) or is_itself:
            yield source  # no policy applies
        elif frontend.is_sent_on:
            yield from self._untranslated(source, destination)
            yield from self._router_parties
            if not frontend.is_source_kept:
                yield from self._other_nodes(source, destination)
        elif frontend.kind == "cluster":
            yield from self._to_cluster_ip(source, destination)
        elif frontend.kind == "node port" and frontend.node != source.node:
            yield from self._to_node_port(source, frontend, destination)
        else:
            yield from self._to_outside_address(source, frontend, destination)

    def _to_outside_address(
        self, source: Party, frontend: Frontend, destination: Party
    ) -> Iterator[Party]:
        """Yield the sources of a packet that the source's node translates, or any for others."""
        if frontend.is_source_kept or not source.node:
            yield from self._own_sources(source, destination)
            if not frontend.is_source_kept:
                yield from self._other_nodes(source, destination)
        elif not self.is_subject(source) or source.node == destination.node:
            yield from self._own_sources(source, destination)
            if self.is_subject(source) and self._are_masqueraded_first:
                # The mark of its packets says which pod it is, but ranges match their address.
                for node in self._parties_of(source.node, destination.address):
                    yield structs.replace(source, address=node.address)
        else:
            yield from self._addresses_of(source, destination)
            if self._seen["kube_proxy_mode"] not in _MASQUERADING:
                yield source

    def _to_cluster_ip(self, source: Party, destination: Party) -> Iterator[Party]:
        yield from self._own_sources(source, destination)
        if not source.node:
            yield from self._other_nodes(source, destination)
        elif self.is_subject(source) and not self._is_local(source.address):
            yield from self._addresses_of(source, destination)

    def _to_node_port(
        self, source: Party, frontend: Frontend, destination: Party
    ) -> Iterator[Party]:
        """Yield the sources of a packet to a node port of another node than the source's own."""
        if not frontend.is_source_kept and frontend.node != destination.node:
            yield from self._parties_of(frontend.node, destination.address)
            if self._has_direct_return:
                yield from self._untranslated(source, destination)
            return
        yield from self._untranslated(source, destination)

    @property
    def _are_masqueraded_first(self) -> bool:
        """True if policies about ingress see packets after the stack has masqueraded them."""
        is_netfilter = self._seen["kube_proxy_mode"] in _MASQUERADING
        return is_netfilter and self._seen.get("policy_engine") == "ebpf"

    @cached_property
    def _has_direct_return(self) -> bool:
        """True if endpoints may see a client that other nodes do not masquerade."""
        options = self._seen.get("service_proxy")  # absent from an agent of an earlier version
        return options is not None and options["dsr"]

    def _untranslated(self, source: Party, destination: Party) -> Iterator[Party]:
        """Yield the sources of a packet that leaves its node before its translation.

        It is sent to an address outside of the ranges for pods, where nodes have the address that
        others know, and CNI plugins masquerade packets of pods.
        """
        if not source.node or self.is_subject(source):
            yield from self._own_sources(source, destination)
        if source.node:
            yield from self._outward_parties[source.node, ":" in destination.address]

    def _own_sources(self, source: Party, destination: Party) -> Iterator[Party]:
        """Yield the sources that a destination may see if no Service masquerades."""
        if source.address in self._routers:
            yield from (each for each in self._router_parties if _fits(each, destination))
        elif source.node and not self.is_subject(source):
            yield from self._addresses_of(source, destination) or (source,)
        else:
            yield source

    def _addresses_of(self, source: Party, destination: Party) -> Sequence[Party]:
        """Return the source's node under its addresses; the source itself on the same node."""
        if source.node in ("", destination.node):
            return (source,)
        return self._parties_of(source.node, destination.address)

    def _other_nodes(self, source: Party, destination: Party) -> Iterator[Party]:
        """Yield all nodes but the destination's, any of which may receive and masquerade."""
        for node in self._seen["nodes"]:
            if node["name"] not in (destination.node, source.node):
                yield from self._parties_of(node["name"], destination.address)

    def _parties_of(self, node: str, address: str) -> tuple[Party, ...]:
        """Return a node under each address that it may use towards an address."""
        return self._node_parties[node, ":" in address]

    @cached_property
    def _node_parties(self) -> Mapping[tuple[str, bool], tuple[Party, ...]]:
        """(node, True for IPv6) → the node with each address that it may use towards pods.

        Programs of a CNI mode may let a socket keep the address that the node has chosen for the
        Service's address.
        """
        is_by_link = self._seen["kube_proxy_mode"] in _BY_LINK
        return {
            (node["name"], is_ipv6): tuple(
                Party(address, node=node["name"])
                for address in dict.fromkeys(
                    (
                        *(() if is_by_link and node["pod_sources"] else node["addresses"]),
                        *node["pod_sources"],
                    )
                )
                if (":" in address) == is_ipv6
            )
            for node in self._seen["nodes"]
            for is_ipv6 in (False, True)
        }

    @cached_property
    def _outward_parties(self) -> Mapping[tuple[str, bool], tuple[Party, ...]]:
        """(node, True for IPv6) → the node with each address that other nodes know."""
        return {
            (node["name"], is_ipv6): tuple(
                Party(address, node=node["name"])
                for address in node["addresses"]
                if (":" in address) == is_ipv6
            )
            for node in self._seen["nodes"]
            for is_ipv6 in (False, True)
        }

    @cached_property
    def _routers(self) -> frozenset[str]:
        routers = (self._seen["router"], *self._seen.get("other_routers", ()))
        return frozenset(address for each in routers for address in each.get("addresses", ()))

    @cached_property
    def _router_parties(self) -> tuple[Party, ...]:
        return tuple(map(Party, sorted(self._routers)))

    def _is_local(self, address: str) -> bool:
        """Return True for the address of a pod that kube-proxy does not masquerade."""
        parsed = ip_address(address)
        return any(parsed in each for each in self._local_ranges)

    @cached_property
    def _node_pods(self) -> frozenset[str]:
        return frozenset(
            f"{pod['namespace']}/{pod['name']}" for pod in self._seen["pods"] if pod["host_network"]
        )

    @cached_property
    def _parties(self) -> Mapping[str, Party]:
        """Address → pod or node that has it; pods with hostNetwork are their node."""
        return {
            address: Party(address, f"{pod['namespace']}/{pod['name']}", pod["node"])
            for pod in self._seen["pods"]
            if not pod["host_network"]
            for address in pod["addresses"]
        } | {
            address: Party(address, node=node["name"])
            for node in self._seen["nodes"]
            for address in node["addresses"]
        }

    @cached_property
    def _frontends(self) -> Mapping[tuple[str, int, str], Frontend]:
        """(address, port, protocol) → frontend."""
        return {
            key: frontend
            for service in self._seen["services"]
            if service["proxied"]
            for key, frontend in frontends_of(service, self._node_addresses)
        }

    @cached_property
    def _node_addresses(self) -> Mapping[str, str]:
        """Address at which node ports answer → node."""
        return {
            address: node["name"]
            for node in self._seen["nodes"]
            for address in node.get("node_port_addresses", node["addresses"])
        }


def _is_same_family(first: str, second: str) -> bool:
    return (":" in first) == (":" in second)


def _fits(party: Party, destination: Party) -> bool:
    return _is_same_family(party.address, destination.address)
