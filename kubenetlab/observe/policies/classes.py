"""Classes of pods and hosts that policies treat alike, so that a verdict holds for all members.

A pod is in one class as the subject of policies, and in one as a peer, for each direction. Pods of
one namespace with the same named ports are alike if the same selectors match them, and if they are
in the same of the ranges of addresses.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import Final, Literal

import msgspec
from msgspec import Struct, structs

from kubenetlab.api.calico.policies import CalicoPolicy
from kubenetlab.api.calico.selectors import parse_selector
from kubenetlab.api.core import Namespace
from kubenetlab.api.kinds import POLICY_GROUP_KINDS
from kubenetlab.api.meta import LabelSelector, Resource
from kubenetlab.api.pods import Pod
from kubenetlab.api.policies.cilium_labels import identity_labels
from kubenetlab.api.policies.cilium_network_policy import CiliumPolicy
from kubenetlab.api.policies.network_policy import Direction, NetworkPolicy
from kubenetlab.api.store import Cluster
from kubenetlab.api.values import ip
from kubenetlab.observe.policies.calico import CalicoRules, calico_selectors
from kubenetlab.observe.policies.model import Party
from kubenetlab.observe.policies.subjects import Subjects

Role = Literal["subject", "peer"]


class Classes:
    """Classes of the parties in one version of the store."""

    def __init__(self, cluster: Cluster, policies: Sequence[Resource]) -> None:
        self._cluster = cluster
        sets = [networks for kind in POLICY_GROUP_KINDS for networks in cluster.all(kind)]
        self._criteria: Final = {
            (direction, role): _Criteria((*_parts(policies, direction, role), *sets))
            for direction in ("Ingress", "Egress")
            for role in ("subject", "peer")
        }
        of_calico = [each for each in policies if isinstance(each, CalicoPolicy)]
        self._calico = _CalicoCriteria(cluster, of_calico) if of_calico else None
        self._has_cilium = any(isinstance(each, CiliumPolicy) for each in policies)
        self._has_other_kinds = any(not isinstance(each, NetworkPolicy) for each in policies)
        self._classes: dict[tuple[str, str, Party], int] = {}
        self._numbers: dict[Hashable, int] = {}

    def of(self, party: Party, direction: Direction, role: Role, *, is_subject: bool) -> int:
        """Return the number of a party's class.

        is_subject: True for a pod with a network of its own.
        """
        key = (direction, role, party)
        if key not in self._classes:
            description = self._description(party, direction, role, is_subject=is_subject)
            self._classes[key] = self._numbers.setdefault(description, len(self._numbers))
        return self._classes[key]

    def _description(
        self, party: Party, direction: Direction, role: Role, *, is_subject: bool
    ) -> Hashable:
        criteria = self._criteria[direction, role]
        interval = criteria.interval(party.address)
        if not is_subject:
            # Other kinds of policies can name nodes, and hosts by their DNS names.
            return (direction, role, party if self._has_other_kinds else interval)
        pod = self._cluster.get(Pod, *party.pod.split("/"))
        if pod is None:
            return (direction, role, party)
        namespace = self._cluster.get(Namespace, "", pod.namespace)
        ports = tuple(
            (port.name, port.protocol, port.container_port)
            for container in pod.spec.long_running_containers
            for port in container.ports
            if port.name
        )
        matched = criteria.matched(pod), criteria.matched(namespace) if namespace else 0
        by_calico = self._calico.description(party, pod) if self._calico is not None else ()
        identity: Hashable = ()
        if self._has_cilium:
            identity = frozenset(
                identity_labels(pod, namespace.labels if namespace else {}).items()
            )
        return direction, role, pod.namespace, matched, ports, interval, by_calico, identity


class _CalicoCriteria:
    """Selectors, service accounts and Services by which policies of Calico choose pods."""

    def __init__(self, cluster: Cluster, policies: Sequence[CalicoPolicy]) -> None:
        self._rules = CalicoRules(cluster, Subjects(cluster))
        texts = dict.fromkeys(text for text in calico_selectors(policies) if text)
        self._selectors = [parse_selector(text) for text in texts]
        self._names_services = any(policy.services for policy in policies)

    def description(self, party: Party, pod: Pod) -> Hashable:
        """Return a value that is the same for pods that the policies cannot distinguish."""
        item = self._rules.item_of(pod)
        matched = tuple(selector.matches(item.labels) for selector in self._selectors)
        return item.account, matched, party.address if self._names_services else ""


class _Criteria:
    """Selectors and ranges by which policies choose parties in one role."""

    def __init__(self, parts: Iterable[object]) -> None:
        selectors: dict[bytes, LabelSelector] = {}
        boundaries: set[tuple[int, int]] = set()
        for part in parts:
            for found in _found(part):
                if isinstance(found, LabelSelector):
                    selectors[msgspec.json.encode(found)] = found
                elif (network := ip.range_of(found)) is not None:
                    boundaries.add((network.version, int(network.network_address)))
                    boundaries.add((network.version, int(network.broadcast_address) + 1))
        self._selectors = list(selectors.values())
        self._boundaries = sorted(boundaries)
        self._matched: dict[Hashable, int] = {}

    def matched(self, obj: Resource) -> int:
        """Return the selectors that match an object's labels, as bits."""
        key = frozenset(obj.labels.items())
        if key not in self._matched:
            self._matched[key] = sum(
                1 << number
                for number, selector in enumerate(self._selectors)
                if selector.matches(obj.labels)
            )
        return self._matched[key]

    def interval(self, address: str) -> int:
        """Return the number of the ranges' borders below an address.

        Addresses with the same number are in the same ranges.
        """
        parsed = ip_address(address)
        return bisect_right(self._boundaries, (parsed.version, int(parsed)))


def _parts(policies: Iterable[Resource], direction: Direction, role: Role) -> Iterator[object]:
    """Yield the parts of policies that choose the parties in a role."""
    for policy in policies:
        if not isinstance(policy, NetworkPolicy):
            yield policy
        elif direction not in policy.directions:
            continue
        elif role == "subject":
            yield policy.spec.pod_selector
        else:
            yield policy.spec.ingress if direction == "Ingress" else policy.spec.egress


def _found(part: object) -> Iterator[LabelSelector | str]:
    """Yield the selectors in a part of a policy, and the texts, of which some are ranges."""
    if isinstance(part, str | LabelSelector):
        yield part
    elif isinstance(part, Struct):
        for value in structs.asdict(part).values():
            yield from _found(value)
    elif isinstance(part, dict):
        for value in part.values():
            yield from _found(value)
    elif isinstance(part, list | tuple):
        for value in part:
            yield from _found(value)
