"""Admission: what the API server does with an object before it stores it.

New objects get an identity and defaults; updates are checked for immutable fields. The allocation
of Service addresses is in cluster_ips.py and node_ports.py. All objects of one command are admitted
together or not at all.
Source: k8s.io/kubernetes pkg/apis/core/validation (the *Update functions), 1.33.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal

from msgspec import Struct, structs

from kubenetlab.api.apps import RESTARTED_ANNOTATION, Restartable, Scalable, StatefulSet, Workload
from kubenetlab.api.batch import Job
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.core import NAMESPACE_NAME_LABEL, Namespace, Node, Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.environment import ConfigMap, Secret, sealed
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.kinds import qualified_kind
from kubenetlab.api.lab import NetworkFacts, NodeSettings
from kubenetlab.api.masquerade import foreign_ranges
from kubenetlab.api.meta import ObjectMeta, Resource, kubernetes_name, timestamp
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster, DocumentSource, GivenDocument, GivenKey
from kubenetlab.api.text.decode import Finding
from kubenetlab.api.text.documents import Path
from kubenetlab.controllers.admission import (
    bgp,
    config_changes,
    ip_pools,
    node_documents,
    pod_changes,
)
from kubenetlab.controllers.allocation import cluster_ips, node_ports
from kubenetlab.controllers.allocation.node_ranges import rejected_ranges

RESERVED_CLUSTER_IP = 1
"""Index into the Service range of the address reserved for the Service default/kubernetes."""


class AdmissionRequest(Struct, frozen=True):
    """One object to be admitted, with the document that the user gave.

    `object` is None for a kind that the lab does not model.
    """

    document: JsonMapping
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
    """Result for one object of a request."""

    title: str
    action: Action
    changes: tuple[str, ...] = ()
    """Changed fields of a Cluster document, each as `path before → after`."""


class AdmissionResult(Struct, frozen=True):
    """Result of a request.

    When a finding is an error, `cluster` is the store as it was.
    """

    cluster: Cluster
    outcomes: tuple[ApplyOutcome, ...] = ()
    findings: tuple[tuple[int, Finding], ...] = ()
    """(index of the request, problem) pairs."""
    made_namespaces: tuple[str, ...] = ()
    """Namespaces that no document defines and that were created for their objects."""

    @property
    def is_refused(self) -> bool:
        """True if a finding is an error; warnings refuse nothing."""
        return any(not finding.is_warning for _, finding in self.findings)


def admit(cluster: Cluster, incoming: Sequence[AdmissionRequest], now: float) -> AdmissionResult:
    """Store new objects and update existing ones, as `kubectl apply` does.

    now: time in seconds since 1970.
    Applying the same documents again returns the same store, object by object.
    """
    staged = _StagedStore(cluster, now)
    outcomes: list[ApplyOutcome] = []
    findings: list[tuple[int, Finding]] = []
    for index, request in enumerate(incoming):
        if request.object is None:
            outcomes.append(_kept_outcome(cluster, request))
            continue
        if request.object.is_namespaced:
            findings += [(index, finding) for finding in staged.ensure_namespace(request.object)]
        obj, problems = staged.as_stored(request.object, request.document)
        findings += [(index, finding) for finding in problems]
        old = staged.current(obj)
        # A former document of the request may be about an object in this namespace.
        is_made = isinstance(obj, Namespace) and obj.name in staged.made_namespaces
        if is_made:
            staged.made_namespaces.remove(obj.name)
        admitted, problems = staged.put(obj, old, request.document)
        findings += [(index, finding) for finding in problems]
        # The Cluster document creates Nodes; a Node document only configures one.
        is_new = is_made or (old is None and not isinstance(obj, NodeSettings))
        action: Action = "created" if is_new else "unchanged" if admitted == old else "configured"
        if isinstance(old, ClusterConfig):  # the document may lack a name: use the lab's
            facts = cluster.get(NetworkFacts, "", "network")
            changes = tuple(config_changes.describe_config_changes(old, admitted, facts))
            outcomes.append(ApplyOutcome(old.title, action, changes))
        else:
            outcomes.append(ApplyOutcome(request.object.title, action))
    objects = [request.object for request in incoming]
    findings += ip_pools.pool_findings(cluster, staged.result(), objects)
    findings += bgp.bgp_findings(staged.result(), objects)
    if any(isinstance(obj, (ClusterConfig, Node)) for obj in objects):
        findings += _range_findings(staged.result(), incoming)
    refused = AdmissionResult(cluster, findings=tuple(findings))
    if refused.is_refused:
        return refused
    given = {
        request.given_key: GivenDocument(request.document, request.source) for request in incoming
    }
    return AdmissionResult(
        staged.result().with_given(given),
        tuple(outcomes),
        tuple(findings),
        tuple(staged.made_namespaces),
    )


def _range_findings(
    cluster: Cluster, incoming: Sequence[AdmissionRequest]
) -> Iterator[tuple[int, Finding]]:
    """Yield the problems of nodes' pod ranges, each at the document that requests the range."""
    names = cluster.config.node_names
    index_of = {
        request.object.name if isinstance(request.object, Node) else "": index
        for index, request in enumerate(incoming)
        if isinstance(request.object, (ClusterConfig, Node))
    }
    for problem in rejected_ranges(cluster):
        path: Path
        if problem.node in index_of and problem.node:
            index, path = index_of[problem.node], ("spec", "podCIDR")
        elif "" in index_of:
            index, path = (
                index_of[""],
                ("nodes", names.index(problem.node), "podCIDRs")
                if problem.node
                else ("networking", "podSubnet"),
            )
        else:
            index, path = next(iter(index_of.values())), ("spec", "podCIDR")
        yield index, Finding(path, problem.message, hints=problem.hints)


