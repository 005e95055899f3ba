"""Kinds that the lab models, by kind, plural or short name, and names of API groups."""

from collections.abc import Iterable, Mapping
from typing import Final

from kubenetlab.api import builtin
from kubenetlab.api.apps import (
    DaemonSet,
    Deployment,
    ReplicaSet,
    ReplicationController,
    StatefulSet,
)
from kubenetlab.api.batch import Job
from kubenetlab.api.calico.bgp import BGPConfiguration, BGPPeer
from kubenetlab.api.calico.bgp_filters import BGPFilter
from kubenetlab.api.calico.ip_pools import IPPool
from kubenetlab.api.calico.policies import CALICO_GROUP_KINDS, CALICO_POLICY_KINDS
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.config_versions import served_versions
from kubenetlab.api.core import Event, Namespace, Node, Service
from kubenetlab.api.discovery import Endpoints, EndpointSlice
from kubenetlab.api.environment import ConfigMap, Secret
from kubenetlab.api.faults import Fault
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.lab import (
    AllocationState,
    Attachment,
    Decisions,
    JobTracking,
    LabSecret,
    NetworkFacts,
    NodeReport,
    NodeSettings,
    PodRuntimeStatus,
    ProxySnapshot,
    Termination,
    Uplink,
)
from kubenetlab.api.meta import Resource
from kubenetlab.api.plugins.allocations import (
    AddressBlock,
    ClusterPoolState,
    HostLocalState,
    RingState,
)
from kubenetlab.api.plugins.cni_agents import StoppedAgent
from kubenetlab.api.plugins.policy_snapshots import PolicySnapshot
from kubenetlab.api.pods import Pod
from kubenetlab.api.policies.cilium_rules import CILIUM_GROUP_KINDS, CILIUM_KINDS
from kubenetlab.api.policies.network_policy import NetworkPolicy
from kubenetlab.api.policies.tiers import TIER_KINDS

_APPLICATION_KINDS: Final[tuple[type[Resource], ...]] = (
    Pod,
    Service,
    EndpointSlice,
    Endpoints,
    Deployment,
    ReplicaSet,
    ReplicationController,
    StatefulSet,
    DaemonSet,
    Job,
)
"""Kinds of the objects that run an application and make it reachable."""

POLICY_KINDS: Final[tuple[type[Resource], ...]] = (
    NetworkPolicy,
    *TIER_KINDS,
    *CALICO_POLICY_KINDS,
    *CILIUM_KINDS,
)
"""Kinds that allow and deny connections of pods, if the lab has a policy engine."""

POLICY_GROUP_KINDS: Final[tuple[type[Resource], ...]] = (*CALICO_GROUP_KINDS, *CILIUM_GROUP_KINDS)
"""Kinds to which the policies of one CNI plugin refer: sets of networks, tiers."""

POLICY_PEER_KINDS: Final[tuple[type[Resource], ...]] = (
    *POLICY_GROUP_KINDS,
    Service,
    EndpointSlice,
)
"""Kinds of other objects that policies select or read, beside pods, namespaces and nodes."""

_CALICO_KINDS: Final[tuple[type[Resource], ...]] = (
    IPPool,
    BGPConfiguration,
    BGPPeer,
    BGPFilter,
    *CALICO_GROUP_KINDS,
)
"""Kinds that only the CNI plugin calico uses, without policies."""

SERVED: Final[tuple[type[Resource], ...]] = (
    Namespace,
    Node,
    *_APPLICATION_KINDS,
    ConfigMap,
    Secret,
    *POLICY_KINDS,
    *CILIUM_GROUP_KINDS,
    Event,
    *_CALICO_KINDS,
    ClusterConfig,
    Fault,
)
"""Kinds that `get` and the API serve, in the order of listings."""

NAMESPACED: Final[tuple[type[Resource], ...]] = tuple(kind for kind in SERVED if kind.is_namespaced)
"""Served kinds whose objects are in namespaces."""

