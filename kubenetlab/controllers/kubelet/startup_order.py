"""Startup order: pods that run a command once wait until the cluster's DNS and servers are up.

Manifests are written for a cluster that already runs. A container that connects once and exits
would otherwise fail because its server was created in the same moment.
"""

from __future__ import annotations

from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.cluster.addons import is_dns_starting
from kubenetlab.controllers.kubelet.kubelet import runtime_status_of


def is_any_pod_starting(cluster: Cluster) -> bool:
    """Return True while the cluster's DNS starts, or a pod awaits its first probe result."""
    return is_dns_starting(cluster) or any(
        _awaits_first_probe(cluster, pod) for pod in cluster.all(Pod)
    )


def _awaits_first_probe(cluster: Cluster, pod: Pod) -> bool:
    """Return True while a container of the pod runs and has no result of its first probe.

    This takes at most the timeout of the probe. Probes with initialDelaySeconds are not awaited.
    """
    if pod.status.phase != "Running" or pod.is_ready or pod.is_terminating:
        return False
    runtime = runtime_status_of(cluster, pod)
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
        if not is_delayed and (runtime is None or f"{container.name}/{kind}" not in runtime.probes):
            return True
    return False