class _StagedStore:
    """The store with the changes of the current request."""

    def __init__(self, cluster: Cluster, now: float) -> None:
        self._cluster = cluster
        self._now = now
        self._changes: dict[tuple[type[Resource], tuple[str, str]], Resource] = {}
        self._config = cluster.config
        self.made_namespaces: list[str] = []

    @cached_property
    def _taken(self) -> dict[str, str]:
        """Cluster IP → title of the Service that has it."""
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
    def _node_ports(self) -> dict[int, str]:
        """Node port → title of the Service that has it."""
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
        """Create the object's namespace when it does not exist.

        Yield a finding for a new object in a namespace that is being deleted.
        """
        namespace = Namespace(ObjectMeta(name=obj.namespace))
        known = self.current(namespace)
        if known is None:
            self.made_namespaces.append(obj.namespace)
            self._store(self._with_identity(namespace))
        elif known.is_terminating and self.current(obj) is None:
            reason = "because it is being terminated"
            message = f"unable to create new content in namespace {obj.namespace} {reason}"
            yield Finding(("metadata", "namespace"), message, hints=("try again when it is gone",))

    def as_stored(self, obj: Resource, document: JsonMapping) -> tuple[Resource, list[Finding]]:
        """Return the object to store for a given one, and its problems.

        The Cluster document creates Nodes; a Node document is stored as settings of its Node.
        """
        if isinstance(obj, ClusterConfig):
            return config_changes.with_former_ranges(obj, document, self.current(obj)), []
        if isinstance(obj, Node):
            return node_documents.settings_of(obj, document, self._config.node_names)
        return obj, []

    def put(
        self, obj: Resource, old: Resource | None, document: JsonMapping
    ) -> tuple[Resource, list[Finding]]:
        """Stage the object, and return it as it will be stored, with its problems."""
        if old is None:
            candidate, findings = self._with_identity(obj), []
        else:
            candidate, findings = _merge(old, obj, document), list(_forbidden_changes(old, obj))
            if (type(obj), obj.key) in self._changes:
                hint = f"{obj.title} is given twice: keep one of them"
                findings = [structs.replace(finding, hints=(hint,)) for finding in findings]
        if isinstance(candidate, Secret):
            candidate = sealed(candidate)
        if isinstance(candidate, ConfigMap):
            findings += foreign_ranges(candidate, self._config.networking.versions)
        if isinstance(candidate, Service):
            candidate, problems = cluster_ips.allocate(
                candidate, self._config.networking.service_networks, self._taken
            )
            findings += problems
            self._taken |= dict.fromkeys(candidate.cluster_ips, candidate.title)
            candidate, problems = node_ports.allocate(candidate, self._node_ports)
            findings += problems
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

    def _with_identity(self, obj: Resource) -> Resource:
        """Return a new object with its uid and creation time."""
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


