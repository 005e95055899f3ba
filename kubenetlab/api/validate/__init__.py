"""Validation of objects whose fields have the right types: one generator of findings per kind.

Objects are validated on their own. Admission checks what depends on other objects.
Source: k8s.io/kubernetes pkg/apis/core/validation/validation.go and similar files (1.33).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kubenetlab.api.apps import (
    DaemonSet,
    Deployment,
    ReplicaSet,
    ReplicationController,
    StatefulSet,
)
from kubenetlab.api.batch import Job
from kubenetlab.api.calico.bgp import (
    BGPConfiguration,
    BGPPeer,
    validate_bgp_configuration,
    validate_bgp_peer,
)
from kubenetlab.api.calico.bgp_filters import BGPFilter, validate_bgp_filter
from kubenetlab.api.calico.ip_pools import IPPool, validate_ip_pool
from kubenetlab.api.calico.policies import (
    CalicoNetworkPolicy,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    NetworkSet,
    Tier,
)
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.core import Namespace, Node, Service
from kubenetlab.api.discovery import Endpoints, EndpointSlice
from kubenetlab.api.environment import ConfigMap, Secret
from kubenetlab.api.meta import Resource
from kubenetlab.api.pods import Pod
from kubenetlab.api.policies.admin_network_policies import (
    AdminNetworkPolicy,
    BaselineAdminNetworkPolicy,
)
from kubenetlab.api.policies.cilium_cidr_group import CiliumCIDRGroup
from kubenetlab.api.policies.cilium_network_policy import (
    CiliumClusterwideNetworkPolicy,
    CiliumNetworkPolicy,
)
from kubenetlab.api.policies.cluster_network_policy import ClusterNetworkPolicy
from kubenetlab.api.policies.network_policy import NetworkPolicy
from kubenetlab.api.text.decode import Finding
from kubenetlab.api.validate.calico_policies import (
    validate_calico_network_policy,
    validate_global_network_policy,
    validate_network_set,
    validate_tier,
)
from kubenetlab.api.validate.cilium_policies import validate_cidr_group, validate_cilium_policy
from kubenetlab.api.validate.cluster_policies import (
    validate_admin_network_policy,
    validate_baseline_admin_network_policy,
    validate_cluster_network_policy,
)
from kubenetlab.api.validate.config import validate_config
from kubenetlab.api.validate.environment import validate_config_map, validate_secret
from kubenetlab.api.validate.metadata import validate_metadata, validate_namespace
from kubenetlab.api.validate.nodes import validate_node
from kubenetlab.api.validate.pods import validate_pod
from kubenetlab.api.validate.policies import validate_network_policy
from kubenetlab.api.validate.services import (
    validate_endpoint_slice,
    validate_endpoints,
    validate_service,
)
from kubenetlab.api.validate.workloads import validate_job, validate_workload

# Any: the key is the type of the function's argument, which Mapping cannot express.
_VALIDATORS: Mapping[type[Resource], Callable[[Any], Iterator[Finding]]] = {
    ClusterConfig: validate_config,
    Namespace: validate_namespace,
    Node: validate_node,
    ConfigMap: validate_config_map,
    Secret: validate_secret,
    Pod: validate_pod,
    Service: validate_service,
    EndpointSlice: validate_endpoint_slice,
    Endpoints: validate_endpoints,
    Deployment: validate_workload,
    ReplicaSet: validate_workload,
    ReplicationController: validate_workload,
    StatefulSet: validate_workload,
    DaemonSet: validate_workload,
    Job: validate_job,
    NetworkPolicy: validate_network_policy,
    ClusterNetworkPolicy: validate_cluster_network_policy,
    CalicoNetworkPolicy: validate_calico_network_policy,
    GlobalNetworkPolicy: validate_global_network_policy,
    NetworkSet: validate_network_set,
    GlobalNetworkSet: validate_network_set,
    Tier: validate_tier,
    AdminNetworkPolicy: validate_admin_network_policy,
    BaselineAdminNetworkPolicy: validate_baseline_admin_network_policy,
    CiliumNetworkPolicy: validate_cilium_policy,
    CiliumClusterwideNetworkPolicy: validate_cilium_policy,
    CiliumCIDRGroup: validate_cidr_group,
    IPPool: validate_ip_pool,
    BGPConfiguration: validate_bgp_configuration,
    BGPPeer: validate_bgp_peer,
    BGPFilter: validate_bgp_filter,
}


def validate(obj: Resource) -> Iterator[Finding]:
    """Validate an object on its own, as Kubernetes does; yield every finding."""
    if not isinstance(obj, ClusterConfig):
        yield from validate_metadata(obj)
    yield from _VALIDATORS[type(obj)](obj)
