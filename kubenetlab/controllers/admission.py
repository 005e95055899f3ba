"""What the API server does with an object before it stores it: identity, immutable fields; cluster_ips.py has those of Services.

All objects of one command are admitted together or not at all.
Source: k8s.io/kubernetes pkg/apis/core/validation (the *Update functions), 1.33.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from msgspec import Struct, structs

from kubenetlab.api.apps import RESTARTED_ANNOTATION, Restartable, Scalable, StatefulSet, Workload
from kubenetlab.api.batch import Job
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.core import NAMESPACE_NAME_LABEL, Namespace, Node, Service
from kubenetlab.api.decode import Finding
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.documents import Path
from kubenetlab.api.environment import ConfigMap, Secret, sealed
from kubenetlab.api.kinds import qualified_kind
from kubenetlab.api.lab import NodeSettings
from kubenetlab.api.masquerade import foreign_ranges
from kubenetlab.api.meta import ObjectMeta, Resource, kubernetes_name, timestamp
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster, DocumentSource, GivenDocument, GivenKey
from kubenetlab.controllers import cluster_ips, config_changes, node_ports, pod_changes
from kubenetlab.controllers.node_ranges import rejected_ranges

RESERVED_CLUSTER_IP = 1
"""The first address of the Service range belongs to the Service default/kubernetes; an index into the range."""


class AdmissionRequest(Struct, frozen=True):
    """One object to be admitted, with its document as given; `object` is None for a kind the lab does not model."""

    document: Mapping[str, Any]
    object: Resource | None
    source: DocumentSource | None = None

    @property
    def given_key(self) -> GivenKey:
        if self.object is not None:
            return self.object.kind, self.object.namespace, self.object.name
        meta = self.document["metadata"]
        return qualified_kind(self.document), str(meta.get("namespace", "")), str(meta["name"])


Action = Literal["created", "configured", "unchanged", "kept"]


class ApplyOutcome(Struct, frozen=True):
    """What became of one object."""

    title: str
    action: Action
    changes: tuple[str, ...] = ()
    """Of a Cluster document that has changed: which fields, from what to what."""


class Admission(Struct, frozen=True):
    """The store with everything admitted; when there are findings the store is the old one."""

    cluster: Cluster
    outcomes: tuple[ApplyOutcome, ...] = ()
    findings: tuple[tuple[int, Finding], ...] = ()
    """(which of the incoming objects, what is wrong with it)"""
    made_namespaces: tuple[str, ...] = ()


def admit(cluster: Cluster, incoming: Sequence[AdmissionRequest], now: float) -> Admission:
    """Stores new objects and updates known ones, as `kubectl apply` does.

    `now` is in seconds since 1970. Applying the same documents again gives the same store, to the object.
    """
    staged = _Staged(cluster, now)
    outcomes: list[ApplyOutcome] = []
    findings: list[tuple[int, Finding]] = []
    for index, one in enumerate(incoming):
        if one.object is None:
            outcomes.append(_keep(cluster, one))
            continue
        if one.object.is_namespaced:
            findings += [(index, finding) for finding in staged.ensure_namespace(one.object)]
        obj, faults = staged.as_stored(one.object, one.document)
        findings += [(index, finding) for finding in faults]
        old = staged.current(obj)
        admitted, faults = staged.put(obj, old, one.document)
        findings += [(index, finding) for finding in faults]
        is_new = old is None and not isinstance(
            obj, NodeSettings
        )  # the Cluster document has made the Node
        action: Action = "created" if is_new else "unchanged" if admitted == old else "configured"
        if isinstance(old, ClusterConfig):  # a document without a name is the lab's
            outcomes.append(
                ApplyOutcome(
                    old.title, action, tuple(config_changes.describe_changes(old, admitted))
                )
            )
        else:
            outcomes.append(ApplyOutcome(one.object.title, action))
    if any(isinstance(one.object, (ClusterConfig, Node)) for one in incoming):
        findings += _refused_ranges(staged.result(), incoming)
    if any(not finding.is_warning for _, finding in findings):
        return Admission(cluster, findings=tuple(findings))
    given = {one.given_key: GivenDocument(one.document, one.source) for one in incoming}
    return Admission(
        staged.result().with_given(given),
        tuple(outcomes),
        tuple(findings),
        tuple(staged.made_namespaces),
    )


def _refused_ranges(
    cluster: Cluster, incoming: Sequence[AdmissionRequest]
) -> Iterator[tuple[int, Finding]]:
    """What speaks against nodes' pod ranges, each at the document that asks for it."""
    names = cluster.config.node_names
    given = {
        one.object.name if isinstance(one.object, Node) else "": index
        for index, one in enumerate(incoming)
        if isinstance(one.object, (ClusterConfig, Node))
    }
    for fault in rejected_ranges(cluster):
        path: Path
        if fault.node in given and fault.node:
            index, path = given[fault.node], ("spec", "podCIDR")
        elif "" in given:
            index, path = (
                given[""],
                ("nodes", names.index(fault.node), "podCIDRs")
                if fault.node
                else ("networking", "podSubnet"),
            )
        else:
            index, path = next(iter(given.values())), ("spec", "podCIDR")
        yield index, Finding(path, fault.message, hints=fault.hints)


