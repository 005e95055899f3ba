"""Modes: one file each, found by name.

The kube-proxy mode `ebpf` is `datapath/proxy/ebpf.py`. Each file holds one frozen `Mode`: its
fields are the options, its docstring is the manual page, and `needs` is what `doctor` checks.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import ClassVar, Final, Literal, NamedTuple, Protocol, Self, cast, overload

import msgspec
from msgspec import Struct, structs

from kubenetlab.api.calico.ip_pools import IPPool
from kubenetlab.api.config import ClusterConfig, Networking, mode_and_options
from kubenetlab.api.core import Service
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.masquerade import MasqueradeConfig
from kubenetlab.api.meta import Resource, kubernetes_name
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.decode import Finding, decode, format_path
from kubenetlab.cni.calls import NodePlugins
from kubenetlab.datapath.encapsulation import Encapsulation
from kubenetlab.datapath.identities import ClusterPod
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.services.view import ServiceView
from kubenetlab.datapath.view import NodePlace, NodeView
from kubenetlab.errors import ManifestError, Problem, did_you_mean
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.rulesets import RuleObject, SubjectRules

Neighbors = Literal["auto", "dynamic", "permanent"]


class ModeFamily(NamedTuple):
    """Folder of modes beside this file, of which a cluster uses one."""

    name: str
    """Name of the folder, and first word of a mode's title, such as `cni` in `cni bridge`."""
    field: str
    """Field of `networking` in a Cluster document that selects the mode."""
    flag: str
    """Command-line option that selects the mode."""
    chosen: Callable[[Networking], tuple[str, JsonMapping]]
    """Function that returns name and options of the mode that a Cluster document selects."""

    @property
    def path(self) -> str:
        """Path of the field in a Cluster document."""
        return f"networking.{self.field}"


FAMILIES: Final = {
    family.name: family
    for family in (
        ModeFamily("cni", "cni", "--cni", lambda networking: networking.cni_mode),
        ModeFamily("proxy", "kubeProxyMode", "--proxy", lambda networking: proxy_mode(networking)),
    )
}


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
    encapsulations: tuple[Encapsulation, ...] = ()
    """Outer headers of packets between pods of different nodes; empty without tunnels."""


class ModeOptions(Struct, frozen=True, rename=kubernetes_name, forbid_unknown_fields=True):
    """Base of all modes; the fields are options in the Cluster document and on the command line."""

    needs: ClassVar[Needs] = Needs()
    serves: ClassVar[bool] = True
    masquerader: ClassVar[str] = "ip-masq-agent"
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


@cache
def known(family: str) -> tuple[str, ...]:
    """Return the names of all modes of a family in alphabetical order."""
    path = importlib.import_module(f"{__package__}.{family}").__path__
    modules = sorted(info.name.replace("_", "-") for info in pkgutil.iter_modules(path))
    return tuple(name for name in modules if _mode_type(family, name) is not None)


def _mode_type(family: str, name: str) -> type[ModeOptions] | None:
    """Return the class of a mode, or None if there is no such mode. Imports only its module."""
    module_name = f"{__package__}.{family}.{name.replace('-', '_')}"
    if not name.replace("-", "_").isidentifier() or find_spec(module_name) is None:
        return None
    type_: type[ModeOptions] | None = getattr(importlib.import_module(module_name), "Mode", None)
    return type_  # None for code that modes share


@overload
def load(family: Literal["cni"], name: str, options: JsonMapping) -> CNI: ...


@overload
def load(family: Literal["proxy"], name: str, options: JsonMapping) -> ServiceProxy: ...


@overload
def load(family: str, name: str, options: JsonMapping) -> CNI | ServiceProxy: ...


def load(family: str, name: str, options: JsonMapping) -> CNI | ServiceProxy:
    """Return the mode with its options.

    Raises ManifestError for an unknown name or an invalid option.
    """
    mode, findings = try_load(family, name, options)
    if mode is None:
        raise ManifestError(
            Problem(finding.message, format_path(finding.path)) for finding in findings
        )
    return cast("CNI | ServiceProxy", mode)  # the contract tests check every module of a family


def try_load(
    family: str, name: str, options: JsonMapping
) -> tuple[ModeOptions | None, Sequence[Finding]]:
    """Return (mode, warnings) or (None, the findings about its name and options)."""
    field = FAMILIES[family].field
    type_ = _mode_type(family, name)
    if type_ is None:
        message = f'"{name}" is not known{did_you_mean(name, known(family))}'
        if not name:
            message = "expected the name of a mode, or a mapping with the field `type`"
        return None, [
            Finding(("networking", field), message, hints=(f"known: {', '.join(known(family))}",))
        ]
    decoded = decode(dict(options), type_)
    if decoded.findings:
        options_known = (
            ", ".join(field.encode_name for field in msgspec.structs.fields(type_)) or "none"
        )
        return None, [
            Finding(
                ("networking", field, *finding.path),
                finding.message,
                hints=(f"options of {name}: {options_known}",),
            )
            for finding in decoded.findings
        ]
    findings = [
        structs.replace(finding, path=("networking", field, *finding.path))
        for finding in (decoded.value.findings() if decoded.value is not None else ())
    ]
    is_valid = all(finding.is_warning for finding in findings)
    return decoded.value if is_valid else None, findings


def file_options(family: str, name: str) -> Mapping[str, str]:
    """Return the options of a mode that name files; see `ModeOptions.file_options`."""
    type_ = _mode_type(family, name)
    return type_.file_options if type_ is not None else {}


def proxy_mode(networking: Networking) -> tuple[str, JsonMapping]:
    """Return name and options of the kube-proxy mode: the given one, or that of the CNI mode."""
    if networking.kube_proxy_mode is not None:
        return mode_and_options(networking.kube_proxy_mode)
    name, options = networking.cni_mode
    return (_mode_type("cni", name) or ModeOptions).implied_proxy_mode(options), {}
