"""The first store of a lab: what every cluster begins with, then what the manifests say, then what the controllers add."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from kubenetlab import controllers
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.load import ManifestObject
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.addons import initial_objects
from kubenetlab.controllers.admission import Admission, AdmissionRequest, admit
from kubenetlab.datapath import modes
from kubenetlab.errors import ManifestError
from kubenetlab.lab.machine import decisions


def bootstrap_store(
    config: ManifestObject | None, entries: Sequence[ManifestObject], now: float, lab: str = ""
) -> tuple[Cluster, Admission]:
    """The store, and what admission said of the user's documents. Raises ManifestError when one is refused.

    `config` is the Cluster document; the others are in `entries`. A Cluster without a name has the lab's.
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
    admission = admit(cluster, incoming(entries), now)
    refuse(admission, entries)
    settled, _ = controllers.run(with_network_facts(admission.cluster), now)
    settled = settled.with_changes([decisions(settled)])
    return settled, admission


def with_network_facts(cluster: Cluster) -> Cluster:
    """The store with what its Cluster document's modes say to the controllers."""
    return cluster.with_changes([modes.network_facts(cluster.config)])


def incoming(entries: Sequence[ManifestObject]) -> list[AdmissionRequest]:
    """Entries of manifests as admission takes them."""
    return [AdmissionRequest(entry.value, entry.object, entry.source) for entry in entries]


def refuse(admission: Admission, entries: Sequence[ManifestObject]) -> None:
    """Raises ManifestError, with file and line, for what admission found."""
    if any(not finding.is_warning for _, finding in admission.findings):
        raise ManifestError(
            entries[index].problem(finding) for index, finding in admission.findings
        )
