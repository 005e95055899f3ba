"""Document → typed object: its title, its kind, and its decoding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import structs

from kubenetlab import __version__
from kubenetlab.api import builtin
from kubenetlab.api.config import (
    POD_SUBNETS,
    POD_SUBNETS_BY_CNI,
    SERVICE_SUBNETS,
    VERSIONS,
    ClusterConfig,
)
from kubenetlab.api.config_versions import KIND_API_VERSION, convert, served_versions
from kubenetlab.api.json_types import JsonMapping, JsonObject
from kubenetlab.api.kinds import (
    CONFIG_GROUPS,
    POLICY_GROUP_KINDS,
    POLICY_KINDS,
    group_of,
    writable,
)
from kubenetlab.api.meta import Resource
from kubenetlab.api.text.decode import Decoded, Finding, decode, found
from kubenetlab.api.text.documents import MAX_DEPTH, Path, is_deeper
from kubenetlab.errors import did_you_mean

_EXACT_KINDS: Final = (*POLICY_KINDS, *POLICY_GROUP_KINDS)
"""Kinds without unknown fields: policies, and what their rules select."""


def title_of(value: JsonMapping) -> str:
    """Return `Kind namespace/name` of a document, without the parts that it lacks.

    The kind is that of listings: `CalicoNetworkPolicy` for a NetworkPolicy of Calico.
    """
    meta = value.get("metadata")
    meta = meta if isinstance(meta, Mapping) else {}
    name = meta.get("name") or value.get("name") or ""
    type_ = writable(value)
    namespace = meta.get("namespace") or (
        "default" if name and (type_ is None or type_.is_namespaced) else ""
    )
    kind = type_.kind if type_ is not None else value.get("kind", "object")
    return f"{kind} {namespace}/{name}" if namespace and name else f"{kind} {name}".strip()


def unknown_kind_hints(api_version: str, kind: str) -> tuple[str, ...] | None:
    """Return hints about a kind that neither Kubernetes nor the lab defines.

    Return None for a known kind, and for one that may be defined by a custom resource.
    """
    group, slash, _ = api_version.partition("/")
    if group in CONFIG_GROUPS:
        # `decode_object` checks the version of a Cluster document.
        return None if kind == ClusterConfig.kind else (f"{group} has: {ClusterConfig.kind}",)
    modelled = writable({"apiVersion": api_version, "kind": kind})
    if modelled is not None:
        served = (modelled.api_version, *modelled.other_api_versions)
        return None if api_version in served else (f"expected apiVersion {' or '.join(served)}",)
    kinds = builtin.KINDS.get(api_version, frozenset())
    if kind in kinds:
        return None
    is_known_group = bool(kinds) or (slash and group in map(group_of, builtin.KINDS))
    if versions := builtin.versions_of(kind):
        if is_known_group or not slash or "." not in group:
            return (f"expected apiVersion {' or '.join(versions)}",)
        return None
    if kinds:
        guess = did_you_mean(kind, kinds) or did_you_mean(kind, builtin.all_kinds())
        return (guess.removeprefix("; ") or f"{api_version} has: {', '.join(sorted(kinds))}",)
    if not slash or is_known_group:
        return (f"Kubernetes 1.33 has: {', '.join(sorted(builtin.KINDS))}",)
    return None


def metadata_without_nulls(value: JsonMapping) -> JsonMapping:
    """Return a document without the null fields of its metadata, which count as absent."""
    meta = value.get("metadata")
    if not isinstance(meta, Mapping) or None not in meta.values():
        return value
    return {**value, "metadata": {key: item for key, item in meta.items() if item is not None}}


def shape_findings(value: JsonMapping) -> Iterator[Finding]:
    """Yield violations of the shape that all objects share.

    For a kind that the lab models, `decode_object` checks the metadata.
    """
    for field in ("apiVersion", "kind"):
        if not isinstance(value.get(field), str) or not value[field]:
            yield Finding((field,), f"expected a string, found {found(value.get(field))}")
    if is_deeper(value, MAX_DEPTH):
        yield Finding((), f"nested deeper than {MAX_DEPTH} levels")
    if writable(value) is not None:
        return
    meta = value.get("metadata")
    if not isinstance(meta, Mapping) or not isinstance(meta.get("name"), str):
        yield Finding(("metadata", "name"), "required, but missing")
        return
    if not isinstance(meta.get("namespace", ""), str):
        yield Finding(
            ("metadata", "namespace"), f"expected a string, found {found(meta['namespace'])}"
        )
    for field in ("labels", "annotations"):
        yield from _text_findings(meta.get(field), ("metadata", field))


def _text_findings(texts: object, path: Path) -> Iterator[Finding]:
    """Yield the findings about a value that is not a mapping of strings; None is valid."""
    if texts is not None and not isinstance(texts, Mapping):
        yield Finding(path, f"expected a mapping, found {found(texts)}")
    elif texts is not None:
        for key, text in texts.items():
            if not isinstance(text, str):
                yield Finding((*path, key), f"expected a string, found {found(text)}")


def decode_object(value: JsonMapping, type_: type[Resource]) -> Decoded[Resource]:
    """Decode a document of a known kind: set the namespace `default`, and drop the status."""
    if type_ is ClusterConfig:
        return _decode_config(value)
    decoded = decode(type_.converted(_fields(value)), type_)
    if type_ in _EXACT_KINDS:
        decoded = _exact(decoded)
    return Decoded(
        _with_namespace(decoded.value), decoded.findings, _with_namespace(decoded.repaired)
    )


def _exact(decoded: Decoded[Resource]) -> Decoded[Resource]:
    """Return unknown fields outside the metadata as errors.

    Such a field would be left out. A rule without one of its conditions matches more: a misspelt
    peer would turn into all peers. A lab without one of its settings is another lab.
    """
    findings = tuple(
        structs.replace(finding, is_unknown_field=False)
        if finding.is_unknown_field and finding.path[0] != "metadata"
        else finding
        for finding in decoded.findings
    )
    if all(finding.is_unknown_field for finding in findings):
        return decoded
    return Decoded(None, findings, decoded.repaired or decoded.value)


def _fields(value: JsonMapping) -> JsonObject:
    """Return a document without its version, kind and status."""
    return {key: item for key, item in value.items() if key not in ("apiVersion", "kind", "status")}


def _with_namespace(obj: Resource | None) -> Resource | None:
    if obj is None or not obj.is_namespaced or obj.namespace:
        return obj
    return structs.replace(obj, metadata=structs.replace(obj.metadata, namespace="default"))


def _decode_config(value: JsonMapping) -> Decoded[Resource]:
    """Decode a Cluster document, which has its name at the top and no metadata.

    A document of another served version is converted to the current one first.
    """
    if value["apiVersion"] not in served_versions():
        return Decoded(None, (_version_finding(value["apiVersion"]),))
    fields = _fields(convert(value))
    name = fields.pop("name", None)
    name = "" if name is None else name
    if not isinstance(name, str):
        return Decoded(None, (Finding(("name",), f"expected a string, found {found(name)}"),))
    if fields.get("nodes") in (None, []):
        fields.pop("nodes", None)
    networking = fields.get("networking")
    if isinstance(networking, Mapping) and (
        versions := VERSIONS.get(str(networking.get("ipFamily") or "ipv4"))
    ):
        cni = networking.get("cni")
        mode = cni.get("type") if isinstance(cni, Mapping) else cni
        pod_subnets = POD_SUBNETS_BY_CNI.get(str(mode), POD_SUBNETS)
        subnets = {"podSubnet": pod_subnets, "serviceSubnet": SERVICE_SUBNETS}
        defaults = {
            field: ",".join(by_version[version] for version in versions)
            for field, by_version in subnets.items()
        }
        missing = {
            field: subnet
            for field, subnet in defaults.items()
            if networking.get(field) in (None, "")  # `decode` reports a value of a wrong type
        }
        fields["networking"] = {**networking, **missing}
    decoded: Decoded[Resource] = decode({"metadata": {"name": name}, **fields}, ClusterConfig)
    return decoded if value["apiVersion"] == KIND_API_VERSION else _exact(decoded)


def _version_finding(api_version: object) -> Finding:
    """Return the finding about a Cluster document of a version that is not served."""
    return Finding(
        ("apiVersion",),
        f"expected {' or '.join(served_versions())}, found {found(api_version)}",
        hints=(f"kubenetlab {__version__} does not know another version of the Cluster document",),
    )
