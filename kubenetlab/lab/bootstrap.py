"""First store of a lab: the initial objects of a cluster, the manifests, and derived objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import structs

from kubenetlab import controllers
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.kinds import find_kind
from kubenetlab.api.lab import Attachment, NetworkFacts
from kubenetlab.api.manifests.load import ManifestObject
from kubenetlab.api.store import Cluster, Delete
from kubenetlab.controllers.admission.admission import AdmissionRequest, AdmissionResult, admit
from kubenetlab.controllers.cluster.addons import initial_objects
from kubenetlab.controllers.states import BATCH_LIMIT, ControllerStates
from kubenetlab.datapath import cluster_modes, faults
from kubenetlab.datapath.checks.ipv6_mtu import ipv6_findings
from kubenetlab.errors import ManifestError
from kubenetlab.lab.machine import Decide, decisions


class Bootstrap(NamedTuple):
    """Start of a lab."""

    cluster: Cluster = Cluster()
    """First store; the controllers have run on it."""
    controller_states: ControllerStates = ControllerStates(BATCH_LIMIT)
    """States of the controllers after that run; a running lab continues from them, in batches."""
    admission: AdmissionResult = AdmissionResult(Cluster())
    """Admission of the user's documents."""


def bootstrap_store(
    config: ManifestObject | None,
    entries: Sequence[ManifestObject],
    now: float,
    lab: str = "",
    decide: Decide = decisions,
) -> Bootstrap:
    """Return the first store of a lab.

    config: the Cluster document, if there is one. A Cluster without a name gets the lab's name.
    entries: all other documents.
    decide: returns the decisions; by default those for this machine.
    Raises ManifestError if a document is refused.
    """
    cluster_config = (
        config.object
        if config is not None and isinstance(config.object, ClusterConfig)
        else ClusterConfig()
    )
    cluster_config = structs.replace(
        cluster_config,
        metadata=structs.replace(cluster_config.metadata, name=cluster_config.name or lab),
    )
    given = (
        config.value
        if config is not None
        else {"apiVersion": cluster_config.api_version, "kind": cluster_config.kind}
    )
    source = config.source if config is not None else None
    base = admit(
        Cluster(),
        [
            AdmissionRequest(given, cluster_config, source),
            *(AdmissionRequest({}, obj) for obj in initial_objects(cluster_config)),
        ],
        now,
    )
    cluster = base.cluster.with_given(
        {key: None for key in base.cluster.given if key[0] != cluster_config.kind}
    )
    admission = admit(cluster, admission_requests(entries), now)
    raise_findings(admission, entries)
    settled, states = controllers.run(
        with_networking(admission.cluster, now), ControllerStates(), now
    )
    if config is not None and (findings := list(ipv6_findings(settled))):
        raise ManifestError(map(config.problem, findings))
    return Bootstrap(
        settled.with_changes([decide(settled)]),
        structs.replace(states, batch_limit=BATCH_LIMIT),
        admission,
    )


def with_networking(cluster: Cluster, now: float) -> Cluster:
    """Return a store with what the networking modes add to it.

    These are the facts that controllers need, and the objects that the CNI plugin installs. They
    are installed once: users may change and delete them. Another CNI mode, or the same one with
    other options, removes those of the former one, unless a manifest has them, and all pods of the
    pod network get new sandboxes. Faults of another plugin end.
    """
    before = cluster.get(NetworkFacts, "", "network")
    facts = cluster_modes.network_facts(cluster.config)
    if before is not None and before.mode == facts.mode:
        return cluster.with_changes([structs.replace(facts, installed=before.installed)])
    stale = before.installed if before is not None else ()
    removed = [
        Delete(kind, namespace, name)
        for word, namespace, name in stale
        if (word, namespace, name) not in cluster.given and (kind := find_kind(word)) is not None
    ]
    attachments = cluster.all(Attachment) if before is not None else ()
    is_other_plugin = before is not None and before.plugin != facts.plugin
    cluster = cluster.with_changes(
        [
            *removed,
            *(faults.of_plugin(cluster) if is_other_plugin else ()),
            *(structs.replace(attachment, is_stale=True) for attachment in attachments),
        ]
    )
    objects = cluster_modes.plugin_objects(cluster)
    given = cluster.given
    installed = admit(cluster, [AdmissionRequest({}, obj) for obj in objects], now).cluster
    keys = tuple((obj.kind, obj.namespace, obj.name) for obj in objects)
    return installed.with_given({key: given.get(key) for key in keys}).with_changes(
        [structs.replace(facts, installed=keys)]
    )


def admission_requests(entries: Sequence[ManifestObject]) -> list[AdmissionRequest]:
    """Return documents of manifests as admission requests."""
    return [AdmissionRequest(entry.value, entry.object, entry.source) for entry in entries]


def raise_findings(admission: AdmissionResult, entries: Sequence[ManifestObject]) -> None:
    """Raise ManifestError, with file and line, if admission found errors."""
    if admission.is_refused:
        raise ManifestError(
            entries[index].problem(finding) for index, finding in admission.findings
        )