STORED: Final[tuple[type[Resource], ...]] = (
    *SERVED,
    Attachment,
    PodRuntimeStatus,
    JobTracking,
    Termination,
    NodeReport,
    NodeSettings,
    ProxySnapshot,
    StoppedAgent,
    PolicySnapshot,
    AllocationState,
    HostLocalState,
    AddressBlock,
    RingState,
    ClusterPoolState,
    Decisions,
    NetworkFacts,
    LabSecret,
    Uplink,
)
"""Kinds that the store can hold."""

WRITABLE: Final[tuple[type[Resource], ...]] = (
    ClusterConfig,
    Namespace,
    Node,
    ConfigMap,
    Secret,
    *POLICY_KINDS,
    *CILIUM_GROUP_KINDS,
    *_CALICO_KINDS,
    *_APPLICATION_KINDS,
)
"""Kinds that a manifest can contain."""


PLUGIN_KINDS: Final[Mapping[type[Resource], str]] = {
    IPPool: "calico",
    BGPConfiguration: "calico",
    BGPFilter: "calico",
    **dict.fromkeys((*CALICO_POLICY_KINDS, *CALICO_GROUP_KINDS), "calico"),
    **dict.fromkeys((*CILIUM_KINDS, *CILIUM_GROUP_KINDS), "cilium-cni"),
}
"""Kind that only one CNI plugin uses → name of the plugin; with other plugins it has no effect."""


def kinds_of_plugin(kinds: Iterable[type[Resource]], plugin: str) -> tuple[type[Resource], ...]:
    """Return the kinds, without those that only other CNI plugins use."""
    return tuple(kind for kind in kinds if PLUGIN_KINDS.get(kind, plugin) == plugin)


def group_of(api_version: str) -> str:
    """Return the API group of a version: `apps/v1` → `apps`; the core group is empty."""
    return api_version.rpartition("/")[0]


def writable(document: JsonMapping) -> type[Resource] | None:
    """Return the type of a document; None for a kind that the lab does not model.

    A kind of another API group with the same name is not modelled either.
    """
    return _BY_GROUP.get(
        (group_of(str(document.get("apiVersion", ""))), str(document.get("kind", "")))
    )


def qualified_kind(document: JsonMapping) -> str:
    """Return the kind of a document; for other projects with the API group.

    `Service` for Kubernetes and the lab, `Service.serving.knative.dev` for Knative.
    """
    kind, group = str(document.get("kind", "")), group_of(str(document.get("apiVersion", "")))
    return kind if group in _PLAIN_GROUPS or group.endswith(".k8s.io") else f"{kind}.{group}"


def find_kind(word: str) -> type[Resource] | None:
    """Return the served kind with a name as in kubectl; None if there is none.

    For example `po`, `pod`, `pods`, `Pod` or `deployment.apps`.
    """
    name, _, group = word.lower().partition(".")
    return _BY_WORD_AND_GROUP.get((name, group)) if group else _BY_WORD.get(name)


def _groups(kind: type[Resource]) -> tuple[str, ...]:
    """Return the API groups that have a kind."""
    return tuple(map(group_of, (kind.api_version, *kind.other_api_versions)))


def known_words() -> tuple[str, ...]:
    """Return all names that `find_kind` accepts, without API groups."""
    return tuple(_BY_WORD)


def plurals() -> tuple[str, ...]:
    """Return the plural names of the served kinds, such as `pods`."""
    return tuple(kind.plural for kind in SERVED)


CONFIG_GROUPS: Final = tuple(group_of(version) for version in served_versions())
"""API groups of the Cluster document: the lab's own, and kind's."""
_BY_GROUP = {
    (group_of(version), kind.document_kind()): kind
    for kind in WRITABLE
    for version in (kind.api_version, *kind.other_api_versions)
} | {(group, ClusterConfig.kind): ClusterConfig for group in CONFIG_GROUPS}
_PLAIN_GROUPS = {*(group_of(version) for version in builtin.KINDS), *CONFIG_GROUPS}
_BY_WORD = {
    word: kind for kind in SERVED for word in (kind.kind.lower(), kind.plural, *kind.short_names)
}
_BY_WORD_AND_GROUP = {
    (word, group): kind
    for kind in SERVED
    for group in _groups(kind)
    for word in (
        kind.kind.lower(),
        kind.plural,
        *kind.short_names,
        *kind.words_in_group,
    )
}
