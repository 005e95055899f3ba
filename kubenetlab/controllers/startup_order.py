"""Who comes up for the first time. Manifests are written for a cluster that works: what asks once, and ends, waits for those."""

from __future__ import annotations

from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.addons import is_dns_coming
from kubenetlab.controllers.kubelet import observed_of


def is_anybody_starting(cluster: Cluster) -> bool:
    """True while the cluster's DNS comes up, or somebody runs who has not been probed yet."""
    found: bool = cluster.derived(
        "is anybody starting",
        lambda: (
            is_dns_coming(cluster)
            or any(_awaits_its_first_probe(cluster, pod) for pod in cluster.all(Pod))
        ),
    )
    return found


def _awaits_its_first_probe(cluster: Cluster, pod: Pod) -> bool:
    """True for a moment: a probe is answered or not within its timeout. Whoever asked for a delay is not waited for."""
    if pod.status.phase != "Running" or pod.is_ready or pod.is_terminating:
        return False
    seen = observed_of(cluster, pod)
    for container in pod.spec.long_running_containers:
        status = pod.container_status(container.name)
        if status is None or status.ready or status.state.running is None or status.restart_count:
            continue
        kind, probe = (
            ("startup", container.startup_probe)
            if container.startup_probe is not None
            else ("readiness", container.readiness_probe)
        )
        is_delayed = probe is not None and probe.initial_delay_seconds > 0
        if not is_delayed and (seen is None or f"{container.name}/{kind}" not in seen.probes):
            return True
    return False
