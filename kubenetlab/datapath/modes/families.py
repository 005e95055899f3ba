"""Families of modes; modes are found by name, and loaded with their options."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Final, Literal, NamedTuple, cast, overload

import msgspec
from msgspec import structs

from kubenetlab.api.config import Networking, mode_and_options
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.text.decode import Finding, decode, format_path
from kubenetlab.datapath.modes.contracts import CNI, PolicyEngine, ServiceProxy
from kubenetlab.datapath.modes.options import ModeOptions
from kubenetlab.errors import ManifestError, Problem, did_you_mean

_FOLDER: Final = "kubenetlab.datapath"


class ModeFamily(NamedTuple):
    """Folder of modes in `datapath`, of which a cluster uses one."""

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
        ModeFamily(
            "policy", "policyEngine", "--policy", lambda networking: policy_engine(networking)
        ),
    )
}


@cache
def known(family: str) -> tuple[str, ...]:
    """Return the names of all modes of a family in alphabetical order."""
    path = importlib.import_module(f"{_FOLDER}.{family}").__path__
    modules = sorted(info.name.replace("_", "-") for info in pkgutil.iter_modules(path))
    return tuple(name for name in modules if _mode_type(family, name) is not None)


@cache
def _mode_type(family: str, name: str) -> type[ModeOptions] | None:
    """Return the class of a mode, or None if there is no such mode. Imports only its module."""
    module_name = f"{_FOLDER}.{family}.{name.replace('-', '_')}"
    if not name.replace("-", "_").isidentifier() or find_spec(module_name) is None:
        return None
    type_: type[ModeOptions] | None = getattr(importlib.import_module(module_name), "Mode", None)
    return type_  # None for code that modes share


@overload
def load(family: Literal["cni"], name: str, options: JsonMapping) -> CNI: ...


@overload
def load(family: Literal["proxy"], name: str, options: JsonMapping) -> ServiceProxy: ...


@overload
def load(family: Literal["policy"], name: str, options: JsonMapping) -> PolicyEngine: ...


@overload
def load(family: str, name: str, options: JsonMapping) -> CNI | ServiceProxy | PolicyEngine: ...


def load(family: str, name: str, options: JsonMapping) -> CNI | ServiceProxy | PolicyEngine:
    """Return the mode with its options.

    Raises ManifestError for an unknown name or an invalid option.
    """
    mode, findings = try_load(family, name, options)
    if mode is None:
        raise ManifestError(
            Problem(finding.message, format_path(finding.path)) for finding in findings
        )
    return cast(
        "CNI | ServiceProxy | PolicyEngine", mode
    )  # the contract tests check every module of a family


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


def policy_engine(networking: Networking) -> tuple[str, JsonMapping]:
    """Return name and options of the policy engine: the given one, or that of the CNI mode."""
    if networking.policy_engine is not None:
        return mode_and_options(networking.policy_engine)
    return policy_engines(networking)[0], {}


def policy_engines(networking: Networking) -> tuple[str, ...]:
    """Return the names of the policy engines for the CNI mode, the default one first."""
    name, _ = networking.cni_mode
    return (_mode_type("cni", name) or ModeOptions).policy_engines
