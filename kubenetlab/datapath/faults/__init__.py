"""Faults: one file each, found by name.

The fault `kube-proxy` is `datapath/faults/kube_proxy.py`. Each file holds one frozen `Break`: its
fields are the options, and its docstring is part of the manual page. It defines the state to
remember from the moment of breaking, the view of other components and the kernel objects while the
fault lasts. Healing deletes the fault and its snapshots.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final, get_args, get_type_hints

import msgspec
from msgspec import Struct, structs

from kubenetlab.api.faults import Fault, FaultSpec, StoppedPods
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.lab import ProxySnapshot
from kubenetlab.api.meta import ObjectMeta, Resource, kubernetes_name, timestamp
from kubenetlab.api.plugins.cni_agents import StoppedAgent
from kubenetlab.api.store import Change, Cluster, deletion
from kubenetlab.api.text.decode import decode, format_path
from kubenetlab.controllers.nodes.ipam import without_duplicates
from kubenetlab.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from kubenetlab.datapath.modes import PodNetwork
    from kubenetlab.datapath.plan_cache import PlanCache
    from kubenetlab.datapath.proxy_views import ProxyView
    from kubenetlab.datapath.view import NodeView
    from kubenetlab.hoststate.object import Object


class BreakOptions(Struct, frozen=True, rename=kubernetes_name, forbid_unknown_fields=True):
    """Base of all faults; the fields are options on the command line."""

    value_aliases: ClassVar[Mapping[str, str]] = {}
    """Alternative values of options → the value they stand for."""
    is_of_plugin: ClassVar[bool] = False
    """True if the fault breaks a part of the CNI plugin: it ends when another one is installed."""

    def why_impossible(self, cluster: Cluster) -> str:
        """Return why the fault is not possible in this lab; empty if it is."""
        return ""

    @abstractmethod
    def spec(self) -> FaultSpec:
        """Return the specification that is stored for the fault."""

    def stopped_pods(self, cluster: Cluster) -> tuple[StoppedPods, ...]:
        """Return the pods whose processes do not run while the fault lasts, beside `spec().stops`.

        They depend on the lab, such as on its CNI plugin.
        """
        return ()

    def snapshots(self, cluster: Cluster, name: str, now: float) -> Iterator[Change]:
        """Yield objects that hold the state at the moment of breaking.

        name: that of the fault.
        """
        return iter(())

    def kube_proxy_view(self, cluster: Cluster, view: ProxyView, cache: PlanCache) -> ProxyView:
        """Return the view that the kube-proxy of the fault's node has instead of the shared one."""
        return view

    def namespaces(self, node: NodeView) -> tuple[str, ...]:
        """Return the namespaces whose kernel objects differ while the fault lasts.

        node: the fault's node. By default, only its own namespace.
        """
        return (node.netns,)

    def objects(
        self, netns: str, desired: Sequence[Object], node: NodeView, network: PodNetwork
    ) -> Iterable[Object]:
        """Return the objects of one of these namespaces while the fault lasts.

        desired: its objects without the fault. node: the fault's node, without its pods.
        """
        return desired


HEALED: Final[tuple[type[Resource], ...]] = (Fault, ProxySnapshot, StoppedAgent)
"""Kinds of faults, and of what stopped components remember."""


def unknown_node(cluster: Cluster, name: str) -> str:
    """Return why a node cannot have a fault: it does not exist. Empty if it does."""
    names = cluster.config.node_names
    if name in names:
        return ""
    return f'there is no node "{name}"{did_you_mean(name, names)}; known: {", ".join(names)}'


def known() -> tuple[str, ...]:
    """Return the names of all faults in alphabetical order."""
    return tuple(sorted(info.name.replace("_", "-") for info in pkgutil.iter_modules(__path__)))