class _Staged:
    """The store with what this command has brought so far on top."""

    def __init__(self, cluster: Cluster, now: float) -> None:
        self._cluster = cluster
        self._now = now
        self._changes: dict[tuple[type[Resource], tuple[str, str]], Resource] = {}
        self._config = cluster.config
        self.made_namespaces: list[str] = []

    @cached_property
    def _taken(self) -> dict[str, str]:
        """Cluster IP → whose it is."""
        reserved = {
            str(
                self._config.networking.service_networks[0][RESERVED_CLUSTER_IP]
            ): "Service default/kubernetes"
        }
        return reserved | {
            ip: service.title
            for service in self._cluster.all(Service)
            for ip in service.cluster_ips
        }

    @cached_property
    def _node_ports(self) -> dict[Any, str]:
        """Node port → whose it is."""
        services = self._cluster.all(Service)
        return {
            number: service.title
            for service in services
            for number in node_ports.node_ports_of(service.spec)
        }

    def result(self) -> Cluster:
        return self._cluster.with_changes(self._changes.values())

    def current(self, obj: Resource) -> Resource | None:
        if isinstance(obj, ClusterConfig):
            return next(iter(self._cluster.all(ClusterConfig)), None)
        return self._changes.get((type(obj), obj.key)) or self._cluster.get(
            type(obj), obj.namespace, obj.name
        )

    def ensure_namespace(self, obj: Resource) -> Iterator[Finding]:
        """Makes the object's namespace where no manifest does. One that is going takes in nothing new."""
        namespace = Namespace(ObjectMeta(name=obj.namespace))
        known = self.current(namespace)
        if known is None:
            self.made_namespaces.append(obj.namespace)
            self._store(self._identified(namespace))
        elif known.is_terminating and self.current(obj) is None:
            message = f"unable to create new content in namespace {obj.namespace} because it is being terminated"
            yield Finding(("metadata", "namespace"), message, hints=("try again when it is gone",))

    def as_stored(
        self, obj: Resource, document: Mapping[str, Any]
    ) -> tuple[Resource, list[Finding]]:
        """What is kept of an object, and what speaks against that: a Node is made by the Cluster document, its own only adds to it."""
        if not isinstance(obj, Node):
            return obj, []
        known = self._config.node_names
        if obj.name not in known:
            return obj, [
                Finding(
                    ("metadata", "name"),
                    f'no node of this cluster is called "{obj.name}"',
                    hints=(f"it has: {', '.join(known)}",),
                )
            ]
        cidrs = obj.spec.pod_cidrs or ((obj.spec.pod_cidr,) if obj.spec.pod_cidr else ())
        taints = obj.spec.taints if "taints" in (document.get("spec") or {}) else None
        meta = ObjectMeta(
            name=obj.name, labels=obj.metadata.labels, annotations=obj.metadata.annotations
        )
        return NodeSettings(meta, taints, obj.spec.unschedulable, cidrs), []

    def put(
        self, obj: Resource, old: Resource | None, document: Mapping[str, Any]
    ) -> tuple[Resource, list[Finding]]:
        """The object as it will be stored, and what speaks against it."""
        if old is None:
            candidate, findings = self._identified(obj), []
        else:
            candidate, findings = _updated(old, obj, document), list(_forbidden(old, obj))
            if (type(obj), obj.key) in self._changes:
                hint = f"{obj.title} stands twice in what was given: keep one of them"
                findings = [structs.replace(finding, hints=(hint,)) for finding in findings]
        if isinstance(candidate, Secret):
            candidate = sealed(candidate)
        if isinstance(candidate, ConfigMap):
            findings += foreign_ranges(candidate, self._config.networking.versions)
        if isinstance(candidate, Service):
            candidate, faults = cluster_ips.allocate(
                candidate, self._config.networking.service_networks, self._taken
            )
            findings += faults
            self._taken |= dict.fromkeys(candidate.cluster_ips, candidate.title)
            candidate, faults = node_ports.allocate(candidate, self._node_ports)
            findings += faults
            self._node_ports |= dict.fromkeys(
                node_ports.node_ports_of(candidate.spec), candidate.title
            )
        if old is not None and getattr(candidate, "spec", None) != getattr(old, "spec", None):
            candidate = structs.replace(
                candidate,
                metadata=structs.replace(
                    candidate.metadata, generation=old.metadata.generation + 1
                ),
            )
        if isinstance(candidate, ClusterConfig):
            self._config = candidate
        self._store(candidate)
        return candidate, findings

    def _store(self, obj: Resource) -> None:
        self._changes[type(obj), obj.key] = obj

    def _identified(self, obj: Resource) -> Resource:
        """A new object with its uid and birthday."""
        serial = str(self._cluster.revision + len(self._changes))
        meta = structs.replace(
            obj.metadata,
            uid=make_uid(obj.kind, obj.namespace, obj.name, serial),
            creation_timestamp=timestamp(self._now),
            deletion_timestamp=None,
            generation=1,
            resource_version="",
        )
        if isinstance(obj, Namespace):
            meta = structs.replace(meta, labels={**meta.labels, NAMESPACE_NAME_LABEL: obj.name})
        return structs.replace(obj, metadata=meta)


