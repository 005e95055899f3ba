"""Ends of connections in two versions of a cluster: groups of pods, nodes, and ranges outside.

Pods of a workload are one group, so that the groups of two versions can be compared although their
pods have other names and addresses. members.py has those that policies distinguish.

Addresses outside of the cluster are divided at the bounds of all ranges that policies name, of both
versions: policies cannot distinguish the addresses of a part. External hosts that policies mean by
their names are groups of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from ipaddress import ip_network
from typing import Final

from msgspec import Struct

from kubenetlab.api.apps import StatefulSet
from kubenetlab.api.core import Node
from kubenetlab.api.kinds import find_kind
from kubenetlab.api.meta import Resource
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.api.values.ip import is_part, version_of
from kubenetlab.observe.changes.members import Candidate, Members, family_title, members_of
from kubenetlab.observe.changes.terms import Network, PolicyTerms
from kubenetlab.observe.policies.model import Party
from kubenetlab.observe.policies.policy_ports import (
    NO_PORTS,
    PolicyPorts,
    PortRange,
    RulePorts,
)
from kubenetlab.observe.targets.grammar import PREFIX_OF, pod_title

NODES: Final = "nodes"
"""Title of the group of all nodes. A pod's own node is not among them."""
OWN_NODE: Final = "own node"
"""Title of the group with the node of each pod, to which fewer policies apply."""
_EVERYWHERE: Final = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


class Group(Struct, frozen=True):
    """Parties that are one end of connections in a report."""

    title: str
    """Target of the pods, such as `deploy:shop/web`; or `nodes`, or a range outside."""
    namespace: str
    """Namespace of the pods; empty for other parties."""
    members: Members
    """Parties that represent the group: all that policies can distinguish, by title."""
    ports: frozenset[PortRange] = frozenset()
    """Ports that the pods declare, or on which an external host serves."""
    ingress: RulePorts = NO_PORTS
    """Ports in the rules of policies for connections to the pods."""
    egress: RulePorts = NO_PORTS
    """Ports in the rules of policies for connections from the pods."""
    is_given: bool = True
    """False for pods that no manifest contains, such as CoreDNS."""

    @property
    def is_outside(self) -> bool:
        """True for addresses outside of the cluster."""
        return not self.namespace and self.title not in (NODES, OWN_NODE)


def groups_of(cluster: Cluster, terms: PolicyTerms) -> dict[str, Group]:
    """Return the groups of a cluster by title, in the order of their titles.

    terms: values of the policies of all versions that are compared.
    """
    pods: dict[tuple[str, str, bool], list[Pod]] = {}
    for pod in cluster.all(Pod):
        if pod.addresses and not pod.spec.host_network:
            owner = _owner(cluster, pod)
            is_given = (owner.kind, *owner.key) in cluster.given
            pods.setdefault((pod.namespace, _title(owner), is_given), []).append(pod)
    rules = PolicyPorts(cluster)
    primary = cluster.config.networking.versions[0]
    groups = [
        Group(
            title,
            namespace,
            members_of(title, [_candidate(cluster, pod) for pod in members], terms, primary),
            _served(members),
            _united(rules.of(pod.full_name, "Ingress") for pod in members),
            _united(rules.of(pod.full_name, "Egress") for pod in members),
            is_given,
        )
        for (namespace, title, is_given), members in sorted(pods.items())
    ]
    for title, prefix in ((NODES, "node:"), (OWN_NODE, f"{OWN_NODE} ")):
        nodes = [
            Candidate(f"{prefix}{node.name}", node.labels, node.addresses, "", node.name)
            for node in cluster.all(Node)
        ]
        groups.append(Group(title, "", members_of(title, nodes, terms, primary)))
    groups += _outside(cluster, terms)
    return {group.title: group for group in groups}


def _owner(cluster: Cluster, pod: Pod) -> Resource:
    """Return the topmost owner of a pod; the pod itself if it has none."""
    owner: Resource = pod
    while owner.metadata.owner_references:
        reference = owner.metadata.owner_references[0]
        kind = find_kind(reference.kind)
        parent = cluster.get(kind, owner.namespace, reference.name) if kind is not None else None
        if parent is None or parent.uid != reference.uid:
            break
        owner = parent
    return owner


