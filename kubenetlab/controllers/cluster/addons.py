"""Initial objects of every cluster: two namespaces, the Service `kubernetes`, and CoreDNS.

`initial_objects` are admitted once, when the lab is created; afterwards users can change and
delete them like all others. The controller reads the Cluster document and the Services, and
creates the Service `default/kubernetes` again when it is missing, as the API server does.
Source: kubernetes/cmd/kubeadm/app/phases/addons/dns/manifests.go (1.33).
"""

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import structs

from kubenetlab.api.apps import Deployment, DeploymentSpec
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.containers import Container, ContainerPort, HTTPGetAction, Probe
from kubenetlab.api.core import Namespace, Service, ServicePort, ServiceSpec
from kubenetlab.api.meta import LabelSelector, ObjectMeta, Resource, timestamp
from kubenetlab.api.pods import PodSpec, PodTemplateSpec, Toleration
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.controllers.admission.admission import make_uid
from kubenetlab.controllers.allocation import cluster_ips
from kubenetlab.controllers.allocation.addresses import dns_address
from kubenetlab.controllers.nodes.nodes import CONTROL_PLANE_LABEL

WATCHES: Final[tuple[Kind, ...]] = (ClusterConfig, Service)

API_SERVICE = "kubernetes"
COREDNS_IMAGE = "registry.k8s.io/coredns/coredns:v1.12.0"
DNS_LABELS = {"k8s-app": "kube-dns"}
DNS_NAMESPACE = "kube-system"


def initial_objects(config: ClusterConfig) -> Sequence[Resource]:
    """Return the objects of an empty cluster, to be admitted before the user's."""
    network = config.networking.service_networks[0]
    return (
        Namespace(ObjectMeta(name="default")),
        Namespace(ObjectMeta(name=DNS_NAMESPACE)),
        _api_service(config),
        Service(
            ObjectMeta(
                name="kube-dns",
                namespace=DNS_NAMESPACE,
                labels={**DNS_LABELS, "kubernetes.io/name": "CoreDNS"},
            ),
            ServiceSpec(
                selector=DNS_LABELS,
                cluster_ip=dns_address(network),
                ports=(
                    ServicePort(53, "dns", "UDP", 53),
                    ServicePort(53, "dns-tcp", "TCP", 53),
                    ServicePort(9153, "metrics", "TCP", 9153),
                ),
            ),
        ),
        Deployment(
            ObjectMeta(name="coredns", namespace=DNS_NAMESPACE, labels=DNS_LABELS),
            DeploymentSpec(
                replicas=2,
                selector=LabelSelector(DNS_LABELS),
                template=PodTemplateSpec(
                    metadata=ObjectMeta(labels=DNS_LABELS), spec=_coredns_pod()
                ),
            ),
        ),
    )


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    if cluster.get(Service, "default", API_SERVICE) is None and cluster.all(ClusterConfig):
        service = _api_service(cluster.config)
        service, _ = cluster_ips.allocate(service, cluster.config.networking.service_networks, {})
        uid = make_uid("Service", "default", API_SERVICE, str(cluster.revision))
        meta = structs.replace(
            service.metadata, uid=uid, creation_timestamp=timestamp(now), generation=1
        )
        yield structs.replace(service, metadata=meta)


def _api_service(config: ClusterConfig) -> Service:
    network = config.networking.service_networks[0]
    return Service(
        ObjectMeta(
            name=API_SERVICE,
            namespace="default",
            labels={"component": "apiserver", "provider": "kubernetes"},
        ),
        ServiceSpec(
            cluster_ip=str(network[1]), ports=(ServicePort(443, "https", target_port=6443),)
        ),
    )


def is_dns_starting(cluster: Cluster) -> bool:
    """Return True while the DNS pods start for the first time.

    That is: no DNS pod is ready yet, and at least one has a node and has not failed.
    """
    pods = cluster.select(DNS_NAMESPACE, DNS_LABELS)
    return not any(pod.is_ready for pod in pods) and any(
        pod.spec.node_name
        and not pod.is_terminating
        and all(status.restart_count == 0 for status in pod.container_statuses)
        for pod in pods
    )


def _coredns_pod() -> PodSpec:
    container = Container(
        "coredns",
        COREDNS_IMAGE,
        args=("-conf", "/etc/coredns/Corefile"),
        ports=(
            ContainerPort(53, "dns", "UDP"),
            ContainerPort(53, "dns-tcp", "TCP"),
            ContainerPort(9153, "metrics", "TCP"),
        ),
        readiness_probe=Probe(http_get=HTTPGetAction(8181, "/ready")),
        liveness_probe=Probe(
            http_get=HTTPGetAction(8080, "/health"), timeout_seconds=5, failure_threshold=5
        ),
    )
    return PodSpec(
        containers=(container,),
        dns_policy="Default",
        node_selector={"kubernetes.io/os": "linux"},
        tolerations=(
            Toleration("CriticalAddonsOnly", "Exists"),
            Toleration(CONTROL_PLANE_LABEL, effect="NoSchedule"),
        ),
    )
