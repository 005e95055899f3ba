"""First store of a lab: the initial objects of a cluster, the manifests, and derived objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import structs

from kubenetlab import controllers
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.manifests.load import ManifestObject
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.admission.admission import AdmissionRequest, AdmissionResult, admit
from kubenetlab.controllers.cluster.addons import initial_objects
from kubenetlab.controllers.states import BATCH_LIMIT, ControllerStates
from kubenetlab.datapath import modes
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
        with_network_facts(admission.cluster), ControllerStates(), now
    )
    return Bootstrap(
        settled.with_changes([decide(settled)]),
        structs.replace(states, batch_limit=BATCH_LIMIT),
        admission,
    )


def with_network_facts(cluster: Cluster) -> Cluster:
    """Return a store with the facts that controllers need from the networking modes."""
    return cluster.with_changes([modes.network_facts(cluster.config)])


def admission_requests(entries: Sequence[ManifestObject]) -> list[AdmissionRequest]:
    """Return documents of manifests as admission requests."""
    return [AdmissionRequest(entry.value, entry.object, entry.source) for entry in entries]


def raise_findings(admission: AdmissionResult, entries: Sequence[ManifestObject]) -> None:
    """Raise ManifestError, with file and line, if admission found errors."""
    if any(not finding.is_warning for _, finding in admission.findings):
        raise ManifestError(
            entries[index].problem(finding) for index, finding in admission.findings
        )
