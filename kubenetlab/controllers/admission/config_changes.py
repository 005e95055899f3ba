"""Changes of the Cluster document of a running lab: forbidden ones, and text for the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import structs

from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.meta import Record, Resource, kubernetes_name
from kubenetlab.api.text.decode import Finding


def with_former_ranges(
    new: ClusterConfig, document: JsonMapping, old: Resource | None
) -> ClusterConfig:
    """Return a document that names no pod range with the pod range of the running lab.

    The default depends on the CNI mode, which may be another one now.
    """
    networking = document.get("networking")
    is_named = isinstance(networking, Mapping) and networking.get("podSubnet")
    if is_named or not isinstance(old, ClusterConfig):
        return new
    if old.networking.ip_family != new.networking.ip_family:
        return new
    ranges = structs.replace(new.networking, pod_subnet=old.networking.pod_subnet)
    return structs.replace(new, networking=ranges)


def forbidden_changes(old: ClusterConfig, new: ClusterConfig) -> Iterator[Finding]:
    """Yield the changes that a running lab does not allow."""
    for field, name in (
        ("ip_family", "ipFamily"),
        ("pod_subnet", "podSubnet"),
        ("service_subnet", "serviceSubnet"),
        ("dns_domain", "dnsDomain"),
    ):
        before, after = getattr(old.networking, field), getattr(new.networking, field)
        if before != after:
            yield Finding(
                ("networking", name),
                f"cannot change while the lab is up; it is {before}",
                hints=("kubenetlab down, then up",),
            )
    former = old.networking.cni_mode[0]
    if former != new.networking.cni_mode[0] == "none":
        yield Finding(
            ("networking", "cni"),
            f"a CNI plugin cannot be removed while the lab is up; it is {former}",
            hints=("another mode takes its place: kubenetlab up --cni MODE",),
        )
    if old.fabric.topology != new.fabric.topology:
        yield Finding(
            ("fabric", "topology"),
            f"cannot change while the lab is up; it is {old.fabric.topology}",
            hints=("kubenetlab down, then up",),
        )
    segments = dict(zip(old.node_names, old.segments, strict=True))
    for index, (name, node) in enumerate(zip(new.node_names, new.nodes, strict=True)):
        if segments.get(name, new.segments[index]) != new.segments[index]:
            before = segments[name].removeprefix("/")
            yield Finding(
                ("nodes", index, "segment"),
                f"cannot change while the lab is up; it is {before}, found {node.segment or name}",
                hints=("remove the node and add it again with another name",),
            )
    if new.name and new.name != old.name:
        yield Finding(
            ("name",),
            f"cannot change while the lab is up; it is {old.name}",
            hints=("without a name, or with --lab NAME, the document fits any lab",),
        )


_MAX_TEXT: Final = 80
"""Maximum length of a value that is shown; a longer one is the content of a file."""


def describe_config_changes(
    old: ClusterConfig, new: Record, facts: NetworkFacts | None
) -> Iterator[str]:
    """Yield `networking.kubeProxyMode nftables → iptables` for each field that differs.

    facts: properties of the old document's modes, which tell what its omitted modes are.
    """
    is_same_cni = isinstance(new, ClusterConfig) and (
        new.networking.cni_mode == old.networking.cni_mode
    )
    facts = facts or NetworkFacts()
    implied = {
        "networking.kubeProxyMode": facts.implied_proxy_mode,
        "networking.policyEngine": facts.implied_policy_engine,
    }
    modes = {field: (mode, mode if is_same_cni else "default") for field, mode in implied.items()}
    return describe_changes(old, new, modes)


def describe_changes(
    old: Record, new: Record, omitted: Mapping[str, tuple[str, str]] = {}, path: str = ""
) -> Iterator[str]:
    """Yield the fields that differ, with both values.

    omitted: values of omitted fields, before and after, by their paths.
    """
    for name in new.__struct_fields__:
        before, after = getattr(old, name), getattr(new, name)
        place = f"{path}{kubernetes_name(name)}"
        if before == after or name == "metadata":
            continue
        if isinstance(before, Record) and isinstance(after, Record):
            yield from describe_changes(before, after, omitted, f"{place}.")
            continue
        first, second = omitted.get(place, ("none", "none"))
        shown_before = first if before is None else _format_value(before)
        shown_after = second if after is None else _format_value(after)
        if shown_before != shown_after:
            yield f"{place} {shown_before} → {shown_after}"


def _format_value(value: object) -> str:
    """Return a field's value as short text.

    A mode is shown as on the command line, a list as its number of entries.
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return str(len(value))
    if isinstance(value, Mapping):
        return ",".join(
            (
                str(value.get("type", "")),
                *_options({key: inner for key, inner in value.items() if key != "type"}),
            )
        )
    text = str(value)
    return text if len(text) <= _MAX_TEXT and text.isprintable() else "…"


def _options(options: JsonMapping, path: str = "") -> Iterator[str]:
    """Yield a mode's options as on the command line.

    For example `layout=fast`, `detectLocal.bridgeInterface=cbr0`, `binDirs=[/opt/cni/bin]`.
    """
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from _options(value, f"{path}{key}.")
        elif isinstance(value, list | tuple) and not any(
            isinstance(entry, Mapping | list | tuple) for entry in value
        ):
            yield f"{path}{key}=[{_format_value(','.join(map(str, value)))}]"
        else:
            yield f"{path}{key}={_format_value(value)}"
