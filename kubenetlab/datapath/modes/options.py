"""Base class of all modes, and values that modes describe themselves with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from msgspec import Struct

from kubenetlab.api.calico.ip_pools import IPPool
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.core import Service
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.masquerade import MasqueradeConfig
from kubenetlab.api.meta import Resource, kubernetes_name
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.decode import Finding
from kubenetlab.cni.calls import NodePlugins
from kubenetlab.datapath.encapsulation import Encapsulation
from kubenetlab.datapath.identities import ClusterPod
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.rulesets import RuleObject, SubjectRules

if TYPE_CHECKING:
    from kubenetlab.datapath.modes.contracts import ServiceProxy

Neighbors = Literal["auto", "dynamic", "permanent"]


class Needs(Struct, frozen=True):
    """Requirements of a mode on the machine."""

    programs: tuple[str, ...] = ()
    """Programs that must be in PATH, such as `nft`."""
    features: tuple[str, ...] = ()
    """Kernel features without which there is no lab at all, by the names that `doctor` uses."""
    own_features: tuple[str, ...] = ()
    """Kernel features that only some modes need, likewise; `up` probes them."""
    root: str = ""
    """Part of the mode that needs root, such as `eBPF programs`; empty without any."""
    plugins: Mapping[str, tuple[str, ...]] = {}
    """CNI plugin → its possible directories. A lab is made without plugins, but its pods wait."""

    @property
    def all_features(self) -> tuple[str, ...]:
        """Every kernel feature of the mode."""
        return self.features + self.own_features


class LabSize(Struct, frozen=True):
    """Size of a lab and capability of its kernel, from which a CNI mode chooses its options."""

    pods_per_node: tuple[int, ...]
    """Number of pods in the pod network, for each node."""
    has_br_netfilter: bool
    """True if the kernel passes packets between ports of a bridge to its packet filter."""


class OverlayLink(Struct, frozen=True):
    """A link of a node by which packets to pods of other nodes leave, in place of the uplink."""

    name: str
    addresses: tuple[str, ...] = ()
    """Own addresses of the node on the link; masqueraded packets that leave by it have them."""
    bridge: str = ""
    """Bridge of which the link is a port, which then has the addresses and the routes to pods."""
    is_bare: bool = False
    """True if packets on the link have no Ethernet header."""


class PodNetwork(Struct, frozen=True):
    """Properties of a CNI mode that other layers need."""

    mtu: int
    cluster_cidrs: tuple[str, ...]
    """Ranges of pod addresses, one per family; kube-proxy counts these sources as pods."""
    bridge: str = ""
    """Bridge to which the pods' links are attached on each node; empty without one."""
    link_prefix: str = ""
    """Prefix of the names of the node's ends of the pods' links."""
    maps_host_ports: bool = True
    """True if the lab makes the rules for host ports, as the plugin portmap does."""
    tunnels: tuple[str, ...] = ()
    """Links on each node by which packets between pods of different nodes leave a BPF program."""
    overlay_links: tuple[OverlayLink, ...] = ()
    """Links by which packets to pods of other nodes leave their node, in place of the uplink."""
    encapsulations: tuple[Encapsulation, ...] = ()
    """Outer headers of packets between pods of different nodes; empty without tunnels."""


class ModeOptions(Struct, frozen=True, rename=kubernetes_name, forbid_unknown_fields=True):
    """Base of all modes; the fields are options in the Cluster document and on the command line."""

    needs: ClassVar[Needs] = Needs()
    serves: ClassVar[bool] = True
    masquerader: ClassVar[str] = "ip-masq-agent"
    policy_engines: ClassVar[tuple[str, ...]] = ("nftables", "iptables", "none")
    """Policy engines that see the packets of this CNI mode; the first one is the default."""
    enforced_kinds: ClassVar[tuple[type[Resource], ...]] = ()
    """Kinds of policies that a policy engine enforces."""
    file_options: ClassVar[Mapping[str, str]] = {}
    """Option that names a file on the command line → option that gets the file's content."""

    @classmethod
    def implied_proxy_mode(cls, options: JsonMapping) -> str:
        """Return the kube-proxy mode of documents with these options and no `kubeProxyMode`."""
        return "nftables"

    def findings(self) -> Iterator[Finding]:
        """Yield contradictions between options that are valid by themselves."""
        return iter(())

    def config_findings(self, config: ClusterConfig) -> Iterator[Finding]:
        """Yield contradictions between the mode and other parts of the Cluster document."""
        return iter(())

    def routes_pool(self, pool: IPPool) -> bool:
        """Return False if nodes have no routes to addresses of a pool on other nodes."""
        return True

    @property
    def needs_one_segment(self) -> bool:
        """True if routes to pods have other nodes as gateways, which must be on-link."""
        return False

    @property
    def requirements(self) -> Needs:
        """Requirements with these options; `needs` has those of every option."""
        return self.needs

    @property
    def desired_neighbors(self) -> Neighbors:
        """Kind of neighbour entries that the user asks for."""
        return "auto"

    def decide(self, lab: LabSize, settled: Self | None) -> tuple[Self, tuple[str, ...]]:
        """Return the mode with a choice for every `auto`, and the reasons for users.

        settled: mode with the choices of the running lab, which may be needed again.
        """
        return self, ()

    def masquerade(self, node: NodeView, config: MasqueradeConfig | None) -> Iterator[Object]:
        """Yield the rules that masquerade packets from pods that leave the cluster."""
        return iter(())

    def manifests(self, cluster: Cluster) -> Iterator[Resource]:
        """Yield the objects that the plugin installs in a cluster, such as its DaemonSet."""
        return iter(())

    def plugins(self, node: NodeView) -> NodePlugins | None:
        """Return the programs that attach the pods of a node; None if the lab itself does it."""
        return None

    def dynamic_neighbors(self, lab: LabSize) -> int:
        """Return how many neighbour entries the kernel may learn.

        By default each pod resolves only its node and vice versa, and each node all nodes.
        """
        return 2 * sum(lab.pods_per_node) + len(lab.pods_per_node) ** 2

    def depends_on_node(self, service: Service) -> bool:
        """Return True when the rules of a Service contain addresses or ranges of their node."""
        return False

    def resolve_auto(self, services: int) -> Self:
        """Return the mode with every `auto` replaced by the choice for this number of Services."""
        return self

    def pod(self, node: NodeView, pod: PodView) -> Iterator[Object]:
        """Yield the objects that a pod adds to its node."""
        return iter(())

    def netfilter_bypass(self, *, has_br_netfilter: bool) -> str:
        """Return why packets between some pods do not pass netfilter; empty if all do.

        The mode has a choice for every `auto`.
        """
        return ""

    @property
    def service_proxy(self) -> ServiceProxy | None:
        """Implementation of Services by the CNI plugin, used where there is no kube-proxy."""
        return None

    def beside(self, proxy_mode: str) -> Self:
        """Return the mode as it is beside this kube-proxy mode."""
        return self

    knows_all_pods: ClassVar[bool] = False
    """True if every node has rules about the pods of all nodes."""

    def cluster_pod(self, pod: ClusterPod, identity: int) -> SubjectRules[RuleObject] | None:
        """Return the rules about a pod that every node has.

        identity: number of its set of labels.
        """
        return None