def _title(owner: Resource) -> str:
    """Return the target of a workload or a pod."""
    if isinstance(owner, Pod):
        return pod_title(owner.namespace, owner.name)
    prefix = PREFIX_OF.get(owner.kind, owner.kind.lower())
    return f"{prefix}:{owner.namespace}/{owner.name}"


def _candidate(cluster: Cluster, pod: Pod) -> Candidate:
    """Return a pod as a possible member, with a title if it keeps its name."""
    is_stable = isinstance(_owner(cluster, pod), StatefulSet)
    title = pod_title(pod.namespace, pod.name) if is_stable else ""
    return Candidate(title, pod.labels, pod.addresses, pod.full_name, pod.spec.node_name)


def _served(pods: Iterable[Pod]) -> frozenset[PortRange]:
    """Return the ports that the containers of a group declare."""
    return frozenset(
        PortRange(port.protocol, port.container_port, port.container_port)
        for pod in pods
        for container in pod.spec.long_running_containers
        for port in container.ports
    )


def _united(rules: Iterable[RulePorts]) -> RulePorts:
    return reduce(RulePorts.united, rules, NO_PORTS)


def _named_hosts(cluster: Cluster, terms: PolicyTerms) -> Iterator[Group]:
    """Yield the external hosts that policies mean by their names.

    A host that only the other version declares has no name in this one.
    """
    own = {host.name: host for host in cluster.config.external}
    versions = cluster.config.networking.versions
    for name, former in terms.hosts.items():
        host = own.get(name)
        addresses = host.addresses(versions) if host is not None else former
        candidate = Candidate("", {}, _of_versions(addresses, versions), "", "")
        members = members_of(f"ext:{name}", [candidate], terms, versions[0])
        ports = host.ports if host is not None else ()
        served = frozenset(PortRange("TCP", port, port) for port in ports)
        yield Group(f"ext:{name}", "", members, served)


def _of_versions(addresses: Iterable[str], versions: Sequence[int]) -> tuple[str, ...]:
    return tuple(address for address in addresses if version_of(address) in versions)


def _outside(cluster: Cluster, terms: PolicyTerms) -> Iterator[Group]:
    """Yield the parts of the addresses outside of the cluster."""
    hosts = list(_named_hosts(cluster, terms))
    yield from hosts
    inside = (
        *cluster.config.networking.pod_networks,
        *cluster.config.networking.service_networks,
        *cluster.config.node_networks,
        *(
            ip_network(party.address)
            for host in hosts
            for parties in host.members.values()
            for party in parties
        ),
    )
    versions = cluster.config.networking.versions
    for version in versions:
        others = family_title("other hosts outside", version, versions[0])
        named = [range_ for range_ in terms.ranges if range_.version == version]
        for range_ in sorted({*named, _EVERYWHERE[version]}):
            narrower = [each for each in named if each != range_ and is_part(each, range_)]
            holes = [*narrower, *(each for each in inside if each.version == version)]
            address = _address_beside(range_, holes)
            if address is not None:
                rest = " (rest)" if narrower else ""
                title = f"outside {range_}{rest}" if range_.prefixlen else others
                yield Group(title, "", {title: (Party(address),)})


def _address_beside(range_: Network, holes: Iterable[Network]) -> str | None:
    """Return an address of a range that is in none of its holes; None if there is none."""
    first = int(range_.network_address)
    last = first + range_.num_addresses - 1
    # Begin after the address of the network, which no host has, where there is another one.
    candidate = first + (1 if range_.num_addresses > 2 else 0)
    for hole in sorted(holes, key=lambda each: int(each.network_address)):
        start = int(hole.network_address)
        if start <= candidate <= start + hole.num_addresses - 1:
            candidate = start + hole.num_addresses
    kind = type(range_.network_address)
    return str(kind(candidate)) if candidate <= last else None
