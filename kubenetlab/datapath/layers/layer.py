"""Layer: one component's part of the plan. PlanContext: the input of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from kubenetlab.api.config import Networking
from kubenetlab.api.lab import Decisions
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
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
from kubenetlab.datapath.view import NodeView, node_views
from kubenetlab.hoststate.object import Object, Origin

DesiredObjects = tuple[tuple[Object, ...], Origin]
"""Objects of one namespace that one layer wants for one subject, with their origin."""

Inputs = tuple[object, ...]


class Layer(NamedTuple):
    """One component of a cluster, and the kernel objects that it wants."""

    name: str
    inputs: Callable[[PlanContext], Iterable[tuple[str, Inputs]]]
    """Function that returns the inputs of `objects` by subject.

    The subject is the name of a node, the namespace of a pod, or empty for the cluster.
    """
    objects: Callable[..., tuple[DesiredObjects, ...]]
    """Pure function of one subject's inputs."""


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
        self.decisions = decisions
        self.cache = cache
        self.networking: Networking = cluster.config.networking
        self._proxy_mode, _ = modes.proxy_mode(self.networking)
        self.cni = cluster_modes.decided_cni(cluster.config, decisions)
        self.nodes: Sequence[NodeView] = node_views(cluster, decisions, cache)
        self.agent_views: AgentViews = agent_views(cluster, self.nodes, cache)
        self._agent_modes = agent_modes(cluster, decisions)
        self.proxy_views: ProxyViews = proxy_views(cluster, cache)
        self._proxies: dict[str, NodeProxy] = {}

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
