"""kube-proxy's DaemonSet: one pod in each node's own network while the cluster has a proxy mode.

The controller reads DaemonSets, pods and the network facts. It creates the DaemonSet again when it
is missing, because its pods show which node has a kube-proxy, and deletes it when the cluster has
no proxy mode. It leaves a DaemonSet from a manifest alone.
Source: kubernetes/cmd/kubeadm/app/phases/addons/proxy/manifests.go (1.33).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kubenetlab.api.apps import DaemonSet, DaemonSetSpec
from kubenetlab.api.containers import Container
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.meta import LabelSelector, ObjectMeta, timestamp
from kubenetlab.api.pods import Pod, PodSpec, PodTemplateSpec, Toleration
from kubenetlab.api.store import Change, Cluster, Kind, deletion
from kubenetlab.controllers.admission.admission import make_uid

WATCHES: Final[tuple[Kind, ...]] = (DaemonSet, NetworkFacts, Pod)

NAME: Final = "kube-proxy"
NAMESPACE: Final = "kube-system"
IMAGE: Final = "registry.k8s.io/kube-proxy:v1.33.0"
LABELS: Final = {"k8s-app": "kube-proxy"}


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    known = cluster.get(DaemonSet, NAMESPACE, NAME)
    facts = cluster.get(NetworkFacts, "", "network")
    if facts is None:
        return
    # The pods of a deleted DaemonSet must be gone before it is created again.
    if known is None and facts.has_proxy and not cluster.select(NAMESPACE, LABELS):
        uid = make_uid("DaemonSet", NAMESPACE, NAME, str(cluster.revision))
        meta = ObjectMeta(
            name=NAME,
            namespace=NAMESPACE,
            labels=LABELS,
            uid=uid,
            creation_timestamp=timestamp(now),
            generation=1,
        )
        template = PodTemplateSpec(metadata=ObjectMeta(labels=LABELS), spec=_pod())
        yield DaemonSet(meta, DaemonSetSpec(selector=LabelSelector(LABELS), template=template))
    elif (
        known is not None
        and not facts.has_proxy
        and ("DaemonSet", NAMESPACE, NAME) not in cluster.given
    ):
        yield deletion(known)


def is_kube_proxy(pod: Pod) -> bool:
    """Return True for a node's kube-proxy pod."""
    return (
        pod.namespace == NAMESPACE
        and pod.spec.host_network
        and LABELS.items() <= pod.labels.items()
    )


def _pod() -> PodSpec:
    return PodSpec(
        containers=(
            Container(
                NAME,
                IMAGE,
                args=(
                    "--config=/var/lib/kube-proxy/config.conf",
                    "--hostname-override=$(NODE_NAME)",
                ),
            ),
        ),
        host_network=True,
        node_selector={"kubernetes.io/os": "linux"},
        priority_class_name="system-node-critical",
        tolerations=(Toleration(operator="Exists"),),
    )
