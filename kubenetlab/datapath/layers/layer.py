"""Layer: one component's part of the plan. PlanContext: the input of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Final, NamedTuple

from kubenetlab.api.apps import (
    DaemonSet,
    Deployment,
    ReplicaSet,
    ReplicationController,
    StatefulSet,
)
from kubenetlab.api.batch import Job
from kubenetlab.api.config import Networking
from kubenetlab.api.core import Event
from kubenetlab.api.discovery import Endpoints, EndpointSlice
from kubenetlab.api.kinds import POLICY_KINDS, STORED
from kubenetlab.api.lab import Decisions, JobTracking, NodeReport, PodRuntimeStatus
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster, Kind
from kubenetlab.controllers.kubelet import environment
from kubenetlab.datapath import cluster_modes, modes
from kubenetlab.datapath.agents.policies import KnownPolicies, former_policies
from kubenetlab.datapath.agents.views import AgentViews, agent_modes, agent_views
from kubenetlab.datapath.modes import CNI, PodNetwork, PolicyEngine, ServiceProxy
from kubenetlab.datapath.network.port_mappings import PublishedPort, published_ports
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.policy_rules import PolicyRules, policy_rules
from kubenetlab.datapath.proxy_views import ProxyView, ProxyViews, proxy_views
from kubenetlab.datapath.startup import is_any_pod_starting
from kubenetlab.datapath.view import NodeView, node_views, same_decisions
from kubenetlab.hoststate.object import Object, Origin

DesiredObjects = tuple[tuple[Object, ...], Origin]
"""Objects of one namespace that one layer wants for one subject, with their origin."""

Inputs = tuple[object, ...]


_NOT_OF_PODS: Final[frozenset[Kind]] = frozenset(
    (
        Deployment,
        ReplicaSet,
        ReplicationController,
        StatefulSet,
        DaemonSet,
        Job,
        JobTracking,
        Endpoints,
        EndpointSlice,
        Event,
        NodeReport,
        Pod,
        PodRuntimeStatus,
        *POLICY_KINDS,
    )
)
"""Kinds whose objects change with the states of pods, or concern only nodes.

What system pods need of them is in the basis of a layer.
"""


class Layer(NamedTuple):
    """One component of a cluster, and the kernel objects that it wants."""

    name: str
    inputs: Callable[[PlanContext], Iterable[tuple[str, Inputs]]]
    """Function that returns the inputs of `objects` by subject.

    The subject is the name of a node, the namespace of a pod, or empty for the cluster.
    """
    objects: Callable[..., tuple[DesiredObjects, ...]]
    """Pure function of one subject's inputs."""

    def plan(self, context: PlanContext) -> Iterator[DesiredObjects]:
        """Yield the objects of all subjects; only those with changed inputs are computed."""
        for subject, inputs in self.inputs(context):
            yield from context.cache((self.name, subject), self.objects, *inputs)


class PodLayer(NamedTuple):
    """A layer whose subjects are the pods of each node.

    While nothing has changed but pods of other nodes, the pods of a node are not looked at.
    """

    name: str
    basis: Callable[[PlanContext, NodeView], Inputs]
    """Function that returns the inputs that all pods of a node share.

    They contain everything that depends on EndpointSlices or on reports of nodes.
    """
    inputs: Callable[..., Iterable[tuple[str, Inputs]]]
    """Function of the context, a node and its basis that returns the inputs of `objects` by pod.

    It may read the node's own pods, but not those of other nodes.
    """
    objects: Callable[..., tuple[DesiredObjects, ...]]
    """Pure function of one pod's inputs."""

    def plan(self, context: PlanContext, node: NodeView) -> tuple[DesiredObjects, ...]:
        """Return the objects of a node's pods; only those with changed inputs are computed."""
        own = context.cache.same(f"basis of {self.name}", node.name, self.basis(context, node))
        return context.cache.by_identity(
            (f"{self.name} of a node", node.name),
            partial(self._of_node, context, node, own),
            own,
            *context.basis_of_pods(node),
        )

    def _of_node(
        self, context: PlanContext, node: NodeView, basis: Inputs
    ) -> tuple[DesiredObjects, ...]:
        return tuple(
            objects
            for netns, inputs in self.inputs(context, node, *basis)
            for objects in context.cache((self.name, netns), self.objects, *inputs)
        )


class NodeProxy(NamedTuple):
    """Implementation of Services on one node: kube-proxy, or the CNI plugin."""

    view: ProxyView
    """Its view of the cluster."""
    mode: ServiceProxy
    network: PodNetwork
    component: str
    """Name of the component in origins: that of kube-proxy's mode, or of the CNI mode."""


