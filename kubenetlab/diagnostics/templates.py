"""Templates of pods: those of workloads, and pods without a controller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Final

from kubenetlab.api.apps import (
    DaemonSet,
    Deployment,
    ReplicaSet,
    ReplicationController,
    StatefulSet,
)
from kubenetlab.api.batch import Job
from kubenetlab.api.core import Service
from kubenetlab.api.meta import Labels, LabelSelector, Resource, matches_labels
from kubenetlab.api.pods import Pod, PodSpec
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.documents import Path
from kubenetlab.datapath.containers import Setups, numeric_target_ports, setups_of
from kubenetlab.programs import COMMAND, takes_ports

Workload = Deployment | StatefulSet | DaemonSet | Job | ReplicaSet | ReplicationController
_OWNERS: Final[tuple[type[Workload | Pod], ...]] = (
    Deployment,
    StatefulSet,
    DaemonSet,
    Job,
    ReplicaSet,
    ReplicationController,
    Pod,
)


class PodTemplate:
    """Template of a workload, or a pod without a controller, with the properties of its pods."""

    def __init__(
        self, cluster: Cluster, owner: Workload | Pod, real_commands: tuple[str, ...]
    ) -> None:
        self.owner = owner
        self.services: list[Service] = []
        """Services that select the pods."""
        self._cluster = cluster
        self._real_commands = real_commands
        if isinstance(owner, Pod):
            self.path: Path = ("spec",)
            self.labels: Labels = owner.labels
            self.annotations: Mapping[str, str] = owner.metadata.annotations
            self.spec: PodSpec = owner.spec
        else:
            template = owner.spec.template
            self.path = ("spec", "template", "spec")
            self.labels, self.annotations, self.spec = (
                template.metadata.labels,
                template.metadata.annotations,
                template.spec,
            )

    @cached_property
    def pods(self) -> tuple[str, ...]:
        """`namespace/name` of the existing pods."""
        if isinstance(self.owner, Pod):
            return (self.owner.full_name,)
        return (
            tuple(pod.full_name for pod in self._cluster.select(self.owner.namespace, self.labels))
            if self.labels
            else ()
        )

    @cached_property
    def setups(self) -> Setups:
        """Program of each container, by name."""
        ports = numeric_target_ports(self.labels, self.spec, self.services)
        return setups_of(
            self.spec, self.annotations, isinstance(self.owner, Job), ports, self._real_commands
        )

    @cached_property
    def listening(self) -> frozenset[tuple[str, int]] | None:
        """(protocol, port) pairs that the containers listen on; None if one runs a real command."""
        setups = [self.setups[container.name] for container in self.spec.long_running_containers]
        if any(setup.program == COMMAND for setup in setups):
            return None
        return frozenset(
            (listener.protocol, listener.port) for setup in setups for listener in setup.listeners
        )

    @property
    def accepts_listen_annotation(self) -> bool:
        """True if a container's built-in program takes its ports from the listen annotation."""
        return any(takes_ports(container.image) for container in self.spec.long_running_containers)

    def number_of(self, name: str, protocol: str) -> int | None:
        """Return the number of a named port; None if no container declares it."""
        ports = (
            port for container in self.spec.long_running_containers for port in container.ports
        )
        return next(
            (
                port.container_port
                for port in ports
                if (port.name, port.protocol) == (name, protocol)
            ),
            None,
        )


class Templates:
    """Templates of all workloads, and all pods without a controller, with an index by label."""

    def __init__(self, cluster: Cluster, real_commands: Sequence[str]) -> None:
        owners = (obj for kind in _OWNERS for obj in cluster.all(kind) if not _is_owned(obj))
        self._all = [PodTemplate(cluster, owner, tuple(real_commands)) for owner in owners]
        self._by_label: dict[tuple[str, str, str], list[PodTemplate]] = {}
        self._by_namespace: dict[str, list[PodTemplate]] = {}
        for template in self._all:
            self._by_namespace.setdefault(template.owner.namespace, []).append(template)
            for pair in template.labels.items():
                self._by_label.setdefault((template.owner.namespace, *pair), []).append(template)
        for service in cluster.all(Service):
            for template in self.selected_by(service):
                template.services.append(service)

    def __iter__(self) -> Iterator[PodTemplate]:
        return iter(self._all)

    def selected_by(self, service: Service) -> list[PodTemplate]:
        """Return the templates whose pods a Service selects; none without a selector."""
        selector = service.spec.selector
        if not selector:
            return []
        candidates = min(
            (self._by_label.get((service.namespace, *pair), []) for pair in selector.items()),
            key=len,
        )
        return [template for template in candidates if matches_labels(selector, template.labels)]

    def matching(self, namespace: str, selector: LabelSelector) -> list[PodTemplate]:
        """Return the templates in a namespace whose pods a selector matches."""
        candidates = min(
            (self._by_label.get((namespace, *pair), []) for pair in selector.match_labels.items()),
            key=len,
            default=self._by_namespace.get(namespace, []),
        )
        return [template for template in candidates if selector.matches(template.labels)]

    def values_of(self, namespace: str, label: str) -> list[str]:
        """Return the values of a label in a namespace, sorted."""
        return sorted(
            {value for space, key, value in self._by_label if (space, key) == (namespace, label)}
        )

    def labels_in(self, namespace: str) -> list[str]:
        """Return the keys of the labels in a namespace, sorted."""
        return sorted({key for space, key, _ in self._by_label if space == namespace})


def _is_owned(obj: Resource) -> bool:
    return any(owner.controller for owner in obj.metadata.owner_references)
