"""Values in policies by which they distinguish pods, nodes and hosts outside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

import msgspec
from msgspec import Struct

from kubenetlab.api.calico.policies import GlobalNetworkSet, NetworkSet
from kubenetlab.api.calico.selectors import labels_in, parse_selector, selector_fault
from kubenetlab.api.kinds import POLICY_KINDS
from kubenetlab.api.policies.cilium_cidr_group import CiliumCIDRGroup
from kubenetlab.api.policies.cilium_labels import matches_host_name, split_key
from kubenetlab.api.policies.cluster_network_policy import matches_domain
from kubenetlab.api.store import Cluster
from kubenetlab.api.values.ip import is_address, range_of
from kubenetlab.observe.policies.policy_ports import mappings_in

Network = IPv4Network | IPv6Network

_CALICO_SELECTORS: Final = ("selector", "notSelector")
"""Fields with selectors of pods in policies of Calico."""


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
