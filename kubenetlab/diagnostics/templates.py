"""Where pods come from: bare pods and the templates of workloads, with what their containers run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from kubenetlab.api.apps import (
    DaemonSet,
    Deployment,
    ReplicaSet,
    ReplicationController,
    StatefulSet,
)
from kubenetlab.api.batch import Job
from kubenetlab.api.core import Service
from kubenetlab.api.documents import Path
from kubenetlab.api.meta import Labels, Resource, matches_labels
from kubenetlab.api.pods import Pod, PodSpec
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.containers import Setups, numeric_target_ports, setups_of
from kubenetlab.programs import COMMAND, takes_ports

_WORKLOADS = (Deployment, StatefulSet, DaemonSet, Job, ReplicaSet, ReplicationController)


class PodTemplate:
    """One template, or a bare pod, and what follows from it for every pod made of it."""

    def __init__(self, cluster: Cluster, owner: Resource, real_commands: tuple[str, ...]) -> None:
        self.owner = owner
        self.services: list[Service] = []
        """Services that select its pods."""
        self._cluster = cluster
        self._real_commands = real_commands
        if isinstance(owner, Pod):
            self.path: Path = ("spec",)
            self.labels: Labels = owner.labels
            self.annotations: Mapping[str, str] = owner.metadata.annotations
            self.spec: PodSpec = owner.spec
        else:
            template = owner.spec.template  # type: ignore[attr-defined]
            self.path = ("spec", "template", "spec")
            self.labels, self.annotations, self.spec = (
                template.metadata.labels,
                template.metadata.annotations,
                template.spec,
            )

    @cached_property
    def pods(self) -> tuple[str, ...]:
        """`namespace/name` of the pods that it has now."""
        if isinstance(self.owner, Pod):
            return (self.owner.full_name,)
        return (
            tuple(pod.full_name for pod in self._cluster.select(self.owner.namespace, self.labels))
            if self.labels
            else ()
        )

    @cached_property
    def setups(self) -> Setups:
        """What its containers run."""
        ports = numeric_target_ports(self.labels, self.spec, self.services)
        return setups_of(
            self.spec, self.annotations, isinstance(self.owner, Job), ports, self._real_commands
        )

    @cached_property
    def listening(self) -> frozenset[tuple[str, int]] | None:
        """(protocol, port) of everything on which its containers listen; None where a program of the machine is among them."""
        running = [self.setups[container.name] for container in self.spec.long_running_containers]
        if any(setup.program == COMMAND for setup in running):
            return None
        return frozenset(
            (listener.protocol, listener.port) for setup in running for listener in setup.listeners
        )

    @property
    def may_be_stated(self) -> bool:
        """True where the annotation `kubenetlab.dev/listen` can state other ports: some container's program does not know its own."""
        return any(takes_ports(container.image) for container in self.spec.long_running_containers)

    def number_of(self, name: str, protocol: str) -> int | None:
        """Return the number of a named port; None where no container has a port of that name and protocol."""
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
    """All workloads and all pods that no workload owns, found by their labels."""

    def __init__(self, cluster: Cluster, real_commands: Sequence[str]) -> None:
        owners = (
            obj for kind in (*_WORKLOADS, Pod) for obj in cluster.all(kind) if not _is_owned(obj)
        )
        self._all = [PodTemplate(cluster, owner, tuple(real_commands)) for owner in owners]
        self._by_label: dict[tuple[str, str, str], list[PodTemplate]] = {}
        for template in self._all:
            for pair in template.labels.items():
                self._by_label.setdefault((template.owner.namespace, *pair), []).append(template)
        for service in cluster.all(Service):
            for template in self.selected_by(service):
                template.services.append(service)

    def __iter__(self) -> Iterator[PodTemplate]:
        return iter(self._all)

    def selected_by(self, service: Service) -> list[PodTemplate]:
        """Return the templates whose pods a Service selects; none for one without a selector."""
        selector = service.spec.selector
        if not selector:
            return []
        candidates = min(
            (self._by_label.get((service.namespace, *pair), []) for pair in selector.items()),
            key=len,
        )
        return [template for template in candidates if matches_labels(selector, template.labels)]

    def values_of(self, namespace: str, label: str) -> list[str]:
        """Return the values that a label has in a namespace, in order."""
        return sorted(
            {value for known, key, value in self._by_label if (known, key) == (namespace, label)}
        )

    def labels_in(self, namespace: str) -> list[str]:
        """Return the labels that templates of a namespace have, in order."""
        return sorted({key for known, key, _ in self._by_label if known == namespace})


def _is_owned(obj: Resource) -> bool:
    return any(owner.controller for owner in obj.metadata.owner_references)