class PlanContext:
    """Input of the layers of one plan: the store, the views of its nodes, and the modes."""

    def __init__(self, cluster: Cluster, decisions: Decisions, cache: PlanCache) -> None:
        self.cluster = cluster
        self.decisions = decisions = same_decisions(decisions, cache)
        self.cache = cache
        self.networking: Networking = cluster.config.networking
        self._proxy_mode, _ = modes.proxy_mode(self.networking)
        self.cni = cluster_modes.decided_cni(cluster.config, decisions)
        self.nodes: Sequence[NodeView] = node_views(cluster, decisions, cache)
        self.agent_views: AgentViews = agent_views(cluster, self.nodes, cache)
        self._agent_modes = agent_modes(cluster, decisions)
        self.proxy_views: ProxyViews = proxy_views(cluster, cache)
        self._proxies: dict[str, NodeProxy] = {}

    def basis_of_pods(self, node: NodeView) -> tuple[object, ...]:
        """Return everything from which the objects of a node's pods are computed, by identity."""
        return basis_of_pods(self.cluster, node, self.decisions, self.cache)

    def cni_of(self, node: NodeView) -> CNI:
        """Return the CNI mode with the options that the agent of a node knows."""
        return self._agent_modes.get(node.name, self.cni)

    @cached_property
    def published(self) -> tuple[PublishedPort, ...]:
        """Ports of the client host that lead to nodes."""
        return published_ports(
            self.cluster.config, {node.name: node.addresses for node in self.nodes}
        )

    @cached_property
    def _default_proxy(self) -> ServiceProxy:
        return cluster_modes.service_proxy(self.networking)

    @cached_property
    def policy_engine(self) -> PolicyEngine:
        return modes.load("policy", *cluster_modes.policy_engine(self.networking, self.decisions))

    @cached_property
    def policy_rules(self) -> PolicyRules:
        """Rules of all network policies."""
        return policy_rules(self.cluster, self.cache, self.policy_engine, self.networking.versions)

    def policies_of(self, node: NodeView) -> KnownPolicies:
        """Return the policies that are enforced on a node: those of a stopped agent are older."""
        return self._former_policies.get(
            node.name, KnownPolicies(self.policy_engine, self.policy_rules)
        )

    @cached_property
    def _former_policies(self) -> Mapping[str, KnownPolicies]:
        return former_policies(self.cluster, self.cni.facts.agent, self.policy_engine, self.cache)

    @property
    def routed_by_agent(self) -> bool:
        """True if agents add the nodes' routes to pods, and the agent of a node is stopped."""
        agent = self.cni.facts.agent
        return agent is not None and agent.routes_pods and bool(self.agent_views)

    def proxy(self, node: NodeView) -> NodeProxy:
        """Return the kube-proxy of a node.

        A fault may have changed its view of the cluster, and with it its mode.
        """
        if node.name not in self._proxies:
            view = self.proxy_views.of(node.name)
            mode = modes.load("proxy", *view.mode) if view.mode is not None else self._default_proxy
            network = view.network(self.cni_of(node).network(node))
            component = mode_name("kube-proxy", mode)
            if view.mode is None and component != f"kube-proxy {self._proxy_mode}":
                component = mode_name("cni", self.cni)
            self._proxies[node.name] = NodeProxy(
                view,
                mode.resolve_auto(len(view.services)),
                network,
                component,
            )
        return self._proxies[node.name]

    def pods_of(self, node: NodeView) -> Iterator[tuple[PodView, Pod]]:
        """Yield the attached pods of a node, with the environment of their containers resolved."""
        return pods_of(self.cluster, node, self.cache)


def basis_of_pods(
    cluster: Cluster, node: NodeView, decisions: Decisions, cache: PlanCache
) -> tuple[object, ...]:
    """Return everything from which something about a node's pods is computed, by identity.

    These are the node's own pods, and the objects of kinds that may concern pods.
    """
    pods = cache.same("pods", node.name, tuple(cluster.pods_on(node.name)))
    others = (cluster.by_key(kind) for kind in STORED if kind not in _NOT_OF_PODS)
    return (node, decisions, is_any_pod_starting(cluster, cache), pods, *others)


def pods_of(cluster: Cluster, node: NodeView, cache: PlanCache) -> Iterator[tuple[PodView, Pod]]:
    """Yield the attached pods of a node, with the environment of their containers resolved."""
    for view in node.pods:
        pod = cluster.get(Pod, view.namespace, view.name) if view.is_attached else None
        if pod is not None:
            yield (
                view,
                environment.with_resolved_variables(cluster, pod)
                if cache(("refers", view.netns), environment.has_references, pod.spec)
                else pod,
            )


def by_namespace(objects: Iterable[Object], origin: Origin) -> Iterator[DesiredObjects]:
    """Yield objects of one origin, grouped by their namespace."""
    groups: dict[str, list[Object]] = {}
    for obj in objects:
        groups.setdefault(obj.netns, []).append(obj)
    for group in groups.values():
        yield tuple(group), origin


def mode_name(family: str, mode: object) -> str:
    """Return the name of a mode in origins, such as `cni bridge`."""
    return f"{family} {type(mode).__module__.rpartition('.')[2].replace('_', '-')}"
