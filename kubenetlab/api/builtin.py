"""Built-in kinds of Kubernetes 1.33 by API version.

They tell a kind that the lab does not model from a misspelled one.
"""

from collections.abc import Mapping
from typing import Final

KINDS: Final[Mapping[str, frozenset[str]]] = {
    version: frozenset(kinds.split())
    for version, kinds in {
        "v1": (
            "Binding ConfigMap Endpoints Event LimitRange List Namespace Node PersistentVolume "
            "PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret "
            "Service ServiceAccount"
        ),
        "apps/v1": "ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet",
        "batch/v1": "CronJob Job",
        "autoscaling/v1": "HorizontalPodAutoscaler Scale",
        "autoscaling/v2": "HorizontalPodAutoscaler",
        "policy/v1": "Eviction PodDisruptionBudget",
        "discovery.k8s.io/v1": "EndpointSlice",
        "networking.k8s.io/v1": "Ingress IngressClass IPAddress NetworkPolicy ServiceCIDR",
        "rbac.authorization.k8s.io/v1": "ClusterRole ClusterRoleBinding Role RoleBinding",
        "storage.k8s.io/v1": "CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment",
        "scheduling.k8s.io/v1": "PriorityClass",
        "node.k8s.io/v1": "RuntimeClass",
        "coordination.k8s.io/v1": "Lease",
        "certificates.k8s.io/v1": "CertificateSigningRequest",
        "admissionregistration.k8s.io/v1": (
            "MutatingWebhookConfiguration ValidatingAdmissionPolicy "
            "ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration"
        ),
        "apiextensions.k8s.io/v1": "CustomResourceDefinition",
        "apiregistration.k8s.io/v1": "APIService",
        "events.k8s.io/v1": "Event",
        "flowcontrol.apiserver.k8s.io/v1": "FlowSchema PriorityLevelConfiguration",
    }.items()
}


_CLUSTER_SCOPED: Final = frozenset(
    [
        "APIService",
        "CSIDriver",
        "CSINode",
        "CertificateSigningRequest",
        "ClusterRole",
        "ClusterRoleBinding",
        "ComponentStatus",
        "CustomResourceDefinition",
        "FlowSchema",
        "IPAddress",
        "IngressClass",
        "MutatingWebhookConfiguration",
        "Namespace",
        "Node",
        "PersistentVolume",
        "PriorityClass",
        "PriorityLevelConfiguration",
        "RuntimeClass",
        "ServiceCIDR",
        "StorageClass",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ValidatingWebhookConfiguration",
        "VolumeAttachment",
    ]
)


SHORT_NAMES: Final[Mapping[str, str]] = {
    "CronJob": "cj",
    "CustomResourceDefinition": "crd",
    "HorizontalPodAutoscaler": "hpa",
    "Ingress": "ing",
    "LimitRange": "limits",
    "NetworkPolicy": "netpol",
    "PersistentVolume": "pv",
    "PersistentVolumeClaim": "pvc",
    "PodDisruptionBudget": "pdb",
    "PriorityClass": "pc",
    "ResourceQuota": "quota",
    "ServiceAccount": "sa",
    "StorageClass": "sc",
    "CertificateSigningRequest": "csr",
    "IPAddress": "ip",
}
"""Kind → short name in kubectl, for the kinds that the lab does not model.

Source: kubectl api-resources (1.33).
"""


def is_namespaced(api_version: str, kind: str) -> bool | None:
    """Return whether a built-in kind is namespaced; None for a kind that is not built in."""
    return kind not in _CLUSTER_SCOPED if kind in KINDS.get(api_version, ()) else None


def versions_of(kind: str) -> list[str]:
    """Return the API versions that have a kind of this name."""
    return [version for version, kinds in KINDS.items() if kind in kinds]


def all_kinds() -> set[str]:
    """Return the names of the kinds of all API versions."""
    return {kind for kinds in KINDS.values() for kind in kinds}
