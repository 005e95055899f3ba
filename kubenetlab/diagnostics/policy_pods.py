"""Pods that policies can select: existing ones, and those that workloads would create."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Generic, TypeVar

from msgspec import Struct

from kubenetlab.api.meta import Labels, ObjectMeta, Resource
from kubenetlab.api.pods import Pod, PodSpec
from kubenetlab.api.store import Cluster
from kubenetlab.diagnostics.templates import Templates
from kubenetlab.errors import did_you_mean

T = TypeVar("T")
Pair = tuple[str, str]
"""Label and value."""
NamedPort = tuple[str, str]
"""Protocol and name of a port."""
MAX_COMPARED: Final = 50
"""Number of policies of the same pods with which a policy is compared."""
_NAMED: Final = 3
"""Maximum number of policies that a message names."""


def possible_pods(cluster: Cluster, templates: Templates) -> list[Pod]:
    """Return the existing pods, and one for each template of a workload."""
    return [
        *cluster.all(Pod),
        *(
            Pod(
                ObjectMeta(
                    name=template.owner.name,
                    namespace=template.owner.namespace,
                    labels=template.labels,
                ),
                template.spec,
            )
            for template in templates
        ),
    ]


class PodLabels(Struct, frozen=True):
    """Labels of pods that policies cannot distinguish."""

    labels: Labels
    is_isolated: bool
    """False for pods with hostNetwork, to which no policy applies."""
    ports: frozenset[NamedPort]
    """Ports with names."""


class LabelIndex:
    """Different labels of pods, by each label."""

    def __init__(self, pods: Iterable[tuple[Pod, Labels]]) -> None:
        """Prepare the index of pods with the labels that policies see."""
        found: dict[tuple[frozenset[Pair], bool, frozenset[NamedPort]], PodLabels] = {}
        for pod, labels in pods:
            ports = named_ports(pod.spec)
            entry = PodLabels(labels, not pod.spec.host_network, ports)
            found.setdefault((frozenset(labels.items()), entry.is_isolated, ports), entry)
        self._all = list(found.values())
        self._by_pair: dict[Pair, list[PodLabels]] = {}
        for entry in self._all:
            for pair in entry.labels.items():
                self._by_pair.setdefault(pair, []).append(entry)

    def having(self, pairs: Iterable[Pair]) -> Sequence[PodLabels]:
        """Return labels among which are all those that have certain ones."""
        return min((self._by_pair.get(pair, []) for pair in pairs), key=len, default=self._all)


def named_ports(spec: PodSpec) -> frozenset[NamedPort]:
    """Return the ports of a pod that have names."""
    return frozenset(
        (port.protocol, port.name)
        for container in spec.long_running_containers
        for port in container.ports
        if port.name
    )


def unknown_port(
    name: str, protocols: Sequence[str], destinations: Sequence[AbstractSet[NamedPort]]
) -> tuple[str, str] | None:
    """Return a message and a hint if no destination has a port of a name, else None.

    Without destinations nothing is known about their ports.

    destinations: ports with names of each destination.
    """
    declared = sorted(
        {known for ports in destinations for protocol, known in ports if protocol in protocols}
    )
    if not destinations or name in declared:
        return None
    of_protocol = f"{protocols[0]} " if len(protocols) == 1 else ""
    guess = did_you_mean(name, declared)
    return (
        f"no destination has a {of_protocol}port named {name}{guess}",
        f"names of their {of_protocol}ports: {', '.join(declared) or 'none'}",
    )


def unknown_host(cluster: Cluster, name: str, matches: Callable[[str], bool]) -> str:
    """Return the message that a domain name of a policy is no external host's; empty if it is.

    It is also empty for a lab with an uplink, where names have the addresses of the machine's DNS.
    matches: returns True if the name matches that of a host.
    """
    hosts = [host.name for host in cluster.config.external]
    if cluster.config.uplink or any(map(matches, hosts)):
        return ""
    return f"no external host of the lab has the name {name}{did_you_mean(name, hosts)}"


def is_given(cluster: Cluster, obj: Resource) -> bool:
    """Return True for an object that a user created and that is not being deleted."""
    return (obj.kind, *obj.key) in cluster.given and not obj.is_terminating


def listed(names: Iterable[str]) -> str:
    """Return some names for a message."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


class PairIndex(Generic[T]):
    """Items by one of the labels that they require."""

    def __init__(self) -> None:
        self._by_pair: dict[Pair | None, list[T]] = {}

    def add(self, pairs: Iterable[Pair], item: T) -> None:
        """Add an item that requires labels; it is found by the first one."""
        self._by_pair.setdefault(next(iter(pairs), None), []).append(item)

    def matching(self, pairs: Iterable[Pair]) -> Iterator[T]:
        """Yield the items that may require no other labels than these."""
        for pair in dict.fromkeys((None, *pairs)):
            yield from self._by_pair.get(pair, ())
