"""A mode is a file: `kube-router` of the CNI modes is `datapath/cni/kube_router.py`, found by its name.

Each holds one frozen `Mode`: its fields are the options, its docstring is the manual page, `needs` is what `doctor` checks.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Final, NamedTuple, Protocol, Self

import msgspec
from msgspec import Struct, structs

from kubenetlab.api.config import ClusterConfig, Networking
from kubenetlab.api.core import Service
from kubenetlab.api.decode import Finding, decode, format_path
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.meta import Resource, kubernetes_name
from kubenetlab.datapath.view import NodePlace, NodeView, PodView, ServiceView
from kubenetlab.errors import ManifestError, Problem, did_you_mean
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.rulesets import Rules


class ModeFamily(NamedTuple):
    """Modes of which a cluster has one: files of one folder beside this one."""

    name: str
    """Folder, and first word of a mode's title, such as `cni` in `cni bridge`."""
    field: str
    """Field of `networking` in a Cluster document that chooses the mode."""
    flag: str
    """Option of the command line that chooses the mode."""
    chosen: Callable[[Networking], tuple[str, Mapping[str, Any]]]
    """Name and options of the mode that a Cluster document chooses."""

    @property
    def path(self) -> str:
        """Path of the field in a Cluster document."""
        return f"networking.{self.field}"


FAMILIES: Final = {
    family.name: family
    for family in (
        ModeFamily("cni", "cni", "--cni", lambda networking: networking.cni_mode),
        ModeFamily("proxy", "kubeProxyMode", "--proxy", lambda networking: networking.proxy_mode),
    )
}


class Needs(Struct, frozen=True):
    """What a mode asks of the machine."""

    programs: tuple[str, ...] = ()
    """Programs in the path, such as `nft`."""
    features: tuple[str, ...] = ()
    """Kernel features, by the names that `doctor` uses."""
    root: str = ""
    """What of it only root of the machine can do, such as `eBPF programs`; empty where an ordinary user can do all of it."""


class PodNetwork(Struct, frozen=True):
    """What a CNI mode tells the other layers."""

    mtu: int
    cluster_cidrs: tuple[str, ...]
    """Where pods' addresses come from, per family; what kube-proxy counts as a pod."""
    bridge: str = ""
    """Bridge of each node to which its pods' links belong; empty without one."""
    link_prefix: str = ""
    """Beginning of the names of the nodes' ends of pods' links."""


class ModeOptions(Struct, frozen=True, rename=kubernetes_name, forbid_unknown_fields=True):
    """The base of all modes: the fields are options in the Cluster document and on the command line."""

    needs: ClassVar[Needs] = Needs()
    serves: ClassVar[bool] = True

    def findings(self) -> Iterator[Finding]:
        """Yield the faults of options that are right each by itself."""
        return iter(())

    def names_node(self, service: Service) -> bool:
        """Return True when a Service's rules name the node that they are on: its addresses, or its range."""
        return False

    def settled(self, services: int) -> Self:
        """The mode with what it leaves to the size of the cluster decided."""
        return self

    def pod(self, node: NodeView, pod: PodView) -> Iterator[Object]:
        """What a pod adds to its node."""
        return iter(())


class CNI(Protocol):
    """What a CNI mode is asked."""

    needs: ClassVar[Needs]
    facts: ClassVar[NetworkFacts]
    """What the cluster's controllers must know of it."""

    def network(self, node: NodeView) -> PodNetwork: ...

    def node(self, node: NodeView) -> Iterator[Object]:
        """What the plugin's daemon puts on the node: bridge, routes to the other nodes' pods."""

    def pod(self, node: NodeView, pod: PodView) -> Iterator[Object]:
        """What CNI ADD does: the pod's link, address and routes, and the node's end of it."""


class ServiceProxy(Protocol):
    """What a kube-proxy mode is asked."""

    needs: ClassVar[Needs]
    serves: ClassVar[bool]
    """False for a mode in which no Service works."""

    def names_node(self, service: Service) -> bool:
        """Return True when a Service's rules name the node that they are on: its addresses, or its range."""

    def settled(self, services: int) -> Self:
        """The mode for so many Services."""

    def node(self, node: NodeView, network: PodNetwork) -> Iterator[Object]:
        """What is on a node whatever Services there are."""

    def pod(self, node: NodeView, pod: PodView) -> Iterator[Object]:
        """What a pod on it adds."""

    def service(
        self, service: ServiceView, place: NodePlace, network: PodNetwork
    ) -> tuple[Rules | Object, ...]:
        """What one Service adds on a node: rules, and what else is there for it, in no namespace yet."""


@cache
def known(family: str) -> tuple[str, ...]:
    """The names of all modes of a family, in order."""
    package = importlib.import_module(f"{__package__}.{family}")
    found = (info.name for info in pkgutil.iter_modules(package.__path__))
    return tuple(name.replace("_", "-") for name in sorted(found) if is_mode(family, name))


def is_mode(family: str, module: str) -> bool:
    """True for a module that holds a mode, not a part that modes share."""
    return hasattr(importlib.import_module(f"{__package__}.{family}.{module}"), "Mode")


def load(family: str, name: str, options: Mapping[str, Any]) -> Any:
    """The mode, made with its options. Raises ManifestError for a name or an option that is not known."""
    mode, findings = try_load(family, name, options)
    if mode is None:
        raise ManifestError(
            Problem(finding.message, format_path(finding.path)) for finding in findings
        )
    return mode


def try_load(family: str, name: str, options: Mapping[str, Any]) -> tuple[Any, Sequence[Finding]]:
    """(mode, nothing), or (None, what is wrong with it)."""
    field = FAMILIES[family].field
    if name not in known(family):
        message = f'"{name}" is not known{did_you_mean(name, known(family))}'
        return None, [
            Finding(("networking", field), message, hints=(f"known: {', '.join(known(family))}",))
        ]
    type_ = importlib.import_module(f"{__package__}.{family}.{name.replace('-', '_')}").Mode
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
    if decoded.value is not None and (findings := tuple(decoded.value.findings())):
        return None, [
            structs.replace(finding, path=("networking", field, *finding.path))
            for finding in findings
        ]
    return decoded.value, ()


def check(obj: Resource) -> Iterator[Finding]:
    """Whether the modes that a Cluster document names exist and take its options; nothing to say of other objects."""
    if isinstance(obj, ClusterConfig):
        for family in FAMILIES.values():
            yield from try_load(family.name, *family.chosen(obj.networking))[1]


def network_facts(config: ClusterConfig) -> NetworkFacts:
    """What the modes of a Cluster document say to the controllers."""
    cni: CNI = load("cni", *config.networking.cni_mode)
    proxy: ServiceProxy = load("proxy", *config.networking.proxy_mode)
    return structs.replace(cni.facts, has_proxy=proxy.serves)


def manual(family: str, name: str) -> str:
    """A mode's manual page: its module's and its class's docstrings."""
    module = importlib.import_module(f"{__package__}.{family}.{name.replace('-', '_')}")
    return (
        inspect.cleandoc(module.__doc__ or "")
        + "\n\n"
        + inspect.cleandoc(module.Mode.__doc__ or "")
    )