def load(name: str, options: JsonMapping) -> BreakOptions:
    """Return the fault with its options.

    Raises UsageError for an unknown name, and for an unknown, invalid or missing option.
    """
    if name not in known():
        raise UsageError(
            f'there is no fault "{name}"{did_you_mean(name, known())}; known: {", ".join(known())}'
        )
    type_ = _type(name)
    types = get_type_hints(type_)
    given = {
        key: int(value)
        if types.get(key) is int and isinstance(value, str) and value.isdecimal()
        else type_.value_aliases.get(str(value), value)
        for key, value in options.items()
    }
    decoded = decode(given, type_)
    if decoded.value is None or decoded.findings:
        problems = (
            f"{format_path(finding.path) or 'option'}: {finding.message}"
            for finding in decoded.findings
        )
        raise UsageError(f"break {name}: {'; '.join(problems)}\n  see: kubenetlab explain {name}")
    return decoded.value


def active_faults(cluster: Cluster) -> list[tuple[Fault, BreakOptions]]:
    """Return the faults of a store, each with its implementation."""
    return cluster.index(Fault, _with_implementations)


def _with_implementations(faults: Iterable[Fault]) -> list[tuple[Fault, BreakOptions]]:
    return [(fault, load(fault.spec.fault, fault.spec.options)) for fault in faults]


def break_changes(cluster: Cluster, name: str, options: JsonMapping, now: float) -> list[Change]:
    """Return the changes that break something; the first one is the fault.

    Raises UsageError if it is not possible in this lab, or already broken.
    """
    fault_type = load(name, options)
    spec = fault_type.spec()
    existing = next(
        (
            fault
            for fault in cluster.all(Fault)
            if (fault.spec.fault, fault.spec.node, fault.spec.shares)
            == (spec.fault, spec.node, spec.shares)
        ),
        None,
    )
    if existing is not None:
        where = f" on {spec.node}" if spec.node else ""
        raise UsageError(
            f"break {name}: it is already broken{where}, by {existing.title}; "
            f"first: kubenetlab heal {existing.name}"
        )
    if why_impossible := fault_type.why_impossible(cluster):
        raise UsageError(f"break {name}: {why_impossible}")
    number = str(max((int(fault.name) for fault in cluster.all(Fault)), default=0) + 1)
    meta = ObjectMeta(
        name=number,
        uid=f"fault-{number}-{cluster.revision}",
        creation_timestamp=timestamp(now),
        generation=1,
    )
    spec = structs.replace(spec, stops=(*spec.stops, *fault_type.stopped_pods(cluster)))
    return [Fault(meta, spec), *fault_type.snapshots(cluster, number, now)]


def of_plugin(cluster: Cluster) -> Iterator[Change]:
    """Yield the deletion of each fault that ends when another CNI plugin is installed."""
    return (deletion(fault) for fault, type_ in active_faults(cluster) if type_.is_of_plugin)


def healed(cluster: Cluster) -> Cluster:
    """Return the store without faults, and without what they or stopped components remember."""
    return without_duplicates(
        cluster.with_changes(deletion(obj) for kind in HEALED for obj in cluster.all(kind))
    )


def manual(name: str) -> str:
    """Return a fault's manual page: the docstrings of its module and of its class."""
    module = importlib.import_module(f"{__package__}.{name.replace('-', '_')}")
    return (
        inspect.cleandoc(module.__doc__ or "")
        + "\n\n"
        + inspect.cleandoc(_type(name).__doc__ or "")
    )


def option_names(name: str) -> list[str]:
    """Return the names of a fault's options."""
    return [field.encode_name for field in msgspec.structs.fields(_type(name))]


def values(name: str, option: str) -> list[str]:
    """Return the values of a fault's option if it is a choice, else nothing."""
    hints = get_type_hints(_type(name)) if name in known() else {}
    return [str(value) for value in get_args(hints[option])] if option in hints else []


def _type(name: str) -> type[BreakOptions]:
    break_type: type[BreakOptions] = importlib.import_module(
        f"{__package__}.{name.replace('-', '_')}"
    ).Break
    return break_type
