"""Ends of connections in two versions of a cluster: groups of pods, nodes, and ranges outside.

Pods of a workload are one group, so that the groups of two versions can be compared although their
pods have other names and addresses. Of equal pods in a group, only one or two are looked at.

Addresses outside of the cluster are divided at the bounds of all ranges that policies name, of both
versions: policies cannot distinguish the addresses of a part. External hosts that policies mean by
their names are groups of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import reduce
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

import msgspec
from msgspec import Struct

from kubenetlab.api.calico.policies import GlobalNetworkSet, NetworkSet
from kubenetlab.api.calico.selectors import labels_in, parse_selector, selector_fault
from kubenetlab.api.core import Node
from kubenetlab.api.kinds import POLICY_KINDS, find_kind
from kubenetlab.api.meta import Resource
from kubenetlab.api.pods import Pod
from kubenetlab.api.policies.cilium_cidr_group import CiliumCIDRGroup
from kubenetlab.api.policies.cilium_labels import matches_host_name, split_key
from kubenetlab.api.policies.cluster_network_policy import matches_domain
from kubenetlab.api.store import Cluster
from kubenetlab.api.values.ip import is_address, is_part, range_of
from kubenetlab.observe.policies.model import Party
from kubenetlab.observe.policies.policy_ports import (
    NO_PORTS,
    PolicyPorts,
    PortRange,
    RulePorts,
    mappings_in,
)
from kubenetlab.observe.targets.grammar import PREFIX_OF, pod_title

Network = IPv4Network | IPv6Network

NODES: Final = "nodes"
"""Title of the group of all nodes. A pod's own node is not among them."""
OWN_NODE: Final = "own node"
"""Title of the group with the node of each pod, to which fewer policies apply."""
_CALICO_SELECTORS: Final = ("selector", "notSelector")
"""Fields with selectors of pods in policies of Calico."""
_EVERYWHERE: Final = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
_EQUAL_PODS: Final = 2
"""Number of equal pods of a group that are looked at: a pod and another one of its group."""


class Group(Struct, frozen=True):
    """Parties that are one end of connections in a report."""

    title: str
    """Target of the pods, such as `deploy:shop/web`; or `nodes`, or a range outside."""
    namespace: str
    """Namespace of the pods; empty for other parties."""
    parties: tuple[Party, ...]
    """Parties that represent the group: all that policies can distinguish."""
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


class PolicyTerms(Struct, frozen=True):
    """Values in policies by which they distinguish parties."""

    labels: AbstractSet[str]
    """Keys of labels of pods."""
    ranges: tuple[Network, ...]
    """Ranges of addresses, without repetition."""
    hosts: Mapping[str, tuple[str, ...]]
    """External hosts that policies mean by their names → their addresses."""

    def united(self, other: PolicyTerms) -> PolicyTerms:
        """Return the values of two versions."""
        ranges = dict.fromkeys((*self.ranges, *other.ranges))
        hosts = {**self.hosts, **other.hosts}
        return PolicyTerms(self.labels | other.labels, tuple(ranges), hosts)


def terms_of(cluster: Cluster) -> PolicyTerms:
    """Return the values that the policies of a cluster contain, of whatever kind."""
    labels: set[str] = set()
    ranges: dict[Network, None] = {}
    patterns: list[Mapping[str, object]] = []
    for kind in POLICY_KINDS:
        for policy in cluster.all(kind):
            document = msgspec.to_builtins(policy)
            for fields in mappings_in([document.get("spec"), document.get("specs")]):
                labels |= _label_keys(fields)
                ranges |= dict.fromkeys(_ranges(fields))
                patterns.append(fields)
    sets: list[NetworkSet | GlobalNetworkSet] = [
        *cluster.all(NetworkSet),
        *cluster.all(GlobalNetworkSet),
    ]
    nets = [net for networks in sets for net in networks.spec.nets]
    nets += [cidr for group in cluster.all(CiliumCIDRGroup) for cidr in group.spec.external_cidrs]
    ranges |= {range_: None for net in nets if (range_ := range_of(net))}
    hosts = {
        host.name: host.addresses(cluster.config.networking.versions)
        for host in cluster.config.external
        if any(_means_host(fields, host.name) for fields in patterns)
    }
    return PolicyTerms(labels, tuple(ranges), hosts)