def _keep(cluster: Cluster, one: AdmissionRequest) -> ApplyOutcome:
    kind, namespace, name = one.given_key
    known = cluster.given.get(one.given_key)
    is_known = known is not None and known.document == one.document
    return ApplyOutcome(
        f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}",
        "unchanged" if is_known else "kept",
    )


def make_uid(*parts: str) -> str:
    """A uid in the usual form, the same for the same parts."""
    digest = hashlib.sha256("/".join(parts).encode()).hexdigest()
    return "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32]))


def _updated(old: Resource, new: Resource, document: Mapping[str, Any]) -> Resource:
    """The stored object with what the new document says; what it leaves to the cluster stays as it is."""
    if isinstance(new, ClusterConfig) and isinstance(old, ClusterConfig):
        return structs.replace(new, metadata=old.metadata)
    meta = structs.replace(
        old.metadata, labels=new.metadata.labels, annotations=new.metadata.annotations
    )
    if isinstance(new, Namespace):
        meta = structs.replace(meta, labels={**meta.labels, NAMESPACE_NAME_LABEL: new.name})
    changed: Resource = structs.replace(new, metadata=meta)
    if hasattr(old, "status"):
        changed = structs.replace(changed, status=old.status)
    if isinstance(changed, Pod) and isinstance(old, Pod):
        changed = structs.replace(
            changed, spec=structs.replace(changed.spec, node_name=old.spec.node_name)
        )
    if isinstance(changed, Service) and isinstance(old, Service):
        changed = node_ports.keep_allocations(old, cluster_ips.keep_allocations(old, changed))
    if (
        isinstance(changed, Scalable)
        and isinstance(old, Scalable)
        and "replicas" not in document.get("spec", {})
    ):
        changed = structs.replace(
            changed, spec=structs.replace(changed.spec, replicas=old.spec.replicas)
        )
    if isinstance(changed, Restartable) and isinstance(old, Restartable):
        changed = _still_restarted(old, changed)
    return changed


def _still_restarted(old: Restartable, new: Restartable) -> Restartable:
    """The new object with the time of the old one's last restart, where it says none: without it its pods would all be replaced once more.

    Source: kubectl's three-way merge, which takes away only what was applied before.
    """
    meta = new.spec.template.metadata
    at = old.spec.template.metadata.annotations.get(RESTARTED_ANNOTATION)
    if at is None or RESTARTED_ANNOTATION in meta.annotations:
        return new
    meta = structs.replace(meta, annotations={**meta.annotations, RESTARTED_ANNOTATION: at})
    template = structs.replace(new.spec.template, metadata=meta)
    return structs.replace(new, spec=structs.replace(new.spec, template=template))


def _forbidden(old: Resource, new: Resource) -> Iterator[Finding]:
    """What may not change in an object that exists."""
    if old.is_terminating:
        yield Finding((), "is being deleted; try again when it is gone")
    if (
        isinstance(old, Workload)
        and isinstance(new, Workload)
        and old.spec.selector != new.spec.selector
    ):
        yield Finding(
            ("spec", "selector"),
            "field is immutable",
            hints=(f"delete {old.title} first, or give it another name",),
        )
    match old, new:
        case (StatefulSet(), StatefulSet()):
            for field in ("service_name", "pod_management_policy"):
                if getattr(old.spec, field) != getattr(new.spec, field):
                    yield Finding(
                        ("spec", kubernetes_name(field)),
                        "field is immutable",
                        hints=(f"delete {old.title} first",),
                    )
        case (Job(), Job()):
            for field in ("completions", "completion_mode", "template"):
                if getattr(old.spec, field) != getattr(new.spec, field):
                    yield Finding(
                        ("spec", kubernetes_name(field)),
                        "field is immutable",
                        hints=(f"delete {old.title} first",),
                    )
        case (ClusterConfig(), ClusterConfig()):
            yield from config_changes.forbidden_changes(old, new)
        case (Pod(), Pod()):
            yield from pod_changes.forbidden_changes(old, new)
        case (EndpointSlice(), EndpointSlice()) if old.address_type != new.address_type:
            yield Finding(("addressType",), f"field is immutable; it is {old.address_type}")
        case (Service(), Service()):
            yield from cluster_ips.forbidden_changes(old, new)
            yield from node_ports.forbidden_changes(old, new)
