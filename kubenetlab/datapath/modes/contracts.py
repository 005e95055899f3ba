"""Interfaces of modes, one for each family."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Protocol, Self

from kubenetlab.api.calico.ip_pools import IPPool
from kubenetlab.api.core import Service
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.masquerade import MasqueradeConfig
from kubenetlab.api.meta import Resource
from kubenetlab.api.store import Cluster
from kubenetlab.cni.calls import NodePlugins
from kubenetlab.datapath.identities import ClusterPod
from kubenetlab.datapath.modes.options import LabSize, Needs, Neighbors, PodNetwork
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.policy.members import PodGroup, PolicyPod
from kubenetlab.datapath.policy.rules import IsolatingPolicy, PortName
from kubenetlab.datapath.services.view import ServiceView
from kubenetlab.datapath.view import NodePlace, NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.rulesets import RuleObject, SubjectRules


class CNI(Protocol):
    """Interface of a CNI mode."""

    needs: ClassVar[Needs]

    @property
    def requirements(self) -> Needs:
        """Requirements with these options; `needs` has those of every option."""

    @property
    def facts(self) -> NetworkFacts:
        """Properties of the mode that the controllers need."""

    def routes_pool(self, pool: IPPool) -> bool:
        """Return False if nodes have no routes to addresses of a pool on other nodes."""

    @property
    def needs_one_segment(self) -> bool:
        """True if routes to pods have other nodes as gateways, which must be on-link."""

    @property
    def desired_neighbors(self) -> Neighbors:
        """Kind of neighbour entries that the user asks for."""

    def decide(self, lab: LabSize, settled: Self | None) -> tuple[Self, tuple[str, ...]]:
        """Return the mode with a choice for every `auto`, and the reasons for users.

        settled: mode with the choices of the running lab, which may be needed again.
        """

    def manifests(self, cluster: Cluster) -> Iterator[Resource]:
        """Yield the objects that the plugin installs in a cluster, such as its DaemonSet."""

    def dynamic_neighbors(self, lab: LabSize) -> int:
        """Return how many neighbour entries the kernel may learn."""

    def network(self, node: NodeView) -> PodNetwork: ...

    def netfilter_bypass(self, *, has_br_netfilter: bool) -> str:
        """Return why packets between some pods do not pass netfilter; empty if all do.

        The mode has a choice for every `auto`.
        """

    @property
    def service_proxy(self) -> ServiceProxy | None:
        """Implementation of Services by the CNI plugin, used where there is no kube-proxy."""

    def beside(self, proxy_mode: str) -> Self:
        """Return the mode as it is beside this kube-proxy mode."""

    knows_all_pods: ClassVar[bool]
    """True if every node has rules about the pods of all nodes."""

    def cluster_pod(self, pod: ClusterPod, identity: int) -> SubjectRules[RuleObject] | None:
        """Return the rules about a pod that every node has."""

    masquerader: ClassVar[str]
    """Component that masquerades on nodes."""

    def masquerade(self, node: NodeView, config: MasqueradeConfig | None) -> Iterator[Object]:
        """Yield the rules that masquerade packets from pods that leave the cluster.

        config: ConfigMap of ip-masq-agent, if there is one.
        """

    def plugins(self, node: NodeView) -> NodePlugins | None:
        """Return the programs that attach the pods of a node; None if the lab itself does it."""

    def node(self, node: NodeView) -> Iterator[Object]:
        """Yield the objects of the plugin's daemon on a node, such as bridges and routes."""

    def pod(self, node: NodeView, pod: PodView) -> Iterator[Object]:
        """Yield the objects of CNI ADD: the pod's link, its node end, addresses and routes."""


class ServiceProxy(Protocol):
    """Interface of a kube-proxy mode."""

    needs: ClassVar[Needs]

    @property
    def requirements(self) -> Needs:
        """Requirements with these options; `needs` has those of every option."""

    serves: ClassVar[bool]
    """False for a mode in which no Service works."""

    def depends_on_node(self, service: Service) -> bool:
        """Return True when the rules of a Service contain addresses or ranges of their node."""

    def resolve_auto(self, services: int) -> Self:
        """Return the mode with every `auto` replaced by the choice for this number of Services."""

    def node(self, node: NodeView, network: PodNetwork) -> Iterator[Object]:
        """Yield the objects that a node has whatever Services exist."""

    def pod(self, node: NodeView, pod: PodView) -> Iterator[Object]:
        """Yield the objects that a pod adds to its node."""

    def service(
        self, service: ServiceView, place: NodePlace, network: PodNetwork
    ) -> tuple[SubjectRules[RuleObject] | Object, ...]:
        """Return the rules and other objects of one Service on a node, without a namespace yet."""


class PolicyEngine(Protocol):
    """Interface of an engine of network policies.

    Its rules are shared by all nodes, but for those of a node's own pods.
    """

    needs: ClassVar[Needs]

    @property
    def requirements(self) -> Needs:
        """Requirements with these options; `needs` has those of every option."""

    enforced_kinds: ClassVar[tuple[type[Resource], ...]]
    """Kinds of policies that it enforces."""

    def node(self, node: NodeView, network: PodNetwork) -> Iterator[Object]:
        """Yield the objects of a node that do not depend on policies and pods."""

    def isolated_pod(
        self, version: int, pod: PolicyPod, policies: Sequence[IsolatingPolicy]
    ) -> Iterator[SubjectRules[RuleObject]]:
        """Yield the rules that isolate a pod on its node.

        version: IP version, also in the other functions. policies: all that isolate the pod.
        """

    def group(
        self, version: int, group: PodGroup, pods: Sequence[PolicyPod]
    ) -> Iterator[SubjectRules[RuleObject]]:
        """Yield the rules about the pods that a selector matches."""

    def named_ports(
        self, version: int, port: PortName, pods: Sequence[PolicyPod]
    ) -> Iterator[SubjectRules[RuleObject]]:
        """Yield the rules about the ports of all pods that have a name."""

    def policy(self, version: int, policy: IsolatingPolicy) -> Iterator[SubjectRules[RuleObject]]:
        """Yield the rules of a policy in one direction."""
