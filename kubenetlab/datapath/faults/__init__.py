"""A fault is a file: `kube-proxy` is `datapath/faults/kube_proxy.py`, found by its name.

Each holds one frozen `Break`: its fields are the options, its docstring is the manual page. It says what must be remembered from the
moment of breaking, and what the rest of the lab sees as long as it lasts; healing is to forget it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, get_args, get_type_hints

import msgspec
from msgspec import Struct

from kubenetlab.api.decode import decode, format_path
from kubenetlab.api.faults import Fault, FaultSpec
from kubenetlab.api.lab import ProxySnapshot
from kubenetlab.api.meta import ObjectMeta, kubernetes_name, timestamp
from kubenetlab.api.store import Change, Cluster, deletion
from kubenetlab.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from kubenetlab.datapath.proxy_views import ProxyView


class BreakOptions(Struct, frozen=True, rename=kubernetes_name, forbid_unknown_fields=True):
    """The base of all faults: the fields are options on the command line."""

    other_words: ClassVar[Mapping[str, str]] = {}
    """Values that mean another one."""

    def refusal(self, cluster: Cluster) -> str:
        """Why it cannot be in this lab; empty when it can."""
        return ""

    @abstractmethod
    def spec(self) -> FaultSpec:
        """What is written down of it."""

    def remembered(self, cluster: Cluster, name: str, now: float) -> Iterator[Change]:
        """What must be kept of the moment in which it begins, under the fault's name."""
        return iter(())

    def kube_proxy_sees(self, cluster: Cluster, view: ProxyView) -> ProxyView:
        """What the kube-proxy of the fault's node knows in place of what the others know."""
        return view


def known() -> tuple[str, ...]:
    """The names of all faults, in order."""
    return tuple(sorted(info.name.replace("_", "-") for info in pkgutil.iter_modules(__path__)))


def load(name: str, options: Mapping[str, Any]) -> BreakOptions:
    """The fault, made with its options. Raises UsageError for a name or an option that is not known, or lacks."""
    if name not in known():
        raise UsageError(
            f'there is no fault "{name}"{did_you_mean(name, known())}; known: {", ".join(known())}'
        )
    type_ = _type(name)
    given = {key: type_.other_words.get(str(value), value) for key, value in options.items()}
    decoded = decode(given, type_)
    if decoded.value is None or decoded.findings:
        problems = (
            f"{format_path(finding.path) or 'option'}: {finding.message}"
            for finding in decoded.findings
        )
        raise UsageError(f"break {name}: {'; '.join(problems)}\n  see: kubenetlab explain {name}")
    return decoded.value


def of(cluster: Cluster) -> list[tuple[Fault, BreakOptions]]:
    """The faults of a store, each with what it does."""
    found: list[tuple[Fault, BreakOptions]] = cluster.derived(
        "faults",
        lambda: [
            (fault, load(fault.spec.fault, fault.spec.options)) for fault in cluster.all(Fault)
        ],
        (Fault,),
    )
    return found


def begun(cluster: Cluster, name: str, options: Mapping[str, Any], now: float) -> list[Change]:
    """The changes that break something; the first is the fault. Raises UsageError for what cannot be broken, or is already."""
    broken = load(name, options)
    spec = broken.spec()
    other = next(
        (
            fault
            for fault in cluster.all(Fault)
            if (fault.spec.fault, fault.spec.node) == (spec.fault, spec.node)
        ),
        None,
    )
    if other is not None:
        where = f" on {spec.node}" if spec.node else ""
        raise UsageError(
            f"break {name}: it is broken{where} already, by {other.title}; first: kubenetlab heal {other.name}"
        )
    if refusal := broken.refusal(cluster):
        raise UsageError(f"break {name}: {refusal}")
    number = str(max((int(fault.name) for fault in cluster.all(Fault)), default=0) + 1)
    meta = ObjectMeta(
        name=number,
        uid=f"fault-{number}-{cluster.revision}",
        creation_timestamp=timestamp(now),
        generation=1,
    )
    return [Fault(meta, spec), *broken.remembered(cluster, number, now)]


def healed(cluster: Cluster) -> Cluster:
    """The store as if nothing were broken."""
    kinds: tuple[Any, ...] = (Fault, ProxySnapshot)
    return cluster.with_changes(deletion(obj) for kind in kinds for obj in cluster.all(kind))


def manual(name: str) -> str:
    """A fault's manual page."""
    module = importlib.import_module(f"{__package__}.{name.replace('-', '_')}")
    return (
        inspect.cleandoc(module.__doc__ or "")
        + "\n\n"
        + inspect.cleandoc(_type(name).__doc__ or "")
    )


def option_names(name: str) -> list[str]:
    """What can be said of a fault."""
    return [field.encode_name for field in msgspec.structs.fields(_type(name))]


def values(name: str, option: str) -> list[str]:
    """What an option of a fault can be, where that is a choice."""
    hints = get_type_hints(_type(name)) if name in known() else {}
    return [str(value) for value in get_args(hints[option])] if option in hints else []


def _type(name: str) -> type[BreakOptions]:
    found: type[BreakOptions] = importlib.import_module(
        f"{__package__}.{name.replace('-', '_')}"
    ).Break
    return found