def _label_keys(fields: Mapping[str, object]) -> set[str]:
    labels = fields.get("matchLabels")
    keys = set(labels) if isinstance(labels, Mapping) else set()
    if isinstance(key := fields.get("key"), str) and "operator" in fields:
        keys.add(key)
    for name in _CALICO_SELECTORS:
        if isinstance(text := fields.get(name), str) and not selector_fault(text):
            keys.update(labels_in(parse_selector(text)))
    return {split_key(key)[1] for key in keys}


def _ranges(fields: Mapping[str, object]) -> Iterator[Network]:
    texts: list[object] = [fields.get("cidr")]
    for name in ("except", "networks", "nets", "notNets", "fromCIDR", "toCIDR"):
        several = fields.get(name)
        texts += several if isinstance(several, list | tuple) else ()
    for text in texts:
        if isinstance(text, str):
            range_ = ip_network(text) if is_address(text) else range_of(text)
            if range_ is not None:
                yield range_


def _means_host(fields: Mapping[str, object], name: str) -> bool:
    """Return True if a field of a policy is the name of a host, or a pattern that matches it."""
    domains, selectors = fields.get("domainNames"), fields.get("toFQDNs")
    if isinstance(domains, list | tuple):
        return any(matches_domain(str(each), name) for each in domains)
    return isinstance(selectors, list | tuple) and any(
        matches_host_name(each.get("matchName", ""), each.get("matchPattern", ""), name)
        for each in selectors
    )


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
    groups = [
        Group(
            title,
            namespace,
            tuple(_representatives(members, terms)),
            _served(members),
            _united(rules.of(pod.full_name, "Ingress") for pod in members),
            _united(rules.of(pod.full_name, "Egress") for pod in members),
            is_given,
        )
        for (namespace, title, is_given), members in sorted(pods.items())
    ]
    nodes = [Party(node.addresses[0], node=node.name) for node in cluster.all(Node)]
    groups += (Group(title, "", tuple(nodes)) for title in (NODES, OWN_NODE))
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


def _representatives(pods: Sequence[Pod], terms: PolicyTerms) -> Iterator[Party]:
    """Yield the pods of a group that policies can distinguish, and two of those that are equal."""
    counts: Counter[object] = Counter()
    for pod in pods:
        labels = tuple((key, pod.labels.get(key)) for key in sorted(terms.labels))
        ranges = tuple(
            any(ip_address(address) in range_ for address in pod.addresses)
            for range_ in terms.ranges
        )
        counts[labels, ranges] += 1
        if counts[labels, ranges] <= _EQUAL_PODS:
            yield Party(pod.addresses[0], pod.full_name, pod.spec.node_name)


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


def _named_hosts(cluster: Cluster, terms: PolicyTerms, version: int) -> Iterator[Group]:
    """Yield the external hosts that policies mean by their names.

    A host that only the other version declares has no name in this one.
    """
    own = {host.name: host for host in cluster.config.external}
    for name, former in terms.hosts.items():
        host = own.get(name)
        addresses = host.addresses((version,)) if host is not None else former
        ports = host.ports if host is not None else ()
        for address in addresses:
            if ip_address(address).version == version:
                served = frozenset(PortRange("TCP", port, port) for port in ports)
                yield Group(f"ext:{name}", "", (Party(address),), served)


def _outside(cluster: Cluster, terms: PolicyTerms) -> Iterator[Group]:
    """Yield the parts of the addresses outside of the cluster, of the cluster's primary family."""
    networking = cluster.config.networking
    inside = (
        *networking.pod_networks,
        *networking.service_networks,
        *cluster.config.node_networks,
    )
    version = networking.versions[0]
    hosts = list(_named_hosts(cluster, terms, version))
    yield from hosts
    named = [range_ for range_ in terms.ranges if range_.version == version]
    inside += tuple(ip_network(party.address) for host in hosts for party in host.parties)
    for range_ in sorted({*named, _EVERYWHERE[version]}):
        narrower = [each for each in named if each != range_ and is_part(each, range_)]
        holes = [*narrower, *(each for each in inside if each.version == version)]
        address = _address_beside(range_, holes)
        if address is not None:
            rest = " (rest)" if narrower else ""
            title = f"outside {range_}{rest}" if range_.prefixlen else "other hosts outside"
            yield Group(title, "", (Party(address),))


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