def _kept_outcome(cluster: Cluster, request: AdmissionRequest) -> ApplyOutcome:
    """Return the outcome for a document of a kind that the lab only stores."""
    kind, namespace, name = request.given_key
    stored = cluster.given.get(request.given_key)
    is_unchanged = stored is not None and stored.document == request.document
    return ApplyOutcome(
        f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}",
        "unchanged" if is_unchanged else "kept",
    )


def make_uid(*parts: str) -> str:
    """Return a uid derived from `parts`: equal parts give equal uids."""
    digest = hashlib.sha256("/".join(parts).encode()).hexdigest()
    return "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32]))


def _merge(old: Resource, new: Resource, document: JsonMapping) -> Resource:
    """Return the stored object with the new document's content; fields set by the cluster stay."""
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
        changed = _keep_restart_time(old, changed)
    return changed


def _keep_restart_time(old: Restartable, new: Restartable) -> Restartable:
    """Return the new object with the old one's restart annotation, unless it has one of its own.

    Without the annotation its template would change and all its pods would be replaced again.
    Source: kubectl's three-way merge, which removes only what was applied before.
    """
    meta = new.spec.template.metadata
    restarted_at = old.spec.template.metadata.annotations.get(RESTARTED_ANNOTATION)
    if restarted_at is None or RESTARTED_ANNOTATION in meta.annotations:
        return new
    meta = structs.replace(
        meta, annotations={**meta.annotations, RESTARTED_ANNOTATION: restarted_at}
    )
    template = structs.replace(new.spec.template, metadata=meta)
    return structs.replace(new, spec=structs.replace(new.spec, template=template))


def _forbidden_changes(old: Resource, new: Resource) -> Iterator[Finding]:
    """Yield the changes that are not allowed in an existing object."""
    if old.is_terminating:
        yield Finding((), "is being deleted; try again when it is gone")
    if (
        isinstance(old, Workload)
        and isinstance(new, Workload)
        and old.spec.selector != new.spec.selector
    ):
        hint = f"delete {old.title} first, or give it another name"
        yield Finding(("spec", "selector"), "field is immutable", hints=(hint,))
    match old, new:
        case (StatefulSet(), StatefulSet()):
            yield from _immutable_fields(old, new, ("service_name", "pod_management_policy"))
        case (Job(), Job()):
            yield from _immutable_fields(old, new, ("completions", "completion_mode", "template"))
        case (ClusterConfig(), ClusterConfig()):
            yield from config_changes.forbidden_changes(old, new)
        case (Pod(), Pod()):
            yield from pod_changes.forbidden_changes(old, new)
        case (EndpointSlice(), EndpointSlice()) if old.address_type != new.address_type:
            yield Finding(("addressType",), f"field is immutable; it is {old.address_type}")
        case (Service(), Service()):
            yield from cluster_ips.forbidden_changes(old, new)
            yield from node_ports.forbidden_changes(old, new)


def _immutable_fields(
    old: StatefulSet | Job, new: StatefulSet | Job, fields: Sequence[str]
) -> Iterator[Finding]:
    """Yield a finding for each of the spec's `fields` that has changed."""
    for field in fields:
        if getattr(old.spec, field) != getattr(new.spec, field):
            path = ("spec", kubernetes_name(field))
            yield Finding(path, "field is immutable", hints=(f"delete {old.title} first",))
